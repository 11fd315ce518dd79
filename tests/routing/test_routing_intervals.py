from datetime import UTC, datetime, timedelta

import pytest

from tocsin.config.intervals import (
    BadInterval,
    TimeRange,
    check_location,
    contains,
    parse_days_of_month,
    parse_months,
    parse_time_range,
    parse_weekdays,
    parse_years,
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_ranges_are_written_as_in_alertmanager() -> None:
    assert parse_time_range("09:00", "17:30") == (540, 1050)
    assert parse_time_range("00:00", "24:00") == (0, 1440)
    assert parse_weekdays("Monday:friday") == (1, 5)
    assert parse_weekdays("sunday") == (0, 0)
    assert parse_months("january:3") == (1, 3)
    assert parse_months("may") == (5, 5)
    assert parse_days_of_month("-3:-1") == (-3, -1)
    assert parse_days_of_month("15:-1") == (15, -1)
    assert parse_days_of_month("1:7") == (1, 7)
    assert parse_years("2026:2027") == (2026, 2027)
    assert check_location("Europe/Paris") == "Europe/Paris"


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_weekdays, "saturday:sunday"),
        (parse_weekdays, "mon"),
        (parse_weekdays, "1:5"),
        (parse_months, "december:january"),
        (parse_months, "13"),
        (parse_months, "jan"),
        (parse_days_of_month, "0"),
        (parse_days_of_month, "32"),
        (parse_days_of_month, "-32:-1"),
        (parse_days_of_month, "-3:5"),
        (parse_days_of_month, "7:1"),
        (parse_days_of_month, "-1:-3"),
        (parse_days_of_month, "31:-5"),
        (parse_days_of_month, "31:-1"),  # Alertmanager counts a month as 28 days here
        (parse_days_of_month, "1:2:3"),
        (parse_years, "2027:2026"),
        (parse_years, "x"),
        (check_location, "Mars/Olympus"),
        (check_location, "../etc/passwd"),
    ],
)
def test_what_alertmanager_refuses_is_refused(parse, text: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInterval):
        parse(text)


@pytest.mark.parametrize(
    ("start", "end"), [("22:00", "06:00"), ("09:00", "09:00"), ("9:00", "10:00"), ("00:00", "24:01"), ("x", "y")]
)
def test_times_over_midnight_and_odd_ones_are_refused(start: str, end: str) -> None:
    with pytest.raises(BadInterval):
        parse_time_range(start, end)


@pytest.mark.parametrize(
    ("times", "inside", "outside"),
    [
        (TimeRange(), ["2026-03-02T00:00"], []),
        (TimeRange(times=((540, 1020),)), ["2026-03-02T09:00", "2026-03-02T16:59"], ["2026-03-02T17:00", "2026-03-02T08:59"]),
        (TimeRange(weekdays=((6, 6), (0, 0))), ["2026-03-01T12:00", "2026-03-07T12:00"], ["2026-03-02T12:00"]),
        (TimeRange(days_of_month=((-1, -1),)), ["2026-02-28T12:00", "2028-02-29T12:00", "2026-01-31T12:00"], ["2028-02-28T12:00"]),
        (TimeRange(days_of_month=((30, 31),)), ["2026-01-30T12:00"], ["2026-02-28T12:00", "2026-01-29T12:00"]),
        (TimeRange(days_of_month=((29, 31),)), ["2028-02-29T12:00"], ["2026-02-28T12:00"]),
        (TimeRange(days_of_month=((15, -1),)), ["2026-02-15T12:00", "2026-02-28T12:00"], ["2026-02-14T12:00"]),
        (TimeRange(days_of_month=((-31, -30),)), ["2026-01-01T12:00", "2026-01-02T12:00"], ["2026-01-03T12:00"]),
        (TimeRange(months=((1, 3),), years=((2026, 2026),)), ["2026-03-31T23:59"], ["2026-04-01T00:00", "2027-01-01T00:00"]),
        (TimeRange(times=((0, 60),), location="Asia/Tokyo"), ["2026-03-01T15:30"], ["2026-03-01T00:30"]),
    ],
)  # fmt: skip
def test_a_moment_is_inside_when_every_part_says_so(times: TimeRange, inside: list[str], outside: list[str]) -> None:
    assert [contains(times, utc(text)) for text in inside] == [True] * len(inside)
    assert [contains(times, utc(text)) for text in outside] == [False] * len(outside)


@pytest.mark.parametrize(
    ("night", "expected"),
    [
        ("2026-03-28T22:00", timedelta(0)),  # the hour from two to three does not exist
        ("2026-10-24T22:00", timedelta(hours=2)),  # and here it comes twice
        ("2026-06-01T22:00", timedelta(hours=1)),
    ],
)
def test_a_clock_change_skips_or_repeats_what_lies_in_its_hour(night: str, expected: timedelta) -> None:
    hour = TimeRange(times=((120, 180),), location="Europe/Paris")
    minutes = [utc(night) + timedelta(minutes=minute) for minute in range(8 * 60)]
    assert timedelta(minutes=sum(contains(hour, minute) for minute in minutes)) == expected
