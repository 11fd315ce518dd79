"""The daemon's own state, for the verbs that show and change it: one way, its HTTP API.

Without ``--url`` the store of the configuration is opened and the same API is served to this process alone, on
loopback, as long as the verb runs; so a verb works the same way while the daemon is down.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from tocsin.cli.exits import DONE, NO, NOT_ALLOWED, UNREACHABLE, USAGE, Failure, read_text
from tocsin.cli.verb import ConfigOption, load_config

if TYPE_CHECKING:
    import aiohttp

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    url: Annotated[
        str | None,
        typer.Option(envvar="TOCSIN_URL", help="A running daemon; without it the store of the configuration."),
    ] = None
    token_file: Annotated[
        Path | None, typer.Option(envvar="TOCSIN_TOKEN_FILE", help="A file with a token for the daemon at --url.")
    ] = None
    config: ConfigOption = None


@dataclass(frozen=True, slots=True)
class ApiClient:
    """One daemon's HTTP API over one session. What it refuses is a ``Failure`` with its own words."""

    session: "aiohttp.ClientSession"
    base: str
    code = DONE

    @classmethod
    @asynccontextmanager
    async def open(cls, daemon: DaemonOptions) -> AsyncIterator["ApiClient"]:
        import aiohttp

        headers = {}
        if daemon.token_file:
            if not (token := read_text(daemon.token_file).strip()):
                raise Failure(f"{daemon.token_file} is empty")
            headers["Authorization"] = f"Bearer {token}"
        timeout = aiohttp.ClientTimeout(total=60, connect=10)
        try:
            async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
                if daemon.url is not None:
                    yield cls(session, daemon.url.rstrip("/"))
                    return
                async with _serve_store(daemon.config) as base:
                    yield cls(session, base)
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise Failure(f"cannot reach the daemon at {daemon.url}: {reason}", UNREACHABLE) from None

    async def request(
        self, method: str, *path: str, query: Mapping[str, str | None] | None = None, body: object = None
    ) -> JsonObject:
        """The JSON object of an answer. Parts of a query that are None are left out."""
        async with self._respond(method, path, query or {}, json=body) as response:
            text = await response.text()
        try:
            answer = json.loads(text) if text else {}
        except json.JSONDecodeError:
            raise Failure(f"{self.base} does not answer as Tocsin does: {text[:80]!r}", UNREACHABLE) from None
        return answer if isinstance(answer, dict) else {}

    async def items(self, name: str, limit: int, **filters: str | None) -> list[JsonObject]:
        """Up to ``limit`` items of a list, page by page."""
        items: list[JsonObject] = []
        while len(items) < limit:
            page = await self.request("GET", name, query={**filters, "limit": str(min(limit - len(items), 500))})
            items += page["items"]
            if page["next"] is None:
                break
            filters["after"] = page["next"]
        return items

    async def stream(self, *path: str, **filters: str | None) -> AsyncIterator[JsonObject]:
        """What the daemon sends as it happens; without an end of its own."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
        async with self._respond("GET", path, filters, timeout=timeout) as response:
            async for line in response.content:
                if line.startswith(b"data:"):
                    yield json.loads(line.removeprefix(b"data:"))

    @asynccontextmanager
    async def _respond(
        self, method: str, path: Sequence[str], query: Mapping[str, str | None], **options: Any
    ) -> AsyncIterator["aiohttp.ClientResponse"]:
        url = f"{self.base}/api/v1/{'/'.join(quote(part, safe='') for part in path)}"
        params = {"dss_node" if key == "node" else key: value for key, value in query.items() if value is not None}
        async with self.session.request(method, url, params=params, **options) as response:
            if response.status < 400:
                yield response
                return
            text = await response.text()
        try:
            problem = json.loads(text)
            message = problem.get("detail") or problem.get("title") or text
        except (json.JSONDecodeError, AttributeError):
            message = f"HTTP {response.status}"
        raise Failure(str(message), {400: USAGE, 401: NOT_ALLOWED, 403: NOT_ALLOWED}.get(response.status, NO))


@asynccontextmanager
async def _serve_store(config: Path | None) -> AsyncIterator[str]:
    """A daemon on the store of ``config`` that only answers, beside another that may be running on it."""
    from tocsin.app.build import Daemon
    from tocsin.app.logs import configure_logging
    from tocsin.app.reload import Source
    from tocsin.config.model import HttpConfig
    from tocsin.kit.clock import SystemClock
    from tocsin.store import StoreError

    configure_logging("warning", "auto")
    local = replace(load_config(config), http=HttpConfig(listen="127.0.0.1:0"))
    try:
        daemon = Daemon(Source(config), local, SystemClock())
        await daemon.store.open(exclusive=False)
    except StoreError as error:
        raise Failure(str(error)) from None
    try:
        await daemon.listen()
        yield daemon.url
    finally:
        await daemon.stop(timedelta(0))
