"""The one writer thread, and group commit.

A transaction is one synchronous function. What waits when the writer becomes free goes into one transaction, so that
a busy daemon commits hundreds of polls at once; when one of them fails, the batch is undone and each half of it is
tried again, so that the job at fault fails alone. Cancelling a caller never cancels its transaction.

Every caller gets a result or an error, whatever happens: an error of the database is ``StoreUnavailable``, and when the
thread cannot go on, all that waits and all that comes later fails with ``failure``.
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, Engine

from tocsin.store.engine import unavailability
from tocsin.store.errors import StoreFailed, StoreUnavailable

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
    """Runs jobs in order on one daemon thread. ``transactions``, ``items`` and ``largest`` count what was committed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tocsin-store-writer", daemon=True)
        self._closing = False
        self._busy_since: float | None = None
        self.failure: StoreFailed | None = None  # why the thread has ended
        self.unavailable: StoreUnavailable | None = None  # what the last transaction found
        self.transactions = 0
        self.items = 0
        self.largest = 0

    def start(self) -> None:
        self._thread.start()

    @property
    def busy_seconds(self) -> float:
        """For how long the present batch has been at work."""
        since = self._busy_since
        return 0.0 if since is None else time.perf_counter() - since

    async def submit(self, work: Work, item: object, guard: Guard | None) -> object:
        if self._closing:
            raise StoreUnavailable("the store is closed")
        loop = asyncio.get_running_loop()
        job = Job(work, item, guard, loop.create_future(), loop)
        self._queue.put(job)
        if self.failure is not None:  # perhaps the thread ended before it could see this job
            self._refuse([])
        return await job.future

    async def close(self) -> None:
        """Carry out what waits, then end the thread."""
        self._closing = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # --- on the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        jobs: deque[Job] = deque()  # taken from the queue and not answered yet
        try:
            while self._take(jobs):
                self._busy_since = time.perf_counter()
                self._carry_out(jobs)
                self._busy_since = None
        except StoreFailed as error:
            self._end(jobs, error)
        except BaseException as error:
            self._end(jobs, StoreFailed(f"the store's writer ended with {type(error).__name__}: {error}"))
            log.critical("store_writer_failed", exc_info=error)  # last: whoever waits hears of it also if this fails

    def _take(self, jobs: deque[Job]) -> bool:
        """Wait for a job and take what waits behind it; false when the writer is to end and nothing is left."""
        while not self._closing or not self._queue.empty():
            job = self._queue.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) >= MAX_ITEMS or self._queue.empty():
                    return True
                job = self._queue.get()
            if jobs:
                return True
        return False

    def _carry_out(self, jobs: deque[Job]) -> None:
        """Answer all ``jobs``: in one transaction as long as it stays short, in several otherwise.

        Raises ``StoreFailed`` when no transaction will succeed any more.
        """
        parts = [list(jobs)]
        failed = split = False
        while parts:
            part = parts.pop()
            try:
                done = self._transaction(part)
            except StoreFailed:
                raise
            except StoreUnavailable as error:
                self.unavailable = error
                _answer([Done(job, error=StoreUnavailable(str(error))) for job in jobs])
                jobs.clear()
                return
            self.unavailable = None
            if done is None:  # one of them is at fault
                split, middle = True, len(part) // 2
                parts += [part[middle:], part[:middle]]
                continue
            failed |= any(one.error for one in done)
            _answer(done)
            for _ in done:
                jobs.popleft()
            if len(done) < len(part):
                parts.append(part[len(done) :])
        if split and not failed:  # correct, but slow: a function cannot do several at once
            log.warning("batch_failed_though_each_part_works")

    def _transaction(self, jobs: list[Job]) -> list[Done] | None:
        """Carry out the first of ``jobs``, or all; None when it was undone and has to be split.

        Raises ``StoreUnavailable``.
        """
        try:
            with self._engine.begin() as connection:
                done = _together(connection, jobs)
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whose unit of work it is
            if (unavailable := unavailability(error)) is not None:
                raise unavailable from None
            return None if len(jobs) > 1 else [Done(jobs[0], error=error)]
        self.transactions += 1
        self.items += len(done)
        self.largest = max(self.largest, len(done))
        return done

    def _end(self, jobs: deque[Job], failure: StoreFailed) -> None:
        self.failure = self.unavailable = failure
        self._busy_since = None
        self._refuse(list(jobs))

    def _refuse(self, jobs: list[Job]) -> None:
        """Fail ``jobs`` and all that waits in the queue."""
        with suppress(queue.Empty):
            while True:
                if (job := self._queue.get_nowait()) is not None:
                    jobs.append(job)
        _answer([Done(job, error=StoreFailed(str(self.failure))) for job in jobs])


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


def _answer(done: list[Done]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[Done]] = {}
    for one in done:
        by_loop.setdefault(one.job.loop, []).append(one)
    for loop, part in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, part)
        except RuntimeError:
            if not loop.is_closed():  # closed: nobody waits any more
                raise


def _settle(done: list[Done]) -> None:
    for one in done:
        if one.job.future.done():
            continue  # the caller was cancelled; the transaction stands
        if isinstance(one.error, StopIteration):  # a future refuses it
            one.job.future.set_exception(RuntimeError("a transaction's function raised StopIteration"))
        elif one.error is not None:
            one.job.future.set_exception(one.error)
        else:
            one.job.future.set_result(one.result)
