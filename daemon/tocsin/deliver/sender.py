"""Notifications owed → receivers: claim, send, receipt, retry.

The promise: what is owed is sent until a receiver takes it, refuses it for good or it grows too old; in order within a
ordering_key; and a channel that hangs delays nobody else. Truth is in rows alone: a process that dies leaves leases that run
out, so nothing is lost, and only a send whose receipt was not yet written may repeat, with the same delivery id.
Several processes may send from one store.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from random import Random
from typing import assert_never

import structlog

from tocsin.config.model import Channel, Config
from tocsin.deliver.backoff import next_try
from tocsin.deliver.bulkhead import Bulkhead, Job, report_failure
from tocsin.deliver.connect import connector
from tocsin.deliver.facts import Loaded, Usual, load
from tocsin.deliver.metrics import Count, DeliverMetrics
from tocsin.deliver.receipts import Receipts
from tocsin.deliver.transport import Parcel, Transport
from tocsin.deliver.verdict import SendResult, failed, unknown
from tocsin.kit.clock import Clock
from tocsin.kit.mask import where
from tocsin.model.notification import Attempt, AttemptOutcome, DeadReason, NotificationState
from tocsin.store import Store, StoreUnavailable, deliveries, sending
from tocsin.store.sending import Receipt, Settled

log = structlog.get_logger(__name__)

_LEASE = timedelta(seconds=30)
_RENEW_EVERY = timedelta(seconds=10)
_SURVEY_EVERY = timedelta(seconds=5)
_SCAN = 500  # turns that are looked for at once
_OUTAGE = 3  # failures in a row after which a success sends at once what waits for its next try
_PAUSES = (0.1, 5.0)  # seconds: between steps while the store is away, first and longest


class Sender:
    """Sends what is owed. One object for the life of the process; ``step`` follows the configuration it is given.

    ``ring`` asks for a step before the one that was agreed: a place became free, or a retry was planned.
    """

    def __init__(
        self,
        store: Store,
        *,
        holder: str,
        clock: Clock,
        metrics: DeliverMetrics,
        random: Random,
        connect: Callable[[Channel], Transport] | None = None,
        ring: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._receipts = Receipts(store)
        self._holder = holder
        self._clock = clock
        self._metrics = metrics
        self._random = random
        self._connect = connect or connector(clock)
        self._ring = ring
        self._bulkheads: dict[str, Bulkhead] = {}
        self._retired: list[Bulkhead] = []
        self._claimed: dict[int, datetime] = {}  # rows that are not loaded yet, and the ends of their leases
        self._watches: set[asyncio.Task[None]] = set()  # of sends that are past their deadline
        self._late: set[asyncio.Task[None]] = set()  # sends that were left behind
        self._usual = Usual()
        self._started = False
        self._renew_at: datetime | None = None
        self._survey_at: datetime | None = None
        self._pause: float | None = None  # seconds; set while the store is away

    async def step(self, now: datetime, config: Config) -> datetime | None:
        """Claim what is due and has a free place, and hand it over; answers when more falls due.

        Sends go on between steps. A step is wanted at least every five seconds, to renew leases.
        """
        try:
            due = await self._step(now, config)
        except StoreUnavailable as error:
            if self._pause is None:
                log.warning("delivery_paused", reason=str(error))
            self._pause = min(2 * self._pause, _PAUSES[1]) if self._pause else _PAUSES[0]
            return now + timedelta(seconds=self._pause)
        if self._pause is not None:
            log.info("delivery_goes_on")
            self._pause = None
        return due

    def failing(self) -> dict[str, int]:
        """How many tries of each channel have failed in a row; without those whose last one was delivered."""
        return {name: one.failures for name, one in self._bulkheads.items() if one.failures}

    async def idle(self) -> None:
        """Wait until every send begun so far has its receipt."""
        while tasks := {task for one in self._all() for task in one.tasks} | self._watches:
            await asyncio.wait(tasks, timeout=0.05)  # a send may be left behind meanwhile

    async def close(self, grace: timedelta) -> None:
        """Begin nothing more, give back what waits, and give sends under way ``grace`` to end.

        What still hangs then counts as unknown and is tried again by whoever comes next.
        """
        now = self._clock.now()
        waiting = [job.n for one in self._all() for job in one.call_back(now)]
        with suppress(StoreUnavailable):  # the leases run out by themselves
            await self._store.write(sending.release, [*waiting, *self._claimed], self._holder)
        left = await asyncio.gather(*(self._finish(one, grace) for one in self._all()))
        hanging = [receipt for part in left for receipt in part]
        behind = self._late | self._watches
        for task in behind:
            task.cancel()
        await asyncio.gather(*behind, return_exceptions=True)
        await self._receipts.close(hanging)
        await asyncio.gather(*(one.transport.close() for one in self._all()))

    # --- a step --------------------------------------------------------------------------------------------------------

    async def _step(self, now: datetime, config: Config) -> datetime | None:
        if not self._started:
            if self._store.is_sqlite:  # whoever sent from this file before is dead
                await self._store.write(sending.expire_leases, now)
            self._started = True
        if await self._reconcile(config):
            self._survey_at = None
        if self._survey_at is None or now >= self._survey_at:
            await self._survey(now, config)
            self._survey_at = now + _SURVEY_EVERY
        if self._renew_at is None or now >= self._renew_at:
            await self._renew(now)
            self._renew_at = now + _RENEW_EVERY
        return await self._claim(now, config)

    async def _reconcile(self, config: Config) -> bool:
        """Make the bulkheads those of the configuration; answers whether any changed."""
        wanted = config.channels()
        gone = [name for name, one in self._bulkheads.items() if wanted.get(name) != one.channel]
        for name in gone:
            old = self._bulkheads.pop(name)
            self._retired.append(old)
            await self._give_back(old.drain())
        fresh = [channel for name, channel in wanted.items() if name not in self._bulkheads]
        self._metrics.know(fresh)
        for channel in fresh:
            self._bulkheads[channel.name] = Bulkhead(channel, self._connect(channel), self._carry_out, self._clock)
        for old in [one for one in self._retired if not one.busy]:
            self._retired.remove(old)
            await old.transport.close()
        return bool(gone or fresh)

    async def _survey(self, now: datetime, config: Config) -> None:
        depth = await self._store.read(deliveries.depth)
        self._metrics.outbox_depth.set(depth.open)
        age = now - depth.oldest_owed_at if depth.oldest_owed_at else timedelta(0)
        self._metrics.outbox_oldest_age.set(max(age.total_seconds(), 0.0))
        self._metrics.dead_letters.set(sum(depth.dead.values()))
        for reason, count in depth.dead.items():
            self._metrics.dead_by_reason.labels(reason).set(count)
        if not depth.channels <= self._bulkheads.keys():
            buried = await self._store.write(sending.dead_letter_orphans, self._bulkheads.keys(), now)
            self._count(buried)
            for channel in sorted({one.channel for one in buried}):
                log.warning("channel_gone_from_configuration", channel=channel)

    async def _renew(self, now: datetime) -> None:
        held = [job for one in self._all() for job in one.held()]
        if held:
            until = now + _LEASE
            await self._store.write(sending.renew, [job.n for job in held], self._holder, until)
            for job in held:
                job.lease_until = until

    async def _claim(self, now: datetime, config: Config) -> datetime | None:
        rooms = {name: room for name, one in self._bulkheads.items() if (room := one.room(now))}
        blank = {name: max(room, _SCAN) for name, room in rooms.items() if self._bulkheads[name].wants_turns(now)}
        for name, waiting in (await self._store.read(sending.waiting, blank, now)).items():
            self._bulkheads[name].scanned(waiting, now)
        turns = [turn for name, room in rooms.items() for turn in self._bulkheads[name].take_turns(room)]
        if turns:
            claimed = await self._store.write(sending.claim, turns, self._holder, now, now + _LEASE)
            self._count(claimed.settled)
            self._claimed |= dict.fromkeys(claimed.rows, now + _LEASE)
        await self._hand_over(now, config)
        quiet = (one.quiet_until(now) for one in self._bulkheads.values())
        later = (self._bulkheads[name].next_due for name in rooms)
        return min((moment for moment in (*later, *quiet) if moment is not None), default=None)

    async def _hand_over(self, now: datetime, config: Config) -> None:
        if not self._claimed:
            return
        people = frozenset(name for name, one in self._bulkheads.items() if one.channel.url is not None)
        try:
            loaded = await self._store.read(load, list(self._claimed), people, self._usual, now)
        except ValueError:
            loaded = await self._load_one_by_one(now, people)
        jobs: dict[str, list[Job]] = {}
        for one in loaded:
            job = Job(one.n, Parcel(one.notification, config, one.facts), self._claimed[one.n])
            jobs.setdefault(one.notification.channel, []).append(job)
        self._claimed = {}
        for name, mine in jobs.items():
            if bulkhead := self._bulkheads.get(name):
                bulkhead.put(mine)
            else:  # the configuration changed meanwhile
                await self._give_back(mine)

    async def _load_one_by_one(self, now: datetime, people: frozenset[str]) -> list[Loaded]:
        """Rows that cannot be read back become dead letters; the others go on."""
        loaded: list[Loaded] = []
        for n in self._claimed:
            try:
                loaded += await self._store.read(load, [n], people, self._usual, now)
            except ValueError as error:
                log.error("notification_unreadable", row=n, error=type(error).__name__)
                await self._store.write(sending.dead_letter, n, now)
        return loaded

    # --- one send ------------------------------------------------------------------------------------------------------

    async def _carry_out(self, bulkhead: Bulkhead, job: Job) -> None:
        try:
            verdict = await self._send(bulkhead, job)
        finally:
            if not job.given_up:
                bulkhead.sent()
        if job.watch is not None and not job.given_up:
            job.watch.cancel()
        if verdict is None:
            await self._give_back([job])
        elif job.given_up:
            await self._arrived_late(bulkhead.channel, job, verdict)
        else:
            await self._conclude(bulkhead, job, verdict)

    async def _send(self, bulkhead: Bulkhead, job: Job) -> SendResult | None:
        """The outcome of one send; None when it was not begun, since the row may be another's by now."""
        await bulkhead.turn()
        started = self._clock.now()
        if started >= job.lease_until:
            return None
        job.started = started
        seconds = bulkhead.channel.timeout.total_seconds()
        timer = asyncio.get_running_loop().call_later(seconds, self._overdue, bulkhead, job)
        try:
            return await bulkhead.transport.send(job.parcel)
        except Exception as error:  # noqa: BLE001 - a bug in a transport is one try that failed, and is made again
            log.error("transport_broke", channel=bulkhead.channel.name, error=type(error).__name__, at=where(error))
            return failed(f"internal error: {type(error).__name__}")
        finally:
            timer.cancel()

    def _overdue(self, bulkhead: Bulkhead, job: Job) -> None:
        job.watch = asyncio.create_task(self._watch(bulkhead, job), name=f"overdue {bulkhead.channel.name}")
        self._watches.add(job.watch)
        job.watch.add_done_callback(self._watches.discard)
        job.watch.add_done_callback(report_failure)

    async def _watch(self, bulkhead: Bulkhead, job: Job) -> None:
        """The deadline has passed: the outcome is unknown. The send is waited for once as long again, and left behind."""
        await self._receipts.write(self._receipt(bulkhead.channel, job, _NO_ANSWER, held=True))
        await asyncio.sleep(bulkhead.channel.timeout.total_seconds())
        job.given_up = True
        for task in bulkhead.leave_behind(job):
            self._late.add(task)
            task.add_done_callback(self._late.discard)
        bulkhead.sent()
        await self._conclude(bulkhead, job, _NO_ANSWER)

    async def _arrived_late(self, channel: Channel, job: Job, verdict: SendResult) -> None:
        if verdict.outcome is AttemptOutcome.DELIVERED:
            about = {"channel": channel.name, "notification": job.parcel.notification.id}
            log.info("notification_delivered_late", **about)
            await self._receipts.write(self._receipt(channel, job, verdict))

    async def _conclude(self, bulkhead: Bulkhead, job: Job, verdict: SendResult) -> None:
        notification, channel = job.parcel.notification, bulkhead.channel
        receipt = self._receipt(channel, job, verdict)
        job.concluded = True
        await self._receipts.write(receipt)
        self._metrics.count(notification.receiver, channel.name, _counted(receipt))
        about = {"channel": channel.name, "notification": notification.id, "attempt": receipt.attempt.number}
        if receipt.state is NotificationState.DELIVERED:
            log.info("notification_delivered", **about)
            bulkhead.took(receipt.attempt.ended_at - receipt.attempt.started_at)
            await self._works(bulkhead)
        else:
            if receipt.state is NotificationState.DEAD:
                log.warning("notification_dead", **about, dead_reason=receipt.dead_reason, reason=receipt.reason)
            await self._fails(bulkhead, verdict)
        if bulkhead.runs_low() or receipt.state is NotificationState.PENDING:
            self._ring()

    async def _works(self, bulkhead: Bulkhead) -> None:
        failures, bulkhead.failures = bulkhead.failures, 0
        if failures:
            log.info("channel_works_again", channel=bulkhead.channel.name, failures=failures)
        if failures >= _OUTAGE:
            with suppress(StoreUnavailable):  # they are due later by themselves
                await self._store.write(sending.retry_now, bulkhead.channel.name, self._clock.now())
            self._ring()

    async def _fails(self, bulkhead: Bulkhead, verdict: SendResult) -> None:
        bulkhead.failures += 1
        if bulkhead.failures == 1:
            log.warning("channel_failing", channel=bulkhead.channel.name, reason=verdict.note)
        if verdict.retry_after:
            await self._give_back(bulkhead.hold(self._clock.now() + verdict.retry_after))

    def _receipt(self, channel: Channel, job: Job, verdict: SendResult, *, held: bool = False) -> Receipt:
        notification, now = job.parcel.notification, self._clock.now()
        started, number = job.started or now, notification.attempts + 1
        attempt = Attempt(notification.id, number, started, now, verdict.outcome, verdict.note)
        until = started + 2 * channel.timeout
        if held:
            return Receipt(self._holder, attempt, NotificationState.SENDING, until, verdict.note)
        match verdict.outcome:
            case AttemptOutcome.DELIVERED:
                return Receipt(self._holder, attempt, NotificationState.DELIVERED, now)
            case AttemptOutcome.REFUSED:
                return Receipt(self._holder, attempt, NotificationState.DEAD, now, verdict.note, DeadReason.REFUSED)
            case AttemptOutcome.FAILED | AttemptOutcome.UNKNOWN:
                again = next_try(
                    now,
                    number,
                    notification.created_at + channel.max_age,
                    self._random.random,
                    retry_after=verdict.retry_after,
                    not_before=until if verdict.outcome is AttemptOutcome.UNKNOWN else None,
                )
                if again is None:
                    why = f"too old after {number} {'try' if number == 1 else 'tries'}: {verdict.note}"
                    return Receipt(self._holder, attempt, NotificationState.DEAD, now, why, DeadReason.TOO_OLD)
                return Receipt(self._holder, attempt, NotificationState.PENDING, again, verdict.note)
        assert_never(verdict.outcome)

    # --- the rest ------------------------------------------------------------------------------------------------------

    async def _give_back(self, jobs: Sequence[Job]) -> None:
        if jobs:
            with suppress(StoreUnavailable):  # the leases run out by themselves
                await self._store.write(sending.release, [job.n for job in jobs], self._holder)

    async def _finish(self, bulkhead: Bulkhead, grace: timedelta) -> list[Receipt]:
        return [
            self._receipt(bulkhead.channel, job, _STOPPED)
            for job in await bulkhead.finish(grace)
            if job.started is not None and not job.concluded
        ]

    def _all(self) -> Sequence[Bulkhead]:
        return [*self._bulkheads.values(), *self._retired]

    def _count(self, settled: Sequence[Settled]) -> None:
        for one in settled:
            self._metrics.count(one.receiver, one.channel, Count(one.state.value))


_NO_ANSWER = unknown("no answer before the deadline; it may still arrive")
_STOPPED = unknown("Tocsin stopped before the answer came")


def _counted(receipt: Receipt) -> Count:
    match receipt.state:
        case NotificationState.DELIVERED:
            return Count.DELIVERED
        case NotificationState.DEAD:
            return Count.DEAD
        case _:
            return Count.UNKNOWN if receipt.attempt.outcome is AttemptOutcome.UNKNOWN else Count.FAILED
