"""Durations as Prometheus writes them: ``30s``, ``1h30m``, ``7d``, ``250ms``."""

import re
from datetime import timedelta

_UNITS_MS = {
    "y": 365 * 86_400_000,
    "w": 7 * 86_400_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1_000,
    "ms": 1,
}
_PATTERN = re.compile("".join(rf"(?:([0-9]+){unit})?" for unit in _UNITS_MS))


class BadDuration(ValueError):
    """A duration is written as numbers with units, largest first: 30s, 1h30m, 7d, 250ms."""


def parse_duration(text: str) -> timedelta:
    """The duration that ``text`` names; ``0`` alone is allowed. Raises ``BadDuration``."""
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
    """The shortest exact writing of a duration, as ``1h30m``; years and weeks are not used. Negative ones get a minus."""
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
    """A duration for people: its two largest units, as ``2h 5m`` or ``4.2s``; below ten seconds with one decimal."""
    seconds = abs(duration.total_seconds())
    sign = "-" if duration < timedelta(0) else ""
    if seconds < 10:
        return f"{sign}{seconds:.1f}s"
    whole = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append(f"{count}{unit}" if count else "")
        if len(parts) == 2:
            break
    return sign + " ".join(part for part in parts if part)
