"""The budget of a scrape: ten thousand scenarios, our rendering against prometheus_client's, and what the loop feels.

Both renderings write the same samples in the same run, ours from the snapshot, theirs from metric families that stand
ready in memory. Then another process scrapes over HTTP, compressed, while this one refreshes its snapshot as the
daemon does and a ticker measures how late the event loop wakes.
"""

import argparse
import asyncio
import gc
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector
from sqlalchemy import Connection

from tocsin.config.model import DURATION_BUCKETS, Config, HttpConfig, Node, StoreConfig
from tocsin.kit.clock import SystemClock
from tocsin.metrics import Exposition
from tocsin.metrics.exposition import render_body
from tocsin.metrics.snapshot import SnapshotReader
from tocsin.metrics.text import Format
from tocsin.store import Store, schema
from tocsin.web import WebContext, listen, make_app

OUTCOMES = ("SUCCESS", "FAILED", "WARNING")
TICK_SECONDS = 0.002

SCRAPER = """
import sys, time, urllib.request
url, seconds = sys.argv[1], float(sys.argv[2])
end, took, size = time.monotonic() + seconds, [], 0
while time.monotonic() < end:
    began = time.monotonic()
    request = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"})
    size = len(urllib.request.urlopen(request, timeout=30).read())
    took.append(time.monotonic() - began)
    time.sleep(0.2)
print(len(took), sorted(took)[len(took) // 2], size)
"""


class Ready(Collector):
    """Families that stand ready in memory."""

    def __init__(self, families: list[Metric]) -> None:
        self.families = families

    def collect(self) -> Iterable[Metric]:
        return self.families


def fill(connection: Connection, scenarios: int, runs_each: int) -> None:
    """Rows of watched scenarios in projects of fifty, each with some ended runs."""
    now = datetime.now(UTC).replace(microsecond=0)
    keys = [
        {"node": "prod", "project": f"PROJECT_{n // 50:03}", "scenario": f"SCENARIO_NUMBER_{n:05}"}
        for n in range(scenarios)
    ]
    node = {"node": "prod", "watched_since": now, "up": True, "last_discovery_at": now}
    connection.execute(schema.nodes.insert(), node)
    same = {"tags": (), "active": True, "follows": (), "watched_since": now, "watermark": now, "polled_at": now,
            "next_run": now + timedelta(hours=1)}  # fmt: skip
    connection.execute(schema.scenarios.insert(), [key | same | {"name": key["scenario"]} for key in keys])
    for n in range(runs_each):
        start = now - timedelta(hours=n + 1)
        run = {"run_id": start.strftime("%Y-%m-%d-%H-%M-%S-000"), "start": start, "end": start + timedelta(seconds=73),
               "outcome": OUTCOMES[n % 3], "baseline": False, "seen_at": now}  # fmt: skip
        connection.execute(schema.runs.insert(), [key | run for key in keys])
    open_run = {"run_id": "now", "start": now, "baseline": False, "seen_at": now}
    connection.execute(schema.runs.insert(), [key | open_run for key in keys[::100]])
    totals = [key | {"outcome": outcome, "runs": 12, "seconds": 876.5} for key in keys for outcome in OUTCOMES[:2]]
    connection.execute(schema.outcome_totals.insert(), totals)
    buckets = [
        {"node": "prod", "project": project, "outcome": outcome, "le_ms": round(bound * 1000), "runs": 5, "seconds": bound,
         "exemplar_scenario": "SCENARIO", "exemplar_run": "2026-03-01-02-00-00-000", "exemplar_seconds": bound,
         "exemplar_at": now}
        for project in sorted({key["project"] for key in keys}) for outcome in OUTCOMES for bound in DURATION_BUCKETS
    ]  # fmt: skip
    connection.execute(schema.duration_buckets.insert(), buckets)


def best(work: Callable[[], object], times: int = 5) -> float:
    """The shortest of some runs, in seconds: what the work costs without what else the machine does."""
    took = []
    for _ in range(times):
        gc.collect()
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)


