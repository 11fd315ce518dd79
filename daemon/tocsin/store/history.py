"""What a scenario usually does, from its rows."""

from collections.abc import Iterable
from datetime import timedelta
from statistics import median

from sqlalchemy import Connection, bindparam, select

from tocsin.model.run import GOOD_OUTCOMES, ScenarioKey
from tocsin.store.schema import runs

_RUNS = 20
_LAST_GOOD = (
    select(runs.c.start, runs.c.end)
    .where(*(runs.c[name] == bindparam(name) for name in ("node", "project", "scenario")))
    .where(runs.c.end.is_not(None), runs.c.outcome.in_(sorted(GOOD_OUTCOMES)))
    .order_by(runs.c.start.desc())
    .limit(_RUNS)
)


def usual_durations(connection: Connection, scenarios: Iterable[ScenarioKey]) -> dict[ScenarioKey, timedelta]:
    """The median duration of each scenario's last good runs, baseline runs too; absent for one that has none."""
    found: dict[ScenarioKey, timedelta] = {}
    for key in set(scenarios):
        good = [end - start for start, end in connection.execute(_LAST_GOOD, key._asdict())]
        if good:
            found[key] = median(good)
    return found
