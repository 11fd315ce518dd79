"""Leading: holding the lease, and doing the leader's work only while it is held.

On SQLite the file's lock has already decided, so the lease is taken at once. On PostgreSQL several processes may run;
one leads, the others wait and deliver. A lease that is lost stops the leader's work before another's has begun: the
epoch in each transaction sees to the rest.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from tocsin.kit.clock import Clock
from tocsin.store import NotLeader, Store, StoreUnavailable, lease
from tocsin.store.lease import Leadership

log = structlog.get_logger("tocsin.app.leader")


class Leader:
    """Runs ``lead`` while this process holds the lease, and cancels it when the lease is lost."""

    def __init__(
        self,
        store: Store,
        holder: str,
        clock: Clock,
        lead: Callable[[Leadership], Awaitable[None]],
        changed: Callable[[bool], None],
    ) -> None:
        self._store = store
        self._holder = holder
        self._clock = clock
        self._lead = lead
        self._changed = changed
        self.leadership: Leadership | None = None

    async def run(self) -> None:
        """For ever: take the lease, lead, and begin again when it is lost."""
        while True:
            self.leadership = await self._acquire()
            self._changed(True)
            log.info("leading", epoch=self.leadership.epoch)
            try:
                await self._lead_while_held(self.leadership)
            finally:
                self.leadership = None
                self._changed(False)
            log.warning("lost_leadership")

    async def _acquire(self) -> Leadership:
        waiting_told = trouble_told = False
        while True:
            try:
                taken = await self._store.write(
                    lease.acquire, self._holder, self._clock.now(), force=self._store.is_sqlite
                )
                if taken is not None:
                    return taken
                if not waiting_told:
                    log.info("standing_by")
                    waiting_told = True
                trouble_told = False
            except StoreUnavailable as error:
                if not trouble_told:
                    log.warning("cannot_ask_for_the_lease", error=str(error), action="trying again")
                trouble_told = True
            await asyncio.sleep(lease.ASK_EVERY.total_seconds())

    async def _lead_while_held(self, leadership: Leadership) -> None:
        work = asyncio.ensure_future(self._lead(leadership))
        hold = asyncio.create_task(self._hold(leadership), name="hold the lease")
        try:
            done, _ = await asyncio.wait({work, hold}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # an error of the leader's work ends the process
        except NotLeader:
            return
        finally:
            for task in (work, hold):
                task.cancel()
            await asyncio.gather(work, hold, return_exceptions=True)

    async def _hold(self, leadership: Leadership) -> None:
        """Renew until it is lost. A store that cannot be reached for a whole lease is as good as lost."""
        last = self._clock.monotonic()
        while True:
            await asyncio.sleep(lease.RENEW_EVERY.total_seconds())
            try:
                await self._store.write(lease.renew, leadership, self._clock.now())
                last = self._clock.monotonic()
            except StoreUnavailable:
                if not self._store.is_sqlite and self._clock.monotonic() - last > lease.LEASE_FOR.total_seconds():
                    raise NotLeader("the lease could not be renewed") from None

    async def release(self, leadership: Leadership) -> None:
        """Give the lease back, so that another need not wait for its end."""
        await self._store.write(lease.release, leadership, self._clock.now())
