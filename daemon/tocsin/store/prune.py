"""Forgetting what is old, in bounded batches.

Never: open runs, runs inside a look's window (the newest of each scenario), events that wait for a decision or a
summary, notifications owed or dead, alerts that a group may still tell of, totals. A run that is forgotten makes no
event again: the scenario's watermark stands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Subquery,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    or_,
    select,
    tuple_,
    update,
)

from tocsin.model.notification import NotificationState
from tocsin.model.run import ScenarioKey
from tocsin.store.schema import (
    alerts,
    attempts,
    decisions,
    events,
    expected_starts,
    group_alerts,
    groups,
    notification_log,
    outbox,
    outbox_waits,
    run_details,
    runs,
    scenarios,
    silences,
    withheld,
)
from tocsin.store.sql import Key, Keyed, pack, plain, unfold

ROWS = 500  # of one table in one batch
SCENARIOS = 100  # whose runs one batch goes through
KEEP_RUNS = 50  # of each scenario, however old
_NOTIFIED_FOR = timedelta(hours=120)  # a channel's memory of a group that is gone; see ``routing.dedup``
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
            (outbox, and_(outbox.c.settled_at < before, outbox.c.state.in_(_DONE))),
            (alerts, and_(alerts.c.ends_at < before, ~exists().where(group_alerts.c.alert_id == alerts.c.id))),
            (silences, silences.c.ends_at < before),
            (expected_starts, and_(expected_starts.c.at < before, expected_starts.c.state != "pending")),
            (notification_log, _old_memories(now)),
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
    gone = ~exists().where(groups.c.key == notification_log.c.group_key)
    return and_(gone, or_(notification_log.c.at.is_(None), notification_log.c.at < now - _NOTIFIED_FOR))


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
    old = [(*row[:3], row[3]) for row in _oldest_kept(keep).rows(connection, keys) if row[3] is not None]
    gone = _forget_runs(connection, old, before) if old else []
    newest: dict[ScenarioKey, datetime] = {}
    for *key, start in gone:
        scenario = ScenarioKey(*key)
        newest[scenario] = max(start, newest.get(scenario, start))
    if newest:
        # A look that shows them again must know that they are the past.
        past = [{f"of_{name}": part for name, part in key._asdict().items()} | {"past": start + timedelta(milliseconds=1)}
                for key, start in newest.items()]  # fmt: skip
        connection.execute(_WATERMARK, past)
        _forget_details(connection, [row for row in old if ScenarioKey(*row[:3]) in newest])
    return len(gone), keys[-1] if len(keys) >= SCENARIOS else None


_WATERMARK = (
    update(scenarios)
    .where(*(scenarios.c[name] == bindparam(f"of_{name}") for name in ScenarioKey._fields))
    .where(scenarios.c.watermark < bindparam("past"))
    .values(watermark=bindparam("past"))
)
_PLACE = [runs.c[name] for name in ScenarioKey._fields]


@lru_cache(maxsize=4)
def _oldest_kept(keep: int) -> Keyed:
    """The start of the oldest run of each scenario that is kept however old it is."""

    def build(wanted: Subquery) -> Select[Any]:
        starts = select(runs.c.start).where(_of(runs, wanted)).order_by(runs.c.start.desc())
        oldest = starts.limit(1).offset(keep - 1).correlate(wanted).scalar_subquery()
        return select(wanted.c.k0, wanted.c.k1, wanted.c.k2, oldest)

    return Keyed(build, _PLACE)


def _of(table: Table, wanted: Subquery) -> ColumnElement[bool]:
    return and_(*(table.c[name] == wanted.c[f"k{index}"] for index, name in enumerate(ScenarioKey._fields)))


def _forget_runs(connection: Connection, old: Sequence[Key], before: datetime) -> list[Sequence[Any]]:
    wanted = unfold(connection.dialect.name, [*_PLACE, runs.c.start])
    victims = select(*runs.primary_key).join_from(wanted, runs, _of(runs, wanted))
    victims = victims.where(plain(runs.c.start) < wanted.c.k3, runs.c.end < before)
    statement = delete(runs).where(tuple_(*runs.primary_key).in_(victims)).returning(*_PLACE, runs.c.start)
    return list(connection.execute(statement, {"keys": pack(old)}))


def _forget_details(connection: Connection, old: Sequence[Key]) -> None:
    """What was read about runs that are gone, of scenarios whose runs before a moment were forgotten."""
    wanted = unfold(connection.dialect.name, [*_PLACE, runs.c.start])
    key = [*run_details.primary_key]
    known = exists().where(*(runs.c[column.name] == column for column in key))
    victims = select(*key).join_from(wanted, run_details, _of(run_details, wanted))
    victims = victims.where(plain(run_details.c.start) < wanted.c.k3, ~known)
    connection.execute(delete(run_details).where(tuple_(*key).in_(victims)), {"keys": pack(old)})
