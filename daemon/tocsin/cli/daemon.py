"""The daemon's own state, for the verbs that show and change it: one way, its HTTP API.

With ``--url`` that is the API of a running daemon. Without it the store of the configuration is opened and the very
same API is served to this process alone, on loopback, as long as the verb runs; so a verb works the same way while
the daemon is down.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tocsin.cli import show
from tocsin.cli.exits import DONE, NO, NOT_ALLOWED, UNREACHABLE, USAGE, Failure, read_text
from tocsin.cli.verb import Daemon, load_config

if TYPE_CHECKING:
    import aiohttp

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Api:
    """One daemon's HTTP API, spoken to over one session. What it refuses is a ``Failure`` with its own words."""

    session: "aiohttp.ClientSession"
    base: str
    code = DONE

    @classmethod
    @asynccontextmanager
    async def open(cls, daemon: Daemon) -> AsyncIterator["Api"]:
        import aiohttp

        headers = {"Authorization": f"Bearer {_token(daemon.token_file)}"} if daemon.token_file else {}
        timeout = aiohttp.ClientTimeout(total=60, connect=10)
        try:
            async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
                if daemon.url is not None:
                    yield cls(session, daemon.url.rstrip("/"))
                    return
                async with _served_from_the_store(daemon.config) as base:
                    yield cls(session, base)
        except (aiohttp.ClientError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise Failure(f"cannot reach the daemon at {daemon.url}: {why}", UNREACHABLE) from None

    async def get(self, *path: str, **query: str) -> Answer:
        return await self._call("GET", path, query=query)

    async def post(self, *path: str, body: object = None) -> Answer:
        return await self._call("POST", path, body=body)

    async def delete(self, *path: str) -> Answer:
        return await self._call("DELETE", path)

    async def items(self, name: str, limit: int, **filters: str | None) -> list[Answer]:
        """Up to ``limit`` items of a list, page by page."""
        query, found = wanted(filters), list[Answer]()
        while len(found) < limit:
            page = await self.get(name, **query, limit=str(min(limit - len(found), 500)))
            found += page["items"]
            if page["next"] is None:
                break
            query["after"] = page["next"]
        return found

    async def stream(self, *path: str, **filters: str | None) -> AsyncIterator[Answer]:
        """What the daemon sends as it happens; without an end of its own."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
        async with self.session.get(self._url(path), params=wanted(filters), timeout=timeout) as response:
            await _complain(response)
            async for line in response.content:
                if line.startswith(b"data:"):
                    yield json.loads(line.removeprefix(b"data:"))

    def _url(self, path: Sequence[str]) -> str:
        return f"{self.base}/api/v1/{'/'.join(quote(part, safe='') for part in path)}"

    async def _call(
        self, method: str, path: Sequence[str], query: Mapping[str, str] | None = None, body: object = None
    ) -> Answer:
        async with self.session.request(method, self._url(path), params=query, json=body) as response:
            await _complain(response)
            text = await response.text()
        try:
            answer = json.loads(text) if text else {}
        except json.JSONDecodeError:
            raise Failure(f"{self.base} does not answer as Tocsin does: {text[:80]!r}", UNREACHABLE) from None
        return answer if isinstance(answer, dict) else {}


def listing(found: Sequence[Answer], row: Callable[[Answer], Answer], columns: Sequence[str], as_json: bool) -> None:
    """Print a list: as the API gave it, or a row of each."""
    if as_json:
        show.print_json(found)
    else:
        show.rows([row(one) for one in found], columns)


def wanted(filters: Mapping[str, str | None]) -> dict[str, str]:
    """The filters that were given; ``node`` is the label ``dss_node``."""
    return {"dss_node" if k == "node" else k: value for k, value in filters.items() if value is not None}


async def _complain(response: "aiohttp.ClientResponse") -> None:
    if response.status < 400:
        return
    text = await response.text()
    try:
        said = json.loads(text)
        words = said.get("detail") or said.get("title") or text
    except (json.JSONDecodeError, AttributeError):
        words = f"HTTP {response.status}"
    raise Failure(str(words), {400: USAGE, 401: NOT_ALLOWED, 403: NOT_ALLOWED}.get(response.status, NO))


def _token(file: Path) -> str:
    if not (token := read_text(file).strip()):
        raise Failure(f"{file} is empty")
    return token


@asynccontextmanager
async def _served_from_the_store(config: Path | None) -> AsyncIterator[str]:
    """A daemon on the store of ``config`` that does nothing but answer, beside another that may be running on it."""
    from tocsin.app.build import build
    from tocsin.app.logs import configure_logging
    from tocsin.app.reload import Source
    from tocsin.config.model import HttpConfig
    from tocsin.kit.clock import SystemClock
    from tocsin.store import StoreError

    configure_logging("warning", "auto")
    own = replace(load_config(config), http=HttpConfig(listen="127.0.0.1:0"))
    try:
        daemon = build(Source(config), own, SystemClock())
        await daemon.store.open(exclusive=False)
    except StoreError as error:
        raise Failure(str(error)) from None
    try:
        await daemon.listen()
        yield daemon.url
    finally:
        await daemon.stop(timedelta(0))
