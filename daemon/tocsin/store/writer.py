"""The one writer thread, and group commit.

A transaction is one synchronous function. What waits when the writer becomes free goes into one transaction, so that
a busy daemon commits hundreds of polls at once; when one of them fails, the batch is undone and each half of it is
tried again, so that the request at fault fails alone. Cancelling a caller never cancels its transaction.

Every caller gets a result or an error, whatever happens: an error of the database is ``StoreUnavailable``, and when the
thread cannot go on, all that waits and all that comes later fails with ``failure``.

The leader owns watch, decide, prune and the scenario series. Its lease is a row with a holder, an epoch and an end, and
each of its transactions checks the epoch again, so that a leader that was paused and replaced cannot write. On SQLite
the lock of the file already keeps others out, so the lease is simply taken; on PostgreSQL it is waited for.
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import TypeVar

import structlog
from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.exc import SQLAlchemyError

from tocsin.store.engine import NotLeader, StoreFailed, StoreUnavailable, unavailability
from tocsin.store.schema import leases
from tocsin.store.sql import insert

log = structlog.get_logger(__name__)
T = TypeVar("T")
MAX_ITEMS = 500
MAX_SECONDS = 0.020

Work = Callable[[Connection, Sequence[object]], Sequence[object]]
Guard = Callable[[Connection], None]


@dataclass(slots=True)
class WriteRequest:
    """What one caller asks for. ``work`` takes the items of all adjacent requests that share it and returns as many
    results."""

    work: Work
    item: object
    guard: Guard | None
    future: "asyncio.Future[object]"
    loop: asyncio.AbstractEventLoop


@dataclass(slots=True)
class WriteResult:
    """The outcome of a request."""

    request: WriteRequest
    result: object = None
    error: BaseException | None = None


class Writer:
    """Runs requests in order on one daemon thread. ``transactions``, ``items`` and ``largest`` count commits."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[WriteRequest | None] = queue.SimpleQueue()
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
        request = WriteRequest(work, item, guard, loop.create_future(), loop)
        self._queue.put(request)
        if self.failure is not None:  # perhaps the thread ended before it could see this request
            self._fail_all([])
        return await request.future

    async def close(self) -> None:
        """Carry out what waits, then end the thread."""
        self._closing = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # --- on the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        requests: deque[WriteRequest] = deque()  # taken from the queue and not answered yet
        try:
            while self._collect(requests):
                self._busy_since = time.perf_counter()
                self._process(requests)
                self._busy_since = None
        except StoreFailed as error:
            self._end(requests, error)
        except BaseException as error:
            self._end(requests, StoreFailed(f"the store's writer ended with {type(error).__name__}: {error}"))
            log.critical("store_writer_failed", exc_info=error)  # last: the callers have their error even if this fails

    def _collect(self, requests: deque[WriteRequest]) -> bool:
        """Wait for a request and take what waits behind it; false when the writer is to end and nothing is left."""
        while not self._closing or not self._queue.empty():
            request = self._queue.get()
            while request is not None:
                requests.append(request)
                if len(requests) >= MAX_ITEMS or self._queue.empty():
                    return True
                request = self._queue.get()
            if requests:
                return True
        return False

    def _process(self, requests: deque[WriteRequest]) -> None:
        """Answer all ``requests``: in one transaction as long as it stays short, in several otherwise.

        Raises ``StoreFailed`` when no transaction will succeed any more.
        """
        parts = [list(requests)]
        failed = split = False
        while parts:
            part = parts.pop()
            try:
                done = self._transaction(part)
            except StoreFailed:
                raise
            except StoreUnavailable as error:
                self.unavailable = error
                _deliver([WriteResult(request, error=StoreUnavailable(str(error))) for request in requests])
                requests.clear()
                return
            self.unavailable = None
            if done is None:  # one of them is at fault
                split, middle = True, len(part) // 2
                parts += [part[middle:], part[:middle]]
                continue
            failed |= any(result.error for result in done)
            _deliver(done)
            for _ in done:
                requests.popleft()
            if len(done) < len(part):
                parts.append(part[len(done) :])
        if split and not failed:  # correct, but slow: a function cannot do several at once
            log.warning("batch_failed_though_each_part_works")

    def _transaction(self, requests: list[WriteRequest]) -> list[WriteResult] | None:
        """Carry out the first of ``requests``, or all; None when it was undone and has to be split.

        Raises ``StoreUnavailable``.
        """
        committed: list[Callable[[], object]] = []
        try:
            with self._engine.begin() as connection:
                connection.info[_ON_COMMIT] = committed
                done = _run_batch(connection, requests)
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whose unit of work it is
            if (unavailable := unavailability(error)) is not None:
                raise unavailable from None
            return None if len(requests) > 1 else [WriteResult(requests[0], error=error)]
        self.transactions += 1
        self.items += len(done)
        self.largest = max(self.largest, len(done))
        for call in committed:
            try:
                call()
            except Exception:
                log.exception("after_commit_failed")  # the rows stand, whatever follows from them
        return done

    def _end(self, requests: deque[WriteRequest], failure: StoreFailed) -> None:
        self.failure = self.unavailable = failure
        self._busy_since = None
        self._fail_all(list(requests))

    def _fail_all(self, requests: list[WriteRequest]) -> None:
        """Fail ``requests`` and all that waits in the queue."""
        with suppress(queue.Empty):
            while True:
                if (request := self._queue.get_nowait()) is not None:
                    requests.append(request)
        _deliver([WriteResult(request, error=StoreFailed(str(self.failure))) for request in requests])


