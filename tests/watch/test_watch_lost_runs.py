"""Runs that die with their node, or with their scenario: each ends, as UNKNOWN, and none stays open for ever."""

from datetime import timedelta

import pytest

from tests.fakedss import FakeDSS, faults
from tests.watch.conftest import Start, Watching, until
from tests.watch.scenes import runs_of
from tocsin.model.run import ScenarioKey

pytestmark = pytest.mark.e2e
KEY = ScenarioKey("prod", "P000", "S000")


async def ends(found: Watching) -> list[tuple[str, str | None]]:
    events = await found.events()
    return [(event.name.value, event.run.outcome) for event in events if event.run and event.run.end]


async def stays_open(found: Watching) -> bool:
    rows = await found.store.read(runs_of, KEY)
    return any(run.end is None for run, _ in rows)


async def test_a_run_that_died_with_its_node_ends_although_its_list_is_never_whole(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 1)
    found = await start()
    dss.start_run("P000", "S000", at=dss.world.now() - timedelta(minutes=5))
    await until(lambda: stays_open(found))
    dss.world.restart("vanished")
    dss.fail(faults.strangers(), "last_runs")
    seen = dss.asked("run")
    await until(lambda: dss.asked("run") > seen)
    dss.jump(timedelta(minutes=1))
    await until(lambda: not_open(found))
    assert await ends(found) == [("run.finished", "UNKNOWN")]


async def not_open(found: Watching) -> bool:
    return not await stays_open(found)


async def test_a_run_that_is_hidden_from_the_lists_alone_goes_on(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 1)
    found = await start()
    dss.start_run("P000", "S000", at=dss.world.now() - timedelta(minutes=5))
    await until(lambda: stays_open(found))
    with dss.fail(faults.reply([]), "last_runs"):
        seen = dss.asked("run")
        await until(lambda: dss.asked("run") > seen)
        dss.jump(timedelta(minutes=20))
        await until(lambda: dss.asked("run") > seen + 1)
        assert await stays_open(found)
    dss.end_run("P000", "S000", "FAILED")
    await until(lambda: not_open(found))
    assert await ends(found) == [("run.failed", "FAILED")]


async def test_a_scenario_that_is_deleted_while_it_runs_ends_its_run(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 6)
    found = await start()
    dss.start_run("P000", "S000", at=dss.world.now() - timedelta(minutes=5))
    await until(lambda: stays_open(found))
    dss.world.remove_scenario("P000", "S000")
    await until(lambda: not_open(found))
    assert await ends(found) == [("run.finished", "UNKNOWN")]
