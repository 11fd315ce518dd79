"""An answer as it will leave, and the ways in which bytes leave a server: whole, cut, dripping, reset, never."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from aiohttp import web


class Wire(Enum):
    """How an answer leaves."""

    WHOLE = auto()
    NEVER = auto()
    """The request was read; nothing is ever said."""
    RESET = auto()
    """The connection is reset instead of an answer."""
    RESET_AFTER_HEADERS = auto()
    TRUNCATED = auto()
    """Half of the body that Content-Length promises, then an orderly close."""
    DRIP = auto()
    """All of it, a piece at a time: see ``Answer.drip_bytes`` and ``drip_seconds``."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers, body, and how they leave; ``delay`` in seconds comes before the first byte."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    gate: asyncio.Event | None = None
    """Wait for this before the first byte: what a delay is, without a clock."""
    wire: Wire = Wire.WHOLE
    drip_bytes: int = 1
    drip_seconds: float = 0.1

    @classmethod
    def of(cls, value: object, status: int = 200) -> Answer:
        return cls(status, json.dumps(value).encode())


async def send(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Let the answer leave in its way; a client that went away, or a closing server, ends this early."""
    if answer.delay:
        await asyncio.sleep(answer.delay)
    if answer.gate is not None:
        await answer.gate.wait()
    headers = {"Content-Type": answer.content_type, **answer.headers}
    match answer.wire:
        case Wire.WHOLE:
            return web.Response(status=answer.status, body=answer.body, headers=headers)
        case Wire.NEVER:
            await asyncio.Event().wait()
        case Wire.RESET:
            reset(request.transport)
        case Wire.RESET_AFTER_HEADERS | Wire.TRUNCATED | Wire.DRIP:
            response = web.StreamResponse(status=answer.status, headers=headers)
            response.content_length = len(answer.body)
            # A client that hangs up first must not look like a fault of this server.
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                await _partly(request, response, answer)
            return response
    return web.Response()


async def _partly(request: web.Request, response: web.StreamResponse, answer: Answer) -> None:
    if answer.wire is Wire.DRIP:
        for begin in range(0, len(answer.body), answer.drip_bytes):
            await response.write(answer.body[begin : begin + answer.drip_bytes])
            await asyncio.sleep(answer.drip_seconds)
        await response.write_eof()
        return
    await response.write(answer.body[: len(answer.body) // 2])
    if answer.wire is Wire.RESET_AFTER_HEADERS:
        reset(request.transport)
    elif request.transport is not None:
        request.transport.close()


def reset(transport: asyncio.BaseTransport | None) -> None:
    """Close so that the peer sees a reset, not an orderly end."""
    if isinstance(transport, asyncio.Transport) and not transport.is_closing():
        if (sock := transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
