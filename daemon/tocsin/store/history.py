"""What a scenario usually does, from its rows."""

from collections.abc import Iterable
from datetime import timedelta
from statistics import median
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Subquery,
    and_,
    func,
    select,
    type_coerce,
)

from tocsin.model.run import GOOD_OUTCOMES, ScenarioKey
from tocsin.store.schema import runs
from tocsin.store.sql import Keyed

USUAL_OF = 20  # good runs
_PLACE = [runs.c[name] for name in ScenarioKey._fields]


def usual_durations(connection: Connection, scenarios: Iterable[ScenarioKey]) -> dict[ScenarioKey, timedelta]:
    """The median duration of each scenario's last good runs; absent for one that has none."""
    return {
        key: timedelta(seconds=median(duration.total_seconds() for duration in durations))
        for key, durations in good_durations(connection, scenarios).items()
    }


def good_durations(connection: Connection, scenarios: Iterable[ScenarioKey]) -> dict[ScenarioKey, list[timedelta]]:
    """The durations of each scenario's last 20 good runs, baseline runs too, the newest first; absent where none is."""
    found: dict[ScenarioKey, list[timedelta]] = {}
    for *place, milliseconds in _DURATIONS.rows(connection, set(scenarios)):
        durations = found.setdefault(ScenarioKey(*place), [])
        if len(durations) < USUAL_OF:
            durations.append(timedelta(milliseconds=max(milliseconds, 0)))
    return found


def _durations(wanted: Subquery) -> Select[Any]:
    """Two walks along ``ix_runs_recent`` for each scenario: to the oldest run that counts, and back from it."""
    other = runs.alias()
    oldest = (
        select(_ms(other.c.start))
        .where(_good(other, wanted))
        .order_by(other.c.start.desc())
        .limit(1)
        .offset(USUAL_OF - 1)
        .correlate(wanted)
        .scalar_subquery()
    )
    return (
        select(*_PLACE, _ms(runs.c.end) - _ms(runs.c.start))
        .join_from(wanted, runs, _good(runs, wanted))
        .where(_ms(runs.c.start) >= func.coalesce(oldest, _ms(runs.c.start)))
        .order_by(runs.c.start.desc())
    )


def _good(table: FromClause, wanted: Subquery) -> ColumnElement[bool]:
    same = (table.c[name] == wanted.c[f"k{index}"] for index, name in enumerate(ScenarioKey._fields))
    return and_(*same, table.c.end.is_not(None), table.c.outcome.in_(sorted(GOOD_OUTCOMES)))


def _ms(column: ColumnElement[Any]) -> ColumnElement[int]:
    return type_coerce(column, BigInteger)


_DURATIONS = Keyed(_durations, _PLACE)
