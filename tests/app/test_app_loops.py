"""The frames round the stages: wake-ups, pauses, and who leads."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from tocsin.app.leader import Leader
from tocsin.app.loops import Stages, run_loop
from tocsin.config.model import Config, StoreConfig
from tocsin.decide.decide import DecideMetrics, Decider
from tocsin.deliver.alertmanagers import AlertmanagerMetrics, AlertmanagerSender
from tocsin.deliver.heartbeat import HeartbeatSender
from tocsin.kit.clock import SystemClock
from tocsin.kit.tasks import RootTasks
from tocsin.metrics import ProcessMetrics
from tocsin.store import Store, StoreUnavailable, writer
from tocsin.store.writer import Leadership

CONFIG = Config(nodes=(), store=StoreConfig("sqlite:////nowhere"))
Lead = Callable[[Leadership], Awaitable[None]]
NOW = datetime(2026, 3, 1, tzinfo=UTC)


async def test_a_wakeup_while_nobody_waits_is_not_lost_and_two_are_one() -> None:
    steps: list[datetime] = []
    wakeup = asyncio.Event()

    async def step(now: datetime, _config: Config) -> datetime | None:
        steps.append(now)
        if len(steps) == 1:
            wakeup.set()
            wakeup.set()
        return None

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await run_loop("test", step, wakeup, SystemClock(), lambda: CONFIG)
    assert len(steps) == 2


async def test_a_loop_steps_again_when_it_is_woken() -> None:
    steps: list[datetime] = []
    wakeup, twice = asyncio.Event(), asyncio.Event()

    async def step(now: datetime, _config: Config) -> datetime | None:
        steps.append(now)
        if len(steps) == 2:
            twice.set()
        return None

    loop = asyncio.create_task(run_loop("test", step, wakeup, SystemClock(), lambda: CONFIG))
    await asyncio.sleep(0.01)
    wakeup.set()
    async with asyncio.timeout(1):
        await twice.wait()
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert len(steps) == 2


async def test_a_store_that_is_away_pauses_the_loop_and_does_not_end_it() -> None:
    tries, done = [], asyncio.Event()

    async def step(_now: datetime, _config: Config) -> datetime | None:
        tries.append(1)
        if len(tries) == 1:
            raise StoreUnavailable("disk full")
        done.set()
        return None

    loop = asyncio.create_task(run_loop("test", step, asyncio.Event(), SystemClock(), lambda: CONFIG))
    async with asyncio.timeout(5):
        await done.wait()
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert len(tries) == 2


async def test_an_unexpected_error_ends_the_loop_and_the_guard_tells_which() -> None:
    async def step(_now: datetime, _config: Config) -> datetime | None:
        raise ZeroDivisionError

    tasks = RootTasks()
    tasks.spawn("broken", run_loop("test", step, asyncio.Event(), SystemClock(), lambda: CONFIG))
    async with asyncio.timeout(5):
        ended = await tasks.watch()
    assert (ended.name, type(ended.error)) == ("broken", ZeroDivisionError)


async def test_the_leader_works_while_it_holds_the_lease_and_gives_it_back(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'a.db'}")
    await store.open()
    changes: list[bool] = []
    leading = asyncio.Event()

    async def lead(_leadership: Leadership) -> None:
        leading.set()
        await asyncio.Event().wait()

    leader = Leader(store, "me", SystemClock(), lead, changes.append)
    task = asyncio.create_task(leader.run())
    async with asyncio.timeout(5):
        await leading.wait()
    held = leader.leadership
    assert held
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await leader.release(held)
    assert await store.write(writer.acquire_lease, "another", SystemClock().now())
    assert changes == [True, False]
    await store.close()


async def test_an_error_of_the_leaders_work_ends_the_leader(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'a.db'}")
    await store.open()

    async def lead(_leadership: Leadership) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Leader(store, "me", SystemClock(), lead, lambda _: None).run()
    await store.close()


class MovedClock(SystemClock):
    """The machine's clock and what a test adds to it, as when the process was stopped for so long."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class AsPostgreSQL(Store):
    """A store whose lease is waited for, as where no lock of a file keeps others out."""

    @property
    def is_sqlite(self) -> bool:
        return False


async def briefly(seconds: float) -> None:
    await asyncio.sleep(seconds / 100)


