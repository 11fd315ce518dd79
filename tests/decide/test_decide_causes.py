"""Timelines of ``common_cause`` and of inhibition by it and by what a scenario follows."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.decide.world import T0, World, config, key, minutes, tree
from tocsin.config.model import InhibitRule, Rule
from tocsin.decide.decide import resolve_by_hand
from tocsin.model.labels import parse_matchers
from tocsin.model.run import Details, RunError, ScenarioKey
from tocsin.store import runs

SECOND = timedelta(seconds=1)
CAUSE = Rule("CommonCause", "common_cause", at_least=5, severity="critical")
FAILED = Rule("ScenarioFailed", "failed")
REFUSED = "Connection to 'warehouse-{}' refused after {} s"


@pytest.fixture
def causes(world: World) -> World:
    world.config = config(rules=(FAILED, CAUSE))
    return world


async def fail(world: World, at: datetime, name: str, error: str = REFUSED, project: str = "SALES") -> None:
    """A run that ends with an error, whose details are read a second later."""
    of = key(name, project)
    await world.scenario(of)
    await world.start(at - minutes(1), of)
    event = await world.end(at, "FAILED", of)
    assert event.run
    await read(world, at + SECOND, event.run.key, error.format(name, len(name)))


async def read(world: World, at: datetime, run: object, message: str) -> None:
    details = Details(run, at, error=RunError(message))  # type: ignore[arg-type]

    def write(connection) -> None:  # type: ignore[no-untyped-def]
        runs.put_details(connection, details)
        runs.plan_details(connection, details.run, None, 1)

    await world.store.write(write)


async def storm(world: World, count: int, every: timedelta, projects: int = 4) -> datetime:
    """So many scenarios fail with one error, and the decider steps meanwhile."""
    for index in range(count):
        at = T0 + index * every
        await fail(world, at, f"S{index}", project=f"P{index % projects}")
        await steps(world, at + SECOND, at + every)
    return T0 + count * every


async def steps(world: World, start: datetime, end: datetime) -> None:
    """Step when the decider asks for it, at the latest each five seconds."""
    now = start
    while now < end:
        due = await world.step(now)
        now = min(max(due or end, now + SECOND), now + 5 * SECOND)


@pytest.mark.parametrize("every", [timedelta(seconds=7.5), timedelta(milliseconds=100)])
async def test_forty_failures_of_one_cause_are_one_message_and_one_when_it_is_over(
    causes: World, every: timedelta
) -> None:
    end = await storm(causes, 40, every)
    await steps(causes, end, end + minutes(6))
    assert await causes.told() == [("ops/slack", "first", ["CommonCause"])]
    alert = next(alert for alert in await causes.every_alert() if alert.name == "CommonCause")
    assert alert.count == 40
    assert alert.labels["dss_node"] == "prod"
    assert alert.annotations["summary"].startswith(
        "prod: 40 scenarios failed with one error: Connection to 'warehouse-"
    )
    assert all(f"P{index % 4} / S{index}" in alert.annotations["scenarios"] for index in range(40))
    for index in range(40):
        await causes.run(end + minutes(7), "SUCCESS", key(f"S{index}", f"P{index % 4}"))
    await steps(causes, end + minutes(8), end + minutes(20))
    assert await causes.told() == [("ops/slack", "resolved", ["CommonCause!resolved"])]


async def test_fewer_failures_are_told_one_by_one_after_a_short_wait(causes: World) -> None:
    end = await storm(causes, 4, SECOND, projects=1)
    await steps(causes, end, T0 + 14 * SECOND)
    assert await causes.told() == []
    await steps(causes, T0 + 14 * SECOND, T0 + 15 * SECOND)
    assert await causes.told() == [("ops/slack", "first", ["ScenarioFailed"] * 4)]


async def test_a_failure_of_its_own_waits_no_longer_than_its_group(causes: World) -> None:
    await fail(causes, T0, "ALONE")
    await steps(causes, T0 + SECOND, T0 + 11 * SECOND)
    assert await causes.told() == []
    await causes.step(T0 + 11 * SECOND)
    assert await causes.told() == [("ops/slack", "first", ["ScenarioFailed"])]


async def test_a_long_group_wait_is_waited_once(causes: World) -> None:
    causes.config = config(rules=(FAILED, CAUSE), route=tree(group_wait=minutes(5)))
    await fail(causes, T0, "A")
    await fail(causes, T0 + SECOND, "B")
    await steps(causes, T0 + 2 * SECOND, T0 + minutes(5) + 3 * SECOND)
    assert await causes.told() == [("ops/slack", "first", ["ScenarioFailed"] * 2)]


async def test_an_end_is_told_while_new_failures_wait(causes: World) -> None:
    await fail(causes, T0, "A")
    await steps(causes, T0 + SECOND, T0 + minutes(1))
    assert await causes.told() == [("ops/slack", "first", ["ScenarioFailed"])]
    await causes.run(T0 + minutes(2), "SUCCESS", key("A"))
    await causes.step(T0 + minutes(3) + SECOND)
    await fail(causes, T0 + minutes(5) + 9 * SECOND, "B")
    await steps(causes, T0 + minutes(5) + 10 * SECOND, T0 + minutes(5) + 15 * SECOND)
    assert await causes.told() == [("ops/slack", "resolved", ["ScenarioFailed!resolved"])]
    await steps(causes, T0 + minutes(5) + 15 * SECOND, T0 + minutes(5) + 21 * SECOND)
    assert await causes.told() == [("ops/slack", "new_alerts", ["ScenarioFailed"])]


async def test_failures_whose_errors_are_still_to_be_read_wait_where_they_may_be_one(causes: World) -> None:
    events = []
    for index in range(6):
        await causes.scenario(key(f"S{index}"))
        await causes.start(T0 - minutes(1), key(f"S{index}"))
        events.append(await causes.end(T0, "FAILED", key(f"S{index}")))
    await steps(causes, T0, T0 + 20 * SECOND)
    assert await causes.told() == []
    for event in events:
        assert event.run
        await read(causes, T0 + 20 * SECOND, event.run.key, "no route to host")
    await steps(causes, T0 + 21 * SECOND, T0 + minutes(2))
    assert await causes.told() == [("ops/slack", "first", ["CommonCause"])]


async def test_errors_that_are_never_read_hold_nobody_back_for_ever(causes: World) -> None:
    for index in range(6):
        await causes.scenario(key(f"S{index}"))
        await causes.start(T0 - minutes(1), key(f"S{index}"))
        await causes.end(T0, "FAILED", key(f"S{index}"))
    await steps(causes, T0, T0 + minutes(2) + 6 * SECOND)
    assert await causes.told() == [("ops/slack", "first", ["ScenarioFailed"] * 6)]


async def test_different_errors_and_old_ones_are_no_common_cause(causes: World) -> None:
    for index, error in enumerate(["disk full", "no such table", "timed out", "bad key", "denied"]):
        await fail(causes, T0, f"S{index}", error)
    for index in range(5, 15):
        await fail(causes, T0 + minutes(4 * index), f"S{index}")
        await steps(causes, T0 + minutes(4 * index), T0 + minutes(4 * index) + 2 * SECOND)
        assert "CommonCause" not in await causes.alerts()


async def test_it_is_over_when_fewer_than_half_still_fail_and_they_speak_for_themselves(causes: World) -> None:
    end = await storm(causes, 8, SECOND, projects=1)
    await steps(causes, end, end + minutes(1))
    assert await causes.told() == [("ops/slack", "first", ["CommonCause"])]
    for index in range(4):
        await causes.run(end + minutes(2), "SUCCESS", key(f"S{index}", "P0"))
    await steps(causes, end + minutes(3), end + minutes(4))
    assert "CommonCause" in await causes.alerts(firing=True)
    await causes.run(end + minutes(4), "SUCCESS", key("S4", "P0"))
    await steps(causes, end + minutes(5), end + minutes(12))
    over, singles = await causes.told()
    assert over == ("ops/slack", "resolved", ["CommonCause!resolved"])
    assert singles[:2] == ("ops/slack", "first")
    assert singles[2].count("ScenarioFailed") == 3


async def test_who_was_told_a_failure_before_its_common_cause_is_told_its_end(causes: World) -> None:
    for index in range(4):
        await fail(causes, T0, f"S{index}")
    await steps(causes, T0 + SECOND, T0 + minutes(2))
    assert await causes.told() == [("ops/slack", "first", ["ScenarioFailed"] * 4)]
    for index in range(4, 12):
        await fail(causes, T0 + minutes(2), f"S{index}")
    await fail(causes, T0 + minutes(3), "OTHER", "disk full")
    await steps(causes, T0 + minutes(3) + SECOND, T0 + minutes(8))
    cause, other = await causes.told()
    assert cause == ("ops/slack", "first", ["CommonCause"])
    assert other == ("ops/slack", "new_alerts", ["ScenarioFailed"])
    for index in range(4):
        await causes.run(T0 + minutes(9), "SUCCESS", key(f"S{index}"))
    await steps(causes, T0 + minutes(10), T0 + minutes(20))
    assert await causes.told() == [("ops/slack", "resolved", ["ScenarioFailed"] + ["ScenarioFailed!resolved"] * 4)]
    assert "CommonCause" in await causes.alerts(firing=True)


async def test_a_restart_and_a_reload_keep_it_and_a_rule_that_is_taken_away_ends_it(causes: World) -> None:
    end = await storm(causes, 6, SECOND)
    await steps(causes, end, end + minutes(1))
    await causes.restart(end + minutes(1))
    causes.config = config(rules=(FAILED, replace(CAUSE, at_least=3)))
    await steps(causes, end + minutes(1), end + minutes(2))
    assert (await causes.alerts()).count("CommonCause") == 1
    assert len(await causes.told()) == 1
    causes.config = config(rules=(FAILED,))
    await causes.step(end + minutes(3))
    assert "CommonCause!unwatched" in await causes.alerts()


async def test_one_that_is_ended_by_hand_fires_again_only_for_as_many_new_failures(causes: World) -> None:
    end = await storm(causes, 6, SECOND)
    await steps(causes, end, end + 2 * SECOND)
    alert = next(alert for alert in await causes.every_alert() if alert.name == "CommonCause")
    await causes.store.write(resolve_by_hand, alert.id, end, causes.config)
    await steps(causes, end, end + minutes(2))
    assert "CommonCause" not in await causes.alerts()
    for index in range(5):
        await fail(causes, end + minutes(2), f"NEW{index}")
    await steps(causes, end + minutes(2) + SECOND, end + minutes(3))
    assert "CommonCause" in await causes.alerts()


async def test_only_what_it_matches_counts(causes: World) -> None:
    causes.config = config(rules=(FAILED, replace(CAUSE, match=parse_matchers("project=P0"))))
    end = await storm(causes, 8, SECOND, projects=2)
    await steps(causes, end, end + 2 * SECOND)
    assert "CommonCause" not in await causes.alerts()
    for index in range(8, 16):
        await fail(causes, end, f"S{index}", project=f"P{index % 2}")
    await steps(causes, end + 2 * SECOND, end + 5 * SECOND)
    assert "CommonCause" in await causes.alerts()


async def test_failures_that_it_does_not_match_are_told_although_they_share_the_error(causes: World) -> None:
    team = replace(CAUSE, at_least=2, match=parse_matchers("project=TEAM"))
    causes.config = config(rules=(FAILED, CAUSE, team))
    await fail(causes, T0, "A", project="TEAM")
    await fail(causes, T0 + SECOND, "B", project="TEAM")
    await steps(causes, T0 + 2 * SECOND, T0 + minutes(1))
    assert await causes.told() == [("ops/slack", "first", ["CommonCause"])]
    await fail(causes, T0 + minutes(1), "PAYROLL")
    await fail(causes, T0 + minutes(1), "C", project="TEAM")
    await steps(causes, T0 + minutes(1) + SECOND, T0 + minutes(4))
    assert await causes.told() == [("ops/slack", "first", ["ScenarioFailed"])]


async def test_scenarios_that_were_switched_off_since_fail_no_longer(causes: World) -> None:
    end = await storm(causes, 6, SECOND, projects=1)
    await steps(causes, end, end + minutes(1))
    for index in range(6):
        await causes.scenario(key(f"S{index}", "P0"), active=False)
    await steps(causes, end + minutes(1), end + minutes(1) + 10 * SECOND)
    assert "CommonCause!resolved" in await causes.alerts()


async def test_scenarios_without_triggers_that_others_run_share_a_cause_too(causes: World) -> None:
    for index in range(6):
        await fail(causes, T0, f"S{index}")
        await causes.scenario(key(f"S{index}"), active=False)
    await steps(causes, T0 + SECOND, T0 + 10 * SECOND)
    assert "CommonCause" in await causes.alerts(firing=True)


async def test_while_the_node_is_down_nothing_is_said_to_be_over(causes: World) -> None:
    end = await storm(causes, 6, SECOND)
    await steps(causes, end, end + 2 * SECOND)
    await causes.down(end)
    for index in range(6):
        await causes.run(end, "SUCCESS", key(f"S{index}", f"P{index % 4}"))
    await steps(causes, end + minutes(1), end + minutes(2))
    assert "CommonCause" in await causes.alerts(firing=True)
    await causes.up(end + minutes(3))
    await steps(causes, end + minutes(3), end + minutes(4))
    assert "CommonCause!resolved" in await causes.alerts()


# --- what a scenario follows -----------------------------------------------------------------------------------------


@pytest.fixture
async def chain(world: World) -> World:
    """Five scenarios of which each follows the one before, the last of another project."""
    world.config = config(rules=(FAILED,), inhibit_rules=(InhibitRule(upstream=True),))
    for index in range(5):
        follows = ((("SALES", f"S{index - 1}"),)) if index else ()
        await world.scenario(link(index), follows=follows)
    return world


def link(index: int) -> ScenarioKey:
    return key(f"S{index}", "OTHER" if index == 4 else "SALES")


async def test_a_chain_of_five_whose_first_fails_is_one_alert(chain: World) -> None:
    for index in range(5):
        await chain.run(T0 + minutes(index), "FAILED", link(index))
        await chain.step(T0 + minutes(index + 1))
    await chain.run_until(T0 + minutes(6), T0 + minutes(12))
    told = await chain.told()
    assert told == [("ops/slack", "first", ["ScenarioFailed"])]
    await chain.run(T0 + minutes(13), "SUCCESS", link(0))
    await chain.run_until(T0 + minutes(14), T0 + minutes(20))
    # The second goes on failing, and inhibits the others in turn.
    assert await chain.told() == [("ops/slack", "new_alerts", ["ScenarioFailed", "ScenarioFailed!resolved"])]


async def test_those_that_follow_each_other_in_a_circle_are_all_heard(chain: World) -> None:
    await chain.scenario(link(0), follows=(("OTHER", "S4"),))
    for index in range(5):
        await chain.run(T0, "FAILED", link(index))
    await chain.run_until(T0 + minutes(1), T0 + minutes(3))
    assert sorted(names for _, _, names in await chain.told()) == [["ScenarioFailed"], ["ScenarioFailed"] * 4]


async def test_who_was_told_a_failure_before_that_upstream_is_told_its_end(chain: World) -> None:
    await chain.run(T0, "FAILED", link(1))
    await chain.run_until(T0 + minutes(2), T0 + minutes(4))
    assert await chain.told() == [("ops/slack", "first", ["ScenarioFailed"])]
    await chain.run(T0 + minutes(5), "FAILED", link(0))
    await chain.run_until(T0 + minutes(7), T0 + minutes(9))
    await chain.run(T0 + minutes(10), "SUCCESS", link(1))
    await chain.run_until(T0 + minutes(12), T0 + minutes(20))
    told = await chain.told()
    assert sum(names.count("ScenarioFailed!resolved") for _, _, names in told) == 1
