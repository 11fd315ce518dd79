"""When a scenario is due for a poll, from what is known about it. Pure.

Polls follow a moment of interest (an end, an expected start, the end of a followed scenario) at growing distances;
``max_poll_interval`` is the longest time between two.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from math import inf

from tocsin.kit.backoff import Backoff
from tocsin.model.run import Run, ScenarioKey
from tocsin.model.scenario import LAUNCH_DELAY
from tocsin.store.scenarios import ScenarioRow

_SOON = 5.0
_FOLLOWED_FOR = 200.0  # DSS asks every 60 s whether a followed scenario has ended, and waits 60 s more
_OVERDUE_FOR = 3600.0
_RETRY = Backoff(longest=300)
_FORBIDDEN_RETRY = Backoff(120)
_UNCONFIRMED = Backoff(longest=60)


class Rank(IntEnum):
    SWEEP = 0
    NUDGED = 1
    DETAILS = 2
    DISCOVERY = 3
    ROUTINE = 4
    SPARE = 5


class Reason(StrEnum):
    """Why a poll is made; a label of ``tocsin_polls_total``."""

    BASELINE = "baseline"  # the first of a scenario
    BACKFILL = "backfill"  # the first after a downtime
    SWEEP = "sweep"  # the sweep shows another state than the last poll
    FLAGS = "flags"  # the project's list does
    EXPECTED = "expected"  # its schedule says so, or a rule waits for it
    FOLLOW = "follow"  # a scenario that it follows has ended
    HOOK = "hook"  # DSS called
    RUNNING = "running"
    RECENT = "recent"  # it ran lately
    MAX_INTERVAL = "max_interval"
    SPARE = "spare"  # there was room
    RETRY = "retry"  # the last one failed


@dataclass(frozen=True, slots=True)
class Due:
    seconds: float
    rank: Rank
    reason: Reason


@dataclass(slots=True, eq=False)
class ScenarioState:
    """What this process knows about a watched scenario. Bare floats are monotonic seconds."""

    row: ScenarioRow
    open_runs: tuple[Run, ...] = ()
    pending: tuple[datetime, ...] = ()  # expected starts, on DSS's clock
    mail_reporters: int | None = None  # hash of those that this process last wrote
    settled: tuple[int, ...] = ()  # hashes of the runs that the last poll wrote as ended
    unreadable: dict[int, int] = field(default_factory=dict)  # hash of an item → how many polls could not read it
    hinted: bool = False  # sweep or lists have said whether it runs, since they became the source of hints
    running_hint: str | None = None  # the run that they show as running
    differs_since: float = -inf  # when their hint began to differ from what polls say
    unconfirmed: int = 0  # polls in a row that did not confirm the hint
    polled_at: float | None = None  # when the last good poll of this process was begun
    tried_at: float = -inf
    failures: int = 0  # in a row
    forbidden: bool = False  # the last failure was a refusal
    not_found: bool = False
    followed_at: float | None = None  # when a scenario that it follows has ended
    in_flight: bool = False
    nudged: Reason | None = None  # waits for a poll, or for the end of the one in flight
    added_at: float = 0.0
    due_at: float = inf
    queued: Due | None = None

    @property
    def key(self) -> ScenarioKey:
        return self.row.key

    @property
    def place(self) -> dict[str, str]:
        """For log lines."""
        return {"project": self.row.key.project, "scenario": self.row.key.scenario}


def next_poll(scenario: ScenarioState, now: float, dss_now: datetime, *, by_sweep: bool, max_interval: float) -> Due:
    """The next poll: of those that are due now the most urgent, else the earliest. ``by_sweep``: hints come from it."""
    if scenario.failures:
        backoff = _FORBIDDEN_RETRY if scenario.forbidden else _RETRY
        rank = Rank.NUDGED if scenario.failures <= 3 and not scenario.forbidden else Rank.ROUTINE
        pause = min(backoff.pause(scenario.failures), max_interval)
        return Due(pause - (now - scenario.tried_at), rank, Reason.RETRY)
    running, hint = bool(scenario.open_runs), scenario.running_hint is not None
    if scenario.polled_at is None:
        reason = Reason.BASELINE if scenario.row.polled_at is None else Reason.BACKFILL
        return Due(0.0, Rank.NUDGED if scenario.hinted and (hint or running) else Rank.ROUTINE, reason)
    polled_ago, differs_for = now - scenario.polled_at, now - scenario.differs_since
    candidates = [Due(max_interval - polled_ago, Rank.ROUTINE, Reason.MAX_INTERVAL)]
    if scenario.hinted and (hint != running or differs_for < polled_ago):
        wait = 0.0
        if differs_for >= polled_ago:
            wait = min(_UNCONFIRMED.pause(scenario.unconfirmed), max_interval) - polled_ago
        candidates.append(Due(wait, Rank.NUDGED, Reason.SWEEP if by_sweep else Reason.FLAGS))
    if running:
        age = (dss_now - scenario.open_runs[0].start).total_seconds()
        pause = 300.0 if by_sweep else min(max(_SOON, age / 10), 60.0)
        candidates.append(Due(min(pause, max_interval) - polled_ago, Rank.ROUTINE, Reason.RUNNING))
    if launches := [at + LAUNCH_DELAY for at in scenario.pending]:
        launch = max((at for at in launches if at <= dss_now), default=min(launches))
        ago = (dss_now - launch).total_seconds()
        candidates += _after(ago, polled_ago, _SOON, _OVERDUE_FOR, Rank.NUDGED, Reason.EXPECTED)
    if scenario.followed_at is not None:
        ago = now - scenario.followed_at
        candidates += _after(ago, polled_ago, _SOON, _FOLLOWED_FOR, Rank.NUDGED, Reason.FOLLOW)
    if scenario.row.last_end is not None and not running:
        ago = (dss_now - scenario.row.last_end).total_seconds()
        candidates += _after(ago, polled_ago, 15.0, max_interval, Rank.ROUTINE, Reason.RECENT)
    return min(candidates, key=lambda due: (max(0.0, due.seconds), due.rank))


def _after(ago: float, polled_ago: float, soon: float, until: float, rank: Rank, reason: Reason) -> Iterator[Due]:
    """Polls after a moment that was ``ago`` seconds ago: at it, then at distances that grow with its age."""
    if polled_ago > ago:
        yield Due(-ago, rank, reason)
    elif ago < until:
        yield Due(max(soon, ago / 3) - polled_ago, rank, reason)
