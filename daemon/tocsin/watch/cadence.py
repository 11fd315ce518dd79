"""When a scenario is due for a poll, from what is known about it. Pure.

A moment of interest (an end, an expected start, the end of a followed scenario) makes polls that follow it at growing
distances; without any, ``max_poll_interval`` is the longest time between two polls.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from math import inf


class Rank(IntEnum):
    """What goes first."""

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
    EXPECTED = "expected"  # its schedule says so
    FOLLOW = "follow"  # a scenario that it follows has ended
    HOOK = "hook"  # DSS called
    RUNNING = "running"
    RECENT = "recent"  # it ran lately
    MAX_INTERVAL = "max_interval"
    SPARE = "spare"  # there was room
    RETRY = "retry"  # the last one failed


@dataclass(frozen=True, slots=True)
class Pace:
    """What the next poll depends on. All are seconds, at the moment of asking; None: does not apply."""

    polled_ago: float | None = None  # since the last good poll was begun; None: none since the start
    seen_before: bool = False  # polls of an earlier life count: it is a backfill, not a baseline
    tried_ago: float = 0.0  # since the last poll, good or not
    failures: int = 0  # in a row
    forbidden: bool = False  # the last failure was a refusal
    sighted: bool | None = None  # what sweep or list say about running; None: they say nothing
    sighted_ago: float = inf  # since they say it
    unexplained: int = 0  # polls in a row that did not confirm them
    by_sweep: bool = False
    running_for: float | None = None  # since the start of the open run
    expected_in: float | None = None  # until the launch that is due next, negative when it is over
    ended_ago: float | None = None
    followed_ago: float | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """A poll is due in so many seconds."""

    seconds: float
    rank: Rank
    reason: Reason


_SOON = 5.0
_FOLLOWED_FOR = 200.0  # DSS asks every 60 s whether a followed scenario has ended, and waits 60 s more
_OVERDUE_FOR = 3600.0


def next_poll(pace: Pace, max_interval: float) -> Due:
    """The next poll: of those that are due now the most urgent, else the earliest."""
    if pace.failures:
        return _retry(pace, max_interval)
    if pace.polled_ago is None:
        reason = Reason.BACKFILL if pace.seen_before else Reason.BASELINE
        ended = pace.sighted is False and pace.running_for is not None
        return Due(0.0, Rank.NUDGED if pace.sighted or ended else Rank.ROUTINE, reason)
    return min(_candidates(pace, pace.polled_ago, max_interval), key=_urgency)


def _urgency(due: Due) -> tuple[float, int]:
    return (max(0.0, due.seconds), due.rank)


def _retry(pace: Pace, max_interval: float) -> Due:
    pause = (
        min(60.0 * 2**pace.failures, max_interval)
        if pace.forbidden
        else min(2.0 ** min(pace.failures - 1, 10), 300.0, max_interval)
    )
    rank = Rank.NUDGED if pace.failures <= 3 and not pace.forbidden else Rank.ROUTINE
    return Due(pause - pace.tried_ago, rank, Reason.RETRY)


def _candidates(pace: Pace, polled_ago: float, max_interval: float) -> Iterator[Due]:
    yield Due(max_interval - polled_ago, Rank.ROUTINE, Reason.MAX_INTERVAL)
    running = pace.running_for is not None
    if pace.sighted is not None and (pace.sighted != running or pace.sighted_ago < polled_ago):
        pause = 0.0 if pace.sighted_ago < polled_ago else min(2.0 ** min(pace.unexplained - 1, 10), 60.0, max_interval)
        reason = Reason.SWEEP if pace.by_sweep else Reason.FLAGS
        yield Due(pause - polled_ago if pause else 0.0, Rank.NUDGED, reason)
    if pace.running_for is not None:
        pause = 300.0 if pace.by_sweep else min(max(_SOON, pace.running_for / 10), 60.0)
        yield Due(min(pause, max_interval) - polled_ago, Rank.ROUTINE, Reason.RUNNING)
    if pace.expected_in is not None:
        yield from _after(-pace.expected_in, polled_ago, _SOON, _OVERDUE_FOR, Rank.NUDGED, Reason.EXPECTED)
    if pace.followed_ago is not None:
        yield from _after(pace.followed_ago, polled_ago, _SOON, _FOLLOWED_FOR, Rank.NUDGED, Reason.FOLLOW)
    if pace.ended_ago is not None and not running:
        yield from _after(pace.ended_ago, polled_ago, 15.0, max_interval, Rank.ROUTINE, Reason.RECENT)


def _after(ago: float, polled_ago: float, soon: float, until: float, rank: Rank, reason: Reason) -> Iterator[Due]:
    """Poller after a moment that was ``ago`` seconds ago: at it, then at distances that grow with its age."""
    if polled_ago > ago:
        yield Due(-ago, rank, reason)
    elif ago < until:
        yield Due(max(soon, ago / 3) - polled_ago, rank, reason)
