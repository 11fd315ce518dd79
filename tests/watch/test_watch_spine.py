"""The whole watch of a node against a faked DSS: what happens there becomes events, once each."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.fakedss import FakeDSS, faults
from tests.watch.conftest import CLOCK, QUICK, Start, Watching, now_ms, settled, until, watching
from tocsin.model.notification import EventNotice, Notification
from tocsin.model.run import DetailsLevel
from tocsin.store import outbox, runs

pytestmark = pytest.mark.e2e


async def test_a_run_is_seen_from_its_start_to_its_end_with_its_details(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(2, 3)
    found = await start()
    since = await now_ms()
    run = dss.start_run("P001", "S002")
    await until(lambda: found.agrees(since))
    assert await found.names() == ["run.started"]
    dss.end_run("P001", "S002", "FAILED", error="no disk left")
    await until(lambda: found.agrees(since))
    event = (await found.events())[-1]
    assert event.run
    assert (event.run.run_id, event.run_url) == (run, f"{dss.url}/projects/P001/scenarios/S002/runs/list/{run}")

    async def read() -> bool:
        return bool(await found.store.read(runs.get_details, [event.run.key]))  # type: ignore[union-attr]

    await until(read)
    (known,) = (await found.store.read(runs.get_details, [event.run.key])).values()
    assert known.error
    assert (known.error.message, known.error.step) == ("no disk left", "Build")
    assert [step.id for step in known.steps] == ["prepare", "build"]
    assert known.log_tail
    assert "no disk left" in known.log_tail
    assert await found.store.read(runs.details_due, "prod", 10) == []
    assert dss.writes == []
    assert found.rings


async def test_the_details_that_a_rule_asks_for_are_read_while_the_run_goes_on_and_after_its_end(
    dss: FakeDSS, start: Start
) -> None:
    dss.world.populate(1, 1)
    found = await start()
    since = await now_ms()
    dss.start_run("P000", "S000")
    await until(lambda: found.agrees(since))
    (row,) = await found.store.read(runs.open_runs, "prod")
    await found.store.write(runs.plan_details, row.run.key, CLOCK.now(), 0)

    async def steps() -> list[str | None]:
        details = await found.store.read(runs.get_details, [row.run.key])
        return [step.id for known in details.values() for step in known.steps]

    async def reads(expected: list[str | None]) -> bool:
        return await steps() == expected

    await until(lambda: reads(["prepare"]))
    dss.end_run("P000", "S000", "SUCCESS")
    await until(lambda: reads(["prepare", "build"]))


@pytest.mark.parametrize(
    ("level", "outcome", "asked"),
    [
        (DetailsLevel.NOTHING, "SUCCESS", (0, 0)),
        (DetailsLevel.STEPS, "SUCCESS", (1, 0)),
        (DetailsLevel.STEPS, "WARNING", (1, 0)),
        (DetailsLevel.LOG, "SUCCESS", (1, 1)),
        (DetailsLevel.NOTHING, "FAILED", (1, 1)),
        (DetailsLevel.NOTHING, "ABORTED", (1, 1)),
    ],
)
async def test_the_log_is_read_where_somebody_needs_it(
    dss: FakeDSS, start: Start, level: DetailsLevel, outcome: str, asked: tuple[int, int]
) -> None:
    dss.world.populate(1, 2)
    found = await start(details=level)
    since = await now_ms()
    dss.world.instant_run("P000", "S000", outcome)
    dss.world.instant_run("P000", "S001", "FAILED")  # whose details are read later
    await until(lambda: found.agrees(since))
    await until(lambda: dss.asked("run_log", scenario="S001") == 1)
    assert (dss.asked("run", scenario="S000"), dss.asked("run_log", scenario="S000")) == asked


async def test_a_start_waits_a_second_at_most_for_the_details_of_the_end_before_it(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 1)
    found = await start()
    unread = asyncio.Event()
    with dss.fail(faults.held(unread), "run"):
        dss.world.instant_run("P000", "S000", "FAILED")
        await until(lambda: dss.asked("run") == 1)
        event = (await found.events())[-1]
        assert event.run
        now = CLOCK.now()
        waiting = Notification("n" * 32, "ops", "hook", "key", EventNotice(event, "all"), now, now + timedelta(hours=1))
        await found.store.write(outbox.enqueue, [waiting], {waiting.id: [event.run.key]})
        await asyncio.sleep(1.2)
        assert not await _released(found, waiting)
        began = CLOCK.monotonic()
        dss.start_run("P000", "S000")
        await until(lambda: _released(found, waiting))
        assert CLOCK.monotonic() - began >= 1
        unread.set()


async def _due_at(found: Watching, notification: Notification) -> datetime:
    return (await found.store.read(outbox.load_notifications, [notification.id]))[notification.id].due_at


async def _released(found: Watching, notification: Notification) -> bool:
    return await _due_at(found, notification) <= CLOCK.now()


async def test_what_ended_before_the_watch_is_baseline_and_what_ran_then_gives_its_end(
    dss: FakeDSS, start: Start
) -> None:
    dss.world.populate(1, 2)
    for _ in range(7):
        dss.world.instant_run("P000", "S000")
    dss.start_run("P000", "S001")
    found = await start()
    assert await found.events() == []
    dss.end_run("P000", "S001")
    await until(lambda: _has(found, ["run.finished"]))
    await until(lambda: _rests(found))
    snapshot = found.watcher.snapshot()
    assert snapshot
    assert (snapshot.scenarios, snapshot.running) == (2, 0)


async def _rests(found: Watching) -> bool:
    """The watcher's own memory follows the rows."""
    snapshot = found.watcher.snapshot()
    return snapshot is not None and snapshot.running == 0


