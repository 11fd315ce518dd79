"""Replay: what a configuration would have sent for the stored history, beside what was sent."""

import random
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection
from sqlalchemy.dialects.sqlite import insert

from tests.decide.test_decide_acknowledge import ack
from tests.decide.test_decide_causes import steps as until
from tests.decide.test_decide_causes import storm
from tests.decide.test_decide_flush import HOUR, MORNING, silence
from tests.decide.world import T0, World, channel, config, key, minutes, tree
from tocsin.config.model import (
    ABSENT,
    DEFAULT_INHIBIT_RULES,
    DEFAULT_RULES,
    Config,
    Escalation,
    Receiver,
    Reporter,
    Route,
    Rule,
)
from tocsin.decide.decide import resolve_by_hand
from tocsin.decide.replay import Replay, replay_history
from tocsin.model.labels import parse_matchers
from tocsin.model.notification import Notification
from tocsin.model.run import ScenarioKey
from tocsin.store.schema import scenarios

RECEIVERS = tuple(Receiver(name, (channel(f"{name}/a", name), channel(f"{name}/b", name))) for name in ("ops", "call"))


def said(items: list[Notification]) -> list[tuple[datetime, str, str, object]]:
    """Moment, channel and content; a second more or less does not count."""
    return sorted(
        (item.created_at.replace(microsecond=0), item.channel, item.ordering_key, getattr(item.notice, "reason", ""))
        for item in items
    )


def add_scenarios(connection: Connection, keys: list[ScenarioKey]) -> None:
    since = T0 - timedelta(days=30)
    same = {"tags": (), "follows": (), "active": True, "watched_since": since, "watermark": since, "backfilled": True}
    rows = [each._asdict() | same | {"name": each.scenario.title()} for each in keys]
    connection.execute(insert(scenarios).on_conflict_do_nothing(), rows)


async def replayed(world: World, end: timedelta, begin: timedelta = timedelta(0), of: Config | None = None) -> Replay:
    return await world.store.read(replay_history, of or world.config, T0 + begin, T0 + end)


@pytest.mark.parametrize("seed", range(2))
async def test_a_replay_of_the_same_configuration_is_what_was_sent(world: World, seed: int) -> None:
    """A thousand scenarios at random, with silences, acknowledgements, ends by hand, an outage and a restart."""
    chance = random.Random(seed)
    world.config = config(
        receivers=RECEIVERS, inhibit_rules=DEFAULT_INHIBIT_RULES, time_intervals=(MORNING,),
        route=tree(group_interval=minutes(20), escalate=(Escalation(minutes(15), "call"),), routes=(
            Route(ABSENT, parse_matchers('project="P1"'), mute_time_intervals=("morning",)),
            Route("call", parse_matchers('severity="critical"'), continues=True),
        )),
        rules=(*(rule for rule in DEFAULT_RULES if rule.kind != "common_cause"), Rule("Again", "failed", after=2, severity="critical")),
        reporters=(Reporter("each", "call", match=parse_matchers('project="P2"'), condition="outcome != 'SUCCESS'"),),
    )  # fmt: skip
    await world.begin()
    world.decides_at_once = True
    keys = [key(f"S{number}", f"P{number % 7}") for number in range(1000)]
    await world.store.write(add_scenarios, keys)
    now, due = T0, await world.step(T0)
    for _ in range(80):
        at = now + timedelta(seconds=chance.expovariate(1 / 90))
        while due is not None and due <= at:
            due = await world.step(due)
        now, each = at, chance.choice(keys[:40])
        await world.look(now)
        match chance.random():
            case dice if dice < 0.03:
                await silence(world, f"scenario={each.scenario}", now - T0, now - T0 + HOUR)
            case dice if dice < 0.06 and await world.alerts(firing=True):
                alert = chance.choice([alert for alert in await world.every_alert() if alert.firing])
                await world.store.write(resolve_by_hand, alert.id, now, world.config)
            case dice if dice < 0.08 and await world.alerts(firing=True):
                if (alert := await world.alert()).firing and alert.acknowledged is None:
                    await ack(world, now - T0, until=now - T0 + HOUR)
            case dice if dice < 0.09:
                await world.restart(now)
            case _ if each in world.open_runs:
                outcome = chance.choice(("SUCCESS", "SUCCESS", "SUCCESS", "FAILED", "FAILED", "WARNING", "ABORTED"))
                await world.end(now, outcome, each)
            case _:
                await world.start(now, each)
        due = await world.step(now)
    while due is not None and due <= now + 2 * HOUR:
        await world.look(due)
        due = await world.step(due)
    again = await replayed(world, now + 2 * HOUR - T0)
    assert len(again.sent) > 20
    would, sent = said(again.would_send), said(again.sent)
    assert [item for item in would if item not in sent] == [item for item in sent if item not in would] == []
    assert would == sent


async def test_another_configuration_is_told_by_what_it_would_have_sent(world: World) -> None:
    world.decides_at_once = True
    world.config = config(receivers=RECEIVERS)
    await world.step(T0)
    for start in range(3):
        await world.run(T0 + minutes(30 * start), "FAILED")
    now = T0 + minutes(1)
    while now < T0 + 2 * HOUR:
        await world.step(now)
        now += minutes(1)
    calmer = replace(world.config, rules=(replace(DEFAULT_RULES[0], after=3),))
    result = await replayed(world, 2 * HOUR, of=calmer)
    assert [(item.created_at, item.channel) for item in result.would_send] == [
        (T0 + minutes(61) + timedelta(seconds=10), f"ops/{name}") for name in "ab"
    ]
    assert (await replayed(world, 2 * HOUR, -HOUR)).pruned
    assert (await replayed(world, 2 * HOUR, minutes(70), of=calmer)).would_send == []


async def test_a_common_cause_is_replayed_from_the_errors_that_were_read(world: World) -> None:
    world.config = config(rules=(Rule("ScenarioFailed", "failed"), Rule("CommonCause", "common_cause", at_least=5)))
    world.decides_at_once = True
    await world.step(T0)
    end = await storm(world, 12, timedelta(seconds=8))
    await until(world, end, end + minutes(6))
    again = await replayed(world, HOUR)
    assert {name for item in again.sent for name in alert_names(item)} == {"CommonCause"}
    assert [alert_names(item) for item in again.would_send] == [alert_names(item) for item in again.sent]


def alert_names(item: Notification) -> list[str]:
    return sorted(alert.name for alert in getattr(item.notice, "alerts", ()))


async def test_a_replay_of_nothing_is_nothing(world: World) -> None:
    result = await replayed(world, HOUR)
    assert (result.would_send, result.sent, result.events, result.pruned) == ([], [], 0, True)
