"""What is stored of the past, read so that it can be decided once more, and the scratch store for that."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Table, and_, create_engine, func, insert, or_, select, update
from sqlalchemy.pool import StaticPool

from tocsin.model.alert import CHANNEL_ALERT, Alert, EndReason, Group
from tocsin.model.decision import DecisionReason, Stage
from tocsin.model.event import Event
from tocsin.model.labels import Labels
from tocsin.model.notification import Notification, NotificationState
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.store.alerts import to_alert
from tocsin.store.groups import to_group
from tocsin.store.outbox import to_notification
from tocsin.store.schema import (
    alerts,
    decisions,
    events,
    expected_starts,
    group_alerts,
    groups,
    mail_reporters,
    metadata,
    nodes,
    notification_log,
    outbox,
    run_details,
    runs,
    scenarios,
    silences,
)
from tocsin.store.sql import RUN, SCENARIO, chunks, columns, has_key, plain, readable

_FOREVER = timedelta(days=3650)
_RUNS_OF_A_SCENARIO = 20  # before the history begins: what is usual is made of fewer
_LONGEST_BATCH = 2_000
_UNSENT = (NotificationState.SUPERSEDED.value, NotificationState.CANCELLED.value)


ErrorRow = dict[str, object]
"""A row of the details of a run."""


@dataclass(frozen=True, slots=True)
class DecidedEvent:
    """An event and when it was decided."""

    event: Event
    decided_at: datetime


@contextmanager
def scratch() -> Iterator[Connection]:
    """An empty store in memory, gone at the end."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    metadata.create_all(engine)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA foreign_keys = ON")
            yield connection
    finally:
        engine.dispose()


def first_event(connection: Connection) -> datetime | None:
    """When the oldest event that is still stored was decided."""
    moment: datetime | None = connection.execute(select(func.min(events.c.processed_at))).scalar_one_or_none()
    return moment


def firing_at(connection: Connection, at: datetime) -> dict[ScenarioKey, datetime]:
    """The scenarios with an alert that fired at a moment, and since when."""
    fired = (alerts.c.starts_at < at, or_(alerts.c.ends_at.is_(None), alerts.c.ends_at > at), alerts.c.scenario != "")
    query = select(*columns(alerts, *SCENARIO), func.min(alerts.c.starts_at, type_=alerts.c.starts_at.type))
    rows = connection.execute(query.where(*fired).group_by(*columns(alerts, *SCENARIO)))
    return {ScenarioKey(*place): since for *place, since in rows}


def decided_events(
    connection: Connection, begin: datetime, until: datetime, earlier: Mapping[ScenarioKey, datetime]
) -> Iterator[DecidedEvent]:
    """What was decided from ``begin`` until ``until``, in order; and of single scenarios from a moment of their own on."""

    def of(*conditions: object) -> Iterator[DecidedEvent]:
        query = select(events.c.n, events.c.processed_at, events.c.body).where(*conditions)  # type: ignore[arg-type]
        rows = connection.execution_options(yield_per=_LONGEST_BATCH).execute(
            query.order_by(events.c.processed_at, events.c.n)
        )
        for part in rows.partitions():
            yield from readable(connection, events, part, lambda row: DecidedEvent(row.body, row.processed_at))

    before: list[DecidedEvent] = []
    for key, since in earlier.items():
        place = (events.c[name] == value for name, value in key._asdict().items())
        before += of(*place, events.c.processed_at >= since, events.c.processed_at < begin)
    yield from sorted(before, key=lambda item: item.decided_at)
    yield from of(events.c.processed_at >= begin, events.c.processed_at < until)


