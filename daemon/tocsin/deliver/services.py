"""What the services behind apprise make of a text, and how much of it they accept. Pure. apprise's own conversion would
make markup of DSS's text, so messages are written here for each service. One that is too long loses its end, and its
headline only where that and the link do not fit; never half an escape."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from itertools import chain
from math import inf
from typing import NamedTuple

from tocsin.config.model import MessageFormat
from tocsin.deliver.escape import FORMATTERS, Dialect, break_mentions, escape_entities
from tocsin.deliver.render import Rendered

Size = Callable[[str], int]

_TOKEN = re.compile(
    r"\\(?:&#?\w{1,8};|.)|&#?\w{1,8};|<[^<>\n]{1,2000}>|\[(?:\\.|[^\[\]\\\n]){0,500}\]\(<?[^<>()\n]{1,2000}>?\)|\*\*|.",
    re.DOTALL,
)
_ELLIPSIS = "…"
_FENCE = "```"
_SHORT_HEADLINE = 60  # what is left of a headline at least, or the link goes where both have no room
_SLACK_HEADER = 150  # characters of a header block, which apprise escapes by itself


class ServiceFormat(StrEnum):
    PLAIN = "plain"  # as it is
    MARKDOWN = "markdown"  # as Markdown with CommonMark's backslash
    CARD = "card"  # as a card of Microsoft's
    CHAT = "chat"  # with markup of its own, and no escape to depend on
    HTML = "html"
    SLACK = "slack"
    MAIL = "mail"  # as a page of HTML


_SECTIONS = re.findall(
    r"^(\w+):$((?:\n .*)+)", files("tocsin.deliver").joinpath("schemes.txt").read_text("ascii"), re.MULTILINE
)
SCHEMES = {ServiceFormat(name): schemes.split() for name, schemes in _SECTIONS}
ALLOWED = frozenset(chain.from_iterable(SCHEMES.values()))
_TITLED, _PAGES = (
    frozenset(names.split())
    for names in (
        # Markdown services whose title is a field of its own and shown as it is; elsewhere it would be read as markup.
        "github reddit squadcast ilert incidentio goalert goalerts simplepush spush twist schan hassio hassios",
        # Services that show HTML when they are told that it is some.
        "json jsons xml xmls form forms amqp amqps flock pushplus wecom wxpusher",
    )
)


def utf16(text: str) -> int:
    """Length as most services count: in UTF-16 units, of which a sign beyond the basic plane takes two."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def in_json(text: str) -> int:
    return len(json.dumps(text)) - 2


def in_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


class IncidentService(NamedTuple):
    name: str
    way: str  # to have it closed


_WEBHOOK = (
    "use its integration for Alertmanager with a webhook channel, or an Alertmanager under alerting.alertmanagers"
)
# Services that keep incidents open until they are told of the end, which apprise cannot do.
INCIDENT_SERVICES = {
    "pagerduty": IncidentService("PagerDuty", "use a pagerduty channel"),
    "opsgenie": IncidentService("Opsgenie", "use an opsgenie channel"),
    **{
        scheme: IncidentService(name, _WEBHOOK)
        for scheme, name in (
            ("victorops", "Splunk On-Call"), ("splunk", "Splunk On-Call"), ("ilert", "iLert"), ("squadcast", "Squadcast"),
            ("incidentio", "incident.io"), ("goalert", "GoAlert"), ("goalerts", "GoAlert"), ("signl4", "SIGNL4"),
            ("pagertree", "PagerTree"), ("firehydrant", "FireHydrant"), ("betterstack", "Better Stack"),
            ("xmatters", "xMatters"), ("spike", "Spike.sh"), ("jira", "Jira"),
        )
    },
}  # fmt: skip

