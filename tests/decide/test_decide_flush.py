"""Timelines of groups: intervals, mutes, and what each channel was last told."""

import logging
import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.decide.world import T0, TURNS_TOLD, World, channel, config, key, minutes, tree
from tocsin.config.intervals import TimeInterval, TimeRange
from tocsin.config.model import DEFAULT_INHIBIT_RULES, DEFAULT_RULES, InhibitRule, Receiver, Route, Rule
from tocsin.model.alert import Alert
from tocsin.model.decision import Stage
from tocsin.model.event import EventName, ScenarioFacts
from tocsin.model.labels import parse_matcher, parse_matchers
from tocsin.model.notification import GroupNotice
from tocsin.model.run import Run
from tocsin.routing.stages import Inhibitor
from tocsin.store import alerts, groups
from tocsin.store.alerts import AlertRow, put_alerts
from tocsin.store.schema import silences as silences_table

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
MORNING = TimeInterval("morning", (TimeRange(times=((6 * 60, 7 * 60),)),))  # T0 is at six


async def silence(world: World, text: str, begin: timedelta, end: timedelta) -> None:
    await world.store.write(alerts.insert_silence, parse_matchers(text), T0 + begin, T0 + end, "me", "", T0)


async def ring(world: World, at: timedelta, name: str = "NIGHTLY") -> None:
    await world.scenario(key(name))
    await world.run(T0 + at, "FAILED", key(name), length=SECOND)
    await world.step(T0 + at + SECOND)


async def heal(world: World, at: timedelta, name: str = "NIGHTLY") -> None:
    await world.run(T0 + at, "SUCCESS", key(name), length=SECOND)
    await world.step(T0 + at + SECOND)


