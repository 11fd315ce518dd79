"""The one queue in which all requests of a node wait: by rank, within one budget.

The most urgent job starts; its further requests wait in the same queue, before new jobs of their rank. Every few jobs
the one that has waited longest starts whatever its rank, but after a sweep that is due, so that nothing starves.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from math import ceil, inf
from typing import Protocol, TypeVar

from structlog.typing import FilteringBoundLogger

from tocsin.dss import DSSUnreachable
from tocsin.kit.clock import Clock
from tocsin.store import NotLeader
from tocsin.watch.cadence import Rank

T = TypeVar("T")

_MARGIN = 1.05  # requests are counted where they arrive, not where they leave
_EVEN_SHARE = 0.9  # of the rate, for requests that are not urgent: urgent ones find room at once
_ROOM = 2  # requests that others leave to a sweep and the poll that follows it, but at most half of them
_ANSWERS = 100  # the state of a node is taken from its last answers,
_ANSWERS_AGE = 60.0  # none of them older than so many seconds
_MIN_FAILURES = 5
_FAILING_SHARE = 5  # more than a fifth of the answers failed: trouble
_INCIDENT = 10.0  # seconds; all that goes wrong within them is one incident, and one cut
_CUT = 1 / 2  # of the limit remains after an incident of trouble,
_THROTTLED_CUT = 3 / 4  # and after a throttled answer among good ones
_REGAIN = 60.0  # seconds from nothing to the configured rate
_MAX_PAUSE = 60.0  # seconds; a Retry-After beyond it is nonsense, or is sent again
_PAUSE_REST = 5  # pauses of a node that is not in trouble take at most a sixth of the time

_FAIR_EVERY = 8
_LONGEST_SLEEP = 5.0
_JOBS_PER_REQUEST = 4  # jobs may wait for the store while others send requests, but not without bound


class Budget:
    """The rate limit (requests a second) and the concurrency of one node now, at most those configured. Pure.

    Sporadic errors cost at most a short pause and a quarter of the rate; only a node that fails more than a fifth of
    its answers is sent less and less, down to ``floor``. Each answer is reported once, by ``succeeded``, ``failed``
    (5xx, reset, timeout) or ``throttled`` (429, or any failure with a Retry-After), in monotonic seconds.
    """

    def __init__(self, rate: float, concurrency: int) -> None:
        self.rate = rate
        self.concurrency = concurrency
        self.floor = min(rate, max(rate / 8, 0.5))
        self.limit = rate
        self._sent: deque[float] = deque(maxlen=max(1, ceil(rate)))
        self._answers: deque[tuple[float, bool]] = deque(maxlen=_ANSWERS)  # (when, whether it failed)
        self._failures = 0  # among ``_answers``
        self._cut_at = self._regained_at = -inf
        self._paused_until = self._pauses_again_at = -inf

    @property
    def max_in_flight(self) -> int:
        """Fewer once the limit is below a half, since a hang among good answers takes a place for long; at least two,
        so that one hang does not stop the rest."""
        share = min(1.0, 2 * self.limit / self.rate)
        return max(min(2, self.concurrency), round(self.concurrency * share))

    def wait(self, now: float, *, urgent: bool, sweep_in: float = inf) -> float:
        """Seconds until the next request may leave. Requests that are not urgent keep an even pace, and leave room for
        the next sweep, which is due in ``sweep_in`` seconds, and for the first poll that it asks for."""
        waits = [self._paused_until - now]
        allowed = max(1, ceil(self.limit))
        span = _MARGIN * allowed / self.limit
        most = allowed if urgent or sweep_in > span else allowed - min(_ROOM, allowed // 2)
        if len(self._sent) >= most:
            waits.append(self._sent[-most] + span - now)
        if self._sent and not urgent:
            waits.append(self._sent[-1] + _MARGIN / (_EVEN_SHARE * self.limit) - now)
        return max(0.0, *waits)

    def sent(self, now: float) -> None:
        self._sent.append(now)

    def succeeded(self, now: float) -> None:
        self._record(now, failed=False)
        if self.limit < self.rate and not self._in_trouble():
            self.limit = min(self.rate, self.limit + self.rate * max(0.0, now - self._regained_at) / _REGAIN)
        self._regained_at = now

    def failed(self, now: float) -> None:
        self._record(now, failed=True)
        if self._in_trouble():
            self._cut(now, _CUT)

    def throttled(self, now: float, retry_after: float | None = None) -> None:
        """The node asks for fewer requests, for ``retry_after`` seconds if it says so. A throttled answer among good
        ones cuts the limit only while it is whole, and pauses only if the last pause is long over."""
        self._record(now, failed=True)
        trouble = self._in_trouble()
        if trouble or self.limit >= self.rate:
            self._cut(now, _CUT if trouble else _THROTTLED_CUT)
        if retry_after is not None and (trouble or now >= self._pauses_again_at):
            pause = min(max(0.0, retry_after), _MAX_PAUSE)  # NaN becomes 0
            self._paused_until = max(self._paused_until, now + pause)
            self._pauses_again_at = now + pause + max(_INCIDENT, _PAUSE_REST * pause)

    def _record(self, now: float, *, failed: bool) -> None:
        if len(self._answers) == _ANSWERS:
            self._failures -= self._answers.popleft()[1]
        self._answers.append((now, failed))
        self._failures += failed
        while self._answers[0][0] < now - _ANSWERS_AGE:
            self._failures -= self._answers.popleft()[1]

    def _in_trouble(self) -> bool:
        return self._failures >= _MIN_FAILURES and self._failures * _FAILING_SHARE > len(self._answers)

    def _cut(self, now: float, remains: float) -> None:
        """One cut per incident. What failed before a cut is settled by it: only later answers count for the next."""
        if now - self._cut_at < _INCIDENT:
            return
        self.limit = max(self.floor, self.limit * remains)
        self._cut_at = self._regained_at = now
        if self._in_trouble():
            self._answers.clear()
            self._failures = 0


@dataclass(frozen=True, slots=True)
class NextJob:
    """What a source has for the queue: since when or from when on it is due, in monotonic seconds, and how it starts.
    The coroutine must not raise but for bugs and a lost lease."""

    rank: Rank
    due: float
    start: Callable[["Permit"], Coroutine[object, object, None]]


class RequestSource(Protocol):
    def jobs(self, now: float) -> Iterable[NextJob]:
        """The first job of each kind, whether it is due or not yet; asked again after each start."""


class Permit:
    """A job's right to send requests. The first goes at once: its room was there when the job started."""

    def __init__(self, queue: "RequestQueue", rank: Rank) -> None:
        self._queue = queue
        self._rank = rank
        self._granted = True

    async def ask(self, call: Callable[[], Awaitable[T]], rank: Rank | None = None) -> T:
        """One request, of the job's rank or another. Raises ``DSSError``, also when the node goes down meanwhile."""
        if not self._granted:
            await self._queue.wait(self._rank if rank is None else rank)
        self._granted = False
        try:
            return await call()
        finally:
            self._queue.release()

    async def run(self, job: Coroutine[object, object, None]) -> None:
        """Run the job, and release what was granted and not used."""
        try:
            await job
        finally:
            if self._granted:
                self._granted = False
                self._queue.release()