# Where a service's own limit is not the one that apprise keeps.
_LIMITS: dict[str, tuple[int, Size]] = {
    # Teams takes messages of 28 KB, the frame of the card included; apprise would cut at 1000 characters.
    **dict.fromkeys(("workflow", "workflows"), (24_000, in_json)),
    "slack": (2_900, len),  # a section of a block takes 3000 characters, as they stand
    **dict.fromkeys(("rocket", "rockets"), (5_000, utf16)),  # Rocket.Chat's default of Message_MaxAllowedSize
    **dict.fromkeys(("ntfy", "ntfys"), (4_000, in_bytes)),  # above 4096 bytes ntfy makes a file out of a message
}


@dataclass(frozen=True, slots=True)
class Service:
    format: ServiceFormat
    kind: MessageFormat
    dialect: Dialect
    limit: float  # of the body; infinite where nothing is cut
    size: Size  # measures it
    title: int  # characters of its title field, 0 when the headline belongs to the body


def known_format(schemes: set[str]) -> ServiceFormat | None:
    """How these schemes' service shows text, whatever its URL asks for."""
    formats = (format_ for format_, names in SCHEMES.items() if schemes.intersection(names))
    return next((format_ for format_ in formats if format_ is not ServiceFormat.PLAIN), None)


def service_format(schemes: set[str], requested: str) -> ServiceFormat:
    """``requested``: by the URL, or assumed by apprise; it counts for services that show what they are told to."""
    if known := known_format(schemes):
        return known
    if requested == "markdown":
        return ServiceFormat.MARKDOWN
    return ServiceFormat.HTML if requested == "html" and schemes & _PAGES else ServiceFormat.PLAIN


def describe_service(
    schemes: set[str], format_: ServiceFormat, template: str | None, body: int, title: int, *, inside: bool
) -> Service:
    """``template``: the channel's, perhaps a kind. ``body`` and ``title``: what apprise holds for the limits;
    ``inside``: whether the title counts as part of the body."""
    marked = format_ in (ServiceFormat.MARKDOWN, ServiceFormat.CARD)
    if format_ in (ServiceFormat.SLACK, ServiceFormat.MAIL):
        kind = MessageFormat(format_.value)
    elif template in set(MessageFormat):
        kind = MessageFormat(template)
    else:
        kind = MessageFormat.MARKDOWN if marked else MessageFormat.TEXT
    limit, size = next((_LIMITS[scheme] for scheme in sorted(schemes) if scheme in _LIMITS), (body, utf16))
    if marked and not schemes & _TITLED:
        title = 0
    if inside and title:
        limit -= title + 2
    whole = format_ is ServiceFormat.MAIL or schemes & {"irc", "ircs"}  # IRC is sent line by line
    if format_ is ServiceFormat.MAIL:
        dialect = Dialect.MAIL
    elif format_ is ServiceFormat.HTML:
        dialect = Dialect.TEXT  # and made HTML as a whole
    elif kind is MessageFormat.SLACK:
        dialect = Dialect.SLACK
    elif kind is MessageFormat.MARKDOWN:
        dialect = Dialect.MARKDOWN if format_ in (ServiceFormat.PLAIN, ServiceFormat.MARKDOWN) else Dialect.CARD
    else:
        dialect = Dialect.TEXT if format_ is ServiceFormat.PLAIN else Dialect.CHAT
    return Service(format_, kind, dialect, inf if whole else limit, size, title)


def message_fits(service: Service, subject: str, text: str) -> bool:
    """Whether nothing of the text would be cut."""
    escape = escape_entities if service.format is ServiceFormat.HTML else str
    return service.size(escape(text)) + (0 if service.title else service.size(escape(subject)) + 10) <= service.limit


