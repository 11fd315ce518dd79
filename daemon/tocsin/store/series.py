"""What the metrics are made of: whole tables read in few statements, times left as epoch milliseconds.

These readings return plain numbers, since ten thousand scenarios are read every few seconds and nearly all of their
columns go straight into a sample. What depends on a scenario's runs can be asked for a few scenarios only.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    ScalarSelect,
    Select,
    Table,
    and_,
    func,
    select,
    type_coerce,
)

from tocsin.model.run import BAD_OUTCOMES, GOOD_OUTCOMES, ScenarioKey
from tocsin.store.schema import duration_buckets, nodes, outcome_totals, projects, runs, scenarios
from tocsin.store.sql import Keyed
from tocsin.store.totals import INFINITE

_KEY = ("node", "project", "scenario")
_BATCH = 500
Rows = Select[*tuple[Any, ...]]


class NodeFacts(NamedTuple):
    """One node; ``up`` is None until its first answer or failure."""

    node: str
    up: bool | None
    discovered: bool


class ScenarioFacts(NamedTuple):
    """What the row of one watched scenario tells; times in epoch milliseconds."""

    key: ScenarioKey
    watched_since: int
    polled_at: int | None
    active: bool | None
    next_run: int | None
    reporter_failures: int


class LastRun(NamedTuple):
    """The run of a scenario that ended last; ``counted`` says that its end made an event."""

    run_id: str
    start: int
    end: int
    outcome: str | None
    counted: bool


OutcomeTotal = tuple[str, int, float]
"""Outcome, runs, seconds; a plain tuple of plain values, which the garbage collector leaves alone."""


@dataclass(frozen=True, slots=True)
class History:
    """What a scenario's runs and totals tell. ``failures`` counts FAILED runs since the last good one."""

    last: LastRun | None = None
    last_good: int | None = None
    failures: int = 0
    totals: tuple[OutcomeTotal, ...] = ()


class Bucket(NamedTuple):
    """One bucket of a project's durations, not cumulated; ``bound_ms`` is None for +Inf, or ``totals.FORMER``."""

    bound_ms: int | None
    runs: int
    seconds: float
    exemplar_scenario: str | None
    exemplar_run: str | None
    exemplar_seconds: float | None
    exemplar_at: int | None


class ProjectOutcome(NamedTuple):
    node: str
    project: str
    outcome: str


def node_facts(connection: Connection) -> list[NodeFacts]:
    query = select(nodes.c.node, nodes.c.up, nodes.c.last_discovery_at.is_not(None)).order_by(nodes.c.node)
    return [NodeFacts(node, up, bool(discovered)) for node, up, discovered in connection.execute(query)]


def scenario_facts(
    connection: Connection, known: Mapping[ScenarioKey, ScenarioFacts]
) -> dict[ScenarioKey, ScenarioFacts]:
    """Every scenario that is not gone, the longest watched first.

    Those that are as ``known`` are the same objects again, and rows are dropped as they come: ten thousand new
    objects every few seconds would make the garbage collector stop the process for long moments.
    """
    columns = scenarios.c
    query = (
        select(
            *_key(scenarios),
            _ms(columns.watched_since),
            _ms(columns.polled_at),
            columns.active,
            _ms(columns.next_run),
            columns.reporter_failures,
        )
        .where(columns.gone_at.is_(None))
        .order_by(columns.watched_since, *_key(scenarios))
        .execution_options(yield_per=_BATCH)
    )
    found: dict[ScenarioKey, ScenarioFacts] = {}
    for node, project, scenario, *rest in connection.execute(query):
        facts = ScenarioFacts(ScenarioKey(node, project, scenario), *rest)
        same = known.get(facts.key)
        facts = same if same == facts else facts
        found[facts.key] = facts
    return found


def gone_projects(connection: Connection) -> set[tuple[str, str]]:
    query = select(projects.c.node, projects.c.project).where(projects.c.gone_at.is_not(None))
    return {(node, project) for node, project in connection.execute(query)}


def running_since(connection: Connection) -> dict[ScenarioKey, int]:
    """The scenarios that run now, with the start of their oldest open run that DSS still shows."""
    going_on = and_(runs.c.end.is_(None), runs.c.absent_since.is_(None))
    query = select(*_key(runs), func.min(_ms(runs.c.start))).where(going_on).group_by(*_key(runs))
    return {ScenarioKey(*key): start for *key, start in connection.execute(query)}


def histories(connection: Connection, polled_since: int) -> dict[ScenarioKey, History]:
    """The histories of the scenarios whose last look was begun at or after this moment.

    A look writes runs, totals and ``polled_at`` in one transaction, so a scenario with the same ``polled_at`` as
    before has the same history. One without ended runs and totals is absent.
    """
    last = dict(_last_runs(connection, polled_since))
    good = dict(_last_good(connection, polled_since))
    failures = dict(_failures(connection, polled_since))
    totals = _totals(connection, polled_since)
    return {
        key: History(last.get(key), good.get(key), failures.get(key, 0), tuple(sorted(totals.get(key, ()))))
        for key in last.keys() | totals.keys()
    }


