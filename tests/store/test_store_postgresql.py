"""PostgreSQL that dies without a word: every wait ends, and the store goes on when it can."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

import psycopg
import pytest
from sqlalchemy import Connection, insert, select, text

from tests.conftest import empty_postgres
from tests.e2e.tcp_proxy import TcpProxy, address, before_postgres
from tocsin.store import Store, StoreUnavailable, writer
from tocsin.store.engine import parse_url
from tocsin.store.schema import counters

pytestmark = pytest.mark.e2e
WITHIN_SECONDS = 60


def put(connection: Connection, name: str) -> str:
    connection.execute(insert(counters).values(name=name, value=1))
    return name


def names(connection: Connection) -> list[str]:
    return list(connection.execute(select(counters.c.name).order_by(counters.c.name)).scalars())


async def written(store: Store, name: str) -> str:
    """Write it once the store can be used; fails when that takes for ever.

    A server that dies between a commit and its answer has written it all the same: nobody can know but by reading.
    """

    def put_once(connection: Connection) -> str:
        return name if name in names(connection) else put(connection, name)

    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            try:
                return await store.write(put_once)
            except StoreUnavailable:
                await asyncio.sleep(0.1)


async def refused(work: Awaitable[object]) -> str:
    """Why the store could not be used just now."""
    async with asyncio.timeout(WITHIN_SECONDS):
        with pytest.raises(StoreUnavailable) as error:
            await work
        return str(error.value)


@pytest.fixture
async def proxy(postgres_url: str) -> AsyncIterator[TcpProxy]:
    empty_postgres(postgres_url)
    async with before_postgres(postgres_url) as proxy:
        yield proxy
        proxy.heal()


@pytest.fixture
async def store(proxy: TcpProxy) -> AsyncIterator[Store]:
    store = Store(address(proxy))
    await store.open()
    await store.write(put, "before")
    yield store
    proxy.heal()
    await store.close()


@pytest.fixture
def direct(postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


async def test_connections_that_went_silent_are_replaced_by_new_ones(store: Store, proxy: TcpProxy) -> None:
    await asyncio.gather(*(store.read(names) for _ in range(8)))  # each reader has a connection
    proxy.silence()
    assert await written(store, "after") == "after"
    async with asyncio.timeout(WITHIN_SECONDS):
        found = await asyncio.gather(*(store.read(names) for _ in range(8)), return_exceptions=True)
        assert ["after", "before"] in found
        assert await store.read(names) == ["after", "before"]


async def test_a_transaction_that_gets_no_answer_any_more_fails_its_caller(store: Store, proxy: TcpProxy) -> None:
    silent, loop = threading.Event(), asyncio.get_running_loop()

    def go_silent() -> None:
        proxy.silence()
        silent.set()

    def work(connection: Connection) -> None:
        put(connection, "lost")
        loop.call_soon_threadsafe(go_silent)
        silent.wait()
        put(connection, "lost too")

    await refused(store.write(work))
    assert await written(store, "after") == "after"
    assert await store.read(names) == ["after", "before"]


async def test_a_host_that_vanished_is_told_and_its_second_address_takes_over(postgres_url: str) -> None:
    empty_postgres(postgres_url)
    async with before_postgres(postgres_url) as first, before_postgres(postgres_url) as second:
        store = Store(address(first, second))
        await store.open()
        await store.write(put, "before")
        first.vanish()
        assert await written(store, "after") == "after"
        assert second.accepted > 0
        first.heal()
        await store.close()


async def test_a_way_that_swallows_everything_is_told_and_healed(store: Store, proxy: TcpProxy) -> None:
    proxy.vanish()
    await refused(store.write(put, "lost"))
    await refused(asyncio.ensure_future(store.write(put, "lost")))  # also when it has to connect first
    await refused(store.read(names))
    assert store.unavailable is not None
    proxy.heal()
    await written(store, "after")
    assert await store.read(names) == ["after", "before"]


async def test_a_server_that_refuses_is_told_and_found_again(store: Store, proxy: TcpProxy) -> None:
    proxy.refuse()
    await refused(store.write(put, "lost"))
    proxy.heal()
    await written(store, "after")


async def test_a_database_that_is_read_only_for_a_while_is_waited_for(store: Store, direct: psycopg.Connection) -> None:
    direct.execute("SET default_transaction_read_only = off")
    direct.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    direct.execute("SELECT pg_reload_conf()")
    try:
        async with asyncio.timeout(WITHIN_SECONDS):
            while not isinstance(await caught(store.write(put, "x")), StoreUnavailable):
                await store.write(lambda connection: connection.execute(text("DELETE FROM counters")) and None)
    finally:
        direct.execute("ALTER SYSTEM RESET default_transaction_read_only")
        direct.execute("SELECT pg_reload_conf()")
    await written(store, "after")


async def caught(work: Awaitable[object]) -> object:
    """Its result or its error."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - looked at by the test
        return error


