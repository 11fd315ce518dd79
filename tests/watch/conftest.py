"""A faked DSS, a store and the watch of a node between them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, select

from tests.fakedss import Differences, FakeDSS
from tests.watch.scenes import wants
from tocsin.config.model import DURATION_BUCKETS, Node, WatchConfig
from tocsin.kit.clock import Clock, SystemClock, to_ms
from tocsin.model.cloudevent import to_cloudevent
from tocsin.model.event import Event
from tocsin.model.run import DetailsLevel
from tocsin.store import NotLeader, Store, schema, writer
from tocsin.watch.node import NodeWatcher
from tocsin.watch.state import WatcherDeps, WatchMetrics

CLOCK = SystemClock()
QUICK = WatchConfig(
    sweep_interval=timedelta(milliseconds=100), discovery_interval=timedelta(seconds=1), max_requests_per_second=400
)


class Jumping(SystemClock):
    """The machine's clock, which somebody sets, and time that passes faster than it does."""

    jumped = timedelta(0)
    hurried = 0.0

    def now(self) -> datetime:
        return super().now() + self.jumped

    def monotonic(self) -> float:
        return super().monotonic() + self.hurried


@dataclass(frozen=True)
class Key:
    """A secret of a test."""

    value: str

    def reveal(self) -> str:
        return self.value

    async def read(self) -> str:
        return self.reveal()


@dataclass
class Watching:
    """A watcher that runs, with everything around it."""

    dss: FakeDSS
    store: Store
    node: Node
    watcher: NodeWatcher
    registry: CollectorRegistry
    task: "asyncio.Task[None]"
    rings: list[None] = field(default_factory=list)

    async def events(self) -> list[Event]:
        def all_events(connection: Connection) -> list[Event]:
            query = select(schema.events.c.body).order_by(schema.events.c.n)
            return list(connection.execute(query).scalars())

        return await self.store.read(all_events)

    async def names(self) -> list[str]:
        return [event.name.value for event in await self.events()]

    async def differences(self, since_ms: int = 0) -> Differences:
        """How the events disagree with what truly happened."""
        return self.dss.ledger.compare([to_cloudevent(event) for event in await self.events()], since_ms)

    async def agrees(self, since_ms: int) -> bool:
        return await self.differences(since_ms) == Differences()

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"dss_node": self.node.name} | labels)


async def until(true: Callable[[], Awaitable[bool] | bool], seconds: float = 60.0) -> None:
    """Wait for something to become true; the time is a bound, not a measure."""
    async with asyncio.timeout(seconds):
        while True:
            result = true()
            if result if isinstance(result, bool) else await result:
                return
            await asyncio.sleep(0.02)


Start = Callable[..., Awaitable[Watching]]


@pytest.fixture
async def dss() -> AsyncIterator[FakeDSS]:
    async with FakeDSS() as dss:
        yield dss


@asynccontextmanager
async def watching(
    dss: FakeDSS,
    path: Path,
    admin: bool = True,
    mirroring: bool = False,
    details: DetailsLevel = DetailsLevel.NOTHING,
    clock: Clock = CLOCK,
    **more: object,
) -> AsyncIterator[Watching]:
    """Watch a faked DSS with a store of its own, or that of an earlier watch on the same path."""
    store = Store(f"sqlite:///{path / 'tocsin.db'}")
    await store.open()
    leader = await store.write(writer.acquire_lease, "test", CLOCK.now(), force=True)
    assert leader is not None
    watch = more.pop("watch", QUICK)
    key = Key(dss.admin_key) if admin else Key(dss.api_key)
    node = replace(Node("prod", dss.url, api_key=key, watch=watch), **more)  # type: ignore[arg-type]
    registry, rings = CollectorRegistry(), []
    watcher = NodeWatcher(
        WatcherDeps(
            node,
            store=store,
            leadership=leader,
            clock=clock,
            wake=lambda: rings.append(None),
            metrics=WatchMetrics(registry),
            wants_details=wants(details),
            wants_mail_reporters=lambda: mirroring,
            user_agent="tocsin/test",
            duration_buckets=DURATION_BUCKETS,
        )
    )
    task = asyncio.create_task(watcher.run())
    try:
        yield Watching(dss, store, node, watcher, registry, task, rings)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, NotLeader):
            await task
        await store.close()


@pytest.fixture
async def start(dss: FakeDSS, tmp_path: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def begin(**more: object) -> Watching:
            """Watch, and wait until every scenario was polled once."""
            found = await stack.enter_async_context(watching(dss, tmp_path, **more))  # type: ignore[arg-type]
            await until(lambda: settled(found))
            return found

        yield begin


def settled(found: Watching, scenarios: int | None = None) -> bool:
    if found.task.done():
        found.task.result()
    snapshot = found.watcher.snapshot()
    expected = scenarios or sum(1 for _ in found.dss.world.all_scenarios())
    return bool(snapshot and snapshot.row.up and snapshot.scenarios == expected and not snapshot.row.backfilling)


async def now_ms() -> int:
    """The present; what a test does next happens after it."""
    now = to_ms(CLOCK.now())
    await asyncio.sleep(0.02)
    return now
