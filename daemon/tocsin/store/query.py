"""What the API and the pages read: bounded, indexed, page by page, as records with the names that the API shows.

A list is one ``Page``; its ``next`` is an opaque cursor that names the last row seen, so that rows written meanwhile
neither repeat nor skip. Filters on columns go to the database; what stands inside a JSON column is filtered here, and a
page then stops after ``SCAN_LIMIT`` rows with fewer items and a cursor to go on from.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, Text, and_, func, select, tuple_

from tocsin.model.alert import Acknowledgement, EndReason, Silence, SilenceState
from tocsin.model.event import Event, event_labels, tags_label
from tocsin.model.labels import Labels
from tocsin.model.notification import Attempt, AttemptOutcome, EventNotice, GroupNotice, Notice
from tocsin.model.run import BAD_OUTCOMES, Details, RunKey, ScenarioKey
from tocsin.store.alerts import to_alert, to_silence
from tocsin.store.deliveries import load_attempts
from tocsin.store.outbox import reason_of
from tocsin.store.runs import get_details
from tocsin.store.schema import alerts, events, nodes, outbox, runs, scenarios, silences
from tocsin.store.sql import SCENARIO, equals, maker, plain, readable, same, shallow

SCAN_LIMIT = 1_000
SCAN_BATCH = 250  # rows of one statement where a filter looks inside documents
_MOST_PLACES = 200  # scenarios whose rows are read by their index and sorted
_EVENT_WINDOW = 30_000  # events that one page of a filter on a column looks at

Item = TypeVar("Item")
Query = Select[*tuple[Any, ...]]
LabelFilters = Mapping[str, Sequence[str]]  # label name → the values of which one must hold


class BadCursor(ValueError):
    """The cursor is not one that this list gave out."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    items: tuple[Item, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class EventSlice:
    """Events in order, the place of the last one that was looked at, whether there may be more, and whether the end of
    the window was reached before the limit."""

    events: list[Event]
    last_seq: int
    more: bool
    cut: bool = False


@dataclass(frozen=True, slots=True)
class NodeRecord:
    node: str
    up: bool | None
    down_reason: str | None
    down_since: datetime | None
    problem: str | None
    last_ok_at: datetime | None
    clock_offset_ms: int
    dss_version: str | None
    node_type: str | None
    sweep_trusted: bool
    last_sweep_at: datetime | None
    last_discovery_at: datetime | None
    backfilling: bool
    watched_since: datetime


@dataclass(frozen=True, slots=True)
class ScenarioRecord:
    node: str
    project: str
    scenario: str
    name: str
    tags: tuple[str, ...]
    type: str | None
    active: bool | None
    run_as: str | None
    next_run: datetime | None
    last_end: datetime | None
    polled_at: datetime | None
    watched_since: datetime
    gone_at: datetime | None


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    code: str | None
    title: str | None
    message: str | None
    step: str | None


@dataclass(frozen=True, slots=True)
class RunRecord:
    node: str
    project: str
    scenario: str
    run_id: str
    start: datetime
    end: datetime | None
    duration_seconds: float | None
    outcome: str | None
    trigger_type: str | None
    trigger_name: str | None
    run_as: str | None
    baseline: bool
    late: bool
    seen_at: datetime
    seen_by: str | None
    error: ErrorRecord | None

    @property
    def key(self) -> RunKey:
        return RunKey(ScenarioKey(self.node, self.project, self.scenario), self.run_id, self.start)


@dataclass(frozen=True, slots=True)
class AlertRecord:
    id: str
    fingerprint: str
    state: str  # firing, resolved
    labels: Labels
    annotations: Mapping[str, str]
    starts_at: datetime
    ends_at: datetime | None
    end_reason: EndReason | None
    count: int
    run_id: str | None
    acknowledged: Acknowledgement | None


@dataclass(frozen=True, slots=True)
class SilenceRecord:
    id: str
    state: SilenceState
    matchers: tuple[str, ...]
    starts_at: datetime
    ends_at: datetime
    created_by: str
    comment: str


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    number: int
    started_at: datetime
    ended_at: datetime
    outcome: AttemptOutcome
    note: str


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """A notification with its attempts; ``subject`` says in a few words what it is about."""

    id: str
    receiver: str
    channel: str
    kind: str
    subject: str
    state: str
    reason: str | None
    dead_reason: str | None
    created_at: datetime
    due_at: datetime
    settled_at: datetime | None
    event_id: str | None
    attempts: tuple[AttemptRecord, ...]


# --- lists ------------------------------------------------------------------------------------------------------------


