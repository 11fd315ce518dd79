"""Escalations: who else is notified of what nobody acknowledged, and of its end."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.decide.test_decide_acknowledge import ack
from tests.decide.test_decide_flush import HOUR, MORNING, heal, ring, silence, steps
from tests.decide.world import T0, World, channel, config, key, minutes, tree
from tocsin.config.intervals import TimeInterval, TimeRange
from tocsin.config.model import Escalation, InhibitRule, Receiver, Route, TagReceivers, build_tree
from tocsin.decide.decide import acknowledge
from tocsin.model.labels import parse_matchers

CHAT, CALL, BOSS = "ops/chat", "oncall/call", "boss/mail"
STEPS = (Escalation(minutes(15), "oncall"), Escalation(HOUR, "boss"))
RECEIVERS = tuple(
    Receiver(name.partition("/")[0], (channel(name, name.partition("/")[0]),)) for name in (CHAT, CALL, BOSS)
)


@pytest.fixture
def escalating(world: World) -> World:
    world.config = config(receivers=RECEIVERS, route=tree(escalate=STEPS))
    return world


async def unack(world: World, at: timedelta) -> None:
    assert await world.store.write(acknowledge, (await world.alert()).id, None, T0 + at)


async def test_each_step_is_told_in_its_time_and_all_of_the_end(escalating: World) -> None:
    await ring(escalating, minutes(0))
    said = await steps(escalating, minutes(0), 2 * HOUR)
    assert said == [(0, CHAT, "first"), (15, CALL, "escalated"), (60, BOSS, "escalated")]
    await heal(escalating, 2 * HOUR + minutes(1))
    said = await steps(escalating, 2 * HOUR + minutes(1), 3 * HOUR)
    assert sorted(where for _, where, why in said if why == "resolved") == sorted([BOSS, CALL, CHAT])


async def test_what_ends_or_is_acknowledged_in_time_is_not_escalated(escalating: World) -> None:
    await ring(escalating, minutes(0))
    await steps(escalating, minutes(0), minutes(10))
    await heal(escalating, minutes(10))
    assert [where for _, where, _ in await steps(escalating, minutes(10), 3 * HOUR)] == [CHAT]
    await ring(escalating, 4 * HOUR)
    await steps(escalating, 4 * HOUR, 4 * HOUR + minutes(10))
    await ack(escalating, 4 * HOUR + minutes(10))
    assert await steps(escalating, 4 * HOUR + minutes(10), 7 * HOUR) == []
    await heal(escalating, 7 * HOUR + minutes(1))
    assert [where for _, where, _ in await steps(escalating, 7 * HOUR + minutes(1), 8 * HOUR)] == [CHAT]


async def test_an_acknowledgement_between_two_steps_stops_the_second(escalating: World) -> None:
    await ring(escalating, minutes(0))
    await steps(escalating, minutes(0), minutes(20))
    await ack(escalating, minutes(20))
    assert await steps(escalating, minutes(20), 3 * HOUR) == []
    await heal(escalating, 3 * HOUR + minutes(1))
    said = await steps(escalating, 3 * HOUR + minutes(1), 4 * HOUR)
    assert sorted(where for _, where, _ in said) == sorted([CALL, CHAT])


async def test_what_is_given_back_or_not_done_in_time_is_escalated_after_all(escalating: World) -> None:
    await ring(escalating, minutes(0))
    await steps(escalating, minutes(0), minutes(5))
    await ack(escalating, minutes(5), until=minutes(31))
    assert await steps(escalating, minutes(5), minutes(40)) == [(35, CALL, "escalated")]
    await ack(escalating, minutes(41))
    await steps(escalating, minutes(41), minutes(70))
    await unack(escalating, minutes(70))
    assert (70, BOSS, "escalated") in await steps(escalating, minutes(70), minutes(90))


async def test_an_alert_that_joins_a_group_is_escalated_in_its_own_time(escalating: World) -> None:
    await ring(escalating, minutes(0))
    await steps(escalating, minutes(0), minutes(8))
    await heal(escalating, minutes(8))
    await ring(escalating, minutes(9), "OTHER")
    said = await steps(escalating, minutes(9), minutes(30))
    assert [(at, where) for at, where, why in said if why == "escalated"] == [(24, CALL)]


async def test_restart_and_reload_tell_nothing_twice_and_lose_nothing(escalating: World) -> None:
    await ring(escalating, minutes(0))
    await steps(escalating, minutes(0), minutes(10))
    await escalating.restart(T0 + minutes(10))
    escalating.config = config(
        receivers=RECEIVERS, route=tree(escalate=STEPS, routes=(Route("ops", parse_matchers("severity=critical")),))
    )
    assert await steps(escalating, minutes(10), minutes(20)) == [(15, CALL, "escalated")]
    await escalating.restart(T0 + minutes(20))
    assert await steps(escalating, minutes(20), minutes(70)) == [(60, BOSS, "escalated")]


async def test_an_outage_over_the_time_of_a_step_escalates_when_it_is_over(escalating: World) -> None:
    await ring(escalating, minutes(0))
    await steps(escalating, minutes(0), minutes(10))
    await escalating.restart(T0 + minutes(50))
    assert await steps(escalating, minutes(50), minutes(55)) == [(50, CALL, "escalated")]


async def test_what_is_silenced_muted_or_inhibited_is_escalated_only_afterwards(escalating: World) -> None:
    await ring(escalating, minutes(0))
    await silence(escalating, "alertname=ScenarioFailed", minutes(5), minutes(34))
    assert await steps(escalating, minutes(0), minutes(50)) == [(0, CHAT, "first"), (35, CALL, "escalated")]


async def test_time_intervals_and_inhibition_hold_for_steps_too(world: World) -> None:
    muted = tree(routes=(Route("ops", mute_time_intervals=("morning",), escalate=STEPS[:1]),))
    inhibits = InhibitRule(parse_matchers("scenario=CAUSE"), parse_matchers("scenario=NIGHTLY"))
    world.config = config(receivers=RECEIVERS, route=muted, time_intervals=(MORNING,), inhibit_rules=(inhibits,))
    await ring(world, minutes(0))
    said = await steps(world, minutes(0), minutes(70))
    assert sorted((at, where) for at, where, _ in said) == [(60, CALL), (60, CHAT)]
    world.config = config(receivers=RECEIVERS, route=tree(escalate=STEPS[:1], group_by=("scenario",)),
                          inhibit_rules=(inhibits,))  # fmt: skip
    await heal(world, minutes(71))
    await ring(world, minutes(72), "CAUSE")
    await ring(world, minutes(73))
    said = await steps(world, minutes(73), minutes(100))
    assert [(at, where) for at, where, why in said if why == "escalated"] == [(87, CALL)]


async def test_a_receiver_that_is_notified_anyway_is_not_escalated_to(world: World) -> None:
    also = Route("oncall", parse_matchers("severity=warning"), continues=True)
    world.config = config(receivers=RECEIVERS, route=tree(escalate=STEPS[:1], routes=(also, Route("ops"))))
    await ring(world, minutes(0))
    said = await steps(world, minutes(0), HOUR)
    assert sorted(where for _, where, _ in said) == sorted([CALL, CHAT])


async def test_the_decisions_say_why(escalating: World) -> None:
    await ring(escalating, minutes(0))
    await steps(escalating, minutes(0), minutes(10))
    await ack(escalating, minutes(10))
    await steps(escalating, minutes(10), minutes(20))
    notes = [decision.note for decision in await escalating.decisions() if decision.subject.endswith(f"→ {CALL}")]
    assert notes == ["acknowledged, over, or firing for less than 15m"]


async def test_a_route_that_is_mute_is_no_reason_to_leave_out_a_step(world: World) -> None:
    warning = parse_matchers('severity="warning"')
    routes = (
        Route(matchers=warning, continues=True, escalate=STEPS[:1]),
        Route("oncall", warning, mute_time_intervals=("always",)),
    )
    always = TimeInterval("always", (TimeRange(),))
    world.config = config(receivers=RECEIVERS, route=tree(routes=routes), time_intervals=(always,))
    await ring(world, minutes(0))
    assert await steps(world, minutes(0), minutes(30)) == [(0, CHAT, "first"), (15, CALL, "escalated")]


async def test_the_route_of_a_tag_has_no_steps(world: World) -> None:
    finance = TagReceivers("notify", ("boss",)).route("boss")
    quiet = Route(matchers=parse_matchers('project="SALES"'), escalate=())
    spec = replace(tree(), escalate=STEPS[:1], routes=(quiet, finance))
    world.config = config(receivers=RECEIVERS, route=build_tree(spec))
    await world.scenario(key(), tags=("notify:boss",))
    await world.run(T0 - minutes(1), "FAILED")
    assert {where for _, where, _ in await steps(world, minutes(0), HOUR)} <= {CHAT, BOSS}


@pytest.mark.parametrize("ahead", [-HOUR, HOUR])
async def test_a_step_counts_from_when_the_alert_is_known_whatever_the_clock_of_dss_says(
    world: World, ahead: timedelta
) -> None:
    offset = int(ahead.total_seconds() * 1000)
    world.config = config(receivers=RECEIVERS, route=tree(escalate=STEPS[:1]))
    await world.node(clock_offset_ms=offset, clock_offset_least_ms=offset)
    await world.run(T0 + ahead - minutes(1), "FAILED")
    assert await steps(world, minutes(0), HOUR) == [(0, CHAT, "first"), (15, CALL, "escalated")]
