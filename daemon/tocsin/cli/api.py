"""The daemon's own state, for the verbs that show and change it: one way, its HTTP API.

Without ``--url`` the store of the configuration is opened and the same API is served to this process alone, on
loopback, as long as the verb runs; so a verb works the same way while the daemon is down.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Annotated, Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import ProxyHandler, Request, build_opener

from tocsin.cli.exits import DONE, NO, NOT_ALLOWED, UNREACHABLE, USAGE, Failure, read_text
from tocsin.cli.verb import ConfigOption, Option, load_config

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    url: Annotated[
        str | None, Option(envvar="TOCSIN_URL", help="A running daemon; without it the store of the configuration.")
    ] = None
    token_file: Annotated[
        Path | None, Option(envvar="TOCSIN_TOKEN_FILE", help="A file with a token for the daemon at --url.")
    ] = None
    config: ConfigOption = None


@dataclass(frozen=True, slots=True)
class ApiClient:
    """One daemon's HTTP API. What it refuses is a ``Failure`` with its own words."""

    base: str
    headers: Mapping[str, str]
    config: Path | None = None
    code = DONE

    @classmethod
    @asynccontextmanager
    async def open(cls, daemon: DaemonOptions) -> AsyncIterator["ApiClient"]:
        headers = {"Content-Type": "application/json"}
        if daemon.token_file:
            if not (token := read_text(daemon.token_file).strip()):
                raise Failure(f"{daemon.token_file} is empty")
            headers["Authorization"] = f"Bearer {token}"
        if daemon.url is not None:
            yield cls(daemon.url.rstrip("/"), headers, daemon.config)
            return
        async with _serve_store(daemon.config) as base:
            yield cls(base, headers, daemon.config)

    async def request(
        self, method: str, *path: str, query: Mapping[str, Any] | None = None, body: object = None
    ) -> JsonObject:
        """The JSON object of an answer. Parts of a query that are None are left out."""

        def read() -> bytes:
            with self._open(method, path, query or {}, body) as response:
                return response.read()

        text = await asyncio.to_thread(read)
        try:
            answer = json.loads(text) if text else {}
        except ValueError:
            raise Failure(f"{self.base} does not answer as Tocsin does: {text[:80]!r}", UNREACHABLE) from None
        return answer if isinstance(answer, dict) else {}

    async def items(self, name: str, limit: int, **filters: Any) -> list[JsonObject]:
        """Up to ``limit`` items of a list, page by page."""
        items: list[JsonObject] = []
        while len(items) < limit:
            page = await self.request("GET", name, query={**filters, "limit": str(min(limit - len(items), 500))})
            items += page["items"]
            if page["next"] is None:
                break
            filters["after"] = page["next"]
        return items

    async def stream(self, *path: str, **filters: Any) -> AsyncIterator[JsonObject]:
        """What the daemon sends as it happens; without an end of its own."""
        response = await asyncio.to_thread(self._open, "GET", path, filters)
        with socket.fromfd(response.fileno(), socket.AF_INET, socket.SOCK_STREAM) as connection:
            try:
                while line := await asyncio.to_thread(response.readline):
                    if line.startswith(b"data:"):
                        yield json.loads(line.removeprefix(b"data:"))
                raise self._unreachable(ConnectionError("it has ended the stream"))
            except (OSError, HTTPException) as error:
                raise self._unreachable(error) from None
            finally:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)  # ends the thread that may still read

    def _open(self, method: str, path: Sequence[str], query: Mapping[str, Any], body: object = None) -> HTTPResponse:
        """The answer, to be read within 120 seconds each time. Blocks. Raises ``Failure``."""
        params = {"dss_node" if key == "node" else key: value for key, value in query.items() if value}
        url = f"{self.base}/api/v1/{'/'.join(quote(part, safe='') for part in path)}?{urlencode(params, doseq=True)}"
        data = None if body is None else json.dumps(body).encode()
        try:
            request = Request(url, data, dict(self.headers), method=method)
            opener = build_opener(ProxyHandler({}))
            answer: HTTPResponse = opener.open(request, timeout=120)
            return answer
        except HTTPError as error:
            text = error.read()
            try:
                problem = json.loads(text)
                message = problem.get("detail") or problem.get("title") or text.decode()
            except (ValueError, AttributeError):
                message = f"HTTP {error.code}"
            raise Failure(str(message), {400: USAGE, 401: NOT_ALLOWED, 403: NOT_ALLOWED}.get(error.code, NO)) from None
        except (OSError, HTTPException, ValueError) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> Failure:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        return Failure(f"cannot reach the daemon at {self.base}: {reason}", UNREACHABLE)


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
