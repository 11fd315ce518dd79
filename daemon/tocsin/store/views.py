"""What rules look at besides events: nodes, scenarios and runs as watch left them. Reads only."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, Connection, func, or_, select

from tocsin.model.run import GOOD_OUTCOMES, RunKey, ScenarioKey
from tocsin.model.views import NodeView, ScenarioView
from tocsin.store.schema import nodes, runs, scenarios
from tocsin.store.sql import Keyed, emptied

_MOST_OFFSET_MS = 100 * 365 * 86_400_000  # of a clock; what a damaged row says beyond it is cut

_NODE: tuple[Column[Any], ...] = (
    nodes.c.node,
    nodes.c.up,
    nodes.c.backfilling,
    nodes.c.down_since,
    nodes.c.down_reason,
    nodes.c.clock_offset_ms,
    nodes.c.clock_offset_least_ms,
)
_SCENARIO: tuple[Column[Any], ...] = (
    scenarios.c.node,
    scenarios.c.project,
    scenarios.c.scenario,
    scenarios.c.name,
    scenarios.c.tags,
    scenarios.c.active,
    scenarios.c.gone_at,
    scenarios.c.watched_since,
    scenarios.c.polled_at,
    scenarios.c.status_read_at,
    scenarios.c.next_run,
    scenarios.c.backfilled,
)
_SIGHTS = Keyed(select(*_SCENARIO), (scenarios.c.node, scenarios.c.project, scenarios.c.scenario))
_RUN_PLACE = (runs.c.node, runs.c.project, runs.c.scenario)
_LAST_GOOD = Keyed(
    select(*_RUN_PLACE, func.max(runs.c.end)).where(runs.c.outcome.in_(sorted(GOOD_OUTCOMES))).group_by(*_RUN_PLACE),
    _RUN_PLACE,
)

_OVER = Keyed(
    select(*_RUN_PLACE, runs.c.run_id, runs.c.start).where(
        or_(runs.c.end.is_not(None), runs.c.absent_since.is_not(None))
    ),
    (*_RUN_PLACE, runs.c.run_id, runs.c.start),
)


def node_views(connection: Connection) -> dict[str, NodeView]:
    """Every node."""
    return {
        row.node: NodeView(
            row.node,
            row.up,
            row.backfilling,
            row.down_since,
            row.down_reason,
            _offset(row.clock_offset_ms),
            None if row.clock_offset_least_ms is None else _offset(row.clock_offset_least_ms),
        )
        for row in connection.execute(select(*_NODE))
    }


def _offset(milliseconds: int) -> timedelta:
    return timedelta(milliseconds=min(max(milliseconds, -_MOST_OFFSET_MS), _MOST_OFFSET_MS))


def scenario_views(connection: Connection, keys: Collection[ScenarioKey]) -> dict[ScenarioKey, ScenarioView]:
    """These scenarios; one without a row is absent."""
    found: dict[ScenarioKey, ScenarioView] = {}
    for row in emptied(connection, scenarios, _SIGHTS.rows(connection, keys)):
        sight = _to_scenario_sight(row)
        found[sight.key] = sight
    return found


def watched_scenarios(connection: Connection) -> list[ScenarioView]:
    """Every scenario that is not gone."""
    query = select(*_SCENARIO).where(scenarios.c.gone_at.is_(None))
    return [_to_scenario_sight(row) for row in emptied(connection, scenarios, connection.execute(query))]


def _to_scenario_sight(row: Sequence[Any]) -> ScenarioView:
    node, project, scenario, name, tags, active, gone_at, since, looked, read, following, backfilled = row
    key = ScenarioKey(node, project, scenario)
    return ScenarioView(key, name, tags, active, gone_at is not None, since, looked, read, following, backfilled)


def last_good(connection: Connection, keys: Collection[ScenarioKey]) -> dict[ScenarioKey, datetime]:
    """When the last good run of each scenario ended, baseline runs too."""
    return {ScenarioKey(*row[:3]): row[3] for row in _LAST_GOOD.rows(connection, keys)}


def ended(connection: Connection, keys: Collection[RunKey]) -> set[RunKey]:
    """Those that are known to have ended, or were taken out of DSS's history while they ran."""
    found = _OVER.rows(connection, [(*key.scenario, key.run_id, key.start) for key in keys])
    return {RunKey(ScenarioKey(*row[:3]), *row[3:]) for row in found}
