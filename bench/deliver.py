"""Delivery's budgets: native sends a second with durable receipts, apprise beside bare apprise, a deep outbox.

Run: ``python bench/deliver.py [--rows 20000] [--deep 100000]``. The receiver is another process on this machine, so
that it takes no time from the sender's interpreter; figures of one run compare with each other, not across machines.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from prometheus_client import CollectorRegistry

from tocsin.deliver.metrics import DeliverMetrics
from tocsin.deliver.sender import Sender
from tocsin.kit.clock import SystemClock
from tocsin.kit.ids import fresh_id
from tocsin.model.config import Channel, Config, Node, Receiver, StoreConfig
from tocsin.model.event import Event, EventName, ScenarioFacts, run_event_id
from tocsin.model.notification import EventNotice, Notification
from tocsin.model.run import Details, Run, RunError, ScenarioKey, Step
from tocsin.store import Store, deliveries, details, outbox


class Plain:
    def __init__(self, value: str) -> None:
        self.value = value

    def reveal(self) -> str:
        return self.value


def receive(port: "multiprocessing.Queue[int]") -> None:
    """A receiver that answers every POST with an empty 200, as fast as it can."""

    class Answer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport, self.left, self.buffer = transport, 0, b""

        def data_received(self, data: bytes) -> None:
            self.buffer += data
            while True:
                if self.left:
                    taken = min(self.left, len(self.buffer))
                    self.buffer, self.left = self.buffer[taken:], self.left - taken
                    if self.left:
                        return
                    self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")  # type: ignore[attr-defined]
                head, found, rest = self.buffer.partition(b"\r\n\r\n")
                if not found:
                    return
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                self.buffer, self.left = rest, length

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def rows(count: int, lanes: int, channel: str) -> list[tuple[Notification, Details]]:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    made = []
    for n in range(count):
        key = ScenarioKey("prod", f"P{n % 40}", f"SCENARIO_{n % lanes}")
        run = Run(
            key,
            f"run-{n}",
            now + timedelta(seconds=n),
            now + timedelta(seconds=n + 90),
            "FAILED",
            "temporal",
            "t",
        )
        event = Event(run_event_id(run, EventName.RUN_FAILED), EventName.RUN_FAILED, "prod", now, now, key.project,
                      ScenarioFacts(key.scenario, "A scenario", ("daily",)), run, "https://dss.example.com/x")  # fmt: skip
        steps = (Step("s", "Build", "build", "FAILED", timedelta(seconds=9), ("job",)),)
        lane = "/".join(key)
        made.append((
            Notification(fresh_id(), "ops", channel, lane, EventNotice(event, "nightly"), now, now),
            Details(run.key, now, RunError("it broke", step="Build"), steps, "a log\n" * 20),
        ))  # fmt: skip
    return made


def config(*channels: Channel) -> Config:
    return Config(
        (Node("prod", "https://dss.example.com"),), StoreConfig(""), receivers=(Receiver("ops", channels),)
    )


async def fill(store: Store, made: list[tuple[Notification, Details]]) -> None:
    def write(connection, part):
        outbox.owe(connection, [one for one, _ in part])
        for _, detail in part:
            details.put_details(connection, detail)

    for start in range(0, len(made), 1_000):
        await store.write(write, made[start : start + 1_000])


async def drain(
    store: Store, settings: Config, on_progress: Callable[[float, int], None] | None = None
) -> float:
    """Seconds until nothing is open, with the loop as the daemon runs it."""
    bell, clock = asyncio.Event(), SystemClock()
    sender = Sender(store, holder="bench", clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1),
                    ring=bell.set)  # fmt: skip
    began = looked = time.perf_counter()
    while True:
        bell.clear()
        await sender.step(clock.now(), settings)
        if time.perf_counter() - looked > 0.25:
            looked = time.perf_counter()
            left = (await store.read(deliveries.depth)).open
            if on_progress:
                on_progress(looked - began, left)
            if not left:
                break
        try:
            async with asyncio.timeout(0.1):
                await bell.wait()
        except TimeoutError:
            pass
    took = time.perf_counter() - began
    await sender.close(timedelta(seconds=5))
    return took


async def in_store(work):
    with tempfile.TemporaryDirectory() as place:
        store = Store(f"sqlite:///{Path(place) / 'bench.db'}")
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()


async def native(port: int, count: int) -> float:
    async def work(store: Store) -> float:
        await fill(store, rows(count, 2_000, "hook"))
        channel = Channel(
            "hook", "ops", webhook=Plain(f"http://127.0.0.1:{port}/"), hmac_secret=Plain("secret")
        )
        return count / await drain(store, config(channel))

    return await in_store(work)


async def through_apprise(port: int, count: int) -> float:
    async def work(store: Store) -> float:
        await fill(store, rows(count, 200, "json"))
        return count / await drain(
            store, config(Channel("json", "ops", url=Plain(f"json://127.0.0.1:{port}/")))
        )

    return await in_store(work)


def bare_apprise(port: int, count: int) -> float:
    from apprise import Apprise, AppriseAsset

    bell = Apprise(asset=AppriseAsset(service_timeout=0, http_redirects=False))
    bell.add(f"json://127.0.0.1:{port}/")
    for plugin in bell:
        plugin.request_rate_per_sec = 0
    body = "Outcome: FAILED\n" * 12
    began = time.perf_counter()
    for _ in range(count):
        assert bell.notify(title="A scenario FAILED in P1 on prod", body=body, body_format="text")
    return count / (time.perf_counter() - began)


async def deep(port: int, count: int) -> dict[str, float]:
    """Whether a deep outbox drains as fast at first, when it is deep, as at last."""
    seen: list[tuple[float, int]] = []

    async def work(store: Store) -> float:
        await fill(store, rows(count, 10_000, "hook"))
        channel = Channel("hook", "ops", webhook=Plain(f"http://127.0.0.1:{port}/"))
        return await drain(store, config(channel), lambda at, left: seen.append((at, left)))

    took = await in_store(work)

    def pace(top: float, bottom: float) -> float:
        part = [(at, left) for at, left in seen if bottom * count <= left <= top * count]
        return (part[0][1] - part[-1][1]) / (part[-1][0] - part[0][0]) if len(part) > 1 else float("nan")

    return {"rows_per_second": count / took, "first_fifth": pace(1, 0.8), "last_fifth": pace(0.2, 0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--deep", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    ports: multiprocessing.Queue[int] = multiprocessing.Queue()
    receiver = multiprocessing.Process(target=receive, args=(ports,), daemon=True)
    receiver.start()
    port = ports.get()
    result: dict[str, object] = {}
    try:
        result["native_per_second"] = round(asyncio.run(native(port, arguments.rows)))
        pairs = []
        for _ in range(arguments.rounds):  # side by side, so that both meet the same machine
            bare = bare_apprise(port, arguments.rows // 10)
            ours = asyncio.run(through_apprise(port, arguments.rows // 10))
            pairs.append((ours, bare))
        result["apprise_per_second"] = round(statistics.median(ours for ours, _ in pairs))
        result["bare_apprise_per_second"] = round(statistics.median(bare for _, bare in pairs))
        result["apprise_ratio"] = round(statistics.median(ours / bare for ours, bare in pairs), 2)
        if arguments.deep:
            result["deep"] = {
                name: round(value) for name, value in asyncio.run(deep(port, arguments.deep)).items()
            }
    finally:
        receiver.kill()
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
