"""Delivery's budgets: native sends a second with durable receipts, apprise beside bare apprise, a deep outbox.

Run: ``python -m bench deliver [-- --rows 20000 --deep 100000]``. The receiver is another process on this machine, so
that it takes no time from the sender's interpreter; figures of one run compare with each other, not across machines.
"""

import argparse
import asyncio
import logging
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import requests
import structlog
from apprise import Apprise, AppriseAsset
from prometheus_client import CollectorRegistry

from tocsin.app.run import new_event_loop
from tocsin.config.model import Channel, Config, MessageFormat, Node, Receiver, StoreConfig
from tocsin.deliver.outgoing import Facts
from tocsin.deliver.render import Renderer
from tocsin.deliver.sender import DeliverMetrics, Sender
from tocsin.kit.clock import SystemClock
from tocsin.kit.strings import fresh_id
from tocsin.model.event import Event, EventName, ScenarioFacts, run_event_id
from tocsin.model.notification import EventNotice, Notification
from tocsin.model.run import Details, Run, RunError, ScenarioKey, Step
from tocsin.store import Store, deliveries, outbox, runs

T = TypeVar("T")


class Plain:
    def __init__(self, value: str) -> None:
        self.value = value

    def reveal(self) -> str:
        return self.value

    async def read(self) -> str:
        return self.reveal()


def receive(port: "multiprocessing.Queue[int]", taken: "Synchronized[int]") -> None:
    """A receiver that answers every POST with an empty 200, as fast as it can, and counts them in ``taken``."""

    class Answer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport, self.left, self.buffer = transport, 0, b""

        def data_received(self, data: bytes) -> None:
            self.buffer += data
            while True:
                if self.left:
                    part = min(self.left, len(self.buffer))
                    self.buffer, self.left = self.buffer[part:], self.left - part
                    if self.left:
                        return
                    taken.value += 1
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


def rows(count: int, ordering_keys: int, channel: str) -> list[tuple[Notification, Details]]:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    made = []
    for n in range(count):
        key = ScenarioKey("prod", f"P{n % 40}", f"SCENARIO_{n % ordering_keys}")
        run = Run(
            key, f"run-{n}", now + timedelta(seconds=n), now + timedelta(seconds=n + 90), "FAILED", "temporal", "t"
        )
        event = Event(run_event_id(run, EventName.RUN_FAILED), EventName.RUN_FAILED, "prod", now, now, key.project,
                      ScenarioFacts(key.scenario, "A scenario", ("daily",)), run, "https://dss.example.com/x")  # fmt: skip
        steps = (Step("s", "Build", "build", "FAILED", timedelta(seconds=9), ("job",)),)
        ordering_key = "/".join(key)
        made.append((
            Notification(fresh_id(), "ops", channel, ordering_key, EventNotice(event, "nightly"), now, now),
            Details(run.key, now, RunError("it broke", step="Build"), steps, "a log\n" * 20),
        ))  # fmt: skip
    return made


def config(*channels: Channel) -> Config:
    return Config(
        (Node("prod", "https://dss.example.com"),),
        StoreConfig(""),
        receivers=(Receiver("ops", channels),),
        rules=(),
        inhibit_rules=(),
    )


async def fill(store: Store, made: list[tuple[Notification, Details]]) -> None:
    def write(connection, part):
        outbox.enqueue(connection, [one for one, _ in part])
        for _, detail in part:
            runs.put_details(connection, detail)

    for start in range(0, len(made), 1_000):
        await store.write(write, made[start : start + 1_000])


async def drain(store: Store, settings: Config, on_progress: Callable[[float, int], None] | None = None) -> float:
    """Seconds until nothing is open, with the loop as the daemon runs it."""
    bell, clock = asyncio.Event(), SystemClock()
    sender = Sender(store, holder="bench", clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1),
                    wake=bell.set)  # fmt: skip
    began = looked = time.perf_counter()
    while True:
        bell.clear()
        await sender.step(clock.now(), settings)
        if time.perf_counter() - looked > 0.25:
            looked = time.perf_counter()
            left = (await store.read(deliveries.outbox_depth)).open
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


