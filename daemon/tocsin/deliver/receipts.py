"""After an attempt: when to retry, and the durable receipt."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count

import structlog

from tocsin.kit.backoff import Backoff
from tocsin.store import Store, StoreUnavailable, outbox
from tocsin.store.outbox import Receipt

log = structlog.get_logger(__name__)

Written = Callable[[Exception | None], None]
_LINGER_SECONDS = 0.020  # what waits is sent again if the process is killed now
_CLOSE_SECONDS = 5.0
_UNSTORABLE = "what the receiver answered cannot be stored"
_RETRY_BACKOFF = Backoff(2, 600, jitter=0.5)  # notifications that failed together do not come back together
_STORE_BACKOFF = Backoff(0.1, 5)


def store_wait(failures: int) -> timedelta:
    """The wait after the store was away for the ``failures``-th time in a row."""
    return timedelta(seconds=_STORE_BACKOFF.pause(failures))


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
    return min(max(now + timedelta(seconds=_RETRY_BACKOFF.pause(attempt, random)), earliest), expires_at)


class Receipts:
    """Writes receipts to their rows, in their order. Those of the next few milliseconds share one transaction, which
    costs as much as a send; one that the database refuses affects no other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[tuple[Receipt, Written]] = []
        self.writing: asyncio.Task[None] | None = None

    def add(self, receipt: Receipt, written: Written) -> None:
        """``written`` is called once the receipt is durable, however long the store is away, or with the database's
        error when it refuses this receipt even without the receiver's words."""
        self._waiting.append((receipt, written))
        if self.writing is None or self.writing.done():
            self.writing = asyncio.create_task(self._write(), name="receipts")

    async def write(self, receipt: Receipt) -> None:
        """``add`` for those who wait. Cancelling the caller cancels no write."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def written(error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self.add(receipt, written)
        await future

    async def close(self, last: Iterable[Receipt] = ()) -> None:
        """Write what waits and these last ones, if the store answers; otherwise the leases expire."""
        for receipt in last:
            self.add(receipt, lambda _error: None)
        if self.writing is not None:
            _, waiting = await asyncio.wait([self.writing], timeout=_CLOSE_SECONDS)
            for task in waiting:
                task.cancel()

    async def _write(self) -> None:
        loop, batch = asyncio.get_running_loop(), self._waiting
        while self._waiting:
            await asyncio.sleep(_LINGER_SECONDS)
            batch, self._waiting = self._waiting, []
            try:
                await self._save([receipt for receipt, _ in batch])
            except Exception:  # noqa: BLE001 - of one of them: each by itself
                for receipt, written in batch:
                    loop.call_soon(written, await self._save_alone(receipt))
            else:
                for _, written in batch:
                    loop.call_soon(written, None)

    async def _save_alone(self, receipt: Receipt) -> Exception | None:
        try:
            await self._save([receipt])
        except Exception as error:  # noqa: BLE001 - the words came from outside; the second try has none
            log.error("receipt_refused", notification=receipt.attempt.notification_id, error=type(error).__name__)
            attempt = replace(receipt.attempt, note=_UNSTORABLE)
            try:
                await self._save([replace(receipt, reason=receipt.reason and _UNSTORABLE, attempt=attempt)])
            except Exception as last:  # noqa: BLE001 - handed to its sender
                return last
        return None

    async def _save(self, receipts: Sequence[Receipt]) -> None:
        for attempt in count(1):
            try:
                await self._store.write(outbox.save_receipts, receipts)
                return
            except StoreUnavailable:
                await asyncio.sleep(_STORE_BACKOFF.pause(attempt))