def copy_fleet(source: Connection, target: Connection, begin: datetime) -> None:
    """Nodes, scenarios, expected starts, silences and earlier runs, as they were at ``begin`` as far as that is known:
    every node is up, every scenario was just polled, no start that was expected later has come yet."""
    _copy(source, target, mail_reporters)
    _copy(source, target, silences)
    always = {"up": True, "down_since": None, "down_reason": None, "down_event_id": None, "backfilling": False}
    _copy(source, target, nodes, **always)
    polled = {"polled_at": begin + _FOREVER, "status_read_at": begin + _FOREVER, "backfilled": True, "next_run": None}
    rows = source.execute(select(scenarios).where(or_(scenarios.c.gone_at.is_(None), scenarios.c.gone_at > begin)))
    known = readable(source, scenarios, rows, lambda row: dict(row._mapping))
    _insert(target, scenarios, [row | polled | {"gone_at": None} for row in known])
    day = timedelta(days=1)
    rows = source.execute(select(expected_starts).where(expected_starts.c.at > begin - day))
    starts = [dict(row._mapping) for row in rows]
    open_ = {"state": "pending", "evaluate_at": None, "settled_at": None}
    settled = ("met", "withdrawn")
    _insert(target, expected_starts, [
        row if (row["settled_at"] and row["settled_at"] < begin) or row["state"] not in (*settled, "missed") else row | open_
        for row in starts
    ])  # fmt: skip
    newest = func.row_number().over(partition_by=columns(runs, *SCENARIO), order_by=runs.c.start.desc())
    known_runs = and_(
        runs.c.start < begin, or_(runs.c.end_seen_at.is_(None), runs.c.end_seen_at < begin, runs.c.baseline)
    )
    ranked = select(*runs.c, newest.label("rank")).where(known_runs).subquery()
    kept = [column.name for column in runs.c if column.name != "details_due_at"]
    query = select(*(plain(ranked.c[name]) for name in kept)).where(ranked.c.rank <= _RUNS_OF_A_SCENARIO)
    names, values = ", ".join(f'"{name}"' for name in kept), ", ".join("?" * len(kept))
    for part in source.execution_options(yield_per=_LONGEST_BATCH).execute(query).partitions():
        # As numbers and texts: there may be a quarter of a million.
        target.exec_driver_sql(f"INSERT INTO runs ({names}) VALUES ({values})", list(map(tuple, part)))


def _copy(source: Connection, target: Connection, table: Table, **values: object) -> None:
    rows = readable(source, table, source.execute(select(table)), lambda row: dict(row._mapping) | values)
    _insert(target, table, rows)


def _insert(target: Connection, table: Table, rows: list[dict[str, object]]) -> None:
    for part in chunks(rows):
        target.execute(insert(table), list(part))


def read_errors(connection: Connection, begin: datetime, until: datetime) -> list[tuple[datetime, RunKey, ErrorRow]]:
    """The errors of runs that were read in this time, in order, and when."""
    query = select(run_details).where(run_details.c.fingerprint.is_not(None))
    query = query.where(run_details.c.read_at >= begin, run_details.c.read_at < until).order_by(run_details.c.read_at)
    rows = readable(connection, run_details, connection.execute(query), lambda row: dict(row._mapping))
    return [
        (row["read_at"], RunKey(ScenarioKey(*(row[name] for name in SCENARIO)), row["run_id"], row["start"]), row)
        for row in rows
    ]


def unread_errors(connection: Connection) -> list[RunKey]:
    """The runs whose details are wanted and were not read until now."""
    rows = connection.execute(select(*columns(runs, *RUN)).where(runs.c.details_due_at.is_not(None)))
    return [RunKey(ScenarioKey(*place), run_id, start) for *place, run_id, start in rows]


def put_error(connection: Connection, run: RunKey, row: ErrorRow) -> None:
    """Write an error that was read, for which nobody waits any more."""
    connection.execute(insert(run_details), row)
    connection.execute(update(runs).where(has_key(runs, run)).values(details_due_at=None))


def settled_starts(
    connection: Connection, begin: datetime, until: datetime
) -> list[tuple[datetime, ScenarioKey, datetime, str]]:
    """When polls settled expected starts, the first first: the moment, the start, and how."""
    table = expected_starts
    query = select(table.c.settled_at, *columns(table, *SCENARIO), table.c.at, table.c.state).where(
        table.c.state.in_(("met", "withdrawn")), table.c.settled_at >= begin, table.c.settled_at < until
    )
    rows = connection.execute(query.order_by(table.c.settled_at))
    return [(moment, ScenarioKey(*place), at, state) for moment, *place, at, state in rows]


