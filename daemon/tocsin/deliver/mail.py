"""Mail: one message out of a rendered notification, and its hand-over to an SMTP server. Blocks. Mails of one scenario
share a References header. Recipients that a server accepted are remembered, so that a retry for the others sends them
nothing twice."""

import os
import re
import smtplib
import threading
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from email.errors import MessageError
from email.headerregistry import Address, BaseHeader, HeaderRegistry, UnstructuredHeader
from email.message import EmailMessage
from email.policy import SMTP, Policy
from email.utils import format_datetime

import structlog

from tocsin.deliver.escape import clean_text, to_one_line
from tocsin.deliver.render import Rendered
from tocsin.deliver.result import Cause, SendResult, cause_of, delivered, failed, refused, result_of_smtp, unknown
from tocsin.kit.clock import Clock
from tocsin.kit.strings import derived_id
from tocsin.model.notification import EventNotice, GroupNotice, MailOverrides, Notice, Notification, SummaryNotice

log = structlog.get_logger(__name__)

_MAX_LOG = 500_000  # characters of an attached log; the newest are kept
_MAX_ADDRESS = 1_000  # characters, its name among them; longer ones would take long to be refused
_MAX_LINE = 990  # RFC 5322, 2.1.1: 998 characters
_MAX_REMEMBERED = 1_000  # notifications that some of their recipients have accepted
_HEADER_NAME = re.compile(r"[!-9;-~]+")
_ADDRESS = re.compile(r'(?:("(?:[^"\\]|\\.)*"|[^"<>]*)\s*<([^<>]*)>|([^<>]*))', re.DOTALL)
_LIST = re.compile(r'(?:"(?:[^"\\]|\\.){0,300}"|<[^<>]*>|[^,;])+')
# What a channel's own headers may not set: it would break the message or its threading.
_RESERVED = frozenset(["subject", "from", "to", "cc", "bcc", "date", "message-id", "content-type", "mime-version"])
_ASCII_ONLY = (553, b"the server takes no addresses beyond ASCII")

Connect = Callable[[], AbstractContextManager[smtplib.SMTP]]
Headers = Mapping[str, str]
Refusals = Mapping[str, tuple[int, bytes]]


class BadMailAddress(ValueError):
    """A mail address cannot be read; the message says which."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who writes to whom. ``bcc`` is in no header. ``bad`` says which addresses cannot be read; all others are served."""

    sender: Address
    to: tuple[Address, ...]
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    bad: tuple[str, ...] = ()

    @property
    def recipients(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(address.addr_spec for address in (*self.to, *self.cc, *self.bcc)))

    def overridden(self, overrides: MailOverrides | None) -> "Envelope":
        """A reporter's recipients replace all of the channel's. Raises ``BadMailAddress`` for the sender's."""
        if overrides is None:
            return self
        sender = parse_address(overrides.sender) if overrides.sender else self.sender
        if not (overrides.to or overrides.cc or overrides.bcc):
            return replace(self, sender=sender)
        (to, bad), (cc, bad_cc), (bcc, bad_bcc) = map(parse_addresses, (overrides.to, overrides.cc, overrides.bcc))
        return replace(self, sender=sender, to=to, cc=cc, bcc=bcc, bad=(*bad, *bad_cc, *bad_bcc))


def parse_address(text: str) -> Address:
    """``Name <user@host>`` or ``user@host``, with an ASCII form of the host. Raises ``BadMailAddress``."""
    match = None if len(text) > _MAX_ADDRESS else _ADDRESS.fullmatch(clean_text(text).strip())
    try:
        if match is None or "\n" in text or "\r" in text:
            raise ValueError("several lines, too long, or something beside the address")
        user, _, host = (match[2] or match[3] or "").strip().rpartition("@")
        domain = host if host.isascii() else host.encode("idna").decode("ascii")
        parsed = Address(addr_spec=f"{re.sub('[^ -~]', 'x', user)}@{domain}")  # which knows ASCII alone
        if not parsed.username or not parsed.domain:
            raise ValueError("no user or no domain")
        name = re.sub(r"\\(.)", r"\1", match[1][1:-1]) if (match[1] or "").startswith('"') else match[1] or ""
        return Address(to_one_line(name, 100), parsed.username if user.isascii() else user, parsed.domain)
    except (MessageError, ValueError, IndexError):
        raise BadMailAddress(f"{to_one_line(text, 100)!r} is not a mail address") from None


def parse_addresses(texts: Iterable[str]) -> tuple[tuple[Address, ...], tuple[str, ...]]:
    """Each text perhaps a list with commas or semicolons; and what is wrong with those that cannot be read."""
    good: list[Address] = []
    bad: list[str] = []
    for part in (part for text in texts for part in _LIST.findall(text) if part.strip()):
        try:
            good.append(parse_address(part))
        except BadMailAddress as error:
            bad.append(str(error))
    return tuple(good), tuple(bad)


