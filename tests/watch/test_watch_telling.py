"""What the log says about a node: the first of a kind, the recovery, and never each repeat."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.fakedss import FakeDSS, faults
from tests.watch.conftest import Key, Start, until, watching

pytestmark = pytest.mark.e2e

LOUD = ("warning", "error", "critical")


def loud(lines: Sequence[Mapping[str, object]]) -> list[object]:
    return [line["event"] for line in lines if line["log_level"] in LOUD]


async def test_a_dead_node_gets_one_probe_at_a_time(dss: FakeDSS, tmp_path: Path) -> None:
    hangs = asyncio.Event()
    dss.fail(faults.held(hangs))
    async with watching(dss, tmp_path):
        await until(lambda: dss.in_flight > 0)
        await asyncio.sleep(0.05)
        assert dss.peak_in_flight == 1


async def test_a_node_that_goes_down_is_told_in_one_line_and_again_after_a_restart(
    dss: FakeDSS, tmp_path: Path, start: Start
) -> None:
    dss.world.populate(2, 3)
    found = await start()
    with capture_logs() as lines, dss.fail(faults.status(500)):
        await until(lambda: "node_down" in loud(lines))
        asked = dss.counts["projects"]
        await until(lambda: dss.counts["projects"] > asked)
        assert loud(lines) == ["node_down"]
        found.task.cancel()
        await until(found.task.done)
    with capture_logs() as lines, dss.fail(faults.status(500)):
        await found.store.close()
        async with watching(dss, tmp_path):
            await until(lambda: bool(loud(lines)))
            asked = dss.counts["projects"]
            await until(lambda: dss.counts["projects"] > asked)
        assert loud(lines) == ["node_down"]


async def test_what_fails_alone_is_told_once_with_its_place(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 3)
    await start()
    with capture_logs() as lines, dss.fail(faults.html(200), "last_runs", "P000", "S001") as rule:
        dss.world.instant_run("P000", "S001")
        dss.start_run("P000", "S001")
        await until(lambda: rule.applied >= 3)
    told = [line for line in lines if line["log_level"] in LOUD]
    assert [(line["event"], line["project"], line["scenario"]) for line in told] == [("poll_failed", "P000", "S001")]


async def test_a_reply_that_makes_no_sense_is_counted_each_time_and_told_once(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 1)
    found = await start()
    with capture_logs() as lines, dss.fail(faults.nulled("runId"), "last_runs"):
        dss.start_run("P000", "S000")
        await until(lambda: (found.value("tocsin_dss_invalid_items_total", operation="get_last_runs") or 0) >= 2)
    assert loud(lines) == ["dss_invalid_items"]


async def test_the_key_of_the_sweep_does_not_hide_that_the_other_was_revoked(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 3)
    found = await start(admin=False, sweep_api_key=Key(dss.admin_key))
    dss.revoke_key(dss.api_key)

    def down() -> bool:
        snapshot = found.watcher.snapshot()
        return snapshot is not None and (snapshot.row.up, snapshot.row.down_reason) == (False, "unauthorized")

    await until(down)