def format_message(service: Service, rendered: Rendered) -> tuple[str, str]:
    """Title and body, as they are to arrive. A title that is too long for its field stands whole in the body."""
    if service.format is ServiceFormat.HTML:
        return _format_page(service, rendered)
    subject, text, link = rendered.subject, rendered.text or "", rendered.link
    escape = FORMATTERS[service.dialect].escape
    if service.format is ServiceFormat.SLACK:
        head = "*{}*\n"
        title = break_mentions(subject)
        short = truncate_markup(title, _SLACK_HEADER, lambda text: len(escape_entities(text)))
        text = text or " "
    else:
        head = "**{}**\n\n" if service.dialect in (Dialect.MARKDOWN, Dialect.CARD) else "{}\n"
        title = break_mentions(subject) if service.dialect is Dialect.MARKDOWN else escape(subject)
        short = title if len(title) <= service.title else truncate_markup(title, service.title)
    if short == title:
        return title, fit_body(text, link, service.limit, service.size)
    return short, compose_text(subject, lambda line: head.format(escape(line)), link, text, service.limit, service.size)


def _format_page(service: Service, rendered: Rendered) -> tuple[str, str]:
    line_break = "\n" if service.title == 0 else "<br/>\n"

    def literal(text: str) -> str:
        return escape_entities(text).replace("\n", line_break)

    def size(text: str) -> int:
        return service.size(literal(text))

    subject, text = break_mentions(rendered.subject), break_mentions(rendered.text or "")
    if len(subject) <= service.title:
        return subject, literal(fit_body(text, rendered.link, service.limit, size))
    whole = compose_text(subject, "{}\n".format, rendered.link, text, service.limit - len("<b></b>"), size)
    head, _, rest = whole.partition("\n")
    return truncate_markup(subject, service.title), f"<b>{literal(head)}</b>{line_break}{literal(rest)}"


def compose_text(
    headline: str, write: Callable[[str], str], link: str, body: str, limit: float, size: Size = utf16
) -> str:
    """Headline and body as one text within ``limit``.

    ``write`` puts the plain headline into the dialect, with what stands between it and the body; ``link`` and ``body``
    are in it already. The link goes under the headline when cutting would lose it; a headline is shortened for it, and
    a link without any room is left out.
    """
    head = write(headline)
    if size(head) + size(body) <= limit:
        return head + body
    needed = size(f"{link}\n") if link else 0
    if size(head) + needed > limit:
        if size(write("")) + _SHORT_HEADLINE + needed > limit:
            link, needed = "", 0
        room = limit - needed - size(write(""))
        while size(head) + needed > limit and room > 0:
            head = write(truncate_markup(headline, room))
            room -= max((size(head) + needed - limit) // 6, 1)  # a sign becomes six at most
    return head + fit_body(body, link, limit - size(head), size)


def fit_body(body: str, link: str, limit: float, size: Size = utf16) -> str:
    """A body within ``limit``; its beginning, and the link in any case that leaves room for it."""
    short = truncate_markup(body, limit, size)
    if short == body or not link or link in short:
        return short
    room = limit - size(f"{link}\n")
    return f"{link}\n{truncate_markup(body, room, size)}".rstrip("\n") if room >= 0 else short


def truncate_markup(text: str, limit: float, size: Size = utf16) -> str:
    """The beginning, with an ellipsis and no fence left open: whole lines, and the beginning of a long one."""
    if size(text) <= limit:
        return text
    room = limit - size(f"\n{_FENCE}\n{_ELLIPSIS}") if _FENCE in text else limit - size(_ELLIPSIS)
    if room <= 0:
        return _ELLIPSIS if size(_ELLIPSIS) <= limit else ""
    parts: list[str] = []
    for line in text.splitlines(keepends=True):
        needed = size(line)
        if needed > room:
            for token in _TOKEN.findall(line) if room > _SHORT_HEADLINE or not parts else ():
                room -= size(token)
                if room < 0:
                    break
                parts.append(token)
            break
        parts.append(line)
        room -= needed
    short = "".join(parts)
    return short.rstrip() + (f"\n{_FENCE}\n{_ELLIPSIS}" if short.count(_FENCE) % 2 else _ELLIPSIS)
