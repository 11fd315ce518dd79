"""Rows of runs: upserted by looks, read by everybody."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from tocsin.model.run import Run, RunKey, ScenarioKey
from tocsin.store.details import run_columns
from tocsin.store.schema import runs
from tocsin.store.sql import Keyed, upsert

_KEY = [runs.c[name] for name in ("node", "project", "scenario", "run_id", "start")]
_RUN = [runs.c[name] for name in ("end", "outcome", "trigger_type", "trigger_name", "fire_id", "run_as")]
_SEEN = [
    runs.c[name]
    for name in (
        *("baseline", "late", "seen_at", "seen_by", "end_seen_at"),
        *("absent_since", "details_due_at", "details_tries"),
    )
]
_ROW = select(*_KEY, *_RUN, *_SEEN)


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run with what Tocsin knows about having seen it."""

    run: Run
    baseline: bool
    late: bool
    seen_at: datetime
    seen_by: str | None = None
    end_seen_at: datetime | None = None
    absent_since: datetime | None = None
    details_due_at: datetime | None = None
    details_tries: int = 0


def put_runs(connection: Connection, rows: Sequence[RunRow]) -> None:
    """Write runs; of known ones only what may still change. ``rows`` names each run once."""
    kept = {"baseline", "seen_at", "seen_by", "details_tries"}
    changing = [column.name for column in (*_RUN, *_SEEN) if column.name not in kept]
    upsert(connection, runs, [_columns(row) for row in rows], changing)


@dataclass(frozen=True, slots=True)
class KnownRun:
    """What a look must know of a run that it may see again. ``run`` is there only while the run is open."""

    run: Run | None
    baseline: bool = False
    end_seen_at: datetime | None = None
    absent_since: datetime | None = None


Known = dict[tuple[str, datetime], KnownRun]
"""By run id and start."""


def known_runs(
    connection: Connection, looked: Sequence[ScenarioKey], seen: Iterable[RunKey]
) -> dict[ScenarioKey, Known]:
    """Of each scenario the open runs, and those of ``seen`` that are known."""
    found: dict[ScenarioKey, Known] = {key: {} for key in looked}
    keys = ((*run.scenario, run.run_id, run.start) for run in seen)
    for *place, run_id, start, baseline, seen_at in _KNOWN.rows(connection, keys):
        found[ScenarioKey(*place)][run_id, start] = KnownRun(None, baseline, seen_at)
    for row in map(_row, _OPEN.rows(connection, looked)):
        known = KnownRun(row.run, row.baseline, row.end_seen_at, row.absent_since)
        found[row.run.scenario][row.run.run_id, row.run.start] = known
    return found


_KNOWN = Keyed(select(*_KEY, runs.c.baseline, runs.c.end_seen_at), _KEY)
_OPEN = Keyed(_ROW.where(runs.c.end.is_(None)), _KEY[:3])


def open_runs(connection: Connection, node: str) -> list[RunRow]:
    """The runs of a node that have not been seen to end, the oldest first."""
    query = _ROW.where(runs.c.node == node, runs.c.end.is_(None)).order_by(runs.c.start)
    return [_row(row) for row in connection.execute(query)]


# --- details ---------------------------------------------------------------------------------------------------------


def details_due(connection: Connection, node: str, limit: int) -> list[RunRow]:
    """The runs whose details are still owed, the most urgent first."""
    mine = _ROW.where(runs.c.node == node, runs.c.details_due_at.is_not(None))
    return [_row(row) for row in connection.execute(mine.order_by(runs.c.details_due_at).limit(limit))]


def plan_details(connection: Connection, run: RunKey, due_at: datetime | None, tries: int) -> None:
    """When to read a run's details next; None: no more."""
    mine = [runs.c[name] == value for name, value in run_columns(run).items()]
    connection.execute(update(runs).where(*mine).values(details_due_at=due_at, details_tries=tries))


# --- rows ------------------------------------------------------------------------------------------------------------


def _columns(row: RunRow) -> dict[str, object]:
    values = {column.name: getattr(row.run, column.name) for column in _RUN}
    return run_columns(row.run.key) | values | {column.name: getattr(row, column.name) for column in _SEEN}


def _row(values: Sequence[Any]) -> RunRow:
    node, project, scenario, *run = values[: len(_KEY) + len(_RUN)]
    return RunRow(Run(ScenarioKey(node, project, scenario), *run), *values[len(_KEY) + len(_RUN) :])
