"""After an attempt: when to retry, and the durable receipt."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count

import structlog
from tenacity import AsyncRetrying, RetryCallState, wait_exponential

from tocsin.store import Connection, Store, StoreUnavailable, outbox
from tocsin.store.outbox import Receipt

log = structlog.get_logger(__name__)

_LINGER_SECONDS = 0.020
_CLOSE_SECONDS = 5.0
_UNSTORABLE = "what the receiver answered cannot be stored"
_RETRY_BACKOFF = wait_exponential(multiplier=2, max=600)
_STORE_BACKOFF = wait_exponential(multiplier=0.1, max=5)


def backoff(attempt: int, strategy: wait_exponential = _STORE_BACKOFF) -> timedelta:
    """The wait after attempt ``attempt`` (from 1) failed; by default that of a store that is away."""
    state = RetryCallState(AsyncRetrying(), None, (), {})
    state.attempt_number = attempt
    return timedelta(seconds=strategy(state))


def retry_wait(attempt: int, random: Callable[[], float]) -> timedelta:
    """The wait before the retry after attempt ``attempt`` (from 1): exponential, 2 s to 10 min, with jitter that shortens
    it by up to a half, so that notifications that failed together do not come back together. ``random``: from [0, 1)."""
    return backoff(attempt, _RETRY_BACKOFF) * (1 - random() / 2)


def next_retry(
    now: datetime,
    attempt: int,
    expires_at: datetime,
    random: Callable[[], float],
    *,
    retry_after: timedelta | None = None,
    not_before: datetime | None = None,
) -> datetime | None:
    """When to retry after attempt ``attempt`` failed at ``now``; None: that would be after ``expires_at``, at which the
    last retry comes. ``retry_after``, which the receiver asked for, and ``not_before`` are lower bounds."""
    if now >= expires_at:
        return None
    earliest = max(now + (retry_after or timedelta(0)), not_before or now)
    if earliest > expires_at:
        return None
    return min(max(now + retry_wait(attempt, random), earliest), expires_at)


class Receipts:
    """Writes receipts to their rows. Those of the next few milliseconds share one transaction, which costs as much as a
    send; one that the database refuses affects no other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writes: set[asyncio.Task[None]] = set()
        self._window: asyncio.Task[None] | None = None  # those who wait for its end go on in the order of their arrival

    async def write(self, receipt: Receipt) -> None:
        """Returns once the receipt is durable, however long the store is away; cancelling the caller cancels no write.
        Raises the database's error when it refuses this receipt even without the receiver's words."""
        await asyncio.shield(self._begin(receipt))

    def _begin(self, receipt: Receipt) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._write(receipt), name="receipt")
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return task

    async def close(self, last: Iterable[Receipt] = ()) -> None:
        """Write what waits and these last ones, if the store answers; otherwise the leases expire."""
        if writes := self._writes | {self._begin(receipt) for receipt in last}:
            _, waiting = await asyncio.wait(writes, timeout=_CLOSE_SECONDS)
            for task in waiting:
                task.cancel()

    async def _write(self, receipt: Receipt) -> None:
        if self._window is None or self._window.done():
            self._window = asyncio.create_task(asyncio.sleep(_LINGER_SECONDS), name="receipts")
        await asyncio.shield(self._window)
        try:
            await self._settle(receipt)
        except Exception as error:  # noqa: BLE001 - the words came from outside; the second try has none
            log.error("receipt_refused", notification=receipt.attempt.notification_id, error=type(error).__name__)
            attempt = replace(receipt.attempt, note=_UNSTORABLE)
            await self._settle(replace(receipt, reason=receipt.reason and _UNSTORABLE, attempt=attempt))

    async def _settle(self, receipt: Receipt) -> None:
        for attempt in count(1):
            try:
                await self._store.write_each(_settle_all, receipt)
                return
            except StoreUnavailable:
                await asyncio.sleep(backoff(attempt).total_seconds())


def _settle_all(connection: Connection, receipts: Sequence[Receipt]) -> Sequence[None]:
    outbox.save_receipts(connection, receipts)
    return [None] * len(receipts)