async def _has(found: Watching, names: list[str]) -> bool:
    return await found.names() == names


async def test_short_runs_between_two_polls_are_all_seen(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 1)
    found = await start()
    since = await now_ms()
    for _ in range(40):
        await asyncio.sleep(0.003)
        dss.world.instant_run("P000", "S000", lasted=timedelta(milliseconds=1))
    found.watcher.nudge("P000", "S000")
    await until(lambda: found.agrees(since))
    assert len(await found.names()) == 80


async def test_new_runs_are_told_while_the_baseline_of_a_large_node_is_still_being_read(
    dss: FakeDSS, tmp_path: Path
) -> None:
    dss.world.populate(5, 100)
    pace = replace(QUICK, sweep_interval=timedelta(seconds=0.5), max_requests_per_second=40)
    async with watching(dss, tmp_path, watch=pace) as found:
        await until(lambda: dss.asked("futures") >= 1)
        ran = [(f"P{project:03}", "S099") for project in range(5)]
        for project, scenario in ran:  # the first are not even known yet
            dss.start_run(project, scenario)
        await until(lambda: _has(found, 5 * ["run.started"]))
        for project, scenario in ran:
            dss.end_run(project, scenario)
        await until(lambda: _has(found, 5 * ["run.started"] + 5 * ["run.finished"]))
        snapshot = found.watcher.snapshot()
        assert snapshot
        assert snapshot.row.backfilling
        assert dss.asked("last_runs") < 250  # of 500 scenarios


async def test_a_downtime_is_read_back_however_many_runs_it_had(dss: FakeDSS, tmp_path: Path, start: Start) -> None:
    dss.world.populate(1, 2)
    async with watching(dss, tmp_path) as first:
        await until(lambda: settled(first))
        since = await now_ms()
    began = dss.world.now()
    dss.jump(timedelta(seconds=2))
    for number in range(1500):
        moment = began + timedelta(milliseconds=number)
        dss.start_run("P000", "S000", moment)
        dss.end_run("P000", "S000", at=moment)
    second = await start()
    await until(lambda: second.agrees(since))
    assert {event.late for event in await second.events()} == {True}


async def test_a_downtime_is_read_back_late_and_nothing_is_told_twice(
    dss: FakeDSS, tmp_path: Path, start: Start
) -> None:
    dss.world.populate(2, 2)
    async with watching(dss, tmp_path) as first:
        await until(lambda: settled(first))
        since = await now_ms()
        dss.start_run("P000", "S000")
        await until(lambda: first.agrees(since))
    dss.end_run("P000", "S000")
    dss.world.instant_run("P001", "S001", "FAILED")
    second = await start()
    await until(lambda: second.agrees(since))
    assert [(event.name.value, event.late) for event in (await second.events())[1:]] in (
        [("run.finished", True), ("run.started", True), ("run.failed", True)],
        [("run.started", True), ("run.failed", True), ("run.finished", True)],
    )
