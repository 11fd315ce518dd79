"""Rows of expected starts, as rules judge them. Watch writes them, and settles what its looks see."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Select, and_, bindparam, func, or_, select, type_coerce, update

from tocsin.kit.clock import to_ms
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.model.views import SeenRun
from tocsin.store.schema import expected_starts, nodes, runs
from tocsin.store.sql import Keyed, plain

_LONGEST_MS = 7 * 86_400_000  # a run that took longer and is over is not looked for
_EARLY_MS = 5_000  # a run may seem to start this much before its time
_KEY = ("node", "project", "scenario", "at")
_COLUMNS = [expected_starts.c[name] for name in _KEY]
_PENDING = expected_starts.c.state == "pending"


def _following() -> Select[Any]:
    later = expected_starts.alias()
    same = and_(*(later.c[name] == expected_starts.c[name] for name in ScenarioKey._fields))
    return (
        select(*_COLUMNS, func.min(later.c.at))
        .join(later, same)
        .where(later.c.at > expected_starts.c.at)
        .group_by(*_COLUMNS)
    )


def _around(*, goes_on: bool) -> Select[Any]:
    """Runs with the starts that they may explain: those that go on, or those that ended, lately."""
    same = and_(*(runs.c[name] == expected_starts.c[name] for name in ScenarioKey._fields))
    at, start, end = plain(expected_starts.c.at), plain(runs.c.start), plain(runs.c.end)
    columns = (runs.c.run_id, runs.c.start, runs.c.end, runs.c.outcome, runs.c.trigger_type)
    query = select(*_COLUMNS, *columns).join(runs, same)
    if goes_on:
        return query.where(runs.c.end.is_(None), runs.c.absent_since.is_(None))
    return query.where(start >= at - _LONGEST_MS, or_(end >= at, start >= at - _EARLY_MS), runs.c.end.is_not(None))


_FOLLOWING = Keyed(_following(), _COLUMNS)
_OPEN = Keyed(_around(goes_on=True), _COLUMNS)
_ENDED = Keyed(_around(goes_on=False), _COLUMNS)


class StartKey(NamedTuple):
    scenario: ScenarioKey
    at: datetime


@dataclass(frozen=True, slots=True)
class Tally:
    """How many expected starts of a node between two moments came, were missed, or are open."""

    met: int = 0
    missed: int = 0
    pending: int = 0


def starts_to_evaluate(connection: Connection, now: datetime, limit: int) -> list[StartKey]:
    """Pending starts whose time has come, on nodes that are clear; those first that have waited longest."""
    offset = type_coerce(nodes.c.clock_offset_ms, BigInteger)
    query = (
        select(*_COLUMNS)
        .join(nodes, nodes.c.node == expected_starts.c.node)
        .where(
            _PENDING,
            type_coerce(expected_starts.c.at, BigInteger) <= to_ms(now) + offset,
            or_(expected_starts.c.evaluate_at.is_(None), expected_starts.c.evaluate_at <= now),
            nodes.c.up.is_(True),
            nodes.c.backfilling.is_(False),
        )
        .order_by(expected_starts.c.at)
        .limit(limit)
    )
    return [StartKey(ScenarioKey(*row[:3]), row[3]) for row in connection.execute(query)]


def next_start(connection: Connection, now: datetime) -> datetime | None:
    """When a pending start is next worth a judgement."""
    evaluate_at = func.coalesce(expected_starts.c.evaluate_at, expected_starts.c.at, type_=expected_starts.c.at.type)
    query = select(func.min(evaluate_at)).where(_PENDING, evaluate_at > now)
    found: datetime | None = connection.execute(query).scalar_one_or_none()
    return found


def following(connection: Connection, keys: Collection[StartKey]) -> dict[StartKey, datetime]:
    """The next expected start after each of these, where one is known."""
    rows = _FOLLOWING.rows(connection, [(*key.scenario, key.at) for key in keys])
    return {StartKey(ScenarioKey(*row[:3]), row[3]): row[4] for row in rows}


def runs_around(connection: Connection, keys: Collection[StartKey]) -> dict[StartKey, list[SeenRun]]:
    """The runs that were open at each of these moments or began later."""
    found: dict[StartKey, list[SeenRun]] = {key: [] for key in keys}
    wanted = [(*key.scenario, key.at) for key in keys]
    for row in (*_OPEN.rows(connection, wanted), *_ENDED.rows(connection, wanted)):
        scenario = ScenarioKey(*row[:3])
        run = SeenRun(RunKey(scenario, row[4], row[5]), row[6], row[7], row[8])
        found[StartKey(scenario, row[3])].append(run)
    return found


def settle(connection: Connection, settled: Sequence[tuple[StartKey, str, datetime | None]], now: datetime) -> None:
    """Write verdicts: a state, or for one that stays pending when it is judged again."""
    if not settled:
        return
    rows = [
        dict(zip((f"k_{name}" for name in _KEY), (*key.scenario, key.at), strict=True))
        | {"new_state": state, "again": evaluate_at, "over": None if state == "pending" else now}
        for key, state, evaluate_at in settled
    ]
    moment = expected_starts.c.at.type
    values = {
        "state": bindparam("new_state", type_=expected_starts.c.state.type),
        "evaluate_at": bindparam("again", type_=moment),
        "settled_at": bindparam("over", type_=moment),
    }
    mine = [expected_starts.c[name] == bindparam(f"k_{name}", type_=expected_starts.c[name].type) for name in _KEY]
    connection.execute(update(expected_starts).where(*mine).values(values), rows)


def tally(connection: Connection, node: str, first: datetime, last: datetime) -> Tally:
    """What became of a node's starts expected from ``first`` to ``last``."""
    query = select(expected_starts.c.state, func.count()).where(
        expected_starts.c.node == node, expected_starts.c.at >= first, expected_starts.c.at <= last
    )
    counts = {row[0]: row[1] for row in connection.execute(query.group_by(expected_starts.c.state))}
    return Tally(counts.get("met", 0), counts.get("missed", 0), counts.get("pending", 0))


def last_met(connection: Connection, node: str) -> datetime | None:
    """The latest expected start of a node that came."""
    query = select(func.max(expected_starts.c.at)).where(
        expected_starts.c.node == node, expected_starts.c.state == "met"
    )
    found: datetime | None = connection.execute(query).scalar_one_or_none()
    return found
