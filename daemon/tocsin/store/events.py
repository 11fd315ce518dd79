"""Rows of events: written once, decided once, read in the public order; and those that are withheld for a summary."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, delete, func, select, update

from tocsin.kit.clock import to_ms
from tocsin.model.event import Event, EventName
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.store.engine import StoreUnavailable
from tocsin.store.schema import counters, document_text, events, withheld
from tocsin.store.sql import Keyed, bulk_upsert, chunks, columns, insert, pack, readable, unfold

_SEQ = "events.seq"
_TOTAL = "events.total."


@dataclass(frozen=True, slots=True)
class Undecided:
    """An event that waits for its place in the public order; ``n`` names its row."""

    n: int
    event: Event


@dataclass(frozen=True, slots=True)
class UndecidedBatch:
    """Events to decide, the ids of those that cannot be read, and whether more wait."""

    waiting: list[Undecided]
    unreadable: list[str]
    full: bool


_COLUMNS = ("seq", "id", "event", "node", "project", "scenario", "run_id", "run_start", "time", "detected_at", "late",
            "body", "processed_at")  # fmt: skip
_INSERT = bulk_upsert(events, _COLUMNS)
_KNOWN = Keyed(select(events.c.id), [events.c.id])


def new_events(connection: Connection, found: Iterable[Event]) -> list[Event]:
    """Those of these events that are not written yet, each id once."""
    by_id = {event.id: event for event in found}
    for (known,) in _KNOWN.rows(connection, [(id_,) for id_ in by_id]):
        by_id.pop(known, None)
    return list(by_id.values())


def insert_events(connection: Connection, found: Iterable[Event]) -> list[Event]:
    """Write events that are not known yet, in order, and return those; known ids are left alone."""
    new = new_events(connection, found)
    _insert(connection, new, [None] * len(new), None)
    return new


def insert_decided(connection: Connection, new: Sequence[Event], now: datetime) -> None:
    """Write new events that the same transaction decides, with their places in the public order. Only the leader may."""
    _insert(connection, new, _take_places(connection, new), now)


def _insert(
    connection: Connection, new: Sequence[Event], places: Sequence[int | None], decided_at: datetime | None
) -> None:
    decided = None if decided_at is None else to_ms(decided_at)
    rows = []
    for event, seq in zip(new, places, strict=True):
        run, scenario = event.run, event.scenario
        rows.append((
            seq, event.id, event.name.value, event.node, event.project, scenario.id if scenario else None,
            run.run_id if run else None, to_ms(run.start) if run else None, to_ms(event.time),
            to_ms(event.detected_at), event.late, document_text(event), decided,
        ))  # fmt: skip
    if _INSERT.execute(connection, rows) != len(rows):  # it cannot be: one leader writes events, on one thread
        raise StoreUnavailable("another process has written the same events")


def _take_places(connection: Connection, decided: Sequence[Event]) -> range:
    """The next places in the public order, one for each event; and count the events by name."""
    totals = Counter(event.name.value for event in decided)
    rows = [(_SEQ, len(decided)), *((_TOTAL + name, count) for name, count in sorted(totals.items()))]
    _COUNT.execute(connection, rows if decided else ())
    last = last_seq(connection)
    return range(last - len(decided) + 1, last + 1)


_COUNT = bulk_upsert(counters, ("name", "value"), added=("value",))
_UNDECIDED = select(events.c.n, events.c.id, events.c.body).where(events.c.processed_at.is_(None)).order_by(events.c.n)
_UNDECIDED_ONE = select(events.c.n).where(events.c.processed_at.is_(None)).limit(1)
_DECIDED = select(events.c.n, events.c.seq, events.c.body)


def undecided(connection: Connection, limit: int) -> list[Undecided]:
    """The oldest events that no decision was made on, in order of insertion; without those that cannot be read."""
    rows = connection.execute(_UNDECIDED.limit(limit))
    return readable(connection, events, rows, lambda row: Undecided(row.n, row.body))


def undecided_batch(connection: Connection, limit: int, now: datetime) -> UndecidedBatch:
    """The oldest undecided events. Those that cannot be read wait no longer and get no place in the public order."""
    rows = connection.execute(_UNDECIDED.limit(limit)).all()
    waiting = readable(connection, events, rows, lambda row: Undecided(row.n, row.body))
    readable_rows = {item.n for item in waiting}
    unreadable = {row.n: row.id for row in rows if row.n not in readable_rows}
    if unreadable:
        connection.execute(update(events).where(events.c.n.in_(unreadable)).values(processed_at=now))
    return UndecidedBatch(waiting, list(unreadable.values()), len(rows) >= limit)


def mark_decided(connection: Connection, decided: Sequence[Undecided], now: datetime) -> range:
    """Give each event its place in the public order, and return the places. Only the leader may."""
    if not decided:
        return range(0)
    places = _take_places(connection, [item.event for item in decided])
    packed = pack((item.n, place) for item, place in zip(decided, places, strict=True))
    rows = unfold(connection.dialect.name, (events.c.n, events.c.seq))
    placed = update(events).where(events.c.n == rows.c.k0).values(seq=rows.c.k1, processed_at=now)
    connection.execute(placed, {"keys": packed})
    return places


def any_undecided(connection: Connection) -> bool:
    """Whether an event waits for a decision."""
    return connection.execute(_UNDECIDED_ONE).first() is not None


def list_events(
    connection: Connection, *, after: int = 0, limit: int = 100, equal: Mapping[str, str] | None = None
) -> list[Event]:
    """Decided events with ``seq`` above ``after`` in order; ``equal`` filters by columns: event, node, project…"""
    query = _DECIDED.where(events.c.seq > after, *(events.c[name] == value for name, value in (equal or {}).items()))
    rows = connection.execute(query.order_by(events.c.seq).limit(limit)).all()
    return readable(connection, events, rows, lambda row: replace(row.body, seq=row.seq))


def events_by_id(connection: Connection, ids: Iterable[str]) -> dict[str, Event]:
    """Those of these events that can be read."""
    by_id: dict[str, Event] = {}
    for part in chunks(sorted(set(ids))):
        rows = connection.execute(_DECIDED.where(events.c.id.in_(part)))
        known = readable(connection, events, rows, lambda row: replace(row.body, seq=row.seq))
        by_id.update((event.id, event) for event in known)
    return by_id


def last_seq(connection: Connection) -> int:
    """The highest place given so far; 0 before the first."""
    return connection.execute(select(counters.c.value).where(counters.c.name == _SEQ)).scalar_one_or_none() or 0


def event_totals(connection: Connection) -> dict[str, int]:
    """How many events of each name were ever decided; they outlive the events. A name that never came is absent."""
    query = select(counters.c.name, counters.c.value).where(counters.c.name.startswith(_TOTAL))
    return {name.removeprefix(_TOTAL): value for name, value in connection.execute(query)}


def late_after(connection: Connection, n: int) -> set[ScenarioKey]:
    """The scenarios of late events that were inserted after ``n`` and are not decided."""
    waiting = (events.c.processed_at.is_(None), events.c.n > n, events.c.late, events.c.scenario.is_not(None))
    query = select(events.c.node, events.c.project, events.c.scenario).where(*waiting)
    return {ScenarioKey(*row) for row in connection.execute(query)}


def early_failures(connection: Connection, runs: Collection[RunKey]) -> dict[RunKey, list[Event]]:
    """The failed reporters of these runs that were seen while the run went on: such an event bears the run's start."""
    failures: dict[RunKey, list[Event]] = {}
    rows = _REPORTERS_FAILED.rows(connection, ((run.scenario, run.start) for run in runs))
    for event in readable(connection, events, rows, lambda row: row.body):
        if event.reporter and event.run and event.run.end is None and event.run.key in runs:
            failures.setdefault(event.run.key, []).append(event)
    return failures


