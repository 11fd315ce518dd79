"""Daemon threads of one channel, for libraries that block.

A send that hangs keeps its thread and another takes its place, up to a bound; being daemons, none of them keeps the
process alive.
"""

import asyncio
import concurrent.futures
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

_MOST = 8  # threads of one channel that may hang beside those that work


class TooManyHang(Exception):
    """Too many sends of this channel hang; no more are begun until one of them ends."""


class DaemonThreads(Generic[T]):
    """Runs work one at a time in each of its threads. Used from one event loop."""

    def __init__(self, name: str, wanted: int) -> None:
        self._name = name
        self._wanted = wanted
        self._idle: list[_Thread[T]] = []
        self._alive = 0

    async def run(self, work: Callable[[], T]) -> T:
        """The result of ``work``, or its error. Cancelling the caller leaves the thread to finish by itself.

        Raises ``TooManyHang``.
        """
        if self._idle:
            thread = self._idle.pop()
        elif self._alive < self._wanted + _MOST:
            thread = _Thread(f"{self._name} {self._alive + 1}", asyncio.get_running_loop(), self._free)
            thread.start()  # it may fail, where a machine has too many
            self._alive += 1
        else:
            raise TooManyHang(f"{self._alive} sends hang; none is begun until one of them ends")
        return await thread.give(work)

    def close(self) -> None:
        """Let idle threads end, and busy ones after their work."""
        self._wanted = 0
        while self._idle:
            self._idle.pop().stop()

    def _free(self, thread: "_Thread[T]") -> None:
        if len(self._idle) < self._wanted:
            self._idle.append(thread)
        else:
            self._alive -= 1
            thread.stop()


class _Thread(threading.Thread, Generic[T]):
    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, free: "Callable[[_Thread[T]], None]") -> None:
        super().__init__(name=name, daemon=True)
        self._loop = loop
        self._free = free
        self._work: queue.SimpleQueue[tuple[Callable[[], T], asyncio.Future[T]] | None] = queue.SimpleQueue()

    def give(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        future: asyncio.Future[T] = self._loop.create_future()
        self._work.put((work, future))
        return future

    def stop(self) -> None:
        self._work.put(None)

    def run(self) -> None:
        while job := self._work.get():
            self._do(*job)
            del job

    def _do(self, work: Callable[[], T], future: "asyncio.Future[T]") -> None:
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        try:
            done.set_result(work())
        except StopIteration as error:  # the caller's future would refuse it
            done.set_exception(RuntimeError(f"the work of the thread raised {error!r}"))
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whose unit of work it is
            done.set_exception(error)
        with suppress(RuntimeError):  # the loop is closed: the process is on its way out
            self._loop.call_soon_threadsafe(self._settle, done, future)

    def _settle(self, done: "concurrent.futures.Future[T]", future: "asyncio.Future[T]") -> None:
        error = done.exception()
        if not future.done():
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(done.result())
        self._free(self)
