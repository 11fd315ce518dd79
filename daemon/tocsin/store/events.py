"""Rows of events: written once, decided once, read in the public order."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, select, update

from tocsin.model.event import Event, EventName
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.store.schema import counters, events
from tocsin.store.sql import Keyed, chunks, insert, pack, readable, unfold, upsert

_SEQ = "events.seq"
_TOTAL = "events.total."


@dataclass(frozen=True, slots=True)
class Undecided:
    """An event that waits for its place in the public order; ``n`` names its row."""

    n: int
    event: Event


def insert_events(connection: Connection, new: Sequence[Event]) -> list[Event]:
    """Write events that are not known yet, in order, and answer those; known ids are left alone."""
    unique = list({event.id: event for event in new}.values())
    if not unique:
        return []
    statement = insert(connection, events).on_conflict_do_nothing().returning(events.c.id)
    fresh = set(connection.execute(statement, [_row(event) for event in unique]).scalars())
    return [event for event in unique if event.id in fresh]


def undecided(connection: Connection, limit: int) -> list[Undecided]:
    """The oldest events that no decision was made on, in order of insertion; without those that cannot be read."""
    rows = connection.execute(_UNDECIDED.limit(limit))
    return readable(connection, events, rows, lambda row: Undecided(row.n, row.body))


_UNDECIDED = select(events.c.n, events.c.id, events.c.body).where(events.c.processed_at.is_(None)).order_by(events.c.n)


@dataclass(frozen=True, slots=True)
class Batch:
    """Events to decide, the ids of those that cannot be read, and whether more wait."""

    waiting: list[Undecided]
    unreadable: list[str]
    full: bool


def take_undecided(connection: Connection, limit: int, now: datetime) -> Batch:
    """The oldest undecided events. Those that cannot be read wait no longer and get no place in the public order."""
    rows = connection.execute(_UNDECIDED.limit(limit)).all()
    waiting = readable(connection, events, rows, lambda row: Undecided(row.n, row.body))
    known = {one.n for one in waiting}
    unreadable = [row for row in rows if row.n not in known]
    if unreadable:
        aside = update(events).where(events.c.n.in_([row.n for row in unreadable]))
        connection.execute(aside.values(processed_at=now))
    return Batch(waiting, [row.id for row in unreadable], len(rows) >= limit)


def mark_decided(connection: Connection, decided: Sequence[Undecided], now: datetime) -> range:
    """Give each event its place in the public order, which is theirs; answers the places. Only the leader may."""
    if not decided:
        return range(0)
    first = _take(connection, len(decided))
    packed = pack((one.n, first + index) for index, one in enumerate(decided))
    places = unfold(connection.dialect.name, (events.c.n, events.c.seq))
    placed = update(events).where(events.c.n == places.c.k0).values(seq=places.c.k1, processed_at=now)
    connection.execute(placed, {"keys": packed})
    _count(connection, decided)
    return range(first, first + len(decided))


def list_events(
    connection: Connection, *, after: int = 0, limit: int = 100, equal: Mapping[str, str] | None = None
) -> list[Event]:
    """Decided events with ``seq`` above ``after`` in order; ``equal`` filters by columns: event, node, project…"""
    return page_of_events(connection, after, limit, equal or {}).events


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events in order, the place of the last row that was read, and whether there may be more."""

    events: list[Event]
    last_seq: int
    full: bool


def page_of_events(connection: Connection, after: int, limit: int, equal: Mapping[str, str]) -> EventPage:
    """Up to ``limit`` decided events after a place; those that cannot be read are left out."""
    query = select(events.c.n, events.c.seq, events.c.body).where(events.c.seq > after)
    for column, value in equal.items():
        query = query.where(events.c[column] == value)
    rows = connection.execute(query.order_by(events.c.seq).limit(limit)).all()
    found = readable(connection, events, rows, lambda row: replace(row.body, seq=row.seq))
    return EventPage(found, rows[-1].seq if rows else after, len(rows) >= limit)


def events_by_id(connection: Connection, ids: Iterable[str]) -> dict[str, Event]:
    """Those of these events that can be read."""
    found: dict[str, Event] = {}
    for part in chunks(sorted(set(ids))):
        rows = connection.execute(select(events.c.n, events.c.seq, events.c.body).where(events.c.id.in_(part)))
        known = readable(connection, events, rows, lambda row: replace(row.body, seq=row.seq))
        found.update((event.id, event) for event in known)
    return found


def last_seq(connection: Connection) -> int:
    """The highest place given so far; 0 before the first."""
    return connection.execute(select(counters.c.value).where(counters.c.name == _SEQ)).scalar_one_or_none() or 0


def event_totals(connection: Connection) -> dict[str, int]:
    """How many events of each name were ever decided; they outlive the events. A name that never came is absent."""
    query = select(counters.c.name, counters.c.value).where(counters.c.name.startswith(_TOTAL))
    return {name.removeprefix(_TOTAL): value for name, value in connection.execute(query)}


def _count(connection: Connection, decided: Sequence[Undecided]) -> None:
    totals = Counter(one.event.name.value for one in decided)
    rows = [{"name": _TOTAL + name, "value": count} for name, count in sorted(totals.items())]
    upsert(connection, counters, rows, added=("value",))


def _take(connection: Connection, count: int) -> int:
    upsert(connection, counters, [{"name": _SEQ, "value": count}], added=("value",))
    return last_seq(connection) - count + 1


def _row(event: Event) -> dict[str, object]:
    return {
        "id": event.id,
        "event": event.name.value,
        "node": event.node,
        "project": event.project,
        "scenario": event.scenario.id if event.scenario else None,
        "run_id": event.run.run_id if event.run else None,
        "run_start": event.run.start if event.run else None,
        "time": event.time,
        "detected_at": event.detected_at,
        "late": event.late,
        "body": event,
    }


def late_after(connection: Connection, n: int) -> set[ScenarioKey]:
    """The scenarios of late events that were inserted after ``n`` and are not decided."""
    query = (
        select(events.c.node, events.c.project, events.c.scenario)
        .distinct()
        .where(events.c.processed_at.is_(None), events.c.n > n, events.c.late, events.c.scenario.is_not(None))
    )
    return {ScenarioKey(*row) for row in connection.execute(query)}


def early_failures(connection: Connection, runs: Collection[RunKey]) -> dict[RunKey, list[Event]]:
    """The failed reporters of these runs that were seen while the run went on: such an event bears the run's start."""
    found: dict[RunKey, list[Event]] = {}
    rows = _AT.rows(connection, ((*run.scenario, run.start) for run in runs))
    for event in readable(connection, events, rows, lambda row: row.body):
        if event.reporter and event.run and event.run.end is None and event.run.key in runs:
            found.setdefault(event.run.key, []).append(event)
    return found


_AT = Keyed(
    select(events.c.n, events.c.body).where(events.c.event == EventName.REPORTER_FAILED.value).order_by(events.c.n),
    [events.c[name] for name in ("node", "project", "scenario", "time")],
)
