"""The one place that asks what time it is, and the writing of moments and durations.

Wall times are aware UTC datetimes, stored as integer epoch milliseconds. ``monotonic`` serves waits and measurements,
since the wall clock may jump.
"""

import re
import time
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import dropwhile
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS = 86_400_000
_UNITS_MS = {"y": 365 * _DAY_MS, "w": 7 * _DAY_MS, "d": _DAY_MS, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_PATTERN = re.compile("".join(rf"(?:([0-9]+){unit})?" for unit in _UNITS_MS))


class Clock(Protocol):
    def now(self) -> datetime:
        """The present as an aware UTC datetime."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary origin, never going back."""


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def to_ms(moment: datetime) -> int:
    """Epoch milliseconds of an aware datetime, rounded down."""
    since = moment - EPOCH
    return since.days * _DAY_MS + since.seconds * 1_000 + since.microseconds // 1_000


def from_ms(epoch_ms: int) -> datetime:
    """Exact, unlike ``fromtimestamp``. Raises ``OverflowError`` for a moment outside the years 1 to 9999."""
    # Positional: keywords take half as long again, and rows are full of times.
    return EPOCH + timedelta(0, 0, 0, epoch_ms)


def isoformat(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, as ``2026-03-01T02:00:00.120Z``."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds")[:-6] + "Z"


def format_utc(moment: datetime) -> str:
    """For people: ``2026-03-01 02:10:00 UTC``."""
    return format_local(moment, UTC)


def format_local(moment: datetime, zone: tzinfo) -> str:
    """For people, with the zone's own abbreviation: ``2026-03-01 03:10:00 CET``."""
    return moment.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S %Z")


class BadMoment(ValueError):
    """A moment is a time with its zone, as 2026-03-01T06:00:00Z, a date, or how long ago it is, as 2h."""


def parse_moment(text: str, now: datetime, zone: tzinfo | None = UTC) -> datetime:
    """A moment as people write it; one without a zone is in ``zone``, None being this machine's. Raises ``BadMoment``."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    try:
        return now - parse_duration(text)
    except (BadDuration, OverflowError):
        sentence = "write it like 2026-03-01T06:00:00Z, 2026-03-01, or 2h for two hours ago"
        raise BadMoment(f"{text!r} is not a time; {sentence}") from None


class BadDuration(ValueError):
    """A duration is written as numbers with units, largest first: 30s, 1h30m, 7d, 250ms."""


def parse_duration(text: str) -> timedelta:
    """``0`` alone is allowed. Raises ``BadDuration``."""
    if text == "0":
        return timedelta(0)
    match = _PATTERN.fullmatch(text)
    if not text or match is None:
        raise BadDuration(f"{text!r} is not a duration; write it like 30s, 1h30m or 7d")
    try:
        total = sum(int(n) * ms for n, ms in zip(match.groups(), _UNITS_MS.values(), strict=True) if n)
        return timedelta(milliseconds=total)
    except (OverflowError, ValueError):  # Python does not read numbers of thousands of digits
        raise BadDuration(f"{text!r} is longer than a duration can be") from None


def format_duration(duration: timedelta) -> str:
    """The shortest exact writing, as ``1h30m``, without years and weeks; negative ones get a minus."""
    ms = duration // timedelta(milliseconds=1)
    if ms == 0:
        return "0s"
    parts = ["-"] if ms < 0 else []
    ms = abs(ms)
    for unit in ("d", "h", "m", "s", "ms"):
        count, ms = divmod(ms, _UNITS_MS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def human_duration(duration: timedelta) -> str:
    """For people: the two largest units, as ``2h 5m``; below ten seconds with one decimal, as ``4.2s``."""
    seconds = abs(duration.total_seconds())
    sign = "-" if duration < timedelta(0) else ""
    if seconds < 10:
        return f"{sign}{seconds:.1f}s"
    whole = round(seconds)
    counts = {"d": whole // 86_400, "h": whole // 3_600 % 24, "m": whole // 60 % 60, "s": whole % 60}
    parts = list(dropwhile(lambda part: not part[1], counts.items()))[:2]
    return sign + " ".join(f"{count}{unit}" for unit, count in parts if count)
