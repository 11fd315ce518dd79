"""A bad day of DSS: random faults, and an outage of 6 s in every 30, while runs come and go.

Run: ``python -m bench faults [-- --seed 1 --seconds 60 --requests 80 --rate 4]``. The faked DSS of the tests answers in
50 ms and spoils 2 % of the answers with 429, 4 % with 500, 2 % with a reset and 1 % with a hang of five seconds; the
daemon is a real process with the default pace, and posts each event of a run to a webhook. Afterwards the ledger of
the node is held against the events, and what is printed must keep the budget: nothing lost two minutes after the end,
at least half of the request rate used outside outages, and p99 from the moment of a run to its message 20 s there.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fakedss import DaemonProcess, Differences, FakeDSS, Life, WebhookSink, between, config_for, faults, node
from tests.fakedss.ledger import fact_of

OUTAGE_SECONDS, PERIOD_SECONDS = 6.0, 30.0
AFTER_SECONDS = 120.0
SCENARIOS = 15


@dataclass(frozen=True, slots=True)
class Figures:
    """What a bad day showed. ``delays`` are the seconds from starts and ends outside outages to their messages."""

    runs: int
    expected: int  # events
    wrong: Differences
    agreed_after: float | None  # seconds after the end; None: never
    used: float  # share of the request rate outside outages
    outages: int
    downs: int  # how often the node was reported down
    delays: tuple[float, ...]

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.delays, n=100, method="inclusive")[98]

    def __str__(self) -> str:
        lost = f"{len(self.wrong.lost)} lost, {len(self.wrong.twice)} twice, {len(self.wrong.invented)} invented"
        return (
            f"{self.runs} runs, {self.expected} events owed: {lost}, settled "
            f"{'never' if self.agreed_after is None else f'{self.agreed_after:.0f} s'} after the end\n"
            f"used of the request rate outside outages: {100 * self.used:.0f} %; "
            f"{self.outages} outages, node.down {self.downs} times\n"
            f"from run to message outside outages: median {statistics.median(self.delays):.1f} s, p99 {self.p99:.1f} s, "
            f"worst {max(self.delays):.1f} s of {len(self.delays)}"
        )


async def play(
    folder: Path, *, seed: int, seconds: float, requests: float = 80.0, rate: float = 4.0, projects: int = 20
) -> Figures:
    """A bad day of so many seconds on a node of 15 scenarios in each project, with ``rate`` run starts a second."""
    async with FakeDSS(delay=0.05) as dss, WebhookSink() as sink:
        dss.world.populate(projects, SCENARIOS)
        prod = node("prod", dss)
        prod["watch"] = {"max_requests_per_second": requests}  # and the pace that is the default
        config = config_for(folder, [prod], sink)
        async with DaemonProcess(config) as daemon:
            await daemon.watching(projects * SCENARIOS)
            begun_ms, begun = dss.world.now_ms(), time.monotonic()
            outages = _outages(seconds)
            dss.fail(faults.sprinkled(seed), until=seconds)
            for start, end in outages:
                dss.fail(faults.reset(), after=start, until=end)
            life = Life(dss.world, rate, between(0.5, 20), seed)
            living = asyncio.create_task(life.live())
            await asyncio.sleep(seconds)
            living.cancel()
            life.finish()
            ended = time.monotonic()
            wrong = dss.ledger.compare(await daemon.events(), begun_ms)
            while wrong != Differences() and time.monotonic() < ended + AFTER_SECONDS:
                await asyncio.sleep(1)
                wrong = dss.ledger.compare(await daemon.events(), begun_ms)
            agreed_after = time.monotonic() - ended if wrong == Differences() else None
            await asyncio.sleep(5 if agreed_after is not None else 0)  # the last messages
            downs = sum(event["type"] == "tocsin.node.down" for event in await daemon.events())
        return Figures(
            runs=len(dss.ledger.runs),
            expected=len(dss.ledger.facts(begun_ms)),
            wrong=wrong,
            agreed_after=agreed_after,
            used=_used(dss, begun, seconds, outages) / requests,
            outages=len(outages),
            downs=downs,
            delays=tuple(_delays(dss, sink, begun_ms, outages)),
        )


def _outages(seconds: float) -> list[tuple[float, float]]:
    ends = [PERIOD_SECONDS * (number + 1) for number in range(int(seconds // PERIOD_SECONDS))]
    return [(end - OUTAGE_SECONDS, end) for end in ends]


def _used(dss: FakeDSS, begun: float, seconds: float, outages: Sequence[tuple[float, float]]) -> float:
    """Requests a second in the whole seconds that no outage touched."""
    counts = [
        dss.per_second[second]
        for second in range(int(begun) + 1, int(begun + seconds))
        if not any(begun + start < second + 1 and second < begun + end for start, end in outages)
    ]
    return statistics.mean(counts)


def _delays(dss: FakeDSS, sink: WebhookSink, begun_ms: int, outages: Sequence[tuple[float, float]]) -> list[float]:
    """Seconds from what happened outside outages to its first message."""
    first: dict[tuple[str, ...], float] = {}
    for post in sink.posts:
        if fact := fact_of(post.json):
            first.setdefault(fact, post.at)
    delays: list[float] = []
    for run in dss.ledger.runs:
        for fact, at_ms in ((run.start_fact(), run.start_ms), (run.end_fact(), run.end_ms)):
            happened = (at_ms - begun_ms) / 1000
            if fact in first and not any(start <= happened < end for start, end in outages):
                delays.append(first[fact] - at_ms / 1000)
    return delays


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=float, default=80, help="max_requests_per_second")
    parser.add_argument("--rate", type=float, default=4, help="run starts a second")
    parser.add_argument("--projects", type=int, default=20, help="of 15 scenarios each")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(
            play(
                Path(folder),
                seed=options.seed,
                seconds=options.seconds,
                requests=options.requests,
                rate=options.rate,
                projects=options.projects,
            )
        )
    print(figures)
    if figures.wrong != Differences():
        sys.exit(f"lost: {figures.wrong.lost[:10]}")


if __name__ == "__main__":
    main()
