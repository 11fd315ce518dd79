"""Receipts, written together: those of the next few milliseconds share one transaction.

A transaction costs as much as a send, so that one each would halve what a channel can do. When a batch fails, each of
its receipts is written by itself, so that one that the database refuses concerns no other row and no other channel.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from tocsin.store import Store, StoreUnavailable, sending
from tocsin.store.sending import Receipt

log = structlog.get_logger(__name__)

_LINGER_SECONDS = 0.020
_PAUSES_SECONDS = (0.1, 5.0)  # between tries while the store is away: first and longest
_NO_WORDS = "what the receiver answered cannot be stored"


@dataclass(frozen=True, slots=True)
class _Waiting:
    receipt: Receipt
    written: "asyncio.Future[None]"


class Receipts:
    """The way from sends to their rows."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._batch: list[_Waiting] = []
        self._writers: set[asyncio.Task[None]] = set()

    async def write(self, receipt: Receipt) -> None:
        """Returns once the receipt is durable, however long the store is away. Cancelling the caller cancels no write.

        Raises the error of the database when it refuses this receipt even without the receiver's words.
        """
        await asyncio.shield(self._enqueue(receipt))

    def _enqueue(self, receipt: Receipt) -> "asyncio.Future[None]":
        waiting = _Waiting(receipt, asyncio.get_running_loop().create_future())
        self._batch.append(waiting)
        if len(self._batch) == 1:
            writer = asyncio.create_task(self._write_batch(), name="receipts")
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        return waiting.written

    async def close(self, last: Sequence[Receipt] = ()) -> None:
        """Write what waits and these last ones, if the store answers; else the leases run out."""
        for receipt in last:
            self._enqueue(receipt)
        if self._writers:
            await asyncio.wait(self._writers, timeout=_PAUSES_SECONDS[1])
        for writer in self._writers:
            writer.cancel()

    async def _write_batch(self) -> None:
        await asyncio.sleep(_LINGER_SECONDS)
        batch, self._batch = self._batch, []
        try:
            await self._settle([waiting.receipt for waiting in batch])
        except Exception as error:  # noqa: BLE001 - any receipt may be the culprit: each is written by itself
            if len(batch) > 1:
                log.warning("receipts_written_one_by_one", receipts=len(batch), error=type(error).__name__)
            for waiting in batch:
                await self._write_alone(waiting)
        else:
            for waiting in batch:
                waiting.written.set_result(None)

    async def _write_alone(self, waiting: _Waiting) -> None:
        """A receipt that the database refuses is written without words: its row must not be sent again for them."""
        receipt = waiting.receipt
        try:
            try:
                await self._settle([receipt])
            except Exception as error:  # noqa: BLE001 - the words came from outside; the second try has none
                log.error("receipt_refused", notification=receipt.attempt.notification_id, error=type(error).__name__)
                reason = None if receipt.reason is None else _NO_WORDS
                await self._settle([replace(receipt, reason=reason, attempt=replace(receipt.attempt, note=_NO_WORDS))])
        except Exception as error:  # noqa: BLE001 - handed to the sender, whose unit of work it is
            waiting.written.set_exception(error)
        else:
            waiting.written.set_result(None)

    async def _settle(self, receipts: Sequence[Receipt]) -> None:
        pause, longest = _PAUSES_SECONDS
        while True:
            try:
                await self._store.write(sending.settle, receipts)
            except StoreUnavailable:
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
            else:
                return
