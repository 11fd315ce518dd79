"""Timelines of ``failed`` and ``node_down``: rows in, notifications owed out."""

import json
import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, update

from tests.decide.world import T0, World, channel, config, key, minutes, tree
from tocsin.config.model import DEFAULT_INHIBIT_RULES, DEFAULT_RULES, Config, Flapping, Receiver, Reporter, Route, Rule
from tocsin.decide.decide import resolve_by_hand
from tocsin.model.alert import EndReason
from tocsin.model.decision import DecisionReason
from tocsin.model.event import EventName
from tocsin.model.labels import parse_matcher, parse_matchers
from tocsin.model.notification import EventNotice
from tocsin.store import NotLeader, Store, writer
from tocsin.store.schema import rule_states

SECOND = timedelta(seconds=1)


async def test_a_failure_rings_after_group_wait_and_its_recovery_is_told(world: World) -> None:
    await world.run(T0, "FAILED")
    due = await world.step(T0 + minutes(1))
    assert due == T0 + minutes(1) + 10 * SECOND
    assert await world.told() == []
    await world.step(due)
    assert await world.told() == [("ops/slack", "first", ["ScenarioFailed"])]
    await world.run(T0 + minutes(3), "SUCCESS")
    await world.step(T0 + minutes(4))
    assert await world.told() == []
    await world.step(due + minutes(5))
    assert await world.told() == [("ops/slack", "resolved", ["ScenarioFailed!resolved"])]
    assert await world.step(due + minutes(60)) is None
    assert await world.told() == []


async def test_a_healthy_fleet_is_quiet_and_leaves_no_states(world: World) -> None:
    for hour in range(5):
        await world.run(T0 + minutes(60 * hour), "SUCCESS")
    await world.step(T0 + minutes(300))
    assert await world.alerts() == []
    assert await world.decisions() == []


async def test_further_failures_are_counted_in_one_alert(world: World) -> None:
    for index in range(3):
        await world.run(T0 + minutes(10 * index), "FAILED")
    await world.step(T0 + minutes(30))
    alert = await world.alert()
    assert (alert.count, alert.annotations["summary"]) == (3, "prod: SALES / Nightly ended FAILED 3 times in a row")
    assert alert.starts_at == T0 + minutes(1)
    assert alert.labels == {
        "alertname": "ScenarioFailed",
        "severity": "warning",
        "scenario_name": "Nightly",
        "dss_node": "prod",
        "project": "SALES",
        "scenario": "NIGHTLY",
    }
    assert await world.alerts() == ["ScenarioFailed"]


async def test_the_same_timeline_in_one_batch_or_in_many_makes_the_same_alerts(world: World) -> None:
    world.config = config(rules=(GENERAL,))
    outcomes = ["FAILED", "SUCCESS", "FAILED", "ABORTED", "FAILED", "WARNING", "FAILED"]
    for index, outcome in enumerate(outcomes):
        await world.run(T0 + minutes(10 * index), outcome)
        if index == 2:
            await world.step(T0 + minutes(10 * index + 1))
    await world.step(T0 + minutes(100))
    assert await world.alerts() == ["ScenarioFailed!resolved", "ScenarioFailed!resolved", "ScenarioFailed"]


async def test_a_restart_in_the_middle_changes_nothing(world: World) -> None:
    world.config = config(rules=(replace(DEFAULT_RULES[0], after=3, resolve_after=2),))
    for index, outcome in enumerate(["FAILED", "ABORTED", "FAILED", "FAILED", "SUCCESS", "SUCCESS"]):
        now = T0 + minutes(10 * index)
        await world.run(now, outcome)
        await world.step(now + minutes(1))
        await world.restart(now + minutes(2))
        expected = {3: ["ScenarioFailed"], 4: ["ScenarioFailed"], 5: ["ScenarioFailed!resolved"]}
        assert await world.alerts() == expected.get(index, [])


