"""Text from DSS in messages: always data, never markup. ``clean_text`` comes first everywhere, since names and errors
may hold anything; then each dialect escapes what it would read as its own markup."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote

# Control characters but tab and newline, direction marks and overrides, other invisible formatting, non-characters.
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufffe\uffff]")  # fmt: skip
_SURROGATE = re.compile("[\ud800-\udfff]")
_NEWLINE = re.compile("\r\n?")
_MENTION = re.compile(r"@(?=(?:everyone|here|channel|all|room|online)\b)", re.IGNORECASE)
_ANY_MENTION = re.compile(r"(?<![\w.+-])@(?=[^\s\u200b])")  # not the sign inside of a mail address
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#|~&!^])")
_MARKDOWN_LINE = re.compile(r"^([-+=])(?=[-+=\s]|$)|^(\d{1,9})(?=[.)](?:\s|$))", re.MULTILINE)
_INDENT = re.compile(r"^[ \t]+", re.MULTILINE)
_SLACK_SPAN = re.compile(r"(?<!\w)([*_~])|([*_~])(?!\w)")
_CHAT_SPAN = re.compile(r"[*~](?=\S)|(?<=\S)[*~]|(?<!\w)_(?=\S)|(?<=\S)_(?!\w)|`")
_CHAT_OPENS = re.compile(r"<(?=\S)|\[(?=\w+:)|\](?=[(\[:])|&(?=#?\w+;)|\\(?=[^\w\s])")
_CHAT_LINE = re.compile(r"^(?=[ \t]*(?:[#>|=+-]|\d{1,9}[.)]))", re.MULTILINE)
_ALIKE = {"*": "\u2217", "~": "\u223c", "_": "\u02cd", "`": "\u02cb"}  # signs that look the same and mean nothing
_BREAKER = "\u200b"  # a space without width


def clean_text(text: str) -> str:
    """Without what no display should get; line ends are ``\\n``."""
    return _SURROGATE.sub("\ufffd", _HARMFUL.sub("", _NEWLINE.sub("\n", text)))


def to_one_line(text: str, limit: int = 200) -> str:
    """On one line and not longer than ``limit``: for names, subjects and headers."""
    return truncate(" ".join(clean_text(text[: 10 * limit]).split()), limit)


def truncate(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: max(limit - 1, 0)].rstrip() + "…"


def break_mentions(text: str) -> str:
    return _ANY_MENTION.sub(f"@{_BREAKER}", _MENTION.sub(f"@{_BREAKER}", text))


def escape_entities(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def escape_text(value: str) -> str:
    """For services that show text as it is: only mentions of everybody are broken up."""
    return _MENTION.sub(f"@{_BREAKER}", clean_text(value))


def escape_markdown(value: str) -> str:
    """Literal in CommonMark and in the dialects of chats that know its backslash. No mention survives."""
    safe = _MARKDOWN.sub(r"\\\1", break_mentions(clean_text(value)))
    safe = _INDENT.sub(lambda match: "\u00a0" * len(match[0]), safe)  # four spaces would begin a block of code
    return _MARKDOWN_LINE.sub(lambda match: f"\\{match[1]}" if match[1] else f"{match[2]}\\", safe)


def escape_chat(value: str) -> str:
    """Literal in any chat, however it reads markup: for services without an escape that can be depended on. Pairs of
    signs are broken up by a space without width, signs of spans are replaced by ones that look the same."""
    safe = _CHAT_SPAN.sub(lambda match: _ALIKE[match[0]], break_mentions(clean_text(value)))
    return _CHAT_LINE.sub(_BREAKER, _CHAT_OPENS.sub(lambda match: match[0] + _BREAKER, safe))


def escape_html(value: str) -> str:
    return escape_entities(clean_text(value)).replace('"', "&quot;").replace("'", "&#39;")


def escape_slack(value: str) -> str:
    """Literal in Slack's mrkdwn, which has no escape for its spans: those are broken up. No mention survives."""
    safe = escape_entities(break_mentions(clean_text(value)))
    return _SLACK_SPAN.sub(lambda match: f"{_BREAKER}{match[0]}{_BREAKER}", safe.replace("`", "ˋ"))


def escape_block(value: str) -> str:
    """Inside a fenced block of any dialect: nothing can close the fence early."""
    return break_mentions(clean_text(value)).replace("`", "ˋ")


class Dialect(StrEnum):
    """How a service reads text, and so how data is written for it."""

    RAW = "raw"  # subjects: escaped later, when the service is known
    MAIL = "mail"  # the text part of a mail
    TEXT = "text"  # shown as it is
    CHAT = "chat"  # read as markup that has no escape to depend on
    CARD = "card"  # Microsoft's cards: some Markdown, and escapes that differ between clients
    MARKDOWN = "markdown"
    SLACK = "slack"
    HTML = "html"


@dataclass(frozen=True, slots=True)
class Formatter:
    """How a dialect writes data, links, lines and blocks. Only ``escape`` and ``fence`` take text as it is."""

    escape: Callable[[str], str]
    link: Callable[[str, str], str] = lambda label, url: f"{label}: {url}"
    line: Callable[[str, str], str] = lambda label, value: f"{label}: {value}"
    fence: Callable[[str], str] = lambda text: f"```\n{escape_block(text)}\n```"


FORMATTERS: dict[Dialect, Formatter] = {
    Dialect.RAW: Formatter(clean_text, lambda label, url: url),
    Dialect.MAIL: Formatter(clean_text, fence=clean_text),
    Dialect.TEXT: Formatter(escape_text, fence=escape_text),
    Dialect.CHAT: Formatter(escape_chat, fence=escape_chat),
    Dialect.CARD: Formatter(  # no fences, and lines that are not apart are joined
        lambda value: escape_chat(value).replace("\n", "\n\n"),
        lambda label, url: f"[{label}]({url})",
        lambda label, value: f"**{label}:** {value}",
        lambda text: "\n\n".join(map(escape_chat, text.split("\n"))),
    ),
    Dialect.MARKDOWN: Formatter(
        escape_markdown, lambda label, url: f"[{label}](<{url}>)", lambda label, value: f"**{label}:** {value}"
    ),
    Dialect.SLACK: Formatter(
        escape_slack,
        lambda label, url: f"<{url.replace('&', '&amp;')}|{label}>",
        lambda label, value: f"*{label}:* {value}",
        lambda text: f"```\n{escape_entities(escape_block(text))}\n```",
    ),
    Dialect.HTML: Formatter(
        escape_html,
        lambda label, url: f'<a href="{escape_html(url)}">{label}</a>',
        lambda label, value: f"<b>{label}:</b> {value}",
    ),
}


def web_address(url: str) -> str:
    """With everything percent-encoded that could end a link; empty for what is not http or https."""
    if not url[:8].lower().startswith(("http://", "https://")):
        return ""
    return quote(clean_text(url), safe="/:?#[]@!$&'*+,;=%~.-_")


def format_link(dialect: Dialect, label: str, url: str) -> str:
    formatter = FORMATTERS[dialect]
    return formatter.link(formatter.escape(label), web_address(url) or "about:blank")
