"""The dialects that messages are written in, and how each writes data so that it is shown literally. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tocsin.config.model import MessageFormat
from tocsin.deliver import escape


class Dialect(StrEnum):
    """How a service reads text, and so how data is written for it."""

    RAW = "raw"  # subjects: escaped later, by whoever knows the service
    MAIL = "mail"  # the text part of a mail
    TEXT = "text"  # shown as it is
    CHAT = "chat"  # read as markup that has no escape to depend on
    CARD = "card"  # Microsoft's cards: some Markdown, and escapes that differ between clients
    MARKDOWN = "markdown"
    SLACK = "slack"
    HTML = "html"


DIALECT_OF = {
    MessageFormat.TEXT: Dialect.TEXT,
    MessageFormat.MARKDOWN: Dialect.MARKDOWN,
    MessageFormat.SLACK: Dialect.SLACK,
    MessageFormat.MAIL: Dialect.MAIL,
}


@dataclass(frozen=True, slots=True)
class Writing:
    """How one format writes data, links, label–value lines and fenced blocks. What it gets is written already, but for
    the text of a block."""

    write: Callable[[str], str]
    link: Callable[[str, str], str] = lambda label, url: f"{label}: {url}"
    line: Callable[[str, str], str] = lambda label, value: f"{label}: {value}"
    fence: Callable[[str], str] = lambda text: f"```\n{escape.block(text)}\n```"


def _paragraphs(text: str) -> str:
    """For cards, which know no fences and join lines that are not apart."""
    return "\n\n".join(escape.chat(line) for line in text.split("\n"))


DIALECTS: dict[Dialect, Writing] = {
    Dialect.RAW: Writing(escape.clean, lambda label, url: url),
    Dialect.MAIL: Writing(escape.clean, fence=escape.clean),
    Dialect.TEXT: Writing(escape.text, fence=escape.text),
    Dialect.CHAT: Writing(escape.chat, fence=escape.chat),
    Dialect.CARD: Writing(
        lambda value: escape.chat(value).replace("\n", "\n\n"),
        lambda label, url: f"[{label}]({url})",
        lambda label, value: f"**{label}:** {value}",
        _paragraphs,
    ),
    Dialect.MARKDOWN: Writing(
        escape.markdown, lambda label, url: f"[{label}](<{url}>)", lambda label, value: f"**{label}:** {value}"
    ),
    Dialect.SLACK: Writing(
        escape.slack,
        lambda label, url: f"<{url.replace('&', '&amp;')}|{label}>",
        lambda label, value: f"*{label}:* {value}",
        lambda text: f"```\n{escape.entities(escape.block(text))}\n```",
    ),
    Dialect.HTML: Writing(
        escape.html,
        lambda label, url: f'<a href="{escape.html(url)}">{label}</a>',
        lambda label, value: f"<b>{label}:</b> {value}",
    ),
}
