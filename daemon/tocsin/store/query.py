"""What the API and the pages read: bounded, indexed, page by page.

A list is one ``Page``; its ``next`` is an opaque cursor that names the last row seen, so that rows written meanwhile
neither repeat nor skip. Filters on columns go to the database; what stands inside a JSON column is filtered here, and
a page then stops after ``SCAN_LIMIT`` rows with fewer items and a cursor to go on from.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    Table,
    Text,
    and_,
    select,
    tuple_,
    type_coerce,
)

from tocsin.model.alert import EndReason, Silence
from tocsin.model.event import event_labels, tags_label
from tocsin.model.labels import Labels
from tocsin.model.notification import AttemptOutcome, EventNotice, GroupNotice, Notice
from tocsin.model.run import BAD_OUTCOMES, Details, RunKey, ScenarioKey
from tocsin.store.alerts import check_labels
from tocsin.store.records import (
    AlertRecord,
    AttemptRecord,
    DeliveryRecord,
    ErrorRecord,
    NodeRecord,
    RunRecord,
    ScenarioRecord,
    SilenceRecord,
)
from tocsin.store.runs import get_details
from tocsin.store.schema import alerts, attempts, nodes, outbox, runs, scenarios, silences
from tocsin.store.silences import to_silence
from tocsin.store.sql import chunks, readable

SCAN_LIMIT = 2_000
SCAN_BATCH = 500  # rows of one statement where a filter looks inside documents

# An open run that DSS no longer shows is not known to run.
_GOES_ON = and_(runs.c.end.is_(None), runs.c.absent_since.is_(None))

Item = TypeVar("Item")
Wanted = Mapping[str, Sequence[str]]  # label name → the values of which one must hold


class BadCursor(ValueError):
    """The cursor is not one that this list gave out."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    items: tuple[Item, ...]
    next: str | None


def list_nodes(connection: Connection, wanted: Wanted, limit: int, after: str | None = None) -> Page[NodeRecord]:
    by_label = {"dss_node": nodes.c.node}
    return _page(
        connection, nodes, _where(select(nodes), wanted, by_label), [nodes.c.node], _record(NodeRecord), limit, after
    )


def list_scenarios(
    connection: Connection, wanted: Wanted, limit: int, after: str | None = None
) -> Page[ScenarioRecord]:
    """Scenarios by node, project and id; gone ones too, with ``gone_at``."""
    by_label = _place(scenarios.c) | {"scenario_name": scenarios.c.name, "run_as": scenarios.c.run_as}
    query = _where(select(scenarios), wanted, by_label)
    keys = [scenarios.c.node, scenarios.c.project, scenarios.c.scenario]
    return _page(
        connection, scenarios, query, keys, _record(ScenarioRecord), limit, after,
        keep=(lambda one: tags_label(one.tags) in wanted["tags"]) if "tags" in wanted else None,
    )  # fmt: skip


def list_runs(connection: Connection, wanted: Wanted, limit: int, after: str | None = None) -> Page[RunRecord]:
    """Runs, the newest start first, with their first error; ``state`` is running or ended."""
    by_label = _place(runs.c) | {
        "outcome": runs.c.outcome, "trigger_type": runs.c.trigger_type, "run_as": runs.c.run_as,
        "run": runs.c.run_id,
    }  # fmt: skip
    query: Select[*tuple[Any, ...]] = select(runs)
    if not {"scenario_name", "tags"}.isdisjoint(wanted):  # as its scenario is called now
        same = and_(*(scenarios.c[name] == runs.c[name] for name in ScenarioKey._fields))
        query = query.add_columns(scenarios.c.tags).join(scenarios, same)
        by_label |= {"scenario_name": scenarios.c.name}
    query = _where(_state(query, wanted, {"running": _GOES_ON}, "ended"), wanted, by_label)
    keys = [_ms(runs.c.start), runs.c.node, runs.c.project, runs.c.scenario, runs.c.run_id]
    page = _page(
        connection, runs, query, keys, _row, limit, after, newest_first=True,
        keep=(lambda row: tags_label(row["tags"]) in wanted["tags"]) if "tags" in wanted else None,
    )  # fmt: skip
    return Page(tuple(_with_errors(connection, page.items)), page.next)


def list_alerts(connection: Connection, wanted: Wanted, limit: int, after: str | None = None) -> Page[AlertRecord]:
    """Alerts, the newest first; ``state`` is firing or ended, every other filter is a label."""
    by_label = _place(alerts.c) | {"alertname": alerts.c.alertname}
    query = _state(select(alerts), wanted, {"firing": alerts.c.ends_at.is_(None)}, "resolved")
    inside = {name: values for name, values in wanted.items() if name not in by_label and name != "state"}
    keys = [_ms(alerts.c.starts_at), alerts.c.id]
    return _page(
        connection, alerts, _where(query, wanted, by_label), keys, _alert_record, limit, after,
        newest_first=True, keep=(lambda one: _has(one.labels, inside)) if inside else None,
    )  # fmt: skip


