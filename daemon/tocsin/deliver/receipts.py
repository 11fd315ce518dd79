"""Receipts, written together: those of the next few milliseconds share one transaction.

A transaction costs as much as a send, so that one each would halve what a channel can do.
"""

import asyncio
from dataclasses import dataclass, field

import structlog

from tocsin.store import Store, StoreUnavailable, sending
from tocsin.store.sending import Receipt

log = structlog.get_logger(__name__)

_LINGER_SECONDS = 0.020
_PAUSES_SECONDS = (0.1, 5.0)  # between tries while the store is away: first and longest


class Receipts:
    """The way from sends to their rows."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._batch = _Batch()
        self._writers: set[asyncio.Task[None]] = set()

    async def write(self, receipt: Receipt) -> None:
        """Returns once the receipt is durable, however long the store is away. Cancelling the caller cancels no write."""
        batch = self._batch
        batch.receipts.append(receipt)
        if len(batch.receipts) == 1:
            writer = asyncio.create_task(self._write(batch), name="receipts")
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        await batch.written.wait()
        if batch.error is not None:
            raise batch.error

    async def close(self) -> None:
        """Write what waits, if the store answers; else the leases run out."""
        if self._writers:
            await asyncio.wait(self._writers, timeout=_PAUSES_SECONDS[1])
        for writer in self._writers:
            writer.cancel()

    async def _write(self, batch: "_Batch") -> None:
        await asyncio.sleep(_LINGER_SECONDS)
        self._batch = _Batch()
        pause, longest = _PAUSES_SECONDS
        while True:
            try:
                await self._store.write(sending.settle, batch.receipts)
            except StoreUnavailable:
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
            except Exception as error:
                batch.error = error
                batch.written.set()
                raise
            else:
                batch.written.set()
                return


@dataclass(slots=True)
class _Batch:
    receipts: list[Receipt] = field(default_factory=list)
    written: asyncio.Event = field(default_factory=asyncio.Event)  # or given up, for ``error``
    error: Exception | None = None
