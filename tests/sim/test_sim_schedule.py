"""Temporal triggers: the arithmetic against a walk through every minute, and the decided cases by hand."""

import calendar
import random
from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from tocsin.sim.schedule import WEEKDAYS, BadTrigger, TemporalTrigger

MINUTE = timedelta(minutes=1)
FEW = {"Minutely": timedelta(days=1), "Hourly": timedelta(days=55)}  # of those there are many
PARIS = ZoneInfo("Europe/Paris")
WALKS = {"Europe/Paris": (2024, 2026), "America/New_York": (2026, 2027), "Australia/Lord_Howe": (2027, 2028)}


def occurrences(params, first, last, server=PARIS):
    temporal = TemporalTrigger.parse(params, server)
    found, at = [], first - timedelta(microseconds=1)
    while (at := temporal.after(at)) is not None and at < last:
        found.append(at)
    return found


class Calendar:
    """Years, walked minute by minute: at which instants a wall time is shown, or was skipped."""

    def __init__(self, zone: str, first: datetime, last: datetime) -> None:
        self.zone, self.first, self.last = ZoneInfo(zone), first, last
        self.minutes = []
        self.shown: dict[time, dict[date, datetime]] = defaultdict(dict)
        wall_before, at = None, first
        while at < last:
            wall = at.astimezone(self.zone).replace(tzinfo=None)
            self.minutes.append(at)
            if wall_before is not None and wall - wall_before > MINUTE:
                gap, skipped = wall - wall_before - MINUTE, wall_before + MINUTE
                while skipped < wall:  # happens later by what was skipped
                    self.shown[skipped.time()][skipped.date()] = at + (skipped + gap - wall)
                    skipped += MINUTE
            self.shown[wall.time()].setdefault(wall.date(), at)
            wall_before, at = wall, at + MINUTE

    def expected(self, p) -> list[datetime]:
        start = datetime.fromisoformat(p["startingFrom"]) if "startingFrom" in p else datetime(2000, 1, 1)
        if p["frequency"] in ("Minutely", "Hourly"):
            unit = 60 if p["frequency"] == "Hourly" else 1
            wall = datetime.combine(start.date(), time(p["hour"], p["minute"]) if unit == 60 else time())
            anchor = wall.replace(tzinfo=self.zone).astimezone(UTC)
            if unit == 1 and start.tzinfo:
                anchor = start.astimezone(UTC)
            step = unit * p["repeatFrequency"] * MINUTE
            return [m for m in self.minutes[: 60 * 1440] if m >= anchor and not (m - anchor) % step]
        days = self.shown[time(p["hour"], p["minute"])]
        return sorted(at for day, at in days.items() if self.chosen(day, p, start.date()))

    @staticmethod
    def chosen(day: date, p, start: date) -> bool:
        every = p["repeatFrequency"]
        if "startingFrom" in p and day < start:
            return False
        weekdays = [WEEKDAYS.index(name) for name in p.get("daysOfWeek", [])] or [start.weekday()]
        if p["frequency"] == "Daily":
            return (day - start).days % every == 0
        if p["frequency"] == "Weekly":
            weeks = ((day - timedelta(days=day.weekday())) - (start - timedelta(days=start.weekday()))).days // 7
            return day.weekday() in weekdays and weeks % every == 0
        if ((day.year - start.year) * 12 + day.month - start.month) % every:
            return False
        length = calendar.monthrange(day.year, day.month)[1]
        match p["monthlyRunOn"]:
            case "ON_THE_DAY":
                return day.day == min(start.day, length)
            case "FIRST_DAY_OF_THE_MONTH":
                return day.day == 1
            case "LAST_DAY_OF_THE_MONTH":
                return day.day == length
            case "LAST_WEEK":
                return day.weekday() == min(weekdays) and day.day > length - 7
            case which:
                week = ["FIRST_WEEK", "SECOND_WEEK", "THIRD_WEEK", "FOURTH_WEEK"].index(which)
                return day.weekday() == min(weekdays) and (day.day - 1) // 7 == week


def random_trigger(rng: random.Random):
    frequency = rng.choice(["Minutely", "Hourly", "Daily", "Daily", "Weekly", "Weekly", "Monthly", "Monthly"])
    p = {
        "frequency": frequency,
        "repeatFrequency": rng.choice([1, 1, 2, 3, 5, 7, 45]),
        "hour": rng.choice([0, 1, 2, 2, 2, 3, 12, 23]),
        "minute": rng.choice([0, 1, 15, 30, 30, 59]),
        "monthlyRunOn": rng.choice(
            [
                "ON_THE_DAY",
                "FIRST_DAY_OF_THE_MONTH",
                "LAST_DAY_OF_THE_MONTH",
                "FIRST_WEEK",
                "SECOND_WEEK",
                "THIRD_WEEK",
                "FOURTH_WEEK",
                "LAST_WEEK",
            ]
        ),
    }
    if rng.random() < 0.6:
        p["daysOfWeek"] = rng.sample(WEEKDAYS, rng.randint(1, 4))
    if rng.random() < 0.7:
        day = date(2023, 1, 1) + timedelta(days=rng.randint(0, 800))
        p["startingFrom"] = rng.choice([f"{day}", f"{day}T00:00:00.000+0200", f"{day}T10:20:00.000-0500"])
    return p


