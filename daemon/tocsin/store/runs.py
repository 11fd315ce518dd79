"""Rows of runs: upserted by looks, read by everybody, pruned behind a watermark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, and_, bindparam, delete, or_, select, tuple_, update

from tocsin.model.run import Run, RunKey, ScenarioKey
from tocsin.store.details import run_columns
from tocsin.store.schema import runs, scenarios
from tocsin.store.upsert import chunks, insert

_KEY = ("node", "project", "scenario", "run_id", "start")
_PLACE = ("node", "project", "scenario")
_SLOTS = 25


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
    if not rows:
        return
    statement = insert(connection, runs)
    kept = {*_KEY, "baseline", "seen_at", "seen_by", "details_tries"}
    changing = {c.name: statement.excluded[c.name] for c in runs.columns if c.name not in kept}
    connection.execute(
        statement.on_conflict_do_update(index_elements=list(_KEY), set_=changing),
        [_columns(row) for row in rows],
    )


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
    connection: Connection, wanted: Sequence[tuple[ScenarioKey, datetime]]
) -> dict[ScenarioKey, Known]:
    """Of each scenario the open runs and those that started at or after the given moment."""
    found: dict[ScenarioKey, Known] = {key: {} for key, _ in wanted}
    for part in chunks(wanted, _SLOTS):
        padded = [*part, *[part[-1]] * (_SLOTS - len(part))] if len(part) > 1 else part
        values: dict[str, object] = {}
        for slot, (key, since) in enumerate(padded):
            values |= {
                f"n{slot}": key.node,
                f"p{slot}": key.project,
                f"s{slot}": key.scenario,
                f"t{slot}": since,
            }
        for node, project, scenario, run_id, start, baseline, seen in connection.execute(
            _ended(len(padded)), values
        ):
            known = KnownRun(None, baseline, seen)
            found[ScenarioKey(node, project, scenario)][run_id, start] = known
    place = tuple_(*(runs.c[name] for name in _PLACE))
    for keys in chunks(list(found), 200):
        query = select(runs).where(place.in_(keys), runs.c.end.is_(None))
        for row in map(_row, connection.execute(query).mappings()):
            known = KnownRun(row.run, row.baseline, row.end_seen_at, row.absent_since)
            found[row.run.scenario][row.run.run_id, row.run.start] = known
    return found


@lru_cache(maxsize=2)
def _ended(slots: int) -> Select[tuple[Any, ...]]:
    """One statement for so many scenarios, built once: building costs more than running."""
    terms = [
        and_(
            runs.c.node == bindparam(f"n{slot}"),
            runs.c.project == bindparam(f"p{slot}"),
            runs.c.scenario == bindparam(f"s{slot}"),
            runs.c.start >= bindparam(f"t{slot}"),
        )
        for slot in range(slots)
    ]
    columns = (*(runs.c[name] for name in _KEY), runs.c.baseline, runs.c.end_seen_at)
    return select(*columns).where(or_(*terms), runs.c.end.is_not(None))


def open_runs(connection: Connection, node: str) -> list[RunRow]:
    """The runs of a node that have not been seen to end, the oldest first."""
    query = select(runs).where(runs.c.node == node, runs.c.end.is_(None)).order_by(runs.c.start)
    return [_row(row) for row in connection.execute(query).mappings()]


def recent_runs(connection: Connection, key: ScenarioKey, limit: int) -> list[RunRow]:
    """A scenario's last runs, the newest first."""
    mine = [runs.c[name] == value for name, value in zip(_PLACE, key, strict=True)]
    query = select(runs).where(*mine).order_by(runs.c.start.desc()).limit(limit)
    return [_row(row) for row in connection.execute(query).mappings()]


# --- details ---------------------------------------------------------------------------------------------------------


