"""Text from DSS into messages: always data, never markup.

``clean`` comes first everywhere: names and errors may hold control characters, lone surrogates and marks that reverse
the direction of what follows. Then each format escapes what it would read as its own.
"""

import re

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


def clean(text: str) -> str:
    """Without what no display should get; line ends are ``\\n``."""
    text = _HARMFUL.sub("", _NEWLINE.sub("\n", text))
    return _SURROGATE.sub("\ufffd", text)


def one_line(text: str, most: int = 200) -> str:
    """On one line and not longer than ``most``: for names, subjects and headers."""
    return cut(" ".join(clean(text[: 10 * most]).split()), most)


def cut(text: str, most: int) -> str:
    """The beginning, with an ellipsis when something was left out."""
    return text if len(text) <= most else text[: max(most - 1, 0)].rstrip() + "…"


def tail(text: str, lines: int, most: int) -> str:
    """The last lines, not longer than ``most`` characters, with an ellipsis when something was left out."""
    last = "\n".join(clean(text).rstrip("\n").split("\n")[-lines:])
    return last if len(last) <= most else "…" + last[-(most - 1) :]


def quiet(text: str) -> str:
    """With mentions that would call everybody broken up."""
    return _MENTION.sub(f"@{_BREAKER}", text)


def text(value: str) -> str:
    return quiet(clean(value))


def markdown(value: str) -> str:
    """Literal in CommonMark and in the dialects of chats that know its backslash. No mention survives."""
    safe = _MARKDOWN.sub(r"\\\1", unmentioned(clean(value)))
    safe = _INDENT.sub(lambda found: "\u00a0" * len(found[0]), safe)  # four spaces would begin a block of code
    return _MARKDOWN_LINE.sub(lambda found: f"\\{found[1]}" if found[1] else f"{found[2]}\\", safe)


def chat(value: str) -> str:
    """Literal in any chat, however it reads markup: for services without an escape that can be depended on.

    Nothing is left that Markdown, HTML, WhatsApp's, Google Chat's, Zulip's or Feishu's signs are made of: pairs of signs
    are broken up by a space without width, signs of spans are replaced by ones that look the same.
    """
    safe = _CHAT_SPAN.sub(lambda found: _ALIKE[found[0]], unmentioned(clean(value)))
    return _CHAT_LINE.sub(_BREAKER, _CHAT_OPENS.sub(lambda found: found[0] + _BREAKER, safe))


def html(value: str) -> str:
    """Literal in HTML, between tags and in attributes."""
    return entities(clean(value)).replace('"', "&quot;").replace("'", "&#39;")


def entities(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def slack(value: str) -> str:
    """Literal in Slack's mrkdwn, which has no escape for its spans: those are broken up. No mention survives."""
    safe = entities(unmentioned(clean(value)))
    return _SLACK_SPAN.sub(lambda found: f"{_BREAKER}{found[0]}{_BREAKER}", safe.replace("`", "ˋ"))


def block(value: str) -> str:
    """Inside a fenced block of any dialect: nothing can close the fence early."""
    return unmentioned(clean(value)).replace("`", "ˋ")


def unmentioned(text: str) -> str:
    """With every mention broken up, of everybody and of single people."""
    return _ANY_MENTION.sub(f"@{_BREAKER}", quiet(text))
