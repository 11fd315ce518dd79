"""Rows of runs, upserted by polls, and of what is read about them after their end."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from statistics import median
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Subquery,
    and_,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)

from tocsin.kit.clock import to_ms
from tocsin.model.errors import error_digest
from tocsin.model.run import GOOD_OUTCOMES, Details, Run, RunKey, ScenarioKey
from tocsin.store.schema import outbox, outbox_waits, run_details, runs
from tocsin.store.sql import (
    RUN,
    SCENARIO,
    Keyed,
    bulk_upsert,
    chunks,
    columns,
    equals,
    has_key,
    is_key,
    key_values,
    plain,
    plain_key,
    readable,
    same,
    upsert,
)

USUAL_OF = 20  # good runs
_WEEK_MS = 7 * 86_400_000


class RunRow(msgspec.Struct, frozen=True):
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


class StoredRun(msgspec.Struct, frozen=True):
    """What a poll must know of a run that it may see again. ``run`` is there only while the run is open."""

    run: Run | None
    baseline: bool = False
    end_seen_at: datetime | None = None
    absent_since: datetime | None = None


StoredRuns = dict[tuple[str, datetime], StoredRun]
"""By run id and start."""

_PLACE = columns(runs, *SCENARIO)
_KEY = columns(runs, *RUN)
_OF_RUN = [field.name for field in fields(Run) if field.name not in ("scenario", *RUN)]
_OF_ROW = RunRow.__struct_fields__[1:]
_CHANGING = [name for name in (*_OF_RUN, *_OF_ROW) if name not in ("baseline", "seen_at", "seen_by", "details_tries")]
_UPSERT = bulk_upsert(runs, (*RUN, *_OF_RUN, *_OF_ROW), _CHANGING)
_ROW = select(*_KEY, *columns(runs, *_OF_RUN, *_OF_ROW))
_STORED = Keyed(select(*_KEY, runs.c.baseline, runs.c.end_seen_at), _KEY)
_OPEN = Keyed(_ROW.where(runs.c.end.is_(None)), _PLACE)
_ENDED = Keyed(select(*_KEY).where(or_(runs.c.end.is_not(None), runs.c.absent_since.is_not(None))), _KEY)
_GOOD = runs.c.outcome.in_(sorted(GOOD_OUTCOMES))
_LAST_GOOD = Keyed(select(*_PLACE, func.max(runs.c.end)).where(_GOOD).group_by(*_PLACE), _PLACE)


def put_runs(connection: Connection, rows: Sequence[RunRow]) -> None:
    """Write runs; of known ones only what may still change. ``rows`` names each run once."""
    values = []
    for row in rows:
        run = row.run
        moments = (row.end_seen_at, row.absent_since, row.details_due_at)
        values.append((
            *run.scenario, run.run_id, to_ms(run.start), None if run.end is None else to_ms(run.end), run.outcome,
            run.trigger_type, run.trigger_name, run.fire_id, run.run_as, row.baseline, row.late, to_ms(row.seen_at),
            row.seen_by, *(None if at is None else to_ms(at) for at in moments), row.details_tries,
        ))  # fmt: skip
    _UPSERT.execute(connection, values)


def stored_runs(
    connection: Connection, polled: Sequence[ScenarioKey], seen: Iterable[RunKey]
) -> dict[ScenarioKey, StoredRuns]:
    """Of each scenario the open runs, and those of ``seen`` that are known."""
    stored: dict[ScenarioKey, StoredRuns] = {key: {} for key in polled}
    for *place, run_id, start, baseline, seen_at in _STORED.rows(connection, map(plain_key, seen)):
        stored[ScenarioKey(*place)][run_id, start] = StoredRun(None, baseline, seen_at)
    for row in map(_to_row, _OPEN.rows(connection, polled)):
        run = StoredRun(row.run, row.baseline, row.end_seen_at, row.absent_since)
        stored[row.run.scenario][row.run.run_id, row.run.start] = run
    return stored


def open_runs(connection: Connection, node: str) -> list[RunRow]:
    """The runs of a node that have not been seen to end, the oldest first."""
    query = _ROW.where(runs.c.node == node, runs.c.end.is_(None)).order_by(runs.c.start)
    return list(map(_to_row, connection.execute(query)))


def open_run_keys(connection: Connection, scenarios: Collection[ScenarioKey]) -> dict[ScenarioKey, RunKey]:
    """The run of each scenario that goes on, the latest; absent where none does."""
    rows = (_to_row(row).run for row in _OPEN.rows(connection, scenarios))
    return {run.scenario: run.key for run in sorted(rows, key=lambda run: run.start)}


def ended(connection: Connection, keys: Collection[RunKey]) -> set[RunKey]:
    """Those that are known to have ended, or were taken out of DSS's history while they ran."""
    return _keys(_ENDED, connection, keys)


