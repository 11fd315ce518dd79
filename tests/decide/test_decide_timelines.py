"""Every rule on one timeline, undisturbed and disturbed: what rings, ends and is told must be the same.

The process starts anew before every step on the night when clocks go forward; the configuration is read anew before
every step on the night when they go back; and in the middle the node is away for a while and its history read back.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.decide.world import World, config, key, minutes
from tocsin.config.model import Rule

Act = Callable[[World, datetime], Awaitable[object]]
SPRING, AUTUMN = datetime(2026, 3, 29, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
FLEET = [key(f"S{index:02}") for index in range(12)]


@dataclass(frozen=True)
class Story:
    """What happens, by the minute; what rings and ends; and when each notice is due, give or take a step."""

    rule: Rule
    acts: dict[int, Act]
    alerts: list[str]
    told: list[str] = field(default_factory=lambda: ["first", "resolved"])


def ran(outcome: str) -> Act:
    return lambda world, now: world.run(now - minutes(1), outcome, late=world.reading_back)


async def expect(world: World, now: datetime) -> None:
    await world.expect(now)


async def expect_all(world: World, now: datetime) -> None:
    for one in FLEET:
        await world.scenario(one)
        await world.expect(now, one)


async def start_all(world: World, now: datetime) -> None:
    await expect_all(world, now)
    for one in FLEET:
        await world.start(now + minutes(1), one)
        await world.end(now + minutes(2), "SUCCESS", one)


STORIES = {
    "failed": Story(
        Rule("Failed", "failed", after=2), {0: ran("FAILED"), 6: ran("FAILED"), 12: ran("ABORTED"), 45: ran("SUCCESS")},
        ["Failed!resolved"],
    ),
    "missed": Story(
        Rule("Missed", "missed", grace=minutes(5)), {0: expect, 45: lambda world, now: world.start(now)},
        ["Missed!resolved"],
    ),
    "stalled": Story(
        Rule("Missed", "missed", grace=minutes(5)), {0: expect_all, 45: start_all}, ["NodeSchedulerStalled!resolved"]
    ),
    "overlong": Story(
        Rule("Overlong", "overlong", times_usual=None, longer_than=minutes(8)),
        {0: lambda world, now: world.start(now), 45: lambda world, now: world.end(now)},
        ["Overlong!resolved"],
    ),
    "stale": Story(
        Rule("Stale", "stale", no_success_for=minutes(10)), {0: ran("SUCCESS"), 45: ran("WARNING")}, ["Stale!resolved"]
    ),
    "node_down": Story(
        Rule("Down", "node_down", hold=minutes(5)),
        {0: lambda world, now: world.down(now), 45: lambda world, now: world.up(now)},
        ["Down!resolved"],
    ),
}  # fmt: skip


async def play(world: World, story: Story, begin: datetime, disturb: Act | None) -> list[tuple[int, str]]:
    """Live through the better part of an hour in steps of three minutes; answers when what was told."""
    world.config = config(rules=(story.rule,))
    await world.scenario(key(), watched_since=begin)
    told: list[tuple[int, str]] = []
    waiting: list[tuple[Act, datetime]] = []
    for minute in range(0, 54, 3):
        now = begin + minutes(minute)
        if act := story.acts.get(minute):
            waiting.append((act, now))
        if disturb is not None:
            await disturb(world, now)
        while waiting and not world.away:
            act, happened = waiting.pop(0)
            await act(world, happened)
        if not world.reading_back:
            await world.look(now)
        await world.step(now)
        told += [(minute, reason) for _, reason, _ in await world.told()]
    return told


async def restart(world: World, now: datetime) -> None:
    await world.restart(now)


async def reload(world: World, _now: datetime) -> None:
    world.config = replace(world.config)


@pytest.mark.parametrize(("begin", "disturb"), [(SPRING, restart), (AUTUMN, reload)])
@pytest.mark.parametrize("kind", STORIES)
async def test_neither_restarts_nor_reloads_nor_a_clock_change_alter_anything(
    world: World, kind: str, begin: datetime, disturb: Act
) -> None:
    story = STORIES[kind]
    told = await play(world, story, begin, disturb)
    assert await world.alerts() == story.alerts
    assert [reason for _, reason in told] == story.told
    assert [9 <= told[0][0] <= 18, 45 <= told[1][0] <= 54] == [True, True]


@pytest.mark.parametrize("kind", [kind for kind in STORIES if kind != "node_down"])
async def test_an_outage_in_the_middle_makes_no_storm(world: World, kind: str) -> None:
    """The node is away while the rule would begin to ring, and what it did meanwhile is read back."""
    story, scenarios = STORIES[kind], FLEET if kind == "stalled" else [key()]

    async def outage(world: World, now: datetime) -> None:
        match (now - SPRING) // minutes(1):
            case 3:
                world.away = world.reading_back = True
                await world.down(now)
            case 21:
                world.away = False
                await world.up(now)
                await world.node(backfilling=True)
                for one in scenarios:
                    await world.scenario(one, backfilled=False)
            case 24:
                world.reading_back = False
                await world.node(backfilling=False)
                for one in scenarios:
                    await world.scenario(one)

    told = await play(world, story, SPRING, outage)
    assert await world.alerts() == story.alerts
    assert [reason for _, reason in told] == story.told
    assert told[0][0] >= 24


async def test_an_overlong_run_that_ends_between_two_ticks_never_rings(world: World) -> None:
    world.config = config(rules=(STORIES["overlong"].rule,))
    await world.start(SPRING)
    await world.look(SPRING + minutes(7))
    await world.step(SPRING + minutes(7))
    await world.end(SPRING + minutes(9))
    await world.look(SPRING + minutes(10))
    await world.step(SPRING + minutes(10))
    assert await world.alerts() == []


async def test_a_missed_run_that_comes_late_ends_its_alert_and_no_other_rings_for_it(world: World) -> None:
    world.config = config(rules=(STORIES["missed"].rule,))
    await world.expect(SPRING)
    await world.run_until(SPRING, SPRING + minutes(8))
    assert await world.alerts() == ["Missed"]
    await world.start(SPRING + minutes(9))
    await world.end(SPRING + minutes(10))
    await world.run_until(SPRING + minutes(10), SPRING + minutes(20))
    assert await world.alerts() == ["Missed!resolved"]
    assert [reason for _, reason, _ in await world.told()] == ["first", "resolved"]


async def test_the_shipped_rules_are_quiet_on_a_healthy_fleet_through_a_night_of_clock_change(world: World) -> None:
    """Hourly and daily scenarios, late by up to a minute, some run by hand, one skipped by hand-made overlap."""
    fleet = [key(f"HOURLY_{index}") for index in range(3)]
    for one in fleet:
        await world.scenario(one)
    for hour in range(6):
        now = AUTUMN + timedelta(hours=hour)
        for index, one in enumerate(fleet):
            await world.expect(now, one)
            late = timedelta(seconds=60 + 20 * index)
            length = timedelta(minutes=2 + 5 * index + hour % 3)  # usually twelve minutes at the most
            await world.start(now + late, one)
            await world.end(now + late + length, "WARNING" if hour == 2 else "SUCCESS", one)
        await world.run(now + minutes(40), "SUCCESS", fleet[0])
        await world.run_until(now, now + minutes(50), minutes(10))
    assert (await world.alerts(), await world.decisions()) == ([], [])
    assert {state for _, state in await world.starts()} == {"met"}
