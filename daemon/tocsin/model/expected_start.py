"""Expected starts: what a schedule announces, and which runs meet it. Pure.

DSS launches a fired trigger after 60 s, and evaluates no triggers while a run of the scenario is open (both facts from
Dataiku's documentation and forum). So a start is withdrawn, not missed, when the scenario was running then.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from tocsin.model.run import Run

LAUNCH_DELAY = timedelta(seconds=60)
"""Between a trigger's activation and the run."""
EARLY = timedelta(seconds=5)
"""A run may seem to start this much before its time, by rounding."""
_MERGED = timedelta(minutes=10)
_NOT_SCHEDULED = frozenset({"manual", "sub"})  # trigger types that no schedule makes


class StartState(StrEnum):
    """What became of an expected start."""

    PENDING = "pending"
    MET = "met"
    WITHDRAWN = "withdrawn"
    MISSED = "missed"


def may_meet(run: Run, at: datetime) -> bool:
    """Whether a run of a trigger's started at or after this expected start."""
    return at - EARLY <= run.start and run.trigger_type not in _NOT_SCHEDULED


def keeps_triggers_off(run: Run, at: datetime) -> bool:
    """Whether a run was open when an expected start was due or would have been launched."""
    return any(run.start <= moment and (run.end is None or run.end >= moment) for moment in (at, at + LAUNCH_DELAY))


def match_starts(pending: Sequence[datetime], runs: Sequence[Run]) -> dict[datetime, StartState]:
    """Which expected starts these runs have met, and which are withdrawn because the scenario was running then.

    A run belongs to the latest expected start before it. One that a person or another scenario started meets none;
    one of another automatic trigger does if it came soon after, since DSS keeps only the last of several triggers.
    """
    states: dict[datetime, StartState] = {}
    for run in runs:
        at = max((at for at in pending if may_meet(run, at)), default=None)
        if at is not None and (run.trigger_type in (None, "temporal") or run.start - at <= _MERGED):
            states[at] = StartState.MET
    withdrawn = [at for at in pending if at not in states and any(keeps_triggers_off(run, at) for run in runs)]
    return states | dict.fromkeys(withdrawn, StartState.WITHDRAWN)
