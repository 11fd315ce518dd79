"""Timelines of the rules that ring because time passes: only on fresh sight, and once for what is one fact."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.decide.world import T0, World, config, key, minutes
from tocsin.config.model import DEFAULT_RULES, Rule
from tocsin.decide.decide import resolve_by_hand
from tocsin.store import runs
from tocsin.store.schema import nodes

MISSED = next(rule for rule in DEFAULT_RULES if rule.kind == "missed")
OVERLONG = next(rule for rule in DEFAULT_RULES if rule.kind == "overlong")
STALE = Rule("ScenarioStale", "stale", no_success_for=timedelta(hours=26))


@pytest.fixture
def missing(world: World) -> World:
    world.config = config(rules=(MISSED,))
    return world


# --- missed ----------------------------------------------------------------------------------------------------------


async def test_a_start_that_does_not_come_rings_once_it_is_due_and_ends_at_the_next_start(missing: World) -> None:
    await missing.expect(T0)
    await missing.look(T0 + minutes(10))
    assert await missing.step(T0 + minutes(10)) == T0 + minutes(11)
    await missing.step(T0 + minutes(11))
    assert await missing.alerts() == []  # not looked at since
    await missing.look(T0 + minutes(11.5))
    await missing.step(T0 + minutes(12))
    assert await missing.alerts() == ["ScenarioMissed"]
    assert await missing.starts() == [(T0, "missed")]
    assert (await missing.alert()).starts_at == T0 + minutes(11)
    await missing.start(T0 + minutes(60), trigger="manual")
    await missing.step(T0 + minutes(60))
    assert await missing.alerts() == ["ScenarioMissed!resolved"]


async def test_several_misses_are_one_alert_with_a_count(missing: World) -> None:
    for hour in range(3):
        await missing.expect(T0 + minutes(60 * hour))
    await missing.run_until(T0, T0 + minutes(150), minutes(3))
    assert await missing.alerts() == ["ScenarioMissed"]
    assert (await missing.alert()).count == 3
    told = await missing.told()
    assert told == [("ops/slack", "first", ["ScenarioMissed"])]


@pytest.mark.parametrize(
    ("begin", "length", "trigger", "expected"),
    [
        (1, 1, "temporal", "met"),
        (8, 1, "temporal", "met"),
        (1, 1, "ds_modified", "met"),
        (3, 1, "manual", "missed"),
        (3, 1, "sub", "missed"),
        (-30, 60, "manual", "withdrawn"),  # it ran when its time came
        (0.5, 5, "manual", "withdrawn"),  # and when DSS would have launched it
        (-30, 10, "temporal", "missed"),
    ],
)
async def test_only_a_run_of_a_trigger_in_time_meets_an_expected_start(
    missing: World, begin: float, length: float, trigger: str, expected: str
) -> None:
    await missing.expect(T0)
    await missing.start(T0 + minutes(begin), trigger=trigger)
    await missing.end(T0 + minutes(begin + length))
    await missing.run_until(T0 + minutes(40), T0 + minutes(41))
    assert await missing.starts() == [(T0, expected)]
    assert await missing.alerts() == (["ScenarioMissed"] if expected == "missed" else [])


async def test_dss_may_be_late_by_a_tenth_of_the_period(missing: World) -> None:
    await missing.expect(T0)
    await missing.look(T0, next_run=T0 + timedelta(hours=24))
    await missing.run_until(T0 + minutes(11), T0 + minutes(140), minutes(5))
    assert await missing.alerts() == []
    await missing.run_until(T0 + minutes(146), T0 + minutes(147))
    assert await missing.alerts() == ["ScenarioMissed"]


async def test_a_status_read_before_the_due_time_or_saying_inactive_does_not_ring(missing: World) -> None:
    await missing.expect(T0)
    await missing.look(T0 + minutes(12), status_read_at=T0 + minutes(5))
    await missing.step(T0 + minutes(12))
    assert await missing.alerts() == []
    await missing.look(T0 + minutes(13), active=False)
    await missing.step(T0 + minutes(13))
    assert (await missing.alerts(), await missing.starts()) == ([], [(T0, "withdrawn")])


async def test_time_rules_wait_while_a_node_is_down_or_reads_back(missing: World) -> None:
    await missing.expect(T0)
    await missing.node(up=False)
    await missing.run_until(T0 + minutes(20), T0 + minutes(21))
    await missing.node(up=True, backfilling=True)
    await missing.run_until(T0 + minutes(22), T0 + minutes(23))
    assert await missing.alerts() == []
    await missing.node(backfilling=False)
    await missing.run_until(T0 + minutes(24), T0 + minutes(25))
    assert await missing.alerts() == ["ScenarioMissed"]


async def test_rules_of_different_grace_judge_one_start_each_in_its_time(missing: World) -> None:
    patient = replace(MISSED, grace=minutes(30), labels={"level": "2"})
    missing.config = config(rules=(patient, MISSED))
    await missing.expect(T0)
    await missing.run_until(T0 + minutes(11), T0 + minutes(25))
    assert await missing.alerts() == ["ScenarioMissed"]
    await missing.run_until(T0 + minutes(31), T0 + minutes(35))
    assert await missing.alerts() == ["ScenarioMissed", "ScenarioMissed"]
    assert {made.reason for made in await missing.decisions()} >= {"firing"}
    assert await missing.starts() == [(T0, "missed")]


async def test_the_clock_of_the_node_counts(missing: World) -> None:
    await missing.node(clock_offset_ms=3_600_000)  # DSS is an hour ahead
    await missing.expect(T0 + minutes(60))
    assert await missing.step(T0) == T0 + minutes(11)
    await missing.run_until(T0 + minutes(11.5), T0 + minutes(12))
    assert await missing.alerts() == ["ScenarioMissed"]
    assert await missing.store.read(lambda c: c.execute(nodes.select()).one().clock_offset_ms) == 3_600_000


@pytest.mark.parametrize("night", [datetime(2026, 3, 29, 1, 30, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC)])
async def test_a_clock_change_in_europe_moves_no_expected_start(missing: World, night: datetime) -> None:
    hours = [night + timedelta(hours=hour) for hour in range(3)]
    for at in hours:
        await missing.expect(at)
        await missing.start(at + minutes(1))
        await missing.end(at + minutes(2))
    await missing.run_until(night, night + timedelta(hours=3), minutes(2))
    assert (await missing.alerts(), {state for _, state in await missing.starts()}) == ([], {"met"})


# --- a stalled scheduler ---------------------------------------------------------------------------------------------


async def fleet(world: World, size: int) -> list[str]:
    names = [f"S{index:02}" for index in range(size)]
    for name in names:
        await world.scenario(key(name))
    return names


async def test_automatic_triggers_off_ring_once_for_the_node(missing: World) -> None:
    names = await fleet(missing, 30)
    for name in names:
        await missing.expect(T0, key(name))
        await missing.expect(T0 + minutes(60), key(name))
    await missing.run_until(T0, T0 + minutes(80), minutes(2))
    assert await missing.alerts() == ["NodeSchedulerStalled"]
    alert = await missing.alert()
    assert (alert.count, alert.labels["severity"], alert.labels.get("scenario")) == (60, "critical", None)
    later = T0 + minutes(120)
    for name in names:
        await missing.expect(later, key(name))
        await missing.start(later + minutes(1), key(name))
        await missing.end(later + minutes(2), "SUCCESS", key(name))
    await missing.run_until(later, later + minutes(20))
    assert await missing.alerts() == ["NodeSchedulerStalled!resolved"]


async def test_a_stall_that_is_ended_by_hand_rings_again_for_further_misses(missing: World) -> None:
    for name in await fleet(missing, 12):
        await missing.expect(T0, key(name))
        await missing.expect(T0 + minutes(60), key(name))
    await missing.run_until(T0 + minutes(12), T0 + minutes(13))
    alert = await missing.alert()
    await missing.store.write(resolve_by_hand, alert.id, T0 + minutes(14), missing.config)
    await missing.run_until(T0 + minutes(15), T0 + minutes(70), minutes(5))
    assert await missing.alerts() == ["NodeSchedulerStalled!by_hand"]
    await missing.run_until(T0 + minutes(72), T0 + minutes(73))
    assert await missing.alerts() == ["NodeSchedulerStalled!by_hand", "NodeSchedulerStalled"]


@pytest.mark.parametrize(("missed_ones", "all_of_them", "stalled"), [(9, 30, False), (10, 50, True), (10, 60, False)])
async def test_a_fifth_and_at_least_ten_are_a_stall(
    missing: World, missed_ones: int, all_of_them: int, stalled: bool
) -> None:
    for index, name in enumerate(await fleet(missing, all_of_them)):
        await missing.expect(T0, key(name))
        if index >= missed_ones:
            await missing.start(T0 + minutes(1), key(name))
            await missing.end(T0 + minutes(2), "SUCCESS", key(name))
    await missing.run_until(T0 + minutes(12), T0 + minutes(13))
    assert await missing.alerts() == (["NodeSchedulerStalled"] if stalled else ["ScenarioMissed"] * missed_ones)


async def test_single_misses_wait_while_others_that_are_due_were_not_looked_at(missing: World) -> None:
    names = await fleet(missing, 12)
    for name in names:
        await missing.expect(T0, key(name))
    for name in names[:3]:
        await missing.look(T0 + minutes(11.5), key(name))
    await missing.step(T0 + minutes(12))
    assert await missing.alerts() == []
    for name in names[3:]:
        await missing.look(T0 + minutes(13), key(name))
    await missing.step(T0 + minutes(13.5))
    assert await missing.alerts() == ["NodeSchedulerStalled"]


async def test_single_misses_do_not_wait_for_ever(missing: World) -> None:
    names = await fleet(missing, 12)
    for name in names:
        await missing.expect(T0, key(name))
    await missing.look(T0 + minutes(11.5), key(names[0]))
    for step in range(12, 18):
        await missing.step(T0 + minutes(step))
    assert await missing.alerts() == ["ScenarioMissed"]


# --- overlong --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def running(world: World) -> World:
    """A scenario that usually takes ten minutes and has run since T0."""
    world.config = config(rules=(OVERLONG,))
    for day, length in enumerate([5, 10, 10, 12, 200], start=1):
        at = T0 - timedelta(days=day)
        await world.run(at, "SUCCESS", length=minutes(length), baseline=day > 2)
    await world.start(T0)
    return world


async def test_a_run_of_three_times_its_usual_length_rings_and_ends_with_the_run(running: World) -> None:
    await running.run_until(T0, T0 + minutes(30), minutes(1))
    assert await running.alerts() == []
    await running.run_until(T0 + minutes(31), T0 + minutes(32), minutes(1))
    assert await running.alerts() == ["ScenarioOverlong"]
    alert = await running.alert()
    assert alert.annotations["summary"] == "prod: SALES / Nightly has been running for more than 30m"
    assert alert.annotations["usual_duration"] == "10m"
    assert await running.store.read(runs.details_due_while_running, "prod") == [alert.run]  # for the step that goes on
    await running.end(T0 + minutes(45))
    await running.step(T0 + minutes(45))
    assert await running.alerts() == ["ScenarioOverlong!resolved"]
    assert (await running.alert()).ends_at == T0 + minutes(45)


async def test_an_overlong_run_rings_only_when_it_is_seen_after_its_limit(running: World) -> None:
    await running.look(T0 + minutes(29))
    for step in (16, 31, 40, 41):
        await running.step(T0 + minutes(step))
    assert await running.alerts() == []
    await running.look(T0 + minutes(42))
    await running.step(T0 + minutes(43))
    assert await running.alerts() == ["ScenarioOverlong"]


async def test_a_clock_that_leaps_an_hour_ahead_and_back_makes_no_run_overlong(running: World) -> None:
    hour = 3_600_000
    for step, offset in ((5, hour), (8, hour), (11, 0)):
        await running.node(clock_offset_ms=offset, clock_offset_least_ms=0)
        await running.look(T0 + minutes(step))
        await running.step(T0 + minutes(step))
    assert await running.alerts() == []
    await running.run_until(T0 + minutes(12), T0 + minutes(31), minutes(1))
    assert await running.alerts() == ["ScenarioOverlong"]


async def test_a_clock_that_leaps_an_hour_ahead_makes_no_start_missed(missing: World) -> None:
    await missing.expect(T0 + minutes(30))
    await missing.node(clock_offset_ms=3_600_000, clock_offset_least_ms=0)
    for step in (5, 10):
        await missing.look(T0 + minutes(step))
        await missing.step(T0 + minutes(step))
    assert await missing.alerts() == []


async def test_without_enough_runs_nothing_is_usual(running: World) -> None:
    running.config = config(rules=(replace(OVERLONG, min_runs=6),))
    await running.run_until(T0, T0 + minutes(300), minutes(10))
    assert await running.alerts() == []


async def test_a_fixed_limit_needs_no_history(running: World) -> None:
    running.config = config(rules=(replace(OVERLONG, times_usual=None, longer_than=minutes(20)),))
    await running.run_until(T0, T0 + minutes(20), minutes(10))
    await running.restart(T0 + minutes(20))
    await running.run_until(T0 + minutes(21), T0 + minutes(22), minutes(1))
    assert await running.alerts() == ["ScenarioOverlong"]


async def test_by_hand_is_not_rung_again_for_the_same_run(running: World) -> None:
    await running.run_until(T0, T0 + minutes(32), minutes(2))
    alert = await running.alert()
    await running.store.write(resolve_by_hand, alert.id, T0 + minutes(33), running.config)
    await running.run_until(T0 + minutes(34), T0 + minutes(60), minutes(2))
    assert await running.alerts() == ["ScenarioOverlong!by_hand"]
    await running.end(T0 + minutes(61))
    await running.start(T0 + minutes(62))
    await running.run_until(T0 + minutes(62), T0 + minutes(97), minutes(1))
    assert await running.alerts() == ["ScenarioOverlong!by_hand", "ScenarioOverlong"]


# --- stale -----------------------------------------------------------------------------------------------------------


async def test_a_scenario_without_a_good_run_for_too_long_rings_until_the_next_good_one(world: World) -> None:
    world.config = config(rules=(STALE,))
    await world.run(T0 - minutes(10), "SUCCESS", baseline=True)
    await world.run_until(T0, T0 + timedelta(hours=25), timedelta(hours=1))
    assert await world.alerts() == []
    await world.run(T0 + timedelta(hours=25), "FAILED")
    await world.run_until(T0 + timedelta(hours=26), T0 + timedelta(hours=27), minutes(10))
    assert await world.alerts() == ["ScenarioStale"]
    assert (await world.alert()).starts_at == T0 + timedelta(hours=26) - minutes(9)
    await world.run(T0 + timedelta(hours=28), "WARNING")
    await world.step(T0 + timedelta(hours=28, minutes=2))
    assert await world.alerts() == ["ScenarioStale!resolved"]


async def test_what_never_succeeded_counts_from_when_it_was_watched(world: World) -> None:
    world.config = config(rules=(STALE,))
    await world.scenario(key(), watched_since=T0)
    await world.run_until(T0, T0 + timedelta(hours=26), timedelta(hours=1))
    assert await world.alerts() == []
    await world.run_until(T0 + timedelta(hours=26, minutes=1), T0 + timedelta(hours=26, minutes=2))
    assert await world.alerts() == ["ScenarioStale"]


async def test_a_scenario_that_is_switched_off_is_not_stale_and_counts_anew_when_it_is_on(world: World) -> None:
    world.config = config(rules=(STALE,))
    await world.scenario(key(), watched_since=T0)
    await world.run_until(T0, T0 + timedelta(hours=27), timedelta(hours=1))
    assert await world.alerts() == ["ScenarioStale"]
    await world.look(T0 + timedelta(hours=28), active=False)
    await world.run_until(T0 + timedelta(hours=28), T0 + timedelta(hours=60), timedelta(hours=1))
    assert await world.alerts() == ["ScenarioStale!deactivated"]
    on = T0 + timedelta(hours=61)
    await world.look(on, active=True)
    await world.run_until(on, on + timedelta(hours=25), timedelta(hours=1))
    assert await world.alerts() == ["ScenarioStale!deactivated"]
    await world.run_until(on + timedelta(hours=26), on + timedelta(hours=28), timedelta(hours=1))
    assert await world.alerts() == ["ScenarioStale!deactivated", "ScenarioStale"]
