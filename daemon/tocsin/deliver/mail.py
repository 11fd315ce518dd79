"""One mail out of a rendered message: headers, both bodies, attachments. Pure.

Mails of one scenario share a References header, so that clients show them as one thread. The Message-ID is the
delivery id, so that a mail that had to be sent twice is known as the same.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from email.errors import MessageError
from email.headerregistry import Address, BaseHeader, HeaderRegistry, UnstructuredHeader
from email.message import EmailMessage
from email.policy import SMTP, Policy
from email.utils import format_datetime

from tocsin.deliver.escape import clean, one_line
from tocsin.deliver.render import Rendered
from tocsin.kit.strings import derived_id
from tocsin.model.notification import EventNotice, GroupNotice, Notice, Notification, SummaryNotice

_MOST_LOG = 500_000  # characters of an attached log; the newest are kept
_HEADER_NAME = re.compile(r"[!-9;-~]+")
# What a channel's own headers may not set: it would break the message or its threading.
_OURS = frozenset({"subject", "from", "to", "cc", "bcc", "date", "message-id", "content-type", "mime-version"})


class BadAddress(ValueError):
    """A mail address cannot be read; the message says which."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who writes to whom. ``bcc`` is in no header. ``bad`` says which addresses cannot be read; nobody else goes without."""

    sender: Address
    to: tuple[Address, ...]
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    bad: tuple[str, ...] = ()

    @property
    def recipients(self) -> tuple[str, ...]:
        """Every address once, in order."""
        return tuple(dict.fromkeys(one.addr_spec for one in (*self.to, *self.cc, *self.bcc)))

    def without(self, left_out: Iterable[str]) -> "Envelope":
        """The same without some recipients."""
        specs = frozenset(left_out)
        to, cc, bcc = (
            tuple(one for one in part if one.addr_spec not in specs) for part in (self.to, self.cc, self.bcc)
        )
        return replace(self, to=to, cc=cc, bcc=bcc)


_ADDRESS = re.compile(r'(?:("(?:[^"\\]|\\.)*"|[^"<>]*)\s*<([^<>]*)>|([^<>]*))', re.DOTALL)
_LIST = re.compile(r'(?:"(?:[^"\\]|\\.){0,300}"|<[^<>]*>|[^,;])+')
_LONGEST_ADDRESS = 1_000  # characters, its name among them; longer ones would take long to be refused


def address(text: str) -> Address:
    """``Name <user@host>`` or ``user@host``, and nothing beside it. A host beyond ASCII gets its ASCII form. Raises
    ``BadAddress``."""
    found = None if len(text) > _LONGEST_ADDRESS else _ADDRESS.fullmatch(clean(text).strip())
    try:
        if found is None or "\n" in text or "\r" in text:
            raise ValueError("several lines, too long, or something beside the address")
        user, _, host = (found[2] or found[3] or "").strip().rpartition("@")
        domain = host if host.isascii() else host.encode("idna").decode("ascii")
        parsed = Address(addr_spec=f"{re.sub('[^ -~]', 'x', user)}@{domain}")  # which knows ASCII alone
        if not parsed.username or not parsed.domain:
            raise ValueError("no user or no domain")
        name = re.sub(r"\\(.)", r"\1", found[1][1:-1]) if (found[1] or "").startswith('"') else found[1] or ""
        return Address(one_line(name, 100), parsed.username if user.isascii() else user, parsed.domain)
    except (MessageError, ValueError, IndexError):
        raise BadAddress(f"{one_line(text, 100)!r} is not a mail address") from None


def addresses(texts: Iterable[str]) -> tuple[tuple[Address, ...], tuple[str, ...]]:
    """Several, each perhaps a list with commas or semicolons; and what is wrong with those that cannot be read."""
    good: list[Address] = []
    bad: list[str] = []
    for part in (part for text in texts for part in _LIST.findall(text) if part.strip()):
        try:
            good.append(address(part))
        except BadAddress as error:
            bad.append(str(error))
    return tuple(good), tuple(bad)


class _Whole(UnstructuredHeader, BaseHeader):
    """A header of ASCII as it stands: servers and mail programs look ids up, and know no encoded words in them."""

    def fold(self, *, policy: Policy) -> str:
        if self.isascii() and len(self) < _LONGEST_LINE - len(self.name):
            return f"{self.name}: {self}{policy.linesep}"
        return super().fold(policy=policy)


_LONGEST_LINE = 990  # RFC 5322, 2.1.1: 998 characters
_POLICY = SMTP.clone(header_factory=HeaderRegistry(BaseHeader, _Whole))


def compose(
    notification: Notification,
    rendered: Rendered,
    envelope: Envelope,
    now: datetime,
    extra: Mapping[str, str] | None = None,
    *,
    utf8: bool = False,
) -> EmailMessage:
    """The message, ready for ``as_bytes``. ``extra``: headers that the channel's URL sets; ``utf8``: for a server that
    takes addresses beyond ASCII."""
    domain = envelope.sender.domain
    mail = EmailMessage(policy=_POLICY.clone(utf8=utf8))
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
