"""Labels that the configuration adds: those of nodes, and those made of scenario tags."""

from dataclasses import replace

import pytest

from tests.decide.world import T0, World, channel, config, key, minutes, tree
from tocsin.config.model import DEFAULT_RULES, Node, Receiver, Reporter, Route
from tocsin.decide.explain import explain_run
from tocsin.model.event import labels_of_tags
from tocsin.model.labels import parse_matchers

NODE = Node("prod", "https://dss.example.com/", labels={"env": "live"})
ROUTED = tree(routes=(Route("finance", parse_matchers('team="finance", env="live"')),))
RECEIVERS = tuple(Receiver(name, (channel(f"{name}/x", name),)) for name in ("ops", "finance"))


@pytest.mark.parametrize(
    ("tags", "labels"),
    [
        ((), {}),
        (("daily", "team:finance"), {"team": "finance"}),
        (("team : the finance team ",), {"team": "the finance team"}),
        (("team:url:https://x",), {"team": "url:https://x"}),
        (("team:财务", "équipe:财务"), {"team": "财务"}),
        (("team:sales", "team:finance"), {"team": "finance"}),
        (("team:", ":finance", "team", "Team:sales", "other:x"), {}),
    ],
)
def test_a_tag_with_a_key_of_tag_labels_is_a_label(tags: tuple[str, ...], labels: dict[str, str]) -> None:
    assert labels_of_tags(tags, ("team", "owner")) == labels


async def test_labels_of_node_and_tags_are_on_alerts_and_choose_the_route(world: World) -> None:
    world.config = config(nodes=(NODE,), tag_labels=("team",), receivers=RECEIVERS, route=ROUTED)
    await world.scenario(key(), tags=("daily", "team:finance"))
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    alert = await world.alert()
    assert (alert.labels["env"], alert.labels["team"]) == ("live", "finance")
    await world.step(T0 + minutes(2))
    assert [channel_ for channel_, *_ in await world.told()] == ["finance/x"]


async def test_labels_narrow_rules_and_reporters_by_the_tags_of_the_event(world: World) -> None:
    wanted = parse_matchers('env="live", team="finance"')
    world.config = config(
        nodes=(NODE,), tag_labels=("team",), receivers=RECEIVERS,
        rules=(replace(DEFAULT_RULES[0], match=wanted),), reporters=(Reporter("each", "ops", match=wanted),),
    )  # fmt: skip
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    assert (await world.alerts(), await world.notifications()) == ([], [])
    explained = await world.store.read(explain_run, key(), None, world.config)
    assert explained is not None
    assert {item.why for item in explained.not_fired} == {"""it needs team="finance", and team is ''"""}


async def test_a_reload_with_other_labels_routes_what_fires_anew(world: World) -> None:
    await world.scenario(key(), tags=("team:finance",))
    world.config = config(receivers=RECEIVERS, route=ROUTED)
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    world.config = config(nodes=(NODE,), tag_labels=("team",), receivers=RECEIVERS, route=ROUTED)
    await world.step(T0 + minutes(1))
    await world.step(T0 + minutes(2))
    assert [channel_ for channel_, *_ in await world.told()] == ["finance/x"]


async def test_the_labels_of_a_node_are_on_its_own_alert(world: World) -> None:
    world.config = config(nodes=(NODE,))
    await world.down(T0)
    await world.step(T0)
    await world.step(T0 + minutes(3))
    assert (await world.alert()).labels["env"] == "live"