def list_silences(
    connection: Connection, wanted: Wanted, limit: int, after: str | None = None, *, now: datetime
) -> Page[SilenceRecord]:
    """Silences, those that end last first; ``state`` is pending, active or expired."""

    def make(row: RowMapping) -> SilenceRecord:
        return silence_record(to_silence(row), now)

    states = wanted.get("state", ())
    return _page(
        connection, silences, select(silences), [_ms(silences.c.ends_at), silences.c.id], make, limit, after,
        newest_first=True, keep=(lambda one: one.state in states) if states else None,
    )  # fmt: skip


def list_deliveries(
    connection: Connection, wanted: Wanted, limit: int, after: str | None = None
) -> Page[DeliveryRecord]:
    """Notifications, the newest first, with their tries; labels are looked for in what a notification tells of."""
    by_label = {
        "state": outbox.c.state, "receiver": outbox.c.receiver, "channel": outbox.c.channel,
        "kind": outbox.c.kind, "event_id": outbox.c.event_id, "id": outbox.c.id,
    }  # fmt: skip
    inside = {name: values for name, values in wanted.items() if name not in by_label}
    page = _page(
        connection, outbox, _where(select(outbox), wanted, by_label), [outbox.c.n], _row, limit, after,
        newest_first=True, keep=(lambda row: any(_has(one, inside) for one in told(row["notice"]))) if inside else None,
    )  # fmt: skip
    return Page(tuple(delivery_records(connection, page.items)), page.next)


def get_run(connection: Connection, scenario: ScenarioKey, run_id: str) -> tuple[RunRecord, Details | None] | None:
    """The newest run of this id with its details; None when it is unknown."""
    query = (
        select(runs)
        .where(*(runs.c[name] == value for name, value in zip(scenario._fields, scenario, strict=True)))
        .where(runs.c.run_id == run_id)
        .order_by(runs.c.start.desc())
        .limit(1)
    )
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        return None
    details = get_details(connection, [_run_key(row)]).get(_run_key(row))
    return _run_record(row, details), details


def last_failures(connection: Connection, limit: int) -> list[RunRecord]:
    """The failed and lost runs that ended last, with their first errors."""
    query = (
        select(runs)
        .where(runs.c.outcome.in_(BAD_OUTCOMES), runs.c.end.is_not(None))
        .order_by(runs.c.end.desc())
        .limit(limit)
    )
    return _with_errors(connection, connection.execute(query).mappings().all())


def silence_record(silence: Silence, now: datetime) -> SilenceRecord:
    """A silence as people see it at this moment."""
    return SilenceRecord(
        silence.id, silence.state(now), tuple(map(str, silence.matchers)), silence.starts_at, silence.ends_at,
        silence.created_by, silence.comment,
    )  # fmt: skip


def told(notice: Notice) -> list[Labels]:
    """The label sets of what a notification tells of: one event, the alerts of a group, or a node."""
    match notice:
        case EventNotice(event=event):
            return [event_labels(event)]
        case GroupNotice(alerts=shown):
            return [one.labels for one in shown]
        case _:
            return [{"dss_node": notice.node}]


def subject(notice: Notice) -> str:
    """What a notification tells, in a few words for people."""
    match notice:
        case EventNotice(event=event):
            place = (event.node, event.project, event.scenario.id if event.scenario else None)
            return f"{event.name.value} {'/'.join(part for part in place if part)}"
        case GroupNotice():
            names = sorted({one.name for one in notice.alerts})
            return f"{', '.join(names)} ({len(notice.firing)} firing, {len(notice.ended)} ended)"
        case _:
            return f"what was missed on {notice.node}"


# --- pages -----------------------------------------------------------------------------------------------------------


