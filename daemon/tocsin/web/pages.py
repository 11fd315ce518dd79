"""The pages for people, rendered on the server: the frame that all share, and how a page is made.

A page is a template and a function of ``views`` that reads what it shows; both run on a thread of the store's readers.
Texts from DSS are data: Jinja2 escapes every value, and the content security policy allows no script or style but our own
two files. What people change from a page is in ``forms``.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import NamedTuple
from urllib.parse import quote, urlencode

from aiohttp import web
from aiohttp.typedefs import Handler
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from multidict import MultiMapping

from tocsin import __version__
from tocsin.config.model import Config
from tocsin.kit.clock import format_duration, format_utc, human_duration, isoformat
from tocsin.model.cloudevent import Json
from tocsin.model.errors import error_text
from tocsin.model.labels import Matcher, Op
from tocsin.model.run import RunError
from tocsin.store import Connection, console
from tocsin.store.query import ErrorRecord
from tocsin.web.access import VIEWER
from tocsin.web.charts import LONGEST, OUTCOME_CLASSES
from tocsin.web.context import CONTEXT, HttpProblem

PAGE_SIZE = 100
_STATIC = {"tocsin.css": "text/css", "tocsin.js": "text/javascript"}
DONE = {
    "ack": "Acknowledged: its repeats stop until it ends.",
    "unack": "No longer acknowledged.",
    "resolve": "Resolved by hand. A rule that still holds fires it again.",
    "some": "Done for those that still fired; the others had ended meanwhile.",
    "silence": "The silence holds.",
    "expire": "The silence has ended.",
    "retry": "Sent again: what becomes of it stands below.",
    "reload": "The configuration was read again.",
    "reload_failed": "The configuration has errors, which stand below: the old one stays in force.",
    "test": "Test messages were enqueued: what becomes of them stands under Deliveries.",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a page is asked for, and what it may use to answer."""

    query: MultiMapping[str]
    place: Mapping[str, str]  # the parts of the path
    config: Config
    now: datetime
    status: Mapping[str, Json] = field(default_factory=dict)  # of the process, as ``/api/v1/status`` has it
    tasks: Mapping[str, bool] = field(default_factory=dict)

    @property
    def failing_channels(self) -> Mapping[str, str]:
        return self.status.get("failing_channels") or {}  # type: ignore[return-value] # by name, in words

    def text(self, name: str) -> str:
        return self.query.get(name, "").strip()

    def choice(self, name: str, among: Iterable[str], default: str = "") -> str:
        """A value of a closed set. Raises ``HttpProblem`` 400."""
        value, allowed = self.text(name), tuple(filter(None, among))
        if value and value not in allowed:
            raise HttpProblem(400, f"{name} is {value!r}; it is one of {', '.join(allowed)}")
        return value or default

    @property
    def first(self) -> int:
        """Where the part of a list begins that is shown."""
        page = self.query.get("page", "1")
        if not (page.isascii() and page.isdigit() and 0 < len(page) < 6):
            raise HttpProblem(400, "page must be a whole number from 1 on")
        return (max(int(page), 1) - 1) * PAGE_SIZE

    def first_of(self, total: int) -> int:
        """The same of a list of this length: the last page stands for those beyond it."""
        return min(self.first, max(total - 1, 0) // PAGE_SIZE * PAGE_SIZE)


class Slice(NamedTuple):
    """Which part of a list a page shows."""

    first: int
    last: int
    total: int
    more: str = ""  # after the total, where it is not exact

    @property
    def number(self) -> int:
        return self.first // PAGE_SIZE + 1


Read = Callable[[Connection, Asked], Mapping[str, object]]


# --- the frame ----------------------------------------------------------------------------------------------------------


def page(template: str, read: Read) -> Handler:
    """The handler of a page: what ``read`` answers are the values of the template."""

    async def handler(request: web.Request) -> web.Response:
        return await render_page(request, template, read)

    return handler


async def render_page(request: web.Request, template: str, read: Read, status: int = 200) -> web.Response:
    context, asked = request.app[CONTEXT], asked_of(request)
    frame = _frame(request, asked.now) | {"not_ready": context.ready()}
    text = await context.store.browse(_page_text, template, read, asked, frame)
    return web.Response(text=text, content_type="text/html", status=status)


def asked_of(request: web.Request) -> Asked:
    context = request.app[CONTEXT]
    return Asked(
        request.query, request.match_info, context.config(), context.clock.now(), context.status(), context.alive()
    )


def _page_text(connection: Connection, template: str, read: Read, asked: Asked, frame: Mapping[str, object]) -> str:
    values = {**frame, "firing": console.count_firing(connection), **read(connection, asked)}
    return _environment().get_template(template).render(values)


def render(template: str, **values: object) -> str:
    """A page that reads nothing from the store."""
    return _environment().get_template(template).render(values)


def _frame(request: web.Request, now: datetime) -> dict[str, object]:
    path = request.rel_url.raw_path
    return {
        "root": "../" * (path.count("/") - 1) or "./", "section": path.lstrip("/").partition("/")[0], "query": request.query, "now": now,
        "version": __version__, "done": DONE.get(request.query.get("done", "")), "errors": {}, **_viewer(request),
    }  # fmt: skip


def _viewer(request: web.Request) -> dict[str, object]:
    """Who looks at the page, what they may do, and what their forms must carry."""
    viewer = request.get(VIEWER)
    if viewer is None:
        return {"viewer_name": "", "may_change": False, "csrf_field": "", "logout": False}
    field = Markup('<input type="hidden" name="csrf" value="{}">').format(viewer.csrf) if viewer.csrf else ""
    return {"viewer_name": viewer.name if viewer.known else "", "may_change": viewer.may_change, "csrf_field": field,
            "logout": viewer.session}  # fmt: skip


@web.middleware
async def for_people(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Shows a problem as a page to those who ask for HTML, as browsers do."""
    response = await handler(request)
    wants_html = "text/html" in request.headers.get("Accept", "")
    if response.content_type != "application/problem+json" or not wants_html or not isinstance(response, web.Response):
        return response
    problem = json.loads(response.text or "{}")
    frame = _frame(request, request.app[CONTEXT].clock.now()) | {"firing": None, "not_ready": None}
    text = render("error.html", **frame, title=problem["title"], detail=problem["detail"], code=response.status,
                  problem=problem)  # fmt: skip
    kept = {name: response.headers[name] for name in ("Allow", "Retry-After") if name in response.headers}
    return web.Response(text=text, content_type="text/html", status=response.status, headers=kept)


async def static(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    if name == "icon.svg":
        return web.Response(text=_icon(request.query.get("firing", "0")), content_type="image/svg+xml")
    if name not in _STATIC:
        raise HttpProblem(404, "there is nothing at this address")
    return web.Response(text=_static_text(name), content_type=_STATIC[name], headers={"Cache-Control": "no-cache"})


@cache
def _static_text(name: str) -> str:
    return files("tocsin.web").joinpath("static", name).read_text("utf-8")


def _icon(firing: str) -> str:
    """A bell, with how many alerts fire."""
    count = int(firing) if firing.isascii() and firing.isdigit() and len(firing) < 7 else 0
    bell, badge = "#2f6f4f", ""
    if count:
        bell = "#b3261e"
        badge = (
            '<rect x="9" y="17" width="23" height="15" rx="7" fill="#fff"/><text x="20.5" y="29" font-size="13" '
            'font-weight="700" font-family="sans-serif" text-anchor="middle" fill="#b3261e">'
            f"{count if count < 100 else '99+'}</text>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><path fill="{bell}" d="M16 2a2.5 2.5 0 0 1 2.4 3.2'
        'A9 9 0 0 1 25 14v6l3 4v2H4v-2l3-4v-6a9 9 0 0 1 6.6-8.8A2.5 2.5 0 0 1 16 2zm-4 25h8a4 4 0 0 1-8 0z"/>'
        f"{badge}</svg>"
    )


# --- templates ----------------------------------------------------------------------------------------------------------


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tocsin.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    environment.filters.update(_FILTERS)
    environment.globals |= {"address": address, "identity": id}
    return environment


def address(query: MultiMapping[str], **changes: object) -> str:
    """The present address with other values in its query; None takes a name out. A change begins at the first page."""
    pairs = [(name, value) for name, value in query.items() if name not in (*changes, "page", "done") and value]
    for name, value in changes.items():
        pairs += [
            (name, str(item)) for item in (value if isinstance(value, list | tuple) else [value]) if item is not None
        ]
    return "?" + urlencode(pairs)


def _ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "never"
    passed = now - moment
    if abs(passed) < timedelta(seconds=1):
        return "now"
    return f"{human_duration(passed)} ago" if passed > timedelta(0) else f"in {human_duration(-passed)}"


def _span(seconds: float | timedelta | None) -> str:
    if seconds is None:
        return ""
    return human_duration(seconds if isinstance(seconds, timedelta) else timedelta(seconds=min(seconds, LONGEST)))


def _error_text(error: ErrorRecord) -> str:
    return error_text(RunError(error.message, error.code, error.title)) or error.code or ""


_FILTERS: dict[str, Callable[..., object]] = {
    "ago": _ago,
    "span": _span,
    "utc": format_utc,
    "iso": isoformat,
    "duration": format_duration,
    "error_text": _error_text,
    "tags_matcher": lambda tag: str(Matcher("tags", Op.REGEX, f".*,{re.escape(tag)},.*")),
    "part": lambda text: quote(text, safe=""),
    "number": lambda count: "" if count is None else f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}"),
    "outcome_class": lambda name: OUTCOME_CLASSES.get(name, "stopped"),
    "safe_url": lambda url: url if url and url.startswith(("https://", "http://")) else "",
    "pairs": lambda left, right: list(zip(left, right, strict=True)),
    "as_matcher": lambda value, name: str(Matcher(name, Op.EQUAL, value)),
    "as_query": lambda labels, name: urlencode(
        [(name, f"{Matcher(label, Op.EQUAL, labels[label])}") for label in labels]
    ),
}
