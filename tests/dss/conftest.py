"""A real HTTP server that answers from a script and remembers what it was asked."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from tocsin.dss import DSSClient

Answer = web.StreamResponse | dict[str, Any] | list[Any] | str | bytes | int | None


@dataclass
class Asked:
    method: str
    target: str  # raw, as it came over the wire
    headers: dict[str, str]
    body: bytes


@dataclass
class ScriptedDSS:
    """``answer`` is a value, or a (possibly async) function of the request that gives one."""

    answer: Any = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def targets(self) -> list[str]:
        return [asked.target for asked in self.asked]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(Asked(request.method, request.raw_path, dict(request.headers), await request.read()))
        answer = self.answer(request) if callable(self.answer) else self.answer
        if isinstance(answer, Awaitable):
            answer = await answer
        match answer:
            case web.StreamResponse():
                return answer
            case int():
                return web.Response(status=answer)
            case bytes():
                return web.Response(body=answer)
            case str():
                return web.Response(text=answer)
            case _:
                return web.json_response(answer)


@asynccontextmanager
async def serving(answer: Any, ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedDSS]:
    dss = ScriptedDSS(answer, scheme="https" if ssl_context else "http")
    runner = web.ServerRunner(web.Server(dss.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
    await site.start()
    dss.port = runner.addresses[0][1]
    try:
        yield dss
    finally:
        await runner.cleanup()


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[ScriptedDSS]]]:
    async with AsyncExitStack() as stack:

        async def start(answer: Any = None, ssl_context: ssl.SSLContext | None = None) -> ScriptedDSS:
            return await stack.enter_async_context(serving({} if answer is None else answer, ssl_context))

        yield start


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., DSSClient]]:
    """A client that does not wait between retries; closed at the end."""
    async with AsyncExitStack() as stack:

        def make(dss: ScriptedDSS | str, **options: Any) -> DSSClient:
            if not {"api_key", "jwt_bearer_token", "internal_ticket"} & options.keys():
                options["api_key"] = "secret-key"
            url = dss if isinstance(dss, str) else dss.url
            client = DSSClient(url, **{"sleep": lambda seconds: asyncio.sleep(0), "proxy": "", **options})
            stack.push_async_callback(client.close)
            return client

        yield make