def list_nodes(connection: Connection, filters: LabelFilters, limit: int, after: str | None = None) -> Page[NodeRecord]:
    query = _where(select(nodes), filters, {"dss_node": nodes.c.node})
    return _page(connection, nodes, query, [nodes.c.node], maker(NodeRecord), limit, after)


def list_scenarios(
    connection: Connection, filters: LabelFilters, limit: int, after: str | None = None
) -> Page[ScenarioRecord]:
    """Scenarios by node, project and id; gone ones too, with ``gone_at``."""
    by_label = _place(scenarios) | {"scenario_name": scenarios.c.name, "run_as": scenarios.c.run_as}
    return _page(
        connection, scenarios, _where(select(scenarios), filters, by_label), list(_place(scenarios).values()),
        maker(ScenarioRecord), limit, after,
        keep=(lambda scenario: tags_label(scenario.tags) in filters["tags"]) if "tags" in filters else None,
    )  # fmt: skip


def list_runs(connection: Connection, filters: LabelFilters, limit: int, after: str | None = None) -> Page[RunRecord]:
    """Runs, the newest start first, with their first error; ``state`` is running or ended, ``scenario_name`` as the
    scenario is called now."""
    by_label = {name: runs.c[name] for name in ("outcome", "trigger_type", "run_as")} | {"run": runs.c.run_id}
    query: Query = select(runs)
    place, _ = _places(connection, runs, filters)
    if place is not None:
        query = query.where(place)
    if "tags" in filters:  # as its scenario is tagged now
        query = query.add_columns(scenarios.c.tags).join(scenarios, same(scenarios, runs))
    # An open run that DSS no longer shows is not known to run.
    running = and_(runs.c.end.is_(None), runs.c.absent_since.is_(None))
    query = _where(_state(query, filters, "running", running, "ended"), filters, by_label)
    keys = [plain(runs.c.start), *_place(runs).values(), runs.c.run_id]
    page = _page(
        connection, runs, query, keys, _row, limit, after, newest_first=True,
        keep=(lambda row: tags_label(row._mapping["tags"]) in filters["tags"]) if "tags" in filters else None,
    )  # fmt: skip
    return Page(tuple(to_run_records(connection, page.items)), page.next)


def list_alerts(
    connection: Connection, filters: LabelFilters, limit: int, after: str | None = None
) -> Page[AlertRecord]:
    """Alerts, the newest first; ``state`` is firing or resolved, every other filter is a label."""
    by_label = _place(alerts) | {"alertname": alerts.c.alertname}
    query = _state(select(alerts), filters, "firing", alerts.c.ends_at.is_(None), "resolved")
    inside = {name: values for name, values in filters.items() if name not in by_label and name != "state"}
    return _page(
        connection, alerts, _where(query, filters, by_label), [plain(alerts.c.starts_at), alerts.c.id], alert_record,
        limit, after, newest_first=True, keep=(lambda alert: _match(alert.labels, inside)) if inside else None,
    )  # fmt: skip


def list_silences(
    connection: Connection, filters: LabelFilters, limit: int, after: str | None = None, *, now: datetime
) -> Page[SilenceRecord]:
    """Silences, those that end last first; ``state`` is pending, active or expired."""
    states = filters.get("state", ())
    return _page(
        connection, silences, select(silences), [plain(silences.c.ends_at), silences.c.id],
        lambda row: silence_record(to_silence(row), now), limit, after, newest_first=True,
        keep=(lambda silence: silence.state in states) if states else None,
    )  # fmt: skip


def list_deliveries(
    connection: Connection, filters: LabelFilters, limit: int, after: str | None = None
) -> Page[DeliveryRecord]:
    """Notifications, the newest first, with their attempts; labels are looked for in what a notification is about."""
    by_label = {name: outbox.c[name] for name in ("state", "receiver", "channel", "kind", "event_id", "id")}
    inside = {name: values for name, values in filters.items() if name not in by_label}

    def about(row: Row[Any]) -> bool:
        return any(_match(labels, inside) for labels in _label_sets(row.notice))

    page = _page(
        connection, outbox, _where(select(outbox), filters, by_label), [outbox.c.n], _row, limit, after,
        newest_first=True, keep=about if inside else None,
    )  # fmt: skip
    return Page(tuple(delivery_records(connection, page.items)), page.next)


