"""The deciders' statements on both databases: one long timeline each, and the rows that people ask for."""

from datetime import timedelta

import pytest

from tests.decide.world import T0, World, channel, config, minutes
from tocsin.app import decide
from tocsin.model.config import InhibitRule, Receiver, Reporter
from tocsin.model.event import EventName
from tocsin.model.labels import parse_matcher
from tocsin.model.silence import SilenceState
from tocsin.store import Store, rule_states, silences
from tocsin.store.silences import BadSilence


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
        silences.add, [parse_matcher("project=SALES")], T0, T0 + minutes(30), "me", "work", T0 + minutes(3)
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
    first = await store.write(silences.add, matchers, now - hour, now + hour, "me", "because", now)
    await store.write(silences.add, matchers, now + hour, now + 2 * hour, "me", "", now)
    assert first.starts_at == now
    assert await store.read(silences.active, now) == [first]
    ended = await store.write(silences.expire, first.id, now + hour / 2)
    assert ended
    assert ended.state(now + hour / 2) is SilenceState.EXPIRED
    assert await store.read(silences.active, now + hour / 2) == []
    assert await store.write(silences.expire, first.id, now + hour) == ended
    assert await store.write(silences.expire, "unknown", now) is None


@pytest.mark.parametrize(
    ("matchers", "ends", "author"),
    [([], 1, "me"), (["a=~.*"], 1, "me"), (["a=b"], -1, "me"), (["a=b"], 1, " ")],
)
async def test_a_silence_that_makes_no_sense_is_refused(
    store: Store, matchers: list[str], ends: int, author: str
) -> None:
    parsed = [parse_matcher(text) for text in matchers]
    with pytest.raises(BadSilence):
        await store.write(silences.add, parsed, T0, T0 + ends * timedelta(hours=1), author, "", T0)


async def test_a_state_of_another_version_is_read_as_none(store: Store) -> None:
    world = await World(store).begin()
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    await store.write(lambda c: c.execute(rule_states.rule_states.update().values(state="{}")) and None)
    loaded = await store.read(rule_states.load, {("prod", "SALES", "NIGHTLY")})
    assert [one.state for one in loaded.values()] == [None]
    await world.run(T0 + minutes(3), "SUCCESS")
    await world.step(T0 + minutes(4))
