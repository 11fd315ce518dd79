"""Errors as problem+json (RFC 9457): one shape for every refusal, whoever raised it."""

import json
from collections.abc import Mapping
from http import HTTPStatus

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from tocsin.store import StoreError
from tocsin.store.query import BadCursor, storable

log = structlog.get_logger(__name__)


class Problem(Exception):
    """A request that is answered with an error; ``detail`` is a sentence for the caller."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **more: object) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = more

    def response(self) -> web.Response:
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }
        return web.Response(
            status=self.status, text=json.dumps(body), content_type="application/problem+json", headers=self.headers
        )


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns whatever went wrong into a problem; unexpected errors are logged, and say nothing to the caller."""
    try:
        _check_texts(request)
        return await handler(request)
    except Problem as problem:
        return problem.response()
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return Problem(error.status, _sentence(error), headers).response()
    except BadCursor as error:
        return Problem(400, str(error)).response()
    except StoreError as error:
        log.warning("http_store_unavailable", path=request.path, error=str(error))
        return Problem(503, "the store cannot be used just now", {"Retry-After": "5"}).response()
    except TimeoutError:
        log.warning("http_timeout", path=request.path)
        return Problem(503, "this took too long and was given up", {"Retry-After": "5"}).response()
    except Exception:
        log.exception("http_failed", method=request.method, path=request.path)
        return Problem(500, "an error of Tocsin itself; its log says more").response()


def _check_texts(request: web.Request) -> None:
    """Raises ``Problem`` 400 for a path or query with what no row can hold, so that no handler has to think of it."""
    texts = (*request.match_info.values(), *(text for pair in request.query.items() for text in pair))
    if not all(map(storable, texts)):
        raise Problem(400, "the path and the query may hold no NUL and nothing that is not Unicode")


def _sentence(error: web.HTTPException) -> str:
    match error.status:
        case 404:
            return "there is nothing at this address"
        case 405:
            return "this address does not take that method"
        case 413:
            return "the body is too large"
        case _:
            return error.reason
