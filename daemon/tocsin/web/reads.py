"""The reading half of the HTTP side: probes, metrics, status, and lists of rows page by page.

Moments are RFC 3339 in UTC, durations are written as in the configuration, secrets and what may hold one are masked.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from functools import cache, partial
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from tocsin import __version__
from tocsin.config.model import Config
from tocsin.decide.explain import alert_states, load_suppressor
from tocsin.kit.clock import format_duration, isoformat
from tocsin.kit.mask import MASK
from tocsin.metrics.snapshot import ALERT_STATES
from tocsin.model.cloudevent import Json, to_cloudevent
from tocsin.model.event import END_EVENTS, Event, event_labels
from tocsin.model.labels import Matcher, all_match
from tocsin.model.run import ScenarioKey
from tocsin.store import Connection, StoreUnavailable, query
from tocsin.store.alerts import count_silences
from tocsin.store.deliveries import outbox_depth
from tocsin.store.explanation import RunExplanation
from tocsin.store.query import EVERYTHING, AlertRecord, LabelFilters, Narrow, Page, as_of
from tocsin.store.runs import get_details
from tocsin.web.context import CONTEXT, HttpProblem, ListQuery, list_query, whole_number

Filters = tuple[str, ...] | None

PLACE = ("dss_node", "project", "scenario")
EVENT_FILTERS = ("event", *PLACE, "scenario_name", "outcome", "trigger_type", "run_as", "tags")
SCENARIO_FILTERS = (*PLACE, "scenario_name", "run_as", "tags")
RUN_FILTERS = (*PLACE, "scenario_name", "outcome", "trigger_type", "run_as", "tags", "run", "state")
DELIVERY_FILTERS = ("state", "receiver", "channel", "kind", "event_id", "id", "alertname", "severity", *EVENT_FILTERS)
SILENCE_FILTERS = ("state", "alertname", "severity", *PLACE, "scenario_name", "tags")
_EVENT_COLUMNS = ("event", *PLACE)
_STUCK_AFTER_SECONDS = 30.0
_USERINFO = re.compile(r"(?<=://)[^\s]*@")


async def healthy(request: web.Request) -> web.Response:
    """Whether the process is worth keeping: its loop turns, its root tasks and the store's writer live. From memory alone."""
    context = request.app[CONTEXT]
    dead = sorted(name for name, alive in context.alive().items() if not alive)
    if dead:
        raise HttpProblem(503, f"these tasks have ended: {', '.join(dead)}")
    if context.clock.monotonic() - context.loop_turned_at() > _STUCK_AFTER_SECONDS:
        raise HttpProblem(503, "the event loop was stuck")
    return web.Response(text="ok\n")


async def ready(request: web.Request) -> web.Response:
    """Whether the configuration is loaded and the store can be used, as its last transaction found; never DSS."""
    reason = request.app[CONTEXT].ready()
    if reason is not None:
        raise HttpProblem(503, reason)
    return web.Response(text="ok\n")


async def metrics(request: web.Request) -> web.Response:
    body, headers = await request.app[CONTEXT].exposition.render(
        ",".join(request.headers.getall("Accept", ())), ",".join(request.headers.getall("Accept-Encoding", ()))
    )
    return web.Response(body=body, headers=headers)


async def status(request: web.Request) -> web.Response:
    """The state of the process and of its nodes, from memory, and counts from the store."""
    context = request.app[CONTEXT]
    reason = context.ready()
    own: dict[str, Json] = {
        "version": __version__,
        "time": isoformat(context.clock.now()),
        "ready": reason is None,
        "reason": reason,
        "tasks": dict(context.alive()),
    }
    return web.json_response(own | dict(context.status()) | await _counts(request))


async def _counts(request: web.Request) -> dict[str, Json]:
    """How much there is of what matters, so that silence and blindness differ; nulls while the store cannot be read."""
    context, names = request.app[CONTEXT], ("scenarios", "alerts", "silences", "deliveries")
    config, now = context.config(), context.clock.now()

    def read(connection: Connection) -> dict[str, Json]:
        firing = Counter(state for _, state in alert_states(connection, config, now))
        counts: tuple[Mapping[str, int], ...] = (
            query.scenario_counts(connection, [node.name for node in config.nodes]),
            {name: firing[name] for name in ALERT_STATES},
            count_silences(connection, now),
            {"pending": outbox_depth(connection).open, "dead": query.count_dead(connection)},
        )
        return dict(zip(names, map(dict, counts), strict=True))

    try:
        return await context.store.browse(read)
    except StoreUnavailable:
        return dict.fromkeys(names)


