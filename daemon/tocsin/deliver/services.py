"""What the services behind apprise make of a text, and how much of it they take. Pure.

apprise declares a format for each, which says what apprise would convert to, not what the service reads: many that it
calls plain read Markdown, HTML or signs of their own. It would also convert by itself, and with it text of DSS would
become markup again. So what is sent is written here for each service, and apprise passes it on as it is.
"""

import json
from dataclasses import dataclass
from enum import StrEnum

from tocsin.config.model import MessageFormat
from tocsin.deliver import escape, fit
from tocsin.deliver.dialect import DIALECTS, Dialect
from tocsin.deliver.fit import Size, utf16
from tocsin.deliver.render import Rendered


class Reads(StrEnum):
    """How a service shows what it is given."""

    PLAIN = "plain"  # as it is
    MARKDOWN = "markdown"  # as Markdown with CommonMark's backslash
    CARD = "card"  # as a card of Microsoft's
    CHAT = "chat"  # with signs of its own, and no escape to depend on
    HTML = "html"
    SLACK = "slack"
    MAIL = "mail"  # as a page of HTML


def _schemes(names: str) -> frozenset[str]:
    return frozenset(names.split())


_READS = {
    Reads.MAIL: _schemes(
        "mailto mailtos mailgun sendgrid ses azure o365 smtp2go sparkpost postmark resend brevo mailersend sendpulse groundmail"
    ),
    Reads.SLACK: _schemes("slack"),
    Reads.HTML: _schemes("tgram"),
    Reads.CARD: _schemes("workflow workflows"),
    # Source: the services' own help on formatting, which names the backslash.
    Reads.MARKDOWN: _schemes(
        "discord guilded fluxer fluxers revolt mmost mmosts webex wxteams kook github reddit twist ilert "
        "squadcast incidentio goalert goalerts simplepush spush nctalk nctalks humhub hassio hassios schan ryver"
    ),
    # Also services that pass text on to others (apprise, Matrix's bridges), and social ones, where @name calls a person.
    Reads.CHAT: _schemes(
        "apprise apprises matrix matrixs rocket rockets zulip gchat cliq zcliq zohocliq whapi evolution evolutions whatsapp gupshup signal "
        "signals lark feishu dingtalk wechat wecombot onebot onebots qq zalo kakao kakaotalk line viber threema groupme "
        "synology synologys stackfield notifiarr misskey misskeys mastodon mastodons toot toots bluesky bsky twitter tweet "
        "x nostr session sessions sogs deltachat deltachats zoom opsgenie jira xmatters pagertree firehydrant betterstack"
    ),
}  # fmt: skip
# Markdown services whose title is a field of its own and shown as it is; elsewhere it would be read as markup.
_TITLED = _schemes(
    "github reddit squadcast ilert incidentio goalert goalerts simplepush spush twist schan hassio hassios"
)


_SLACK_HEADER = 150  # characters of a header block, which apprise escapes by itself
# Services that show HTML when they are told that it is some.
_PAGES = _schemes("json jsons xml xmls form forms amqp amqps flock pushplus wecom wxpusher")


def in_json(text: str) -> int:
    """Length as a JSON body has it, in bytes."""
    return len(json.dumps(text)) - 2


def in_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


# Where a service's own limit is not the one that apprise keeps.
_LIMITS: dict[str, tuple[int, Size]] = {
    # Teams takes messages of 28 KB, the frame of the card included; apprise would cut at 1000 characters.
    **dict.fromkeys(("workflow", "workflows"), (24_000, in_json)),
    # A section of a block takes 3000 characters, as they stand.
    "slack": (2_900, len),
    # Rocket.Chat's default of Message_MaxAllowedSize.
    **dict.fromkeys(("rocket", "rockets"), (5_000, utf16)),
    # Above 4096 bytes ntfy makes a file out of a message.
    **dict.fromkeys(("ntfy", "ntfys"), (4_000, in_bytes)),
}


@dataclass(frozen=True, slots=True)
class Service:
    """How to write for one service. ``most`` is None where nothing is cut. ``title``: characters of its title field,
    0 when the headline belongs to the body."""

    reads: Reads
    kind: MessageFormat
    dialect: Dialect
    most: int | None
    size: Size
    title: int


def listed(schemes: set[str]) -> Reads | None:
    """How the service of a plugin with these schemes shows text, whatever its URL asks for."""
    return next((reads for reads, names in _READS.items() if schemes & names), None)


def reads(schemes: set[str], asked: str) -> Reads:
    """How the service of a plugin with these schemes shows text. ``asked``: the format that its URL asks for, or that
    apprise takes it for; it counts for services that show what they are told to."""
    known = listed(schemes)
    if known is not None:
        return known
    if asked == "markdown":
        return Reads.MARKDOWN
    return Reads.HTML if asked == "html" and schemes & _PAGES else Reads.PLAIN


