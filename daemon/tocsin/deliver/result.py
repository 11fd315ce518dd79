"""What the answer to a send means: delivered, worth a retry, or refused for good. Pure. A refusal is a dead letter at
once, so only what a retry cannot change is one."""

import json
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import lru_cache, partial
from typing import Any, NamedTuple

from tocsin.deliver.escape import to_one_line
from tocsin.kit.mask import mask
from tocsin.model.notification import AttemptOutcome

_NOTE_LENGTH = 500
_TRANSIENT_4XX = frozenset({408, 409, 421, 423, 424, 425, 429})
_PERMANENT_5XX = frozenset({501, 505})
_SMTP_LOGIN = frozenset({530, 534, 535, 538})
_LONGEST_RETRY_AFTER = timedelta(hours=1)


class Cause(StrEnum):
    """What kept a send from its receiver, as far as it is known; the value is the hint for the operator."""

    CREDENTIALS = "check the credentials of the channel"
    NOT_FOUND = "check the address of the channel: nobody is there"
    REDIRECT = "configure the address that it redirects to"
    RATE_LIMITED = "the receiver asks for fewer messages; lower the channel's rate"
    MESSAGE = "the receiver does not take such a message; read what it said"
    RECEIVER = "the receiver is in trouble; try again later"
    TLS = "set tls.ca_file to the receiver's authority"
    DNS = "check the host name, and the DNS of this machine"
    CONNECTION = "check host and port, and the firewalls between"
    TIMEOUT = "check the way to the receiver, or raise the channel's timeout"
    URL = "correct the channel's URL"
    SIGNING_SECRET = "correct the channel's hmac_secret"
    MAIL_ADDRESS = "correct the address"


_CAUSES_4XX = dict.fromkeys((401, 403), Cause.CREDENTIALS) | dict.fromkeys((404, 410), Cause.NOT_FOUND)
_CAUSES_4XX |= {408: Cause.TIMEOUT, 429: Cause.RATE_LIMITED}
# Errors that a service reports with status 200, as Slack's API does; source: the services' own references.
PERMANENT_ERRORS = {
    error: cause
    for cause, errors in (
        (Cause.CREDENTIALS, "account_inactive invalid_auth invalid_token missing_scope no_permission not_authed"),
        (Cause.CREDENTIALS, "org_login_required restricted_action team_disabled token_expired token_revoked"),
        (Cause.NOT_FOUND, "channel_is_archived channel_not_found is_archived no_service not_in_channel user_not_found"),
        (Cause.MESSAGE, "invalid_blocks msg_too_long"),
    )
    for error in errors.split()
}


@dataclass(frozen=True, slots=True)
class SendResult:
    """How one attempt ended. ``note`` is what the receiver or the transport said, without secrets: one short line
    without control characters, whatever a receiver answers, since it is stored, logged and shown."""

    outcome: AttemptOutcome
    note: str = ""
    retry_after: timedelta | None = None
    cause: Cause | None = None
    sent: Mapping[str, Any] | None = None  # where the message stands, for the next one of its group or run

    def __post_init__(self) -> None:
        object.__setattr__(self, "note", to_one_line(self.note, _NOTE_LENGTH))

    @property
    def delivered(self) -> bool:
        return self.outcome is AttemptOutcome.DELIVERED

    def masked(self, secrets: Sequence[str]) -> "SendResult":
        return replace(self, note=mask(self.note, secrets))

    @property
    def hint(self) -> str | None:
        """What a person should do; None when it was delivered or nothing better than the note is known."""
        return self.cause and self.cause.value


delivered = partial(SendResult, AttemptOutcome.DELIVERED)
failed = partial(SendResult, AttemptOutcome.FAILED)  # worth a retry
refused = partial(SendResult, AttemptOutcome.REFUSED)  # a retry would fail the same way
unknown = partial(SendResult, AttemptOutcome.UNKNOWN, cause=Cause.TIMEOUT)  # it may have arrived, or may still


