"""The frames round the stages: bells, pauses, and who leads."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tocsin.app.leader import Leader
from tocsin.app.loops import Bell, run_loop
from tocsin.kit.clock import SystemClock
from tocsin.kit.tasks import RootTasks
from tocsin.model.config import Config, StoreConfig
from tocsin.store import Store, StoreUnavailable, lease
from tocsin.store.lease import Leadership

CONFIG = Config(nodes=(), store=StoreConfig("sqlite:////nowhere"))
NOW = datetime(2026, 3, 1, tzinfo=UTC)


async def test_a_bell_rung_while_nobody_waits_is_not_lost() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    async with asyncio.timeout(1):
        await bell.wait(timedelta(hours=1))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await bell.wait(timedelta(hours=1))


async def test_a_loop_steps_again_when_the_bell_rings() -> None:
    steps: list[datetime] = []
    bell, twice = Bell(), asyncio.Event()

    async def step(now: datetime, _config: Config) -> datetime | None:
        steps.append(now)
        if len(steps) == 2:
            twice.set()
        return None

    loop = asyncio.create_task(run_loop("test", step, bell, SystemClock(), lambda: CONFIG))
    await asyncio.sleep(0.01)
    bell.ring()
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

    loop = asyncio.create_task(run_loop("test", step, Bell(), SystemClock(), lambda: CONFIG))
    async with asyncio.timeout(5):
        await done.wait()
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert len(tries) == 2


async def test_an_unexpected_error_ends_the_loop_and_the_guard_tells_which() -> None:
    async def step(_now: datetime, _config: Config) -> datetime | None:
        raise ZeroDivisionError

    tasks = RootTasks()
    tasks.spawn("broken", run_loop("test", step, Bell(), SystemClock(), lambda: CONFIG))
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
    assert await store.write(lease.acquire, "another", SystemClock().now())
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