@dataclass(frozen=True)
class Pace:
    """Sends a second by the clock, and a second of this process's processor time: the latter other work disturbs less."""

    by_clock: float
    by_processor: float

    def __str__(self) -> str:
        return f"{self.by_clock:7.0f}/s  {self.by_processor:7.0f} a second of processor time"


async def drained(channel: Channel, count: int, ordering_keys: int) -> Pace:
    async def work(store: Store) -> Pace:
        await fill(store, rows(count, ordering_keys, channel.name))
        began, used = time.perf_counter(), time.process_time()
        await drain(store, config(channel))
        return Pace(count / (time.perf_counter() - began), count / (time.process_time() - used))

    return await in_store(work)


def run(work: Coroutine[Any, Any, T]) -> T:
    """On the event loop of the daemon."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)


def bare_apprise(port: int, count: int) -> Pace:
    """For a process of its own: the daemon's settings of apprise and requests are not in it."""
    bell = Apprise(asset=AppriseAsset(service_timeout=0, http_redirects=False))
    bell.add(f"json://127.0.0.1:{port}/")
    for plugin in bell:
        plugin.request_rate_per_sec = 0
    body = "Outcome: FAILED\n" * 12

    def notify(times: int) -> None:
        for _ in range(times):
            assert bell.notify(title="A scenario FAILED in P1 on prod", body=body, body_format="text")

    notify(20)
    began, used = time.perf_counter(), time.process_time()
    notify(count)
    return Pace(count / (time.perf_counter() - began), count / (time.process_time() - used))


def rendering() -> float:
    """Microseconds of processor time to render the text of a notification."""
    renderer, settings, made = Renderer({}), config(), rows(500, 200, "json")

    def render() -> None:
        for notification, details in made:
            renderer.render(notification.notice, Facts({details.run: details}), settings, MessageFormat.TEXT, None)

    render()
    used = time.process_time()
    render()
    return (time.process_time() - used) / len(made) * 1e6


