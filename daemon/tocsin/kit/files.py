"""Files that change while we run, and that may lie on a mount that hangs.

They are read in a daemon thread; callers wait for a bounded time, and at most one thread for each file hangs.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Final, Generic, TypeVar

from tocsin.kit.clock import SystemClock

T = TypeVar("T")
DEADLINE_SECONDS: Final = 5.0  # for one file; a mount that works answers in milliseconds
_SETTLED_SECONDS: Final = 2.0  # the coarsest times of file systems: until then a file may change and show equal times

Version = tuple[int, int, int, int, int]


def version(status: os.stat_result) -> Version:
    """Differs once a file was written or replaced."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class SingleFlight(Generic[T]):
    """Blocking work in a daemon thread, at most one run at a time: concurrent callers share its result.

    Nobody waits longer than ``seconds``. While a run has exceeded that, further callers fail at once.
    """

    def __init__(
        self,
        work: Callable[[], T],
        name: str,
        seconds: float = DEADLINE_SECONDS,
        hangs: Callable[[bool], None] = lambda _hangs: None,
    ) -> None:
        """``hangs`` is called with True when a run has exceeded its time, and with False when that run ended."""
        self._work = work
        self._name = name
        self._seconds = seconds
        self._hangs = hangs
        self._lock = threading.Lock()
        self._running: Future[T] | None = None
        self._late = False

    def call(self) -> T:
        """For threads. Raises ``TimeoutError``, and whatever the work raises."""
        future, patience = self._join()
        try:
            return future.result(patience)
        except TimeoutError:
            if future.done():
                raise  # the work's own
            raise self._give_up(future) from None

    async def wait(self) -> T:
        """For event loops. Raises as ``call``."""
        future, patience = self._join()
        waiting = asyncio.wrap_future(future)
        done, _ = await asyncio.wait({waiting}, timeout=patience)
        if not done:
            waiting.cancel()
            raise self._give_up(future)
        return waiting.result()

    def _join(self) -> tuple[Future[T], float]:
        with self._lock:
            if self._running is None:
                future: Future[T] = Future()
                future.set_running_or_notify_cancel()  # from here on nobody's cancelling ends it
                # It may fail, where a machine has too many threads: then there is no run that others could join.
                threading.Thread(target=self._run, args=(future,), name=self._name, daemon=True).start()
                self._running, self._late = future, False
            return self._running, 0.0 if self._late else self._seconds

    def _give_up(self, future: Future[T]) -> TimeoutError:
        with self._lock:
            first = self._running is future and not self._late
            self._late = self._late or first
        if first:
            self._hangs(True)
        return TimeoutError(f"{self._name} does not answer within {self._seconds:g} s")

    def _run(self, future: Future[T]) -> None:
        try:
            result = self._work()
        except BaseException as error:  # noqa: BLE001 - handed to those who wait, whose unit of work it is
            finish = partial(future.set_exception, error)
        else:
            finish = partial(future.set_result, result)
        with self._lock:
            self._running, late = None, self._late
        if late:
            self._hangs(False)
        finish()


class TextFile:
    """The text of a file as it is now; opened again only when it has changed."""

    def __init__(
        self,
        path: Path,
        longest: int,
        *,
        seconds: float = DEADLINE_SECONDS,
        fresh_for_seconds: float = 0,
        hangs: Callable[[bool], None] = lambda _hangs: None,
    ) -> None:
        """``longest``: bytes; a larger file is refused. ``fresh_for_seconds``: ``wait`` answers from memory for so long,
        so that a thousand reads a second do not start as many threads."""
        self._path = path
        self._longest = longest
        self._version: Version | None = None
        self._fresh_for = fresh_for_seconds
        self._fresh_until = 0.0
        self._reading = SingleFlight(self._read, str(path), seconds, hangs)
        self.text: str | None = None  # as it was last read

    def call(self) -> str:
        """For threads. Raises ``OSError``, of which ``TimeoutError`` is one."""
        return self._reading.call()

    async def wait(self) -> str:
        """For event loops. Raises as ``call``."""
        if self.text is not None and SystemClock().monotonic() < self._fresh_until:
            return self.text
        return await self._reading.wait()

    def expire(self) -> None:
        """Look at the file at the next ``wait`` in any case: its present text is of no use."""
        self._fresh_until = 0.0

    def _read(self) -> str:
        self._fresh_until = 0.0
        began = SystemClock().monotonic()
        if self.text is None or self._version is None or version(os.stat(self._path)) != self._version:
            self._version = None
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                data = file.read(self._longest + 1)
            if len(data) > self._longest:
                raise OSError(f"{self._path} is larger than {self._longest} bytes")
            try:
                self.text = data.decode("utf-8")
            except UnicodeDecodeError:
                raise OSError(f"{self._path} is not UTF-8 text") from None
            if SystemClock().now().timestamp() - max(status.st_mtime, status.st_ctime) > _SETTLED_SECONDS:
                self._version = version(status)
        self._fresh_until = began + self._fresh_for
        return self.text