async def steps(world: World, begin: timedelta, end: timedelta) -> list[tuple[int, str, str]]:
    """What is told from ``begin`` to ``end``, flushing when due: minutes since T0, channel and reason."""
    now, said = T0 + begin, []
    while now <= T0 + end:
        due = await world.step(now)
        said += [((now - T0) // minutes(1), where, why) for where, why, _ in await world.told()]
        now = due if due is not None and due <= T0 + end else T0 + end + SECOND
    return said


async def test_new_alerts_wait_for_the_group_interval_and_repeats_for_theirs(world: World) -> None:
    await ring(world, minutes(0))
    assert await steps(world, minutes(0), minutes(1)) == [(0, "ops/slack", "first")]
    await ring(world, minutes(1), "OTHER")
    assert await steps(world, minutes(1), minutes(4)) == []
    assert await steps(world, minutes(4), minutes(10)) == [(5, "ops/slack", "new_alerts")]
    assert await steps(world, minutes(10), minutes(600)) == [(250, "ops/slack", "repeat"), (495, "ops/slack", "repeat")]


async def test_an_alert_that_ends_and_rings_again_between_two_flushes_is_no_news(world: World) -> None:
    await ring(world, minutes(0))
    await steps(world, minutes(0), minutes(1))
    await heal(world, minutes(1))
    await ring(world, minutes(2))
    assert await steps(world, minutes(2), minutes(20)) == []
    assert await world.alerts() == ["ScenarioFailed!resolved", "ScenarioFailed"]


@pytest.mark.parametrize("repeat", [0.01, 1, 2.5, 5])
@pytest.mark.parametrize("restarted", [False, True])
async def test_an_end_is_told_however_short_the_repeat_interval_is(
    world: World, repeat: float, restarted: bool
) -> None:
    world.config = config(route=tree(repeat_interval=minutes(repeat), group_interval=minutes(5)))
    await ring(world, minutes(0))
    assert await steps(world, minutes(0), minutes(6)) == [(0, "ops/slack", "first")] + (
        [(5, "ops/slack", "repeat")] if repeat < 5 else []
    )
    await heal(world, minutes(7))
    if restarted:
        await world.restart(T0 + minutes(8))
    assert await steps(world, minutes(8), minutes(30)) == [(10, "ops/slack", "resolved")]


async def test_an_end_is_told_after_a_long_downtime(world: World) -> None:
    await ring(world, minutes(0))
    await steps(world, minutes(0), minutes(1))
    await world.restart(T0 + 60 * HOUR)
    await heal(world, 60 * HOUR)
    assert await steps(world, 60 * HOUR + minutes(1), 61 * HOUR) == [(3601, "ops/slack", "resolved")]


async def test_an_alert_that_ends_before_anyone_was_told_is_never_told(world: World) -> None:
    await ring(world, minutes(0))
    await world.run(T0 + 2 * SECOND, "SUCCESS", length=SECOND)
    assert await steps(world, minutes(0.1), minutes(60)) == []


async def test_without_send_resolved_an_end_is_not_told_but_counts(world: World) -> None:
    world.config = config(receivers=(Receiver("ops", (channel("a", send_resolved=False), channel("b"))),))
    await ring(world, minutes(0))
    await steps(world, minutes(0), minutes(1))
    await heal(world, minutes(2))
    assert await steps(world, minutes(2), minutes(10)) == [(5, "b", "resolved")]
    await ring(world, minutes(20))
    assert await steps(world, minutes(20), minutes(21)) == [(20, "a", "new_alerts"), (20, "b", "new_alerts")]


async def test_an_end_in_a_silence_is_dropped_unless_the_channel_asks_for_it(world: World) -> None:
    asking = channel("a", resolve_what_was_sent=True)
    world.config = config(receivers=(Receiver("ops", (asking, channel("b"))),))
    await ring(world, minutes(0))
    await steps(world, minutes(0), minutes(1))
    await silence(world, "project=SALES", minutes(1), minutes(60))
    await heal(world, minutes(3))
    assert await steps(world, minutes(3), minutes(59)) == []
    assert await steps(world, minutes(60), minutes(80)) == [(60, "a", "resolved")]
    assert await world.step(T0 + minutes(81)) is None


async def test_a_silenced_alert_is_told_when_the_silence_ends(world: World) -> None:
    await silence(world, "scenario=NIGHTLY", minutes(0), minutes(20))
    await ring(world, minutes(0))
    assert await steps(world, minutes(0), minutes(30)) == [(20, "ops/slack", "first")]
    assert [made for made in await world.reasons() if made in ("silenced", "first")] == ["silenced", "first"]
    value = world.registry.get_sample_value("tocsin_notifications_suppressed_total", {"reason": "silenced"})
    assert value == 4  # at 0, 5, 10 and 15 minutes


async def test_scenarios_are_inhibited_while_their_node_is_down(world: World) -> None:
    rule = InhibitRule(parse_matchers('alertname="NodeDown"'), parse_matchers('alertname=~"Scenario.*"'), ("dss_node",))
    world.config = config(inhibit_rules=(rule,))
    await world.down(T0 - minutes(3))
    await world.step(T0)
    await ring(world, minutes(0))
    assert await steps(world, minutes(0), minutes(8)) == [(0, "ops/slack", "first")]  # of the node
    await world.up(T0 + minutes(9))
    assert await steps(world, minutes(9), minutes(16)) == [(10, "ops/slack", "resolved"), (10, "ops/slack", "first")]
    assert "inhibited" in await world.reasons()


@pytest.mark.parametrize("seed", range(5))
async def test_the_sources_that_are_read_inhibit_as_all_that_fire_would(world: World, seed: int) -> None:
    chance = random.Random(seed)

    def labels() -> dict[str, str]:
        names = ("alertname", "dss_node", "project", "scenario", "severity", "team")
        return {"alertname": "A"} | {name: chance.choice("ABC") for name in names if chance.random() < 0.8}

    texts = [
        "alertname=A",
        "alertname=~A|B",
        "severity=B",
        "project!=C",
        "team=A",
        "scenario=",
        "severity=~A|C",
        "dss_node=B",
    ]
    rules = [
        InhibitRule(
            parse_matchers(",".join(chance.sample(texts, 2))),
            parse_matchers(",".join(chance.sample(texts, chance.randrange(1, 3)))),
            tuple(
                chance.sample(["alertname", "dss_node", "project", "scenario", "team", "other"], chance.randrange(4))
            ),
        )
        for _ in range(4)
    ]
    firing = [Alert(f"a{number}", f"f{number}", labels(), T0) for number in range(60)]
    await world.store.write(put_alerts, [AlertRow(one, "R") for one in firing], T0)
    for _ in range(30):
        targets = [labels() for _ in range(3)]
        found = await world.store.read(groups.inhibition_sources, rules, targets)
        some, everything = Inhibitor(rules, found), Inhibitor(rules, {one.id: one.labels for one in firing})
        for target in targets:
            assert (some.inhibits(target) is None) is (everything.inhibits(target) is None)


async def test_of_many_firing_alerts_only_the_sources_that_concern_the_group_are_read(world: World) -> None:
    place = {"dss_node": "prod", "project": "SALES"}
    kinds = ("ScenarioFailed", "warning"), ("ScenarioFailed", "critical"), ("NodeDown", "critical")
    firing = [
        Alert(f"{name}{severity}{number}", f"{name}{severity}{number}", labels, T0)
        for number in range(100)
        for name, severity in kinds
        for labels in [{"alertname": name, "severity": severity, **place, "scenario": f"S{number}"}]
    ]
    await world.store.write(put_alerts, [AlertRow(one, "R") for one in firing if one.name != "NodeDown"], T0)
    found = await world.store.read(groups.inhibition_sources, DEFAULT_INHIBIT_RULES, [one.labels for one in firing[:3]])
    assert {(one["alertname"], one["scenario"]) for one in found.values()} == {("ScenarioFailed", "S0")}
    assert await world.store.read(groups.inhibition_sources, DEFAULT_INHIBIT_RULES, [firing[1].labels]) == {}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"mute_time_intervals": ("morning",)}, [(60, "first")]),
        ({"active_time_intervals": ("morning",)}, [(0, "first"), (30, "repeat")]),
        ({"active_time_intervals": ("unknown",)}, []),
    ],
)
async def test_a_route_is_mute_by_the_clock(
    world: World, more: dict[str, Any], expected: list[tuple[int, str]]
) -> None:
    route = Route(matchers=(parse_matcher("severity=warning"),), repeat_interval=minutes(29), **more)
    world.config = config(route=tree(routes=(route,), repeat_interval=HOUR), time_intervals=(MORNING,))
    await ring(world, minutes(0))
    told = [(at, why) for at, _, why in await steps(world, minutes(0), minutes(62))]
    assert told == expected