_ON_COMMIT = "tocsin_on_commit"


def on_commit(connection: Connection, call: Callable[[], object]) -> None:
    """Have the writer's thread call this once the transaction has committed; never if it is undone."""
    connection.info.setdefault(_ON_COMMIT, []).append(call)


def _run_batch(connection: Connection, requests: list[WriteRequest]) -> list[WriteResult]:
    """Carry out requests in order, at least one and no more than the time allows; each guard is asked once."""
    results: list[WriteResult] = []
    guards: set[Guard] = set()
    deadline = time.perf_counter() + MAX_SECONDS
    for (work, guard), alike in groupby(requests, key=lambda request: (request.work, request.guard)):
        if results and time.perf_counter() >= deadline:
            break
        if guard is not None and guard not in guards:
            guard(connection)
            guards.add(guard)
        same = list(alike)
        answers = work(connection, [request.item for request in same])
        results += [WriteResult(request, answer) for request, answer in zip(same, answers, strict=True)]
    return results


def _deliver(results: list[WriteResult]) -> None:
    """Hand results to their callers, each loop its own in one call."""
    by_loop: dict[asyncio.AbstractEventLoop, list[WriteResult]] = {}
    for result in results:
        by_loop.setdefault(result.request.loop, []).append(result)
    for loop, part in by_loop.items():
        try:
            loop.call_soon_threadsafe(_set_futures, part)
        except RuntimeError:
            if not loop.is_closed():  # closed: nobody waits any more
                raise


def _set_futures(results: list[WriteResult]) -> None:
    for result in results:
        future = result.request.future
        if future.done():
            continue  # the caller was cancelled; the transaction stands
        if isinstance(result.error, StopIteration):  # a future refuses it
            future.set_exception(RuntimeError("a transaction's function raised StopIteration"))
        elif result.error is not None:
            future.set_exception(result.error)
        else:
            future.set_result(result.result)


def attempt(connection: Connection, work: Callable[[], T]) -> T:
    """``work`` behind a savepoint. Raises ``AttemptFailed``, with all that it wrote undone, for an error that is not the
    database's; those go on as they are, since after them the transaction may be over."""
    point = connection.begin_nested()
    try:
        result = work()
    except SQLAlchemyError:
        raise
    except Exception as error:
        point.rollback()
        raise AttemptFailed from error
    point.commit()
    return result


class AttemptFailed(Exception):
    """Its cause is what went wrong."""


# --- the leader's lease ----------------------------------------------------------------------------------------------

LEADER = "leader"
LEASE_FOR = timedelta(seconds=8)  # how long a dead leader is missed
HOLD_FOR = timedelta(seconds=6)  # by the holder's own clock; LEASE_FOR less this is how far clocks may be apart
RENEW_EVERY = timedelta(seconds=2)
ASK_EVERY = timedelta(seconds=1)  # by who stands by


@dataclass(frozen=True, slots=True)
class Leadership:
    """Proof of having led since ``epoch`` began."""

    holder: str
    epoch: int

    def guard(self, connection: Connection) -> None:
        """Raises ``NotLeader`` unless this leadership still holds; to be called inside the transaction."""
        query = select(leases.c.epoch).where(leases.c.name == LEADER)
        if connection.dialect.name != "sqlite":
            query = query.with_for_update(read=True)
        if connection.execute(query).scalar_one_or_none() != self.epoch:
            raise NotLeader("another process leads now")


def acquire_lease(connection: Connection, holder: str, now: datetime, *, force: bool = False) -> Leadership | None:
    """Take the lease if it is free, ran out or is taken by force; None while another holds it."""
    fresh = insert(connection, leases).values(name=LEADER, holder=holder, epoch=1, until=now + LEASE_FOR)
    free = (leases.c.until <= now) | (leases.c.holder == holder)
    taken = fresh.on_conflict_do_update(
        index_elements=["name"],
        set_={"holder": holder, "epoch": leases.c.epoch + 1, "until": now + LEASE_FOR},
        where=None if force else free,
    ).returning(leases.c.epoch)
    epoch = connection.execute(taken).scalar_one_or_none()
    return None if epoch is None else Leadership(holder, epoch)


def renew_lease(connection: Connection, leadership: Leadership, now: datetime) -> None:
    """Hold on for another ``LEASE_FOR``. Raises ``NotLeader`` when it was lost."""
    held = connection.execute(
        update(leases)
        .where(leases.c.name == LEADER, leases.c.epoch == leadership.epoch)
        .values(until=now + LEASE_FOR)
        .returning(leases.c.epoch)
    ).scalar_one_or_none()
    if held is None:
        raise NotLeader("another process leads now")


def release_lease(connection: Connection, leadership: Leadership, now: datetime) -> None:
    """Let another take over at once. The row stays: its epoch must never be used again."""
    connection.execute(
        update(leases).where(leases.c.name == LEADER, leases.c.epoch == leadership.epoch).values(until=now)
    )
