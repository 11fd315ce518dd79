"""Messages within a service's limit. Pure.

The most useful is never cut: what happened, and the link to it. What is too long loses its end, at a line where
possible, and never in the middle of an escape, an entity, a tag or a link.
"""

import re
from collections.abc import Callable

_TOKEN = re.compile(
    r"\\(?:&#?\w{1,8};|.)|&#?\w{1,8};|<[^<>\n]{1,2000}>|\[(?:\\.|[^\[\]\\\n]){0,500}\]\(<?[^<>()\n]{1,2000}>?\)|\*\*|.",
    re.DOTALL,
)
_ELLIPSIS = "…"
_FENCE = "```"
_SHORT_HEADLINE = 60  # what is left of a headline at least, or the link goes where both have no room

Size = Callable[[str], int]


def utf16(text: str) -> int:
    """Length as most services count: in UTF-16 units, of which a sign beyond the basic plane takes two."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def compose(headline: str, write: Callable[[str], str], link: str, body: str, most: int, size: Size = utf16) -> str:
    """Headline and body as one text within ``most``.

    ``write`` makes the headline, which is plain, one of the dialect; it ends with what stands between it and the body.
    ``link`` and ``body`` are in the dialect already. The link is put under the headline when cutting would lose it; where
    a limit has no room for both, the headline is shortened, and a link that has no room at all is left out.
    """
    head = write(headline)
    if size(head) + size(body) <= most:
        return head + body
    wanted = size(f"{link}\n") if link else 0
    if size(head) + wanted > most:
        if size(write("")) + _SHORT_HEADLINE + wanted > most:
            link, wanted = "", 0
        room = most - wanted - size(write(""))
        while size(head) + wanted > most and room > 0:
            head = write(cut(headline, room))
            room -= max((size(head) + wanted - most) // 6, 1)  # a sign becomes six at most
    return head + fit(body, link, most - size(head), size)


def fit(body: str, link: str, most: int, size: Size = utf16) -> str:
    """A body within ``most``; its beginning, and the link in any case that leaves room for it."""
    if size(body) <= most:
        return body
    kept = cut(body, most, size)
    if not link or link in kept:
        return kept
    room = most - size(f"{link}\n")
    return f"{link}\n{cut(body, room, size)}".rstrip("\n") if room >= 0 else kept


def cut(text: str, most: int, size: Size = utf16) -> str:
    """The beginning of a text, an ellipsis where something was left out, and no fence left open."""
    if size(text) <= most:
        return text
    room = most - size(f"\n{_FENCE}\n{_ELLIPSIS}") if _FENCE in text else most - size(_ELLIPSIS)
    if room <= 0:
        return _ELLIPSIS if size(_ELLIPSIS) <= most else ""
    kept = _begin(text, room, size)
    return (kept.rstrip() + f"\n{_FENCE}\n{_ELLIPSIS}") if kept.count(_FENCE) % 2 else kept.rstrip() + _ELLIPSIS


def _begin(text: str, room: int, size: Size) -> str:
    """Whole lines as far as there is room; of a long one that has none its beginning."""
    kept: list[str] = []
    for line in text.splitlines(keepends=True):
        needs = size(line)
        if needs > room:
            if room > _SHORT_HEADLINE or not kept:
                kept += _tokens(line, room, size)
            break
        kept.append(line)
        room -= needs
    return "".join(kept)


def _tokens(line: str, room: int, size: Size) -> list[str]:
    kept: list[str] = []
    for token in _TOKEN.findall(line):
        room -= size(token)
        if room < 0:
            break
        kept.append(token)
    return kept
