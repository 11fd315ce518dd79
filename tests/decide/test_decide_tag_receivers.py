"""Tags of scenarios that name a further receiver of their alerts."""

from datetime import timedelta

import pytest

from tests.decide.test_decide_flush import heal, ring, steps
from tests.decide.world import T0, World, channel, config, key, minutes, tree
from tocsin.config.model import Receiver, Route, TagReceivers
from tocsin.decide.explain import explain_firing
from tocsin.model.labels import parse_matchers
from tocsin.routing.tree import matching_receivers

NAMES = ("ops", "finance", "the night shift")
RECEIVERS = tuple(Receiver(name, (channel(name, name),)) for name in NAMES)
TAGS = TagReceivers("notify", ("finance", "the night shift"))


def routed(*routes: Route) -> Route:
    return tree(routes=(*routes, *map(TAGS.route, TAGS.allow)))


@pytest.mark.parametrize(
    ("tags", "receivers"),
    [
        ("", ["ops"]),
        (",daily,notify:finance,", ["ops", "finance"]),
        (",notify : finance,", ["ops", "finance"]),
        (",notify:the night shift,notify:finance,", ["ops", "finance", "the night shift"]),
        (",notify:ops,", ["ops"]),
        (",notify:finance2,xnotify:finance,notify:x:finance,Notify:finance,", ["ops"]),
    ],
)
def test_a_tag_adds_the_receivers_that_are_allowed(tags: str, receivers: list[str]) -> None:
    assert matching_receivers(routed(), {"alertname": "A", "tags": tags}) == receivers


def test_routes_go_on_as_without_tags_and_nobody_is_told_twice() -> None:
    root = routed(Route("finance", parse_matchers("project=FIN")), Route("ops", parse_matchers("severity=critical")))
    labels = {"alertname": "A", "tags": ",notify:finance,", "project": "FIN"}
    assert matching_receivers(root, labels) == ["finance"]
    assert matching_receivers(root, {**labels, "project": "X", "severity": "critical"}) == ["ops", "finance"]


async def test_start_and_end_reach_the_receiver_of_the_tag_too(world: World) -> None:
    world.config = config(receivers=RECEIVERS, route=routed(), tag_receivers=TAGS)
    await ring(world, minutes(0))
    assert [where for _, where, _ in await steps(world, minutes(0), minutes(1))] == ["ops"]
    await heal(world, minutes(10))
    await world.scenario(key(), tags=("notify:finance", "notify:ops", "notify:nobody"))
    await world.run(T0 + minutes(20), "FAILED", length=timedelta(seconds=1))
    said = await steps(world, minutes(20), minutes(21))
    assert [where for _, where, why in said if why == "first"] == ["finance"]
    explained = await world.store.read(explain_firing, (await world.alert()).id, world.config, T0 + minutes(30))
    assert explained is not None
    assert [line for line in explained.suppressed if "tag" in line] == [
        f"its tag notify:{name} names a receiver that tag_receivers does not allow" for name in ("nobody", "ops")
    ]
    await world.run(T0 + minutes(31), "SUCCESS", length=timedelta(seconds=1))
    said = await steps(world, minutes(31), minutes(60))
    assert {where for _, where, why in said if why == "resolved"} == {"ops", "finance"}
