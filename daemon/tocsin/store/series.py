"""What the metrics are made of: totals of ended runs, which outlive the runs, and whole tables read in few statements.

These readings return plain numbers, times as epoch milliseconds, since ten thousand scenarios are read every few
seconds and nearly all of their columns go straight into a sample. What depends on a scenario's runs can be asked for a
few scenarios only.
"""

import math
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from sys import intern
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    ScalarSelect,
    Select,
    Table,
    Text,
    and_,
    delete,
    func,
    literal,
    select,
    type_coerce,
)

from tocsin.kit.clock import to_ms
from tocsin.model.run import BAD_OUTCOMES, GOOD_OUTCOMES, Run, ScenarioKey
from tocsin.store.schema import Document, counters, duration_buckets, nodes, outcome_totals, projects, runs, scenarios
from tocsin.store.sql import SCENARIO, Keyed, bulk_upsert, columns, plain, same, shared_key, upsert

INFINITE = -1
"""``le_ms`` of the last bucket, which has no bound."""
FORMER = -2
"""``le_ms`` of runs that were counted under other bounds: they count, in no bucket."""
_LAYOUT = "duration_layout"
_SUMS = ("runs", "seconds")
_EXEMPLAR = ("exemplar_scenario", "exemplar_run", "exemplar_seconds", "exemplar_at")
_BATCH = 500
_TAGS: Document = scenarios.c.tags.type  # type: ignore[assignment] # its own type
Rows = Select[*tuple[Any, ...]]


class NodeFacts(NamedTuple):
    """One node; ``up`` is None until its first answer or failure."""

    node: str
    up: bool | None
    discovered: bool
    version: str | None
    type: str | None


class ScenarioSample(NamedTuple):
    """What the row of one watched scenario tells; times in epoch milliseconds."""

    key: ScenarioKey
    watched_since: int
    polled_at: int | None
    active: bool | None
    next_run: int | None
    reporter_failures: int
    name: str
    type: str | None
    tags: str  # as JSON

    def read_tags(self) -> tuple[str, ...]:
        found = _TAGS.read(self.tags)
        return found if isinstance(found, tuple) else ()


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
class RunHistory:
    """What a scenario's runs and totals tell. ``failures`` counts FAILED and UNKNOWN runs since the last good one."""

    last: LastRun | None = None
    last_good: int | None = None
    failures: int = 0
    totals: tuple[OutcomeTotal, ...] = ()


class Bucket(NamedTuple):
    """One bucket of a project's durations, not cumulated; ``bound_ms`` is None for +Inf, or ``FORMER``."""

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
    known = (nodes.c.node, nodes.c.up, nodes.c.last_discovery_at.is_not(None), nodes.c.dss_version, nodes.c.node_type)
    rows = connection.execute(select(*known).order_by(nodes.c.node))
    return [NodeFacts(node, up, bool(discovered), *of_dss) for node, up, discovered, *of_dss in rows]


def scenario_samples(
    connection: Connection, known: Mapping[ScenarioKey, ScenarioSample]
) -> dict[ScenarioKey, ScenarioSample]:
    """Every scenario that is not gone, the longest watched first.

    Those that are as ``known`` are the same objects again, and rows are dropped as they come: ten thousand new
    objects every few seconds would make the garbage collector stop the process for long moments.
    """
    query = (
        select(
            *columns(scenarios, *SCENARIO),
            plain(scenarios.c.watched_since),
            plain(scenarios.c.polled_at),
            scenarios.c.active,
            plain(scenarios.c.next_run),
            scenarios.c.reporter_failures,
            scenarios.c.name,
            scenarios.c.type,
            type_coerce(scenarios.c.tags, Text),
        )
        .where(scenarios.c.gone_at.is_(None))
        .order_by(scenarios.c.watched_since, *columns(scenarios, *SCENARIO))
        .execution_options(yield_per=_BATCH)
    )
    found: dict[ScenarioKey, ScenarioSample] = {}
    for node, project, scenario, *rest in connection.execute(query):
        facts = ScenarioSample(shared_key(node, project, scenario), *rest)
        before = known.get(facts.key)
        facts = before if before == facts else facts
        found[facts.key] = facts
    return found