def last_good(connection: Connection, keys: Collection[ScenarioKey]) -> dict[ScenarioKey, datetime]:
    """When the last good run of each scenario ended, baseline runs too."""
    return {ScenarioKey(*row[:3]): row[3] for row in _LAST_GOOD.rows(connection, keys)}


def newest_run_id(connection: Connection, scenario: ScenarioKey) -> str | None:
    query = select(runs.c.run_id).where(equals(runs, SCENARIO, scenario)).order_by(runs.c.start.desc()).limit(1)
    run_id: str | None = connection.execute(query).scalar_one_or_none()
    return run_id


def _to_row(row: Sequence[Any]) -> RunRow:
    rest = len(_KEY) + len(_OF_RUN)
    return RunRow(Run(ScenarioKey(*row[:3]), *row[3:rest]), *row[rest:])


def _keys(keyed: Keyed, connection: Connection, keys: Iterable[RunKey]) -> set[RunKey]:
    return {RunKey(ScenarioKey(*row[:3]), *row[3:]) for row in keyed.rows(connection, map(plain_key, keys))}


def runs_ended_at(
    connection: Connection, ends: Iterable[tuple[ScenarioKey, datetime]]
) -> dict[tuple[ScenarioKey, datetime], Run]:
    """The run of each scenario that ended at this very moment, if it lasted less than a week."""
    found = (_to_row(row).run for row in _ENDED_AT.rows(connection, set(ends)))
    return {(run.scenario, run.end): run for run in found if run.end is not None}


def _ended_at(keys: Subquery) -> Select[Any]:
    start, at = plain(runs.c.start), keys.c.k3
    return _ROW.join_from(
        keys, runs, and_(is_key(runs, keys), start.between(at - _WEEK_MS, at), plain(runs.c.end) == at)
    )


_ENDED_AT = Keyed(_ended_at, (*_PLACE, runs.c.end))

# --- usual durations --------------------------------------------------------------------------------------------------


def usual_durations(connection: Connection, scenarios: Iterable[ScenarioKey]) -> dict[ScenarioKey, timedelta]:
    """The median duration of each scenario's last good runs; absent for one that has none."""
    return {
        key: timedelta(seconds=median(duration.total_seconds() for duration in durations))
        for key, durations in good_durations(connection, scenarios).items()
    }


def good_durations(connection: Connection, scenarios: Iterable[ScenarioKey]) -> dict[ScenarioKey, list[timedelta]]:
    """The durations of each scenario's last 20 good runs, baseline runs too, the newest first; absent where none is."""
    by_scenario: dict[ScenarioKey, list[timedelta]] = {}
    for *place, milliseconds in _DURATIONS.rows(connection, set(scenarios)):
        durations = by_scenario.setdefault(ScenarioKey(*place), [])
        if len(durations) < USUAL_OF:
            durations.append(timedelta(milliseconds=max(milliseconds, 0)))
    return by_scenario


def _durations(keys: Subquery) -> Select[Any]:
    """Two walks along the primary key for each scenario: to the oldest run that counts, and back from it."""

    def good(table: FromClause) -> ColumnElement[bool]:
        is_good = table.c.outcome.in_(sorted(GOOD_OUTCOMES))
        return and_(is_key(table, keys), table.c.end.is_not(None), is_good)

    other = runs.alias()
    oldest = select(plain(other.c.start)).where(good(other)).order_by(other.c.start.desc())
    oldest_start = oldest.limit(1).offset(USUAL_OF - 1).correlate(keys).scalar_subquery()
    return (
        select(*_PLACE, plain(runs.c.end) - plain(runs.c.start))
        .join_from(keys, runs, good(runs))
        .where(plain(runs.c.start) >= func.coalesce(oldest_start, plain(runs.c.start)))
        .order_by(runs.c.start.desc())
    )


_DURATIONS = Keyed(_durations, _PLACE)