def _page(
    connection: Connection,
    table: Table,
    query: Select[*tuple[Any, ...]],
    keys: Sequence[ColumnElement[Any]],
    make: Callable[[RowMapping], Item],
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
        beyond = ordered.where(_beyond(keys, place, newest_first)) if place else ordered
        rows = connection.execute(beyond.limit(batch)).mappings().all()
        for row in rows:
            if len(items) == limit or seen == SCAN_LIMIT:
                return Page(tuple(items), _encoded(place))
            seen += 1
            place = [row[mark.name] for mark in marks]
            items += (item for item in readable(connection, table, (row,), make) if keep is None or keep(item))
        if len(rows) < batch:
            return Page(tuple(items), None)


def _beyond(keys: Sequence[ColumnElement[Any]], place: Sequence[object], newest_first: bool) -> ColumnElement[bool]:
    here = tuple_(*keys)
    return here < place if newest_first else here > place


def _encoded(place: Sequence[object] | None) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def _decoded(cursor: str, keys: Sequence[ColumnElement[Any]]) -> list[object]:
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        raise BadCursor("after is not a cursor of this list") from None
    wanted = [str if isinstance(key.type, Text) or key.type.python_type is str else int for key in keys]
    if not isinstance(place, list) or [type(part) for part in place] != wanted or not all(map(storable, place)):
        raise BadCursor("after is not a cursor of this list")
    return place


def storable(value: object) -> bool:
    """Whether both databases take this text or number: no NUL, no lone surrogate, no more than 64 bits."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)


def _place(columns: Any) -> dict[str, ColumnElement[str]]:
    return {"dss_node": columns.node, "project": columns.project, "scenario": columns.scenario}


def _where(
    query: Select[*tuple[Any, ...]], wanted: Wanted, by_label: Mapping[str, ColumnElement[Any]]
) -> Select[*tuple[Any, ...]]:
    for label, column in by_label.items():
        if label in wanted:
            query = query.where(column.in_(wanted[label]))
    return query


def _state(
    query: Select[*tuple[Any, ...]], wanted: Wanted, open_state: Mapping[str, ColumnElement[bool]], ended: str
) -> Select[*tuple[Any, ...]]:
    states = set(wanted.get("state", ()))
    for name, still_open in open_state.items():
        if states and name not in states:
            query = query.where(~still_open)
        if states and ended not in states:
            query = query.where(still_open)
    return query


def _has(labels: Labels, wanted: Wanted) -> bool:
    return all(labels.get(name, "") in values for name, values in wanted.items())


def _ms(column: ColumnElement[Any]) -> ColumnElement[int]:
    return type_coerce(column, BigInteger)


# --- rows to records ---------------------------------------------------------------------------------------------------


def _record(kind: Callable[..., Item]) -> Callable[[RowMapping], Item]:
    names = kind.__annotations__

    def make(row: RowMapping) -> Item:
        return kind(**{name: row[name] for name in names})

    return make


def _row(row: RowMapping) -> RowMapping:
    return row


def _run_key(row: RowMapping) -> RunKey:
    return RunKey(ScenarioKey(row["node"], row["project"], row["scenario"]), row["run_id"], row["start"])


def _with_errors(connection: Connection, rows: Sequence[RowMapping]) -> list[RunRecord]:
    known = get_details(connection, [_run_key(row) for row in rows])
    return [_run_record(row, known.get(_run_key(row))) for row in rows]


def _run_record(row: RowMapping, details: Details | None) -> RunRecord:
    error = details.error if details else None
    start, end = row["start"], row["end"]
    same = {name: row[name] for name in RunRecord.__annotations__ if name in row}
    return RunRecord(
        **same,
        duration_seconds=None if end is None else (end - start).total_seconds(),
        error=ErrorRecord(error.code, error.title, error.message, error.step) if error else None,
    )


def _alert_record(row: RowMapping) -> AlertRecord:
    check_labels(row)
    return AlertRecord(
        id=row["id"],
        fingerprint=row["fingerprint"],
        state="firing" if row["ends_at"] is None else "resolved",
        labels=row["labels"],
        annotations=row["annotations"],
        starts_at=row["starts_at"],
        ends_at=row["ends_at"],
        end_reason=EndReason(row["end_reason"]) if row["end_reason"] else None,
        count=row["count"],
        run_id=row["run_id"],
    )


def alert_records(connection: Connection, rows: Sequence[RowMapping]) -> list[AlertRecord]:
    """Records of whole rows of alerts."""
    return readable(connection, alerts, rows, _alert_record)


def _attempt_record(row: RowMapping) -> tuple[str, AttemptRecord]:
    outcome = AttemptOutcome(row["outcome"])
    return row["notification_id"], AttemptRecord(
        row["number"], row["started_at"], row["ended_at"], outcome, row["note"]
    )


def delivery_records(connection: Connection, rows: Sequence[RowMapping]) -> list[DeliveryRecord]:
    """Records of whole rows of the outbox, with their attempts."""
    tries: dict[str, list[AttemptRecord]] = {}
    for part in chunks([row["id"] for row in rows]):
        query = select(attempts).where(attempts.c.notification_id.in_(part)).order_by(attempts.c.number)
        for id_, attempt in readable(connection, attempts, connection.execute(query).mappings(), _attempt_record):
            tries.setdefault(id_, []).append(attempt)
    same = ("id", "receiver", "channel", "kind", "state", "reason", "dead_reason", "created_at", "due_at", "settled_at",
            "event_id")  # fmt: skip
    return [
        DeliveryRecord(
            **{name: row[name] for name in same},
            subject=subject(row["notice"]),
            attempts=tuple(tries.get(row["id"], ())),
        )
        for row in rows
    ]
