"""A real server on a free port."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from tests.web.harness import Daemon, Serve
from tocsin.config.tokens import Role, make_token
from tocsin.metrics.exposition import Exposition
from tocsin.store import Store
from tocsin.web.server import Listener, listen, make_app


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'tocsin.db'}")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def daemon(store: Store) -> AsyncIterator[Daemon]:
    exposition = Exposition(CollectorRegistry())
    daemon = Daemon(store, exposition)
    daemon.http(listen="127.0.0.1:0")
    yield daemon
    exposition.close()


@pytest.fixture
async def serve(daemon: Daemon) -> AsyncIterator[Serve]:
    """Starts the server with the daemon as it is now; answers a client for it."""
    listeners: list[Listener] = []
    clients: list[aiohttp.ClientSession] = []

    async def start() -> aiohttp.ClientSession:
        listener = await listen(make_app(daemon.context()), "127.0.0.1:0")
        listeners.append(listener)
        client = aiohttp.ClientSession(f"http://127.0.0.1:{listener.port}")
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()
    for listener in listeners:
        await listener.close()


@pytest.fixture
async def client(serve: Serve) -> aiohttp.ClientSession:
    return await serve()


@pytest.fixture
def tokens(daemon: Daemon, tmp_path: Path) -> dict[str, str]:
    """A tokens file with one token a role."""
    new = {role.value: make_token(f"{role.value}-token", role) for role in Role}
    path = tmp_path / "tokens"
    path.write_text("# who may do what\n" + "\n".join(line for _, line in new.values()) + "\n")
    daemon.http(tokens_file=str(path))
    return {role: token for role, (token, _) in new.items()}