_REPORTERS_FAILED = Keyed(
    select(events.c.n, events.c.body).where(events.c.event == EventName.REPORTER_FAILED.value).order_by(events.c.n),
    columns(events, "node", "project", "scenario", "time"),
)

# --- withheld: too late to be notified one by one, until the summary after a backfill ----------------------------------


def withhold(connection: Connection, late: Sequence[tuple[str, str, str]]) -> None:
    """Note (node, receiver, event id); an event is noted once a receiver, however many reporters match it."""
    if late:
        rows = [{"node": node, "receiver": receiver, "event_id": id_} for node, receiver, id_ in set(late)]
        connection.execute(insert(connection, withheld).on_conflict_do_nothing(), rows)


def defer(connection: Connection, deferred: Sequence[tuple[Event, str, str, datetime]]) -> None:
    """Keep events for the digests of reporters: (event, receiver, reporter, when the digest is due)."""
    if deferred:
        rows = [
            {"node": event.node, "receiver": receiver, "event_id": event.id, "reporter": reporter, "due_at": due_at}
            for event, receiver, reporter, due_at in deferred
        ]
        connection.execute(insert(connection, withheld).on_conflict_do_nothing(), rows)


def next_digest(connection: Connection) -> datetime | None:
    """When the next digest is due for which there is something."""
    moment: datetime | None = connection.execute(select(func.min(withheld.c.due_at))).scalar_one_or_none()
    return moment


def release_digests(connection: Connection, now: datetime) -> dict[tuple[str, str], list[Event]]:
    """What waited for the digests that are due, by reporter and receiver and in order of time; it waits no more."""
    due = withheld.c.due_at <= now
    query = (
        select(events.c.n, withheld.c.reporter, withheld.c.receiver, events.c.body)
        .join(events, events.c.id == withheld.c.event_id)
        .where(due)
        .order_by(withheld.c.reporter, withheld.c.receiver, events.c.time, events.c.n)
    )
    released: dict[tuple[str, str], list[Event]] = {}
    for _, reporter, receiver, body in readable(connection, events, connection.execute(query), tuple):
        released.setdefault((reporter, receiver), []).append(body)
    if released:
        connection.execute(delete(withheld).where(due))
    return released


def nodes_with_withheld(connection: Connection) -> list[str]:
    """The nodes for which something is withheld."""
    query = select(withheld.c.node).where(withheld.c.due_at.is_(None)).distinct()
    return list(connection.execute(query.order_by(withheld.c.node)).scalars())


def release_withheld(connection: Connection, node: str) -> dict[str, list[Event]]:
    """What is withheld for a node, by receiver and in order of time; it is withheld no more."""
    query = (
        select(events.c.n, withheld.c.receiver, events.c.body)
        .join(events, events.c.id == withheld.c.event_id)
        .where(withheld.c.node == node, withheld.c.due_at.is_(None))
        .order_by(withheld.c.receiver, events.c.time, events.c.n)
    )
    released: dict[str, list[Event]] = {}
    for _, receiver, body in readable(connection, events, connection.execute(query), tuple):
        released.setdefault(receiver, []).append(body)
    connection.execute(delete(withheld).where(withheld.c.node == node, withheld.c.due_at.is_(None)))
    return released