def lister(
    read: Callable[..., Page[Any]], filters: Filters, states: Collection[str] = (), *, timed: bool = False
) -> Handler:
    """The handler of one list; see ``list_query`` for ``filters`` and ``states``. A ``timed`` reader takes ``now``."""

    async def handler(request: web.Request) -> web.Response:
        context, asked = request.app[CONTEXT], list_query(request, filters, states)
        reader = partial(read, now=context.clock.now()) if timed else read
        return web.json_response(text=await context.store.browse(_page_text, reader, asked))

    return handler


async def alerts(request: web.Request) -> web.Response:
    """A page of alerts, each with what suppresses it now."""
    context = request.app[CONTEXT]
    asked, now, config = list_query(request, None, ("firing", "resolved")), context.clock.now(), context.config()

    def read(connection: Connection, *arguments: Any) -> Page[AlertRecord]:
        page = query.list_alerts(connection, *arguments)
        return replace(page, items=present_alerts(connection, page.items, config, now))

    return web.json_response(text=await context.store.browse(_page_text, read, asked))


def present_alerts(
    connection: Connection, items: Sequence[AlertRecord], config: Config, now: datetime
) -> tuple[AlertRecord, ...]:
    """Alerts as they are at this moment: with what suppresses them, and without acknowledgements that have ended."""
    suppressor = load_suppressor(connection, config, [alert.labels for alert in items if alert.ends_at is None], now)
    return tuple(
        replace(as_of(alert, now), suppressed_by=suppressor.suppressed_by(alert.labels))
        if alert.ends_at is None
        else alert
        for alert in items
    )


async def events(request: web.Request) -> web.Response:
    """Processed events in the public order, as CloudEvents with ``seq``; a cursor is the last event's ``seq``."""
    asked = list_query(request, EVENT_FILTERS, others=("order",))
    after = whole_number(asked.after, "after") if asked.after else None
    order = request.query.get("order") or "asc"
    if order not in ("asc", "desc"):
        raise HttpProblem(400, f"order is asc, the oldest first, or desc, not {order!r}")
    text = await request.app[CONTEXT].store.browse(_events_text, asked, after, newest_first=order == "desc")
    return web.json_response(text=text)


async def explain(request: web.Request) -> web.Response:
    """Why a run was notified or not: its events, the decisions on them, and what was sent."""
    return web.json_response(to_json(await read_explanation(request)))


async def explain_alert(request: web.Request) -> web.Response:
    """Why an alert fires or resolved, and what each channel was sent."""
    id_ = request.match_info["id"]
    explanation = await request.app[CONTEXT].explain_alert(id_)
    if explanation is None:
        raise HttpProblem(404, f"no alert has the id {id_!r}, or several begin with it")
    return web.json_response(to_json(explanation))


async def read_explanation(request: web.Request) -> RunExplanation:
    """The explanation of the run that the address names. Raises ``HttpProblem`` 404."""
    place = request.match_info
    key = ScenarioKey(place["node"], place["project"], place["scenario"])
    explanation = await request.app[CONTEXT].explain(key, place["run"])
    if explanation is None:
        raise HttpProblem(404, f"no run {place['run']!r} of {'/'.join(key)} is known")
    return explanation


async def config(request: web.Request) -> web.Response:
    """The configuration in force, without its secrets."""
    return web.json_response(config_json(request.app[CONTEXT].config()))


@dataclass(frozen=True, slots=True)
class CloudEventPage:
    """Events as CloudEvents; ``seq`` is the last that was read, whether it matched or not."""

    events: list[dict[str, Json]]
    seq: int
    more: bool