def page_of_events(connection: Connection, filters: LabelFilters, limit: int, after: int) -> EventSlice:
    """Up to ``limit`` decided events after a place that match the filters on columns; those that cannot be read are left
    out."""
    query = _where(select(events.c.seq, events.c.body), filters, {"event": events.c.event})
    query = query.where(events.c.seq > after).order_by(events.c.seq).limit(limit)
    place, by_index = _places(connection, events, filters)
    if place is not None:
        query = query.where(place)
    last, newest = 0, 0
    if not by_index and (place is not None or "event" in filters):
        ends = (select(end(events.c.seq)).where(events.c.seq > after).scalar_subquery() for end in (func.min, func.max))
        oldest, newest = connection.execute(select(*ends)).first() or (0, 0)
        last, newest = (oldest or 0) + _EVENT_WINDOW, newest or 0
        query = query.where(events.c.seq <= last)
    rows = connection.execute(query).all()
    found = readable(connection, events, rows, lambda row: replace(row.body, seq=row.seq))
    if len(rows) < limit and last < newest:
        return EventSlice(found, last, more=True, cut=True)
    return EventSlice(found, rows[-1].seq if rows else after, len(rows) == limit)


def find_run(connection: Connection, scenario: ScenarioKey, run_id: str) -> tuple[RunRecord | None, Details | None]:
    """The newest run of this id with its details; None for what is unknown."""
    query = select(runs).where(equals(runs, SCENARIO, scenario), runs.c.run_id == run_id)
    rows = connection.execute(query.order_by(runs.c.start.desc()).limit(1)).all()
    details = get_details(connection, (_run_key(row._mapping) for row in rows))
    return next(iter(_run_records(rows, details)), None), next(iter(details.values()), None)


def last_failures(connection: Connection, limit: int) -> list[RunRecord]:
    """The failed and lost runs that ended last, with their first errors."""
    query = select(runs).where(runs.c.outcome.in_(BAD_OUTCOMES), runs.c.end.is_not(None))
    return to_run_records(connection, connection.execute(query.order_by(runs.c.end.desc()).limit(limit)).all())


def _label_sets(notice: Notice) -> list[Labels]:
    """The labels of what a notification is about: one event, the alerts of a group, or a node."""
    match notice:
        case EventNotice():
            return [event_labels(notice.event)]
        case GroupNotice():
            return [alert.labels for alert in notice.alerts]
        case _:
            return [{"dss_node": notice.node}]


def _subject(notice: Notice) -> str:
    match notice:
        case EventNotice(event=event):
            place = (event.node, event.project, event.scenario.id if event.scenario else None)
            return f"{event.name.value} {'/'.join(part for part in place if part)}"
        case GroupNotice():
            about = notice.firing or notice.resolved
            first = about[0].annotations.get("summary") or about[0].name if about else "no alert"
            more = f" and {len(about) - 1} more" if len(about) > 1 else ""
            return f"{'' if notice.firing else 'Resolved: '}{first}{more}"
        case _:
            return f"what was missed on {notice.node}"


# --- pages ------------------------------------------------------------------------------------------------------------


def _page(
    connection: Connection,
    table: Table,
    query: Query,
    keys: Sequence[ColumnElement[Any]],
    make: Callable[[Row[Any]], Item],
    limit: int,
    after: str | None,
    *,
    newest_first: bool = False,
    keep: Callable[[Item], bool] | None = None,
) -> Page[Item]:
    """Up to ``limit`` items that ``keep`` accepts, in the order of ``keys``, which together name a row of ``table``."""
    marks = [key.label(f"cursor_{index}") for index, key in enumerate(keys)]
    ordered = query.add_columns(*marks).order_by(*(key.desc() if newest_first else key for key in keys))
    place = _decoded(after, keys) if after else None
    batch = limit + 1 if keep is None else max(limit + 1, SCAN_BATCH)
    items: list[Item] = []
    seen = 0
    while True:
        here = tuple_(*keys)
        beyond = ordered.where(here < place if newest_first else here > place) if place else ordered
        rows = connection.execute(beyond.limit(batch)).all()
        for row in rows:
            if len(items) == limit or seen == SCAN_LIMIT:
                return Page(tuple(items), base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("="))
            seen += 1
            place = list(row[-len(marks) :])
            items += (item for item in readable(connection, table, (row,), make) if keep is None or keep(item))
        if len(rows) < batch:
            return Page(tuple(items), None)


def _decoded(cursor: str, keys: Sequence[ColumnElement[Any]]) -> list[object]:
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        raise BadCursor("after is not a cursor of this list") from None
    kinds = [str if isinstance(key.type, Text) or key.type.python_type is str else int for key in keys]
    if not isinstance(place, list) or [type(part) for part in place] != kinds or not all(map(is_storable, place)):
        raise BadCursor("after is not a cursor of this list")
    return place


