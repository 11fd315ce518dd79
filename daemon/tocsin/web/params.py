"""The query of a request, checked: a mistyped filter must not answer everything."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from aiohttp import web

from tocsin.web.problems import Problem

MAX_LIMIT = 1_000
DEFAULT_LIMIT = 100
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True, slots=True)
class ListQuery:
    """``limit``, ``after`` and the filters of a list; a filter given twice accepts either value."""

    limit: int
    after: str | None
    wanted: dict[str, tuple[str, ...]]


def list_query(request: web.Request, filters: Collection[str] | None, states: Collection[str] = ()) -> ListQuery:
    """Raises ``Problem`` 400. ``filters`` None allows every name that could be a label; ``states`` are the values that
    the filter ``state`` may have."""
    names = dict.fromkeys(request.query)
    for name in names:
        if name in ("limit", "after"):
            continue
        if name not in filters if filters is not None else not _LABEL.fullmatch(name):
            known = ", ".join(sorted(filters)) if filters is not None else "labels"
            raise Problem(400, f"{name!r} is not a filter of this list; it takes limit, after and {known}")
    wanted = {name: tuple(request.query.getall(name)) for name in names if name not in ("limit", "after")}
    for state in wanted.get("state", ()):
        if state and state not in states:
            raise Problem(400, f"{state!r} is not a state of this list; it takes {', '.join(states)}")
    return ListQuery(_limit(request.query.get("limit")), request.query.get("after") or None, wanted)


def whole_number(text: str, name: str, least: int = 0, largest: int = 2**63 - 1) -> int:
    """A number from ``least`` to ``largest``. Raises ``Problem`` 400."""
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or not least <= int(text) <= largest:
        raise Problem(400, f"{name} must be a whole number from {least} to {largest}")
    return int(text)


def _limit(text: str | None) -> int:
    return DEFAULT_LIMIT if text is None else whole_number(text, "limit", 1, MAX_LIMIT)
