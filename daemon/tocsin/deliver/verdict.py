"""What the answer to a send means: delivered, worth another try, or refused for good. Pure, and the one place that decides.

A refusal makes a dead letter at once, so only what another try cannot change is one: bad credentials, an unknown
recipient, an address that does not exist, a body that the receiver will not take. The rest passes with time.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from tocsin.model.notification import AttemptOutcome

_NOTE_LENGTH = 500
# 4xx that time may mend: timeout, conflict, locked, too early, too many. 5xx that it will not: the receiver lacks it.
_PASSING_4XX = frozenset({408, 409, 421, 423, 424, 425, 429})
_PERMANENT_5XX = frozenset({501, 505})
_LONGEST_RETRY_AFTER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one try ended. ``note`` is what the receiver or the transport said, on one line, without secrets."""

    outcome: AttemptOutcome
    note: str = ""
    retry_after: timedelta | None = None


def delivered(note: str = "") -> Verdict:
    return Verdict(AttemptOutcome.DELIVERED, one_line(note))


def failed(note: str, retry_after: timedelta | None = None) -> Verdict:
    """Worth another try."""
    return Verdict(AttemptOutcome.FAILED, one_line(note), retry_after)


def refused(note: str) -> Verdict:
    """Another try would fail the same way."""
    return Verdict(AttemptOutcome.REFUSED, one_line(note))


def unknown(note: str) -> Verdict:
    """It may have arrived, or may still."""
    return Verdict(AttemptOutcome.UNKNOWN, one_line(note))


def of_status(status: int, said: str = "", retry_after: timedelta | None = None) -> Verdict:
    """What an HTTP status means. ``said`` is the beginning of the body."""
    note = f"HTTP {status}" + (f": {said}" if said.strip() else "")
    if 200 <= status < 300:
        return delivered(f"HTTP {status}")
    if 300 <= status < 400:
        return refused(f"HTTP {status}: redirects are not followed; configure the final address")
    if status < 500:
        return failed(note, retry_after) if status in _PASSING_4XX else refused(note)
    return refused(note) if status in _PERMANENT_5XX else failed(note, retry_after)


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """The wait that a Retry-After header asks for, in seconds or until a date; None when there is none to read."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        wait = timedelta(seconds=min(int(text), _LONGEST_RETRY_AFTER // timedelta(seconds=1)))
    else:
        try:
            until = parsedate_to_datetime(text)
        except ValueError:
            return None
        wait = (until if until.tzinfo else until.replace(tzinfo=UTC)) - now
    return min(max(wait, timedelta(0)), _LONGEST_RETRY_AFTER)


def one_line(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text[: 4 * _NOTE_LENGTH].split())
    return line if len(line) <= _NOTE_LENGTH else line[: _NOTE_LENGTH - 1] + "…"