class _AsciiHeader(UnstructuredHeader, BaseHeader):
    """A header of ASCII as it is: servers and mail programs look ids up, and expect no encoded words in them."""

    def fold(self, *, policy: Policy) -> str:
        if self.isascii() and len(self) < _MAX_LINE - len(self.name):
            return f"{self.name}: {self}{policy.linesep}"
        return super().fold(policy=policy)


_POLICY = SMTP.clone(header_factory=HeaderRegistry(BaseHeader, _AsciiHeader))


def _build_mail(
    notification: Notification, rendered: Rendered, envelope: Envelope, now: datetime, extra: Headers, *, utf8: bool
) -> EmailMessage:
    """``utf8``: the server takes addresses beyond ASCII; otherwise those are in no header."""
    domain = envelope.sender.domain
    mail = EmailMessage(policy=_POLICY.clone(utf8=utf8))
    mail["Subject"] = rendered.subject
    mail["From"] = envelope.sender
    for name, addresses in (("To", envelope.to), ("Cc", envelope.cc), ("Reply-To", envelope.reply_to)):
        readable = [address for address in addresses if utf8 or name == "Reply-To" or address.addr_spec.isascii()]
        if readable:
            mail[name] = readable
    mail["Date"] = format_datetime(now)
    mail["Message-ID"] = f"<{notification.id}@{domain}>"
    thread = f"<{thread_id(notification)}@{domain}>"
    own = {
        "References": thread,
        "In-Reply-To": thread,
        "List-Id": _list_id(notification, domain),
        "Auto-Submitted": "auto-generated",
        "X-Auto-Response-Suppress": "All",
    }
    for name, value in extra.items():
        if _HEADER_NAME.fullmatch(name) and name.lower() not in _RESERVED:
            mail[name] = to_one_line(value, 500)
    overridden = {name.lower() for name in extra}
    for name, value in own.items():
        if name.lower() not in overridden:
            mail[name] = value
    mail.set_content(rendered.text or rendered.subject, cte="quoted-printable")
    if rendered.html is not None:
        mail.add_alternative(rendered.html, subtype="html", cte="quoted-printable")
    for filename, text in attachments(notification.notice, rendered):
        mail.add_attachment(text.encode("utf-8"), "text", "plain", filename=filename, params={"charset": "utf-8"})
    return mail


def attachments(notice: Notice, rendered: Rendered) -> Sequence[tuple[str, str]]:
    """The files that a notice attaches, as name and text: the run's log, as far as it was read."""
    log_tail = rendered.message.log_tail
    if not isinstance(notice, EventNotice) or "log" not in notice.attach or not log_tail:
        return ()
    run = re.sub(r"[^A-Za-z0-9.-]", "-", rendered.message.run_id or "run")
    return ((f"log-{run[:60]}.txt", clean_text(log_tail)[-_MAX_LOG:]),)


def thread_id(notification: Notification) -> str:
    """One id for all messages about a scenario, a group, or a node."""
    match notification.notice:
        case EventNotice(event=event):
            return derived_id("thread", *(event.key or (event.node,)))
        case GroupNotice(group_key=key):
            return derived_id("thread of a group", key)
        case SummaryNotice(node=node):
            return derived_id("thread", node)


def _list_id(notification: Notification, domain: str) -> str:
    match notification.notice:
        case EventNotice(event=event):
            parts = [event.project, event.node]
        case GroupNotice(group_labels=labels):
            parts = [labels.get("project"), labels.get("dss_node")]
        case SummaryNotice(node=node):
            parts = [node]
    words = [re.sub(r"[^A-Za-z0-9-]+", "-", part).strip("-").lower()[:40] for part in parts if part]
    return f"<{'.'.join(word for word in words if word) or 'alerts'}.tocsin.{domain}>"


