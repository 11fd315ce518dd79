"""Forgetting what is old, in bounded batches.

Never: open runs, runs inside a poll's window (the newest of each scenario), events that wait for a decision or a
summary, notifications that are pending or dead, alerts of which a group may still notify, totals. A run that is
forgotten makes no event again: the scenario's watermark stands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Select, Subquery, and_, bindparam, delete, exists, or_, select, tuple_, update

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
    sent_messages,
    silences,
    withheld,
)
from tocsin.store.sql import RUN, SCENARIO, Key, Keyed, columns, has_key, is_key, key_values, pack, plain, same, unfold

ROWS = 500  # of one table in one batch
SCENARIOS = 100  # whose runs one batch goes through
KEEP_RUNS = 50  # of each scenario, however old
_NOTIFIED_FOR = timedelta(hours=120, minutes=15)  # log entries whose group is gone: ``routing.stages`` uses no older
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
    awaited = exists().where(withheld.c.event_id == events.c.id)
    in_group = exists().where(group_alerts.c.alert_id == alerts.c.id)
    group_there = exists().where(groups.c.key == notification_log.c.group_key)
    old_log = or_(notification_log.c.at.is_(None), notification_log.c.at < now - _NOTIFIED_FOR)
    old = {
        events: and_(events.c.detected_at < before, events.c.processed_at.is_not(None), ~awaited),
        decisions: decisions.c.at < before,
        outbox: and_(outbox.c.settled_at < before, outbox.c.state.in_(_DONE)),
        alerts: and_(alerts.c.ends_at < before, ~in_group),
        silences: silences.c.ends_at < before,
        sent_messages: sent_messages.c.updated_at < before,
        expected_starts: and_(expected_starts.c.at < before, expected_starts.c.state != "pending"),
        notification_log: and_(~group_there, old_log),
        attempts: and_(attempts.c.ended_at < before, ~exists().where(outbox.c.id == attempts.c.notification_id)),
        outbox_waits: and_(
            outbox_waits.c.start < before, ~exists().where(outbox.c.id == outbox_waits.c.notification_id)
        ),
    }
    forgotten: dict[str, int] = {}
    for table, condition in old.items():
        key = list(table.primary_key)
        batch = select(*key).where(condition).limit(ROWS)
        forgotten[table.name] = connection.execute(delete(table).where(tuple_(*key).in_(batch))).rowcount
    full = any(count >= ROWS for count in forgotten.values())
    forgotten["runs"], reached = forget_runs(connection, before, after)
    return Pruned(forgotten, reached, full or reached is not None)


def forget_runs(
    connection: Connection, before: datetime, after: ScenarioKey | None = None, keep: int = KEEP_RUNS
) -> tuple[int, ScenarioKey | None]:
    """Forget runs of the next scenarios; returns how many, and the last of these scenarios while there are more."""
    place = columns(scenarios, *SCENARIO)
    query = select(*place).order_by(*place).limit(SCENARIOS)
    if after is not None:
        query = query.where(tuple_(*place) > tuple_(*after))
    keys = [ScenarioKey(*row) for row in connection.execute(query)]
    old = [tuple(row) for row in _oldest_kept(keep).rows(connection, keys) if row[3] is not None]
    gone = _forget_runs(connection, old, before) if old else []
    newest: dict[ScenarioKey, datetime] = {}
    for *key, start in gone:
        scenario = ScenarioKey(*key)
        newest[scenario] = max(start, newest.get(scenario, start))
    if newest:
        # A poll that shows them again must know that they are the past.
        past = [key_values(scenarios, key, "key_") | {"past": start + timedelta(milliseconds=1)}
                for key, start in newest.items()]  # fmt: skip
        earlier = update(scenarios).where(has_key(scenarios), scenarios.c.watermark < bindparam("past"))
        connection.execute(earlier.values(watermark=bindparam("past")), past)
        _forget_details(connection, [row for row in old if ScenarioKey(*row[:3]) in newest])
    return len(gone), keys[-1] if len(keys) >= SCENARIOS else None


_PLACE = columns(runs, *SCENARIO)


@lru_cache(maxsize=4)
def _oldest_kept(keep: int) -> Keyed:
    """The start of the oldest run of each scenario that is kept however old it is."""

    def build(keys: Subquery) -> Select[Any]:
        starts = select(runs.c.start).where(is_key(runs, keys)).order_by(runs.c.start.desc())
        oldest = starts.limit(1).offset(keep - 1).correlate(keys).scalar_subquery()
        return select(keys.c.k0, keys.c.k1, keys.c.k2, oldest)

    return Keyed(build, _PLACE)


def _forget_runs(connection: Connection, old: Sequence[Key], before: datetime) -> list[Sequence[Any]]:
    keys = unfold(connection.dialect.name, [*_PLACE, runs.c.start])
    victims = select(*runs.primary_key).join_from(keys, runs, is_key(runs, keys))
    victims = victims.where(plain(runs.c.start) < keys.c.k3, runs.c.end < before)
    statement = delete(runs).where(tuple_(*runs.primary_key).in_(victims)).returning(*_PLACE, runs.c.start)
    return list(connection.execute(statement, {"keys": pack(old)}))


def _forget_details(connection: Connection, old: Sequence[Key]) -> None:
    """What was read about runs that are gone, of scenarios whose runs before a moment were forgotten."""
    keys = unfold(connection.dialect.name, [*_PLACE, runs.c.start])
    victims = select(*run_details.primary_key).join_from(keys, run_details, is_key(run_details, keys))
    known = exists().where(same(runs, run_details, RUN))
    victims = victims.where(plain(run_details.c.start) < keys.c.k3, ~known)
    connection.execute(delete(run_details).where(tuple_(*run_details.primary_key).in_(victims)), {"keys": pack(old)})
