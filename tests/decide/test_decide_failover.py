"""Failover: what a receiver does not deliver another one hears too, once."""

import pytest

from tests.decide.test_decide_channels import AWAY, LOCKED, Fleet
from tests.decide.world import World, channel, config, key, minutes
from tests.deliver.builders import Plain
from tocsin.config.model import Failover, PagerDutyConfig, Receiver, Reporter
from tocsin.decide.evaluate import CompiledConfig
from tocsin.decide.failover import fail_over, find_undelivered
from tocsin.model.event import EventName
from tocsin.store import query, schema


@pytest.fixture
async def fleet(world: World) -> Fleet:
    pd = channel("backup/pd", "backup", pagerduty=PagerDutyConfig(Plain("k" * 32)))
    world.config = config(
        receivers=(
            Receiver("ops", (channel("ops/slack"),), Failover("backup", minutes(5))),
            Receiver("backup", (channel("backup/mail", "backup"), pd), Failover("ops", minutes(1))),
        ),
        reporters=(Reporter("each", "ops", on=frozenset({EventName.RUN_FAILED})),),
    )
    return Fleet(world).begin()


async def of(fleet: Fleet, name: str) -> list[str]:
    """The kinds of what was enqueued for a channel, but for what says that a channel fails."""
    found = await fleet.world.store.read(query.list_deliveries, {"channel": [name]}, 50)
    return sorted(item.kind for item in found.items if "hannel" not in item.subject)


async def test_what_is_pending_for_too_long_is_told_elsewhere_once_and_after_a_restart_too(fleet: Fleet) -> None:
    fleet.answers["ops/slack"] = AWAY
    await fleet.fail()
    await fleet.last(minutes=4)
    assert await of(fleet, "backup/mail") == []
    await fleet.world.restart(fleet.clock.now())
    await fleet.last(minutes=3)
    assert await of(fleet, "backup/mail") == ["event", "group"]
    assert await of(fleet, "backup/pd") == ["group"]  # no single events
    await fleet.last(minutes=20)
    assert await of(fleet, "backup/mail") == ["event", "group"]


async def test_a_dead_letter_is_told_elsewhere_at_once(fleet: Fleet) -> None:
    fleet.answers["ops/slack"] = LOCKED
    await fleet.fail()
    await fleet.last(minutes=2)
    assert await of(fleet, "backup/mail") == ["event", "group"]


async def test_a_failover_does_not_fail_over_again(fleet: Fleet) -> None:
    fleet.answers |= {"ops/slack": LOCKED, "backup/mail": AWAY, "backup/pd": AWAY}
    await fleet.fail()
    await fleet.last(minutes=10)
    assert await of(fleet, "ops/slack") == ["event", "group"]


async def test_what_is_delivered_in_time_is_told_nowhere_else(fleet: Fleet) -> None:
    await fleet.fail()
    await fleet.last(minutes=10)
    assert await of(fleet, "backup/mail") == []


async def test_what_is_delivered_while_its_failover_is_decided_is_told_nowhere_else(fleet: Fleet) -> None:
    fleet.answers["ops/slack"] = AWAY
    await fleet.fail()
    await fleet.last(minutes=4)
    world, later = fleet.world, fleet.clock.now() + minutes(2)
    compiled = CompiledConfig(world.config)
    undelivered = await world.store.read(find_undelivered, compiled, later)
    assert len(undelivered) == 2
    done = schema.outbox.update().values(state="delivered", settled_at=later)
    await world.store.write(lambda c: c.execute(done.where(schema.outbox.c.id == undelivered[0].id)).rowcount)
    result = await world.store.write(fail_over, compiled, later, undelivered)
    assert {item.note for item in result.decisions} == {undelivered[1].reason}
    assert len(await of(fleet, "backup/mail")) == 1
    result = await world.store.write(fail_over, compiled, later, undelivered)  # and not a second time
    assert result.decisions == []


async def test_who_stood_in_is_told_the_end_once_though_the_first_channel_works_again(fleet: Fleet) -> None:
    fleet.answers["ops/slack"] = AWAY
    await fleet.fail()
    await fleet.last(minutes=7)
    assert await of(fleet, "backup/pd") == ["group"]
    fleet.answers.clear()
    await fleet.last(minutes=2)
    await fleet.world.restart(fleet.clock.now())
    await fleet.fail("OTHER")  # of the same group: no news for who stood in
    await fleet.last(minutes=10)
    assert await of(fleet, "backup/pd") == ["group"]
    for name in ("NIGHTLY", "OTHER"):
        await fleet.world.run(fleet.clock.now(), "SUCCESS", key(name))
    await fleet.last(minutes=10)
    assert await of(fleet, "backup/pd") == ["group", "group"]


async def test_who_stood_in_is_told_the_end_once_while_the_first_channel_is_still_away(fleet: Fleet) -> None:
    fleet.answers["ops/slack"] = AWAY
    await fleet.fail()
    await fleet.last(minutes=7)
    await fleet.world.run(fleet.clock.now(), "SUCCESS")
    await fleet.last(minutes=30)
    assert await of(fleet, "backup/pd") == ["group", "group"]
