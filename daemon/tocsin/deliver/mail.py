"""One mail out of a rendered message: headers, both bodies, attachments. Pure.

Mails of one scenario share a References header, so that clients show them as one thread. The Message-ID is the
delivery id, so that a mail that had to be sent twice is known as the same.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr

from tocsin.deliver.escape import clean, one_line
from tocsin.deliver.render import Rendered
from tocsin.kit.ids import derived_id
from tocsin.model.notification import EventNotice, GroupNotice, Notice, Notification, SummaryNotice

_MOST_LOG = 500_000  # characters of an attached log; the newest are kept
_HEADER_NAME = re.compile(r"[!-9;-~]+")
# What a channel's own headers may not set: it would break the message or its threading.
_OURS = frozenset({"subject", "from", "to", "cc", "bcc", "date", "message-id", "content-type", "mime-version"})


class BadAddress(ValueError):
    """A mail address cannot be read; the message says which."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who writes to whom. ``bcc`` is in no header."""

    sender: Address
    to: tuple[Address, ...]
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()

    @property
    def recipients(self) -> tuple[str, ...]:
        """Every address once, in order."""
        return tuple(dict.fromkeys(one.addr_spec for one in (*self.to, *self.cc, *self.bcc)))


def address(text: str) -> Address:
    """``Name <user@host>`` or ``user@host``. Raises ``BadAddress``."""
    name, spec = parseaddr(clean(text))
    try:
        if "\n" in text or "\r" in text:
            raise ValueError("several lines")
        parsed = Address(addr_spec=spec)
        if not parsed.username or not parsed.domain:
            raise ValueError("no user or no domain")
        return Address(one_line(name, 100), parsed.username, parsed.domain)
    except (MessageError, ValueError, IndexError):
        raise BadAddress(f"{one_line(text, 100)!r} is not a mail address") from None


def addresses(texts: Iterable[str]) -> tuple[Address, ...]:
    """Several, each perhaps a comma-separated list."""
    parts = [part for text in texts for part in re.split(r",(?![^<]*>)(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)", text)]
    return tuple(address(part) for part in parts if part.strip())


def compose(
    notification: Notification,
    rendered: Rendered,
    envelope: Envelope,
    now: datetime,
    extra: Mapping[str, str] | None = None,
) -> EmailMessage:
    """The message, ready for ``as_bytes``. ``extra``: headers that the channel's URL sets."""
    domain = envelope.sender.domain
    mail = EmailMessage(policy=SMTP)
    mail["Subject"] = rendered.subject
    mail["From"] = envelope.sender
    if envelope.to:
        mail["To"] = envelope.to
    if envelope.cc:
        mail["Cc"] = envelope.cc
    if envelope.reply_to:
        mail["Reply-To"] = envelope.reply_to
    mail["Date"] = format_datetime(now)
    mail["Message-ID"] = f"<{notification.id}@{domain}>"
    thread = f"<{thread_id(notification)}@{domain}>"
    own = {
        "References": thread,
        "In-Reply-To": thread,
        "List-Id": list_id(notification, domain),
        "Auto-Submitted": "auto-generated",
        "X-Auto-Response-Suppress": "All",
    }
    given = {name.lower() for name in extra or {}}
    for name, value in (extra or {}).items():
        if _HEADER_NAME.fullmatch(name) and name.lower() not in _OURS:
            mail[name] = one_line(value, 500)
    for name, value in own.items():
        if name.lower() not in given:
            mail[name] = value
    mail.set_content(rendered.text or rendered.subject, cte="quoted-printable")
    if rendered.html is not None:
        mail.add_alternative(rendered.html, subtype="html", cte="quoted-printable")
    for filename, text in attached(notification.notice, rendered):
        mail.add_attachment(text.encode("utf-8"), "text", "plain", filename=filename, params={"charset": "utf-8"})
    return mail


def attached(notice: Notice, rendered: Rendered) -> Sequence[tuple[str, str]]:
    """The files that a notice wants, as name and text: the run's log, as far as it was read."""
    wanted = isinstance(notice, EventNotice) and "log" in notice.attach
    log = rendered.message.log_tail
    if not wanted or not log:
        return ()
    run = re.sub(r"[^A-Za-z0-9.-]", "-", rendered.message.run_id or "run")
    return ((f"log-{run[:60]}.txt", clean(log)[-_MOST_LOG:]),)


def thread_id(notification: Notification) -> str:
    """One id for all that is said of a scenario, a group, or a node."""
    match notification.notice:
        case EventNotice(event=event):
            return derived_id("thread", *(event.key or (event.node,)))
        case GroupNotice(group_key=key):
            return derived_id("thread of a group", key)
        case SummaryNotice(node=node):
            return derived_id("thread", node)


def list_id(notification: Notification, domain: str) -> str:
    """What mail filters may sort by: project and node where there is one, else the receiver."""
    match notification.notice:
        case EventNotice(event=event):
            parts = [event.project, event.node]
        case GroupNotice(group_labels=labels):
            parts = [labels.get("project"), labels.get("dss_node")]
        case SummaryNotice(node=node):
            parts = [node]
    words = [re.sub(r"[^A-Za-z0-9-]+", "-", part).strip("-").lower()[:40] for part in parts if part]
    return f"<{'.'.join(word for word in words if word) or 'alerts'}.tocsin.{domain}>"
