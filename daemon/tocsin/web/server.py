"""The application, and the listener that serves it with bounds on bodies, headers and times."""

import asyncio
import re
from dataclasses import dataclass

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from tocsin.kit.proxy import is_loopback, split_listen
from tocsin.web.access import GATE, VIEWER, Access, Gate
from tocsin.web.context import CONTEXT, HttpProblem, WebContext, problems
from tocsin.web.login import login_address, see_other
from tocsin.web.pages import for_people
from tocsin.web.routes import HttpRoute, endpoints
from tocsin.web.stream import STREAMS, Streams, close_streams

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 256 * 1024
MAX_CONNECTIONS = 512
MAX_UNREAD_BYTES = 64 * 1024 * 1024
"""Bytes of large answers that clients have asked for and not yet read, all together."""
_CHUNK_BYTES = 64 * 1024
_WRITE_SECONDS = 10.0  # for a client to take a chunk
_HANDLER_SECONDS = 30.0
_QUIET = frozenset({Access.OPEN, Access.STATUS})
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def make_app(context: WebContext) -> web.Application:
    """The whole HTTP side on these seams. The rules of access follow ``http.listen`` as it is at the start."""
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_framed, for_people, problems, _bounded])
    app[CONTEXT] = context
    app[STREAMS] = Streams()
    app[_SILENT] = set()
    app[_UNREAD] = UnreadAnswers()
    app.on_shutdown.append(close_streams)
    routes = {(route.method, route.path): route for route in endpoints()}
    for (method, template), route in routes.items():
        path = re.sub(r"{(\w+)}", r"{\1:[^/]+}", template)  # aiohttp's own pattern takes no braces in a name
        if method == "GET" and not route.streams:
            app.router.add_get(path, route.handler)  # and HEAD
        else:
            app.router.add_route(method, path, route.handler)
    app[_ROUTES] = routes
    app[GATE] = Gate(open_to_others=not is_loopback(split_listen(context.config().http.listen)[0]))
    return app


@dataclass(frozen=True, slots=True)
class Listener:
    """A server that answers; ``port`` is the one in use, also where 0 was asked for."""

    runner: web.AppRunner
    server: asyncio.Server
    port: int

    async def close(self) -> None:
        """Stop listening, give open requests a moment, then cut them."""
        self.server.close()
        await self.runner.cleanup()


async def listen(app: web.Application, address: str, *, header_seconds: float = 10.0) -> Listener:
    """Serve ``app`` on ``HOST:PORT``. Raises ``OSError`` when the address cannot be had.

    Who connects and has not sent a whole request head after ``header_seconds`` is hung up on; aiohttp itself would
    wait for ever.
    """
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, shutdown_timeout=3.0, keepalive_timeout=75.0,
        max_line_size=8190, max_field_size=8190, max_headers=64, lingering_time=5.0,
    )  # fmt: skip
    await runner.setup()
    loop = asyncio.get_running_loop()
    make_protocol, silent = runner.server, app[_SILENT]
    assert make_protocol is not None

    def connect() -> asyncio.BaseProtocol:
        if len(make_protocol.connections) >= MAX_CONNECTIONS:
            log.warning("http_connection_refused", open=MAX_CONNECTIONS)
            return _Refused()
        protocol = make_protocol()
        silent.add(protocol)
        loop.call_later(header_seconds, hang_up, protocol)
        return protocol

    def hang_up(protocol: web.RequestHandler) -> None:
        if protocol in silent:
            silent.discard(protocol)
            if protocol.transport is not None:
                protocol.transport.abort()

    host, port = split_listen(address)
    try:
        server = await loop.create_server(connect, host, port, backlog=128)
    except OSError:
        await runner.cleanup()
        raise
    return Listener(runner, server, server.sockets[0].getsockname()[1])


