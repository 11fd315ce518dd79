"""Rows of what is read about a run after its end."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, select, tuple_, update

from tocsin.kit.clock import to_ms
from tocsin.model.run import Details, RunKey, ScenarioKey
from tocsin.store.schema import outbox, outbox_waits, run_details, runs
from tocsin.store.sql import Keyed, chunks, readable, upsert

_KEY = ("node", "project", "scenario", "run_id", "start")
_DETAILS_KEY = [run_details.c[name] for name in _KEY]
_RUNS_KEY = [runs.c[name] for name in _KEY]
_WITH_DETAILS = Keyed(select(*_DETAILS_KEY), _DETAILS_KEY)
_AWAITED = Keyed(select(*_RUNS_KEY).where(runs.c.details_due_at.is_not(None)), _RUNS_KEY)


def put_details(connection: Connection, details: Details) -> None:
    """Write a run's details over older ones, and let the notifications that waited for them go."""
    row = run_columns(details.run) | {
        "read_at": details.read_at,
        "error": details.error,
        "steps": details.steps,
        "log_tail": details.log_tail,
        "problem": details.problem,
    }
    upsert(connection, run_details, [row], ("read_at", "error", "steps", "log_tail", "problem"))
    _release(connection, details)


def get_details(connection: Connection, runs: Iterable[RunKey]) -> dict[RunKey, Details]:
    """What is known about these runs; a run without a row is absent."""
    wanted = {(*run.scenario, run.run_id, to_ms(run.start)): run for run in runs}
    key = tuple_(*(run_details.c[name] for name in _KEY))

    def details(row: Row[Any]) -> tuple[RunKey, Details]:
        run = wanted[row.node, row.project, row.scenario, row.run_id, to_ms(row.start)]
        return run, Details(run, row.read_at, row.error, row.steps, row.log_tail, row.problem)

    found: dict[RunKey, Details] = {}
    for part in chunks(list(wanted.values()), 100):
        places = [(*run.scenario, run.run_id, run.start) for run in part]
        rows = connection.execute(select(run_details).where(key.in_(places)))
        found.update(readable(connection, run_details, rows, details))
    return found


def with_details(connection: Connection, runs: Iterable[RunKey]) -> set[RunKey]:
    """Those of these runs whose details were read."""
    return _keys(_WITH_DETAILS, connection, runs)


def awaited(connection: Connection, wanted: Iterable[RunKey]) -> set[RunKey]:
    """Those of these runs whose details are due and not read yet."""
    return _keys(_AWAITED, connection, wanted)


def _keys(keyed: Keyed, connection: Connection, wanted: Iterable[RunKey]) -> set[RunKey]:
    rows = keyed.rows(connection, [(*run.scenario, run.run_id, run.start) for run in wanted])
    return {RunKey(ScenarioKey(*row[:3]), row[3], row[4]) for row in rows}


def run_columns(run: RunKey) -> dict[str, object]:
    """A run's key as the columns that name it in every table."""
    node, project, scenario = run.scenario
    return {"node": node, "project": project, "scenario": scenario, "run_id": run.run_id, "start": run.start}


def _release(connection: Connection, details: Details) -> None:
    mine = [outbox_waits.c[name] == value for name, value in run_columns(details.run).items()]
    waiting = connection.execute(delete(outbox_waits).where(*mine).returning(outbox_waits.c.notification_id))
    ids = list(waiting.scalars())
    if not ids:
        return
    still = exists().where(outbox_waits.c.notification_id == outbox.c.id)
    for part in chunks(ids):
        connection.execute(
            update(outbox)
            .where(outbox.c.id.in_(part), ~still, outbox.c.due_at > details.read_at)
            .values(due_at=details.read_at)
        )