@pytest.mark.parametrize(("version", "expected"), [(0, "resolved"), (99, "unwatched")])
async def test_what_an_older_version_remembered_is_read_and_what_a_newer_one_did_ends_its_alert(
    world: World, version: int, expected: str
) -> None:
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))

    def rewrite(connection: Connection) -> None:
        state = json.loads(connection.execute(select(rule_states.c.state)).scalar_one())
        state = {name: value for name, value in state.items() if value is not None} | {"forgotten": 1}
        connection.execute(update(rule_states).values(version=version, state=json.dumps(state)))

    await world.store.write(rewrite)
    await world.restart(T0 + minutes(2))
    await world.step(T0 + minutes(2))
    await world.run(T0 + minutes(3), "SUCCESS")
    await world.step(T0 + minutes(4))
    assert await world.alerts() == [f"ScenarioFailed!{expected}"]
    await world.run(T0 + minutes(5), "FAILED")
    await world.step(T0 + minutes(6))
    assert await world.alerts() == [f"ScenarioFailed!{expected}", "ScenarioFailed"]


async def test_a_reload_in_the_middle_sends_nothing_again(world: World) -> None:
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    await world.step(T0 + minutes(2))
    assert len(await world.told()) == 1
    world.config = config()
    await world.step(T0 + minutes(3))
    await world.step(T0 + minutes(8))
    assert await world.told() == []


async def test_a_rule_that_is_taken_away_ends_its_alerts_as_unwatched(world: World) -> None:
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    await world.step(T0 + minutes(2))
    await world.told()
    world.config = config(rules=())
    await world.step(T0 + minutes(3))
    assert await world.alerts() == ["ScenarioFailed!unwatched"]
    await world.step(T0 + minutes(8))
    assert await world.told() == [("ops/slack", "resolved", ["ScenarioFailed!unwatched"])]


def crit_apart(*rules: Rule) -> Config:
    """Critical alerts go to ``crit`` alone, all others to ``ops``; with the shipped inhibit rules."""
    return config(
        rules=rules,
        receivers=(Receiver("ops", (channel("ops"),)), Receiver("crit", (channel("crit", "crit"),))),
        route=tree(routes=(Route("crit", (parse_matcher("severity=critical"),)),)),
        inhibit_rules=DEFAULT_INHIBIT_RULES,
    )


GENERAL = Rule("ScenarioFailed", "failed")
STRICT = Rule("ScenarioFailed", "failed", match=parse_matchers("project=SALES"), severity="critical")


@pytest.mark.parametrize("rules", [(GENERAL, STRICT), (STRICT, GENERAL)])
async def test_a_stricter_rule_of_one_name_pages_and_keeps_the_general_one_quiet(
    world: World, rules: tuple[Rule, Rule]
) -> None:
    world.config = crit_apart(*rules)
    others = [key("B"), key("C", "OTHER")]
    for of in others:
        await world.scenario(of)
    for index, of in enumerate((key(), *others)):
        await world.run(T0 + index * SECOND, "FAILED", of)
    await world.step(T0 + minutes(1))
    await world.step(T0 + minutes(1.5))
    first = ("crit", "first", ["ScenarioFailed", "ScenarioFailed"]), ("ops", "first", ["ScenarioFailed"])
    assert sorted(await world.told()) == list(first)
    await world.run(T0 + minutes(2), "FAILED")  # a further failure turns nothing over
    await world.step(T0 + minutes(4))
    counts = {one.labels["severity"]: one.count for one in await world.every_alert() if one.count > 1}
    assert counts == {"critical": 2, "warning": 2}
    await world.step(T0 + minutes(8))
    assert await world.told() == []
    for of in (key(), *others):
        await world.run(T0 + minutes(9), "SUCCESS", of)
    await world.step(T0 + minutes(11))
    await world.step(T0 + minutes(17))
    ended = [(name, reason, set(alerts)) for name, reason, alerts in sorted(await world.told())]
    assert ended == [(name, "resolved", {"ScenarioFailed!resolved"}) for name in ("crit", "ops")]


async def test_two_thresholds_of_one_rule_are_two_alerts_and_the_milder_gives_way(world: World) -> None:
    world.config = crit_apart(GENERAL, replace(GENERAL, after=3, severity="critical"))
    for index in range(3):
        await world.run(T0 + minutes(10 * index), "FAILED")
        await world.step(T0 + minutes(10 * index + 2))
        await world.step(T0 + minutes(10 * index + 3))
    assert await world.told() == [("ops", "first", ["ScenarioFailed"]), ("crit", "first", ["ScenarioFailed"])]
    assert [one.labels["severity"] for one in await world.every_alert()] == ["warning", "critical"]
    await world.step(T0 + minutes(300))
    assert await world.told() == [("crit", "repeat", ["ScenarioFailed"])]


