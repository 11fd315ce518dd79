"""The stages' loops and the bells between them: who leads runs watch, decide and prune; every process delivers."""

import asyncio
import gc
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta

from tocsin.app.leader import Leader
from tocsin.app.logs import dropped_lines
from tocsin.app.loops import Bell, Step, run_loop
from tocsin.app.pruning import Pruning
from tocsin.config.model import Config
from tocsin.decide.decide import Decider
from tocsin.deliver.heartbeat import Heartbeat
from tocsin.deliver.sender import Sender
from tocsin.kit.clock import Clock
from tocsin.kit.tasks import until_one_ends
from tocsin.metrics import Exposition, ProcessMetrics
from tocsin.store import Store
from tocsin.store.writer import Leadership

_REFRESH_EVERY = timedelta(seconds=3)
_LAG_EVERY_SECONDS = 0.25
_MANY_SERIES = 1_000
_HEALTHY_SECONDS = 30.0  # since the last good decision; loops sleep five at most


def settle_garbage() -> None:
    """Take what lives now out of the collector's sight, after it has looked at all of it once.

    A full collection over the series of ten thousand scenarios stops the process for a tenth of a second, at any time;
    after this the collector looks at younger objects only. What was taken out before is looked at again first, so that
    no garbage is kept for ever.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


class Stages:
    """The stages' loops and the bells between them."""

    def __init__(self, store: Store, config: Callable[[], Config], clock: Clock, metrics: ProcessMetrics) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self.decide_bell = Bell()
        self.deliver_bell = Bell()
        self.turned_at = self._decided_at = clock.monotonic()

    async def lead(
        self, leadership: Leadership, watch: Coroutine[None, None, None], decider: Decider, heartbeat: Heartbeat
    ) -> None:
        """The leader's work: watch, decide, prune, beat. Ends with the error of the first that ends."""

        async def decide(now: datetime, config: Config) -> datetime | None:
            due = await decider.step(now, config)
            self._decided_at = self._clock.monotonic()
            return due

        async def beat(now: datetime, config: Config) -> datetime | None:
            return await heartbeat.step(now, config, self._clock.monotonic() - self._decided_at < _HEALTHY_SECONDS)

        await until_one_ends(
            {
                "watch": watch,
                "decide": self._loop("decide", decide, self.decide_bell),
                "prune": self._loop("prune", Pruning(self._store, leadership, self._clock).step, Bell()),
                "heartbeat": self._loop("heartbeat", beat, Bell()),
            }
        )

    async def deliver(self, sender: Sender) -> None:
        """What is owed goes out; on any process."""
        await self._loop("deliver", sender.step, self.deliver_bell)

    async def refresh(self, exposition: Exposition, leader: Leader) -> None:
        """Keep the series made from rows fresh; they are the leader's to show."""

        async def step(now: datetime, config: Config) -> datetime:
            if leader.leadership is not None and await exposition.refresh(self._store, now, config) >= _MANY_SERIES:
                settle_garbage()
            if leader.leadership is None:  # also when it was lost during the reading
                exposition.forget()
            return self._clock.now() + _REFRESH_EVERY

        await self._loop("metrics", step, Bell())

    async def turn(self) -> None:
        """Show that the loop turns, and how late it woke at most in the last quarter of a minute."""
        late = deque([0.0], maxlen=int(15 / _LAG_EVERY_SECONDS))
        while True:
            before = self._clock.monotonic()
            await asyncio.sleep(_LAG_EVERY_SECONDS)
            self.turned_at = self._clock.monotonic()
            late.append(self.turned_at - before - _LAG_EVERY_SECONDS)
            self._metrics.loop_lag.set(max(0.0, *late))
            self._metrics.log_lines_dropped(dropped_lines())

    async def _loop(self, stage: str, step: Step, bell: Bell) -> None:
        await run_loop(stage, step, bell, self._clock, self._config)
