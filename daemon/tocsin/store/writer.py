"""The one writer thread, and group commit.

A transaction is one synchronous function. What waits when the writer becomes free goes into one transaction, so that
a busy daemon commits hundreds of looks at once; when one of them fails, the batch is undone and each is tried again
under its own savepoint, so that it fails alone. Cancelling a caller never cancels its transaction.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from tocsin.store.errors import StoreUnavailable

log = structlog.get_logger(__name__)
MAX_ITEMS = 500
MAX_SECONDS = 0.020

Work = Callable[[Connection, Sequence[object]], Sequence[object]]
Guard = Callable[[Connection], None]


@dataclass(slots=True)
class Job:
    """One caller's wish. ``work`` takes the items of all adjacent jobs that share it and answers as many results."""

    work: Work
    item: object
    guard: Guard | None
    future: "asyncio.Future[object]"
    loop: asyncio.AbstractEventLoop


@dataclass(slots=True)
class Done:
    """What became of a job."""

    job: Job
    result: object = None
    error: BaseException | None = None


class Writer:
    """Runs jobs in order on one daemon thread. ``sizes`` remembers how large the last transactions were."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tocsin-store-writer", daemon=True)
        self._closing = False
        self.transactions = 0
        self.items = 0
        self.largest = 0

    def start(self) -> None:
        self._thread.start()

    async def submit(self, work: Work, item: object, guard: Guard | None) -> object:
        if self._closing:
            raise StoreUnavailable("the store is closed")
        loop = asyncio.get_running_loop()
        job = Job(work, item, guard, loop.create_future(), loop)
        self._queue.put(job)
        return await job.future

    async def close(self) -> None:
        """Carry out what waits, then end the thread."""
        self._closing = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # --- on the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            jobs, last = self._gather(first)
            _answer(self._transaction(jobs))
            if last:
                return

    def _gather(self, first: Job) -> tuple[list[Job], bool]:
        jobs = [first]
        while len(jobs) < MAX_ITEMS:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False

    def _transaction(self, jobs: list[Job]) -> list[Done]:
        """Carry out all jobs, in one transaction as long as it stays short, in several otherwise."""
        done: list[Done] = []
        while jobs:
            try:
                with self._engine.begin() as connection:
                    part = _together(connection, jobs)
            except _CONNECTION_ERRORS as error:
                if is_transient(error):
                    part = [Done(job, error=StoreUnavailable(reason(error))) for job in jobs]
                else:
                    part = self._one_by_one(jobs)
            except Exception as error:  # noqa: BLE001 - any job may be the culprit: each is tried again by itself
                part = self._one_by_one(jobs)
                if not any(one.error for one in part):  # correct, but slow: the function cannot do several at once
                    log.warning("batch_failed_though_each_part_works", items=len(part), error=repr(error))
            done += part
            self.transactions += 1
            self.items += len(part)
            self.largest = max(self.largest, len(part))
            jobs = jobs[len(part) :]
        return done

    def _one_by_one(self, jobs: list[Job]) -> list[Done]:
        try:
            with self._engine.begin() as connection:
                return [_alone(connection, job) for job in jobs]
        except _CONNECTION_ERRORS as error:
            return [Done(job, error=StoreUnavailable(reason(error))) for job in jobs]


_CONNECTION_ERRORS = (OperationalError, InterfaceError)


def _together(connection: Connection, jobs: list[Job]) -> list[Done]:
    done: list[Done] = []
    guards: set[Guard] = set()
    deadline = time.perf_counter() + MAX_SECONDS
    index = 0
    while index < len(jobs) and (not done or time.perf_counter() < deadline):
        first = jobs[index]
        same = [first]
        while index + len(same) < len(jobs) and _joins(first, jobs[index + len(same)]):
            same.append(jobs[index + len(same)])
        if first.guard is not None and first.guard not in guards:
            first.guard(connection)
            guards.add(first.guard)
        results = first.work(connection, [job.item for job in same])
        done += [Done(job, result) for job, result in zip(same, results, strict=True)]
        index += len(same)
    return done


def _joins(first: Job, other: Job) -> bool:
    return other.work == first.work and other.guard == first.guard


def _alone(connection: Connection, job: Job) -> Done:
    savepoint = connection.begin_nested()
    try:
        if job.guard is not None:
            job.guard(connection)
        (result,) = job.work(connection, [job.item])
    except _CONNECTION_ERRORS as error:
        if is_transient(error):
            raise
        savepoint.rollback()
        return Done(job, error=error)
    except Exception as error:  # noqa: BLE001 - handed to the caller, whose unit of work it is
        savepoint.rollback()
        return Done(job, error=error)
    savepoint.commit()
    return Done(job, result)


def is_transient(error: DBAPIError) -> bool:
    """Whether the store is busy, full, read-only or away, rather than the statement wrong."""
    words = str(error.orig).lower()
    return error.connection_invalidated or not any(word in words for word in ("no such", "syntax error", 'near "'))


def reason(error: DBAPIError) -> str:
    """The driver's own words on one line."""
    return " ".join(str(error.orig).split()) or type(error.orig).__name__


def _answer(done: list[Done]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[Done]] = {}
    for one in done:
        by_loop.setdefault(one.job.loop, []).append(one)
    for loop, part in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, part)


def _settle(done: list[Done]) -> None:
    for one in done:
        if one.job.future.done():
            continue  # the caller was cancelled; the transaction stands
        if one.error is not None:
            one.job.future.set_exception(one.error)
        else:
            one.job.future.set_result(one.result)
