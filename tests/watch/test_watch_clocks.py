"""Whoever sets a clock, of the node or of the machine, right after the first watch or in a gap: no run is lost."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.fakedss import FakeDSS
from tests.watch.conftest import QUICK, Jumping, Watching, settled, until, watching
from tocsin.store.scenarios import get_node

pytestmark = pytest.mark.e2e

HOUR = timedelta(hours=1)
# Nothing is polled without a nudge.
ASLEEP = replace(QUICK, sweep_interval=HOUR, discovery_interval=HOUR, max_poll_interval=HOUR)


def run_quickly(dss: FakeDSS, scenario: str, runs: int) -> None:
    for number in range(runs):
        ago = timedelta(milliseconds=5 * (runs - number))
        dss.world.instant_run("P000", scenario, ago=ago, lasted=timedelta(milliseconds=1))


async def told(found: Watching, nudge: bool = True) -> None:
    if nudge:
        for one in found.dss.world.all_scenarios():
            found.watcher.nudge(one.project, one.id)
    await until(lambda: found.agrees(0))


@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.parametrize("whose", ["the node's", "the machine's", "both"])
async def test_a_clock_set_right_after_the_first_watch_loses_nothing(
    dss: FakeDSS, tmp_path: Path, whose: str, hours: int
) -> None:
    dss.world.populate(1, 3)
    for one in dss.world.all_scenarios():
        one.active = False
    clock = Jumping()
    async with watching(dss, tmp_path, clock=clock, watch=ASLEEP) as found:
        await until(lambda: settled(found))
        run_quickly(dss, "S000", 7)
        await told(found)
        if whose != "the machine's":
            dss.jump(hours * HOUR)
        if whose != "the node's":
            clock.jumped = hours * HOUR
        for _ in range(2):  # the second time with what the first left behind
            run_quickly(dss, "S000", 12)
            run_quickly(dss, "S001", 12)
            await told(found)
    run_quickly(dss, "S001", 12)  # in a downtime
    run_quickly(dss, "S002", 3)
    async with watching(dss, tmp_path, clock=clock, watch=ASLEEP) as again:
        await told(again, nudge=False)


async def test_a_node_set_back_in_a_downtime_and_forth_again_loses_nothing(dss: FakeDSS, tmp_path: Path) -> None:
    dss.world.populate(1, 2)
    async with watching(dss, tmp_path) as found:
        await until(lambda: settled(found))
        run_quickly(dss, "S000", 7)
        await told(found)
    dss.jump(-HOUR)
    run_quickly(dss, "S000", 12)
    run_quickly(dss, "S001", 7)
    async with watching(dss, tmp_path) as again:
        await told(again)
        run_quickly(dss, "S001", 7)
        dss.jump(HOUR)
        run_quickly(dss, "S001", 7)
        await told(again)


async def test_that_a_node_was_set_back_is_remembered_over_a_kill(dss: FakeDSS, tmp_path: Path) -> None:
    dss.world.populate(1, 2)
    async with watching(dss, tmp_path) as found:
        await until(lambda: settled(found))
        dss.jump(-HOUR)

        async def written() -> bool:
            row = await found.store.read(get_node, "prod")
            return row is not None and row.clock_offset_ms < -3_000_000

        await until(written)
    async with watching(dss, tmp_path) as again:
        await until(lambda: settled(again))
        run_quickly(dss, "S001", 7)
        await told(again)
