from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.deliver.builders import NOW
from tocsin.deliver.result import Answer, Cause, failed, parse_retry_after, result_of_answer, result_of_status, unknown
from tocsin.model.notification import AttemptOutcome

DELIVERED, FAILED, REFUSED = AttemptOutcome.DELIVERED, AttemptOutcome.FAILED, AttemptOutcome.REFUSED


@pytest.mark.parametrize(
    ("statuses", "outcome"),
    [
        ((200, 201, 202, 204, 299), DELIVERED),
        ((300, 301, 302, 307, 308), REFUSED),
        ((400, 401, 403, 404, 405, 410, 413, 415, 422, 451), REFUSED),
        ((408, 409, 421, 423, 425, 429), FAILED),
        ((500, 502, 503, 504, 520, 599), FAILED),
        ((501, 505), REFUSED),
    ],
)
def test_what_a_status_means(statuses: tuple[int, ...], outcome: AttemptOutcome) -> None:
    assert {result_of_status(status).outcome for status in statuses} == {outcome}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120),
        (" 5 ", 5),
        ("0", 0),
        ("999999999999999999999", 3_600),
        ("9" * 5_000, 3_600),
        ("1e18", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3_600),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 3_600),
        ("Sat, 01 Jan 0001 00:00:00 +2359", 0),
        ("Sat, 01 Jan 99999 00:00:00 GMT", None),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("Sun, 01 Mar 2026 13:00:00 +0100", 0),
        ("٣", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value: str | None, seconds: int | None) -> None:
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert parse_retry_after(value, NOW) == expected


def test_a_note_is_one_short_line_that_any_database_and_display_takes() -> None:
    assert failed("a\r\n b\t c").note == "a b c"
    assert failed("a\x00b\ud800c\x1b[31m\u202e").note == "ab\ufffdc[31m"
    assert len(failed("x" * 10_000).note) == 500


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (429, b"", FAILED),
        (500, b"", FAILED),
        (401, b"", REFUSED),
        (404, b"no_service", REFUSED),
        (200, b'{"ok": false, "error": "invalid_auth"}', REFUSED),
        (200, b'{"ok": false, "error": "ratelimited"}', FAILED),
        (200, b'{"error": {"a": [1]}}', FAILED),
        (200, b'[{"error": "invalid_auth"}]', FAILED),
        (200, b"[" * 3_000, FAILED),
        (200, b"<html> invalid_auth error=401 \xff", FAILED),
    ],
)
def test_what_a_service_answered_is_told_by_its_status_and_its_own_error(
    status: int, body: bytes, outcome: AttemptOutcome
) -> None:
    assert (
        result_of_answer(Answer(status, None, body), "its log says error=401, retry-after: 7", NOW).outcome == outcome
    )


def test_without_an_answer_it_is_worth_another_try() -> None:
    assert result_of_answer(None, "error=401", NOW).outcome == FAILED
    assert result_of_answer(Cause.DNS, "error=401", NOW) == failed("error=401", cause=Cause.DNS)


def test_without_an_answer_in_time_it_may_have_arrived() -> None:
    assert result_of_answer(Cause.TIMEOUT, "timed out", NOW) == unknown("timed out")


@pytest.mark.parametrize(
    ("header", "body", "seconds"),
    [
        ("7", b"", 7),
        (None, b'{"retry_after": 2.5}', 2.5),
        (None, b'{"parameters": {"retry_after": 35}}', 35),
        (None, b'{"retry_after_ms": 2000}', 2),
        (None, b'{"error": {"retry_after_ms": 2000}}', 2),
        (None, b'{"retry_after": 1e18}', 3_600),
        (None, b'{"retry_after": Infinity}', 3_600),
        (None, b'{"retry_after": NaN}', None),
        (None, b'{"retry_after": -3}', None),
        (None, b'{"retry_after": "soon", "retry_after_ms": null}', None),
        (None, b"", None),
    ],
)
def test_the_wait_that_a_service_asks_for_is_kept(header: str | None, body: bytes, seconds: float | None) -> None:
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert result_of_answer(Answer(429, header, body), "", NOW).retry_after == expected


@given(st.text())
def test_no_retry_after_breaks_or_asks_for_more_than_an_hour(value: str) -> None:
    wait = parse_retry_after(value, NOW)
    assert wait is None or timedelta(0) <= wait <= timedelta(hours=1)
