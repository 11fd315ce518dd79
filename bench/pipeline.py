"""From "seen" to "pending" to "delivered": events a second through the real rows.

Polls that each bring one run's start and end are written as watch writes them, while the decider works on them at the
same time; a second process takes the webhooks. Nothing of DSS's network is in it. Everything runs on one core where
the system can pin processes.
"""

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random

from prometheus_client import CollectorRegistry

from tocsin.app.logs import configure_logging
from tocsin.app.loops import relax_garbage_collection, run_loop
from tocsin.app.run import new_event_loop
from tocsin.config.model import (
    DEFAULT_RULES,
    DURATION_BUCKETS,
    Channel,
    Config,
    Node,
    Receiver,
    Reporter,
    Route,
    StoreConfig,
    WatchConfig,
    build_tree,
)
from tocsin.decide.decide import DecideMetrics, Decider
from tocsin.deliver.sender import DeliverMetrics, Sender
from tocsin.deliver.transport import connector
from tocsin.kit.clock import SystemClock
from tocsin.model.event import EventName, ScenarioFacts
from tocsin.model.labels import parse_matcher
from tocsin.model.run import DetailsLevel, Run, ScenarioKey
from tocsin.routing.details import DetailsNeed, DetailsReason
from tocsin.store import Store, scenarios, writer
from tocsin.store.events import any_undecided
from tocsin.store.scenarios import ScenarioRow
from tocsin.watch.diff import Poll
from tocsin.watch.read import ListedRun
from tocsin.watch.record import RecordPolls, record_polls

