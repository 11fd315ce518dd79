"""Events as server-sent events, for tools that want to know at once.

A stream begins now, or after the ``seq`` that ``Last-Event-ID`` or ``after`` names, and reads rows like any other
reader: what was missed while the connection was down is sent after it. Streams are few, a slow reader is cut, and a
token that was withdrawn ends its stream.
"""

import asyncio
import json
from dataclasses import dataclass, field

import structlog
from aiohttp import web

from tocsin.model.cloudevent import Json
from tocsin.store import StoreUnavailable
from tocsin.store.events import last_seq
from tocsin.store.query import LabelFilters
from tocsin.web.access import GATE, Access
from tocsin.web.context import CONTEXT, HttpProblem, WebContext, list_query, whole_number
from tocsin.web.reads import EVENT_FILTERS, CloudEventPage, read_events

log = structlog.get_logger(__name__)

MAX_STREAMS = 50
BATCH = 200
_LOOK_EVERY_SECONDS = 1.0
_HEARTBEAT_LOOKS = 15
_WRITE_SECONDS = 10.0
_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(slots=True)
class Streams:
    """The open streams of one application."""

    open: int = 0
    closing: asyncio.Event = field(default_factory=asyncio.Event)


STREAMS = web.AppKey("streams", Streams)


async def stream(request: web.Request) -> web.StreamResponse:
    context, streams = request.app[CONTEXT], request.app[STREAMS]
    asked = list_query(request, EVENT_FILTERS)
    last_id = request.headers.get("Last-Event-ID") or asked.after
    if last_id is None:
        after = await context.store.browse(last_seq)
    else:
        after = whole_number(last_id, "Last-Event-ID")
    if streams.open >= MAX_STREAMS:
        raise HttpProblem(503, f"{MAX_STREAMS} streams are open already", {"Retry-After": "30"})
    streams.open += 1
    response = web.StreamResponse(headers=_HEADERS)
    try:
        await response.prepare(request)
        await _follow(request, response, asked.filters, after)
        return response
    except (ConnectionError, TimeoutError) as error:
        log.info("event_stream_cut", peer=request.remote, error=type(error).__name__)
        return response
    finally:
        streams.open -= 1


async def close_streams(app: web.Application) -> None:
    app[STREAMS].closing.set()


async def _follow(request: web.Request, response: web.StreamResponse, wanted: LabelFilters, after: int) -> None:
    context, closing = request.app[CONTEXT], request.app[STREAMS].closing
    quiet = 0
    await _write(response, ": these are tocsin's events\n\n")
    while not closing.is_set() and await _still_admitted(request):
        found = await _read(context, wanted, after)
        if found.events:
            await _write(response, "".join(_message(event) for event in found.events))
            quiet = 0
        after = found.seq
        if not found.more:
            await _pause(closing)
            quiet += 1
        if quiet >= _HEARTBEAT_LOOKS:
            await _write(response, ": heartbeat\n\n")
            quiet = 0


async def _read(context: WebContext, wanted: LabelFilters, after: int) -> CloudEventPage:
    try:
        return await context.store.browse(read_events, wanted, BATCH, after)
    except StoreUnavailable:
        return CloudEventPage([], after, more=False)  # the next look tries again


async def _write(response: web.StreamResponse, text: str) -> None:
    """Raises ``TimeoutError`` for a reader that does not read, ``ConnectionError`` for one that left."""
    async with asyncio.timeout(_WRITE_SECONDS):
        await response.write(text.encode())


def _message(event: dict[str, Json]) -> str:
    return f"id: {event['seq']}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n"


async def _still_admitted(request: web.Request) -> bool:
    try:
        await request.app[GATE].admit(request, Access.READ, request.app[CONTEXT].config().http)
    except HttpProblem:
        return False
    return True


async def _pause(closing: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(_LOOK_EVERY_SECONDS):
            await closing.wait()
    except TimeoutError:
        return
