"""The reading half of the API: lists of rows, page by page."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from aiohttp import web
from sqlalchemy import Connection

from tocsin.model.cloudevent import Json, to_cloudevent
from tocsin.model.event import END_EVENTS, Event, event_labels
from tocsin.model.notification import NotificationState
from tocsin.model.run import ScenarioKey
from tocsin.model.silence import SilenceState
from tocsin.store import query
from tocsin.store.details import get_details
from tocsin.store.events import page_of_events
from tocsin.store.query import Page, Wanted
from tocsin.store.story import RunStory
from tocsin.web.context import CONTEXT
from tocsin.web.params import ListQuery, list_query, whole_number
from tocsin.web.problems import Problem
from tocsin.web.shapes import config_json, to_json

Item = TypeVar("Item")
Reading = Callable[[Connection, Wanted, int, str | None], Page[Item]]

PLACE = ("dss_node", "project", "scenario")
EVENT_FILTERS = ("event", *PLACE, "scenario_name", "outcome", "trigger_type", "run_as", "tags")
SCENARIO_FILTERS = (*PLACE, "scenario_name", "run_as", "tags")
RUN_FILTERS = (*PLACE, "scenario_name", "outcome", "trigger_type", "run_as", "tags", "run", "state")
DELIVERY_FILTERS = ("state", "receiver", "channel", "kind", "event_id", "id", "alertname", "severity", *EVENT_FILTERS)
_EVENT_COLUMNS = {"event": "event", "dss_node": "node", "project": "project", "scenario": "scenario"}


async def nodes(request: web.Request) -> web.Response:
    return await _answer(request, list_query(request, ("dss_node",)), query.list_nodes)


async def scenarios(request: web.Request) -> web.Response:
    return await _answer(request, list_query(request, SCENARIO_FILTERS), query.list_scenarios)


async def runs(request: web.Request) -> web.Response:
    return await _answer(request, list_query(request, RUN_FILTERS, ("running", "ended")), query.list_runs)


async def alerts(request: web.Request) -> web.Response:
    return await _answer(request, list_query(request, None, ("firing", "resolved")), query.list_alerts)


async def deliveries(request: web.Request) -> web.Response:
    return await _answer(
        request, list_query(request, DELIVERY_FILTERS, tuple(NotificationState)), query.list_deliveries
    )


async def silences(request: web.Request) -> web.Response:
    now = request.app[CONTEXT].clock.now()
    return await _answer(
        request, list_query(request, ("state",), tuple(SilenceState)), partial(query.list_silences, now=now)
    )


async def events(request: web.Request) -> web.Response:
    """Decided events in the public order, as CloudEvents with ``seq``; a cursor is the last event's ``seq``."""
    asked = list_query(request, EVENT_FILTERS)
    after = whole_number(asked.after, "after") if asked.after else 0
    text = await request.app[CONTEXT].store.browse(_events_text, asked, after)
    return web.json_response(text=text)


async def explain(request: web.Request) -> web.Response:
    """Why a run rang or did not: its events, the decisions on them, what was sent, and who said nothing."""
    return web.json_response(to_json(await read_story(request)))


async def explain_alert(request: web.Request) -> web.Response:
    """Why an alert fires or ended, and what became of it at each channel."""
    id_ = request.match_info["id"]
    story = await request.app[CONTEXT].explain_alert(id_)
    if story is None:
        raise Problem(404, f"no alert has the id {id_!r}, or several begin with it")
    return web.json_response(to_json(story))


async def read_story(request: web.Request) -> RunStory:
    """The story of the run that the address names. Raises ``Problem`` 404."""
    place = request.match_info
    key = ScenarioKey(place["node"], place["project"], place["scenario"])
    story = await request.app[CONTEXT].explain(key, place["run"])
    if story is None:
        raise Problem(404, f"no run {place['run']!r} of {'/'.join(key)} is known")
    return story


async def config(request: web.Request) -> web.Response:
    """The configuration in force, without its secrets."""
    return web.json_response(config_json(request.app[CONTEXT].config()))


@dataclass(frozen=True, slots=True)
class Stretch:
    """Events after some place, as CloudEvents; ``seq`` is the last one read, shown or not."""

    events: list[dict[str, Json]]
    seq: int
    more: bool


def read_events(connection: Connection, wanted: Wanted, limit: int, after: int) -> Stretch:
    """Up to ``limit`` wanted events with their details joined."""
    equal = {column: wanted[label][0] for label, column in _EVENT_COLUMNS.items() if len(wanted.get(label, ())) == 1}
    inside = {name: values for name, values in wanted.items() if _EVENT_COLUMNS.get(name) not in equal}
    batch = max(limit, query.SCAN_BATCH) if inside else limit
    kept: list[Event] = []
    for _ in range(0, query.SCAN_LIMIT, batch):
        page = page_of_events(connection, after, batch, equal)
        wanted_ones = [event for event in page.events if _wanted(event, inside)]
        missing = limit - len(kept)
        kept += wanted_ones[:missing]
        if len(wanted_ones) > missing:
            return Stretch(_cloudevents(connection, kept), kept[-1].seq or after, True)
        after = page.last_seq
        if not page.full or len(kept) == limit:
            return Stretch(_cloudevents(connection, kept), after, page.full)
    return Stretch(_cloudevents(connection, kept), after, True)


def _wanted(event: Event, inside: Wanted) -> bool:
    if not inside:
        return True
    labels = event_labels(event)
    return all(labels.get(name) in values for name, values in inside.items())


def _cloudevents(connection: Connection, found: Sequence[Event]) -> list[dict[str, Json]]:
    ended = {event.id: event.run.key for event in found if event.run and event.name in END_EVENTS}
    details = get_details(connection, ended.values())  # a start knows nothing of the end
    return [to_cloudevent(event, details.get(ended[event.id]) if event.id in ended else None) for event in found]


def _events_text(connection: Connection, asked: ListQuery, after: int) -> str:
    found = read_events(connection, asked.wanted, asked.limit, after)
    return json.dumps({"items": found.events, "next": str(found.seq) if found.more else None})


async def _answer(request: web.Request, asked: ListQuery, read: Reading[Item]) -> web.Response:
    return web.json_response(text=await request.app[CONTEXT].store.browse(_page_text, read, asked))


def _page_text(connection: Connection, read: Reading[Item], asked: ListQuery) -> str:
    """Made into text on the reader's thread too, since a thousand items would hold the loop up."""
    page = read(connection, asked.wanted, asked.limit, asked.after)
    return json.dumps({"items": [to_json(one) for one in page.items], "next": page.next})