async def test_two_routes_with_continue_tell_two_receivers_and_a_receiver_without_channels_is_noted(
    world: World,
) -> None:
    routes = (
        Route("oncall", (parse_matcher("severity=warning"),), continues=True),
        Route("nobody", (parse_matcher("severity=warning"),)),
    )
    world.config = config(
        route=tree(routes=routes), receivers=(Receiver("ops", ()), Receiver("oncall", (channel("pager", "oncall"),)))
    )
    await ring(world, minutes(0))
    assert await steps(world, minutes(0), minutes(1)) == [(0, "pager", "first")]
    assert "no_channel" in await world.reasons()


async def test_a_notice_holds_two_hundred_alerts_at_most(world: World) -> None:
    world.config = config(rules=DEFAULT_RULES[:1])
    for index in range(205):
        await world.scenario(key(f"S{index}"))
        await world.run(T0, "FAILED", key(f"S{index}"), length=SECOND)
    await world.step(T0 + SECOND)
    await world.step(T0 + 12 * SECOND)
    (one,) = await world.notifications()
    assert isinstance(one.notice, GroupNotice)
    assert (len(one.notice.alerts), one.notice.truncated) == (200, 5)


async def test_a_reload_that_moves_routes_sends_nothing_again_and_a_new_receiver_hears(world: World) -> None:
    await ring(world, minutes(0))
    await steps(world, minutes(0), minutes(1))
    moved = tree(routes=(Route("other", (parse_matcher("project=OTHER"),)),))
    world.config = config(route=moved, receivers=(*world.config.receivers, Receiver("other", (channel("o", "other"),))))
    assert await steps(world, minutes(1), minutes(20)) == []
    world.config = config(
        route=tree(routes=(Route("other", (parse_matcher("project=SALES"),)),)), receivers=world.config.receivers
    )
    assert await steps(world, minutes(20), minutes(40)) == [(20, "o", "first")]


async def test_a_kept_end_is_forgotten_when_the_alert_rings_again(world: World) -> None:
    world.config = config(
        rules=(*TURNS_TOLD, Rule("Other", "failed", after=5)),
        receivers=(Receiver("ops", (channel("a", resolve_what_was_sent=True),)),),
    )
    await ring(world, minutes(0))
    await steps(world, minutes(0), minutes(1))
    await silence(world, "project=SALES", minutes(1), minutes(30))
    await heal(world, minutes(3))
    await steps(world, minutes(3), minutes(12))
    await ring(world, minutes(13))
    assert await steps(world, minutes(13), minutes(60.5)) == []  # still firing, as the channel was told
    await heal(world, minutes(61))
    assert await steps(world, minutes(61), minutes(70)) == [(65, "a", "resolved")]


@pytest.mark.e2e
async def test_of_ten_thousand_silences_the_right_one_holds_and_a_restart_keeps_them(world: World) -> None:
    row = {"starts_at": T0, "ends_at": T0 + minutes(6), "created_by": "me", "comment": ""}
    rows = [row | {"id": f"{n:032}", "matchers": (f'scenario=~"S{n}|T{n}"', 'project="SALES"')} for n in range(10_000)]
    await world.store.write(lambda c: c.execute(silences_table.insert(), rows) and None)
    for name in ("T9999", "T10000"):
        await ring(world, minutes(0), name)
    await world.restart(T0 + 2 * SECOND)
    assert await steps(world, minutes(0.1), minutes(1)) == [(0, "ops/slack", "first")]
    await ring(world, minutes(1), "S7")
    assert await steps(world, minutes(1.1), minutes(5.9)) == []
    assert await steps(world, minutes(6), minutes(12)) == [(10, "ops/slack", "new_alerts")]


