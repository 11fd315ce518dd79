"""What every handler shares: the seams to the rest of the process, problem+json, and the checked query of a list."""

import json
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from multidict import MultiMapping

from tocsin.config.model import Config
from tocsin.config.problems import ReloadResult
from tocsin.decide.external import PostedAlert
from tocsin.kit.clock import BadMoment, Clock, parse_moment
from tocsin.kit.strings import did_you_mean
from tocsin.metrics.exposition import Exposition
from tocsin.model.alert import Acknowledgement
from tocsin.model.cloudevent import Json
from tocsin.model.labels import BadMatcher, parse_matcher
from tocsin.model.run import ScenarioKey
from tocsin.store import Store, StoreError
from tocsin.store.explanation import AlertExplanation, RunExplanation
from tocsin.store.query import BadCursor, Narrow, is_storable

log = structlog.get_logger(__name__)

MAX_LIMIT = 1_000
DEFAULT_LIMIT = 100
PARAMETERS = ("limit", "after", "since", "until", "matcher")  # of every list
_MOMENTS = ("since", "until")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True, slots=True)
class WebContext:
    """The seams of ``make_app``. Callables that answer at once must not block; others may raise ``StoreUnavailable``.

    ``loop_turned_at`` is a monotonic time of ``clock``; ``ready`` answers None, or the reason why not. ``nudge`` takes
    a node and, where the hook named them, project and scenario, and answers whether a poll follows.
    ``resolve_alert`` takes an alert's id and who asks, ``acknowledge_alert`` an id, the acknowledgement or None, and who
    asks, ``retry_delivery`` a notification's id; they answer False for what is unknown or not in a state to be changed.
    ``retry_deliveries`` answers the ids of those that were dead. ``explain`` answers None for an unknown run,
    ``explain_alert`` for an id that no alert or several begin with. ``count_request`` takes the pattern of
    an address and the status of its answer. ``take_alerts`` takes alerts of others.
    """

    store: Store
    config: Callable[[], Config]
    clock: Clock
    exposition: Exposition
    alive: Callable[[], Mapping[str, bool]]
    loop_turned_at: Callable[[], float]
    ready: Callable[[], str | None]
    status: Callable[[], Mapping[str, Json]]
    reload: Callable[[], Awaitable[ReloadResult]]
    nudge: Callable[[str, str | None, str | None], bool]
    resolve_alert: Callable[[str, str], Awaitable[bool]]
    acknowledge_alert: Callable[[str, Acknowledgement | None, str], Awaitable[bool]]
    retry_delivery: Callable[[str], Awaitable[bool]]
    retry_deliveries: Callable[[Sequence[str]], Awaitable[Sequence[str]]]
    explain: Callable[[ScenarioKey, str], Awaitable[RunExplanation | None]]
    explain_alert: Callable[[str], Awaitable[AlertExplanation | None]]
    take_alerts: Callable[[Sequence[PostedAlert]], Awaitable[None]]
    count_request: Callable[[str, int | None], None] = lambda _route, _status: None


CONTEXT = web.AppKey("context", WebContext)


class HttpProblem(Exception):
    """A request that is answered with an error as problem+json (RFC 9457); ``detail`` is a sentence for the caller."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **more: object) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = more

    def response(self) -> web.Response:
        title = HTTPStatus(self.status).phrase
        body = {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail, **self.more}
        return web.Response(
            status=self.status, text=json.dumps(body), content_type="application/problem+json", headers=self.headers
        )


_SENTENCES = {
    404: "there is nothing at this address",
    405: "this address does not take that method",
    413: "the body is too large",
}


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers every error with a problem; unexpected ones are logged, and the caller learns nothing of them."""
    try:
        texts = (*request.match_info.values(), *(text for pair in request.query.items() for text in pair))
        if not all(map(is_storable, texts)):  # so that no handler has to think of it
            raise HttpProblem(400, "the path and the query may hold no NUL and nothing that is not Unicode")
        return await handler(request)
    except HttpProblem as problem:
        return problem.response()
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return HttpProblem(error.status, _SENTENCES.get(error.status, error.reason), headers).response()
    except BadCursor as error:
        return HttpProblem(400, str(error)).response()
    except StoreError as error:
        log.warning("http_store_unavailable", path=request.path, error=str(error))
        return HttpProblem(503, "the store cannot be used just now", {"Retry-After": "5"}).response()
    except TimeoutError:
        log.warning("http_timeout", path=request.path)
        return HttpProblem(503, "this took too long and was given up", {"Retry-After": "5"}).response()
    except Exception:
        log.exception("http_failed", method=request.method, path=request.path)
        return HttpProblem(500, "an error of Tocsin itself; its log says more").response()


@dataclass(frozen=True, slots=True)
class ListQuery:
    """``limit``, ``after`` and the filters of a list; a filter that stands twice accepts either value."""

    limit: int
    after: str | None
    filters: dict[str, tuple[str, ...]]
    narrow: Narrow


def list_query(
    request: web.Request, filters: Collection[str] | None, states: Collection[str] = (), others: Collection[str] = (),
    query: MultiMapping[str] | None = None,
) -> ListQuery:  # fmt: skip
    """The query of a list, so that a mistyped filter does not answer everything. Raises ``HttpProblem`` 400.

    ``filters`` None allows every name that could be a label, and the labels that the configuration adds are allowed in
    any case; ``states`` are the values of the filter ``state``, ``others`` further parameters, which are left out, and
    ``query`` stands in place of the request's own.
    """
    context, asked = request.app[CONTEXT], request.query if query is None else query
    config, own = context.config(), {*PARAMETERS, *others}
    names = [name for name in dict.fromkeys(asked) if name not in own]
    known = None if filters is None else {*filters, *config.added_labels}
    for name in names:
        if name not in known if known is not None else not _LABEL.fullmatch(name):
            allowed = ", ".join([*PARAMETERS, *others, *(sorted(known) if known is not None else ["labels"])])
            hint = did_you_mean(name, known or ())
            raise HttpProblem(400, f"{name!r} is not a filter of this list{hint}; it takes {allowed}")
    values = {name: tuple(asked.getall(name)) for name in names}
    for state in values.get("state", ()):
        if state and state not in states:
            raise HttpProblem(400, f"{state!r} is not a state of this list; it takes {', '.join(states)}")
    now = context.clock.now()
    try:
        matchers = tuple(parse_matcher(text) for text in asked.getall("matcher", ()) if text)
        since, until = (parse_moment(text, now) if (text := asked.get(name)) else None for name in _MOMENTS)
    except (BadMatcher, BadMoment) as error:
        raise HttpProblem(400, str(error)) from None
    limit = asked.get("limit")
    return ListQuery(
        DEFAULT_LIMIT if limit is None else whole_number(limit, "limit", 1, MAX_LIMIT),
        asked.get("after") or None,
        values,
        Narrow(matchers, since, until, config.extra_labels),
    )


def whole_number(text: str, name: str, least: int = 0, largest: int = 2**63 - 1) -> int:
    """A number from ``least`` to ``largest``. Raises ``HttpProblem`` 400."""
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or not least <= int(text) <= largest:
        raise HttpProblem(400, f"{name} must be a whole number from {least} to {largest}")
    return int(text)
