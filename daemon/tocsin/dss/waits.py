"""Many waits, one polling loop.

A program that waits for a hundred runs must not poll DSS a hundred times as hard. Here whatever is waited for has a
key; all who wait for the same key share its polls, and all keys share one loop that polls those longest due first,
a few at a time. Between two polls of a key the pause grows by a tenth, from 0.2 s to 15 s, and starts afresh when
somebody new waits. What fails in passing is borne for a while, so that one bad gateway does not end a wait of hours.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from tocsin.dss.errors import DSSError, DSSThrottled, DSSWaitTimeout

T = TypeVar("T")
R = TypeVar("R")
_GROWTH = 1.1
_MAX_RETRY_AFTER = 300.0  # seconds; a wait that is told a longer one polls anyway
_FAILURES_BORNE = 20  # in a row: minutes of pauses, on top of the transport's own retries


@asynccontextmanager
async def within(seconds: float | None, what: str) -> AsyncIterator[None]:
    """A bound on a wait, None for none. Raises ``DSSWaitTimeout``; what was waited for goes on in DSS."""
    try:
        async with asyncio.timeout(seconds) as scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise DSSWaitTimeout(f"{what}: not within {seconds:g} s") from None


def pauses(first: float, longest: float) -> Iterator[float]:
    """Seconds between the polls of one thing, without end."""
    while True:
        yield first
        first = min(first * _GROWTH, longest)


@dataclass(eq=False, slots=True)
class _Waiter:
    judge: Callable[[Any], object | None]
    future: "asyncio.Future[Any]"


@dataclass(eq=False, slots=True)
class _Watch:
    fetch: Callable[[], Awaitable[Any]]
    pauses: Iterator[float]
    waiters: list[_Waiter] = field(default_factory=list)
    turn: int = -1  # the one valid entry in the queue
    polling: bool = False
    failures: int = 0

    def open(self) -> list[_Waiter]:
        return [waiter for waiter in self.waiters if not waiter.future.done()]


class SharedWaits:
    """The polling loop of one client. It lives only while somebody waits."""

    def __init__(self, *, first_pause: float = 0.2, longest_pause: float = 15.0, concurrency: int = 8) -> None:
        """Pauses in seconds; ``concurrency`` is how many polls may be under way at once."""
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._slots = asyncio.Semaphore(concurrency)
        self._watches: dict[Hashable, _Watch] = {}
        self._queue: list[tuple[float, int, _Watch]] = []
        self._turns = count()
        self._bell = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._polls: set[asyncio.Task[None]] = set()

    async def until(self, key: Hashable, fetch: Callable[[], Awaitable[T]], judge: Callable[[T], R | None]) -> R:
        """Poll ``fetch`` until ``judge`` makes something of what it gave. Raises what either of them raises, except
        errors that pass. Waits with the same key must mean the same fetch."""
        waiter = _Waiter(judge, asyncio.get_running_loop().create_future())
        afresh = pauses(self._first_pause, self._longest_pause)
        watch = self._watches.setdefault(key, _Watch(fetch, afresh))
        watch.waiters.append(waiter)
        watch.pauses = afresh
        if not watch.polling:  # a poll that is under way began before this wait and may know less
            self._enqueue(watch, after=0)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run(), name="dss-waits")
            self._loop.add_done_callback(self._ended)  # runs even if the task was cancelled before its first step
        try:
            result: R = await waiter.future
            return result
        finally:
            watch.waiters.remove(waiter)
            if not watch.waiters:
                del self._watches[key]
                self._bell.set()

    async def close(self) -> None:
        """End the loop; who still waits gets a ``RuntimeError``."""
        tasks = [task for task in (self._loop, *self._polls) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _enqueue(self, watch: _Watch, after: float) -> None:
        watch.turn = next(self._turns)
        heapq.heappush(self._queue, (asyncio.get_running_loop().time() + after, watch.turn, watch))
        self._bell.set()

    def _ended(self, loop: "asyncio.Task[None]") -> None:
        if loop is self._loop:
            left = [waiter for watch in self._watches.values() for waiter in watch.waiters]
            _settle(left, RuntimeError("this DSS client is closed"))

    async def _run(self) -> None:
        while self._watches:
            await self._slots.acquire()
            watch = await self._next_due()
            if watch is None:
                self._slots.release()
                continue
            watch.polling = True
            poll = asyncio.create_task(self._poll(watch))
            self._polls.add(poll)
            poll.add_done_callback(self._polls.discard)

    async def _next_due(self) -> _Watch | None:
        """The watch longest due, once there is one; None when nobody waits any more."""
        while self._watches:
            while self._queue and self._stale(self._queue[0]):
                heapq.heappop(self._queue)
            pause = self._queue[0][0] - asyncio.get_running_loop().time() if self._queue else None
            if pause is not None and pause <= 0:
                return heapq.heappop(self._queue)[2]
            self._bell.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._bell.wait()
            except TimeoutError:
                pass  # something is due
        return None

    @staticmethod
    def _stale(entry: tuple[float, int, _Watch]) -> bool:
        _, turn, watch = entry
        return turn != watch.turn or not watch.waiters

    async def _poll(self, watch: _Watch) -> None:
        asking = watch.open()
        wait = next(watch.pauses)
        try:
            value = await watch.fetch()
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait, not to the loop that all share
            watch.failures += 1
            if not (isinstance(error, DSSError) and error.transient) or watch.failures > _FAILURES_BORNE:
                _settle(asking, error)
                watch.failures = 0
            if isinstance(error, DSSThrottled):
                wait = max(wait, min(error.retry_after or 0.0, _MAX_RETRY_AFTER))
        else:
            watch.failures = 0
            for waiter in asking:
                _judge(waiter, value)
        finally:
            watch.polling = False
            self._slots.release()
        if left := watch.open():
            joined = any(waiter not in asking for waiter in left)
            self._enqueue(watch, after=0 if joined else wait)


def _judge(waiter: _Waiter, value: object) -> None:
    try:
        result = waiter.judge(value)
    except Exception as error:  # noqa: BLE001 - it belongs to the one who waits with this judge
        _settle([waiter], error)
    else:
        if result is not None and not waiter.future.done():
            waiter.future.set_result(result)


def _settle(waiters: list[_Waiter], error: Exception) -> None:
    for waiter in waiters:
        if not waiter.future.done():
            waiter.future.set_exception(error)