class Mailbox:
    """Sends the mails of one channel; threads share it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._accepted: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._lock = threading.Lock()

    def send(
        self, own: Envelope, connect: Connect, headers: Headers, notification: Notification, rendered: Rendered
    ) -> SendResult:
        """Send once; every outcome is a result. ``own``: the channel's; ``connect`` reaches its server and logs in."""
        overrides = None if isinstance(notification.notice, GroupNotice) else notification.notice.mail
        try:
            envelope = own.overridden(overrides)
        except BadMailAddress as error:
            return refused(str(error), cause=Cause.MAIL_ADDRESS)
        accepted = self._accepted.get(notification.id, frozenset())
        recipients = [address for address in envelope.recipients if address not in accepted]
        if not recipients:
            nobody = "; ".join(envelope.bad) or "there is nobody to send this mail to"
            return delivered() if accepted else refused(nobody)
        sender = envelope.sender.addr_spec
        try:
            with connect() as server:
                server.ehlo_or_helo_if_needed()
                ascii_ = all(address.isascii() for address in (sender, *envelope.recipients))
                utf8 = not ascii_ and server.has_extn("smtputf8")
                mail = _build_mail(notification, rendered, envelope, self._clock.now(), headers, utf8=utf8)
                foreign = [] if utf8 else [address for address in recipients if not address.isascii()]
                possible = [address for address in recipients if address not in foreign]
                refusals = _submit(server, sender, possible, mail) if possible else {}
        except smtplib.SMTPAuthenticationError as error:
            return result_of_smtp(error.smtp_code, f"the server refuses the login: {_decode(error.smtp_error)}")
        except smtplib.SMTPNotSupportedError as error:
            return refused(f"the server cannot do what the channel asks for: {error}")
        except smtplib.SMTPResponseException as error:
            return failed(f"SMTP {error.smtp_code} when connecting: {_decode(error.smtp_error)}")
        except smtplib.SMTPException as error:
            return failed(f"cannot connect: {error}", cause=Cause.CONNECTION)
        except UnicodeError as error:
            return refused(f"the name of the server cannot be used: {error}", cause=Cause.URL)
        except OSError as error:
            text = error.strerror or (os.strerror(error.errno) if error.errno and error.errno > 0 else str(error))
            return failed(f"cannot connect: {text}", cause=cause_of(error))
        if isinstance(refusals, SendResult):
            return refusals
        refusals = {**dict.fromkeys(foreign, _ASCII_ONLY), **refusals}
        return self._conclude(notification, recipients, refusals, bool(accepted), envelope.bad)

    def _conclude(
        self, notification: Notification, recipients: list[str], refusals: Refusals, before: bool, bad: tuple[str, ...]
    ) -> SendResult:
        """``before``: whether some recipients accepted it in an earlier attempt."""
        notes = [*(f"{address}: {code} {_decode(reply)}" for address, (code, reply) in refusals.items()), *bad]
        note = "; ".join(notes)
        if notes:
            channel, id_ = notification.channel, notification.id
            log.warning("mail_recipients_refused", channel=channel, notification=id_, refusals=notes)
        retried = {address for address, (code, _) in refusals.items() if code < 500}
        with self._lock:
            accepted = self._accepted.pop(notification.id, frozenset())
            if retried:
                self._accepted[notification.id] = accepted | set(recipients) - retried
                while len(self._accepted) > _MAX_REMEMBERED:
                    self._accepted.popitem(last=False)
        if retried:
            return failed(f"the server refuses some recipients for now: {note}")
        if not refusals:
            return delivered(f"the server took it; {note}" if note else "the server took it")
        if before or set(recipients) - refusals.keys():
            return delivered(f"the server refuses some recipients: {note}")
        return refused(f"the server refuses the recipients: {note}")


def log_in(server: smtplib.SMTP, user: str, password: str) -> None:
    """Log in, in UTF-8 where smtplib would know ASCII alone. Raises ``SMTPException``."""
    server.ehlo_or_helo_if_needed()
    offered = set(server.esmtp_features.get("auth", "").upper().split())
    if not offered & {"CRAM-MD5", "PLAIN", "LOGIN"}:
        methods = ", ".join(sorted(offered)) or "none"
        raise smtplib.SMTPNotSupportedError(f"a login by PLAIN, LOGIN or CRAM-MD5 (it offers: {methods})")
    if user.isascii() and password.isascii():
        server.login(user, password)
        return
    if "PLAIN" in offered:
        code, reply = server.docmd("AUTH", f"PLAIN {_base64(chr(0) + user + chr(0) + password)}")
    elif "LOGIN" in offered:
        code, reply = server.docmd("AUTH", f"LOGIN {_base64(user)}")
        if code == 334:
            code, reply = server.docmd(_base64(password))
    else:
        raise smtplib.SMTPNotSupportedError("a password beyond ASCII, which needs PLAIN or LOGIN (it offers: CRAM-MD5)")
    if code not in (235, 503):
        raise smtplib.SMTPAuthenticationError(code, reply)


def _base64(text: str) -> str:
    return b64encode(text.encode("utf-8", "surrogatepass")).decode("ascii")


def _submit(server: smtplib.SMTP, sender: str, recipients: list[str], mail: EmailMessage) -> Refusals | SendResult:
    """The recipients that were refused, or what went wrong with the whole mail."""
    options = [] if all(address.isascii() for address in (sender, *recipients)) else ["SMTPUTF8"]
    try:
        return server.sendmail(sender, recipients, mail.as_bytes(), options)
    except smtplib.SMTPRecipientsRefused as error:
        return error.recipients
    except smtplib.SMTPResponseException as error:
        return result_of_smtp(error.smtp_code, _decode(error.smtp_error))
    except smtplib.SMTPNotSupportedError as error:
        return refused(str(error))
    except UnicodeEncodeError:
        return refused("the server takes no addresses beyond ASCII")
    except (smtplib.SMTPException, OSError) as error:
        return unknown(f"the connection broke while the mail was handed over: {to_one_line(str(error))}")


def _decode(reply: bytes | str) -> str:
    return to_one_line(reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply)