@lru_cache(maxsize=100)
def _delivered_with(status: int) -> SendResult:
    return delivered(f"HTTP {status}")


def result_of_status(status: int, body: str = "", retry_after: timedelta | None = None) -> SendResult:
    """``body``: the beginning of the answer's."""
    if 200 <= status < 300:
        return _delivered_with(status)
    note = f"HTTP {status}" + (f": {body}" if body.strip() else "")
    if 300 <= status < 400:
        note = f"HTTP {status}: redirects are not followed; configure the final address"
        return refused(note, cause=Cause.REDIRECT)
    if status in _PERMANENT_5XX:
        return refused(note, cause=Cause.MESSAGE)
    if status >= 500:
        return failed(note, retry_after, cause=Cause.RECEIVER)
    cause = _CAUSES_4XX.get(status, Cause.MESSAGE)
    return failed(note, retry_after, cause=cause) if status in _TRANSIENT_4XX else refused(note, cause=cause)


def result_of_smtp(code: int, reply: str) -> SendResult:
    """What an SMTP reply means: 5xx is permanent, 4xx transient (RFC 5321, 4.2.1)."""
    note = f"SMTP {code}: {reply}"
    if 200 <= code < 300:
        return delivered(note)
    cause = Cause.CREDENTIALS if code in _SMTP_LOGIN else Cause.MESSAGE
    return refused(note, cause=cause) if 500 <= code < 600 else failed(note, cause=Cause.RATE_LIMITED)


def cause_of(error: OSError) -> Cause:
    if isinstance(error, ssl.SSLError):
        return Cause.TLS
    if isinstance(error, socket.gaierror):
        return Cause.DNS
    return Cause.TIMEOUT if isinstance(error, TimeoutError) else Cause.CONNECTION


def json_object(text: str | bytes) -> Mapping[str, Any]:
    """A JSON object, or an empty one for whatever else an answer is."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


class Answer(NamedTuple):
    """``body``: its beginning."""

    status: int
    retry_after: str | None
    body: bytes


def result_of_answer(answer: Answer | Cause | None, note: str, now: datetime) -> SendResult:
    """What a service's last answer, or the lack of one, means when its plugin failed and logged ``note``."""
    if answer is Cause.TIMEOUT:
        return unknown(note)
    if not isinstance(answer, Answer):
        return failed(note, cause=answer)
    document = json_object(answer.body)
    wait = parse_retry_after(answer.retry_after, now) or _retry_after_in(document)
    if not 200 <= answer.status < 300:
        return result_of_status(answer.status, note, wait)
    error = document.get("error")
    if isinstance(error, str) and error in PERMANENT_ERRORS:
        return refused(note, cause=PERMANENT_ERRORS[error])
    return failed(note, wait)


def _retry_after_in(document: Mapping[Any, Any]) -> timedelta | None:
    """The wait in an answer's body: Discord's, Telegram's or Matrix's way."""
    for part in (document, document.get("parameters"), document.get("error")):
        for name, unit in (("retry_after", timedelta(seconds=1)), ("retry_after_ms", timedelta(milliseconds=1))):
            value = part.get(name) if isinstance(part, dict) else None
            if isinstance(value, int | float) and value > 0:  # not NaN
                return min(value, _LONGEST_RETRY_AFTER / unit) * unit
    return None


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """The wait of a Retry-After header, in seconds or until a date, at most an hour; None when it cannot be read."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text)), _LONGEST_RETRY_AFTER) if len(text) < 10 else _LONGEST_RETRY_AFTER
    try:
        until = parsedate_to_datetime(text)
        wait = (until if until.tzinfo else until.replace(tzinfo=UTC)) - now
    except (ValueError, OverflowError):
        return None
    return min(max(wait, timedelta(0)), _LONGEST_RETRY_AFTER)