async def test_a_hundred_tags_are_one_label_that_rules_and_routes_match(world: World) -> None:
    tags = tuple(f"tag-{n:03}" for n in range(100))
    tagged = parse_matchers('tags=~".*,tag-057,.*"')
    world.config = config(
        rules=(
            Rule("Tagged", "failed", match=tagged),
            Rule("Other", "failed", match=parse_matchers('tags=~".*,tag,.*"')),
        ),
        route=tree(routes=(Route("hundred", tagged, group_by=("...",)),)),
        receivers=(Receiver("ops", ()), Receiver("hundred", (channel("h", "hundred"),))),
    )
    await world.scenario(key(), tags=tags)
    run = Run(key(), "r", T0, T0 + SECOND, "FAILED", "temporal")
    failed = world.event(EventName.RUN_FAILED, run, T0)
    await world.write_run(run, [replace(failed, scenario=ScenarioFacts("NIGHTLY", "Nightly", tags))])
    await world.step(T0 + SECOND)
    assert await steps(world, minutes(0.1), minutes(1)) == [(0, "h", "first")]
    assert [one.labels["tags"] for one in await world.every_alert()] == [f",{','.join(tags)},"]


async def test_every_reason_stands_in_a_row_a_log_line_and_a_counter(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """One timeline through all nine; what says nothing new is logged only where every detail is wanted."""
    caplog.set_level(logging.DEBUG, "tocsin.decide.decide")
    inhibit = InhibitRule(parse_matchers("alertname=NodeDown"), parse_matchers("project=I"), ("dss_node",))
    world.config = config(
        rules=tuple(rule for rule in DEFAULT_RULES if rule.kind != "common_cause"),
        inhibit_rules=(inhibit,),
        time_intervals=(MORNING,),
        receivers=(Receiver("ops", (channel("ops/slack"),)), Receiver("nobody", ())),
        route=tree(
            routes=(
                Route(matchers=parse_matchers("project=M"), mute_time_intervals=("morning",)),
                Route("nobody", parse_matchers("project=N")),
            )
        ),
    )
    reasons = {
        "first",
        "new_alerts",
        "resolved",
        "repeat",
        "silenced",
        "inhibited",
        "muted_time",
        "no_change",
        "no_channel",
    }

    def counted(metric: str, **labels: str) -> dict[str, float]:
        samples = next(one for one in world.registry.collect() if one.name == metric).samples
        return {
            one.labels["reason"]: one.value
            for one in samples
            if one.name.endswith("_total") and labels.items() <= one.labels.items()
        }

    assert counted("tocsin_decisions", stage="flush") == dict.fromkeys(
        reasons | {"acknowledged", "digest", "escalated", "failover", "waiting", "flapping"}, 0
    )
    assert (
        counted("tocsin_notifications_suppressed").items()
        >= dict.fromkeys(reasons - {"first", "new_alerts", "resolved", "repeat"}, 0).items()
    )
    await silence(world, "project=S", minutes(0), HOUR)
    await world.down(T0 - minutes(3))
    with capture_logs() as lines:
        for project in ("A", "I", "M", "N", "S"):
            await world.scenario(key("X", project))
            await world.run(T0, "FAILED", key("X", project), length=SECOND)
        await world.step(T0 + SECOND)
        await steps(world, minutes(0.1), minutes(1))
        await world.scenario(key("Y", "A"))
        await world.run(T0 + minutes(1), "FAILED", key("Y", "A"), length=SECOND)
        await steps(world, minutes(2), minutes(270))
        await world.run(T0 + minutes(270), "SUCCESS", key("Y", "A"), length=SECOND)
        await steps(world, minutes(271), minutes(280))
    rows = {made.reason.value for made in await world.decisions() if made.stage is Stage.FLUSH}
    assert rows == reasons
    assert {line["reason"] for line in lines if line["event"] == "decision" and line["stage"] == "flush"} == reasons
    assert {reason for reason, count in counted("tocsin_decisions", stage="flush").items() if count} == reasons
    assert {reason for reason, count in counted("tocsin_notifications_suppressed").items() if count} == (
        reasons - {"first", "new_alerts", "resolved", "repeat"}
    )
