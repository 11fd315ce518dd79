"""Errors and logs as people read them, and as they are compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.model.errors import error_fingerprint, error_text, readable_error, shorten_log
from tocsin.model.run import RunError

PREFIX = "[2026/11/28-00:57:51.315] [ScenarioThread-6IVI1Rmm] [ERROR] [dku.scenario]  - "


@pytest.mark.parametrize(("raw", "readable"), [
    ("com.dataiku.dip.exceptions.CodedException: Connection to warehouse refused", "Connection to warehouse refused"),
    ("org.x.Outer: java.sql.SQLException: Connection to warehouse refused", "Connection to warehouse refused"),
    ("java.lang.NullPointerException", "NullPointerException"),
    ("java.lang.NullPointerException: null", "NullPointerException: null"),
    ("Error in Python process: At line 3: <class 'KeyError'>: 'x'", "KeyError: 'x' (line 3)"),
    ("Error in python process: At line 12: <type 'exceptions.ValueError'>: no data", "ValueError: no data (line 12)"),
    ("Exception: the table is empty", "the table is empty"),
    ("ValueError: the table is empty", "ValueError: the table is empty"),
    (PREFIX + "the table is empty", "the table is empty"),
    ("Job failed: see https://x.y/z", "Job failed: see https://x.y/z"),
    ("", ""),
])  # fmt: skip
def test_an_error_loses_what_says_nothing(raw: str, readable: str) -> None:
    assert readable_error(raw) == readable


def test_the_lines_after_the_first_stay() -> None:
    assert readable_error("a.b.C: it broke here\n\tat x.y\n") == "it broke here\n\tat x.y"


def test_a_title_stands_before_a_message_that_does_not_repeat_it() -> None:
    assert error_text(RunError("disk full", "C", "Cannot build")) == "Cannot build: disk full"
    assert error_text(RunError("Cannot build: disk full", "C", "Cannot build")) == "Cannot build: disk full"
    assert error_text(RunError(None, "ERR_X")) == "ERR_X"
    assert error_text(RunError(None)) == "an error without a message"


@pytest.mark.parametrize(("first", "second"), [
    ("Connection to 'dwh-1' refused", "Connection to 'dwh-2' refused"),
    ("Timeout after 300 s", "Timeout after 7,200.5 s"),
    ("No such file /data/2026/a.csv", "No such file /data/2027/b.csv"),
    ("Job build_orders_2026-11-28T01-02-03 failed", "Job build_orders_2026-11-29T04-05-06 failed"),
    ("at 2026-11-28 01:02:03 the link broke", "at 2026-11-29T11:12:13.123Z the link broke"),
    ("id 6f9619ff-8b86-d011-b42d-00cf4fc964ff is gone", "id 0e37df36-f698-11e6-8dd4-cb9ced3df976 is gone"),
    ("GET https://a.example/x?y=1 gave 502", "GET https://b.example/z gave 503"),
    ("a.b.SomeException: Connection to 'dwh-1' refused", "Connection to 'dwh-1' refused"),
    ("Broken pipe\n at x", "Broken pipe\n at y"),
])  # fmt: skip
def test_errors_with_one_cause_are_equal(first: str, second: str) -> None:
    assert error_fingerprint(RunError(first)) == error_fingerprint(RunError(second))


@pytest.mark.parametrize(("first", "second"), [
    ("Connection refused", "Connection reset"),
    ("disk full", "table empty"),
    ("ValueError: x y", "KeyError: x y"),
])  # fmt: skip
def test_errors_with_two_causes_differ(first: str, second: str) -> None:
    assert error_fingerprint(RunError(first)) != error_fingerprint(RunError(second))


def test_codes_are_told_apart() -> None:
    assert error_fingerprint(RunError("x", "A")) != error_fingerprint(RunError("x", "B"))


def test_log_lines_keep_their_time_and_a_level_that_matters() -> None:
    log = PREFIX.replace("ERROR", "INFO") + "step begins\n" + PREFIX + "step failed\nplain line\n"
    assert shorten_log(log, 10, 1000) == "00:57:51 step begins\n00:57:51 ERROR step failed\nplain line"


def test_a_log_is_cut_at_whole_lines_from_its_end() -> None:
    assert shorten_log("first line\nsecond line\nthird line", 10, 23) == "second line\nthird line"
    assert shorten_log("a\nb\nc\nd", 2, 100) == "c\nd"


def test_the_last_error_line_is_always_in_it() -> None:
    log = PREFIX + "disk full\n" + "\n".join(f"cleaning {number}" for number in range(50))
    shown = shorten_log(log, 5, 200).split("\n")
    assert shown == ["00:57:51 ERROR disk full", "…", "cleaning 47", "cleaning 48", "cleaning 49"]


@given(st.text(alphabet="ab \n[]ERO:", max_size=300), st.integers(3, 20), st.integers(10, 100))
def test_a_shortened_log_keeps_its_limits(text: str, lines: int, limit: int) -> None:
    shown = shorten_log(text, lines, limit)
    assert len(shown) <= limit
    assert len(shown.split("\n")) <= lines


@given(st.text(max_size=200))
def test_any_text_has_a_readable_form_and_a_fingerprint(text: str) -> None:
    readable_error(text)
    assert error_fingerprint(RunError(text)) == error_fingerprint(RunError(text))
