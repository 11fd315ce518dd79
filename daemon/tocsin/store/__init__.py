"""Durable truth: the rows that join the stages. SQLite by default, PostgreSQL when one machine is too small.

``Store`` opens the database and runs transactions; the modules beside it hold the statements, as plain functions that
take a connection. A stage composes them into one function of its own and hands it to ``write``.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from tocsin.store.engine import (
    FileLock,
    NotLeader,
    StoreError,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
    check_sqlite_place,
    is_sqlite,
    make_private,
    open_engines,
    parse_url,
    reason,
    shown_url,
    sqlite_path,
    unavailability,
)
from tocsin.store.sql import SetAside
from tocsin.store.writer import Guard, Work, Writer

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")

_READERS = 4  # threads of the stages, and as many of the API, each with a connection
_WATCH_EVERY_SECONDS = 0.5
_STUCK_AFTER_SECONDS = 60.0  # of one batch; every wait inside it is bounded far below


class Store:
    """One open database: a writer thread, a few reading threads, and on SQLite the lock of the file."""

    def __init__(self, url: str) -> None:
        self.url = parse_url(url)
        self._lock: FileLock | None = None
        self._write_engine: Engine | None = None
        self._read_engine: Engine | None = None
        self._writer: Writer | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._failure: StoreFailed | None = None  # found by a reader
        self._browsers: ThreadPoolExecutor | None = None
        self.set_aside = SetAside()

    @property
    def is_sqlite(self) -> bool:
        return is_sqlite(self.url)

    @property
    def writer(self) -> Writer:
        """The writer, for its counts. Raises ``StoreUnavailable`` when the store is not open."""
        if self._writer is None:
            raise StoreUnavailable("the store is not open")
        return self._writer

    @property
    def alive(self) -> bool:
        """Whether the writer lives and moves; true before the store is open."""
        writer = self._writer
        return writer is None or (writer.failure is None and writer.busy_seconds < _STUCK_AFTER_SECONDS)

    @property
    def unavailable(self) -> StoreUnavailable | None:
        """Why the last transaction could not use the database; None when it could."""
        return None if self._writer is None else self._failure or self._writer.unavailable

    async def watch(self) -> None:
        """For ever, until the store cannot be used any more. Raises ``StoreFailed``, which is to end the process."""
        while True:
            failure = self._failure or self.writer.failure
            if failure is not None:
                raise failure
            await asyncio.sleep(_WATCH_EVERY_SECONDS)

    async def open(self, *, exclusive: bool = True) -> None:
        """Connect, bring the tables up to date and start the threads.

        ``exclusive`` takes the lock that lets one daemon use a SQLite file; the command line opens without it. Raises
        ``StoreRefused`` with one line that says what to do.
        """
        await asyncio.to_thread(self._open, exclusive)

    def _open(self, exclusive: bool) -> None:
        from tocsin.store.migrate import bring_up_to_date  # noqa: PLC0415 - it imports this package's schema lazily

        path = sqlite_path(self.url) if self.is_sqlite else None
        if path is not None:
            check_sqlite_place(path)
            make_private(path)
            if exclusive:
                lock = FileLock(path)
                lock.acquire()
                self._lock = lock
        try:
            self._write_engine, self._read_engine = open_engines(self.url, readers=2 * _READERS)
            for engine in (self._write_engine, self._read_engine):
                engine.update_execution_options(**self.set_aside.options)
            try:
                bring_up_to_date(self._write_engine, self.url)
            except (DatabaseError, OSError, UnicodeError) as error:
                why = reason(error) if isinstance(error, DatabaseError) else f"{type(error).__name__} while connecting"
                raise StoreRefused(f"cannot open the store {path or shown_url(self.url)}: {why}") from None
        except Exception:
            self._dispose()
            raise
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="tocsin-store-reader")
        self._browsers = ThreadPoolExecutor(_READERS, thread_name_prefix="tocsin-store-api")
        self._writer = Writer(self._write_engine)
        self._writer.start()

    async def close(self) -> None:
        """Carry out what was asked for, then disconnect. Closing twice is fine."""
        if self._writer is not None:
            await self._writer.close()
            self._writer = None
        for pool in filter(None, (self._readers, self._browsers)):
            await asyncio.to_thread(pool.shutdown)
        self._readers = self._browsers = None
        await asyncio.to_thread(self._dispose)

    def _dispose(self) -> None:
        for engine in (self._write_engine, self._read_engine):
            if engine is not None:
                engine.dispose()
        self._write_engine = self._read_engine = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    async def write(self, work: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one transaction. It may share its commit with others, and run twice if one of those fails."""
        return cast("T", await self.writer.submit(_alone(work, *args, **kwargs), None, None))

    async def write_guarded(
        self, guard: Guard, work: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As ``write``, after ``guard`` agreed in the same transaction; see ``Leadership.guard``."""
        return cast("T", await self.writer.submit(_alone(work, *args, **kwargs), None, guard))

    async def write_each(
        self, work: Callable[[Connection, Sequence[Item]], Sequence[Result]], item: Item, guard: Guard | None = None
    ) -> Result:
        """Run ``work`` on this item together with the items of other waiting callers of the same ``work``.

        ``work`` must return one result an item, in order; only the same callable object is shared, so hand over a
        function or one ``partial`` that is kept, not a new lambda each time.
        """
        return cast("Result", await self.writer.submit(cast("Work", work), item, guard))

    async def read(self, work: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a reading function on a snapshot of its own, off the loop. For the stages; see ``browse``."""
        return await self._in_pool(self._readers, partial(self._read_now, work, *args, **kwargs))

    async def browse(self, work: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As ``read``, on the threads kept for the API: however slowly lists are read, the stages do not wait."""
        return await self._in_pool(self._browsers, partial(self._read_now, work, *args, **kwargs))

    async def _in_pool(self, pool: ThreadPoolExecutor | None, run: Callable[[], T]) -> T:
        if pool is None:
            raise StoreUnavailable("the store is not open")
        return await asyncio.get_running_loop().run_in_executor(pool, run)

    def _read_now(self, work: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self._read_engine is None:
            raise StoreUnavailable("the store is not open")
        try:
            with self._read_engine.begin() as connection:
                return work(connection, *args, **kwargs)
        except Exception as error:
            unavailable = unavailability(error)
            if unavailable is None:
                if isinstance(error, StopIteration):  # the future of the reading thread would refuse it
                    raise RuntimeError("a reading function raised StopIteration") from error
                raise
            if isinstance(unavailable, StoreFailed):
                self._failure = unavailable
            raise unavailable from None


def _alone(work: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Work:
    """``work`` as the writer takes it, which no other request shares."""
    return lambda connection, _items: (work(connection, *args, **kwargs),)


__all__ = [
    "Connection", "Guard", "NotLeader", "SQLAlchemyError", "Store", "StoreError", "StoreFailed", "StoreRefused",
    "StoreUnavailable",
]  # fmt: skip