def project_buckets(
    connection: Connection, wanted: Sequence[tuple[str, str]] | None = None
) -> dict[ProjectOutcome, tuple[Bucket, ...]]:
    """The duration buckets of these (node, project) pairs, or of all, by outcome; bounds ascend, +Inf is last."""
    found: dict[ProjectOutcome, list[Bucket]] = {}
    rows = connection.execute(_BUCKETS) if wanted is None else _BUCKETS_OF.rows(connection, wanted)
    for node, project, outcome, le_ms, *rest in rows:
        bound = None if le_ms == INFINITE else le_ms
        found.setdefault(ProjectOutcome(node, project, outcome), []).append(Bucket(bound, *rest))
    return {key: tuple(sorted(buckets, key=_bound)) for key, buckets in found.items()}


def _last_runs(connection: Connection, since: int) -> Iterator[tuple[ScenarioKey, LastRun]]:
    query = _looked(since, runs, runs.c.start == _newest(_ended))
    columns = (runs.c.run_id, _ms(runs.c.start), _ms(runs.c.end), runs.c.outcome, runs.c.baseline)
    for *key, run_id, start, end, outcome, baseline in connection.execute(query.add_columns(*columns)):
        if run_id is not None:
            yield ScenarioKey(*key), LastRun(run_id, start, end, outcome, not baseline)


def _last_good(connection: Connection, since: int) -> Iterator[tuple[ScenarioKey, int]]:
    query = _looked(since, runs, runs.c.start == _newest(_good))
    for *key, end in connection.execute(query.add_columns(_ms(runs.c.end))):
        if end is not None:
            yield ScenarioKey(*key), end


def _failures(connection: Connection, since: int) -> Iterator[tuple[ScenarioKey, int]]:
    failed = and_(_ended(runs), runs.c.outcome.in_(BAD_OUTCOMES))
    after = _ms(runs.c.start) > func.coalesce(_newest(_good), -1)
    query = _looked(since, runs, failed, after).group_by(*_key(scenarios))
    for *key, count in connection.execute(query.add_columns(func.count(runs.c.start))):
        yield ScenarioKey(*key), count


def _totals(connection: Connection, since: int) -> dict[ScenarioKey, list[OutcomeTotal]]:
    found: dict[ScenarioKey, list[OutcomeTotal]] = {}
    columns = outcome_totals.c
    query = _looked(since, outcome_totals).add_columns(columns.outcome, columns.runs, columns.seconds)
    for *key, outcome, count, seconds in connection.execute(query):
        if outcome is not None:
            found.setdefault(ScenarioKey(*key), []).append((outcome, count, seconds))
    return found


def _looked(since: int, table: Table, *conditions: ColumnElement[bool]) -> Rows:
    """The rows of the scenarios that were looked at since then, or nulls.

    An outer join, because without statistics SQLite would begin an inner one with a scan of the larger table.
    """
    return (
        select(*_key(scenarios))
        .select_from(scenarios.outerjoin(table, and_(_same(scenarios, table), *conditions)))
        .where(_ms(scenarios.c.polled_at) >= since, scenarios.c.gone_at.is_(None))
    )


def _newest(kind: Callable[[FromClause], ColumnElement[bool]]) -> ScalarSelect[int]:
    """The start of a scenario's newest run of this kind.

    One step along ``ix_runs_recent`` in most cases. Runs of one scenario do not overlap, so that the newest by start
    is the newest by end.
    """
    other = runs.alias("newest")
    return select(func.max(_ms(other.c.start))).where(_same(scenarios, other), kind(other)).scalar_subquery()


def _ended(table: FromClause) -> ColumnElement[bool]:
    return table.c.end.is_not(None)


def _good(table: FromClause) -> ColumnElement[bool]:
    return and_(_ended(table), table.c.outcome.in_(sorted(GOOD_OUTCOMES)))


def _same(left: FromClause, right: FromClause) -> ColumnElement[bool]:
    return and_(*(left.c[name] == right.c[name] for name in _KEY))


def _key(table: FromClause) -> list[ColumnElement[str]]:
    return [table.c[name] for name in _KEY]


def _ms(column: ColumnElement[datetime] | ColumnElement[datetime | None]) -> ColumnElement[int]:
    return type_coerce(column, BigInteger)


_BUCKETS = select(
    *(duration_buckets.c[name] for name in ("node", "project", "outcome", "le_ms", "runs", "seconds")),
    *(duration_buckets.c[f"exemplar_{name}"] for name in ("scenario", "run", "seconds")),
    _ms(duration_buckets.c.exemplar_at),
)
_BUCKETS_OF = Keyed(_BUCKETS, [duration_buckets.c.node, duration_buckets.c.project])


def _bound(bucket: Bucket) -> float:
    return math.inf if bucket.bound_ms is None else bucket.bound_ms
