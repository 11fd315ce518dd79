from datetime import timedelta

import pytest

from tests.deliver.builders import NOW
from tocsin.deliver.verdict import failed, of_status, parse_retry_after
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
    assert {of_status(status).outcome for status in statuses} == {outcome}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120),
        (" 5 ", 5),
        ("0", 0),
        ("999999999999999999999", 86_400),
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
