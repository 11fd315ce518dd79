"""Time intervals as Alertmanager writes and reads them.

Ranges that run backwards, over midnight or over the turn of the week, are refused. Wall time is that of the interval's
location, so in the night when clocks go back an hour is inside twice.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from tocsin.config.section import Section
from tocsin.kit.strings import did_you_mean

WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
           "november", "december")  # fmt: skip
_NUMBER = re.compile(r"[+-]?[0-9]+")

if TYPE_CHECKING:  # as in ``model``
    from tocsin.config.values import Name, Numbers, Words, Written

Range = tuple[int, int]
Ranges = tuple[Range, ...]


class BadInterval(ValueError):
    """A time interval that Alertmanager would refuse too."""


@dataclass(frozen=True, slots=True)
class TimeOfDay(Section):
    start_time: str  # as `18:00`
    end_time: str  # as `24:00`


@dataclass(frozen=True, slots=True)
class TimeRange(Section):
    """One entry of a time interval; None means any. Ranges are inclusive, but for ``times``: minutes of the day with an
    exclusive end. ``weekdays``: 0 is Sunday. Negative ``days_of_month`` count from the end."""

    times: Annotated[Ranges, Written(tuple[TimeOfDay, ...])] | None = None
    weekdays: Words | None = None  # as `monday:friday`
    days_of_month: Numbers | None = None  # as `1:5`, `-1` is the last
    months: Numbers | None = None  # as `1:3` or `january:march`
    years: Numbers | None = None  # as `2026:2027`
    location: str = "UTC"  # a time zone, as `Europe/Paris`

    def check(self, written: Mapping[str, object]) -> TimeRange:
        """Parse the ranges, which are words until here."""
        parsers: dict[str, Callable[..., Range]] = {
            "times": lambda time: parse_time_range(time.start_time, time.end_time),
            "weekdays": parse_weekdays,
            "days_of_month": parse_days_of_month,
            "months": parse_months,
            "years": parse_years,
        }
        words = {name: getattr(self, name) for name in parsers}
        ranges = {name: tuple(map(parsers[name], each)) for name, each in words.items() if each is not None}
        return replace(self, **ranges, location=check_location(self.location))


@dataclass(frozen=True, slots=True)
class TimeInterval(Section):
    name: Name  # what routes name
    time_intervals: tuple[TimeRange, ...]


def parse_time_range(start: str, end: str) -> Range:
    """Minutes of the day from ``09:00`` and ``17:30``; ``24:00`` is the end of the day."""

    first, last = parse_time_of_day(start), parse_time_of_day(end)
    if first >= last:
        raise BadInterval(
            f"the time {start} is not before {end}; a time over midnight is written as two: {start} to 24:00 and "
            f"00:00 to {end}"
        )
    return first, last


def parse_time_of_day(text: str) -> int:
    """The minute of the day; ``24:00`` is its end."""
    match = re.fullmatch(r"(?:([01][0-9]|2[0-3]):([0-5][0-9])|(24):(00))", text)
    if match is None:
        raise BadInterval(f"{text!r} is not a time of day; write it like 09:00")
    return 24 * 60 if match[3] else int(match[1]) * 60 + int(match[2])


def parse_times_of_day(texts: Sequence[str]) -> tuple[int, ...]:
    return tuple(map(parse_time_of_day, texts))


def wall_time(day: date, minute: int, location: str) -> datetime:
    """The moment, in UTC, of a minute of the day by the clocks of a place. A time that clocks leap over is the next that
    exists; one that comes twice is the first."""
    zone = _zone(location)
    wall = datetime.combine(day, time()) + timedelta(minutes=minute)
    moment = wall.replace(tzinfo=zone).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == wall:
        return moment
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)  # of the two readings one lies before the leap
    offset = before.astimezone(zone).utcoffset()
    low, high = 0, int((moment - before).total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        leapt = (before + timedelta(seconds=middle)).astimezone(zone).utcoffset() != offset
        low, high = (low, middle) if leapt else (middle, high)
    return before + timedelta(seconds=high)


def on_weekday(days: Ranges, day: date) -> bool:
    return any(first <= day.isoweekday() % 7 <= last for first, last in days)


def parse_weekdays(text: str) -> Range:
    """``monday:friday`` or ``sunday``; 0 is Sunday."""
    return _range(text, lambda part: _named(part, WEEKDAYS, "weekday"))


def parse_days(texts: Sequence[str]) -> Ranges:
    return tuple(map(parse_weekdays, texts))


def parse_months(text: str) -> Range:
    """``january:march``, ``1:3`` or ``may``; 1 is January."""

    def month(part: str) -> int:
        number = int(part) if _NUMBER.fullmatch(part) else _named(part, _MONTHS, "month") + 1
        if not 1 <= number <= 12:
            raise BadInterval(f"{part!r} is not a month; they go from 1 to 12")
        return number

    return _range(text, month)


def parse_years(text: str) -> Range:
    """``2026`` or ``2026:2028``."""
    return _range(text, lambda part: _number(part, "year"))


def parse_days_of_month(text: str) -> Range:
    """``1:7``, ``-1`` (the last day) or ``15:-1``."""

    def day(part: str) -> int:
        number = _number(part, "day of the month")
        if number == 0 or abs(number) > 31:
            raise BadInterval(f"{part!r} is not a day of the month; they go from 1 to 31, or from -31 to -1")
        return number

    first, last = _ends(text, day)
    if first < 0 <= last:
        raise BadInterval(f"{text!r}: a range that begins at a negative day must end at a negative day")
    if (first if first > 0 else 28 + first) > (last if last > 0 else 28 + last):  # Alertmanager's own measure
        raise BadInterval(f"{text!r} runs backwards")
    return first, last


def check_location(name: str) -> str:
    """The name of a time zone, as ``Europe/Paris``; empty is UTC. ``Local``, which differs by machine, is refused."""
    name = name or "UTC"
    try:
        _zone(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = did_you_mean(name, available_timezones()) or "; write it like Europe/Paris or UTC"
        raise BadInterval(f"{name!r} is not a time zone{near}") from None
    return name


def contains(times: TimeRange, now: datetime) -> bool:
    local = now.astimezone(_zone(times.location))
    minute, days = local.hour * 60 + local.minute, monthrange(local.year, local.month)[1]

    def on_day(first: int, last: int) -> bool:
        first, last = (days + 1 + day if day < 0 else day for day in (first, last))
        return first <= days and first <= local.day <= min(last, days)

    def inside(ranges: Ranges | None, value: int) -> bool:
        return ranges is None or any(first <= value <= last for first, last in ranges)

    return (
        (times.times is None or any(first <= minute < last for first, last in times.times))
        and (times.days_of_month is None or any(on_day(first, last) for first, last in times.days_of_month))
        and inside(times.months, local.month)
        and inside(times.weekdays, local.isoweekday() % 7)
        and inside(times.years, local.year)
    )


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _ends(text: str, member: Callable[[str], int]) -> Range:
    parts = text.split(":")
    if len(parts) > 2:
        raise BadInterval(f"{text!r} is not a range; write it like FIRST:LAST")
    return member(parts[0].lower()), member(parts[-1].lower())


def _range(text: str, member: Callable[[str], int]) -> Range:
    first, last = _ends(text, member)
    if first > last:
        raise BadInterval(f"{text!r} runs backwards; write two ranges")
    return first, last


def _named(part: str, names: Sequence[str], what: str) -> int:
    if part not in names:
        near = did_you_mean(part, names) or f"; write it like {names[1]}"
        raise BadInterval(f"{part!r} is not a {what}{near}")
    return names.index(part)


def _number(part: str, what: str) -> int:
    if not _NUMBER.fullmatch(part):
        raise BadInterval(f"{part!r} is not a {what}")
    return int(part)