def read_events(
    connection: Connection, filters: LabelFilters, limit: int, after: int | None, narrow: Narrow = EVERYTHING,
    *, newest_first: bool = False,
) -> CloudEventPage:  # fmt: skip
    """Up to ``limit`` events that match, with their details joined."""
    inside = {name: values for name, values in filters.items() if name not in _EVENT_COLUMNS}

    def matches(event: Event) -> bool:
        labels = event_labels(event, narrow.added(event.node, event.scenario.tags if event.scenario else ()))
        return all(labels.get(name, "") in values for name, values in inside.items()) and all_match(
            narrow.matchers, labels
        )

    sifting = bool(inside or narrow.matchers)
    batch = max(limit, query.SCAN_BATCH) if sifting else limit
    events: list[Event] = []
    for _ in range(0, query.SCAN_LIMIT, batch):
        page = query.page_of_events(connection, filters, batch, after, narrow, newest_first=newest_first)
        matching = [event for event in page.events if not sifting or matches(event)]
        missing = limit - len(events)
        events += matching[:missing]
        if len(matching) > missing:
            return CloudEventPage(_cloudevents(connection, events), events[-1].seq or 0, True)
        after = page.last_seq
        if not page.more or page.cut or len(events) == limit:
            return CloudEventPage(_cloudevents(connection, events), after, page.more)
    return CloudEventPage(_cloudevents(connection, events), after or 0, True)


def _cloudevents(connection: Connection, events: Sequence[Event]) -> list[dict[str, Json]]:
    ended = {event.id: event.run.key for event in events if event.run and event.name in END_EVENTS}
    details = get_details(connection, ended.values())  # a start knows nothing of the end
    return [to_cloudevent(event, details.get(ended[event.id]) if event.id in ended else None) for event in events]


def _events_text(connection: Connection, asked: ListQuery, after: int | None, *, newest_first: bool) -> str:
    page = read_events(connection, asked.filters, asked.limit, after, asked.narrow, newest_first=newest_first)
    return msgspec.json.encode({"items": page.events, "next": str(page.seq) if page.more else None}).decode()


def _page_text(connection: Connection, read: Callable[..., Page[Any]], asked: ListQuery) -> str:
    """Encoded on the reader's thread too: a thousand items would block the loop."""
    page = read(connection, asked.filters, asked.limit, asked.after, asked.narrow)
    return msgspec.json.encode({"items": [to_json(item) for item in page.items], "next": page.next}).decode()


# --- JSON ---------------------------------------------------------------------------------------------------------------


_PLAIN = (str, int, float, bool, type(None))


@cache
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def to_json(value: object) -> Json:
    """``value`` as JSON. Raises ``TypeError`` for what has no place in an answer."""
    if type(value) in _PLAIN:
        return value  # type: ignore[return-value] # one of the five
    match value:
        case datetime():
            return isoformat(value)
        case Enum():
            return to_json(value.value)
        case timedelta():
            return format_duration(value)
        case Matcher():
            return str(value)
        case Mapping():
            return {str(name): to_json(item) for name, item in value.items()}
        case Set():
            return sorted((to_json(item) for item in value), key=str)
        case list() | tuple():
            return [to_json(item) for item in value]
        case _ if hasattr(value, "reveal"):
            return MASK
        case _ if is_dataclass(value):
            return {name: to_json(getattr(value, name)) for name in _names(value.__class__)}
        case _:
            raise TypeError(f"{type(value).__name__} has no place in an answer")


def config_json(config: Config) -> Json:
    """The configuration in force without its secrets: passwords in addresses, header values and templates go too."""
    document = to_json(
        replace(config, store=replace(config.store, url=_store_url(config.store.url)), lines={}, template_texts={})
    )
    if isinstance(document, dict):
        document["templates"] = [*sorted(config.template_texts)]
        del document["lines"], document["template_texts"]
    return _masked(document)


def _store_url(url: str) -> str:
    """A password may stand in many places of a server's address, so that little of it is shown."""
    scheme, separator, _rest = url.partition("://")
    return url if scheme == "sqlite" else f"{scheme}://{MASK}" if separator else MASK


def _masked(value: Json, name: str = "") -> Json:
    match value:
        case dict() if name == "headers":
            return dict.fromkeys(value, MASK)
        case dict():
            return {key: _masked(item, key) for key, item in value.items()}
        case list():
            return [_masked(item, name) for item in value]
        case str() if name.endswith("_file"):
            return MASK  # by mistake it may be the secret itself
        case str():
            return _USERINFO.sub(f"{MASK}@", value)
        case _:
            return value
