"""Counts and durations of ended runs: they outlive the runs that they count.

Written in the transaction that writes a run's end event, and only for events that were new; so a run counts once,
however often it is seen.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from tocsin.model.run import Run
from tocsin.store.schema import duration_buckets, outcome_totals
from tocsin.store.upsert import upsert

INFINITE = -1
"""``le_ms`` of the last bucket, which has no bound."""


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One run of a bucket, to look at."""

    scenario: str
    run_id: str
    seconds: float
    at: datetime


@dataclass(slots=True)
class _Sum:
    runs: int = 0
    seconds: float = 0.0
    exemplar: Exemplar | None = None


def count_runs(connection: Connection, ended: Iterable[Run], bounds: Sequence[float]) -> None:
    """Add ended runs to the totals of their scenario and to the histogram of their project.

    ``bounds`` are the histogram's upper bounds in seconds, ascending. A run without an outcome counts as UNKNOWN.
    """
    totals: dict[tuple[str, ...], _Sum] = {}
    buckets: dict[tuple[str, str, str, int], _Sum] = {}
    for run in ended:
        if run.end is None or run.duration is None:
            continue
        node, project, scenario = run.scenario
        seconds, outcome = run.duration.total_seconds(), run.outcome or "UNKNOWN"
        place = bisect_left(bounds, seconds)
        le_ms = round(bounds[place] * 1000) if place < len(bounds) else INFINITE
        for sum_ in (
            totals.setdefault((node, project, scenario, outcome), _Sum()),
            buckets.setdefault((node, project, outcome, le_ms), _Sum()),
        ):
            sum_.runs += 1
            sum_.seconds += seconds
            sum_.exemplar = Exemplar(scenario, run.run_id, seconds, run.end)
    _add_totals(connection, totals)
    _add_buckets(connection, buckets)


def _add_totals(connection: Connection, totals: Mapping[tuple[str, ...], _Sum]) -> None:
    names = ("node", "project", "scenario", "outcome")
    rows = [
        dict(zip(names, key, strict=True)) | {"runs": sum_.runs, "seconds": sum_.seconds}
        for key, sum_ in sorted(totals.items())
    ]
    upsert(connection, outcome_totals, rows, added=("runs", "seconds"))


def _add_buckets(connection: Connection, buckets: Mapping[tuple[str, str, str, int], _Sum]) -> None:
    names = ("node", "project", "outcome", "le_ms")
    exemplar = ("exemplar_scenario", "exemplar_run", "exemplar_seconds", "exemplar_at")
    rows = []
    for key, sum_ in sorted(buckets.items()):
        assert sum_.exemplar is not None
        told = sum_.exemplar
        values = (sum_.runs, sum_.seconds, told.scenario, told.run_id, told.seconds, told.at)
        rows.append(dict(zip((*names, "runs", "seconds", *exemplar), (*key, *values), strict=True)))
    upsert(connection, duration_buckets, rows, exemplar, added=("runs", "seconds"))