async def compare(store: Store, config: Config) -> None:
    snapshot = await store.read(SnapshotReader().read, datetime.now(UTC), config)
    for format, parse, theirs in (
        (Format.TEXT, parse_text, generate_latest),
        (Format.OPENMETRICS, parse_openmetrics, openmetrics.generate_latest),
    ):
        body = render_body(snapshot, CollectorRegistry(), format, compressed=False)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Ready(list(parse(body.decode()))))
        ours = best(lambda format=format: render_body(snapshot, CollectorRegistry(), format, compressed=False))
        other = best(lambda theirs=theirs, registry=registry: theirs(registry), times=3)
        lines = body.count(b"\n")
        print(
            f"{format.name.lower():12} {lines} lines, {len(body) / 1e6:.1f} MB: ours {ours * 1000:.0f} ms, "
            f"prometheus_client {other * 1000:.0f} ms, ratio {ours / other:.3f} (budget 0.1)"
        )


class Collections:
    """How long the longest run of the garbage collector took: the whole process stands still for it."""

    def __init__(self) -> None:
        self.longest = self._began = 0.0
        gc.callbacks.append(self._measure)

    def _measure(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.longest = max(self.longest, time.perf_counter() - self._began)


async def lag(seconds: float, sink: list[float]) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        before = time.perf_counter()
        await asyncio.sleep(TICK_SECONDS)
        sink.append(time.perf_counter() - before - TICK_SECONDS)


async def serve(store: Store, config: Config, seconds: float) -> None:
    clock, exposition = SystemClock(), Exposition(CollectorRegistry())

    async def nothing(*_: object) -> bool:
        return False

    began = time.perf_counter()
    await exposition.refresh(store, clock.now(), config)
    print(f"first refresh {1000 * (time.perf_counter() - began):.0f} ms")
    context = WebContext(
        store=store, config=lambda: config, clock=clock, exposition=exposition, alive=dict, status=dict,
        loop_turned_at=clock.monotonic, ready=lambda: None, reload=None,  # type: ignore[arg-type]
        nudge=lambda *_: False, resolve_alert=nothing, acknowledge_alert=nothing, retry_delivery=nothing,
        retry_deliveries=nothing, take_alerts=nothing, explain=nothing, explain_alert=nothing,  # type: ignore[arg-type]
    )  # fmt: skip
    listener = await listen(make_app(context), "127.0.0.1:0")
    idle: list[float] = []
    await lag(seconds / 3, idle)
    url = f"http://127.0.0.1:{listener.port}/metrics"
    scraper = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCRAPER, url, str(seconds), stdout=subprocess.PIPE
    )
    busy: list[float] = []
    refreshes: list[float] = []

    async def refresh() -> None:
        while True:
            began = time.perf_counter()
            await exposition.refresh(store, clock.now(), config)
            refreshes.append(time.perf_counter() - began)
            await asyncio.sleep(3)

    collections = Collections()
    refreshing = asyncio.create_task(refresh())
    await lag(seconds, busy)
    refreshing.cancel()
    out, _ = await scraper.communicate()
    count, median, size = out.decode().split()
    print(f"{count} compressed scrapes over HTTP: median {float(median) * 1000:.0f} ms, {int(size) / 1e6:.2f} MB")
    print(f"refresh while scraped: median {statistics.median(refreshes) * 1000:.0f} ms")
    for name, lags in (("idle", idle), ("scraped", busy)):
        lags.sort()
        print(
            f"loop lag {name:8} p99 {lags[int(len(lags) * 0.99)] * 1000:.1f} ms, "
            f"worst {lags[-1] * 1000:.1f} ms (budget 20 ms)"
        )
    print(f"longest garbage collection meanwhile {collections.longest * 1000:.1f} ms")
    await listener.close()
    exposition.close()


async def measure(scenarios: int, runs_each: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as place:
        url = f"sqlite:///{Path(place) / 'bench.db'}"
        config = Config(
            (Node("prod", "https://dss"),),
            StoreConfig(url),
            http=HttpConfig(listen="127.0.0.1:0"),
            rules=(),
            inhibit_rules=(),
        )
        store = Store(url)
        await store.open()
        await store.write(fill, scenarios, runs_each)
        await serve(store, config, seconds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak resident memory up to here {peak:.0f} MiB, filling included")
        await compare(store, config)
        await store.close()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenarios", type=int, default=10_000)
    parser.add_argument("--runs-each", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=12.0)
    asked = parser.parse_args(arguments)
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    asyncio.run(measure(asked.scenarios, asked.runs_each, asked.seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
