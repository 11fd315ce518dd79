"""Whatever goes wrong on the writer's thread, every caller gets an answer."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import IntegrityError

from tocsin.store import Store, StoreFailed, StoreUnavailable
from tocsin.store import writer as writer_module
from tocsin.store.writer import Writer

WITHIN_SECONDS = 30


async def answer(work: "asyncio.Future[object] | asyncio.Task[object]") -> object:
    """What became of it, as a value; fails when nobody answers."""
    async with asyncio.timeout(WITHIN_SECONDS):
        (result,) = await asyncio.gather(work, return_exceptions=True)
        return result


def value(connection: Connection) -> int:
    return int(connection.execute(text("SELECT 1")).scalar_one())


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return create_engine(f"sqlite:///{tmp_path / 'a.db'}", connect_args={"check_same_thread": False})


@pytest.mark.parametrize("moment", ["begin", "commit"])
@pytest.mark.parametrize("error", [MemoryError(), KeyError("x"), RecursionError(), SystemError(), StopIteration()])
async def test_an_error_at_begin_or_commit_fails_the_caller_and_not_the_next(
    engine: Engine, moment: str, error: BaseException
) -> None:
    broken = [error]

    def fail(_connection: Connection) -> None:
        if broken:
            raise broken.pop()

    event.listen(engine, moment, fail)
    writer = Writer(engine)
    writer.start()

    async def write() -> object:
        return await writer.submit(lambda connection, _items: [value(connection)], None, None)

    assert isinstance(await answer(asyncio.ensure_future(write())), Exception)
    assert await answer(asyncio.ensure_future(write())) == 1
    await writer.close()
    engine.dispose()


async def test_a_constraint_that_fails_at_the_commit_fails_alone(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'a.db'}")
    await store.open()

    def tables(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE one (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql(
            "CREATE TABLE two (id INTEGER PRIMARY KEY, one INTEGER REFERENCES one DEFERRABLE INITIALLY DEFERRED)"
        )
        connection.exec_driver_sql("INSERT INTO one VALUES (1)")

    await store.write(tables)

    def put(connection: Connection, id: int, one: int) -> int:
        connection.exec_driver_sql("INSERT INTO two VALUES (?, ?)", (id, one))
        return id

    writes = [asyncio.ensure_future(store.write(put, id, 7 if id == 5 else 1)) for id in range(9)]
    answers = [await answer(write) for write in writes]
    assert [isinstance(one, IntegrityError) for one in answers] == [id == 5 for id in range(9)]
    assert await store.write(put, 10, 1) == 10
    await store.close()


@pytest.mark.parametrize("error", [StopIteration(), MemoryError(), asyncio.CancelledError(), GeneratorExit()])
async def test_an_odd_error_of_one_function_fails_its_caller_alone(tmp_path: Path, error: BaseException) -> None:
    store = Store(f"sqlite:///{tmp_path / 'a.db'}")
    await store.open()

    def fail(_connection: Connection) -> None:
        raise error

    bad = asyncio.ensure_future(store.write(fail))
    assert isinstance(await answer(bad), BaseException)
    assert await answer(asyncio.ensure_future(store.write(value))) == 1
    bad = asyncio.ensure_future(store.read(fail))
    assert isinstance(await answer(bad), BaseException)
    assert await answer(asyncio.ensure_future(store.read(value))) == 1
    await store.close()


def scribble(path: Path) -> None:
    """Write nonsense over all that SQLite keeps of a database."""
    for file in path.parent.glob(f"{path.name}*"):
        if not file.name.endswith((".lock", "-shm")):
            with file.open("r+b") as opened:
                opened.write(os.urandom(max(file.stat().st_size, 4096)))


@pytest.mark.parametrize("use", [Store.write, Store.read], ids=["writing", "reading"])
async def test_a_scribbled_file_fails_all_callers_and_the_watch_of_the_store(
    tmp_path: Path, use: Callable[..., Any]
) -> None:
    store = Store(f"sqlite:///{tmp_path / 'a.db'}")
    await store.open()
    watch = asyncio.ensure_future(store.watch())
    assert store.alive
    await store.close()  # so that nothing is left in the write-ahead log, nor in memory
    await store.open()
    scribble(tmp_path / "a.db")
    calls = [asyncio.ensure_future(use(store, value_of_table)) for _ in range(3)]
    assert [type(await answer(call)) for call in calls] == [StoreFailed] * 3
    assert type(await answer(watch)) is StoreFailed
    if use is Store.write:
        assert type(await answer(asyncio.ensure_future(store.write(value)))) is StoreFailed
        assert not store.alive
    assert store.unavailable is not None
    await store.close()


def value_of_table(connection: Connection) -> object:
    return connection.execute(text("SELECT count(*) FROM counters")).scalar_one()


class Broken(asyncio.SelectorEventLoop):
    """A loop that once cannot take what a thread has for it."""

    broken = False

    def call_soon_threadsafe(self, *args, **kwargs):  # type: ignore[override]
        if self.broken:
            self.broken = False
            raise MemoryError
        return super().call_soon_threadsafe(*args, **kwargs)


def test_a_writer_that_cannot_go_on_fails_who_waits_and_who_comes_later(tmp_path: Path) -> None:
    async def play() -> None:
        store = Store(f"sqlite:///{tmp_path / 'a.db'}")
        await store.open()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Broken)
        loop.broken = True
        waiting = [asyncio.ensure_future(store.write(value)) for _ in range(3)]
        assert {type(await answer(one)) for one in waiting} == {StoreFailed}
        assert type(await answer(asyncio.ensure_future(store.write(value)))) is StoreFailed
        assert not store.alive
        with pytest.raises(StoreFailed, match="MemoryError"):
            await store.watch()
        await store.close()

    with asyncio.Runner(loop_factory=Broken) as runner:
        runner.run(play())


async def test_a_store_that_was_locked_is_unavailable_until_it_can_be_written(tmp_path: Path) -> None:
    import sqlite3

    store = Store(f"sqlite:///{tmp_path / 'a.db'}")
    await store.open()
    await store.write(lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout = 1").close())
    with sqlite3.connect(tmp_path / "a.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            await store.write(value)
        assert (str(store.unavailable), store.alive) == ("database is locked", True)
        other.execute("ROLLBACK")
    other.close()
    await store.write(value)
    assert store.unavailable is None
    await store.close()


async def test_a_thread_that_ends_and_cannot_even_say_so_answers_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"sqlite:///{tmp_path / 'a.db'}")
    await store.open()

    def fail(*_args: object, **_more: object) -> None:
        raise MemoryError

    monkeypatch.setattr(store.writer, "_process", fail)
    monkeypatch.setattr(writer_module.log, "critical", fail, raising=False)
    monkeypatch.setattr(threading, "excepthook", lambda _failed: None)
    assert type(await answer(asyncio.ensure_future(store.write(value)))) is StoreFailed
    assert not store.alive
    await store.close()