def alertmanager(port: int, count: int, taken: "Synchronized[int]") -> Pace | None:
    """As many notifications of one alert each by Debian's Alertmanager; None where it is not installed."""
    program = shutil.which("prometheus-alertmanager")
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as place, socket.create_server(("127.0.0.1", 0)) as free:
        (Path(place) / "am.yml").write_text(_ALERTMANAGER.format(url=f"http://127.0.0.1:{port}/"))
        listen = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        process = subprocess.Popen(
            [program, f"--config.file={place}/am.yml", f"--storage.path={place}", f"--web.listen-address={listen}",
             "--cluster.listen-address=", "--log.level=error"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _until(lambda: _answers(f"http://{listen}/-/ready"))
            before, began, used = taken.value, time.perf_counter(), _processor_seconds(process.pid)
            for start in range(0, count, 500):
                alerts = [
                    {"labels": {"alertname": "ScenarioFailed", "project": f"P{n % 40}", "scenario": f"SCENARIO_{n}"},
                     "annotations": {"description": "it broke\n" * 12}}
                    for n in range(start, min(count, start + 500))
                ]  # fmt: skip
                requests.post(f"http://{listen}/api/v2/alerts", json=alerts, timeout=60).raise_for_status()
            _until(lambda: taken.value - before >= count)
            seconds, used = time.perf_counter() - began, _processor_seconds(process.pid) - used
        finally:
            process.kill()
            process.wait()
    tick = 1 / os.sysconf("SC_CLK_TCK")  # what the system counts in
    return Pace(count / seconds, count / max(used, tick))


_ALERTMANAGER = """
route: {{receiver: hook, group_by: ['...'], group_wait: 0s, group_interval: 5m, repeat_interval: 4h}}
receivers: [{{name: hook, webhook_configs: [{{url: '{url}'}}]}}]
"""


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


def _until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.perf_counter() + seconds
    while not true():
        if time.perf_counter() > end:
            raise TimeoutError
        time.sleep(0.01)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def deep(port: int, count: int) -> str:
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

    return f"{count / took:7.0f}/s; its first fifth {pace(1, 0.8):.0f}/s, its last {pace(0.2, 0):.0f}/s"


async def beside_hanging(port: int, dead_port: int, hanging: int, count: int) -> tuple[float, float]:
    """Milliseconds from owed to received of a healthy channel, alone and beside channels that hang: medians."""

    async def measure(store: Store, settings: Config) -> float:
        bell, clock, delays = asyncio.Event(), SystemClock(), []
        sender = Sender(store, holder="bench", clock=clock, metrics=DeliverMetrics(CollectorRegistry()),
                        random=Random(1), wake=bell.set)  # fmt: skip
        await sender.step(clock.now(), settings)
        await asyncio.sleep(1.5)
        for n in range(count):
            (one, _), *_ = rows(1, 1, "good")
            one = replace(one, id=fresh_id(), ordering_key=f"{n}")
            began = time.perf_counter()
            await store.write(outbox.enqueue, [one])
            while (await store.read(outbox.load_notifications, [one.id]))[one.id].state != "delivered":
                await sender.step(clock.now(), settings)
                await asyncio.sleep(0.002)
            delays.append((time.perf_counter() - began) * 1000)
        await sender.close(timedelta(0))
        return statistics.median(delays[count // 4 :])

    good = Channel("good", "ops", url=Plain(f"json://127.0.0.1:{port}/"))
    stuck = [Channel(f"stuck {n}", "ops", url=Plain(f"json://127.0.0.1:{dead_port}/?rto=50&cto=50"),
                     timeout=timedelta(seconds=120)) for n in range(hanging)]  # fmt: skip

    async def alone(store: Store) -> float:
        return await measure(store, config(good))

    async def beside(store: Store) -> float:
        await store.write(outbox.enqueue, [rows(1, 1, channel.name)[0][0] for channel in stuck])
        return await measure(store, config(good, *stuck))

    return await in_store(alone), await in_store(beside)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench deliver", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--deep", type=int, default=100_000)
    parser.add_argument("--beside", type=int, default=40, help="sends of the healthy channel beside those that hang")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    ports: multiprocessing.Queue[int] = multiprocessing.Queue()
    taken = multiprocessing.Value("i", 0, lock=False)
    receiver = multiprocessing.Process(target=receive, args=(ports, taken), daemon=True)
    receiver.start()
    port = ports.get()
    try:
        hook = Channel("hook", "ops", webhook=Plain(f"http://127.0.0.1:{port}/"), hmac_secret=Plain("secret"))
        native = run(drained(hook, options.rows, 2_000))
        print(f"native webhook, signed, with receipts      {native}")
        theirs = alertmanager(port, options.rows // 2, taken)
        print(f"Alertmanager, alerts of as many groups       {theirs or 'not installed here'}")
        if theirs:
            by_clock, by_processor = native.by_clock / theirs.by_clock, native.by_processor / theirs.by_processor
            print(f"  native beside it (0.70 by clock, 1.00 by processor)  {by_clock:.2f}, {by_processor:.2f}")
        warm = Channel("json", "ops", url=Plain(f"json://127.0.0.1:{port}/"))
        run(drained(warm, 20, 20))  # apprise is loaded at the first send
        few, ours, bare = max(options.rows // 10, 500), [], []
        for _ in range(options.rounds):  # side by side, so that both meet the same machine
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                bare.append(pool.submit(bare_apprise, port, few).result())
            channel = Channel("json", "ops", url=Plain(f"json://127.0.0.1:{port}/"), workers=options.workers)
            ours.append(run(drained(channel, few, 200)))
        print(f"apprise alone                              {bare[-1]}")
        print(f"through apprise, with words and receipts   {ours[-1]}")
        print(f"  rendering alone, of one text              {rendering():7.0f} us of processor time")
        for name in ("by_clock", "by_processor"):
            ratios = [getattr(one, name) / getattr(other, name) for one, other in zip(ours, bare, strict=True)]
            print(f"  ratio {name:13}                      {statistics.median(ratios):7.2f}")
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
            alone, beside = run(beside_hanging(port, silent.getsockname()[1], 24, options.beside))
        print(f"a healthy channel, alone and beside 24 that hang  {alone:.0f} ms, {beside:.0f} ms")
        if options.deep:
            print(f"an outbox {options.deep} deep drains at          {run(deep(port, options.deep))}")
    finally:
        receiver.kill()