_LOG = DetailsNeed(DetailsLevel.LOG, DetailsReason.FAILURE)
SINK = """
import asyncio, sys
from aiohttp import web
async def main():
    async def take(request):
        await request.read()
        return web.Response()
    app = web.Application(); app.router.add_post("/", take)
    runner = web.AppRunner(app, access_log=None); await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0); await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


class Plain:
    """An address that is no secret."""

    def __init__(self, value: str) -> None:
        self.value = value

    def reveal(self) -> str:
        return self.value

    async def read(self) -> str:
        return self.reveal()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench pipeline", description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000, help="how many runs start and end")
    parser.add_argument("--scenarios", type=int, default=2_000)
    options = parser.parse_args(arguments)
    with subprocess.Popen([sys.executable, "-c", SINK], stdout=subprocess.PIPE, text=True) as sink:
        assert sink.stdout
        port = int(sink.stdout.readline())
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
        try:
            with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
                configure_logging("info", "json", nowhere)  # lines are made, as in earnest, and dropped
                relax_garbage_collection()
                with asyncio.Runner(loop_factory=new_event_loop) as runner:
                    url = f"http://127.0.0.1:{port}/"
                    runner.run(measure(Path(folder), options.runs, options.scenarios, url))
        finally:
            sink.terminate()


async def measure(folder: Path, runs: int, count: int, webhook: str) -> None:
    clock = SystemClock()
    url = f"sqlite:///{folder / 'bench.db'}"
    store = Store(url)
    await store.open()
    now = clock.now()
    keys = [ScenarioKey("bench", f"P{n % 200}", f"S{n}") for n in range(count)]
    await prepare(store, keys, now)
    leadership = await store.write(writer.acquire_lease, "bench", now, force=True)
    assert leadership
    config = configuration(url, webhook)
    registry = CollectorRegistry()
    wakeup = asyncio.Event()
    decider = Decider(store, leadership, DecideMetrics(registry), lambda: None, wakeup.set)
    await decider.step(clock.now(), config)
    record = partial(record_polls, decide=decider.decide_recorded)
    transactions = store.writer.transactions
    items = store.writer.items
    began, cpu = time.perf_counter(), time.process_time()
    deciding = asyncio.create_task(run_loop("decide", decider.step, wakeup, clock, lambda: config))
    seeing = asyncio.create_task(see(store, leadership, polls(keys, runs, now), record))
    await seeing
    while await store.read(any_undecided):
        await asyncio.sleep(0.001)
    seen = await seeing
    took, used = time.perf_counter() - began, time.process_time() - cpu
    deciding.cancel()
    await asyncio.gather(deciding, return_exceptions=True)
    batch = (store.writer.items - items) / max(1, store.writer.transactions - transactions)
    print(
        f"seen to outbox written   {seen / took:9.0f} events/s   {seen / used:9.0f} a second of processor time"
        f"   ({seen} events, {took:.1f} s, {used:.1f} s of processor)"
    )
    print(f"polls and decisions in one transaction, on average {batch:.0f}, at most {store.writer.largest}")
    wakeup = asyncio.Event()
    sender = Sender(
        store,
        holder="bench",
        clock=clock,
        metrics=DeliverMetrics(registry),
        random=Random(1),
        connect=connector(clock),
        wake=wakeup.set,
    )
    began, cpu = time.perf_counter(), time.process_time()
    delivered = await deliver(store, sender, wakeup, config, clock)
    took, used = time.perf_counter() - began, time.process_time() - cpu
    print(
        f"outbox to local webhook  {delivered / took:9.0f} notifications/s   {delivered / used:9.0f} a second of processor time"
        f"   ({delivered}, {took:.1f} s, {used:.1f} s of processor)"
    )
    await sender.close(timedelta(seconds=5))
    await store.close()
    print(f"resident memory, at its peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


async def prepare(store: Store, keys: list[ScenarioKey], now: datetime) -> None:
    since = now - timedelta(days=1)

    def work(connection: object) -> None:
        scenarios.ensure_node(connection, "bench", since)  # type: ignore[arg-type]
        scenarios.put_scenarios(  # type: ignore[call-arg]
            connection,  # type: ignore[arg-type]
            [
                ScenarioRow(
                    key, key.scenario.title(), ("daily",), "step_based", True, None, (), since, since, backfilled=True
                )
                for key in keys
            ],
        )

    await store.write(work)


def configuration(url: str, webhook: str) -> Config:
    channel = Channel(name="sink", receiver="ops", webhook=Plain(webhook), workers=4)
    return Config(
        nodes=(Node(name="bench", url="http://127.0.0.1:1", watch=WatchConfig(details_wait=timedelta(0))),),
        store=StoreConfig(url),
        receivers=(Receiver("ops", (channel,)),),
        inhibit_rules=(),
        reporters=(
            Reporter(
                name="ends",
                receiver="ops",
                on=frozenset({EventName.RUN_FINISHED, EventName.RUN_FAILED}),
                match=(parse_matcher('project=~"P.*"'),),
                condition="outcome != 'ABORTED'",
            ),
        ),
        rules=DEFAULT_RULES,
        route=build_tree(Route("ops", group_by=("alertname", "dss_node", "project"))),
    )


def polls(keys: list[ScenarioKey], runs: int, now: datetime) -> list[Poll]:
    random = Random(1)
    made = []
    for number in range(runs):
        key = keys[number % len(keys)]
        start = now - timedelta(hours=1) + timedelta(milliseconds=100 * number)
        run = Run(
            key,
            f"{start:%Y-%m-%d-%H-%M-%S}-{number % 1000:03}",
            start,
            start + timedelta(seconds=random.uniform(1, 600)),
            "FAILED" if random.random() < 0.05 else "SUCCESS",
            "temporal",
            "Time-based",
        )
        poll = Poll(
            key=key,
            facts=ScenarioFacts(key.scenario, key.scenario.title(), ("daily",), "step_based"),
            seen=(ListedRun(run),),
            reason="sweep",
            begun_at=now,
            wants_details=lambda event, _own: _LOG if event.name is EventName.RUN_FAILED else None,
            bounds=DURATION_BUCKETS,
            reaches=start,
            whole=True,
            advances=True,
            now=now + timedelta(hours=1),
            detected_at=datetime.now(UTC),
            horizon=now - timedelta(days=1),
            late_before=None,
            fresh_from=start,
            earliest=now + timedelta(hours=1),
        )
        made.append(poll)
    return made


async def see(store: Store, leadership: writer.Leadership, waiting: list[Poll], record: RecordPolls) -> int:
    """Write the polls as many watchers at once would; answers how many events were new."""
    guard = leadership.guard
    queue = list(reversed(waiting))
    events = 0

    async def one() -> None:
        nonlocal events
        while queue:
            recorded = await store.write_each(record, queue.pop(), guard)
            events += len(recorded.events)

    await asyncio.gather(*(one() for _ in range(400)))
    return events


async def deliver(store: Store, sender: Sender, wakeup: asyncio.Event, config: Config, clock: SystemClock) -> int:
    from tocsin.store.deliveries import outbox_depth

    before = (await store.read(outbox_depth)).open
    loop = asyncio.create_task(run_loop("deliver", sender.step, wakeup, clock, lambda: config))
    while (await store.read(outbox_depth)).open:
        await asyncio.sleep(0.1)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    return before


if __name__ == "__main__":
    main(sys.argv[1:])
