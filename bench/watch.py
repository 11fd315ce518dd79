"""The detection budget: how soon the watch knows what happened on a large node, beside a plain loop over dataikuapi.

Run: ``python -m bench watch -- [--seconds 120] [--projects 200] [--scenarios 50] [--rate 0.5] [--requests 5]``. The
node is the faked DSS of the tests in a process of its own, answering in 50 ms. The loop asks each scenario for its
last runs in turn, as scripts do, at the same number of requests a second, in a third process against the same node;
since its round is far longer than this measurement, what it has not found by the end counts as found just then, and
the ratio is a lower bound. All of it happens while the first poll of each scenario is still to come. At the end the
store is filled with runs, and the whole daemon is started on it: how much memory it takes, and how soon it posts the end
of a run with its steps.
"""

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, func, select

from tests.fakedss import WebhookSink
from tocsin.config.model import DURATION_BUCKETS, Node, WatchConfig
from tocsin.kit.clock import SystemClock, to_ms
from tocsin.model.event import END_EVENTS, Event, EventName
from tocsin.model.run import Run, ScenarioKey
from tocsin.store import Store, schema, series, writer
from tocsin.store.runs import RunRow, put_runs
from tocsin.store.scenarios import PolledScenario, save_polls
from tocsin.watch.node import NodeSnapshot, NodeWatcher
from tocsin.watch.state import WatcherDeps, WatchMetrics

ROOT = Path(__file__).parents[1]
CLOCK = SystemClock()

LOOP = """
import json, sys, time
import dataikuapi
url, key, rate, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
client = dataikuapi.DSSClient(url, key)
scenarios = [(p, s["id"]) for p in client.list_project_keys() for s in client.get_project(p).list_scenarios()]
found, begun, asked = {}, time.time(), 0
while time.time() < begun + seconds:
    project, scenario = scenarios[asked % len(scenarios)]
    asked += 1
    for run in client.get_project(project).get_scenario(scenario).get_last_runs(limit=10):
        if not run.running:
            found.setdefault(f"{project}/{scenario}/{run.id}", time.time() * 1000)
    time.sleep(max(0.0, begun + asked / rate - time.time()))
print(json.dumps({"found": found, "asked": asked, "seconds": time.time() - begun}))
"""


class Key:
    def __init__(self, value: str) -> None:
        self.value = value

    def reveal(self) -> str:
        return self.value

    async def read(self) -> str:
        return self.reveal()