class _Refused(asyncio.Protocol):
    """A connection over the limit, closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


@dataclass(slots=True)
class UnreadAnswers:
    bytes: int = 0  # of the bodies that are being written to clients


_SILENT = web.AppKey("silent", set[web.RequestHandler])
_UNREAD = web.AppKey("unread", UnreadAnswers)
_ROUTES = web.AppKey("routes", dict[tuple[str, str], HttpRoute])


@web.middleware
async def _framed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One log line and the security headers for every answer."""
    request.app[_SILENT].discard(request.protocol)
    began = request.app[CONTEXT].clock.monotonic()
    status: int | None = None
    try:
        response = await handler(request)
        status = response.status
        if not response.prepared:
            for name, value in _HEADERS.items():
                response.headers.setdefault(name, value)
        return await _paced(request, response)
    finally:
        route = _route(request)
        request.app[CONTEXT].count_request(route.path if route is not None else "other", status)
        write = log.debug if route is not None and route.access in _QUIET else log.info
        write(
            "http_request",
            method=request.method,
            path=request.path,
            status=status,
            subject=request[VIEWER].name if VIEWER in request else "unknown",
            peer=request.remote,
            seconds=round(request.app[CONTEXT].clock.monotonic() - began, 4),
        )


async def _paced(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Write a large body as fast as its client reads it, so that the transport never holds all of it.

    A client that takes no chunk for ten seconds is cut, and while too many bytes wait for their readers, others are
    asked to come again.
    """
    if response.prepared or request.method == "HEAD" or not isinstance(response, web.Response):
        return response
    body, unread = response.body, request.app[_UNREAD]
    if not isinstance(body, bytes) or len(body) <= _CHUNK_BYTES:
        return response
    if unread.bytes and unread.bytes + len(body) > MAX_UNREAD_BYTES:
        log.warning("http_answers_unread", bytes=unread.bytes, path=request.path)
        return HttpProblem(503, "too many clients have not read their answers yet", {"Retry-After": "10"}).response()
    paced = web.StreamResponse(status=response.status, reason=response.reason, headers=response.headers)
    paced.content_length = len(body)
    unread.bytes += len(body)
    try:
        async with asyncio.timeout(_WRITE_SECONDS):
            await paced.prepare(request)
        for start in range(0, len(body), _CHUNK_BYTES):
            async with asyncio.timeout(_WRITE_SECONDS):
                await paced.write(body[start : start + _CHUNK_BYTES])
        async with asyncio.timeout(_WRITE_SECONDS):
            await paced.write_eof()
    except TimeoutError:
        log.info("http_reader_cut", path=request.path, peer=request.remote)
        if request.transport is not None:
            request.transport.abort()
    finally:
        unread.bytes -= len(body)
    return paced


@web.middleware
async def _bounded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Access first, then the handler within its time."""
    route = _route(request)
    if route is None:
        return await handler(request)
    try:
        request[VIEWER] = await request.app[GATE].admit(request, route.access)
    except HttpProblem as problem:
        form = route.page and route.method == "POST" and "text/html" in request.headers.get("Accept", "")
        if problem.status == 401 and (route.is_page or form) and request.app[CONTEXT].config().http.tokens_file:
            return see_other(login_address(request, _page_segments(request, route)))
        raise
    if route.streams:
        return await handler(request)
    async with asyncio.timeout(_HANDLER_SECONDS):
        return await handler(request)


def _page_segments(request: web.Request, route: HttpRoute) -> int | None:
    """How many segments of the address of a form name its page; None for a page itself."""
    if route.method == "GET":
        return None
    parts, routes = route.path.lstrip("/").split("/"), request.app[_ROUTES]
    return next((n for n in range(len(parts), 0, -1) if ("GET", "/" + "/".join(parts[:n])) in routes), 0)


def _route(request: web.Request) -> HttpRoute | None:
    resource = request.match_info.route.resource
    method = "GET" if request.method == "HEAD" else request.method
    return None if resource is None else request.app[_ROUTES].get((method, resource.canonical))