def is_storable(value: object) -> bool:
    """Whether both databases take this text or number: no NUL, no lone surrogate, no more than 64 bits."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)


def _place(table: Table) -> dict[str, ColumnElement[Any]]:
    return {"dss_node": table.c.node, "project": table.c.project, "scenario": table.c.scenario}


def _places(connection: Connection, table: Table, filters: LabelFilters) -> tuple[ColumnElement[bool] | None, bool]:
    """What the filters say of a row's node, project and scenario, and whether its index finds the rows.

    Rows of a few scenarios are found by their index. Those of many are met soon in the order of the list, so the
    condition then keeps the database from sorting all of them first.
    """
    columns, named = _place(table), _place(scenarios) | {"scenario_name": scenarios.c.name}
    if table is events:
        del named["scenario_name"]  # an event keeps the name that its scenario had
    asked = {label: values for label, values in filters.items() if label in named}
    key, in_order = tuple_(*columns.values()), tuple_(*(column.concat("") for column in columns.values()))
    if asked.keys() == {"dss_node"}:
        known = connection.scalar(select(nodes.c.node).where(nodes.c.node.in_(asked["dss_node"])).limit(1)) is not None
        column = columns["dss_node"]
        return (column.concat("") if known else column).in_(asked["dss_node"]), not known
    if not asked:
        return None, False
    query = _where(select(*_place(scenarios).values()), asked, named)
    places = len(connection.execute(query.limit(_MOST_PLACES + 1)).all())
    if not places and "scenario_name" not in asked:  # of a scenario that is not known any more
        query = _where(select(*columns.values()).distinct(), asked, columns)
    return (key.in_(query), True) if places <= _MOST_PLACES else (in_order.in_(query), False)


def _where(query: Query, filters: LabelFilters, by_label: Mapping[str, ColumnElement[Any]]) -> Query:
    return query.where(*(column.in_(filters[label]) for label, column in by_label.items() if label in filters))


def _state(query: Query, filters: LabelFilters, name: str, still_open: ColumnElement[bool], other: str) -> Query:
    states = set(filters.get("state", ()))
    if states and name not in states:
        query = query.where(~still_open)
    return query.where(still_open) if states and other not in states else query


def _match(labels: Labels, filters: LabelFilters) -> bool:
    return all(labels.get(name, "") in values for name, values in filters.items())


# --- records of rows --------------------------------------------------------------------------------------------------


def _attempt_record(attempt: Attempt) -> AttemptRecord:
    return AttemptRecord(attempt.number, attempt.started_at, attempt.ended_at, attempt.outcome, attempt.note)


def _row(row: Row[Any]) -> Row[Any]:
    return row


def _run_key(row: Mapping[Any, Any]) -> RunKey:
    return RunKey(ScenarioKey(row["node"], row["project"], row["scenario"]), row["run_id"], row["start"])


def to_run_records(connection: Connection, rows: Sequence[Row[Any]]) -> list[RunRecord]:
    """Records of whole rows of runs, with their first errors."""
    return _run_records(rows, get_details(connection, (_run_key(row._mapping) for row in rows)))


def _run_records(rows: Sequence[Row[Any]], known: Mapping[RunKey, Details]) -> list[RunRecord]:
    def duration_seconds(row: Mapping[str, Any]) -> float | None:
        return None if row["end"] is None else (row["end"] - row["start"]).total_seconds()

    def error(row: Mapping[str, Any]) -> ErrorRecord | None:
        details = known.get(_run_key(row))
        first = details.error if details else None
        return ErrorRecord(first.code, first.title, first.message, first.step) if first else None

    return list(map(maker(RunRecord, duration_seconds=duration_seconds, error=error), rows))


def alert_record(row: Row[Any]) -> AlertRecord:
    """The record of a whole row of alerts. Raises ``ValueError`` when it makes no sense."""
    alert = to_alert(row)
    same_fields = {name: value for name, value in shallow(alert).items() if name != "run"}
    state = "firing" if alert.firing else "resolved"
    return AlertRecord(**same_fields, state=state, run_id=alert.run.run_id if alert.run else None)


def silence_record(silence: Silence, now: datetime) -> SilenceRecord:
    """A silence as people see it at this moment."""
    changed = {"state": silence.state(now), "matchers": tuple(map(str, silence.matchers))}
    return SilenceRecord(**shallow(silence) | changed)


def delivery_records(connection: Connection, rows: Sequence[Row[Any]]) -> list[DeliveryRecord]:
    """Records of whole rows of the outbox, with their attempts."""
    by_id = load_attempts(connection, rows)
    to_record = maker(
        DeliveryRecord,
        subject=lambda row: _subject(row["notice"]),
        reason=reason_of,
        attempts=lambda row: tuple(map(_attempt_record, by_id[row["id"]])),
    )
    return list(map(to_record, rows))
