"""The loops of the stages, the wake-ups between them, and the leader's part of the work.

All logic is in the steps, which take the time and the configuration. A wake-up only shortens the wait between two.
"""

import asyncio
import gc
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import datetime, timedelta

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

from tocsin.app.logs import dropped_lines
from tocsin.config.model import Config, Node
from tocsin.decide.decide import Decider
from tocsin.deliver.alertmanagers import AlertmanagerSender
from tocsin.deliver.heartbeat import HeartbeatSender
from tocsin.kit.clock import Clock
from tocsin.kit.tasks import until_one_ends
from tocsin.metrics import Exposition, ProcessMetrics
from tocsin.model.run import ScenarioKey
from tocsin.store import Store, StoreUnavailable
from tocsin.store.prune import prune
from tocsin.store.writer import Leadership
from tocsin.watch.node import NodeWatcher

LONGEST_WAIT = timedelta(seconds=5)
_PRUNE_INTERVAL = timedelta(minutes=10)
_PAUSE_BETWEEN_BATCHES_SECONDS = 0.05
_REFRESH_INTERVAL = timedelta(seconds=3)
_LAG_INTERVAL_SECONDS = 0.25
_MANY_SERIES = 1_000
_HEALTHY_SECONDS = 30.0  # since the last good decision; loops sleep five at most

Step = Callable[[datetime, Config], Awaitable[datetime | None]]
log = structlog.get_logger("tocsin.app.loops")


async def run_loop(stage: str, step: Step, wakeup: asyncio.Event, clock: Clock, config: Callable[[], Config]) -> None:
    """Step for ever; ``wakeup`` is cleared before each step but the first.

    While the store is unavailable the pauses grow, and only the first failure and the recovery are logged. Any other
    error of a step ends the loop, and with it the process.
    """

    def report(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            error = str(state.outcome.exception())
            log.warning("store_unavailable", stage=stage, error=error, action="paused, trying again")

    async def attempt() -> datetime | None:
        return await step(clock.now(), config())

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(StoreUnavailable),
        wait=wait_exponential(multiplier=0.25, max=15.0),
        before_sleep=report,
    )
    while True:
        due: datetime | None = await retrying(attempt)
        if retrying.statistics["attempt_number"] > 1:
            log.info("store_available", stage=stage)
        wait = LONGEST_WAIT if due is None else min(LONGEST_WAIT, due - clock.now())
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, wait.total_seconds())):
                await wakeup.wait()
        wakeup.clear()


def relax_garbage_collection() -> None:
    """Collect seldom: a batch of polls makes ten thousands of objects, and reference counts free nearly all of them."""
    gc.set_threshold(10_000, 10, 10)


