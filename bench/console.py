"""The budget of the console and of the API at size: 100 000 stored runs of 10 000 scenarios, every list with every filter.

The store is filled by the pipeline itself: runs are recorded, decided and enqueued; then most notifications are marked
as delivered. The real server answers; the time is what its client in the same process waits, so it includes the
client's own. ``--store FILE`` keeps the filled store for another time.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, func, select, update

from bench import pipeline
from tocsin.app.build import Daemon
from tocsin.app.logs import configure_logging
from tocsin.app.loops import run_loop
from tocsin.config.model import Config, HttpConfig
from tocsin.decide.decide import DecideMetrics, Decider
from tocsin.kit.clock import SystemClock
from tocsin.model.run import ScenarioKey
from tocsin.store import Store, schema, writer
from tocsin.store.events import any_undecided
from tocsin.watch.diff import Poll
from tocsin.watch.read import ListedRun
from tocsin.watch.record import record_polls

BUDGET_SECONDS = 0.1
OPEN_RUNS = 300
DELIVERED_SHARE = 0.98
FIRING = 5_000


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench console", description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--scenarios", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5, help="how often each address is asked")
    parser.add_argument("--store", type=Path, help="fill this file, or use it as it is if it exists")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        configure_logging("warning", "json", nowhere)
        file = options.store or Path(folder) / "bench.db"
        asyncio.run(run(file, options.runs, options.scenarios, options.rounds))


async def run(file: Path, runs: int, scenarios: int, rounds: int) -> None:
    config = pipeline.configuration(f"sqlite:///{file.absolute()}", "http://127.0.0.1:9/")
    if not file.exists():
        began = time.perf_counter()
        await fill(config, runs, scenarios)
        print(f"filled in {time.perf_counter() - began:.0f} s", flush=True)
    async with (
        serve(replace(config, http=HttpConfig(listen="127.0.0.1:0"))) as url,
        aiohttp.ClientSession(url) as client,
    ):
        await measure(client, rounds)


# --- a store of this size ---------------------------------------------------------------------------------------------


async def fill(config: Config, runs: int, count: int) -> None:
    store, now = Store(config.store.url), SystemClock().now()
    await store.open()
    keys = [ScenarioKey("bench", f"P{n % 200}", f"S{n}") for n in range(count)]
    await pipeline.prepare(store, keys, now)
    leadership = await store.write(writer.acquire_lease, "bench", now, force=True)
    assert leadership
    clock, wakeup = SystemClock(), asyncio.Event()
    decider = Decider(store, leadership, DecideMetrics(CollectorRegistry()), lambda: None, wakeup.set)
    await decider.step(clock.now(), config)
    deciding = asyncio.create_task(run_loop("decide", decider.step, wakeup, clock, lambda: config))
    record = partial(record_polls, decide=decider.decide_recorded)
    await pipeline.see(store, leadership, polls(keys, runs, now - timedelta(hours=23)), record)
    while await store.read(any_undecided):
        await asyncio.sleep(0.01)
    deciding.cancel()
    await asyncio.gather(deciding, return_exceptions=True)
    await store.write(settle)
    await store.close()


def polls(keys: list[ScenarioKey], runs: int, began: datetime) -> list[Poll]:
    """One poll for each scenario, of all its runs; those that begin last still run."""
    each = max(1, runs // len(keys))
    seen: dict[ScenarioKey, list[Poll]] = {}
    for number, poll in enumerate(pipeline.polls(keys, each * len(keys), began)):
        (listed,) = poll.seen
        if number >= each * len(keys) - OPEN_RUNS:
            listed = ListedRun(replace(listed.run, end=None, outcome=None))
        seen.setdefault(poll.key, []).append(replace(poll, seen=(listed,)))
    return [
        replace(of_one[0], seen=tuple(poll.seen[0] for poll in reversed(of_one)), advances=True)
        for of_one in seen.values()
    ]


def settle(connection: Connection) -> None:
    """Mark the oldest notifications as delivered and some as dead, and add silences."""
    table, now = schema.outbox, SystemClock().now()
    last = connection.scalar(select(func.max(table.c.n))) or 0
    states = {"state": "delivered", "settled_at": now, "attempts": 1}
    connection.execute(update(table).where(table.c.n <= last * DELIVERED_SHARE).values(states))
    dead = {"state": "dead", "reason": "HTTP 404", "dead_reason": "permanent", "attempts": 1}
    connection.execute(update(table).where(table.c.n % 997 == 0).values(dead))
    fire(connection, now)
    silences = [
        {"id": f"{n:032}", "matchers": (f'project="P{n}"',), "starts_at": now, "ends_at": now + timedelta(hours=n - 100),
         "created_by": "bench", "comment": "bench"}
        for n in range(200)
    ]  # fmt: skip
    connection.execute(schema.silences.insert(), silences)


def fire(connection: Connection, now: datetime) -> None:
    """Let alerts fire until ``FIRING`` do, one of a scenario."""
    table = schema.alerts
    missing = FIRING - (connection.scalar(select(func.count()).where(table.c.ends_at.is_(None))) or 0)
    places = connection.execute(select(schema.scenarios.c.project, schema.scenarios.c.scenario).limit(max(missing, 0)))
    rows = [
        {"id": f"{n:032x}", "fingerprint": f"{n:032x}", "alertname": "Bench", "rule": "Bench", "node": "bench",
         "project": project, "scenario": scenario, "annotations": {"summary": f"{scenario} is late by {n} s"},
         "labels": {"alertname": "Bench", "severity": ("critical", "warning", "info")[n % 3], "dss_node": "bench",
                    "project": project, "scenario": scenario, "scenario_name": scenario, "tags": ",daily,"},
         "starts_at": now - timedelta(seconds=n), "count": 1, "updated_at": now, "was_active": True}
        for n, (project, scenario) in enumerate(places)
    ]  # fmt: skip
    if rows:
        connection.execute(table.insert(), rows)


class _Fixed:
    def __init__(self, config: Config) -> None:
        self.config = config

    def load(self) -> Config:
        return self.config

    def changed(self) -> bool:
        return False


@asynccontextmanager
async def serve(config: Config) -> AsyncIterator[str]:
    """A daemon that only answers."""
    daemon = Daemon(_Fixed(config), config, SystemClock())
    await daemon.store.open(exclusive=False)
    await daemon.listen()
    try:
        yield daemon.url
    finally:
        await daemon.stop(timedelta(0))


# --- what is asked ----------------------------------------------------------------------------------------------------

LISTS: dict[str, list[dict[str, str]]] = {
    "nodes": [{}, {"dss_node": "bench"}],
    "scenarios": [
        {}, {"limit": "1000"}, {"dss_node": "bench"}, {"dss_node": "none"}, {"project": "P7"}, {"project": "none"},
        {"scenario": "S7"}, {"scenario": "none"}, {"scenario_name": "S7"}, {"scenario_name": "none"}, {"run_as": "none"},
        {"tags": "daily"}, {"tags": "none"},
    ],
    "runs": [
        {}, {"limit": "1000"}, {"dss_node": "bench"}, {"dss_node": "none"}, {"project": "P7"}, {"project": "none"},
        {"scenario": "S7"}, {"scenario": "none"}, {"dss_node": "bench", "project": "P7", "scenario": "S7"},
        {"scenario_name": "S7"}, {"scenario_name": "none"}, {"outcome": "SUCCESS"}, {"outcome": "FAILED"},
        {"outcome": "ABORTED"}, {"trigger_type": "temporal"}, {"trigger_type": "none"}, {"run_as": "none"},
        {"tags": "daily"}, {"tags": "none"}, {"run": "none"}, {"state": "running"}, {"state": "ended"},
        {"state": "running", "project": "P7"}, {"outcome": "FAILED", "project": "P7"},
    ],
    "events": [
        {}, {"limit": "1000"}, {"event": "run.failed"}, {"event": "node.down"}, {"dss_node": "bench"},
        {"dss_node": "none"}, {"project": "P7"}, {"project": "none"}, {"scenario": "S7"}, {"scenario": "none"},
        {"scenario_name": "S7"}, {"scenario_name": "none"}, {"outcome": "FAILED"}, {"outcome": "ABORTED"},
        {"trigger_type": "temporal"}, {"trigger_type": "none"}, {"run_as": "none"}, {"tags": "daily"}, {"tags": "none"},
    ],
    "alerts": [
        {}, {"limit": "1000"}, {"state": "firing"}, {"state": "resolved"}, {"alertname": "ScenarioFailed"},
        {"alertname": "none"}, {"severity": "warning"}, {"severity": "none"}, {"dss_node": "bench"}, {"dss_node": "none"},
        {"project": "P7"}, {"project": "none"}, {"scenario": "S7"}, {"scenario": "none"}, {"tags": "none"},
        {"state": "firing", "project": "P7"}, {"state": "firing", "alertname": "none"},
    ],
    "silences": [{}, {"state": "active"}, {"state": "expired"}, {"state": "pending"}],
    "deliveries": [
        {}, {"limit": "1000"}, {"state": "delivered"}, {"state": "dead"}, {"state": "pending"}, {"state": "sending"},
        {"receiver": "ops"}, {"receiver": "none"}, {"channel": "sink"}, {"channel": "none"}, {"kind": "event"},
        {"kind": "group"}, {"kind": "summary"}, {"event_id": "none"}, {"id": "none"}, {"alertname": "ScenarioFailed"},
        {"alertname": "none"}, {"severity": "warning"}, {"severity": "none"}, {"event": "run.failed"}, {"event": "none"},
        {"project": "P7"}, {"project": "none"}, {"scenario": "S7"}, {"scenario": "none"}, {"outcome": "FAILED"},
        {"tags": "daily"}, {"tags": "none"},
    ],
}  # fmt: skip


NARROWING = [
    {"since": "1h"}, {"until": "1h"}, {"since": "1s"}, {"matcher": "project=P7"}, {"matcher": "project=~P7.*"},
    {"matcher": "scenario!~S.*"}, {"matcher": "severity=~none"}, {"matcher": "project=~P7|P8", "since": "30d", "until": "1s"},
]  # fmt: skip
ALERTMANAGER = [
    "alerts",
    "alerts?filter=project=P7",
    "alerts?receiver=none",
    "alerts/groups",
    "silences",
    "status",
    "receivers",
]

PAGES = [
    "/", "/alerts", "/alerts?page=2", "/alerts?state=active", "/alerts?state=suppressed", "/alerts?state=all&group=project",
    "/alerts?state=resolved", "/alerts?matcher=project%3D~%22P7.*%22", "/alerts?q=S77", "/alerts?severity=none", "/scenarios",
    "/scenarios?page=50", "/scenarios?sort=-last", "/scenarios?sort=next", "/scenarios?state=failing", "/scenarios?state=running",
    "/scenarios?state=firing", "/scenarios?q=S77", "/scenarios?q=none", "/scenarios?matcher=tags%3D~%22.*daily.*%22",
    "/scenarios/bench/P7/S7", "/silences", "/silences?state=all", "/silences/new?matcher=project%3D%22P7%22", "/deliveries",
    "/deliveries?page=40", "/deliveries?state=dead", "/deliveries?state=delivered", "/deliveries?channel=sink",
    "/deliveries?channel=none", "/deliveries?receiver=ops", "/deliveries?q=S77", "/deliveries?q=none", "/deliveries?since=1h",
    "/deliveries?since=6h&until=1h&state=delivered", "/routes", "/routes?scenario=S7", "/status", "/search?q=S77",
    "/search?q=none", "/search?q=2026",
]  # fmt: skip


async def cursors(client: aiohttp.ClientSession, name: str, pages: int) -> list[str]:
    """A cursor in the middle of a list, and the last one."""
    found: list[str] = []
    after = None
    while len(found) < pages:
        query = {"limit": "1000"} | ({"after": after} if after else {})
        async with client.get(f"/api/v1/{name}", params=query) as answer:
            after = (await answer.json())["next"]
        if after is None:
            break
        found.append(after)
    return [found[len(found) // 2], found[-1]] if found else []


async def addresses(client: aiohttp.ClientSession) -> AsyncIterator[str]:
    for place in PAGES:
        yield place
    yield "/api/v1/status"
    yield "/api/v1/config"
    for place in ALERTMANAGER:
        yield f"/api/v2/{place}"
    for name, queries in LISTS.items():
        for query in [*queries, *NARROWING]:
            yield f"/api/v1/{name}?{urlencode(query)}"
        marks = await cursors(client, name, 1000)
        # Filters that match seldom read far from wherever they begin.
        for query in ({}, queries[-1], queries[min(2, len(queries) - 1)]):
            for mark in marks:
                yield f"/api/v1/{name}?{urlencode(query | {'after': mark})}"
    for query in ({}, {"outcome": "FAILED"}, {"state": "running"}):
        async with client.get("/api/v1/runs", params={"limit": "1", **query}) as answer:
            for item in (await answer.json())["items"]:
                place = f"{item['node']}/{item['project']}/{item['scenario']}/{item['run_id']}"
                yield f"/runs/{place}"
                yield f"/api/v1/explain/{place}"
    async with client.get("/api/v1/alerts", params={"limit": "1"}) as answer:
        for item in (await answer.json())["items"]:
            yield f"/api/v1/explain/alerts/{item['id']}"
            yield f"/alerts/{item['id']}"


async def measure(client: aiohttp.ClientSession, rounds: int) -> None:
    taken: dict[str, list[tuple[float, float]]] = {}  # seconds by the clock and of this process's processor time
    places = [place async for place in addresses(client)]
    for number in range(rounds + 1):
        for place in places:
            began, used = time.perf_counter(), time.process_time()
            async with client.get(place) as answer:
                await answer.read()
                answer.raise_for_status()
            if number:
                taken.setdefault(place, []).append((time.perf_counter() - began, time.process_time() - used))
    report(taken)


def report(taken: dict[str, list[tuple[float, float]]]) -> None:
    lines, medians = {}, {}
    for place, pairs in taken.items():
        clock, processor = zip(*pairs, strict=True)
        medians[place] = middle = statistics.median(clock)
        kept = "kept" if middle <= BUDGET_SECONDS else "NOT KEPT"
        lines[place] = (
            f"{place if len(place) <= 100 else place[:99] + '…'}: median {middle * 1000:.1f} ms, "
            f"worst {max(clock) * 1000:.1f} ms, {statistics.median(processor) * 1000:.1f} ms of processor time, "
            f"{middle / BUDGET_SECONDS:.2f} of the budget (budget {BUDGET_SECONDS * 1000:.0f} ms: {kept})"
        )
        print(lines[place])
    print(f"slowest: {lines[max(medians, key=lambda place: medians[place])]}")
    kept_in_time = sum(median <= BUDGET_SECONDS for median in medians.values())
    print(f"{kept_in_time} of {len(medians)} addresses within {BUDGET_SECONDS * 1000:.0f} ms")