@asynccontextmanager
async def led_by(store: Store, clock: SystemClock, lead: Lead) -> AsyncIterator[tuple[Leader, list[bool]]]:
    changes: list[bool] = []
    leader = Leader(store, "me", clock, lead, changes.append, briefly)
    task = asyncio.create_task(leader.run())
    try:
        yield leader, changes
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


async def test_a_stage_that_finds_the_lease_lost_makes_the_process_stand_by(tmp_path: Path) -> None:
    """As in the daemon: the stages run beside each other, and one of their writes is refused."""
    store = AsPostgreSQL(f"sqlite:///{tmp_path / 'a.db'}")
    await store.open()
    clock = SystemClock()
    stages = Stages(store, lambda: CONFIG, clock, ProcessMetrics(CollectorRegistry()))

    async def watch(leadership: Leadership) -> None:
        while True:
            await store.write_guarded(leadership.guard, lambda _: None)
            await asyncio.sleep(0.01)

    async def lead(leadership: Leadership) -> None:
        decider = Decider(store, leadership, DecideMetrics(CollectorRegistry()), lambda: None)
        alertmanagers = AlertmanagerSender(store, clock, AlertmanagerMetrics(CollectorRegistry()))
        await stages.lead(leadership, watch(leadership), decider, HeartbeatSender(), alertmanagers)

    async with led_by(store, clock, lead) as (leader, changes):
        await until(lambda: leader.leadership)
        assert await store.write(writer.acquire_lease, "another", clock.now(), force=True)
        await until(lambda: changes == [True, False])
        assert leader.leadership is None
    await store.close()


async def test_leadership_ends_by_the_leaders_own_clock_while_the_store_hangs(tmp_path: Path) -> None:
    store = AsPostgreSQL(f"sqlite:///{tmp_path / 'a.db'}")
    await store.open()
    clock, free = MovedClock(), threading.Event()
    stopped: list[bool] = []

    async def lead(_leadership: Leadership) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    async with led_by(store, clock, lead) as (leader, changes):
        await until(lambda: leader.leadership)
        hanging = asyncio.create_task(store.write(lambda _: free.wait() and None))
        clock.ahead = writer.HOLD_FOR.total_seconds()
        await until(lambda: changes == [True, False])
        assert stopped == [True]
        free.set()
        await hanging
        await until(lambda: changes == [True, False, True])
    await store.close()


async def test_a_lease_that_was_answered_too_late_is_not_taken_for_held(tmp_path: Path) -> None:
    store = AsPostgreSQL(f"sqlite:///{tmp_path / 'a.db'}")
    await store.open()
    clock, free, begun = MovedClock(), threading.Event(), threading.Event()

    async def lead(_leadership: Leadership) -> None:
        await asyncio.Event().wait()

    hanging = asyncio.create_task(store.write(lambda _: begun.set() or (free.wait() and None)))
    await asyncio.to_thread(begun.wait)
    async with led_by(store, clock, lead) as (leader, changes):
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # it has asked
        clock.ahead = writer.HOLD_FOR.total_seconds()
        free.set()
        await hanging
        await until(lambda: leader.leadership)
        assert (changes, leader.leadership and leader.leadership.epoch) == ([True], 2)
    await store.close()


async def test_an_error_of_the_leaders_work_is_not_hidden_by_a_lost_lease(tmp_path: Path) -> None:
    store = AsPostgreSQL(f"sqlite:///{tmp_path / 'a.db'}")
    await store.open()

    async def lead(_leadership: Leadership) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    clock = MovedClock()
    leader = Leader(store, "me", clock, lead, lambda _: None, briefly)
    task = asyncio.create_task(leader.run())
    await until(lambda: leader.leadership)
    await store.write(writer.acquire_lease, "another", clock.now(), force=True)
    with pytest.raises(ZeroDivisionError):
        await task
    await store.close()


async def test_a_lease_that_cannot_be_given_back_runs_out_by_itself(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'a.db'}")
    await store.open()
    leader = Leader(store, "me", SystemClock(), lambda _: asyncio.sleep(0), lambda _: None)
    held = await store.write(writer.acquire_lease, "me", SystemClock().now())
    assert held
    await store.close()
    await leader.release(held)
