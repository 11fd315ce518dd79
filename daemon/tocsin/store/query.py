"""What the API and the pages read: bounded, indexed, page by page, as records with the names that the API shows.

A list is one ``Page``; its ``next`` is an opaque cursor that names the last row seen, so that rows written meanwhile
neither repeat nor skip. Filters on columns go to the database; what stands inside a JSON column is filtered here, and a
page then stops after ``SCAN_LIMIT`` rows with fewer items and a cursor to go on from.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, Text, and_, func, select, tuple_

from tocsin.model.alert import NOT_SUPPRESSED, Acknowledgement, EndReason, Silence, SilenceState, SuppressedBy
from tocsin.model.event import Event, event_labels, tags_label
from tocsin.model.labels import Labels, Matcher, Op, all_match
from tocsin.model.notification import Attempt, AttemptOutcome, EventNotice, GroupNotice, Notice
from tocsin.model.run import BAD_OUTCOMES, Details, RunKey, ScenarioKey
from tocsin.store.alerts import to_alert, to_silence
from tocsin.store.deliveries import load_attempts
from tocsin.store.outbox import reason_of
from tocsin.store.runs import get_details
from tocsin.store.schema import alerts, events, metadata, nodes, outbox, runs, scenarios, silences
from tocsin.store.sql import SCENARIO, equals, maker, plain, readable, same, shallow

SCAN_LIMIT = 1_000
SCAN_BATCH = 250  # rows of one statement where a filter looks inside documents
_MOST_PLACES = 200  # scenarios whose rows are read by their index and sorted
_EVENT_WINDOW = 30_000  # events that one page of a filter on a column looks at

Item = TypeVar("Item")
MakeLabels = Callable[[str, Sequence[str]], Labels]  # node and tags → the labels that the configuration adds
Query = Select[*tuple[Any, ...]]
LabelFilters = Mapping[str, Sequence[str]]  # label name → the values of which one must hold


class BadCursor(ValueError):
    """The cursor is not one that this list gave out."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    items: tuple[Item, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Narrow:
    """What a list is narrowed to beside equal labels; ``since`` belongs to it, ``until`` does not any more.

    ``added`` gives labels that rows do not hold.
    """

    matchers: tuple[Matcher, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    added: MakeLabels = lambda _node, _tags: {}


EVERYTHING = Narrow()


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
    # Filled in by who knows the configuration; not in rows.
    suppressed_by: SuppressedBy = NOT_SUPPRESSED


def as_of(alert: AlertRecord, now: datetime) -> AlertRecord:
    """The record without an acknowledgement that has ended."""
    acknowledged = alert.acknowledged
    return alert if acknowledged is None or acknowledged.holds(now) else replace(alert, acknowledged=None)


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


def list_nodes(
    connection: Connection, filters: LabelFilters, limit: int, after: str | None = None, narrow: Narrow = EVERYTHING
) -> Page[NodeRecord]:
    """Nodes by name; times are those of ``watched_since``."""
    wanted = _Wanted(filters, narrow, {"dss_node": nodes.c.node})
    query = wanted.where(select(nodes), nodes.c.watched_since)
    keep = wanted.keep(lambda node: [{**narrow.added(node.node, ()), "dss_node": node.node}])
    return _page(connection, nodes, query, [nodes.c.node], maker(NodeRecord), limit, after, keep=keep)


def list_scenarios(
    connection: Connection, filters: LabelFilters, limit: int, after: str | None = None, narrow: Narrow = EVERYTHING
) -> Page[ScenarioRecord]:
    """Scenarios by node, project and id; gone ones too, with ``gone_at``. Times are those of ``last_end``."""
    by_label = _place(scenarios) | {"scenario_name": scenarios.c.name, "run_as": scenarios.c.run_as}
    wanted = _Wanted(filters, narrow, by_label)
    return _page(
        connection, scenarios, wanted.where(select(scenarios), scenarios.c.last_end), list(_place(scenarios).values()),
        maker(ScenarioRecord), limit, after,
        keep=wanted.keep(lambda row: [_scenario_labels(narrow, row, row.name, row.tags) | {"run_as": row.run_as or ""}]),
    )  # fmt: skip


def list_runs(
    connection: Connection, filters: LabelFilters, limit: int, after: str | None = None, narrow: Narrow = EVERYTHING
) -> Page[RunRecord]:
    """Runs, the newest start first, with their first error; ``state`` is running or ended, ``scenario_name`` and ``tags``
    as they are now. Times are those of ``start``."""
    by_label = {name: runs.c[name] for name in ("outcome", "trigger_type", "run_as")} | {"run": runs.c.run_id}
    wanted = _Wanted(filters, narrow, by_label, placed=True)
    query: Query = select(runs)
    place, _ = _places(connection, runs, wanted.filters)
    if place is not None:
        query = query.where(place)
    if wanted.inside or wanted.matchers:
        query = query.add_columns(scenarios.c.name, scenarios.c.tags).join(scenarios, same(scenarios, runs))
        query = query.where(*_few_places(connection, runs, wanted.matchers))
    # An open run that DSS no longer shows is not known to run.
    running = and_(runs.c.end.is_(None), runs.c.absent_since.is_(None))
    query = wanted.where(_state(query, filters, "running", running, "ended"), runs.c.start)
    keys = [plain(runs.c.start), *_place(runs).values(), runs.c.run_id]

    def labels(row: Row[Any]) -> list[Labels]:
        own = {name: getattr(row, column.key) or "" for name, column in by_label.items()}
        return [_scenario_labels(narrow, row, row.name, row.tags) | own]

    page = _page(connection, runs, query, keys, _row, limit, after, newest_first=True, keep=wanted.keep(labels))
    return Page(tuple(to_run_records(connection, page.items)), page.next)


def list_alerts(
    connection: Connection, filters: LabelFilters, limit: int, after: str | None = None, narrow: Narrow = EVERYTHING
) -> Page[AlertRecord]:
    """Alerts, the newest first; ``state`` is firing or resolved, every other filter is a label. Times are those of
    ``starts_at``."""
    wanted = _Wanted(filters, narrow, _place(alerts) | {"alertname": alerts.c.alertname})
    query = _state(select(alerts), filters, "firing", alerts.c.ends_at.is_(None), "resolved")
    return _page(
        connection, alerts, wanted.where(query, alerts.c.starts_at), [plain(alerts.c.starts_at), alerts.c.id],
        alert_record, limit, after, newest_first=True, keep=wanted.keep(lambda alert: [alert.labels]),
    )  # fmt: skip


def get_alerts(connection: Connection, ids: Sequence[str]) -> list[AlertRecord]:
    """Those of these alerts that are known, the newest first."""
    rows = connection.execute(select(alerts).where(alerts.c.id.in_(ids)).order_by(alerts.c.starts_at.desc()))
    return readable(connection, alerts, rows, alert_record)


def list_silences(
    connection: Connection, filters: LabelFilters, limit: int, after: str | None = None, narrow: Narrow = EVERYTHING,
    *, now: datetime,
) -> Page[SilenceRecord]:  # fmt: skip
    """Silences, those that end last first; ``state`` is pending, active or expired, and labels are looked for in their
    matchers. Those that hold at any time from ``since`` until ``until``."""
    wanted, states = _Wanted(filters, narrow, {}), filters.get("state", ())
    query = select(silences)
    if narrow.since is not None:
        query = query.where(silences.c.ends_at > narrow.since)
    if narrow.until is not None:
        query = query.where(silences.c.starts_at < narrow.until)
    named = wanted.keep(lambda silence: [{matcher.name: matcher.value for matcher in silence.matchers}])
    keep = (lambda silence: silence.state(now) in states and (named is None or named(silence))) if states else named
    keys = [plain(silences.c.ends_at), silences.c.id]
    page = _page(connection, silences, query, keys, to_silence, limit, after, newest_first=True, keep=keep)
    return Page(tuple(silence_record(silence, now) for silence in page.items), page.next)


def list_deliveries(
    connection: Connection, filters: LabelFilters, limit: int, after: str | None = None, narrow: Narrow = EVERYTHING
) -> Page[DeliveryRecord]:
    """Notifications, the newest first, with their attempts; labels are looked for in what a notification is about. Times
    are those of ``created_at``."""
    page = _page_of_outbox(connection, select(outbox), filters, limit, after, narrow)
    return Page(tuple(delivery_records(connection, page.items)), page.next)


def dead_letters(connection: Connection, filters: LabelFilters, narrow: Narrow, limit: int) -> list[str]:
    """The ids of dead letters that match, the newest first."""
    query, found, after = select(outbox).where(outbox.c.state == "dead"), list[str](), None
    while len(found) < limit:
        page = _page_of_outbox(connection, query, filters, limit - len(found), after, narrow)
        found += [row.id for row in page.items]
        if (after := page.next) is None:
            break
    return found


def _page_of_outbox(
    connection: Connection, query: Query, filters: LabelFilters, limit: int, after: str | None, narrow: Narrow
) -> Page[Row[Any]]:
    by_label = {name: outbox.c[name] for name in ("state", "receiver", "channel", "kind", "event_id", "id")}
    wanted = _Wanted(filters, narrow, by_label)

    def labels(row: Row[Any]) -> list[Labels]:
        return [{"channel": row.channel, "receiver": row.receiver, **own} for own in _label_sets(row.notice, narrow)]

    return _page(
        connection, outbox, wanted.where(query, outbox.c.created_at), [outbox.c.n], _row, limit, after,
        newest_first=True, keep=wanted.keep(labels),
    )  # fmt: skip


def page_of_events(
    connection: Connection, filters: LabelFilters, limit: int, after: int | None, narrow: Narrow = EVERYTHING,
    *, newest_first: bool = False,
) -> EventSlice:  # fmt: skip
    """Up to ``limit`` decided events beyond a place that match the filters on columns; those that cannot be read are left
    out."""
    columns = {"event": events.c.event}
    query = _between(_where(select(events.c.seq, events.c.body), filters, columns), narrow, events.c.time)
    seq = events.c.seq
    beyond = seq.is_not(None) if after is None else seq < after if newest_first else seq > after
    query = query.where(beyond).order_by(seq.desc() if newest_first else seq).limit(limit)
    place, by_index = _places(connection, events, filters)
    if place is not None:
        query = query.where(place)
    edge = end = None  # of the window
    if not by_index and (place is not None or "event" in filters or narrow.since or narrow.until):
        ends = (select(function(seq)).where(beyond).scalar_subquery() for function in (func.min, func.max))
        oldest, newest = connection.execute(select(*ends)).first() or (None, None)
        if oldest is not None and newest is not None:
            end, edge = (oldest, newest - _EVENT_WINDOW) if newest_first else (newest, oldest + _EVENT_WINDOW)
            query = query.where(seq >= edge if newest_first else seq <= edge)
    rows = connection.execute(query).all()
    found = readable(connection, events, rows, lambda row: replace(row.body, seq=row.seq))
    if len(rows) < limit and edge is not None and end is not None and (edge > end if newest_first else edge < end):
        return EventSlice(found, edge, more=True, cut=True)
    return EventSlice(found, rows[-1].seq if rows else after or 0, len(rows) == limit)


@dataclass(slots=True)
class _Wanted:
    """The filters of a list, parted into those on columns and those on ``inside``, the labels of an item.

    An equality matcher counts as a filter. ``placed``: node, project, scenario and its name are found by ``_places``.
    """

    asked: LabelFilters
    narrow: Narrow
    by_label: Mapping[str, ColumnElement[Any]]
    placed: bool = False
    filters: dict[str, Sequence[str]] = field(init=False)
    inside: dict[str, Sequence[str]] = field(init=False)
    matchers: list[Matcher] = field(init=False)

    def __post_init__(self) -> None:
        columns = {*self.by_label, *(("dss_node", "project", "scenario", "scenario_name") if self.placed else ())}
        self.filters, self.matchers = dict(self.asked), []
        for matcher in self.narrow.matchers:
            if matcher.op is Op.EQUAL and matcher.value and matcher.name in columns:
                before = self.filters.get(matcher.name, (matcher.value,))
                self.filters[matcher.name] = tuple(value for value in before if value == matcher.value)
            else:
                self.matchers.append(matcher)
        self.inside = {name: values for name, values in self.filters.items() if name not in {*columns, "state"}}

    def where(self, query: Query, moment: ColumnElement[Any]) -> Query:
        return _between(_where(query, self.filters, self.by_label), self.narrow, moment)

    def keep(self, labels_of: Callable[[Any], Sequence[Labels]]) -> Callable[[Any], bool] | None:
        if not self.inside and not self.matchers:
            return None
        return lambda item: any(
            _match(labels, self.inside) and all_match(self.matchers, labels) for labels in labels_of(item)
        )


def _between(query: Query, narrow: Narrow, moment: ColumnElement[Any]) -> Query:
    if narrow.since is not None:
        query = query.where(moment >= narrow.since)
    return query if narrow.until is None else query.where(moment < narrow.until)


def _scenario_labels(narrow: Narrow, row: Any, name: str | None, tags: Sequence[str]) -> dict[str, str]:
    """The labels of a scenario, from a row or record with its place."""
    place = {"dss_node": row.node, "project": row.project, "scenario": row.scenario}
    return {**narrow.added(row.node, tags), **place, "scenario_name": name or "", "tags": tags_label(tags)}


def _few_places(connection: Connection, table: Table, matchers: Sequence[Matcher]) -> list[ColumnElement[bool]]:
    """The scenarios that these matchers let through, if they are so few that their rows are found by their index."""
    concerned = [matcher for matcher in matchers if matcher.name in _place(table)]
    if not concerned:
        return []
    rows = connection.execute(select(*_place(scenarios).values())).all()
    names = tuple(_place(table))
    places = [tuple(row) for row in rows if all_match(concerned, dict(zip(names, row, strict=True)))]
    return [tuple_(*_place(table).values()).in_(places)] if len(places) <= _MOST_PLACES else []


def find_ids(connection: Connection, name: str, prefix: str) -> list[str]:
    """Up to two ids of the table ``name`` that begin so; an id that is whole is the only one."""
    column = metadata.tables[name].c.id
    if connection.execute(select(column).where(column == prefix)).first() is not None:
        return [prefix]
    found = select(column).where(column.startswith(prefix, autoescape=True)).order_by(column).limit(2)
    return list(connection.execute(found).scalars())


def find_run(connection: Connection, scenario: ScenarioKey, run_id: str) -> tuple[RunRecord | None, Details | None]:
    """The newest run of this id with its details; None for what is unknown."""
    query = select(runs).where(equals(runs, SCENARIO, scenario), runs.c.run_id == run_id)
    rows = connection.execute(query.order_by(runs.c.start.desc()).limit(1)).all()
    details = get_details(connection, (_run_key(row._mapping) for row in rows))
    return next(iter(_run_records(rows, details)), None), next(iter(details.values()), None)


def count_dead(connection: Connection) -> int:
    """How many dead letters there are."""
    return connection.execute(select(func.count()).where(outbox.c.state == "dead")).scalar_one()


def scenario_counts(connection: Connection, nodes: Sequence[str]) -> dict[str, int]:
    """How many scenarios of these nodes are watched, how many of them are active, and how many run."""
    watched = scenarios.c.gone_at.is_(None) & scenarios.c.node.in_(nodes)
    active = func.count().filter(scenarios.c.active)
    row = connection.execute(select(func.count(), active).select_from(scenarios).where(watched)).all()[0]
    running = select(func.count()).select_from(runs).where(
        runs.c.end.is_(None), runs.c.absent_since.is_(None), runs.c.node.in_(nodes)
    )  # fmt: skip
    return {"watched": row[0], "active": row[1], "running": connection.execute(running).scalar_one()}


def last_failures(connection: Connection, limit: int) -> list[RunRecord]:
    """The failed and lost runs that ended last, with their first errors."""
    query = select(runs).where(runs.c.outcome.in_(BAD_OUTCOMES), runs.c.end.is_not(None))
    return to_run_records(connection, connection.execute(query.order_by(runs.c.end.desc()).limit(limit)).all())


def _label_sets(notice: Notice, narrow: Narrow) -> list[Labels]:
    """The labels of what a notification is about: one event, the alerts of a group, or a node."""
    match notice:
        case EventNotice(event=event):
            return [event_labels(event, narrow.added(event.node, event.scenario.tags if event.scenario else ()))]
        case GroupNotice():
            return [alert.labels for alert in notice.alerts]
        case _:
            return [{"dss_node": notice.node}]


def notice_subject(notice: Notice) -> str:
    """What a notification is about, in a line."""
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
        subject=lambda row: notice_subject(row["notice"]),
        reason=reason_of,
        attempts=lambda row: tuple(map(_attempt_record, by_id[row["id"]])),
    )
    return list(map(to_record, rows))
