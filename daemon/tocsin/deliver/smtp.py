"""Handing a mail to a server, and reading what it says. Blocks; the connection comes from outside.

One message goes to all recipients. Those that a server took are remembered, so that a try for the others sends them
nothing twice.
"""

import os
import smtplib
import threading
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from email.message import EmailMessage

import structlog

from tocsin.deliver.escape import one_line
from tocsin.deliver.mail import BadAddress, Envelope, address, addresses, compose
from tocsin.deliver.render import Rendered
from tocsin.deliver.verdict import Cause, SendResult, cause_of, delivered, failed, of_smtp, refused, unknown
from tocsin.kit.clock import Clock
from tocsin.model.notification import EventNotice, MailOverrides, Notification

log = structlog.get_logger(__name__)

_REMEMBERED = 1_000  # notifications that some of their recipients have taken
_ASCII_ALONE = (553, b"the server takes no addresses beyond ASCII")

Refusals = Mapping[str, tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Account:
    """A mail channel's own sender and recipients, and how to reach its server: connected, secured, logged in."""

    envelope: Envelope
    connect: Callable[[], AbstractContextManager[smtplib.SMTP]]
    headers: Mapping[str, str] = field(default_factory=dict)


class Mailbox:
    """Sends the mails of one channel; threads share it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._taken: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._lock = threading.Lock()

    def send(self, account: Account, notification: Notification, rendered: Rendered) -> SendResult:
        """Send once. Every outcome is a verdict."""
        overrides = notification.notice.mail if isinstance(notification.notice, EventNotice) else None
        try:
            envelope = overridden(account.envelope, overrides)
        except BadAddress as error:
            return refused(str(error), cause=Cause.MAIL_ADDRESS)
        taken = self._taken.get(notification.id, frozenset())
        left = [one for one in envelope.recipients if one not in taken]
        if not left:
            return (
                refused("; ".join(envelope.bad) or "there is nobody to send this mail to") if not taken else delivered()
            )
        try:
            with account.connect() as server:
                server.ehlo_or_helo_if_needed()
                ascii_ = all(one.isascii() for one in (envelope.sender.addr_spec, *envelope.recipients))
                utf8 = not ascii_ and server.has_extn("smtputf8")
                foreign = [] if utf8 else [one for one in left if not one.isascii()]
                takers = [one for one in left if one not in foreign]
                shown = envelope.without(one for one in envelope.recipients if not (utf8 or one.isascii()))
                mail = compose(notification, rendered, shown, self._clock.now(), account.headers, utf8=utf8)
                rejected = _submit(server, envelope.sender.addr_spec, takers, mail) if takers else {}
                if not isinstance(rejected, SendResult):
                    rejected = {**dict.fromkeys(foreign, _ASCII_ALONE), **rejected}
        except smtplib.SMTPAuthenticationError as error:
            return of_smtp(error.smtp_code, f"the server refuses the login: {_words(error.smtp_error)}")
        except smtplib.SMTPNotSupportedError as error:
            return refused(f"the server cannot do what the channel asks for: {error}")
        except smtplib.SMTPResponseException as error:
            return failed(f"SMTP {error.smtp_code} when connecting: {_words(error.smtp_error)}")
        except smtplib.SMTPException as error:
            return failed(f"cannot connect: {error}", cause=Cause.CONNECTION)
        except UnicodeError as error:
            return refused(f"the name of the server cannot be used: {error}", cause=Cause.URL)
        except OSError as error:
            known = error.errno is not None and error.errno > 0 and not error.strerror
            words = os.strerror(error.errno or 0) if known else error.strerror or error
            return failed(f"cannot connect: {words}", cause=cause_of(error))
        if isinstance(rejected, SendResult):
            return rejected
        return self._judged(notification, left, rejected, bool(taken), envelope.bad)

    def _judged(
        self, one: Notification, left: list[str], rejected: Refusals, before: bool, bad: tuple[str, ...]
    ) -> SendResult:
        id_ = one.id
        accepted = [one for one in left if one not in rejected]
        refusals = [f"{one}: {code} {_words(words)}" for one, (code, words) in rejected.items()]
        said = "; ".join((*refusals, *bad))
        if said:
            log.warning("mail_recipients_refused", channel=one.channel, notification=id_, refusals=[*refusals, *bad])
        if not rejected:
            self._forget(id_)
            return delivered(f"the server took it; {said}" if said else "the server took it")
        if any(code < 500 for code, _ in rejected.values()):
            self._remember(id_, [one for one in left if one in accepted or rejected[one][0] >= 500])
            return failed(f"the server refuses some recipients for now: {said}")
        self._forget(id_)
        if accepted or before:
            return delivered(f"the server refuses some recipients: {said}")
        return refused(f"the server refuses the recipients: {said}")

    def _remember(self, id_: str, addresses_: list[str]) -> None:
        with self._lock:
            self._taken[id_] = self._taken.pop(id_, frozenset()) | frozenset(addresses_)
            while len(self._taken) > _REMEMBERED:
                self._taken.popitem(last=False)

    def _forget(self, id_: str) -> None:
        with self._lock:
            self._taken.pop(id_, None)


def overridden(own: Envelope, overrides: MailOverrides | None) -> Envelope:
    """The channel's envelope with what a reporter sets; with its own ``to`` the channel's recipients are not asked at
    all. Raises ``BadAddress`` for the sender's."""
    if overrides is None:
        return own
    sender = address(overrides.sender) if overrides.sender else own.sender
    if not (overrides.to or overrides.cc or overrides.bcc):
        return replace(own, sender=sender)
    (to, bad), (cc, bad_cc), (bcc, bad_bcc) = map(addresses, (overrides.to, overrides.cc, overrides.bcc))
    return replace(own, sender=sender, to=to, cc=cc, bcc=bcc, bad=(*bad, *bad_cc, *bad_bcc))


def log_in(server: smtplib.SMTP, user: str, password: str) -> None:
    """Log in, in UTF-8 where smtplib would know ASCII alone. Raises ``SMTPException``."""
    server.ehlo_or_helo_if_needed()
    offered = set(server.esmtp_features.get("auth", "").upper().split())
    if not offered & {"CRAM-MD5", "PLAIN", "LOGIN"}:
        ways = ", ".join(sorted(offered)) or "none"
        raise smtplib.SMTPNotSupportedError(f"a login by PLAIN, LOGIN or CRAM-MD5 (it offers: {ways})")
    if user.isascii() and password.isascii():
        server.login(user, password)
        return
    if "PLAIN" in offered:
        code, said = server.docmd("AUTH", f"PLAIN {_base64(chr(0) + user + chr(0) + password)}")
    elif "LOGIN" in offered:
        code, said = server.docmd("AUTH", f"LOGIN {_base64(user)}")
        if code == 334:
            code, said = server.docmd(_base64(password))
    else:
        raise smtplib.SMTPNotSupportedError("a password beyond ASCII, which needs PLAIN or LOGIN (it offers: CRAM-MD5)")
    if code not in (235, 503):
        raise smtplib.SMTPAuthenticationError(code, said)


def _base64(text: str) -> str:
    return b64encode(text.encode("utf-8", "surrogatepass")).decode("ascii")


def _submit(server: smtplib.SMTP, sender: str, recipients: list[str], mail: EmailMessage) -> Refusals | SendResult:
    """The recipients that were refused, or what went wrong with the whole mail."""
    options = [] if all(one.isascii() for one in (sender, *recipients)) else ["SMTPUTF8"]
    try:
        return server.sendmail(sender, recipients, mail.as_bytes(), options)
    except smtplib.SMTPRecipientsRefused as error:
        return error.recipients
    except smtplib.SMTPResponseException as error:
        return of_smtp(error.smtp_code, _words(error.smtp_error))
    except smtplib.SMTPNotSupportedError as error:
        return refused(str(error))
    except UnicodeEncodeError:
        return refused("the server takes no addresses beyond ASCII")
    except (smtplib.SMTPException, OSError) as error:
        return unknown(f"the connection broke while the mail was handed over: {one_line(str(error))}")


def _words(said: bytes | str) -> str:
    return one_line(said.decode("utf-8", "replace") if isinstance(said, bytes) else said)
