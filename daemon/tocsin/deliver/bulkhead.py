"""One channel's own queue, limiter and way out, so that a channel that hangs holds up nobody but itself."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from tocsin.config.model import Channel
from tocsin.deliver.transport import Parcel, Transport
from tocsin.kit.clock import Clock
from tocsin.kit.mask import where
from tocsin.store.sending import ReadyRow, Waiting

log = structlog.get_logger(__name__)

_AHEAD_SECONDS = 1.0  # how much work is claimed before its turn; what waits here can no longer be superseded
_MOST_AHEAD = 512
_SMOOTHING = 0.1
_TURNS_FOR = timedelta(seconds=1)


@dataclass(slots=True, eq=False)
class Job:
    """A claimed row on its way. ``started`` is None until its send begins; ``watch`` until its deadline has passed."""

    n: int
    parcel: Parcel
    lease_until: datetime
    started: datetime | None = None
    watch: "asyncio.Task[None] | None" = None
    given_up: bool = False  # its outcome is unknown for good; what comes now is late
    concluded: bool = False  # its last receipt is being written


def report_failure(task: "asyncio.Task[None]") -> None:
    """Log the error of a task that nobody awaits; the row that it was about is sent again once its lease runs out."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("delivery_task_failed", task=task.get_name(), error=type(error).__name__, at=where(error))


class Bulkhead:
    """What is between the rows of one channel and its transport. ``send`` carries out one job."""

    def __init__(
        self,
        channel: Channel,
        transport: Transport,
        send: Callable[["Bulkhead", Job], Coroutine[None, None, None]],
        clock: Clock,
    ) -> None:
        self.channel = channel
        self.transport = transport
        self.failures = 0  # tries since the last one that was delivered
        self.next_due: datetime | None = None  # of what is not due yet, as far as is known
        self._send = send
        self._clock = clock
        self._turns: deque[ReadyRow] = (
            deque()
        )  # rows found that were not claimed yet; a claim sees whether they still may
        self._turns_until = datetime.min.replace(tzinfo=UTC)
        self._more = False  # whether rows wait beyond the turns
        self._queue: deque[Job] = deque()
        self._flying: dict[asyncio.Task[None], Job] = {}  # until they have their receipt
        self._places = 0  # taken at the transport
        self._next_turn = clock.monotonic()
        self._seconds_each = _AHEAD_SECONDS
        self._quiet_until: datetime | None = None

    @property
    def busy(self) -> bool:
        return bool(self._queue or self._flying)

    @property
    def tasks(self) -> set["asyncio.Task[None]"]:
        return set(self._flying)

    def held(self) -> Iterator[Job]:
        """Every job that this channel holds a lease for."""
        yield from self._queue
        yield from self._flying.values()

    def quiet_until(self, now: datetime) -> datetime | None:
        """The end of the silence that the receiver asked for; None when there is none."""
        return self._quiet_until if self._quiet_until is not None and self._quiet_until > now else None

    def room(self, now: datetime) -> int:
        """How many more rows to claim: what can be on its way, and a second's work ahead at the present pace."""
        if self.quiet_until(now) is not None:
            return 0
        return max(self._target() - len(self._queue) - self._places, 0)

    def wants_turns(self, now: datetime) -> bool:
        """Whether it is time to look again for rows that may be sent."""
        return not self._turns or now >= self._turns_until

    def scanned(self, waiting: Waiting, now: datetime) -> None:
        """Remember what a look found, for a moment: looking again for each few rows would cost more than sending."""
        self._turns = deque(waiting.rows)
        self._turns_until = now + _TURNS_FOR
        self.next_due, self._more = waiting.next_due, waiting.more

    def take_turns(self, most: int) -> list[ReadyRow]:
        return [self._turns.popleft() for _ in range(min(most, len(self._turns)))]

    def runs_low(self) -> bool:
        """Whether rows are known to wait and less than half of what could be held is left."""
        return (self._more or bool(self._turns)) and len(self._queue) + self._places <= self._target() // 2

    def put(self, jobs: Iterable[Job]) -> None:
        self._queue.extend(jobs)
        self._fill()

    def drain(self) -> list[Job]:
        """Take back what has not been begun."""
        jobs = list(self._queue)
        self._queue.clear()
        return jobs

    def hold(self, until: datetime) -> list[Job]:
        """Send nothing before ``until``; answers what waits here, to be given back."""
        self._quiet_until = max(until, self._quiet_until or until)
        return self.drain()

    async def turn(self) -> None:
        """Wait for the channel's rate to allow one more send."""
        if self.channel.rate is None:
            return
        now = self._clock.monotonic()
        mine = max(now, self._next_turn)
        self._next_turn = mine + 1 / self.channel.rate
        await asyncio.sleep(mine - now)

    def took(self, duration: timedelta) -> None:
        """Learn the pace from a send that was delivered."""
        self._seconds_each += _SMOOTHING * (duration.total_seconds() - self._seconds_each)

    def call_back(self, now: datetime) -> list[Job]:
        """Take back what has not been begun, and what waits for its turn, which then finds its lease gone."""
        waiting = [job for job in self._flying.values() if job.started is None]
        for job in waiting:
            job.lease_until = now
        return self.drain() + waiting

    def sent(self) -> None:
        """Free a place at the transport: the next send need not wait for the receipt of this one."""
        self._places -= 1
        self._fill()

    def leave_behind(self, job: Job) -> set["asyncio.Task[None]"]:
        """Forget a send that is no longer waited for; answers its task, unless it has ended meanwhile."""
        left = {task for task, mine in self._flying.items() if mine is job}
        for task in left:
            del self._flying[task]
        return left

    async def finish(self, grace: timedelta) -> list[Job]:
        """Wait for what flies, at most ``grace``; answers the jobs that still did, now cancelled."""
        if self._flying:
            await asyncio.wait(set(self._flying), timeout=grace.total_seconds())
        left = list(self._flying.items())
        for task, _job in left:
            task.cancel()
        await asyncio.gather(*(task for task, _job in left), return_exceptions=True)
        return [job for _task, job in left]

    def _target(self) -> int:
        width = self.transport.concurrency
        ahead = _AHEAD_SECONDS / max(self._seconds_each, 0.001) * width
        if self.channel.rate is not None:
            ahead = min(ahead, self.channel.rate * _AHEAD_SECONDS)
        return max(width, min(int(ahead), _MOST_AHEAD))

    def _fill(self) -> None:
        while self._queue and self._places < self.transport.concurrency:
            job = self._queue.popleft()
            self._places += 1
            task = asyncio.create_task(self._send(self, job), name=f"deliver {self.channel.name}")
            self._flying[task] = job
            task.add_done_callback(self._landed)

    def _landed(self, task: "asyncio.Task[None]") -> None:
        self._flying.pop(task, None)
        report_failure(task)
