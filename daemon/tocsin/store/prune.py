"""Forgetting what is old, in bounded batches.

Never: open runs, runs inside a look's window (the newest of each scenario), events that wait for a decision or a
summary, notifications owed or dead, alerts that a group may still tell of, totals. A run that is forgotten makes no
event again: the scenario's watermark stands.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, exists, or_, select, tuple_, update

from tocsin.model.notification import NotificationState
from tocsin.model.run import ScenarioKey
from tocsin.store.schema import (
    alerts,
    attempts,
    decisions,
    events,
    expected_starts,
    group_alerts,
    group_notified,
    groups,
    outbox,
    outbox_waits,
    run_details,
    runs,
    scenarios,
    silences,
    withheld,
)

ROWS = 500  # of one table in one batch
SCENARIOS = 100  # whose runs one batch goes through
KEEP_RUNS = 50  # of each scenario, however old
_NOTIFIED_FOR = timedelta(hours=120)  # a channel's memory of a group that is gone; see ``route.dedup``
_DONE = (NotificationState.DELIVERED, NotificationState.SUPERSEDED, NotificationState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a batch forgot, by table. ``more``: call again, with ``after``."""

    rows: Mapping[str, int]
    after: ScenarioKey | None
    more: bool


def prune(connection: Connection, now: datetime, retention: timedelta, after: ScenarioKey | None = None) -> Pruned:
    """Forget a batch of what is older than ``retention``. ``after`` is where the batch before it stopped."""
    before = now - retention
    forgotten = {
        table.name: _forget(connection, table, old)
        for table, old in (
            (events, _old_events(before)),
            (decisions, decisions.c.at < before),
            (outbox, and_(outbox.c.settled_at < before, outbox.c.state.in_([one.value for one in _DONE]))),
            (alerts, and_(alerts.c.ends_at < before, ~exists().where(group_alerts.c.alert_id == alerts.c.id))),
            (silences, silences.c.ends_at < before),
            (expected_starts, and_(expected_starts.c.at < before, expected_starts.c.state != "pending")),
            (group_notified, _old_memories(now)),
        )
    }
    orphaned = ~exists().where(outbox.c.id == attempts.c.notification_id)
    forgotten["attempts"] = _forget(connection, attempts, and_(attempts.c.ended_at < before, orphaned))
    unwaited = ~exists().where(outbox.c.id == outbox_waits.c.notification_id)
    forgotten["outbox_waits"] = _forget(connection, outbox_waits, and_(outbox_waits.c.start < before, unwaited))
    full = any(count >= ROWS for count in forgotten.values())
    forgotten["runs"], reached = forget_runs(connection, before, after)
    return Pruned(forgotten, reached, full or reached is not None)


def _old_events(before: datetime) -> ColumnElement[bool]:
    awaited = exists().where(withheld.c.event_id == events.c.id)
    return and_(events.c.detected_at < before, events.c.processed_at.is_not(None), ~awaited)


def _old_memories(now: datetime) -> ColumnElement[bool]:
    gone = ~exists().where(groups.c.key == group_notified.c.group_key)
    return and_(gone, or_(group_notified.c.at.is_(None), group_notified.c.at < now - _NOTIFIED_FOR))


def _forget(connection: Connection, table: Table, old: ColumnElement[bool]) -> int:
    key = list(table.primary_key.columns)
    batch = select(*key).where(old).limit(ROWS)
    return connection.execute(delete(table).where(tuple_(*key).in_(batch))).rowcount


def forget_runs(
    connection: Connection, before: datetime, after: ScenarioKey | None = None, keep: int = KEEP_RUNS
) -> tuple[int, ScenarioKey | None]:
    """Forget runs of the next scenarios; answers how many, and the last of these scenarios while there are more."""
    place = (scenarios.c.node, scenarios.c.project, scenarios.c.scenario)
    query = select(*place).order_by(*place).limit(SCENARIOS)
    if after is not None:
        query = query.where(tuple_(*place) > tuple_(*after))
    keys = [ScenarioKey(*row) for row in connection.execute(query)]
    count = 0
    for key in keys:
        mine = [runs.c[name] == value for name, value in key._asdict().items()]
        newest = select(runs.c.start).where(*mine).order_by(runs.c.start.desc()).limit(1).offset(keep - 1)
        oldest_kept = connection.execute(newest).scalar_one_or_none()
        if oldest_kept is None:
            continue
        old = [*mine, runs.c.start < oldest_kept, runs.c.end < before]
        gone = list(connection.execute(delete(runs).where(*old).returning(runs.c.start)).scalars())
        if gone:
            count += len(gone)
            # A look that shows them again must know that they are the past.
            here = [scenarios.c[name] == value for name, value in key._asdict().items()]
            past = max(gone) + timedelta(milliseconds=1)
            lower = scenarios.c.watermark < past
            connection.execute(update(scenarios).where(*here, lower).values(watermark=past))
            _forget_details(connection, key, oldest_kept)
    return count, keys[-1] if len(keys) >= SCENARIOS else None


def _forget_details(connection: Connection, key: ScenarioKey, oldest_kept: datetime) -> None:
    mine = [run_details.c[name] == value for name, value in key._asdict().items()]
    known = exists().where(
        *(runs.c[name] == run_details.c[name] for name in ("node", "project", "scenario", "run_id", "start"))
    )
    connection.execute(delete(run_details).where(*mine, run_details.c.start < oldest_kept, ~known))
