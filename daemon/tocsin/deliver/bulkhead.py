"""The bulkhead of one channel: its own queue, rate limit and sends in flight, so that one that hangs delays no other."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from prometheus_client import Counter

from tocsin.config.model import Channel
from tocsin.deliver.outgoing import Outgoing
from tocsin.deliver.transport import Transport
from tocsin.kit.clock import Clock
from tocsin.kit.mask import where
from tocsin.store.outbox import ReadyRow, ReadyRows

log = structlog.get_logger(__name__)

_AHEAD_SECONDS = 1.0  # how much work is claimed ahead; what is claimed can no longer be superseded
_MAX_AHEAD = 512
_SMOOTHING = (0.5, 0.1)  # of durations, at first and later
_AT_FIRST = 8
_SCAN_EVERY = timedelta(seconds=1)  # scanning again for each few rows would cost more than sending


def log_failure(task: "asyncio.Task[None]") -> None:
    """Log the error of a task that nobody awaits; its row is sent again once its lease has expired."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("delivery_task_failed", task=task.get_name(), error=type(error).__name__, at=where(error))


@dataclass(eq=False)
class Bulkhead:
    """What is between the rows of one channel and its transport. ``deliver`` carries out one send."""

    channel: Channel
    transport: Transport
    deliver: Callable[["Bulkhead", Outgoing], Coroutine[None, None, None]]
    clock: Clock

    def __post_init__(self) -> None:
        self.counters: Mapping[str, Counter] = {}  # by outcome
        self.failures = 0  # attempts since the last one that was delivered
        self.next_due: datetime | None = None  # of rows that are not due yet, as far as is known
        self._ready: deque[ReadyRow] = deque()  # not claimed yet; the claim checks whether they are still ready
        self._scan_at = datetime.min.replace(tzinfo=UTC)
        self._more = False  # whether there are rows beyond the ready ones
        self._queue: deque[Outgoing] = deque()
        self._in_flight: dict[Outgoing, asyncio.Task[None]] = {}  # until they have their receipt
        self.workers: set[asyncio.Task[None]] = set()  # each sends one after another
        self._next_send = self.clock.monotonic()
        self._seconds_each, self._measured = _AHEAD_SECONDS, 0
        self._paused_until: datetime | None = None

    def leased(self) -> list[Outgoing]:
        return [*self._queue, *self._in_flight]

    def paused_until(self, now: datetime) -> datetime | None:
        return self._paused_until if self._paused_until is not None and self._paused_until > now else None

    def pause(self, until: datetime) -> list[Outgoing]:
        """Returns what is queued, to be released."""
        self._paused_until = max(until, self._paused_until or until)
        return self.take_queued()

    def capacity(self, now: datetime) -> int:
        """How many more rows to claim: what can be in flight, and a second's work ahead at the present pace."""
        if self.paused_until(now) is not None:
            return 0
        return max(self._target() - len(self._queue) - len(self.workers), 0)

    def needs_scan(self, now: datetime) -> bool:
        return not self._ready or now >= self._scan_at

    def set_ready(self, waiting: ReadyRows, now: datetime) -> None:
        self._ready = deque(waiting.rows)
        self._scan_at = now + _SCAN_EVERY
        self.next_due, self._more = waiting.next_due, waiting.more

    def pop_ready(self, limit: int) -> list[ReadyRow]:
        return [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]

    def runs_low(self) -> bool:
        """Whether there are more rows, and less than half of what could be claimed is left."""
        return (self._more or bool(self._ready)) and len(self._queue) + len(self.workers) <= self._target() // 2

    def enqueue(self, claimed: Iterable[Outgoing]) -> None:
        self._queue.extend(claimed)
        self._start_sends()

    def take_queued(self) -> list[Outgoing]:
        queued = list(self._queue)
        self._queue.clear()
        return queued

    def cancel_waiting(self, now: datetime) -> list[Outgoing]:
        """Take back what has not begun: what is queued, and what waits for the rate limit, which finds its lease expired."""
        waiting = [outgoing for outgoing in self._in_flight if outgoing.started is None]
        for outgoing in waiting:
            outgoing.lease_until = now
        return self.take_queued() + waiting

    async def wait_for_rate_limit(self, rate: float) -> None:
        """``rate``: sends a second."""
        now = self.clock.monotonic()
        send_at = max(now, self._next_send)
        self._next_send = send_at + 1 / rate
        await asyncio.sleep(send_at - now)

    def record_duration(self, duration: timedelta) -> None:
        self._measured += 1
        smoothing = _SMOOTHING[self._measured > _AT_FIRST]
        self._seconds_each += smoothing * (duration.total_seconds() - self._seconds_each)

    def forget(self, outgoing: Outgoing) -> None:
        """Its receipt is written, or it has none."""
        self._in_flight.pop(outgoing, None)

    def abandon(self, outgoing: Outgoing) -> "asyncio.Task[None] | None":
        """Let another worker take the place of its own, which is returned unless its send has ended meanwhile."""
        worker = self._in_flight.pop(outgoing, None)
        if worker is not None:
            self.workers.discard(worker)
            self._start_sends()
        return worker

    async def finish(self, grace: timedelta) -> list[Outgoing]:
        """Wait for sends in flight, at most ``grace``, and cancel the others; returns those without a receipt."""
        workers = set(self.workers)
        if workers:
            await asyncio.wait(workers, timeout=grace.total_seconds())
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        return list(self._in_flight)

    def _target(self) -> int:
        width = self.transport.concurrency
        ahead = _AHEAD_SECONDS / max(self._seconds_each, 0.001) * width
        if self.channel.rate is not None:
            ahead = min(ahead, self.channel.rate * _AHEAD_SECONDS)
        return max(width, min(int(ahead), _MAX_AHEAD))

    def _start_sends(self) -> None:
        for _ in range(min(len(self._queue), self.transport.concurrency - len(self.workers))):
            worker = asyncio.create_task(self._work(), name=f"deliver {self.channel.name}")
            self.workers.add(worker)
            worker.add_done_callback(self._on_done)

    async def _work(self) -> None:
        """Send what is queued, one after another; what comes of a send does not wait for its receipt."""
        worker = asyncio.current_task()
        assert worker is not None
        while self._queue and worker in self.workers:
            outgoing = self._queue.popleft()
            self._in_flight[outgoing] = worker
            try:
                await self.deliver(self, outgoing)
            except Exception:
                self.forget(outgoing)  # it is sent again once its lease has expired
                raise

    def _on_done(self, worker: "asyncio.Task[None]") -> None:
        self.workers.discard(worker)
        log_failure(worker)
        self._start_sends()
