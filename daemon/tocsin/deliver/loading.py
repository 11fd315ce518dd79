"""Reads from the store what claimed notifications are made of: their runs, and what rows know beyond the notice."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from tocsin.config.model import Config
from tocsin.deliver.outgoing import Facts, Outgoing
from tocsin.model.alert import EndReason
from tocsin.model.event import EventName
from tocsin.model.notification import EventNotice, GroupNotice, SummaryNotice
from tocsin.model.run import Run, RunKey, ScenarioKey
from tocsin.store import Connection, outbox
from tocsin.store.outbox import ClaimedRow, load_claimed
from tocsin.store.runs import get_details, runs_ended_at, usual_durations
from tocsin.store.scenarios import node_views

_CACHED_FOR = timedelta(minutes=5)
_CACHE_SIZE = 20_000
_MOST_MENDED = 50  # ends of one group that a message can show

# The usual duration of a scenario changes slowly and is read for every send: until when it is cached, and what it is.
UsualDurations = dict[ScenarioKey, tuple[datetime, timedelta | None]]


def load_outgoing(
    connection: Connection,
    leases: Mapping[ClaimedRow, datetime],
    config: Config,
    people: frozenset[str],
    usual: UsualDurations,
    now: datetime,
) -> list[Outgoing]:
    """Claimed rows that can be read, with the details of their runs; for the channels whose receivers are ``people``, with
    all that messages show."""
    notifications = load_claimed(leases)
    runs: dict[int, set[RunKey]] = {}
    for n, notification in notifications.items():
        match notification.notice:
            case EventNotice(event=event):
                runs[n] = {event.run.key} if event.run else set()
            case GroupNotice(alerts=alerts):
                runs[n] = {alert.run for alert in alerts if alert.run is not None}
            case SummaryNotice(worst=worst):
                runs[n] = {event.run.key for event in worst if event.run is not None}
    details = get_details(connection, {run for part in runs.values() for run in part})
    shown = [row.notice for row in notifications.values() if row.channel in people]
    shown_events = [notice.event for notice in shown if isinstance(notice, EventNotice)]
    scenarios = {event.run.scenario for event in shown_events if event.run}
    down = any(event.name is EventName.NODE_DOWN for event in shown_events)
    problems = {node: view.problem for node, view in node_views(connection).items() if view.problem} if down else {}
    mended = _mended(connection, [notice for notice in shown if isinstance(notice, GroupNotice)])
    if len(usual) > _CACHE_SIZE:
        usual.clear()
    stale = [key for key in scenarios if key not in usual or usual[key][0] <= now]
    fresh = usual_durations(connection, stale)
    usual |= {key: (now + _CACHED_FOR, fresh.get(key)) for key in stale}
    durations = {key: duration for key in scenarios if (duration := usual[key][1]) is not None}
    facts = {
        n: Facts({run: details[run] for run in keys if run in details}, durations, mended, problems)
        for n, keys in runs.items()
    }
    until = {row.n: until for row, until in leases.items()}
    editing = (
        {name for name, channel in config.channels().items() if channel.slack is not None} if notifications else ()
    )
    threads = {
        (row.channel, thread) for row in notifications.values() if row.channel in editing and (thread := row.thread)
    }
    sent = outbox.sent_messages_of(connection, threads)
    return [
        Outgoing(row, config, facts[n], n, until[n], sent.get((row.channel, row.thread or "")) if sent else None)
        for n, row in notifications.items()
    ]


def _mended(connection: Connection, groups: Iterable[GroupNotice]) -> dict[str, Run]:
    """The run whose end resolved an alert, by the alert's id."""
    places = {}
    for group in groups:
        for alert in group.resolved[:_MOST_MENDED]:
            place = ScenarioKey(*(alert.labels.get(name, "") for name in ("dss_node", "project", "scenario")))
            if alert.end_reason is EndReason.RESOLVED and alert.ends_at is not None and place.scenario:
                places[alert.id] = place, alert.ends_at
    found = runs_ended_at(connection, places.values()) if places else {}
    return {id_: found[key] for id_, key in places.items() if key in found}
