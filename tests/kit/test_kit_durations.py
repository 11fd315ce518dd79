"""Durations as Prometheus writes them, and for people."""

from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.kit.clock import BadDuration, format_duration, human_duration, parse_duration

MILLISECONDS = st.integers(0, timedelta.max // timedelta(milliseconds=1)).map(lambda ms: timedelta(milliseconds=ms))


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("0", timedelta(0)),
        ("0s", timedelta(0)),
        ("30s", timedelta(seconds=30)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        ("250ms", timedelta(milliseconds=250)),
        ("1m5ms", timedelta(minutes=1, milliseconds=5)),
        ("7d", timedelta(days=7)),
        ("1w", timedelta(days=7)),
        ("1y", timedelta(days=365)),
        ("1y2w3d4h5m6s7ms", timedelta(days=365 + 14 + 3, hours=4, minutes=5, seconds=6, milliseconds=7)),
        ("90m", timedelta(minutes=90)),
    ],
)
def test_a_duration_is_numbers_with_units(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1",
        "s",
        "1.5h",
        "-1s",
        "1s1h",
        "1s 1ms",
        "1S",
        "٣s",
        "1h1h",
        "30 s",
        "5sec",
        "9" * 30 + "y",
        "9" * 5000 + "s",
    ],
)
def test_anything_else_is_a_bad_duration(text: str) -> None:
    with pytest.raises(BadDuration):
        parse_duration(text)


@given(st.text(alphabet="0123456789ywdhms. -", max_size=12))
def test_any_text_is_a_duration_or_a_bad_one(text: str) -> None:
    with suppress(BadDuration):
        assert parse_duration(text) >= timedelta(0)


@given(MILLISECONDS)
def test_what_is_formatted_parses_back(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


@given(MILLISECONDS)
def test_what_parses_formats_the_same_ever_after(duration: timedelta) -> None:
    text = format_duration(duration)
    assert format_duration(parse_duration(text)) == text


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(0), "0s"),
        (timedelta(hours=1, minutes=30), "1h30m"),
        (timedelta(days=400), "400d"),
        (timedelta(seconds=-90), "-1m30s"),
        (timedelta(milliseconds=1250), "1s250ms"),
    ],
)
def test_a_duration_is_written_shortest(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(0), "0.0s"),
        (timedelta(seconds=4.25), "4.2s"),
        (timedelta(seconds=9.99), "10.0s"),
        (timedelta(seconds=10), "10s"),
        (timedelta(seconds=59.6), "1m"),
        (timedelta(hours=2, minutes=5, seconds=59), "2h 5m"),
        (timedelta(hours=1, seconds=5), "1h"),
        (timedelta(days=3, hours=4, minutes=5), "3d 4h"),
        (timedelta(seconds=-75), "-1m 15s"),
    ],
)
def test_people_get_the_two_largest_units(duration: timedelta, text: str) -> None:
    assert human_duration(duration) == text


@given(MILLISECONDS)
def test_people_never_get_nothing(duration: timedelta) -> None:
    assert 2 <= len(human_duration(duration).replace(" ", "")) <= 14
