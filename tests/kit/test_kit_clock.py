"""Moments and their integer milliseconds."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.kit.clock import EPOCH, SystemClock, from_ms, isoformat, to_ms

LAST_MS = to_ms(datetime.max.replace(tzinfo=UTC))
FIRST_MS = to_ms(datetime.min.replace(tzinfo=UTC))


@given(st.integers(FIRST_MS, LAST_MS))
def test_milliseconds_come_back_as_they_went(ms: int) -> None:
    assert to_ms(from_ms(ms)) == ms


@given(st.datetimes(timezones=st.timezones() | st.just(UTC)))
def test_a_moment_comes_back_to_the_millisecond_below(moment: datetime) -> None:
    rest = moment - from_ms(to_ms(moment))
    assert timedelta(0) <= rest < timedelta(milliseconds=1)


def test_the_epoch_is_zero_and_the_second_before_it_negative() -> None:
    assert (to_ms(EPOCH), to_ms(EPOCH - timedelta(microseconds=1)), from_ms(-1000)) == (
        0,
        -1,
        EPOCH - timedelta(seconds=1),
    )


def test_a_zone_changes_nothing_about_the_moment() -> None:
    there = datetime(2026, 3, 1, 3, tzinfo=timezone(timedelta(hours=1)))
    assert to_ms(there) == to_ms(datetime(2026, 3, 1, 2, tzinfo=UTC))


@pytest.mark.parametrize("ms", [LAST_MS + 1, FIRST_MS - 1, 10**30])
def test_a_moment_beyond_the_calendar_is_an_overflow(ms: int) -> None:
    with pytest.raises(OverflowError):
        from_ms(ms)


def test_a_moment_is_written_in_utc_with_milliseconds() -> None:
    moment = datetime(2026, 3, 1, 3, 0, 0, 120_999, tzinfo=timezone(timedelta(hours=1)))
    assert isoformat(moment) == "2026-03-01T02:00:00.120Z"


@given(st.integers(FIRST_MS, LAST_MS).map(from_ms))
def test_what_is_written_reads_back(moment: datetime) -> None:
    assert datetime.fromisoformat(isoformat(moment)) == moment


def test_the_systems_clock_is_aware_and_never_goes_back() -> None:
    clock = SystemClock()
    first, second = clock.monotonic(), clock.monotonic()
    assert clock.now().tzinfo is UTC
    assert first <= second