async def test_a_new_severity_ends_the_alert_and_it_fires_as_what_it_is_now(world: World) -> None:
    world.config = replace(crit_apart(GENERAL), inhibit_rules=())  # else the new alert inhibits the end of the old one
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    await world.step(T0 + minutes(2))
    assert await world.told() == [("ops", "first", ["ScenarioFailed"])]
    world.config = replace(world.config, rules=(replace(GENERAL, severity="critical"),))
    await world.step(T0 + minutes(3))
    old, new = await world.every_alert()
    assert (old.end_reason, new.labels["severity"], new.firing) == (EndReason.UNWATCHED, "critical", True)
    assert new.starts_at == old.starts_at
    await world.step(T0 + minutes(8))
    assert sorted(await world.told()) == [
        ("crit", "first", ["ScenarioFailed"]),
        ("ops", "resolved", ["ScenarioFailed!unwatched"]),
    ]
    await world.run(T0 + minutes(9), "SUCCESS")
    await world.step(T0 + minutes(14))
    assert await world.told() == [("crit", "resolved", ["ScenarioFailed!resolved"])]


async def test_a_streak_goes_on_under_a_new_severity_and_what_was_ended_by_hand_stays_so(world: World) -> None:
    world.config = config(rules=(replace(GENERAL, after=3),))
    await world.run(T0, "FAILED")
    await world.run(T0 + minutes(2), "FAILED")
    await world.step(T0 + minutes(4))
    world.config = config(rules=(replace(GENERAL, after=3, severity="critical"),))
    await world.step(T0 + minutes(5))
    await world.run(T0 + minutes(6), "FAILED")
    await world.step(T0 + minutes(8))
    alert = await world.alert()
    assert (alert.count, alert.labels["severity"]) == (3, "critical")
    await world.store.write(resolve_by_hand, alert.id, T0 + minutes(9), world.config)
    world.config = config(rules=(replace(GENERAL, after=3),))
    await world.step(T0 + minutes(10))
    assert await world.alerts() == ["ScenarioFailed!by_hand"]


async def test_of_two_rules_that_share_an_alert_the_second_holds_it_when_the_first_is_taken_away(world: World) -> None:
    sales = replace(GENERAL, match=parse_matchers("project=SALES"))
    world.config = config(rules=(GENERAL, sales))
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    world.config = config(rules=(sales,))
    await world.step(T0 + minutes(2))
    assert await world.alerts() == ["ScenarioFailed"]
    await world.run(T0 + minutes(3), "SUCCESS")
    await world.step(T0 + minutes(5))
    assert await world.alerts() == ["ScenarioFailed!resolved"]


async def test_a_scenario_that_is_switched_off_or_gone_ends_its_alerts(world: World) -> None:
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    await world.look(T0 + minutes(2), active=False)
    await world.step(T0 + minutes(2))
    assert await world.alerts() == ["ScenarioFailed!deactivated"]
    await world.run(T0 + minutes(3), "FAILED")
    await world.step(T0 + minutes(4))
    assert await world.alerts(firing=True) == ["ScenarioFailed"]  # run by hand while it is off
    await world.look(T0 + minutes(5), gone_at=T0)
    await world.step(T0 + minutes(5))
    assert await world.alerts() == ["ScenarioFailed!deactivated", "ScenarioFailed!unwatched"]


async def test_a_node_rings_after_its_hold_and_ends_with_its_return(world: World) -> None:
    await world.down(T0)
    assert await world.step(T0 + 5 * SECOND) == T0 + minutes(2)
    await world.step(T0 + minutes(2))
    alert = await world.alert()
    assert (alert.name, alert.labels["severity"], alert.firing) == ("NodeDown", "critical", True)
    assert "project" not in alert.labels
    await world.up(T0 + minutes(5))
    await world.step(T0 + minutes(5))
    assert await world.alerts() == ["NodeDown!resolved"]


