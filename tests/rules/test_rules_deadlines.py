"""Windows of deadlines by the clocks of a place."""

from datetime import UTC, date, datetime

import pytest

from tocsin.config.intervals import parse_days, parse_time_of_day, wall_time
from tocsin.rules.deadlines import Window, windows

DAILY = ((0, 6),)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "time", "location", "expected"),
    [
        ("2026-03-02", "07:00", "UTC", "2026-03-02 07:00"),
        ("2026-03-29", "02:30", "Europe/Paris", "2026-03-29 01:00"),  # clocks leap from 02:00 to 03:00
        ("2026-03-29", "03:00", "Europe/Paris", "2026-03-29 01:00"),
        ("2026-03-29", "01:59", "Europe/Paris", "2026-03-29 00:59"),
        ("2026-10-25", "02:30", "Europe/Paris", "2026-10-25 00:30"),  # twice; the first
        ("2026-10-25", "03:00", "Europe/Paris", "2026-10-25 02:00"),
        ("2026-03-02", "24:00", "Europe/Paris", "2026-03-02 23:00"),
        ("2026-10-04", "02:15", "Australia/Lord_Howe", "2026-10-03 15:30"),  # a leap of half an hour
        ("2011-12-30", "07:00", "Pacific/Apia", "2011-12-30 10:00"),  # a day that the place never had
        ("2016-11-07", "07:00", "Europe/Istanbul", "2016-11-07 04:00"),  # it kept its summer time
        ("2015-11-09", "07:00", "Europe/Istanbul", "2015-11-09 05:00"),
    ],
)
def test_a_wall_time_is_one_moment(day: str, time: str, location: str, expected: str) -> None:
    assert wall_time(date.fromisoformat(day), parse_time_of_day(time), location) == utc(expected)


def around(
    day: str, by: str, begin: str | None, days: tuple[tuple[int, int], ...] = DAILY, zone: str = "UTC"
) -> Window:
    """The window that ends on a day, or else the next one."""
    start = None if begin is None else parse_time_of_day(begin)
    found = windows(parse_time_of_day(by), start, days, zone, date.fromisoformat(day))
    return next(window for window in found if window.by >= wall_time(date.fromisoformat(day), 1, zone))


@pytest.mark.parametrize(
    ("day", "by", "begin", "days", "zone", "expected"),
    [
        ("2026-03-03", "07:00", "18:00", "sunday:saturday", "UTC", ("2026-03-02 18:00", "2026-03-03 07:00")),
        ("2026-03-03", "07:00", "05:00", "sunday:saturday", "UTC", ("2026-03-03 05:00", "2026-03-03 07:00")),
        ("2026-03-03", "07:00", None, "sunday:saturday", "UTC", ("2026-03-02 07:00", "2026-03-03 07:00")),
        ("2026-03-02", "07:00", None, "monday:friday", "UTC", ("2026-02-27 07:00", "2026-03-02 07:00")),
        ("2026-03-03", "07:00", None, "monday", "UTC", ("2026-03-02 07:00", "2026-03-09 07:00")),
        ("2027-01-01", "07:00", "18:00", "sunday:saturday", "UTC", ("2026-12-31 18:00", "2027-01-01 07:00")),
        ("2026-12-31", "24:00", "22:00", "sunday:saturday", "UTC", ("2026-12-31 22:00", "2027-01-01 00:00")),
        ("2026-03-29", "07:00", "18:00", "sunday", "Europe/Paris", ("2026-03-28 17:00", "2026-03-29 05:00")),
        ("2026-10-25", "07:00", "18:00", "sunday", "Europe/Paris", ("2026-10-24 16:00", "2026-10-25 06:00")),
        # the window lies inside the hour that is left out: there is none that night
        ("2026-03-29", "02:45", "02:15", "sunday", "Europe/Paris", ("2026-04-05 00:15", "2026-04-05 00:45")),
    ],
)
def test_a_window_ends_at_its_time_and_begins_at_from_or_at_the_deadline_before(
    day: str, by: str, begin: str | None, days: str, zone: str, expected: tuple[str, str]
) -> None:
    assert around(day, by, begin, parse_days([days]), zone) == tuple(map(utc, expected))
