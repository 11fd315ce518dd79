"""When temporal triggers fire: DSS's trigger parameters to occurrences. Pure.

Where the product's documentation leaves a choice, this is what was decided:

- ``Minutely`` and ``Hourly`` count real, elapsed time from their anchor, so a DST change shifts their wall time when
  they repeat every several hours. The anchor is the day of ``startingFrom`` at ``hour:minute`` (Hourly), or
  ``startingFrom`` itself (Minutely); without it, midnight of 1 January 2000 in the trigger's zone.
- ``Daily``, ``Weekly`` and ``Monthly`` happen exactly once on each chosen day, at ``hour:minute`` wall time. A time that
  the spring night skips happens later by what was skipped (02:30 becomes 03:30); one that the autumn night has twice
  happens the first time.
- ``startingFrom`` counts by the date that is written in it, whatever its offset; nothing happens before that day. Weeks
  start on Monday. ``ON_THE_DAY`` of a day that a month lacks happens on the month's last day. ``FIRST_WEEK`` is the first
  seven days of the month, ``LAST_WEEK`` the last seven; the weekday is that of ``daysOfWeek``, else of ``startingFrom``.
"""

import calendar
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_LONG_AGO = date(2000, 1, 1)
_WEEK_OF_MONTH = {"FIRST_WEEK": 0, "SECOND_WEEK": 1, "THIRD_WEEK": 2, "FOURTH_WEEK": 3}
_MONTHLY = {"ON_THE_DAY", "FIRST_DAY_OF_THE_MONTH", "LAST_DAY_OF_THE_MONTH", "LAST_WEEK", *_WEEK_OF_MONTH}
_PERIODS = {
    "Minutely": timedelta(minutes=1),
    "Hourly": timedelta(hours=1),
    "Daily": timedelta(days=1),
    "Weekly": timedelta(weeks=1),
    "Monthly": timedelta(days=30),
}
_FAR = 64  # chosen days looked at before a search gives up; each of them has an occurrence, so two would do


class BadTrigger(ValueError):
    """A temporal trigger's parameters make no sense."""