# --- details ----------------------------------------------------------------------------------------------------------

_DETAILS = [field.name for field in fields(Details) if field.name != "run"]
_DETAILS_KEY = columns(run_details, *RUN)
_DETAILS_OF = Keyed(select(*map(plain, _DETAILS_KEY), *columns(run_details, *_DETAILS)), _DETAILS_KEY)
_SINCE_END = exists().where(same(runs, run_details, RUN), runs.c.end_seen_at > run_details.c.read_at)
_WITH_DETAILS = Keyed(select(*_DETAILS_KEY).where(~_SINCE_END), _DETAILS_KEY)
_AWAITED = Keyed(select(*_KEY).where(runs.c.details_due_at.is_not(None)), _KEY)


def details_due(connection: Connection, node: str, limit: int) -> list[RunRow]:
    """The runs whose details are still to be read, the most urgent first."""
    of_node = func.coalesce(runs.c.node, "") == node  # hidden from the planner: the index of due details is far smaller
    query = _ROW.where(of_node, runs.c.details_due_at.is_not(None))
    return list(map(_to_row, connection.execute(query.order_by(runs.c.details_due_at).limit(limit))))


def details_due_while_running(connection: Connection, node: str) -> list[RunKey]:
    """The open runs whose details a rule asks for."""
    query = select(*_KEY).where(runs.c.node == node, runs.c.end.is_(None), runs.c.details_due_at.is_not(None))
    return [RunKey(ScenarioKey(*row[:3]), *row[3:]) for row in connection.execute(query)]


def plan_details(connection: Connection, run: RunKey, due_at: datetime | None, tries: int) -> None:
    """When to read a run's details next; None: no more."""
    connection.execute(update(runs).where(has_key(runs, run)).values(details_due_at=due_at, details_tries=tries))


def ask_details(connection: Connection, keys: Sequence[RunKey], now: datetime) -> None:
    """Have the details of these runs read while they go on."""
    if keys:
        asked = update(runs).where(has_key(runs)).values(details_due_at=now, details_tries=0)
        connection.execute(asked, [key_values(runs, key, "key_") for key in keys])


def put_details(connection: Connection, details: Details) -> None:
    """Write a run's details over older ones, and let the notifications that waited for them go."""
    row = key_values(run_details, details.run) | {name: getattr(details, name) for name in _DETAILS}
    upsert(connection, run_details, [row | {"fingerprint": error_digest(details.error)}], (*_DETAILS, "fingerprint"))
    release_waiting(connection, details.run, details.read_at)


def release_waiting(connection: Connection, run: RunKey, now: datetime) -> None:
    """Let the notifications that wait for a run's details go, whether they were read or not."""
    waited = list(
        connection.execute(
            delete(outbox_waits).where(equals(outbox_waits, RUN, run)).returning(outbox_waits.c.notification_id)
        ).scalars()
    )
    still_waits = exists().where(outbox_waits.c.notification_id == outbox.c.id)
    for part in chunks(waited):
        due_later = (outbox.c.id.in_(part), ~still_waits, outbox.c.due_at > now)
        connection.execute(update(outbox).where(*due_later).values(due_at=now))


def get_details(connection: Connection, runs: Iterable[RunKey]) -> dict[RunKey, Details]:
    """What is known about these runs; a run without a row is absent."""
    by_key = {(*run.scenario, run.run_id, to_ms(run.start)): run for run in runs}
    rows = _DETAILS_OF.rows(connection, by_key)
    known = readable(connection, run_details, rows, lambda row: Details(by_key[row[:5]], *row[5:]))
    return {details.run: details for details in known}


def with_details(connection: Connection, runs: Iterable[RunKey]) -> set[RunKey]:
    """Those of these runs whose details were read, of ended ones after their end."""
    return _keys(_WITH_DETAILS, connection, runs)


def awaited_by_node(connection: Connection) -> dict[str, int]:
    """How many runs of each node have details that are still to be read."""
    query = select(runs.c.node, func.count()).where(runs.c.details_due_at.is_not(None)).group_by(runs.c.node)
    return {row[0]: row[1] for row in connection.execute(query)}


def awaiting_details(connection: Connection, runs: Iterable[RunKey]) -> set[RunKey]:
    """Those of these runs whose details are due and not read yet."""
    return _keys(_AWAITED, connection, runs)
