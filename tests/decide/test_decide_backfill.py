"""Timelines of downtimes: history is read back, rules tell the net change, reporters a summary."""

from datetime import timedelta

import pytest

from tests.decide.world import T0, World, config, key, minutes
from tocsin.config.model import Reporter, Rule
from tocsin.model.event import END_EVENTS, EventName
from tocsin.model.notification import EventNotice, SummaryNotice

DAY = timedelta(days=1)
REPORTER = Reporter("all", "ops", END_EVENTS | {EventName.RUN_STARTED})


@pytest.fixture
async def back(world: World) -> World:
    """Tocsin comes back; the node's history is being read."""
    await world.node(backfilling=True)
    await world.scenario(key(), backfilled=False)
    return world


async def done(world: World) -> None:
    await world.scenario(key(), backfilled=True)
    await world.node(backfilling=False)


async def test_what_failed_and_recovered_meanwhile_makes_no_alert(back: World) -> None:
    for day, outcome in enumerate(["FAILED", "FAILED", "SUCCESS"]):
        await back.run(T0 - (3 - day) * DAY, outcome, late=True)
        await back.step(T0 + minutes(day))
    await done(back)
    await back.step(T0 + minutes(5))
    assert await back.alerts() == []
    assert await back.step(T0 + minutes(6)) is None


async def test_the_net_change_comes_out_when_the_scenario_is_complete(back: World) -> None:
    await back.run(T0 - 3 * DAY, "SUCCESS", late=True)
    await back.run(T0 - 2 * DAY, "FAILED", late=True)
    await back.step(T0)
    await back.run(T0 - 1 * DAY, "FAILED", late=True)
    await back.step(T0 + minutes(1))
    assert await back.alerts() == []
    await done(back)
    await back.step(T0 + minutes(2))
    alert = await back.alert()
    assert (alert.name, alert.count, alert.starts_at) == ("ScenarioFailed", 2, T0 - 2 * DAY + minutes(1))


async def test_a_look_that_completes_a_scenario_tells_at_once(back: World) -> None:
    await back.run(T0 - 2 * DAY, "FAILED", late=True)
    await back.scenario(key(), backfilled=True)
    await back.step(T0)
    assert await back.alerts() == ["ScenarioFailed"]


async def test_an_alert_from_before_that_recovered_and_failed_again_rings_on(world: World) -> None:
    await world.run(T0 - 3 * DAY, "FAILED")
    await world.step(T0 - 3 * DAY + minutes(2))
    await world.node(backfilling=True)
    await world.scenario(key(), backfilled=False)
    for day, outcome in enumerate(["SUCCESS", "FAILED"], start=1):
        await world.run(T0 - (3 - day) * DAY, outcome, late=True)
    await world.step(T0)
    await done(world)
    await world.step(T0 + minutes(1))
    assert await world.alerts() == ["ScenarioFailed"]
    await world.run(T0 + minutes(2), "SUCCESS")
    await world.step(T0 + minutes(4))
    assert await world.alerts() == ["ScenarioFailed!resolved"]


async def test_a_stall_in_two_batches_is_told_once(back: World) -> None:
    back.config = config(rules=(Rule("ScenarioFailed", "failed", after=2),), reporters=(REPORTER,))
    for index in range(260):
        await back.run(T0 - DAY + minutes(index), "FAILED" if index else "SUCCESS", late=True)
    await done(back)
    await back.step(T0)
    assert await back.alerts() == ["ScenarioFailed"]
    assert (await back.alert()).count == 259


async def test_old_events_come_in_one_summary_and_young_ones_one_by_one(back: World) -> None:
    back.config = config(rules=(), reporters=(REPORTER,))
    await back.run(T0 - 2 * DAY, "FAILED", late=True)
    await back.run(T0 - 1 * DAY, "SUCCESS", late=True)
    await back.run(T0 - minutes(30), "FAILED", late=True)
    await back.start(T0 - minutes(5), late=True)
    await back.step(T0)
    told = await back.notifications()
    assert [one.notice.event.name for one in told if isinstance(one.notice, EventNotice)] == [
        "run.failed",
        "run.started",  # its run goes on
    ]
    await done(back)
    await back.step(T0 + minutes(1))
    (one,) = await back.notifications()
    assert isinstance(one.notice, SummaryNotice)
    assert one.notice.runs_by_outcome == {"FAILED": 1, "SUCCESS": 1}
    assert [event.time for event in one.notice.worst] == [T0 - 2 * DAY + minutes(1)]
    assert (one.notice.since, one.notice.until) == (T0 - 2 * DAY + minutes(1), T0 - 1 * DAY + minutes(1))
    await back.step(T0 + minutes(2))
    assert await back.notifications() == []
    assert (await back.reasons()).count("late") == 5


async def test_where_every_end_was_told_by_itself_there_is_no_summary_of_starts(back: World) -> None:
    back.config = config(rules=(), reporters=(REPORTER,))
    await back.run(T0 - minutes(30), "FAILED", late=True)
    await back.step(T0)
    assert len(await back.notifications()) == 1
    await done(back)
    await back.step(T0 + minutes(1))
    assert await back.notifications() == []
    assert (await back.reasons()).count("late") == 1


async def test_a_node_that_was_down_when_tocsin_began_is_known_to_be_down(world: World) -> None:
    await world.node(up=False, down_since=T0 - minutes(10), down_reason="unreachable")
    world.config = config()
    await world.step(T0)
    assert await world.alerts() == ["NodeDown"]
    assert (await world.alert()).starts_at == T0 - minutes(8)


async def test_a_node_that_is_no_longer_configured_is_unwatched(world: World) -> None:
    await world.down(T0)
    await world.step(T0 + minutes(3))
    world.config = config(nodes=())
    await world.step(T0 + minutes(4))
    assert await world.alerts() == ["NodeDown!unwatched"]
