"""Sends notifications from the outbox: claim, send, receipt, retry. A pending notification is sent until a receiver
takes it, refuses it for good or it grows too old; in order within an ordering key. Truth is in rows alone: after a kill
only a send without a written receipt repeats, with the same delivery id. Several processes may send from one store."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from tocsin.config.model import Channel, Config
from tocsin.deliver.bulkhead import Bulkhead, log_failure
from tocsin.deliver.loading import UsualDurations, load_outgoing
from tocsin.deliver.message import notification_line
from tocsin.deliver.outgoing import Outgoing
from tocsin.deliver.receipts import Receipts, next_retry, store_wait
from tocsin.deliver.result import SendResult, failed, unknown
from tocsin.deliver.transport import Transport, connector
from tocsin.kit.clock import Clock
from tocsin.kit.lines import Line, write_lines
from tocsin.kit.mask import where
from tocsin.model.notification import Attempt, AttemptOutcome, DeadReason, Notification, NotificationState
from tocsin.store import Store, StoreUnavailable, deliveries, outbox
from tocsin.store.outbox import ClaimedRow, Receipt, SentMessage, Settled

log = structlog.get_logger(__name__)

_LEASE = timedelta(seconds=30)
_RENEW_EVERY = timedelta(seconds=10)
_MEASURE_EVERY = timedelta(seconds=5)
_SCAN_LIMIT = 500  # ready rows of one scan
_OUTAGE = 3  # consecutive failures after which a success retries at once what waits for its retry
_NO_ANSWER = unknown("no answer before the deadline; it may still arrive")
_STOPPED = unknown("Tocsin stopped before the answer came")


def _lines(event: str, notification: Notification, receipt: Receipt) -> Iterator[Line]:
    """The line of the log about a notification and its last attempt."""
    line = {"event": event, **notification_line(notification)}
    if receipt.state is not NotificationState.DELIVERED:
        line |= {"reason": receipt.reason, **({"dead_reason": receipt.dead_reason} if receipt.dead_reason else {})}
    yield {**line, "attempt": receipt.attempt.number, "notification": notification.id}


def _keep(task: "asyncio.Task[None]", tasks: set["asyncio.Task[None]"]) -> None:
    """In ``tasks`` as long as it runs."""
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def _cancel(tasks: Collection["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class DeliverMetrics:
    OUTCOMES = ("delivered", "failed", "unknown", "dead", "superseded", "cancelled")

    def __init__(self, registry: CollectorRegistry) -> None:
        gauge = partial(Gauge, registry=registry)
        attempts = "Notifications by receiver, channel and outcome; failed and unknown ones are retried."
        labels = ["receiver", "channel", "outcome"]
        self.notifications = Counter("tocsin_notifications", attempts, labels, registry=registry)
        self.outbox_depth = gauge("tocsin_outbox_depth", "Notifications pending or being sent.", ["channel"])
        oldest = "Age of the oldest notification that is pending or being sent; 0 when there is none."
        self.outbox_oldest_age = gauge("tocsin_outbox_oldest_age_seconds", oldest)
        dead = "Dead letters by reason: refused by the receiver, too old, channel gone, or unreadable row."
        self.dead_letters = gauge("tocsin_dead_letters", dead, ["reason"])
        for reason in DeadReason:
            self.dead_letters.labels(reason)

    def count_settled(self, settled: Sequence[Settled]) -> None:
        for row in settled:
            self.notifications.labels(row.receiver, row.channel, row.state).inc()


@dataclass(eq=False)
class Sender:
    """One object for the life of the process; ``step`` follows the configuration of its argument. ``wake`` asks for a
    step before the agreed time: capacity became free, or a retry was planned."""

    store: Store
    _: KW_ONLY
    holder: str
    clock: Clock
    metrics: DeliverMetrics
    random: Random
    connect: Callable[[Channel], Transport] | None = None
    wake: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._receipts = Receipts(self.store)
        self._connect = self.connect or connector(self.clock)
        self._bulkheads: dict[str, Bulkhead] = {}
        self._retired: list[Bulkhead] = []
        self._claimed: dict[ClaimedRow, datetime] = {}  # rows that are not loaded yet, and the ends of their leases
        self._overdue: set[asyncio.Task[None]] = set()  # they watch sends that are past their deadline
        self._abandoned: set[asyncio.Task[None]] = set()
        self._after: set[asyncio.Task[None]] = set()  # what follows from a receipt
        self._usual: UsualDurations = {}
        self._started = False
        self._renew_at = self._measure_at = datetime.min.replace(tzinfo=UTC)
        self._outages = 0  # consecutive steps that found the store away

    async def step(self, now: datetime, config: Config) -> datetime | None:
        """Claim and begin to send what is due and has capacity; returns when more falls due. Sends go on between steps;
        one is needed at least every five seconds, to renew leases."""
        try:
            if not self._started:
                if self.store.is_sqlite:  # other senders from this file are dead
                    await self.store.write(outbox.expire_leases, now)
                self._started = True
            if await self._reconcile(config):
                self._measure_at = now
            if now >= self._measure_at:
                await self._measure_outbox(now)
                self._measure_at = now + _MEASURE_EVERY
            if now >= self._renew_at:
                if leased := [outgoing for bulkhead in self._all() for outgoing in bulkhead.leased()]:
                    until, rows = now + _LEASE, [outgoing.n for outgoing in leased]
                    await self.store.write(outbox.extend_leases, rows, self.holder, until)
                    for outgoing in leased:
                        outgoing.lease_until = until
                self._renew_at = now + _RENEW_EVERY
            due = await self._claim(now, config)
        except StoreUnavailable as error:
            if not self._outages:
                log.warning("delivery_paused", reason=str(error))
            self._outages += 1
            return now + store_wait(self._outages)
        if self._outages:
            log.info("delivery_resumed")
            self._outages = 0
        return due

    def failing(self) -> dict[str, int]:
        """The consecutive failed attempts of each channel whose last attempt was not delivered."""
        return {name: bulkhead.failures for name, bulkhead in self._bulkheads.items() if bulkhead.failures}

    async def idle(self) -> None:
        while tasks := {task for bulkhead in self._all() for task in bulkhead.workers} | self._overdue | self._behind():
            await asyncio.wait(tasks, timeout=0.05)  # a send may be abandoned meanwhile

    async def close(self, grace: timedelta) -> None:
        """Begin nothing more, release what waits, and give sends in flight ``grace`` to end. What still hangs then
        counts as unknown and is retried by the next sender."""
        now = self.clock.now()
        waiting = [outgoing.n for bulkhead in self._all() for outgoing in bulkhead.cancel_waiting(now)]
        with suppress(StoreUnavailable):  # the leases expire by themselves
            await self.store.write(outbox.release_claims, [*waiting, *(row.n for row in self._claimed)], self.holder)
        bulkheads = self._all()
        hanging = await asyncio.gather(*(bulkhead.finish(grace) for bulkhead in bulkheads))
        await _cancel(self._abandoned | self._overdue)
        last = [
            self._receipt(bulkhead.channel, outgoing, _STOPPED)
            for bulkhead, part in zip(bulkheads, hanging, strict=True)
            for outgoing in part
            if outgoing.started is not None and not outgoing.concluded
        ]
        await self._receipts.close(last)
        await _cancel(self._after)
        await asyncio.gather(*(bulkhead.transport.close() for bulkhead in bulkheads))

    async def _reconcile(self, config: Config) -> bool:
        """Returns whether any bulkhead changed."""
        channels = config.channels()
        gone = [name for name, bulkhead in self._bulkheads.items() if channels.get(name) != bulkhead.channel]
        for name in gone:
            old = self._bulkheads.pop(name)
            self.metrics.outbox_depth.remove(name)
            self._retired.append(old)
            await self._release(old.take_queued())
        fresh = [channel for name, channel in channels.items() if name not in self._bulkheads]
        for channel in fresh:
            bulkhead = Bulkhead(channel, self._connect(channel), self._deliver, self.clock)
            count = partial(self.metrics.notifications.labels, channel.receiver, channel.name)
            bulkhead.counters = {outcome: count(outcome) for outcome in DeliverMetrics.OUTCOMES}  # from zero on
            self._bulkheads[channel.name] = bulkhead
        for old in [bulkhead for bulkhead in self._retired if not bulkhead.leased()]:
            self._retired.remove(old)
            await old.transport.close()
        return bool(gone or fresh)

    async def _measure_outbox(self, now: datetime) -> None:
        """Set the gauges, and dead-letter the notifications of channels that are gone from the configuration."""
        depth = await self.store.read(deliveries.outbox_depth)
        age = now - depth.oldest_created_at if depth.oldest_created_at else timedelta(0)
        self.metrics.outbox_oldest_age.set(max(age.total_seconds(), 0.0))
        for name in self._bulkheads:
            self.metrics.outbox_depth.labels(name).set(depth.channels.get(name, 0))
        for reason, count in depth.dead.items():
            self.metrics.dead_letters.labels(reason).set(count)
        if not depth.channels.keys() <= self._bulkheads.keys():
            dead = await self.store.write(outbox.dead_letter_orphans, self._bulkheads.keys(), now)
            self.metrics.count_settled(dead)
            for channel in sorted({row.channel for row in dead}):
                log.warning("channel_not_configured", channel=channel)

    async def _claim(self, now: datetime, config: Config) -> datetime | None:
        capacities = {name: room for name, bulkhead in self._bulkheads.items() if (room := bulkhead.capacity(now))}
        stale = [name for name in capacities if self._bulkheads[name].needs_scan(now)]
        scans = {name: max(capacities[name], _SCAN_LIMIT) for name in stale}
        for name, waiting in (await self.store.read(outbox.ready_rows, scans, now)).items():
            self._bulkheads[name].set_ready(waiting, now)
        ready = [row for name, room in capacities.items() for row in self._bulkheads[name].pop_ready(room)]
        if ready:
            claimed = await self.store.write(outbox.claim, ready, self.holder, now, now + _LEASE)
            self.metrics.count_settled(claimed.settled)
            self._claimed |= dict.fromkeys(claimed.rows, now + _LEASE)
        if self._claimed:
            await self._begin_claimed(now, config)
        paused = (bulkhead.paused_until(now) for bulkhead in self._bulkheads.values())
        later = (self._bulkheads[name].next_due for name in capacities)
        return min((due for due in (*later, *paused) if due is not None), default=None)

    async def _begin_claimed(self, now: datetime, config: Config) -> None:
        people = frozenset(name for name, bulkhead in self._bulkheads.items() if bulkhead.channel.webhook is None)
        loaded = await self.store.read(load_outgoing, self._claimed, config, people, self._usual, now)
        for n in {row.n for row in self._claimed} - {outgoing.n for outgoing in loaded}:
            log.error("notification_unreadable", row=n)
            await self.store.write(outbox.dead_letter, n, now)
        by_channel: dict[str, list[Outgoing]] = {}
        for outgoing in loaded:
            by_channel.setdefault(outgoing.notification.channel, []).append(outgoing)
        self._claimed = {}
        for name, part in by_channel.items():
            if bulkhead := self._bulkheads.get(name):
                bulkhead.enqueue(part)
            else:  # the configuration changed meanwhile
                await self._release(part)

    async def _deliver(self, bulkhead: Bulkhead, outgoing: Outgoing) -> None:
        channel = bulkhead.channel
        if channel.rate is not None:
            await bulkhead.wait_for_rate_limit(channel.rate)
        started = self.clock.now()
        if started >= outgoing.lease_until:  # another sender may have claimed the row by now
            bulkhead.forget(outgoing)
            await self._release([outgoing])
            return
        outgoing.started = started
        seconds = channel.timeout.total_seconds()
        timer = asyncio.get_running_loop().call_later(seconds, self._on_timeout, bulkhead, outgoing)
        try:
            result = await bulkhead.transport.send(outgoing)
        except Exception as error:  # noqa: BLE001 - a bug in a transport is one failed attempt, and is retried
            log.error("transport_failed", channel=channel.name, error=type(error).__name__, at=where(error))
            result = failed(f"internal error: {type(error).__name__}")
        finally:
            timer.cancel()
        if not outgoing.abandoned:
            if outgoing.watch is not None:
                outgoing.watch.cancel()
            self._conclude(bulkhead, outgoing, result)
        elif result.outcome is AttemptOutcome.DELIVERED:
            log.info("notification_delivered_late", channel=channel.name, notification=outgoing.notification.id)
            await self._receipts.write(self._receipt(channel, outgoing, result))

    def _on_timeout(self, bulkhead: Bulkhead, outgoing: Outgoing) -> None:
        name = f"overdue {bulkhead.channel.name}"
        outgoing.watch = asyncio.create_task(self._abandon_later(bulkhead, outgoing), name=name)
        _keep(outgoing.watch, self._overdue)
        outgoing.watch.add_done_callback(log_failure)

    async def _abandon_later(self, bulkhead: Bulkhead, outgoing: Outgoing) -> None:
        """The outcome is unknown. The send is waited for once more as long as the deadline, and abandoned then."""
        await self._receipts.write(self._receipt(bulkhead.channel, outgoing, _NO_ANSWER, held=True))
        await asyncio.sleep(bulkhead.channel.timeout.total_seconds())
        outgoing.abandoned = True
        if (worker := bulkhead.abandon(outgoing)) is not None:
            _keep(worker, self._abandoned)
        self._conclude(bulkhead, outgoing, _NO_ANSWER)

    def _conclude(self, bulkhead: Bulkhead, outgoing: Outgoing, result: SendResult) -> None:
        receipt = self._receipt(bulkhead.channel, outgoing, result)
        outgoing.concluded = True
        self._receipts.add(receipt, partial(self._on_receipt, bulkhead, outgoing, result, receipt))

    def _on_receipt(
        self, bulkhead: Bulkhead, outgoing: Outgoing, result: SendResult, receipt: Receipt, error: Exception | None
    ) -> None:
        """Its receipt is written; with ``error`` it cannot be, and it is sent again once its lease has expired."""
        notification, channel = outgoing.notification, bulkhead.channel
        bulkhead.forget(outgoing)
        if error is not None:
            log.error(
                "delivery_task_failed", task=f"deliver {channel.name}", error=type(error).__name__, at=where(error)
            )
            return
        retried = receipt.state is NotificationState.PENDING
        outcome = result.outcome if retried else receipt.state
        bulkhead.counters[outcome].inc()
        if receipt.state is NotificationState.DELIVERED:
            write_lines("deliver", "info", partial(_lines, "notification_delivered", notification, receipt))
            bulkhead.record_duration(receipt.attempt.ended_at - receipt.attempt.started_at)
            failures, bulkhead.failures = bulkhead.failures, 0
            if failures:
                log.info("channel_recovered", channel=channel.name, failures=failures)
            if failures >= _OUTAGE:
                self._follow(self._retry_now(channel.name))
        else:
            if receipt.state is NotificationState.DEAD:
                write_lines("deliver", "warning", partial(_lines, "notification_dead", notification, receipt))
            elif receipt.attempt.number == 1:  # of further tries the outbox tells
                write_lines("deliver", "warning", partial(_lines, "notification_failed", notification, receipt))
            bulkhead.failures += 1
            if bulkhead.failures == 1:
                log.warning("channel_failing", channel=channel.name, reason=result.note)
            if result.retry_after:
                self._follow(self._release(bulkhead.pause(self.clock.now() + result.retry_after)))
        if retried or bulkhead.runs_low():
            self.wake()

    async def _retry_now(self, channel: str) -> None:
        with suppress(StoreUnavailable):  # they are due later by themselves
            await self.store.write(outbox.retry_now, channel, self.clock.now())
        self.wake()

    def _follow(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name="after a receipt")
        _keep(task, self._after)
        task.add_done_callback(log_failure)

    def _behind(self) -> set["asyncio.Task[None]"]:
        writing = self._receipts.writing
        return self._after | ({writing} if writing is not None and not writing.done() else set())

    def _receipt(self, channel: Channel, outgoing: Outgoing, result: SendResult, *, held: bool = False) -> Receipt:
        """Delivered, dead letter or retry. ``held``: it may still arrive, so its ordering key waits."""
        notification, now = outgoing.notification, self.clock.now()
        started, number = outgoing.started or now, notification.attempts + 1
        attempt = Attempt(notification.id, number, started, now, result.outcome, result.note)
        sent = None
        if result.sent is not None and (thread := notification.thread) is not None:
            sent = SentMessage(channel.name, thread, result.sent)
        if result.outcome is AttemptOutcome.DELIVERED:
            return Receipt(self.holder, attempt, NotificationState.DELIVERED, now, sent=sent)
        until = started + 2 * channel.timeout
        receipt = partial(Receipt, self.holder, attempt, sent=sent)
        if held:
            return receipt(NotificationState.SENDING, until, result.note)
        if result.outcome is AttemptOutcome.REFUSED:
            return receipt(NotificationState.DEAD, now, result.note, DeadReason.REFUSED)
        expires_at = notification.created_at + channel.max_age
        earliest = until if result.outcome is AttemptOutcome.UNKNOWN else None
        retry_at = next_retry(
            now, number, expires_at, self.random.random, retry_after=result.retry_after, not_before=earliest
        )
        if retry_at is not None:
            return receipt(NotificationState.PENDING, retry_at, result.note)
        reason = f"too old after {number} {'try' if number == 1 else 'tries'}: {result.note}"
        return receipt(NotificationState.DEAD, now, reason, DeadReason.TOO_OLD)

    async def _release(self, outgoing: Sequence[Outgoing]) -> None:
        if outgoing:
            with suppress(StoreUnavailable):  # the leases expire by themselves
                await self.store.write(outbox.release_claims, [row.n for row in outgoing], self.holder)

    def _all(self) -> Sequence[Bulkhead]:
        return [*self._bulkheads.values(), *self._retired]