class Stages:
    """The stages' loops: the leader watches, decides and prunes, every process delivers."""

    def __init__(self, store: Store, config: Callable[[], Config], clock: Clock, metrics: ProcessMetrics) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self.wake_decide = asyncio.Event()
        self.wake_deliver = asyncio.Event()
        self.last_turn = self._decided_at = clock.monotonic()  # of the event loop; by a decision that succeeded

    async def loop(self, stage: str, step: Step, wakeup: asyncio.Event | None = None) -> None:
        await run_loop(stage, step, wakeup or asyncio.Event(), self._clock, self._config)

    async def lead(
        self,
        leadership: Leadership,
        watch: Coroutine[None, None, None],
        decider: Decider,
        heartbeat: HeartbeatSender,
        alertmanagers: AlertmanagerSender,
    ) -> None:
        """The leader's work. Ends with the error of the first loop that ends."""
        prune_due: datetime | None = None

        async def decide(now: datetime, config: Config) -> datetime | None:
            due = await decider.step(now, config)
            self._decided_at = self._clock.monotonic()
            return due

        async def prune_step(now: datetime, config: Config) -> datetime:
            nonlocal prune_due
            if prune_due is None or now >= prune_due:
                if deleted := await prune_all(self._store, now, config.store.retention, leadership):
                    log.info("pruned", rows=deleted)
                prune_due = self._clock.now() + _PRUNE_INTERVAL
            return prune_due

        async def beat(now: datetime, config: Config) -> datetime | None:
            return await heartbeat.step(now, config, self._clock.monotonic() - self._decided_at < _HEALTHY_SECONDS)

        try:
            await until_one_ends({
                "watch": watch,
                "decide": self.loop("decide", decide, self.wake_decide),
                "prune": self.loop("prune", prune_step),
                "heartbeat": self.loop("heartbeat", beat),
                "alertmanagers": self.loop("alertmanagers", alertmanagers.step),
            })  # fmt: skip
        finally:
            await alertmanagers.close()

    async def refresh(self, exposition: Exposition, is_leader: Callable[[], bool]) -> None:
        """Keep the series that are made from rows fresh while this process leads."""

        async def step(now: datetime, config: Config) -> datetime:
            if is_leader() and await exposition.refresh(self._store, now, config) >= _MANY_SERIES:
                # A full collection over the series of ten thousand scenarios stops the process for a tenth of a
                # second, at any time. What is frozen is not looked at; it is thawed first, so that no garbage stays.
                gc.unfreeze()
                gc.collect()
                gc.freeze()
            if not is_leader():  # the lease may have been lost during the reading
                exposition.forget()
            return self._clock.now() + _REFRESH_INTERVAL

        await self.loop("metrics", step)

    async def measure_lag(self) -> None:
        """Record that the event loop turns, and how late it woke at most in the last fifteen seconds."""
        lags = deque([0.0], maxlen=int(15 / _LAG_INTERVAL_SECONDS))
        while True:
            before = self._clock.monotonic()
            await asyncio.sleep(_LAG_INTERVAL_SECONDS)
            self.last_turn = self._clock.monotonic()
            lags.append(self.last_turn - before - _LAG_INTERVAL_SECONDS)
            self._metrics.loop_lag.set(max(0.0, *lags))
            self._metrics.log_lines_dropped(dropped_lines())


async def prune_all(store: Store, now: datetime, retention: timedelta, leadership: Leadership | None = None) -> int:
    """Delete what is older than ``retention`` in small batches, so that no other transaction waits long. Returns the
    number of rows. Raises ``NotLeader`` when ``leadership`` was lost."""
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
        await asyncio.sleep(_PAUSE_BETWEEN_BATCHES_SECONDS)


class Watchers:
    """One watcher for each configured node, kept as long as its settings stay equal.

    An error that a watcher cannot handle ends the process: a node must not go unwatched in silence.
    """

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        # With what each watcher was made from: its node, and the bounds of durations.
        self._running: dict[str, tuple[tuple[Node, tuple[float, ...]], NodeWatcher, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()
        self.reconfigure = self._changed.set  # call it after the configuration was swapped

    @property
    def by_node(self) -> dict[str, NodeWatcher]:
        return {name: watcher for name, (_, watcher, _) in self._running.items()}

    def nudge(self, node: str, project: str | None, scenario: str | None) -> bool:
        """Ask for a poll; false when the node is not watched here, nothing is named, or there is no room."""
        if node not in self._running or project is None or scenario is None:
            return False
        return self._running[node][1].nudge(project, scenario)

    def poll(self, key: ScenarioKey) -> None:
        """Ask for a poll that a rule waits for."""
        if key.node in self._running:
            self._running[key.node][1].poll(key)

    async def run(self, make: Callable[[Node, Config], NodeWatcher]) -> None:
        """Watch for ever. Ends with the error of a watcher, or cancelled with all of them."""
        try:
            while True:
                config = self._config()
                configured = {node.name: (node, config.metrics.duration_bounds) for node in config.nodes}
                for name, (settings, _, _) in list(self._running.items()):
                    if configured.get(name) != settings:
                        await self._stop(name)
                for name, settings in configured.items():
                    if name not in self._running:
                        watcher = make(settings[0], config)
                        watch = asyncio.create_task(watcher.run(), name=f"watch {name}")
                        self._running[name] = (settings, watcher, watch)
                self._changed.clear()
                change = asyncio.create_task(self._changed.wait(), name="configuration changed")
                try:
                    tasks = [change, *(task for _, _, task in self._running.values())]
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    change.cancel()
                for task in done - {change}:
                    task.result()
                    raise RuntimeError(f"the watcher {task.get_name()} ended by itself")
        finally:
            for name in list(self._running):
                await self._stop(name)

    async def _stop(self, name: str) -> None:
        _, _, task = self._running.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
