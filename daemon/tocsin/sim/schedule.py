"""When temporal triggers fire: DSS's trigger parameters to occurrences. Pure."""

import calendar
import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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
_MAX_DAYS = 64  # chosen days looked at before a search gives up; each of them has an occurrence, so two would do


class BadTrigger(ValueError):
    """A temporal trigger's parameters make no sense."""


@dataclass(frozen=True, slots=True)
class TemporalTrigger:
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
        """Read the parameters as DSS stores them. Raises ``BadTrigger``."""
        frequency, run_on = str(params.get("frequency")), str(params.get("monthlyRunOn") or "ON_THE_DAY")
        for key, value, known in (("frequency", frequency, list(_PERIODS)), ("monthlyRunOn", run_on, sorted(_MONTHLY))):
            if value not in known:
                raise BadTrigger(f"unknown {key} {value!r}; known: {', '.join(known)}")
        every = _integer(params, "repeatFrequency", 1, 1, 100_000)
        at = time(_integer(params, "hour", 0, 0, 23), _integer(params, "minute", 0, 0, 59))
        name, start, days = (params.get(field) for field in ("timezone", "startingFrom", "daysOfWeek"))
        with _or_bad_trigger(f"unknown timezone {name!r}; write SERVER or an IANA name"):
            zone = server_zone if name in (None, "", "SERVER") else ZoneInfo(str(name))
        with _or_bad_trigger(f"startingFrom {start!r} is not an ISO date or time"):
            written = datetime.fromisoformat(str(start)) if start else None
        with _or_bad_trigger(f"daysOfWeek {days!r} holds something that is no English weekday"):
            names = days if isinstance(days, list | tuple) else ()
            weekdays = tuple(sorted({WEEKDAYS.index(str(day).capitalize()) for day in names}))
        first = written.date() if written else _LONG_AGO
        anchor = _instant(first, at if frequency == "Hourly" else time(), zone)
        if written is not None and frequency == "Minutely":
            anchor = written if written.tzinfo else _instant(first, written.time(), zone)
            anchor = anchor.astimezone(UTC).replace(second=0, microsecond=0)
        weekdays = weekdays or (first.weekday(),)
        return cls(frequency, every, at, weekdays, run_on, first if written else None, anchor, zone)

    @property
    def period(self) -> timedelta:
        """The usual distance of two occurrences (a month counts 30 days)."""
        period = _PERIODS[self.frequency] * self.every
        return period / len(self.weekdays) if self.frequency == "Weekly" else period

    def after(self, moment: datetime) -> datetime | None:
        """The first occurrence later than ``moment``, in UTC; ``None`` where the calendar ends."""
        try:
            if self.frequency in ("Minutely", "Hourly"):
                count = max(0, (moment - self.anchor) // self.period + 1)
                return (self.anchor + count * self.period).astimezone(UTC)
            days = self._days(moment.astimezone(self.zone).date() - timedelta(days=1))
            occurrences = (_instant(day, self.at, self.zone) for day in itertools.islice(days, _MAX_DAYS))
            return next((at for at in occurrences if at > moment), None)
        except (OverflowError, ValueError):
            return None

    def _days(self, floor: date) -> Iterator[date]:
        first = self.start or _LONG_AGO
        floor = max(floor, first) if self.start else floor
        days: Iterable[date]
        match self.frequency:
            case "Daily":
                start = floor + timedelta(days=-(floor - first).days % self.every)
                days = (start + timedelta(days=day) for day in itertools.count(0, self.every))
            case "Weekly":
                first_monday = first - timedelta(days=first.weekday())
                monday = floor - timedelta(days=floor.weekday())
                monday -= timedelta(weeks=(monday - first_monday).days // 7 % self.every)
                weeks = itertools.count(0, self.every)
                days = (monday + timedelta(weeks=week, days=day) for week in weeks for day in self.weekdays)
            case _:
                month = floor.year * 12 + floor.month - 1
                month -= (month - first.year * 12 - first.month + 1) % self.every
                months = itertools.count(month, self.every)
                days = (self._day_in(month // 12, month % 12 + 1, first.day) for month in months)
        return (day for day in days if day >= floor)

    def _day_in(self, year: int, month: int, start_day: int) -> date:
        length = calendar.monthrange(year, month)[1]
        fixed = {"ON_THE_DAY": min(start_day, length), "FIRST_DAY_OF_THE_MONTH": 1, "LAST_DAY_OF_THE_MONTH": length}
        if self.run_on in fixed:
            return date(year, month, fixed[self.run_on])
        first_day = length - 6 if self.run_on == "LAST_WEEK" else 1 + 7 * _WEEK_OF_MONTH[self.run_on]
        earliest = date(year, month, first_day)
        return earliest + timedelta(days=(self.weekdays[0] - earliest.weekday()) % 7)


def _instant(day: date, at: time, zone: ZoneInfo) -> datetime:
    """That wall time in UTC; ``fold=0``: skipped in spring, it comes later; twice in autumn, it is the first."""
    return datetime.combine(day, at, tzinfo=zone).astimezone(UTC)


def _integer(params: Mapping[str, object], key: str, default: int, low: int, high: int) -> int:
    value = params.get(key, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BadTrigger(f"{key} must be a whole number from {low} to {high}, not {value!r}")
    return value


@contextmanager
def _or_bad_trigger(message: str) -> Iterator[None]:
    try:
        yield
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadTrigger(message) from None