@pytest.mark.slow
@pytest.mark.parametrize("zone", WALKS)
def test_occurrences_are_those_of_a_walk_through_every_minute_of_years(zone):
    begin, end = WALKS[zone]
    walked = Calendar(zone, datetime(begin, 3, 1, tzinfo=UTC), datetime(end, 4, 12, tzinfo=UTC))
    rng = random.Random(zone)
    first, last = walked.first + timedelta(days=2), walked.last - timedelta(days=2)
    for _ in range(60):
        p = random_trigger(rng)
        until = first + FEW[p["frequency"]] if p["frequency"] in FEW else last
        expected = [at for at in walked.expected(p) if first <= at < until]
        assert occurrences({**p, "timezone": zone}, first, until) == expected, p


def test_a_time_that_the_spring_night_skips_happens_an_hour_later():
    daily = {"frequency": "Daily", "repeatFrequency": 1, "hour": 2, "minute": 30}
    night = occurrences(daily, datetime(2025, 3, 29, 12, tzinfo=UTC), datetime(2025, 3, 31, 12, tzinfo=UTC))
    assert [at.astimezone(PARIS).strftime("%d %H:%M") for at in night] == ["30 03:30", "31 02:30"]


def test_a_time_that_the_autumn_night_has_twice_happens_the_first_time_only():
    daily = {"frequency": "Daily", "repeatFrequency": 1, "hour": 2, "minute": 30}
    night = occurrences(daily, datetime(2025, 10, 25, 12, tzinfo=UTC), datetime(2025, 10, 27, 12, tzinfo=UTC))
    assert night == [datetime(2025, 10, 26, 0, 30, tzinfo=UTC), datetime(2025, 10, 27, 1, 30, tzinfo=UTC)]


def test_the_day_of_starting_from_counts_as_written_whatever_its_offset():
    monthly = {"frequency": "Monthly", "monthlyRunOn": "ON_THE_DAY", "startingFrom": "2025-10-01T00:00:00.000+0200"}
    found = occurrences(
        {**monthly, "timezone": "UTC"}, datetime(2025, 9, 1, tzinfo=UTC), datetime(2025, 12, 31, tzinfo=UTC)
    )
    assert [f"{at:%m-%d}" for at in found] == ["10-01", "11-01", "12-01"]


def test_the_31st_of_a_short_month_is_its_last_day():
    monthly = {"frequency": "Monthly", "startingFrom": "2024-12-31", "hour": 3}
    found = occurrences(
        {**monthly, "timezone": "UTC"}, datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 5, 1, tzinfo=UTC)
    )
    assert [f"{at:%m-%d}" for at in found] == ["01-31", "02-28", "03-31", "04-30"]


def test_a_day_that_a_zone_skipped_altogether_gives_no_second_occurrence():
    found = occurrences(
        {"frequency": "Daily", "hour": 2, "timezone": "Pacific/Apia"},
        datetime(2011, 12, 28, tzinfo=UTC),
        datetime(2012, 1, 2, tzinfo=UTC),
    )
    assert len(found) == len(set(found))
    assert all(b - a == timedelta(days=1) for a, b in pairwise(found))


def test_occurrences_end_where_the_calendar_ends():
    temporal = TemporalTrigger.parse({"frequency": "Monthly"}, PARIS)
    assert temporal.after(datetime(9999, 12, 20, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"frequency": "Yearly"},
        {"frequency": "Daily", "hour": 24},
        {"frequency": "Daily", "minute": "7"},
        {"frequency": "Daily", "repeatFrequency": 0},
        {"frequency": "Daily", "repeatFrequency": True},
        {"frequency": "Daily", "timezone": "Mars/Olympus"},
        {"frequency": "Daily", "timezone": "../etc/passwd"},
        {"frequency": "Daily", "startingFrom": "soon"},
        {"frequency": "Weekly", "daysOfWeek": ["Lundi"]},
        {"frequency": "Monthly", "monthlyRunOn": "SOMETIMES"},
    ],
)
def test_parameters_that_make_no_sense_are_refused(broken):
    with pytest.raises(BadTrigger):
        TemporalTrigger.parse(broken, PARIS)
