"""Leading: holding the lease, and doing the leader's work only while it is held.

On SQLite the lock of the file has already decided. On PostgreSQL one process leads, the others wait and deliver.
Leadership ends by the leader's own clock, before another's can begin, even while the store hangs or cannot be reached.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import inf

import structlog

from tocsin.kit.clock import Clock
from tocsin.store import NotLeader, Store, StoreUnavailable, writer
from tocsin.store.writer import Leadership

log = structlog.get_logger("tocsin.app.leader")


@dataclass(slots=True)
class Leader:
    """Runs ``lead`` while this process holds the lease, and cancels it when the lease is lost.

    ``on_change`` is called with True before ``lead`` begins, and with False as soon as the lease is lost.
    """

    _store: Store
    _holder: str
    _clock: Clock
    _lead: Callable[[Leadership], Awaitable[None]]
    _on_change: Callable[[bool], None]
    _sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    leadership: Leadership | None = field(default=None, init=False)

    async def run(self) -> None:
        """For ever: take the lease, lead, and begin again when it is lost. Raises what ``lead`` raises."""
        while True:
            self.leadership, held_until = await self._acquire()
            self._on_change(True)
            log.info("leading", epoch=self.leadership.epoch)
            try:
                await self._lead_while_held(self.leadership, held_until)
            except NotLeader as error:
                log.warning("lost_leadership", reason=str(error), action="standing by")

    async def release(self, leadership: Leadership) -> None:
        """Give the lease back, so that another process need not wait for its end."""
        try:
            await self._store.write(writer.release_lease, leadership, self._clock.now())
        except StoreUnavailable as error:
            log.warning("lease_not_released", error=str(error), action="it runs out by itself")

    async def _acquire(self) -> tuple[Leadership, float]:
        """The leadership, and the monotonic time until which it holds without being renewed."""
        last_logged = ""
        while True:
            asked_at = self._clock.monotonic()
            try:
                leadership = await self._store.write(
                    writer.acquire_lease, self._holder, self._clock.now(), force=self._store.is_sqlite
                )
                held_until = self._held_until(asked_at)
                if leadership is not None and held_until > self._clock.monotonic():
                    return leadership, held_until
                if last_logged != "standing_by":
                    log.info("standing_by")
                last_logged = "standing_by"
            except StoreUnavailable as error:
                if last_logged != "lease_unavailable":
                    log.warning("lease_unavailable", error=str(error), action="trying again")
                last_logged = "lease_unavailable"
            await self._sleep(writer.ASK_EVERY.total_seconds())

    def _held_until(self, asked_at: float) -> float:
        """The end of a lease that was asked for at ``asked_at``. On SQLite the lock of the file holds it for good."""
        return inf if self._store.is_sqlite else asked_at + writer.HOLD_FOR.total_seconds()

    async def _lead_while_held(self, leadership: Leadership, held_until: float) -> None:
        """Raises ``NotLeader`` when the lease is lost, and otherwise the error of the leader's work."""
        work = asyncio.ensure_future(self._lead(leadership))
        hold = asyncio.create_task(self._hold(leadership, held_until), name="hold the lease")
        try:
            await asyncio.wait({work, hold}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.leadership = None  # at once: the work may take a while to stop
            self._on_change(False)
            for task in (work, hold):
                task.cancel()
            errors = await asyncio.gather(work, hold, return_exceptions=True)
        lost = NotLeader("the leader's work ended by itself")
        for error in errors:
            if isinstance(error, NotLeader):
                lost = error
            elif isinstance(error, Exception):
                raise error
        raise lost

    async def _hold(self, leadership: Leadership, held_until: float) -> None:
        """Renew until the lease is lost. Raises ``NotLeader``, whatever the store does meanwhile."""
        while True:
            await self._sleep(writer.RENEW_EVERY.total_seconds())
            asked_at = self._clock.monotonic()
            try:
                async with asyncio.timeout(None if held_until == inf else held_until - asked_at):
                    await self._store.write(writer.renew_lease, leadership, self._clock.now())
                held_until = self._held_until(asked_at)
            except TimeoutError:
                raise NotLeader("the lease could not be renewed in time: the store does not answer") from None
            except StoreUnavailable as error:
                if self._clock.monotonic() >= held_until:
                    raise NotLeader(f"the lease could not be renewed in time: {error}") from None
