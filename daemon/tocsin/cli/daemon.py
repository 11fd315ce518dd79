"""The daemon's own state, for the verbs that show and change it: one way, its HTTP API.

With ``--url`` that is the API of a running daemon. Without it the store of the configuration is opened and the very
same API is served to this process alone, on loopback, as long as the verb runs; so a verb works the same way while
the daemon is down.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from tocsin.cli.configuration import ConfigOption, load_config
from tocsin.cli.exits import NO, NOT_ALLOWED, UNREACHABLE, fail

if TYPE_CHECKING:
    import aiohttp

    from tocsin.model.config import Config

T = TypeVar("T")
Answer = dict[str, Any]

UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar="TOCSIN_URL", help="A running daemon; without it the store of the configuration."),
]
TokenOption = Annotated[
    Path | None,
    typer.Option("--token-file", envvar="TOCSIN_TOKEN_FILE", help="A file with a token for the daemon at --url."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts.")]
LimitOption = Annotated[int, typer.Option(min=1, help="At most so many.")]

__all__ = ["Api", "ConfigOption", "JsonOption", "LimitOption", "TokenOption", "UrlOption", "ask", "wanted"]


@dataclass(frozen=True, slots=True)
class Api:
    """One daemon's HTTP API, spoken to over one session."""

    session: "aiohttp.ClientSession"
    base: str

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Answer:
        return await self._call("GET", path, query=query)

    async def post(self, path: str, body: object = None) -> Answer:
        return await self._call("POST", path, body=body)

    async def delete(self, path: str) -> Answer:
        return await self._call("DELETE", path)

    async def items(self, name: str, query: Mapping[str, str], limit: int) -> list[Answer]:
        """Up to ``limit`` items of a list, page by page."""
        found: list[Answer] = []
        after: Mapping[str, str] = {}
        while len(found) < limit:
            page = await self.get(f"/api/v1/{name}", {**query, **after, "limit": str(min(limit - len(found), 500))})
            found += page["items"]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        return found

    async def lines(self, path: str, query: Mapping[str, str]) -> AsyncIterator[str]:
        """The lines of a stream that does not end by itself."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
        async with self.session.get(self.base + path, params=query, timeout=timeout) as response:
            await _complain(response)
            async for line in response.content:
                yield line.decode("utf-8", "replace").rstrip("\r\n")

    async def _call(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> Answer:
        async with self.session.request(method, self.base + path, params=query, json=body) as response:
            await _complain(response)
            text = await response.text()
        try:
            answer = json.loads(text) if text else {}
        except json.JSONDecodeError:
            fail(f"{self.base} does not answer as Tocsin does: {text[:80]!r}", UNREACHABLE)
        return answer if isinstance(answer, dict) else {}


async def _complain(response: "aiohttp.ClientResponse") -> None:
    """Leave with the daemon's own words when it refused."""
    if response.status < 400:
        return
    text = await response.text()
    try:
        said = json.loads(text)
        words = said.get("detail") or said.get("title") or text
    except (json.JSONDecodeError, AttributeError):
        words = f"HTTP {response.status}"
    fail(str(words), NOT_ALLOWED if response.status in (401, 403) else NO)


def ask(work: Callable[[Api], Awaitable[T]], url: str | None, token_file: Path | None, config: Path | None) -> T:
    """Do ``work`` against the daemon's API; what goes wrong on the way is one line and an exit code."""
    import asyncio

    return asyncio.run(_ask(work, url, token_file, config))


async def _ask(work: Callable[[Api], Awaitable[T]], url: str | None, token_file: Path | None, config: Path | None) -> T:
    import aiohttp

    headers = {"Authorization": f"Bearer {_token(token_file)}"} if token_file else {}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=60, connect=10)) as session:
        try:
            if url is not None:
                return await work(Api(session, url.rstrip("/")))
            async with _served_from_the_store(load_config(config)) as base:
                return await work(Api(session, base))
        except (aiohttp.ClientError, TimeoutError) as error:
            fail(f"cannot reach the daemon at {url}: {str(error) or type(error).__name__}", UNREACHABLE)


def _token(file: Path) -> str:
    try:
        token = file.read_text("utf-8").strip()
    except OSError as error:
        fail(f"cannot read the token in {file}: {error.strerror}", NO)
    if not token:
        fail(f"{file} is empty", NO)
    return token


@asynccontextmanager
async def _served_from_the_store(config: "Config") -> AsyncIterator[str]:
    """The API over the store of ``config``, beside a daemon that may be running on it."""
    import structlog
    from prometheus_client import CollectorRegistry

    from tocsin.app.decide import resolve_by_hand
    from tocsin.app.explain import explain
    from tocsin.app.logs import configure_logging
    from tocsin.kit.clock import SystemClock
    from tocsin.metrics import Exposition
    from tocsin.model.config import Http
    from tocsin.model.run import ScenarioKey
    from tocsin.store import Store, StoreError, deliveries
    from tocsin.store.story import RunStory
    from tocsin.web import WebContext, listen, make_app

    configure_logging("warning", "auto")
    structlog.get_logger(__name__)
    clock, store = SystemClock(), Store(config.store.url)
    own = replace(config, http=Http(listen="127.0.0.1:0"))

    async def resolve(alert_id: str, _by: str) -> bool:
        return await store.write(resolve_by_hand, alert_id, clock.now(), own) is not None

    async def retry(notification_id: str) -> bool:
        return bool(await store.write(deliveries.retry, [notification_id], clock.now()))

    async def story(scenario: ScenarioKey, run_id: str) -> RunStory | None:
        return await store.read(explain, scenario, run_id, own)

    async def reload() -> Any:
        raise StoreError("there is no daemon here to reload; use --url")

    try:
        await store.open(exclusive=False)
    except StoreError as error:
        fail(str(error), NO)
    exposition = Exposition(CollectorRegistry())
    context = WebContext(
        store=store,
        config=lambda: own,
        clock=clock,
        exposition=exposition,
        alive=dict,
        loop_turned_at=clock.monotonic,
        ready=lambda: None,
        status=dict,
        reload=reload,
        nudge=lambda _node, _project, _scenario: False,
        resolve_alert=resolve,
        retry_delivery=retry,
        explain=story,
    )
    listener = await listen(make_app(context), own.http.listen)
    try:
        yield f"http://127.0.0.1:{listener.port}"
    finally:
        await listener.close()
        exposition.close()
        await store.close()


def wanted(**filters: str | None) -> dict[str, str]:
    """The filters that were given; ``node`` is the label ``dss_node``."""
    names = {"node": "dss_node"}
    return {names.get(name, name): value for name, value in filters.items() if value is not None}
