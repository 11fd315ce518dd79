"""Rows of expected starts: written by watch, matched by polls, and evaluated by the rules about missed starts."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Select, bindparam, func, literal_column, or_, select, type_coerce, update

from tocsin.kit.clock import to_ms
from tocsin.model.run import Run, ScenarioKey
from tocsin.model.scenario import EARLY, StartState
from tocsin.store.schema import expected_starts, nodes, runs
from tocsin.store.sql import SCENARIO, Keyed, columns, has_key, key_values, plain, same, upsert

_LONGEST_MS = 7 * 86_400_000  # a run that took longer and is over is not looked for
_EARLY_MS = EARLY // timedelta(milliseconds=1)
_KEY = columns(expected_starts, *SCENARIO, "at")
_AT = expected_starts.c.at
_PENDING = expected_starts.c.state == "pending"
_WITHDRAWN = expected_starts.c.state == literal_column("'withdrawn'")
_NEW_STATE = {"state": bindparam("new_state", type_=expected_starts.c.state.type)}


class StartKey(NamedTuple):
    scenario: ScenarioKey
    at: datetime


@dataclass(frozen=True, slots=True)
class StartCounts:
    """How many expected starts of a node between two moments came, were missed, or are open."""

    met: int = 0
    missed: int = 0
    pending: int = 0


def pending_starts(connection: Connection, node: str) -> dict[ScenarioKey, list[datetime]]:
    """The expected starts that neither came nor were withdrawn, by scenario, the earliest first."""
    query = select(*_KEY).where(expected_starts.c.node == node, _PENDING).order_by(_AT)
    pending: dict[ScenarioKey, list[datetime]] = {}
    for *scenario, at in connection.execute(query):
        pending.setdefault(ScenarioKey(*scenario), []).append(at)
    return pending


def expect_starts(connection: Connection, starts: Iterable[tuple[ScenarioKey, datetime]], now: datetime) -> None:
    """Remember starts that DSS announces; one that was withdrawn is expected again, others stay as they are."""
    values = {"state": "pending", "learned_at": now, "settled_at": None}
    rows = [key_values(expected_starts, start) | values for start in starts]
    upsert(connection, expected_starts, rows, (*values,), where=_WITHDRAWN)


def close_starts(connection: Connection, states: Iterable[tuple[ScenarioKey, datetime, str]], now: datetime) -> None:
    """Mark pending starts as ``met`` or ``withdrawn``."""
    rows = [key_values(expected_starts, (key, at), "key_") | {"new_state": state} for key, at, state in states]
    if rows:
        pending = update(expected_starts).where(has_key(expected_starts), _PENDING)
        connection.execute(pending.values(_NEW_STATE | {"settled_at": now}), rows)


def starts_to_evaluate(connection: Connection, now: datetime, limit: int) -> list[StartKey]:
    """Pending starts whose time has come, on nodes that are clear; those first that have waited longest."""
    node_now = to_ms(now) + type_coerce(nodes.c.clock_offset_ms, BigInteger)
    query = (
        select(*_KEY)
        .join(nodes, nodes.c.node == expected_starts.c.node)
        .where(
            _PENDING,
            plain(_AT) <= node_now,
            or_(expected_starts.c.evaluate_at.is_(None), expected_starts.c.evaluate_at <= now),
            nodes.c.up.is_(True),
            nodes.c.backfilling.is_(False),
        )
        .order_by(_AT)
        .limit(limit)
    )
    return [StartKey(ScenarioKey(*scenario), at) for *scenario, at in connection.execute(query)]


def next_start(connection: Connection, now: datetime) -> datetime | None:
    """When a pending start is next worth an evaluation."""
    evaluate_at = func.coalesce(expected_starts.c.evaluate_at, _AT, type_=_AT.type)
    moment: datetime | None = connection.execute(
        select(func.min(evaluate_at)).where(_PENDING, evaluate_at > now)
    ).scalar_one_or_none()
    return moment


def _next_of_scenario() -> Select[Any]:
    later = expected_starts.alias()
    query = select(*_KEY, func.min(later.c.at)).join(later, same(later, expected_starts))
    return query.where(later.c.at > _AT).group_by(*_KEY)


def _around(*, open_runs: bool) -> Select[Any]:
    """Runs with the starts that they may explain: those that go on, or those that ended, lately."""
    query = select(*_KEY, *columns(runs, "run_id", "start", "end", "outcome", "trigger_type"))
    query = query.join(runs, same(runs, expected_starts))
    if open_runs:
        return query.where(runs.c.end.is_(None), runs.c.absent_since.is_(None))
    at, start, end = plain(_AT), plain(runs.c.start), plain(runs.c.end)
    return query.where(start >= at - _LONGEST_MS, or_(end >= at, start >= at - _EARLY_MS), runs.c.end.is_not(None))


_NEXT = Keyed(_next_of_scenario(), _KEY)
_OPEN, _ENDED = (Keyed(_around(open_runs=open_runs), _KEY) for open_runs in (True, False))


def next_starts(connection: Connection, keys: Collection[StartKey]) -> dict[StartKey, datetime]:
    """The next expected start after each of these, where one is known."""
    return {StartKey(ScenarioKey(*row[:3]), row[3]): row[4] for row in _NEXT.rows(connection, keys)}


def runs_around(connection: Connection, keys: Collection[StartKey]) -> dict[StartKey, list[Run]]:
    """The runs that were open at each of these moments or began later."""
    around: dict[StartKey, list[Run]] = {key: [] for key in keys}
    for row in (*_OPEN.rows(connection, keys), *_ENDED.rows(connection, keys)):
        scenario = ScenarioKey(*row[:3])
        around[StartKey(scenario, row[3])].append(Run(scenario, *row[4:]))
    return around


def save_starts(connection: Connection, states: Sequence[tuple[StartKey, str, datetime | None]], now: datetime) -> None:
    """Write the state of evaluated starts, and for one that stays pending when to evaluate it again."""
    if not states:
        return
    moment = _AT.type
    values = {"evaluate_at": bindparam("again", type_=moment), "settled_at": bindparam("over", type_=moment)}
    rows = [
        key_values(expected_starts, key, "key_")
        | {"new_state": state, "again": again, "over": None if state == StartState.PENDING else now}
        for key, state, again in states
    ]
    connection.execute(update(expected_starts).where(has_key(expected_starts)).values(_NEW_STATE | values), rows)


def count_starts(connection: Connection, node: str, first: datetime, last: datetime) -> StartCounts:
    """What became of a node's starts expected from ``first`` to ``last``."""
    state = expected_starts.c.state
    query = select(state, func.count()).where(expected_starts.c.node == node, _AT.between(first, last))
    counts = {row[0]: row[1] for row in connection.execute(query.group_by(state))}
    return StartCounts(*(counts.get(name, 0) for name in ("met", "missed", "pending")))


def last_met(connection: Connection, node: str) -> datetime | None:
    """The latest expected start of a node that came."""
    query = select(func.max(_AT)).where(expected_starts.c.node == node, expected_starts.c.state == "met")
    moment: datetime | None = connection.execute(query).scalar_one_or_none()
    return moment
