"""What the answer to a send means: delivered, worth another try, or refused for good. Pure, and the one place that decides.

A refusal makes a dead letter at once, so only what another try cannot change is one: bad credentials, an unknown
recipient, an address that does not exist, a body that the receiver will not take. The rest passes with time.
"""

import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from tocsin.deliver.escape import one_line
from tocsin.model.notification import AttemptOutcome

_NOTE_LENGTH = 500
# 4xx that time may mend: timeout, conflict, locked, too early, too many. 5xx that it will not: the receiver lacks it.
_PASSING_4XX = frozenset({408, 409, 421, 423, 424, 425, 429})
_PERMANENT_5XX = frozenset({501, 505})
_SMTP_LOGIN = frozenset({530, 534, 535, 538})
_LONGEST_RETRY_AFTER = timedelta(hours=1)  # whoever asks for more is asked again


class Cause(StrEnum):
    """What kept a send from its receiver, as far as it is known: what to do about it depends on it."""

    CREDENTIALS = "credentials"
    NOBODY_THERE = "nobody_there"  # the receiver's server knows no such address
    REDIRECT = "redirect"
    TOO_MANY = "too_many"
    MESSAGE = "message"  # the receiver does not take such a message
    RECEIVER = "receiver"  # it is in trouble itself
    TLS = "tls"
    DNS = "dns"
    CONNECTION = "connection"
    TIMEOUT = "timeout"
    URL = "url"  # the channel's URL cannot be used
    SIGNING_SECRET = "signing_secret"
    MAIL_ADDRESS = "mail_address"


_CAUSES_4XX = {
    401: Cause.CREDENTIALS,
    403: Cause.CREDENTIALS,
    404: Cause.NOBODY_THERE,
    408: Cause.TIMEOUT,
    410: Cause.NOBODY_THERE,
    429: Cause.TOO_MANY,
}


@dataclass(frozen=True, slots=True)
class SendResult:
    """How one try ended. ``note`` is what the receiver or the transport said, without secrets.

    Whatever a receiver answers, the note is one short line without control characters: it is stored, logged and shown.
    """

    outcome: AttemptOutcome
    note: str = ""
    retry_after: timedelta | None = None
    cause: Cause | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "note", one_line(self.note, _NOTE_LENGTH))


def delivered(note: str = "") -> SendResult:
    return SendResult(AttemptOutcome.DELIVERED, note)


def failed(note: str, retry_after: timedelta | None = None, *, cause: Cause | None = None) -> SendResult:
    """Worth another try."""
    return SendResult(AttemptOutcome.FAILED, note, retry_after, cause)


def refused(note: str, *, cause: Cause | None = None) -> SendResult:
    """Another try would fail the same way."""
    return SendResult(AttemptOutcome.REFUSED, note, None, cause)


def unknown(note: str) -> SendResult:
    """It may have arrived, or may still."""
    return SendResult(AttemptOutcome.UNKNOWN, note, None, Cause.TIMEOUT)


def of_status(status: int, said: str = "", retry_after: timedelta | None = None) -> SendResult:
    """What an HTTP status means. ``said`` is the beginning of the body."""
    note = f"HTTP {status}" + (f": {said}" if said.strip() else "")
    if 200 <= status < 300:
        return delivered(f"HTTP {status}")
    if 300 <= status < 400:
        words = f"HTTP {status}: redirects are not followed; configure the final address"
        return refused(words, cause=Cause.REDIRECT)
    if status >= 500:
        for_good = status in _PERMANENT_5XX
        return refused(note, cause=Cause.MESSAGE) if for_good else failed(note, retry_after, cause=Cause.RECEIVER)
    cause = _CAUSES_4XX.get(status, Cause.MESSAGE)
    return failed(note, retry_after, cause=cause) if status in _PASSING_4XX else refused(note, cause=cause)


def of_smtp(code: int, said: str) -> SendResult:
    """What an SMTP reply means: 5xx is for good (RFC 5321, 4.2.1), 4xx passes."""
    note = f"SMTP {code}: {said}"
    if 200 <= code < 300:
        return delivered(note)
    cause = Cause.CREDENTIALS if code in _SMTP_LOGIN else Cause.MESSAGE
    return refused(note, cause=cause) if 500 <= code < 600 else failed(note, cause=Cause.TOO_MANY)


def cause_of(error: OSError) -> Cause:
    """Why there is no connection."""
    if isinstance(error, ssl.SSLError):
        return Cause.TLS
    if isinstance(error, socket.gaierror):
        return Cause.DNS
    return Cause.TIMEOUT if isinstance(error, TimeoutError) else Cause.CONNECTION


# Errors that a service reports with status 200, as Slack's API does; source: the services' own references.
_REFUSALS = dict.fromkeys(
    (
        "account_inactive", "invalid_auth", "invalid_token", "missing_scope", "no_permission", "not_authed",
        "org_login_required", "restricted_action", "team_disabled", "token_expired", "token_revoked",
    ),
    Cause.CREDENTIALS,
) | dict.fromkeys(
    ("channel_is_archived", "channel_not_found", "is_archived", "no_service", "not_in_channel", "user_not_found"),
    Cause.NOBODY_THERE,
) | dict.fromkeys(("invalid_blocks", "msg_too_long"), Cause.MESSAGE)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered to one request; ``body``: its beginning."""

    status: int
    retry_after: str | None
    body: bytes


def of_answer(answer: Answer | Cause | None, said: str, now: datetime) -> SendResult:
    """What a service's last answer means when its plugin calls the send failed, or why it gave none (None: not known).

    ``said``: what the plugin logged.
    """
    if answer is Cause.TIMEOUT:
        return unknown(said)
    if not isinstance(answer, Answer):
        return failed(said, cause=answer)
    document = _document(answer.body)
    wait = parse_retry_after(answer.retry_after, now) or _wait_in(document)
    if not 200 <= answer.status < 300:
        return of_status(answer.status, said, wait)
    error = document.get("error")
    if isinstance(error, str) and error in _REFUSALS:
        return refused(said, cause=_REFUSALS[error])
    return failed(said, wait)


def _document(body: bytes) -> Mapping[Any, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _wait_in(document: Mapping[Any, Any]) -> timedelta | None:
    """The wait that a service asks for in its answer's body: Discord's, Telegram's or Matrix's way."""
    parts = (document, document.get("parameters"), document.get("error"))
    for part in (part for part in parts if isinstance(part, dict)):
        for name, unit in (("retry_after", timedelta(seconds=1)), ("retry_after_ms", timedelta(milliseconds=1))):
            value = part.get(name)
            if isinstance(value, int | float) and value > 0:  # neither NaN nor a boolean that says no
                return min(value, _LONGEST_RETRY_AFTER / unit) * unit
    return None


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """The wait that a Retry-After header asks for, in seconds or until a date, an hour at most; None: none to read."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text)), _LONGEST_RETRY_AFTER) if len(text) < 10 else _LONGEST_RETRY_AFTER
    try:
        until = parsedate_to_datetime(text)
        wait = (until if until.tzinfo else until.replace(tzinfo=UTC)) - now
    except (ValueError, OverflowError):
        return None
    return min(max(wait, timedelta(0)), _LONGEST_RETRY_AFTER)