def gone_projects(connection: Connection) -> set[tuple[str, str]]:
    query = select(projects.c.node, projects.c.project).where(projects.c.gone_at.is_not(None))
    return {(node, project) for node, project in connection.execute(query)}


def running_since(connection: Connection) -> dict[ScenarioKey, int]:
    """The scenarios that run now, with the start of their oldest open run that DSS still shows."""
    going_on = and_(runs.c.end.is_(None), runs.c.absent_since.is_(None))
    query = (
        select(*columns(runs, *SCENARIO), func.min(plain(runs.c.start)))
        .where(going_on)
        .group_by(*columns(runs, *SCENARIO))
    )
    return {shared_key(*key): start for *key, start in connection.execute(query)}


def histories(connection: Connection, polled_since: int) -> dict[ScenarioKey, RunHistory]:
    """The histories of the scenarios whose last poll was begun at or after this moment.

    A poll writes runs, totals and ``polled_at`` in one transaction, so a scenario with the same ``polled_at`` as
    before has the same history. One without ended runs and totals is absent.
    """
    last = dict(_last_runs(connection, polled_since))
    good = dict(_last_good(connection, polled_since))
    failures = dict(_failures(connection, polled_since))
    totals = _totals(connection, polled_since)
    return {
        key: RunHistory(last.get(key), good.get(key), failures.get(key, 0), tuple(sorted(totals.get(key, ()))))
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
    return {
        key: tuple(sorted(buckets, key=lambda bucket: math.inf if bucket.bound_ms is None else bucket.bound_ms))
        for key, buckets in found.items()
    }


def _last_runs(connection: Connection, since: int) -> Iterator[tuple[ScenarioKey, LastRun]]:
    query = _polled(since, runs, runs.c.start == _newest(_ended))
    last = (runs.c.run_id, plain(runs.c.start), plain(runs.c.end), runs.c.outcome, runs.c.baseline)
    for *key, run_id, start, end, outcome, baseline in connection.execute(query.add_columns(*last)):
        if run_id is not None:
            yield shared_key(*key), LastRun(run_id, start, end, outcome and intern(outcome), not baseline)


def _last_good(connection: Connection, since: int) -> Iterator[tuple[ScenarioKey, int]]:
    query = _polled(since, runs, runs.c.start == _newest(_good))
    for *key, end in connection.execute(query.add_columns(plain(runs.c.end))):
        if end is not None:
            yield shared_key(*key), end


def _failures(connection: Connection, since: int) -> Iterator[tuple[ScenarioKey, int]]:
    failed = and_(_ended(runs), runs.c.outcome.in_(BAD_OUTCOMES))
    after = plain(runs.c.start) > func.coalesce(_newest(_good), -1)
    query = _polled(since, runs, failed, after).group_by(*columns(scenarios, *SCENARIO))
    for *key, count in connection.execute(query.add_columns(func.count(runs.c.start))):
        yield shared_key(*key), count


def _totals(connection: Connection, since: int) -> dict[ScenarioKey, list[OutcomeTotal]]:
    found: dict[ScenarioKey, list[OutcomeTotal]] = {}
    query = _polled(since, outcome_totals).add_columns(*columns(outcome_totals, "outcome", "runs", "seconds"))
    for *key, outcome, count, seconds in connection.execute(query):
        if outcome is not None:
            found.setdefault(shared_key(*key), []).append((intern(outcome), count, seconds))
    return found


def _polled(since: int, table: Table, *conditions: ColumnElement[bool]) -> Rows:
    """The rows of the scenarios that were polled since then, or nulls.

    An outer join, because without statistics SQLite would begin an inner one with a scan of the larger table.
    """
    return (
        select(*columns(scenarios, *SCENARIO))
        .select_from(scenarios.outerjoin(table, and_(same(scenarios, table), *conditions)))
        .where(plain(scenarios.c.polled_at) >= since, scenarios.c.gone_at.is_(None))
    )


def _newest(kind: Callable[[FromClause], ColumnElement[bool]]) -> ScalarSelect[int]:
    """The start of a scenario's newest run of this kind.

    One step along the primary key in most cases. Runs of one scenario do not overlap, so that the newest by start
    is the newest by end.
    """
    other = runs.alias("newest")
    return select(func.max(plain(other.c.start))).where(same(scenarios, other), kind(other)).scalar_subquery()


def _ended(table: FromClause) -> ColumnElement[bool]:
    ended: ColumnElement[bool] = table.c.end.is_not(None)
    return ended


def _good(table: FromClause) -> ColumnElement[bool]:
    return and_(_ended(table), table.c.outcome.in_(sorted(GOOD_OUTCOMES)))


_BUCKETS = select(
    *columns(duration_buckets, "node", "project", "outcome", "le_ms", *_SUMS, *_EXEMPLAR[:3]),
    plain(duration_buckets.c.exemplar_at),
)
_BUCKETS_OF = Keyed(_BUCKETS, [duration_buckets.c.node, duration_buckets.c.project])


# --- totals -----------------------------------------------------------------------------------------------------------


def bucket_layout(connection: Connection) -> int | None:
    """A number that stands for the bounds under which durations are counted now; None before the first."""
    return connection.execute(select(counters.c.value).where(counters.c.name == _LAYOUT)).scalar_one_or_none()


def set_bucket_layout(connection: Connection, bounds: Sequence[float]) -> None:
    """Begin every histogram anew if the runs so far were counted under other bounds; how many they were stays known."""
    known, new = bucket_layout(connection), zlib.crc32(repr([float(bound) for bound in bounds]).encode())
    if known == new:
        return
    if known is not None:
        place = columns(duration_buckets, "node", "project", "outcome")
        sums = [func.sum(duration_buckets.c[name]).label(name) for name in _SUMS]
        query = select(*place, literal(FORMER).label("le_ms"), *sums).group_by(*place)
        former = [dict(row) for row in connection.execute(query).mappings()]
        connection.execute(delete(duration_buckets))
        upsert(connection, duration_buckets, former, added=_SUMS)
    upsert(connection, counters, [{"name": _LAYOUT, "value": new}], ("value",))


def count_runs(connection: Connection, ended: Iterable[Run], bounds: Sequence[float]) -> None:
    """Add ended runs to the totals of their scenario and to the histogram of their project.

    Called in the transaction that writes a run's end event, and only for events that were new, so a run counts once.
    ``bounds`` are the histogram's upper bounds in seconds, ascending. A run without an outcome counts as UNKNOWN.
    """
    totals: dict[tuple[str, ...], list[float]] = {}
    buckets: dict[tuple[object, ...], list[Any]] = {}
    for run in ended:
        if run.end is None or run.duration is None:
            continue
        node, project, scenario = run.scenario
        seconds, outcome = run.duration.total_seconds(), run.outcome or "UNKNOWN"
        index = bisect_left(bounds, seconds)
        le_ms = round(bounds[index] * 1000) if index < len(bounds) else INFINITE
        total = totals.setdefault((node, project, scenario, outcome), [0, 0.0])
        bucket = buckets.setdefault((node, project, outcome, le_ms), [0, 0.0])
        for sums in (total, bucket):
            sums[0] += 1
            sums[1] += seconds
        bucket[2:] = scenario, run.run_id, seconds, to_ms(run.end)
    _ADD_TOTALS.execute(connection, [(*key, *totals[key]) for key in sorted(totals)])
    _ADD_BUCKETS.execute(connection, [(*key, *values) for key, values in sorted(buckets.items(), key=itemgetter(0))])


_ADD_TOTALS = bulk_upsert(outcome_totals, (*SCENARIO, "outcome", *_SUMS), added=_SUMS)
_BUCKET_KEY = ("node", "project", "outcome", "le_ms")
_ADD_BUCKETS = bulk_upsert(duration_buckets, (*_BUCKET_KEY, *_SUMS, *_EXEMPLAR), _EXEMPLAR, added=_SUMS)