@dataclass(frozen=True, slots=True)
class TemporalTrigger:
    """One temporal trigger, read and checked."""

    frequency: str
    every: int
    at: time
    weekdays: tuple[int, ...]  # 0 is Monday
    run_on: str
    start: date | None
    anchor: datetime  # where Minutely and Hourly count from
    zone: ZoneInfo

    @classmethod
    def parse(cls, params: Mapping[str, object], server_zone: ZoneInfo) -> "TemporalTrigger":
        """Read ``params`` of a temporal trigger as DSS stores them. Raises ``BadTrigger``."""
        frequency = str(params.get("frequency"))
        if frequency not in _PERIODS:
            raise BadTrigger(f"unknown frequency {frequency!r}; known: {', '.join(_PERIODS)}")
        every = _integer(params, "repeatFrequency", 1, 1, 100_000)
        at = time(_integer(params, "hour", 0, 0, 23), _integer(params, "minute", 0, 0, 59))
        zone = _zone(params.get("timezone"), server_zone)
        written = _written_start(params.get("startingFrom"))
        start = written.date() if written else None
        first = start or _LONG_AGO
        run_on = str(params.get("monthlyRunOn") or "ON_THE_DAY")
        if run_on not in _MONTHLY:
            raise BadTrigger(f"unknown monthlyRunOn {run_on!r}; known: {', '.join(sorted(_MONTHLY))}")
        anchor = _instant(first, at if frequency == "Hourly" else time(), zone)
        if written is not None and frequency == "Minutely":
            anchor = written if written.tzinfo else _instant(written.date(), written.time(), zone)
            anchor = anchor.astimezone(UTC).replace(second=0, microsecond=0)
        weekdays = _weekdays(params.get("daysOfWeek")) or (first.weekday(),)
        return cls(frequency, every, at, weekdays, run_on, start, anchor, zone)

    @property
    def period(self) -> timedelta:
        """The usual distance of two occurrences (a month counts 30 days)."""
        period = _PERIODS[self.frequency] * self.every
        return period / len(self.weekdays) if self.frequency == "Weekly" else period

    def after(self, moment: datetime) -> datetime | None:
        """The first occurrence later than ``moment``, in UTC; ``None`` where the calendar ends."""
        try:
            if self.frequency in ("Minutely", "Hourly"):
                return self._elapsed_after(moment)
            day_before = moment.astimezone(self.zone).date() - timedelta(days=1)
            for day in itertools.islice(self._days(day_before), _FAR):
                occurrence = _instant(day, self.at, self.zone)
                if occurrence > moment:
                    return occurrence
        except (OverflowError, ValueError):
            return None
        return None

    def _elapsed_after(self, moment: datetime) -> datetime:
        period = _PERIODS[self.frequency] * self.every
        count = max(0, (moment - self.anchor) // period + 1)
        return (self.anchor + count * period).astimezone(UTC)

    def _days(self, floor: date) -> Iterator[date]:
        """The chosen days from ``floor`` on, in order."""
        first = self.start or _LONG_AGO
        floor = max(floor, first) if self.start else floor
        match self.frequency:
            case "Daily":
                behind = (floor - first).days % self.every
                day = floor + timedelta(days=(self.every - behind) % self.every)
                while True:
                    yield day
                    day += timedelta(days=self.every)
            case "Weekly":
                first_monday = first - timedelta(days=first.weekday())
                monday = floor - timedelta(days=floor.weekday())
                monday -= timedelta(weeks=(monday - first_monday).days // 7 % self.every)
                while True:
                    yield from (d for w in self.weekdays if (d := monday + timedelta(days=w)) >= floor)
                    monday += timedelta(weeks=self.every)
            case _:
                first_month = first.year * 12 + first.month - 1
                month = floor.year * 12 + floor.month - 1
                month -= (month - first_month) % self.every
                while True:
                    day = self._day_in(month // 12, month % 12 + 1, first.day)
                    if day >= floor:
                        yield day
                    month += self.every

    def _day_in(self, year: int, month: int, start_day: int) -> date:
        """The one chosen day of a month."""
        length = calendar.monthrange(year, month)[1]
        match self.run_on:
            case "ON_THE_DAY":
                return date(year, month, min(start_day, length))
            case "FIRST_DAY_OF_THE_MONTH":
                return date(year, month, 1)
            case "LAST_DAY_OF_THE_MONTH":
                return date(year, month, length)
            case "LAST_WEEK":
                earliest = date(year, month, length - 6)
            case _:
                earliest = date(year, month, 1 + 7 * _WEEK_OF_MONTH[self.run_on])
        return earliest + timedelta(days=(self.weekdays[0] - earliest.weekday()) % 7)


def _instant(day: date, at: time, zone: ZoneInfo) -> datetime:
    """That wall time in UTC; ``fold=0`` decides both DST nights as the module's docstring says."""
    return datetime.combine(day, at, tzinfo=zone).astimezone(UTC)


def _integer(params: Mapping[str, object], key: str, default: int, low: int, high: int) -> int:
    value = params.get(key, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BadTrigger(f"{key} must be a whole number from {low} to {high}, not {value!r}")
    return value


def _zone(name: object, server_zone: ZoneInfo) -> ZoneInfo:
    if name in (None, "", "SERVER"):
        return server_zone
    try:
        return ZoneInfo(str(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadTrigger(f"unknown timezone {name!r}; write SERVER or an IANA name") from None


def _written_start(text: object) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        raise BadTrigger(f"startingFrom {text!r} is not an ISO date or time") from None


def _weekdays(names: object) -> tuple[int, ...]:
    if not isinstance(names, list | tuple):
        return ()
    try:
        return tuple(sorted({WEEKDAYS.index(str(name).capitalize()) for name in names}))
    except ValueError:
        raise BadTrigger(f"daysOfWeek {names!r} holds something that is no English weekday") from None
