"""Deleting what is older than the retention: small batches, so that no other transaction waits long."""

import asyncio
from datetime import datetime, timedelta

import structlog

from tocsin.config.model import Config
from tocsin.kit.clock import Clock
from tocsin.model.run import ScenarioKey
from tocsin.store import Store
from tocsin.store.prune import prune
from tocsin.store.writer import Leadership

log = structlog.get_logger("tocsin.app.pruning")
_EVERY = timedelta(minutes=10)
_BREATH_SECONDS = 0.05


async def prune_all(store: Store, now: datetime, retention: timedelta, leadership: Leadership | None = None) -> int:
    """Delete batch by batch until nothing is left to delete; answers how many rows went.

    Raises ``NotLeader`` when ``leadership`` is given and was lost.
    """
    total = 0
    after: ScenarioKey | None = None
    while True:
        if leadership is None:
            batch = await store.write(prune, now, retention, after)
        else:
            batch = await store.write_guarded(leadership.guard, prune, now, retention, after)
        total += sum(batch.rows.values())
        after = batch.after
        if not batch.more:
            return total
        await asyncio.sleep(_BREATH_SECONDS)


class Pruning:
    """The leader's pruning as a step."""

    def __init__(self, store: Store, leadership: Leadership, clock: Clock) -> None:
        self._store = store
        self._leadership = leadership
        self._clock = clock
        self._due: datetime | None = None

    async def step(self, now: datetime, config: Config) -> datetime:
        if self._due is None or now >= self._due:
            deleted = await prune_all(self._store, now, config.store.retention, self._leadership)
            if deleted:
                log.info("pruned", rows=deleted)
            self._due = self._clock.now() + _EVERY
        return self._due