class FakeNode:
    """The faked DSS in another process."""

    def __init__(self, options: argparse.Namespace) -> None:
        words = f"-m tests.fakedss --projects {options.projects} --scenarios {options.scenarios} --delay 0.05"
        words += f" --rate {options.rate} --durations {options.durations} --seed 1"
        self.process = subprocess.Popen([sys.executable, *words.split()], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        self.url, self.key = ready["url"], ready["admin_key"]

    def get(self, what: str) -> object:
        with urllib.request.urlopen(f"{self.url}/fake/{what}", timeout=60) as answer:
            return json.load(answer)

    def do(self, action: Mapping[str, object]) -> None:
        request = urllib.request.Request(f"{self.url}/fake/do", json.dumps(action).encode())
        request.add_header("Content-Type", "application/json")
        urllib.request.urlopen(request, timeout=60).close()

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The detection budget.")
    parser.add_argument("--seconds", type=float, default=240, help="how long to measure, after the warm-up")
    parser.add_argument("--projects", type=int, default=200)
    parser.add_argument("--scenarios", type=int, default=50, help="in each project")
    parser.add_argument("--rate", type=float, default=0.5, help="run starts a second")
    parser.add_argument("--durations", default="4:60", help="SHORTEST:LONGEST seconds of a run")
    parser.add_argument("--requests", type=float, default=5, help="a second")
    parser.add_argument("--burst", type=int, default=500, help="runs that start at once at the end; 0: none")
    parser.add_argument("--stored", type=int, default=100_000, help="runs in the daemon's store; 0: leave that out")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    node = FakeNode(options)
    try:
        asyncio.run(measure(node, options))
    finally:
        node.end()


async def measure(fake: FakeNode, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/tocsin.db")
        await store.open()
        leader = await store.write(writer.acquire_lease, "bench", CLOCK.now())
        assert leader is not None
        watcher = NodeWatcher(
            WatcherDeps(
                Node(
                    "bench",
                    fake.url,
                    api_key=Key(fake.key),
                    watch=WatchConfig(max_requests_per_second=options.requests),
                ),
                store=store,
                leadership=leader,
                clock=CLOCK,
                wake=lambda: None,
                metrics=WatchMetrics(CollectorRegistry()),
                wants_details=lambda event, own: None,
                wants_mail_reporters=lambda: False,
                user_agent="tocsin/bench",
                duration_buckets=DURATION_BUCKETS,
            )
        )
        task = asyncio.create_task(watcher.run())
        try:
            await _measure(fake, options, store, watcher)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if options.stored:
                await store.write(_fill, options)
            await store.close()
        if options.stored:
            await _daemon(fake, options, Path(folder))


async def _measure(fake: FakeNode, options: argparse.Namespace, store: Store, watcher: NodeWatcher) -> None:
    total = options.projects * options.scenarios
    began, begun = time.monotonic(), to_ms(CLOCK.now())
    while (snapshot := watcher.snapshot()) is None or snapshot.scenarios < total:
        await asyncio.sleep(0.5)
    print(f"{total} scenarios known after {time.monotonic() - began:.0f} s at {options.requests:g} requests/s")
    known = to_ms(CLOCK.now())
    await asyncio.sleep(min(5.0, options.seconds))
    since, cpu = to_ms(CLOCK.now()), time.process_time()
    asked, asked_at = await _asked(fake), time.monotonic()
    loop = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore", "-c", LOOP, fake.url, fake.key, str(options.requests), str(options.seconds),
        stdout=subprocess.PIPE,
    )  # fmt: skip
    await asyncio.sleep(options.seconds)
    cpu, until = time.process_time() - cpu, to_ms(CLOCK.now())
    out, _ = await loop.communicate()
    found = json.loads(out)
    both, seconds = await _asked(fake) - asked, time.monotonic() - asked_at
    await asyncio.sleep(min(15.0, options.seconds))
    events, ledger = await store.read(_events), await _ledger(fake)
    _report(events, ledger, found, options, since, until)
    _delays("starts before all scenarios were known", _starts(events, _long(ledger), begun + 2000, known))
    polled = await store.read(_count_polled)
    print(f"{polled} of {total} scenarios had their first poll by then")
    ours = (both - found["asked"] - options.projects - 1) / seconds
    print(f"requests: {ours:.1f}/s by the watch, {found['asked'] / found['seconds']:.1f}/s by the loop")
    print(f"the watch used {100 * cpu / options.seconds:.0f} % of a core")
    _show(watcher.snapshot())
    if options.burst:
        await _burst(fake, options, store)


def _report(
    events: Sequence[Event],
    ledger: Sequence[Mapping[str, object]],
    loop: Mapping[str, Mapping[str, float]],
    options: argparse.Namespace,
    since: int,
    until: int,
) -> None:
    long = _long(ledger)
    starts, ends, plain = _starts(events, long, since, until), [], []
    for event in events:
        name = _name(event)
        if name in long and since <= to_ms(event.time) < until and event.name in END_EVENTS:
            ends.append((event.detected_at - event.time).total_seconds())
            plain.append((loop["found"].get(name, until) - to_ms(event.time)) / 1000)
    expected = sum(since <= int(str(run["end_ms"])) < until for run in long.values())
    print(f"ends told: {len(ends)} of {expected} runs that lasted longer than three sweeps")
    _delays("starts", starts)
    _delays("ends", ends)
    if ends and plain:
        ratio = statistics.median(plain) / max(0.001, statistics.median(ends))
        round_trip = options.projects * options.scenarios / options.requests
        print(
            f"a loop over dataikuapi: median at least {statistics.median(plain):.1f} s (a round takes {round_trip:.0f} s)"
        )
        print(f"ratio of the medians: at least {ratio:.0f}; over a whole round about "
              f"{round_trip / 2 / max(0.001, statistics.median(ends)):.0f}")  # fmt: skip


def _name(event: Event) -> str:
    assert event.run is not None
    return f"{event.project}/{event.run.scenario.scenario}/{event.run.run_id}"


def _long(ledger: Sequence[Mapping[str, object]]) -> Mapping[str, Mapping[str, object]]:
    """The runs that a sweep must have shown."""
    sweeps = 3 * WatchConfig().sweep_interval / timedelta(milliseconds=1)
    return {
        f"{run['project']}/{run['scenario']}/{run['id']}": run
        for run in ledger
        if int(str(run["end_ms"])) - int(str(run["start_ms"])) > sweeps or not run["end_ms"]
    }


def _starts(events: Sequence[Event], long: Mapping[str, object], since: int, until: int) -> list[float]:
    """Seconds from the start of each long run in this span to its being known."""
    return [
        (event.detected_at - event.time).total_seconds()
        for event in events
        if event.name is EventName.RUN_STARTED and since <= to_ms(event.time) < until and _name(event) in long
    ]


def _delays(what: str, delays: Sequence[float]) -> None:
    _show_delays(f"detection of {what}", delays)


def _show_delays(what: str, delays: Sequence[float]) -> None:
    if len(delays) > 1:
        p99 = statistics.quantiles(delays, n=100, method="inclusive")[98]
        print(f"{what}: median {statistics.median(delays):.2f} s, p99 {p99:.2f} s, "
              f"worst {max(delays):.2f} s of {len(delays)}")  # fmt: skip


async def _burst(fake: FakeNode, options: argparse.Namespace, store: Store) -> None:
    """Many starts in one moment: reported apart, since the budget alone decides how long they take."""
    known = {(str(run["project"]), str(run["scenario"])) for run in await _ledger(fake) if not run["end_ms"]}
    idle = [
        (f"P{p:03}", f"S{s:03}")
        for s in range(options.scenarios)
        for p in range(options.projects)
        if (f"P{p:03}", f"S{s:03}") not in known
    ][: options.burst]
    since = to_ms(CLOCK.now())

    def start_all() -> None:
        for project, scenario in idle:
            fake.do({"do": "start_run", "project": project, "scenario": scenario})

    await asyncio.to_thread(start_all)
    names = {(project, scenario) for project, scenario in idle}
    bound = time.monotonic() + 2 * options.burst / options.requests + 30
    delays: list[float] = []
    while len(delays) < len(idle) and time.monotonic() < bound:
        await asyncio.sleep(1)
        delays = [
            (event.detected_at - event.time).total_seconds()
            for event in await store.read(_events)
            if event.name is EventName.RUN_STARTED and to_ms(event.time) >= since
            and event.run and (event.run.scenario.project, event.run.scenario.scenario) in names
        ]  # fmt: skip
    print(f"a burst of {len(idle)} starts: {len(delays)} told")
    _delays("the burst", delays)


def _fill(connection: Connection, options: argparse.Namespace) -> None:
    """As many ended runs as the daemon may have to live with, spread over its scenarios and a month."""
    now, scenarios = CLOCK.now(), options.projects * options.scenarios
    for begin in range(0, options.stored, 5000):
        numbers = range(begin, min(begin + 5000, options.stored))
        rows = [_stored(number, scenarios, options, now) for number in numbers]
        put_runs(connection, rows)
        runs = [row.run for row in rows]
        series.count_runs(connection, runs, DURATION_BUCKETS)
        save_polls(connection, [PolledScenario(run.scenario, now, run.start, run.end, run.outcome) for run in runs])


def _stored(number: int, scenarios: int, options: argparse.Namespace, now: datetime) -> RunRow:
    place = number % scenarios
    key = ScenarioKey("bench", f"P{place // options.scenarios:03}", f"S{place % options.scenarios:03}")
    start = now - timedelta(days=30 * (1 - number / options.stored), hours=1)
    end = start + timedelta(seconds=60 + number % 600)
    outcome = "SUCCESS" if number % 20 else "FAILED"
    run = Run(key, f"stored-{number}", start, end, outcome, "temporal", "Every night", f"fire-{number}", "admin")
    return RunRow(run, baseline=False, late=False, seen_at=end, seen_by="sweep", end_seen_at=end)


async def _daemon(fake: FakeNode, options: argparse.Namespace, folder: Path) -> None:
    """The whole daemon on this store and node, scraped as Prometheus does; it posts the end of each run with its steps."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    async with WebhookSink() as sink:
        (folder / "tocsin.yaml").write_text(f"""
nodes: [{{name: bench, url: "{fake.url}", api_key: "{fake.key}", watch: {{max_requests_per_second: {options.requests}}}}}]
store: {{url: "sqlite:///{folder}/tocsin.db"}}
http: {{listen: "{listen}"}}
receivers: [{{name: hook, channels: [{{name: hook, webhook: "{sink.url}"}}]}}]
reporters: [{{name: ends, on: [run.finished, run.failed, run.aborted], receiver: hook}}]
route: {{receiver: hook}}
""")
        with (folder / "log").open("wb") as log:
            command = [sys.executable, "-m", "tocsin", "run", "--config", str(folder / "tocsin.yaml")]
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            samples, ready, ends = 0, CLOCK.now(), time.monotonic() + 60 + options.seconds
            while time.monotonic() < ends:
                await asyncio.sleep(min(15.0, options.seconds / 5))
                with suppress(OSError):
                    before, samples = samples, await asyncio.to_thread(_scrape, f"http://{listen}/metrics")
                    if not before:
                        ready, ends = CLOCK.now(), time.monotonic() + options.seconds
            status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            now, peak = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
            print(f"the daemon with {options.stored} stored runs and {samples} samples a scrape: {now:.0f} MiB, {peak:.0f} at its peak")  # fmt: skip
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 30)
        posted = [(post.at, post.json["data"]) for post in sink.posts if "data" in post.json]
        ended = [(at, data["run"]["end"], data["steps"]) for at, data in posted if data["run"] and data["run"]["end"]]
        times = [(at, datetime.fromisoformat(end), steps) for at, end, steps in ended]
        since = [(at - end.timestamp(), steps) for at, end, steps in times if end >= ready]
        delays = [delay for delay, steps in since if steps]
        print(f"ends posted: {len(since)}, with details {len(delays)}")
        _show_delays("from ends to their messages with details", delays)


def _scrape(url: str) -> int:
    """The number of samples."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        return sum(not line.startswith(b"#") for line in answer)


def _count_polled(connection: Connection) -> int:
    column = schema.scenarios.c.polled_at
    return connection.execute(select(func.count()).where(column.is_not(None))).scalar_one()


def _show(snapshot: NodeSnapshot | None) -> None:
    if snapshot is not None:
        print(f"sweep trusted: {snapshot.row.sweep_trusted}; longest without a poll: {snapshot.oldest_poll_age:.0f} s")


def _events(connection: Connection) -> list[Event]:
    query = select(schema.events.c.body).where(schema.events.c.event.like("run.%"))
    return list(connection.execute(query).scalars())


async def _ledger(fake: FakeNode) -> list[Mapping[str, object]]:
    found = await asyncio.to_thread(fake.get, "ledger")
    assert isinstance(found, list)
    return found


async def _asked(fake: FakeNode) -> int:
    counts = await asyncio.to_thread(fake.get, "counts")
    assert isinstance(counts, dict)
    return sum(counts["by_operation"].values())


if __name__ == "__main__":
    main()