class RequestQueue:
    """The queue itself. ``sources`` is called anew each time, so that a dead node can offer its probe alone."""

    def __init__(
        self, budget: Budget, clock: Clock, sources: Callable[[], Sequence[RequestSource]], log: FilteringBoundLogger
    ) -> None:
        self.budget = budget
        self.clock = clock
        self._log = log
        self._sources = sources
        self._waiting: list[tuple[Rank, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._jobs: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._started = 0
        self._bell = asyncio.Event()

    async def run(self) -> None:
        """Start jobs as the budget allows, for ever. Raises ``NotLeader`` when a job learned of it."""
        try:
            while True:
                pause = self._dispatch()
                self._bell.clear()
                try:
                    async with asyncio.timeout(min(pause, _LONGEST_SLEEP)):
                        await self._bell.wait()
                except TimeoutError:
                    pass
                for job in [job for job in self._jobs if job.done()]:
                    self._jobs.remove(job)
                    try:
                        job.result()
                    except NotLeader:
                        raise
                    except Exception:  # noqa: BLE001 - one job is one unit of work: the next ones go on
                        self._log.exception("watch_job_failed")
        finally:
            for job in self._jobs:
                job.cancel()
            await asyncio.gather(*self._jobs, return_exceptions=True)

    def wake(self) -> None:
        self._bell.set()

    async def wait(self, rank: Rank) -> None:
        """Wait for the room of one more request of a running job."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (rank, next(self._numbers), future))
        self.wake()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release()
            raise

    def release(self) -> None:
        self._in_flight -= 1
        self.wake()

    def reject_all(self) -> None:
        """The node is down: requests that wait fail with ``DSSUnreachable``."""
        for *_, future in self._waiting:
            if not future.done():
                future.set_exception(DSSUnreachable("the node is down"))
        self._waiting.clear()

    def _dispatch(self) -> float:
        """Start what may start now. Returns the seconds until more may."""
        while True:
            now = self.clock.monotonic()
            while self._waiting and self._waiting[0][2].done():
                heappop(self._waiting)
            jobs = [job for source in self._sources() for job in source.jobs(now)]
            pause = min((job.due - now for job in jobs if job.due > now), default=inf)
            sweep_in = min((job.due - now for job in jobs if job.rank is Rank.SWEEP), default=inf)
            due = [job for job in jobs if job.due <= now]
            if len(self._jobs) >= _JOBS_PER_REQUEST * self.budget.concurrency:
                due = []
            fair = self._started % _FAIR_EVERY == _FAIR_EVERY - 1
            job = min(due, key=lambda job: (_fair_rank(job.rank) if fair else job.rank, job.due), default=None)
            waiting = self._waiting[0][0] if self._waiting else None
            if job is not None and waiting is not None and waiting <= job.rank:
                job = None
            rank = job.rank if job else waiting
            if rank is None or self._in_flight >= self.budget.max_in_flight:
                return pause
            # Who has waited longest must not stand in the way of the urgent by waiting for room of its own.
            urgent = rank <= Rank.DETAILS or (fair and job is not None)
            if (wait := self.budget.wait(now, urgent=urgent, sweep_in=sweep_in)) > 0:
                return min(pause, wait)
            self.budget.sent(now)
            self._in_flight += 1
            if job is None:
                heappop(self._waiting)[2].set_result(None)
                continue
            self._started += 1
            permit = Permit(self, job.rank)
            task = asyncio.create_task(permit.run(job.start(permit)))
            self._jobs.add(task)
            task.add_done_callback(lambda _: self.wake())


def _fair_rank(rank: Rank) -> Rank:
    """The rank in a turn of those who have waited longest: all but sweeps and spare polls are equal."""
    return rank if rank in (Rank.SWEEP, Rank.SPARE) else Rank.NUDGED
