"""What the answer to a send means: delivered, worth another try, or refused for good. Pure, and the one place that decides.

A refusal makes a dead letter at once, so only what another try cannot change is one: bad credentials, an unknown
recipient, an address that does not exist, a body that the receiver will not take. The rest passes with time.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from tocsin.deliver.escape import one_line
from tocsin.model.notification import AttemptOutcome

_NOTE_LENGTH = 500
# 4xx that time may mend: timeout, conflict, locked, too early, too many. 5xx that it will not: the receiver lacks it.
_PASSING_4XX = frozenset({408, 409, 421, 423, 424, 425, 429})
_PERMANENT_5XX = frozenset({501, 505})
_LONGEST_RETRY_AFTER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one try ended. ``note`` is what the receiver or the transport said, without secrets.

    Whatever a receiver answers, the note is one short line without control characters: it is stored, logged and shown.
    """

    outcome: AttemptOutcome
    note: str = ""
    retry_after: timedelta | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "note", one_line(self.note, _NOTE_LENGTH))


def delivered(note: str = "") -> Verdict:
    return Verdict(AttemptOutcome.DELIVERED, note)


def failed(note: str, retry_after: timedelta | None = None) -> Verdict:
    """Worth another try."""
    return Verdict(AttemptOutcome.FAILED, note, retry_after)


def refused(note: str) -> Verdict:
    """Another try would fail the same way."""
    return Verdict(AttemptOutcome.REFUSED, note)


def unknown(note: str) -> Verdict:
    """It may have arrived, or may still."""
    return Verdict(AttemptOutcome.UNKNOWN, note)


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


def of_smtp(code: int, said: str) -> Verdict:
    """What an SMTP reply means: 5xx is for good (RFC 5321, 4.2.1), 4xx passes."""
    note = f"SMTP {code}: {said}"
    if 200 <= code < 300:
        return delivered(note)
    return refused(note) if 500 <= code < 600 else failed(note)


# apprise tells HTTP statuses in its log lines alone, as "…, error=429."
_LOGGED_STATUS = re.compile(r"\berror=(\d{3})\b")
# Errors that a service reports with status 200, as Slack's API does; source: the services' own references.
_LOGGED_REFUSAL = re.compile(
    r"\b(invalid_auth|not_authed|account_inactive|token_revoked|token_expired|invalid_token|no_service|missing_scope"
    r"|channel_not_found|is_archived|channel_is_archived|not_in_channel|user_not_found|no_permission|restricted_action"
    r"|team_disabled|org_login_required|invalid_blocks|msg_too_long)\b"
)
_LOGGED_RETRY_AFTER = re.compile(r"['\"]?retry[-_]after['\"]?\s*[:=]\s*['\"]?(\d+(?:\.\d+)?)", re.IGNORECASE)


def of_log(lines: Sequence[str]) -> Verdict:
    """What apprise's log says about a send that it calls failed. ``lines``: without secrets, the oldest first."""
    said = " / ".join(line for line in lines if line.strip()) or "apprise gave no reason"
    asked = _LOGGED_RETRY_AFTER.search(said)
    wait = timedelta(seconds=min(float(asked[1]), 86_400.0)) if asked else None
    statuses = [int(found[1]) for line in lines for found in _LOGGED_STATUS.finditer(line)]
    if statuses and not 200 <= statuses[-1] < 300:
        return of_status(statuses[-1], said, wait)
    return refused(said) if _LOGGED_REFUSAL.search(said) else failed(said, wait)


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
