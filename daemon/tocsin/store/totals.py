"""Counts and durations of ended runs: they outlive the runs that they count.

Written in the transaction that writes a run's end event, and only for events that were new; so a run counts once,
however often it is seen.
"""

import zlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, literal, select

from tocsin.model.run import Run
from tocsin.store.schema import counters, duration_buckets, outcome_totals
from tocsin.store.sql import upsert

INFINITE = -1
"""``le_ms`` of the last bucket, which has no bound."""
FORMER = -2
"""``le_ms`` of runs that were counted under other bounds: they count, in no bucket."""
_LAYOUT = "duration_layout"


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


def layout(connection: Connection) -> int | None:
    """A number that stands for the bounds under which durations are counted now; None before the first."""
    return connection.execute(select(counters.c.value).where(counters.c.name == _LAYOUT)).scalar_one_or_none()


def lay_out(connection: Connection, bounds: Sequence[float]) -> None:
    """Begin every histogram anew if the runs so far were counted under other bounds; how many they were stays known."""
    known, wanted = layout(connection), zlib.crc32(repr([float(bound) for bound in bounds]).encode())
    if known == wanted:
        return
    if known is not None:
        place = [duration_buckets.c[name] for name in ("node", "project", "outcome")]
        sums = [func.sum(duration_buckets.c[name]).label(name) for name in ("runs", "seconds")]
        query = select(*place, literal(FORMER).label("le_ms"), *sums).group_by(*place)
        former = [dict(row) for row in connection.execute(query).mappings()]
        connection.execute(delete(duration_buckets))
        upsert(connection, duration_buckets, former, added=("runs", "seconds"))
    upsert(connection, counters, [{"name": _LAYOUT, "value": wanted}], ("value",))


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
