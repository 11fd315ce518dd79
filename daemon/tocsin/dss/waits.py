"""Many waits, few polls.

All who wait for the same key share its polls; a few polls are under way at once, those longest due first. The pause of
a key grows by a tenth, from 0.2 s to 15 s, and starts afresh when somebody new waits.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from tocsin.dss.errors import DSSError, DSSThrottled, DSSWaitTimeout
from tocsin.kit.backoff import Backoff

T = TypeVar("T")
R = TypeVar("R")
_MAX_RETRY_AFTER = 300.0  # seconds; a wait whose Retry-After is longer polls anyway
_MAX_FAILURES = 20  # in a row: minutes of pauses, on top of the transport's own retries


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
    return map(Backoff(first, longest, 1.1).pause, count(1))


_Waiter = tuple[Callable[[Any], object | None], "asyncio.Future[Any]"]
"""A check of polled values, and the future of its result."""


@dataclass(eq=False, slots=True)
class _SharedPoll:
    fetch: Callable[[], Awaitable[Any]]
    pauses: Iterator[float]
    waiters: list[_Waiter] = field(default_factory=list)
    joined: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody waits who was not there when the last poll began."""
    task: "asyncio.Task[None] | None" = None

    def open(self) -> list[_Waiter]:
        return [waiter for waiter in self.waiters if not waiter[1].done()]

    def task_ended(self, task: "asyncio.Task[None]") -> None:
        """End those who wait, unless somebody has joined since and another task polls for all."""
        if task is self.task:
            for _, future in self.open():
                future.set_exception(RuntimeError("this DSS client is closed"))


class SharedWaits:
    """The polls of one client. Each key has a task that lives only while somebody waits for it."""

    def __init__(self, *, first_pause: float = 0.2, longest_pause: float = 15.0, concurrency: int = 8) -> None:
        """Pauses in seconds; ``concurrency`` is how many polls may be under way at once."""
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._slots = asyncio.Semaphore(concurrency)  # first come, first served
        self._shared_polls: dict[Hashable, _SharedPoll] = {}

    async def until(self, key: Hashable, fetch: Callable[[], Awaitable[T]], check: Callable[[T], R | None]) -> R:
        """Poll ``fetch`` until ``check`` makes something of what it gave. Raises what either of them raises, except
        transient errors. Waits with the same key must mean the same fetch."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        waiter = (check, future)
        afresh = pauses(self._first_pause, self._longest_pause)
        shared = self._shared_polls.setdefault(key, _SharedPoll(fetch, afresh))
        shared.waiters.append(waiter)
        shared.pauses = afresh
        shared.joined.set()
        if shared.task is None or shared.task.done():
            shared.task = asyncio.create_task(self._poll(shared), name="dss-wait")
            # It runs even if the task was cancelled before its first step.
            shared.task.add_done_callback(shared.task_ended)
        try:
            return await future
        finally:
            shared.waiters.remove(waiter)
            if not shared.waiters:
                del self._shared_polls[key]
                shared.task.cancel()

    async def close(self) -> None:
        """End all polls; who still waits gets a ``RuntimeError``."""
        tasks = [shared.task for shared in self._shared_polls.values() if shared.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll(self, shared: _SharedPoll) -> None:
        failures = 0
        while shared.open():
            async with self._slots:
                shared.joined.clear()
                asking, pause = shared.open(), next(shared.pauses)
                try:
                    value = await shared.fetch()
                except Exception as error:  # noqa: BLE001 - it belongs to those who wait
                    failures += 1
                    if not (isinstance(error, DSSError) and error.transient) or failures > _MAX_FAILURES:
                        for _, future in asking:
                            _settle(future, error)
                        failures = 0
                    if isinstance(error, DSSThrottled):
                        pause = max(pause, min(error.retry_after or 0.0, _MAX_RETRY_AFTER))
                else:
                    failures = 0
                    for check, future in asking:
                        try:
                            _settle(future, check(value))
                        except Exception as error:  # noqa: BLE001 - it belongs to the waiter with this check
                            _settle(future, error)
            if shared.open():
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await shared.joined.wait()


def _settle(future: "asyncio.Future[Any]", result: object) -> None:
    if future.done() or result is None:
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