async def test_a_short_fall_of_a_node_does_not_ring(world: World) -> None:
    await world.down(T0)
    await world.step(T0 + SECOND)
    await world.up(T0 + minutes(1))
    assert await world.step(T0 + minutes(3)) is None
    assert await world.alerts() == []


async def test_reporters_owe_one_notification_a_channel_and_a_replay_owes_nothing_twice(world: World) -> None:
    reporter = Reporter(
        "nightly", "ops", frozenset({EventName.RUN_FAILED, EventName.RUN_FINISHED}), condition="outcome != 'SUCCESS'"
    )
    world.config = config(rules=(), reporters=(reporter,), receivers=(Receiver("ops", (channel("a"), channel("b"))),))
    await world.run(T0, "FAILED")
    await world.run(T0 + minutes(10), "SUCCESS")
    await world.step(T0 + minutes(11))
    owed = await world.notifications()
    assert [(one.channel, type(one.notice)) for one in owed] == [("a", EventNotice), ("b", EventNotice)]
    assert {one.due_at - one.created_at for one in owed} == {15 * SECOND}
    assert await world.reasons() == [DecisionReason.CONDITION]  # the others stand in the outbox
    labels = {"stage": "reporter", "reason": "enqueued"}
    assert world.registry.get_sample_value("tocsin_decisions_total", labels) == 2
    assert world.rung == 1
    suppressed = world.registry.get_sample_value("tocsin_notifications_suppressed_total", {"reason": "condition"})
    assert suppressed == 1


async def test_a_condition_that_cannot_be_read_counts_as_true_and_says_so(world: World) -> None:
    reporter = Reporter("nightly", "ops", frozenset({EventName.RUN_FINISHED}), condition="myVariable == 'x'")
    world.config = config(rules=(), reporters=(reporter,))
    await world.run(T0, "SUCCESS")
    await world.step(T0 + minutes(1))
    assert len(await world.notifications()) == 1
    assert [(made.reason, made.note) for made in await world.decisions()] == [
        (DecisionReason.CONDITION_ERROR, "the variable 'myVariable' is not known here")
    ]


async def test_a_leader_that_was_replaced_decides_nothing(world: World) -> None:
    await world.run(T0, "FAILED")
    await world.store.write(writer.acquire_lease, "other", T0 + minutes(10))
    with pytest.raises(NotLeader):
        await world.step(T0 + minutes(10))
    assert await world.alerts() == []


async def test_a_rule_that_raises_for_one_scenario_stops_no_other(world: World) -> None:
    other = key("OTHER")
    await world.scenario(other)
    broken = Rule("Broken", "overlong", longer_than=timedelta.max)  # overflows when it is added to a start
    world.config = config(rules=(broken, *DEFAULT_RULES), route=tree())
    await world.run(T0, "FAILED")
    await world.run(T0 + minutes(1), "FAILED", other)
    await world.step(T0 + minutes(5))
    assert await world.alerts() == ["ScenarioFailed", "ScenarioFailed"]
    assert (await world.reasons()).count("error") == 2


async def test_a_reload_gives_ringing_alerts_of_all_kinds_the_new_severity(world: World) -> None:
    limit = Rule("Long", "overlong", longer_than=timedelta(minutes=5))
    world.config = config(rules=(limit,))
    await world.start(T0)
    await world.run_until(T0 + minutes(6), T0 + minutes(7))
    assert await world.alerts() == ["Long"]
    world.config = config(rules=(replace(limit, severity="critical"),))
    await world.node(backfilling=True)
    await world.restart(T0 + minutes(8))
    await world.step(T0 + minutes(8))
    old, new = sorted(await world.every_alert(), key=lambda one: one.firing)
    assert (old.firing, new.firing, new.labels["severity"]) == (False, True, "critical")
    await world.node(backfilling=False)
    await world.end(T0 + minutes(9))
    await world.step(T0 + minutes(10))
    assert await world.alerts(firing=True) == []


async def test_what_is_said_of_a_gone_scenario_or_an_unknown_node_rings_nothing(world: World) -> None:
    await world.look(T0, gone_at=T0)
    await world.run(T0, "FAILED")
    await world.down(T0, "other")
    await world.step(T0 + minutes(5))
    assert await world.alerts() == []