def service(schemes: set[str], reads: Reads, template: str | None, body: int, title: int, *, inside: bool) -> Service:
    """``template``: the channel's; one that is named after a kind chooses that one. ``body`` and ``title``: what apprise
    holds for the service's limits; ``inside``: whether the title counts as part of the body."""
    kind = _kind(reads, template)
    most, size = next((_LIMITS[name] for name in sorted(schemes) if name in _LIMITS), (body, utf16))
    if reads in (Reads.MARKDOWN, Reads.CARD) and not schemes & _TITLED:
        title = 0
    if inside and title:
        most -= title + 2
    whole = reads is Reads.MAIL or schemes & {"irc", "ircs"}  # IRC is sent line by line
    return Service(reads, kind, _dialect(reads, kind), None if whole else most, size, title)


def shape(service: Service, rendered: Rendered) -> tuple[str, str]:
    """Title and body, as they are to arrive."""
    subject, text = rendered.subject, rendered.text or ""
    if service.reads is Reads.HTML:
        return _page(service, rendered)
    if service.reads is Reads.SLACK:
        return _slack(service, rendered)
    write = DIALECTS[service.dialect].write
    title = (escape.unmentioned if service.dialect is Dialect.MARKDOWN else write)(subject)
    if len(title) <= service.title:
        return title, text if service.most is None else fit.fit(text, rendered.link, service.most, service.size)
    title = fit.cut(title, service.title)  # and whole in the body
    marked = service.dialect in (Dialect.MARKDOWN, Dialect.CARD)

    def head(headline: str) -> str:
        return f"**{write(headline)}**\n\n" if marked else f"{write(headline)}\n"

    if service.most is None:
        return title, head(subject) + text
    return title, fit.compose(subject, head, rendered.link, text, service.most, service.size)


def _slack(service: Service, rendered: Rendered) -> tuple[str, str]:
    """The headline in a header block; one that is too long for it stands whole in the body."""
    headline, text = escape.unmentioned(rendered.subject), rendered.text or ""

    def size(title: str) -> int:
        return len(escape.entities(title))

    def head(headline: str) -> str:
        return f"*{escape.slack(headline)}*\n"

    title, most = fit.cut(headline, _SLACK_HEADER, size), service.most
    if title == headline:
        return title, (text if most is None else fit.fit(text, rendered.link, most, service.size)) or " "
    if most is None:
        return title, head(headline) + text
    return title, fit.compose(headline, head, rendered.link, text, most, service.size)


def _page(service: Service, rendered: Rendered) -> tuple[str, str]:
    """Plain text made HTML as a whole, whatever stands in it."""
    break_ = "\n" if service.title == 0 else "<br/>\n"

    def literal(text: str) -> str:
        return escape.entities(text).replace("\n", break_)

    def size(text: str) -> int:
        return service.size(literal(text))

    subject, text = escape.unmentioned(rendered.subject), escape.unmentioned(rendered.text or "")
    if len(subject) <= service.title:
        text = text if service.most is None else fit.fit(text, rendered.link, service.most, size)
        return subject, literal(text)
    whole = f"{subject}\n{text}"
    if service.most is not None:
        whole = fit.compose(subject, "{}\n".format, rendered.link, text, service.most - len("<b></b>"), size)
    head, _, rest = whole.partition("\n")
    return fit.cut(subject, service.title), f"<b>{literal(head)}</b>{break_}{literal(rest)}"


def _kind(reads: Reads, template: str | None) -> MessageFormat:
    fixed = {Reads.SLACK: MessageFormat.SLACK, Reads.MAIL: MessageFormat.MAIL}
    if reads in fixed:
        return fixed[reads]
    if template in set(MessageFormat):
        return MessageFormat(template)
    return MessageFormat.MARKDOWN if reads in (Reads.MARKDOWN, Reads.CARD) else MessageFormat.TEXT


def _dialect(reads: Reads, kind: MessageFormat) -> Dialect:
    """In which a template of this kind writes for a service that reads so."""
    match reads, kind:
        case (Reads.MAIL, _):
            return Dialect.MAIL
        case (Reads.HTML, _):
            return Dialect.TEXT  # and made HTML as a whole
        case (_, MessageFormat.SLACK):
            return Dialect.SLACK
        case (Reads.PLAIN, MessageFormat.MARKDOWN) | (Reads.MARKDOWN, MessageFormat.MARKDOWN):
            return Dialect.MARKDOWN
        case (_, MessageFormat.MARKDOWN):
            return Dialect.CARD
        case (Reads.PLAIN, _):
            return Dialect.TEXT
        case _:
            return Dialect.CHAT