async def test_a_row_that_somebody_keeps_locked_does_not_hold_the_writer(
    store: Store, direct: psycopg.Connection
) -> None:
    with direct.transaction():
        direct.execute("SELECT * FROM counters FOR UPDATE")
        change = "UPDATE counters SET value = 2"
        await refused(store.write(lambda c: c.execute(text(change)) and None))
        await written(store, "meanwhile")


async def test_a_leader_that_is_cut_off_in_its_transaction_does_not_keep_the_lease_locked(
    postgres_url: str, proxy: TcpProxy, store: Store
) -> None:
    held = await store.write(writer.acquire_lease, "one", datetime(2026, 3, 1, tzinfo=UTC))
    assert held
    stop, inside = threading.Event(), threading.Event()

    def work(connection: Connection) -> None:
        held.guard(connection)
        inside.set()
        stop.wait()

    hanging = asyncio.ensure_future(store.write(work))
    await asyncio.to_thread(inside.wait)
    proxy.vanish()
    other = Store(postgres_url)
    await other.open()
    async with asyncio.timeout(WITHIN_SECONDS):
        while isinstance(await caught(other.write(writer.acquire_lease, "two", datetime.now(UTC))), StoreUnavailable):
            await asyncio.sleep(0.1)
    stop.set()
    await refused(hanging)
    await other.close()


async def test_what_was_written_while_sessions_were_killed_stands_once(
    store: Store, direct: psycopg.Connection
) -> None:
    done = asyncio.Event()

    def kill() -> None:
        direct.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tocsin'")

    async def blows() -> None:
        for _ in range(84):
            await asyncio.to_thread(kill)
            await asyncio.sleep(0.02)
        done.set()

    killing = asyncio.create_task(blows())
    acknowledged: list[str] = []
    while not done.is_set():
        name = f"{len(acknowledged)}"
        with_name = await caught(store.write(put, name))
        if with_name == name or "duplicate key" in str(with_name):  # the answer to its commit was lost
            acknowledged.append(name)
    await killing
    await written(store, "after")
    assert sorted(await store.read(names)) == sorted([*acknowledged, "after", "before"])


async def test_a_server_that_crashes_and_recovers_is_waited_for(store: Store) -> None:
    """A session that is killed hard makes the server end all others and start anew."""
    os.kill(await store.read(lambda c: int(c.execute(text("SELECT pg_backend_pid()")).scalar_one())), signal.SIGKILL)
    await written(store, "after")
    assert await caught(store.write(put, "after that")) == "after that"
    async with asyncio.timeout(WITHIN_SECONDS):
        while await caught(store.read(names)) != ["after", "after that", "before"]:
            await asyncio.sleep(0.1)


async def test_connections_that_are_used_up_are_waited_for(
    store: Store, direct: psycopg.Connection, postgres_url: str
) -> None:
    taken: list[psycopg.Connection] = []
    for _ in range(2):  # those of the store too
        with suppress(psycopg.OperationalError):
            while True:
                taken.append(psycopg.connect(postgres_url))
        direct.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tocsin'")
    with suppress(psycopg.OperationalError):
        while True:
            taken.append(psycopg.connect(postgres_url))
    await refused(store.write(put, "lost"))
    for connection in taken:
        connection.close()
    await written(store, "after")


def test_a_migration_may_take_as_long_as_it_needs(postgres_url: str) -> None:
    from tocsin.store.engine import open_engines, unbounded

    url = parse_url(postgres_url)
    engine, _ = open_engines(url)
    with unbounded(engine, url).begin() as connection:
        assert connection.execute(text("SELECT 1 FROM pg_sleep(4)")).scalar_one() == 1
    engine.dispose()