async def test_a_later_failure_rings_again_after_one_was_ended_by_hand(world: World) -> None:
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    alert = await world.alert()
    await world.store.write(resolve_by_hand, alert.id, T0 + minutes(2), world.config)
    await world.step(T0 + minutes(3))
    await world.run(T0 + minutes(4), "FAILED")
    await world.step(T0 + minutes(6))
    assert await world.alerts() == ["ScenarioFailed!by_hand", "ScenarioFailed"]
    assert (await world.alert()).starts_at > T0 + minutes(3)


@pytest.mark.parametrize("seed", range(4))
async def test_however_events_are_batched_and_restarts_come_the_history_of_alerts_is_one(
    world: World, seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    world.config = config(rules=(replace(DEFAULT_RULES[0], after=2, resolve_after=2), Rule("Once", "failed")))
    words = ["SUCCESS", "FAILED", "FAILED", "ABORTED", "WARNING"]
    runs = [(key(f"S{index % 3}"), chance.choice(words)) for index in range(45)]
    histories = []
    for place in ("often", "seldom"):
        store = Store(f"sqlite:///{tmp_path / place}.db")
        await store.open()
        mine = await World(store, world.config).begin()
        for index in range(3):
            await mine.scenario(key(f"S{index}"))
        for index, (of, outcome) in enumerate(runs):
            now = T0 + minutes(2 * index)
            await mine.run(now, outcome, of)
            if place == "often" or chance.random() < 0.1:
                await mine.step(now + minutes(1))
            if chance.random() < 0.1:
                await mine.restart(now + minutes(1))
        await mine.step(T0 + minutes(100))
        found = await mine.every_alert()
        histories.append(
            sorted((one.labels["scenario"], one.name, one.starts_at, one.ends_at, one.count) for one in found)
        )
        await store.close()
    assert histories[0] == histories[1]
    assert len(histories[0]) > 5


async def test_what_flaps_says_so_once_over_a_restart_and_ends_once_it_is_steady(world: World) -> None:
    world.config = config(rules=(replace(GENERAL, flapping=Flapping(4, minutes(120), 3)),))
    for index, outcome in enumerate(["FAILED", "SUCCESS"] * 4):
        await world.run(T0 + minutes(10 * index), outcome)
        await world.run_until(T0 + minutes(10 * index + 1), T0 + minutes(10 * index + 9), minutes(2))
        if index == 4:
            await world.restart(T0 + minutes(50))
    told = [(reason, names) for _, reason, names in await world.told()]
    fails, ends = ("first", ["ScenarioFailed"]), ("resolved", ["ScenarioFailed!resolved"])
    assert told[0] == fails
    assert told.count(("flapping", ["ScenarioFailed"])) == 1
    assert told[-1] == ("flapping", ["ScenarioFailed"])
    assert (await world.alert()).annotations[
        "summary"
    ] == "prod: SALES / Nightly is flapping: good and bad runs by turns"
    for index in range(8, 10):
        await world.run(T0 + minutes(10 * index), "SUCCESS")
    await world.run_until(T0 + minutes(92), T0 + minutes(100), minutes(2))
    assert [(reason, names) for _, reason, names in await world.told()] == [ends]


async def test_a_short_run_fires_and_the_next_that_is_not_ends_it(world: World) -> None:
    world.config = config(rules=(Rule("TooShort", "short", below_usual=0.2, min_runs=3),))
    for day in range(1, 5):
        await world.run(T0 - timedelta(days=day), "SUCCESS", length=minutes(30), baseline=True)
    await world.run(T0, "SUCCESS", length=minutes(1))
    await world.step(T0 + minutes(2))
    alert = await world.alert()
    assert alert.annotations["summary"] == "prod: SALES / Nightly took only 1m; usually it takes 30m"
    await world.run(T0 + minutes(10), "FAILED", length=minutes(1))
    await world.step(T0 + minutes(12))
    assert await world.alerts() == ["TooShort"]
    await world.restart(T0 + minutes(15))
    await world.run(T0 + minutes(20), "SUCCESS", length=minutes(25))
    await world.step(T0 + minutes(50))
    assert await world.alerts() == ["TooShort!resolved"]
