"""When a try that failed is made again: pure.

Waits double from two seconds to ten minutes, and each is shortened at random by up to a half, so that many
notifications that failed together do not come back together.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

_FIRST = timedelta(seconds=2)
_LONGEST = timedelta(minutes=10)
_DOUBLINGS = 16  # beyond the longest wait for sure; keeps the power small


def wait_before(number: int, random: Callable[[], float]) -> timedelta:
    """How long to wait after try ``number`` (from 1) failed; ``random`` answers from [0, 1)."""
    full = min(_FIRST * (1 << min(number - 1, _DOUBLINGS)), _LONGEST)
    return full * (1 - random() / 2)


def next_try(
    now: datetime,
    number: int,
    give_up_at: datetime,
    random: Callable[[], float],
    *,
    retry_after: timedelta | None = None,
    not_before: datetime | None = None,
) -> datetime | None:
    """When to try again after try ``number`` failed at ``now``; None: that would be after ``give_up_at``.

    What the receiver asked for (``retry_after``) is a lower bound, as is ``not_before``; the last try comes right at
    ``give_up_at`` rather than not at all, unless the receiver asked for later.
    """
    if now >= give_up_at:
        return None
    earliest = max(now + (retry_after or timedelta(0)), not_before or now)
    if earliest > give_up_at:
        return None
    return min(max(now + wait_before(number, random), earliest), give_up_at)
