"""The one place that asks what time it is.

Pure code takes ``now``; loops ask a ``Clock`` once per wake-up and hand the answer down. Wall times are aware
UTC datetimes, stored as integer epoch milliseconds; ``monotonic`` serves waits and measurements, since the wall
clock may jump.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """What a loop needs to know about time."""

    def now(self) -> datetime:
        """The present as an aware UTC datetime."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary origin, never going back."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def to_ms(moment: datetime) -> int:
    """Epoch milliseconds of an aware datetime, rounded down."""
    since = moment - EPOCH
    return since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000


def from_ms(epoch_ms: int) -> datetime:
    """The aware UTC datetime of epoch milliseconds; exact, unlike ``fromtimestamp`` with floats.

    Raises ``OverflowError`` for a moment outside the years 1 to 9999.
    """
    return EPOCH + timedelta(
        0, 0, 0, epoch_ms
    )  # by place: keywords take half as long again, and rows are full of times


def isoformat(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, as ``2026-03-01T02:00:00.120Z``."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds")[:-6] + "Z"


def format_utc(moment: datetime) -> str:
    """A moment for people, to the second and in UTC: ``2026-03-01 02:10:00 UTC``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
