"""The one line in which all requests of a node wait: by rank, within one budget.

A source names what it would do next; when the budget has room, the most urgent source starts its job, and the job's
further requests wait in the same line, before new jobs of its rank. Every few jobs the longest waiting goes first
whatever its rank, so that what the budget cannot hold is delayed fairly and nothing starves.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Protocol, TypeVar

from structlog.typing import FilteringBoundLogger as BoundLogger

from tocsin.dss import DSSUnreachable
from tocsin.kit.clock import Clock
from tocsin.store import NotLeader
from tocsin.watch.budget import Budget
from tocsin.watch.cadence import Rank

T = TypeVar("T")

_FAIR_EVERY = 8
_LONGEST_SLEEP = 5.0
_JOBS_PER_REQUEST = 4  # jobs may wait for the store while others ask; not without end


@dataclass(frozen=True, slots=True)
class NextJob:
    """What a source would do now; ``since`` when it has waited, in monotonic seconds."""

    rank: Rank
    since: float


class RequestSource(Protocol):
    """Something that has jobs for the line. Times are monotonic seconds."""

    def offer(self, now: float) -> NextJob | None:
        """The most urgent job that is due; None: nothing is."""
        ...

    def take(self, now: float, permit: "Permit") -> Coroutine[object, object, None]:
        """Start the job that was offered. It must not raise but for bugs and a lost lead."""
        ...

    def due_in(self, now: float) -> float:
        """Seconds until something becomes due that is not yet."""
        ...


class Permit:
    """A job's place in the line. The first request goes at once: its room was there when the job was started."""

    def __init__(self, line: "RequestQueue", rank: Rank) -> None:
        self._line = line
        self._rank = rank
        self._granted = True

    async def ask(self, call: Callable[[], Awaitable[T]], rank: Rank | None = None) -> T:
        """One request, of the job's rank or another. Raises ``DSSError``, also when the node went down while this
        waited."""
        if self._granted:
            self._granted = False
        else:
            await self._line.wait(self._rank if rank is None else rank)
        try:
            return await call()
        finally:
            self._line.leave()

    def close(self) -> None:
        """Give back what was granted and not used."""
        if self._granted:
            self._granted = False
            self._line.leave()


class RequestQueue:
    """The line itself. ``sources`` is asked anew each time, so that a dead node can offer its probe alone."""

    def __init__(
        self, budget: Budget, clock: Clock, sources: Callable[[], Sequence[RequestSource]], log: BoundLogger
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
        """For ever: let jobs begin as the budget allows. Raises ``NotLeader`` when a job learned of it."""
        try:
            while True:
                pause = self._pump()
                self._bell.clear()
                try:
                    async with asyncio.timeout(min(pause, _LONGEST_SLEEP)):
                        await self._bell.wait()
                except TimeoutError:
                    pass
                self._reap()
        finally:
            for job in self._jobs:
                job.cancel()
            await asyncio.gather(*self._jobs, return_exceptions=True)

    def ring(self) -> None:
        """Something may have become due."""
        self._bell.set()

    async def wait(self, rank: Rank) -> None:
        """Wait for the room of one more request of a job that runs."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (rank, next(self._numbers), future))
        self.ring()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.leave()
            raise

    def leave(self) -> None:
        self._in_flight -= 1
        self.ring()

    def reject_all(self) -> None:
        """The node is down: those who wait need not."""
        for *_, future in self._waiting:
            if not future.done():
                future.set_exception(DSSUnreachable("the node is down"))
        self._waiting.clear()

    def _pump(self) -> float:
        """Start what may start; answers the seconds until more may."""
        while True:
            now = self.clock.monotonic()
            while self._waiting and self._waiting[0][2].done():
                heappop(self._waiting)
            source, offer = self._best(now)
            ahead = self._waiting[0][0] if self._waiting else None
            if ahead is None and (source is None or offer is None):
                return min((one.due_in(now) for one in self._sources()), default=inf)
            rank = min(rank for rank in (ahead, offer.rank if offer else None) if rank is not None)
            pause = (
                inf
                if self._in_flight >= self.budget.max_in_flight
                else self.budget.wait(now, urgent=rank <= Rank.DETAILS)
            )
            if pause > 0:
                return min([pause, *(one.due_in(now) for one in self._sources())])
            self.budget.sent(now)
            self._in_flight += 1
            if ahead is not None and (offer is None or ahead <= offer.rank):
                heappop(self._waiting)[2].set_result(None)
            else:
                assert source is not None
                assert offer is not None
                self._start(source, offer.rank, now)

    def _best(self, now: float) -> tuple[RequestSource | None, NextJob | None]:
        if len(self._jobs) >= _JOBS_PER_REQUEST * self.budget.concurrency:
            return None, None
        offers = [(source, offer) for source in self._sources() if (offer := source.offer(now)) is not None]
        if not offers:
            return None, None
        if self._started % _FAIR_EVERY == _FAIR_EVERY - 1:
            return min(offers, key=lambda one: (one[1].rank is Rank.SPARE, one[1].since))
        return min(offers, key=lambda one: (one[1].rank, one[1].since))

    def _start(self, source: RequestSource, rank: Rank, now: float) -> None:
        self._started += 1
        permit = Permit(self, rank)
        job = asyncio.create_task(_carry_out(source.take(now, permit), permit))
        self._jobs.add(job)
        job.add_done_callback(lambda _: self.ring())

    def _reap(self) -> None:
        for job in [job for job in self._jobs if job.done()]:
            self._jobs.remove(job)
            try:
                job.result()
            except NotLeader:
                raise
            except Exception:  # noqa: BLE001 - one job is one unit of work: the next ones go on
                self._log.exception("watch_job_failed")


async def _carry_out(work: Coroutine[object, object, None], permit: Permit) -> None:
    try:
        await work
    finally:
        permit.close()