def changes_of_alerts(connection: Connection, begin: datetime, until: datetime) -> list[Alert]:
    """The alerts that people acknowledged or ended, and those whose scenario was switched off, from ``begin`` on."""
    by_people = or_(
        alerts.c.acknowledged.is_not(None),
        alerts.c.end_reason.in_((EndReason.BY_HAND.value, EndReason.DEACTIVATED.value)),
    )
    query = select(alerts).where(by_people, or_(alerts.c.ends_at.is_(None), alerts.c.ends_at >= begin))
    return readable(connection, alerts, connection.execute(query.where(alerts.c.starts_at < until)), to_alert)


def gone_scenarios(connection: Connection, begin: datetime, until: datetime) -> list[tuple[datetime, ScenarioKey]]:
    query = select(scenarios.c.gone_at, *columns(scenarios, *SCENARIO))
    rows = connection.execute(query.where(scenarios.c.gone_at >= begin, scenarios.c.gone_at < until))
    return [(at, ScenarioKey(*place)) for at, *place in rows]


def channel_alerts(connection: Connection, begin: datetime, until: datetime) -> list[tuple[datetime, Alert]]:
    """The alerts about channels, which no history of runs can make again, and when each fired."""
    fired = and_(
        decisions.c.alert_id == alerts.c.id,
        decisions.c.stage == Stage.RULE.value,
        decisions.c.reason == DecisionReason.FIRING.value,
    )
    query = select(decisions.c.at.label("fired_at"), *alerts.c).join_from(alerts, decisions, fired)
    rows = connection.execute(
        query.where(alerts.c.rule == CHANNEL_ALERT, decisions.c.at >= begin, decisions.c.at < until)
    )
    return readable(connection, alerts, rows, lambda row: (row.fired_at, to_alert(row)))


def set_scenario(connection: Connection, key: ScenarioKey, **values: object) -> None:
    place = (scenarios.c[name] == value for name, value in key._asdict().items())
    connection.execute(update(scenarios).where(*place).values(values))


def set_node(connection: Connection, event: Event, *, up: bool) -> None:
    """Write on a node's row what an event says of it."""
    reason = None if event.reason is None else event.reason.value
    values = {"up": up, "down_since": None if up else event.time, "down_reason": None if up else reason}
    connection.execute(update(nodes).where(nodes.c.node == event.node).values(values))


def firing_places(connection: Connection) -> set[tuple[str, str, str]]:
    """What fires now is about these places."""
    return {
        tuple(row) for row in connection.execute(select(*columns(alerts, *SCENARIO)).where(alerts.c.ends_at.is_(None)))
    }


def silence_moments(connection: Connection) -> list[datetime]:
    """When silences begin and end, in order."""
    return sorted({at for row in connection.execute(select(silences.c.starts_at, silences.c.ends_at)) for at in row})


def flushed_groups(connection: Connection, now: datetime) -> list[tuple[Group, datetime | None]]:
    """The groups that were flushed at ``now``, and when a channel of each was notified the longest ago."""
    last = func.min(notification_log.c.at, type_=notification_log.c.at.type)
    query = select(*groups.c, last.label("last")).outerjoin(
        notification_log, notification_log.c.group_key == groups.c.key
    )
    rows = connection.execute(query.where(groups.c.flushed_at == now).group_by(groups.c.key))
    return readable(connection, groups, rows, lambda row: (to_group(row), row.last))


def flush_later(connection: Connection, due: Mapping[str, datetime]) -> None:
    """Set when groups are flushed next."""
    for key, at in due.items():
        connection.execute(update(groups).where(groups.c.key == key).values(flush_at=at))


def alerts_and_groups(connection: Connection, ids: Sequence[str]) -> tuple[list[Labels], set[str]]:
    """The labels of these alerts, and the groups in which they are."""
    labels = list(connection.execute(select(alerts.c.labels).where(alerts.c.id.in_(ids))).scalars())
    return labels, set(
        connection.execute(select(group_alerts.c.group_key).where(group_alerts.c.alert_id.in_(ids))).scalars()
    )


def notifications_of(connection: Connection, since: datetime, until: datetime) -> list[Notification]:
    """What was enqueued in this time, in order, without what a newer state of its group took the place of."""
    query = select(outbox).where(outbox.c.created_at >= since, outbox.c.created_at < until)
    rows = connection.execute(query.where(outbox.c.state.not_in(_UNSENT)).order_by(outbox.c.created_at, outbox.c.n))
    return readable(connection, outbox, rows, to_notification)
