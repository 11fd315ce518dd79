"""The deciders' statements on both databases: one long timeline each, and the rows that people ask for."""

from datetime import timedelta

import pytest

from tests.decide.world import T0, World, channel, config, key, minutes
from tocsin.config.model import DEFAULT_RULES, InhibitRule, Receiver, Reporter, Rule
from tocsin.decide import decide
from tocsin.model.alert import SilenceState
from tocsin.model.event import END_EVENTS, EventName
from tocsin.model.labels import parse_matcher
from tocsin.store import Store, alerts, rule_states, schema
from tocsin.store.alerts import BadSilence


async def test_a_timeline_of_failures_silences_and_downtimes(store: Store) -> None:
    inhibit = InhibitRule(
        (parse_matcher('alertname="NodeDown"'),), (parse_matcher('alertname=~"Scenario.*"'),), ("dss_node",)
    )
    reporter = Reporter("all", "ops", frozenset({EventName.RUN_FAILED}))
    world = World(
        store,
        config(
            inhibit_rules=(inhibit,),
            reporters=(reporter,),
            receivers=(Receiver("ops", (channel("a", resolve_what_was_sent=True), channel("b"))),),
        ),
    )
    await world.begin()
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    assert len(await world.notifications()) == 2
    await world.step(T0 + minutes(2))
    assert await world.told() == [("a", "first", ["ScenarioFailed"]), ("b", "first", ["ScenarioFailed"])]
    silence = await store.write(
        alerts.insert_silence, [parse_matcher("project=SALES")], T0, T0 + minutes(30), "me", "work", T0 + minutes(3)
    )
    await world.run(T0 + minutes(5), "SUCCESS")
    await world.step(T0 + minutes(7))
    assert await world.told() == []
    await world.step(T0 + minutes(32))
    assert await world.told() == [("a", "resolved", ["ScenarioFailed!resolved"])]
    await world.step(T0 + minutes(40))
    await world.down(T0 + minutes(41))
    await world.step(T0 + minutes(41))
    await world.step(T0 + minutes(43))
    assert await world.alerts(firing=True) == ["NodeDown"]
    down = await world.alert()
    ended = await store.write(decide.resolve_by_hand, down.id, T0 + minutes(44), world.config)
    assert ended
    assert not ended.firing
    assert await store.write(decide.resolve_by_hand, down.id, T0 + minutes(44), world.config) is None
    await world.step(T0 + minutes(50))
    assert await world.alerts() == ["ScenarioFailed!resolved", "NodeDown!by_hand"]
    assert silence.state(T0 + minutes(50)) is SilenceState.EXPIRED


async def test_silences_are_added_and_expired(store: Store) -> None:
    now, hour = T0, timedelta(hours=1)
    matchers = [parse_matcher('project=~"S.*"')]
    first = await store.write(alerts.insert_silence, matchers, now - hour, now + hour, "me", "because", now)
    await store.write(alerts.insert_silence, matchers, now + hour, now + 2 * hour, "me", "", now)
    assert first.starts_at == now
    assert await store.read(alerts.active_silences, now) == [first]
    ended = await store.write(alerts.end_silence, first.id, now + hour / 2)
    assert ended
    assert ended.state(now + hour / 2) is SilenceState.EXPIRED
    assert await store.read(alerts.active_silences, now + hour / 2) == []
    assert await store.write(alerts.end_silence, first.id, now + hour) == ended
    assert await store.write(alerts.end_silence, "unknown", now) is None


@pytest.mark.parametrize(
    ("matchers", "ends", "author"), [([], 1, "me"), (["a=~.*"], 1, "me"), (["a=b"], -1, "me"), (["a=b"], 1, " ")]
)
async def test_a_silence_that_makes_no_sense_is_refused(
    store: Store, matchers: list[str], ends: int, author: str
) -> None:
    parsed = [parse_matcher(text) for text in matchers]
    with pytest.raises(BadSilence):
        await store.write(alerts.insert_silence, parsed, T0, T0 + ends * timedelta(hours=1), author, "", T0)


async def test_a_state_of_another_version_is_read_as_none(store: Store) -> None:
    world = await World(store).begin()
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    await store.write(lambda c: c.execute(schema.rule_states.update().values(state="{}")) and None)
    loaded = await store.read(rule_states.load_states, {("prod", "SALES", "NIGHTLY")})
    assert [one.state for one in loaded.values()] == [None]
    await world.run(T0 + minutes(3), "SUCCESS")
    await world.step(T0 + minutes(4))


async def test_a_timeline_of_every_rule_of_time(store: Store) -> None:
    stale = Rule("ScenarioStale", "stale", no_success_for=timedelta(hours=3))
    world = World(store, config(rules=(*DEFAULT_RULES, stale), reporters=(Reporter("all", "ops", END_EVENTS),)))
    await world.begin()
    for day in range(1, 7):
        await world.run(T0 - timedelta(days=day), "SUCCESS", length=minutes(10), baseline=True)
    await world.scenario(key("OTHER"), watched_since=T0 - minutes(100))
    await world.expect(T0, key("OTHER"))
    await world.expect(T0 + minutes(60), key("OTHER"))
    await world.expect(T0, key())
    await world.start(T0 + minutes(1))
    await world.run_until(T0 + minutes(10), T0 + minutes(34), minutes(6))
    assert await world.alerts() == ["ScenarioStale", "ScenarioMissed", "ScenarioOverlong"]
    assert await world.starts(key()) == [(T0, "met")]
    await world.end(T0 + minutes(40), "SUCCESS")
    await world.start(T0 + minutes(61), key("OTHER"))
    await world.end(T0 + minutes(62), "SUCCESS", key("OTHER"))
    await world.run_until(T0 + minutes(64), T0 + minutes(76), minutes(6))
    assert await world.alerts(firing=True) == []
    assert await world.starts(key("OTHER")) == [(T0, "missed"), (T0 + minutes(60), "met")]


async def test_a_stalled_scheduler_and_a_summary(store: Store) -> None:
    world = World(store, config(reporters=(Reporter("all", "ops", END_EVENTS),)))
    await world.begin()
    for index in range(12):
        await world.scenario(key(f"S{index}"))
        await world.expect(T0, key(f"S{index}"))
    await world.run_until(T0 + minutes(12), T0 + minutes(14))
    assert await world.alerts() == ["NodeSchedulerStalled"]
    await world.node(backfilling=True)
    await world.run(T0 - timedelta(days=1), "FAILED", late=True)
    await world.step(T0 + minutes(20))
    await world.node(backfilling=False)
    await world.notifications()
    await world.step(T0 + minutes(21))
    assert [type(one.notice).__name__ for one in await world.notifications()] == [
        "SummaryNotice",
        "GroupNotice",  # of the late failure
    ]
