"""Events as server-sent events, for tools that want to know at once.

A stream begins now, or after the ``seq`` that ``Last-Event-ID`` or ``after`` names, and reads rows like any other
reader: what was missed while the connection was down is sent after it. Streams are few, a slow reader is cut, and a
token that was withdrawn ends its stream.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
from aiohttp import web

from tocsin.store import StoreUnavailable
from tocsin.store.console import change_mark
from tocsin.store.events import last_seq
from tocsin.web.access import GATE, Access
from tocsin.web.context import CONTEXT, HttpProblem, ListQuery, list_query, whole_number
from tocsin.web.reads import EVENT_FILTERS, CloudEventPage, read_events

log = structlog.get_logger(__name__)

MAX_STREAMS = 50
BATCH = 200
_POLL_SECONDS = 1.0
_HEARTBEAT_POLLS = 15
_WRITE_SECONDS = 10.0
_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(slots=True)
class Streams:
    """The open streams of one application by their path, so that those of pages keep no tool from its own.

    ``mark`` is the newest that the poller of all pages has read."""

    open: Counter[str] = field(default_factory=Counter)
    mark: str = ""
    poller: asyncio.Task[None] | None = None
    closing: asyncio.Event = field(default_factory=asyncio.Event)


STREAMS = web.AppKey("streams", Streams)


async def stream(request: web.Request) -> web.StreamResponse:
    context = request.app[CONTEXT]
    asked = list_query(request, EVENT_FILTERS)
    last_id = request.headers.get("Last-Event-ID") or asked.after
    if last_id is None:
        after = await context.store.browse(last_seq)
    else:
        after = whole_number(last_id, "Last-Event-ID")
    return await _streamed(request, lambda response: _follow(request, response, asked, after))


async def live(request: web.Request) -> web.StreamResponse:
    """Says ``change`` whenever something has happened that pages show."""
    return await _streamed(request, lambda response: _follow_marks(request, response))


async def _streamed(
    request: web.Request, follow: Callable[[web.StreamResponse], Awaitable[None]]
) -> web.StreamResponse:
    streams, path = request.app[STREAMS], request.path
    if streams.open[path] >= MAX_STREAMS:
        raise HttpProblem(503, f"{MAX_STREAMS} streams are open already", {"Retry-After": "30"})
    streams.open[path] += 1
    response = web.StreamResponse(headers=_HEADERS)
    try:
        await response.prepare(request)
        await follow(response)
        return response
    except (ConnectionError, TimeoutError) as error:
        log.info("event_stream_cut", peer=request.remote, error=type(error).__name__)
        return response
    finally:
        streams.open[path] -= 1


async def close_streams(app: web.Application) -> None:
    app[STREAMS].closing.set()


async def _follow(request: web.Request, response: web.StreamResponse, asked: ListQuery, after: int) -> None:
    context, closing = request.app[CONTEXT], request.app[STREAMS].closing
    quiet = 0
    await _write(response, ": these are tocsin's events\n\n")
    while not closing.is_set() and await _still_admitted(request):
        try:
            page = await context.store.browse(read_events, asked.filters, BATCH, after, asked.narrow)
        except StoreUnavailable:
            page = CloudEventPage([], after, more=False)
        if page.events:
            messages = (
                f"id: {event['seq']}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in page.events
            )
            await _write(response, "".join(messages))
            quiet = 0
        after = page.seq
        if not page.more:
            await _pause(request.app[STREAMS])
            quiet += 1
        if quiet >= _HEARTBEAT_POLLS:
            await _write(response, ": heartbeat\n\n")
            quiet = 0


async def _follow_marks(request: web.Request, response: web.StreamResponse) -> None:
    streams = request.app[STREAMS]
    if streams.poller is None or streams.poller.done():
        await _read_mark(request.app)
    before, quiet = streams.mark, 0
    await _write(response, ": tocsin says when its pages change\n\n")
    while not streams.closing.is_set() and await _still_admitted(request):
        if streams.poller is None or streams.poller.done():
            streams.poller = asyncio.create_task(_poll_marks(request.app), name="page-marks")
        if before != streams.mark:
            before, quiet = streams.mark, 0
            await _write(response, "event: change\ndata: \n\n")
        await _pause(streams)
        quiet += 1
        if quiet >= _HEARTBEAT_POLLS:
            await _write(response, ": heartbeat\n\n")
            quiet = 0


async def _poll_marks(app: web.Application) -> None:
    """Read the mark for all pages while one of them is open."""
    while app[STREAMS].open["/live"] and not app[STREAMS].closing.is_set():
        await _read_mark(app)
        await _pause(app[STREAMS])


async def _read_mark(app: web.Application) -> None:
    with contextlib.suppress(StoreUnavailable):
        app[STREAMS].mark = await app[CONTEXT].store.browse(change_mark)


async def _pause(streams: Streams) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_POLL_SECONDS):
            await streams.closing.wait()


async def _write(response: web.StreamResponse, text: str) -> None:
    """Raises ``TimeoutError`` for a reader that does not read, ``ConnectionError`` for one that left."""
    async with asyncio.timeout(_WRITE_SECONDS):
        await response.write(text.encode())


async def _still_admitted(request: web.Request) -> bool:
    try:
        await request.app[GATE].admit(request, Access.READ)
    except HttpProblem:
        return False
    return True
