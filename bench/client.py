"""The client beside Dataiku's own, in one run against the emulated DSS: details of 1 000 runs, and 100 scenarios awaited.

Run: ``python -m bench client [-- --runs 1000 --scenarios 100 --latency 20]``. The emulated DSS is another process; with
``--latency`` each answer comes so many milliseconds later, as from a DSS that has work to do. Theirs is measured as
people write it, one call after the other, and in a pool of threads. Figures of one run compare with each other, not
across machines.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import dataikuapi

from tocsin.dss import DSSClient
from tocsin.sim import DEFAULT_KEY

HISTORY = 10  # runs of each scenario before the world begins
THREADS = 16
SPEED = 10.0


@dataclass
class Figure:
    """One way to do a job."""

    way: str
    seconds: float
    requests: int


def world(scenarios: int) -> str:
    scenario = "{{id: S{0}, steps: [{{build: a}}, {{build: b}}], behaviour: {{duration: 5s, history: {{runs: {1}, every: 1h}}}}}}"
    lines = "".join(f"      - {scenario.format(number, HISTORY)}\n" for number in range(scenarios))
    return f"projects:\n  - key: P\n    scenarios:\n{lines}"


@contextmanager
def emulated(scenarios: int) -> Iterator[str]:
    """An emulated DSS in a process of its own: its address."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "world.yaml"
        file.write_text(world(scenarios))
        words = ("sim", "--listen", "127.0.0.1:0", "--world", str(file), "--speed", str(SPEED))
        path = os.pathsep.join(p for p in sys.path if p)
        process = subprocess.Popen(
            [sys.executable, "-m", "tocsin", *words],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        )
        try:
            assert process.stdout is not None
            yield next(word for word in process.stdout.readline().split() if word.startswith("http://"))
        finally:
            process.terminate()
            process.wait()


@contextmanager
def later(url: str, milliseconds: float) -> Iterator[str]:
    """The same DSS with every answer so much later; in a process of its own, too."""
    if not milliseconds:
        yield url
        return
    words = ("--slow", url, "--latency", str(milliseconds))
    process = subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


async def slow(url: str, milliseconds: float) -> None:
    """Forward bytes, answers later."""
    target = urlsplit(url)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: float) -> None:
        try:
            while data := await reader.read(65_536):
                await asyncio.sleep(pause)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to, back = await asyncio.open_connection(target.hostname, target.port)
        await asyncio.gather(pump(reader, back, 0), pump(to, writer, milliseconds / 1000))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def timed(way: str, work: Callable[[], int]) -> Figure:
    began = time.monotonic()
    requests = work()
    return Figure(way, time.monotonic() - began, requests)


def official(url: str) -> tuple[dataikuapi.DSSClient, list[int]]:
    """Dataiku's client, and the list that grows with each request."""
    client, asked = dataikuapi.DSSClient(url, DEFAULT_KEY), []
    client._session.hooks["response"].append(lambda reply, *args, **more: asked.append(reply.status_code))
    return client, asked


def read_details(url: str, runs: list[tuple[str, str]]) -> list[Figure]:
    """All details of each run: its steps, its first error."""

    def ours() -> int:
        async def work() -> int:
            asked: list[object] = []
            async with DSSClient(url, DEFAULT_KEY, proxy="", on_request=asked.append) as client:

                async def read(scenario: str, run: str) -> None:
                    found = await client.get_project("P").get_scenario(scenario).get_run(run)
                    assert len((await found.get_details()).steps) == 2

                await asyncio.gather(*(read(*run) for run in runs))
            return len(asked)

        return asyncio.run(work())

    def theirs(threads: int) -> int:
        client, asked = official(url)

        def read(place: tuple[str, str]) -> None:
            found = client.get_project("P").get_scenario(place[0]).get_run(place[1])
            assert len(found.get_details().steps) == 2

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, runs))
        return len(asked)

    return [
        timed("ours", ours),
        timed("official, one by one", lambda: theirs(1)),
        timed(f"official, {THREADS} threads", lambda: theirs(THREADS)),
    ]


def run_and_wait(url: str, scenarios: list[str]) -> list[Figure]:
    """Start each and wait for its end."""

    def ours() -> int:
        async def work() -> int:
            asked: list[object] = []
            async with DSSClient(url, DEFAULT_KEY, proxy="", on_request=asked.append) as client:
                project = client.get_project("P")
                runs = await asyncio.gather(*(project.get_scenario(id).run_and_wait() for id in scenarios))
            assert all(run is not None and run.outcome == "SUCCESS" for run in runs)
            return len(asked)

        return asyncio.run(work())

    def started_first() -> int:
        client, asked = official(url)
        fires = [client.get_project("P").get_scenario(id).run() for id in scenarios]
        for run in [fire.wait_for_scenario_run() for fire in fires]:
            run.wait_for_completion()
        return len(asked)

    def threads(count: int) -> int:
        client, asked = official(url)
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda id: client.get_project("P").get_scenario(id).run_and_wait(), scenarios))
        return len(asked)

    return [
        timed("ours", ours),
        timed("official, all started, then each awaited", started_first),
        timed(f"official, {THREADS} threads", lambda: threads(THREADS)),
        timed("official, a thread each", lambda: threads(len(scenarios))),
    ]


def show(what: str, figures: list[Figure]) -> None:
    print(what)
    first = figures[0]
    for figure in figures:
        print(
            f"  {figure.way:<42} {figure.seconds:7.2f} s  {figure.requests:6} requests"
            f"  x{figure.seconds / first.seconds:6.2f} time  x{figure.requests / first.requests:5.2f} requests"
        )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--scenarios", type=int, default=100)
    parser.add_argument("--latency", type=float, default=20.0, help="milliseconds")
    parser.add_argument("--slow", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.slow:
        asyncio.run(slow(options.slow, options.latency))
        return
    os.environ["NO_PROXY"] = "*"
    scenarios = [f"S{number}" for number in range(options.scenarios)]
    with emulated(options.scenarios) as direct:
        client, _ = official(direct)
        project = client.get_project("P")
        known = [(id, run.id) for id in scenarios for run in project.get_scenario(id).get_last_runs(HISTORY)]
        for latency in dict.fromkeys((0.0, options.latency)):
            with later(direct, latency) as url:
                slowly = f", each answer {latency:g} ms later" if latency else ""
                runs = (known * (options.runs // len(known) + 1))[: options.runs]
                show(f"details of {options.runs} runs{slowly}", read_details(url, runs))
                show(
                    f"{options.scenarios} scenarios of {5 / SPEED:g} s started and awaited{slowly}",
                    run_and_wait(url, scenarios),
                )


if __name__ == "__main__":
    main(sys.argv[1:])