def details_due(connection: Connection, node: str, limit: int) -> list[RunRow]:
    """The runs whose details are still owed, the most urgent first."""
    query = (
        select(runs)
        .where(runs.c.node == node, runs.c.details_due_at.is_not(None))
        .order_by(runs.c.details_due_at)
        .limit(limit)
    )
    return [_row(row) for row in connection.execute(query).mappings()]


def plan_details(connection: Connection, run: RunKey, due_at: datetime | None, tries: int) -> None:
    """When to read a run's details next; None: no more."""
    mine = [runs.c[name] == value for name, value in run_columns(run).items()]
    connection.execute(update(runs).where(*mine).values(details_due_at=due_at, details_tries=tries))


# --- pruning ---------------------------------------------------------------------------------------------------------


def prune_runs(connection: Connection, before: datetime, keep: int, limit: int) -> int:
    """Delete up to ``limit`` runs that ended before ``before``, but the ``keep`` newest of each scenario.

    Raises each scenario's watermark over what goes, so that DSS showing it again makes no event. Answers how many.
    """
    newer = runs.alias("newer")
    same = [newer.c[name] == runs.c[name] for name in _PLACE]
    crowd = (
        select(newer.c.start).where(*same, newer.c.start > runs.c.start).offset(keep - 1).limit(1).exists()
    )
    query = select(*(runs.c[name] for name in _KEY)).where(runs.c.end < before, crowd).order_by(runs.c.end)
    gone = list(connection.execute(query.limit(limit)))
    newest: dict[tuple[str, ...], datetime] = {}
    for *place_, _run_id, start in gone:
        mine = tuple(place_)
        newest[mine] = max(start, newest.get(mine, start))
    _raise_watermarks(connection, newest)
    for part in chunks(gone, 200):
        key = tuple_(*(runs.c[name] for name in _KEY))
        connection.execute(delete(runs).where(key.in_([tuple(row) for row in part])))
    return len(gone)


def _raise_watermarks(connection: Connection, newest: Mapping[tuple[str, ...], datetime]) -> None:
    if not newest:
        return
    mine = [scenarios.c[name] == bindparam(f"key_{name}") for name in _PLACE]
    above = bindparam("above", type_=scenarios.c.watermark.type)
    statement = update(scenarios).where(*mine, scenarios.c.watermark < above).values(watermark=above)
    after = [
        dict(zip((f"key_{name}" for name in _PLACE), key, strict=True)) | {"above": _just_after(start)}
        for key, start in newest.items()
    ]
    connection.execute(statement, after)


def _just_after(moment: datetime) -> datetime:
    return moment + datetime.resolution * 1000


# --- rows ------------------------------------------------------------------------------------------------------------


def _columns(row: RunRow) -> dict[str, object]:
    run = row.run
    return {
        "node": run.scenario.node,
        "project": run.scenario.project,
        "scenario": run.scenario.scenario,
        "run_id": run.run_id,
        "start": run.start,
        "end": run.end,
        "outcome": run.outcome,
        "trigger_type": run.trigger_type,
        "trigger_name": run.trigger_name,
        "fire_id": run.fire_id,
        "run_as": run.run_as,
        "baseline": row.baseline,
        "late": row.late,
        "seen_at": row.seen_at,
        "seen_by": row.seen_by,
        "end_seen_at": row.end_seen_at,
        "absent_since": row.absent_since,
        "details_due_at": row.details_due_at,
        "details_tries": row.details_tries,
    }


def _row(fields: RowMapping) -> RunRow:
    run = Run(
        ScenarioKey(fields["node"], fields["project"], fields["scenario"]),
        *(fields[name] for name in ("run_id", "start", "end", "outcome")),
        *(fields[name] for name in ("trigger_type", "trigger_name", "fire_id", "run_as")),
    )
    names = ("seen_at", "seen_by", "end_seen_at", "absent_since", "details_due_at", "details_tries")
    return RunRow(run, fields["baseline"], fields["late"], *(fields[name] for name in names))
