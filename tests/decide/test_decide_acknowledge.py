"""Acknowledged alerts: repeats stop, services that keep incidents are told, and the end is told to all."""

from datetime import timedelta

import pytest

from tests.decide.test_decide_flush import HOUR, heal, ring, steps
from tests.decide.world import T0, World, channel, config, minutes
from tests.deliver.builders import Plain
from tocsin.config.model import PagerDutyConfig, Receiver
from tocsin.decide.decide import acknowledge
from tocsin.model.alert import Acknowledgement

PD, CHAT = "ops/pd", "ops/slack"


@pytest.fixture
def paged(world: World) -> World:
    pd = channel(PD, pagerduty=PagerDutyConfig(Plain("k" * 32)))
    world.config = config(receivers=(Receiver("ops", (channel(CHAT), pd)),))
    return world


async def ack(world: World, at: timedelta, until: timedelta | None = None) -> None:
    alert = await world.alert()
    by = Acknowledgement("ann", T0 + at, None if until is None else T0 + until)
    assert await world.store.write(acknowledge, alert.id, by, T0 + at)


async def test_repeats_stop_and_only_incident_services_are_told(paged: World) -> None:
    await ring(paged, minutes(0))
    assert await steps(paged, minutes(0), minutes(20)) == [(0, CHAT, "first"), (0, PD, "first")]
    await ack(paged, minutes(21))
    assert await steps(paged, minutes(21), minutes(22)) == [(21, PD, "acknowledged")]
    assert await steps(paged, minutes(22), 12 * HOUR) == []
    await heal(paged, 12 * HOUR + minutes(1))
    assert sorted(where for _, where, why in await steps(paged, 12 * HOUR + minutes(1), 13 * HOUR) if why == "resolved") == [
        PD, CHAT,
    ]  # fmt: skip


async def test_an_acknowledgement_ends_at_its_time_and_by_hand(paged: World) -> None:
    await ring(paged, minutes(0))
    await steps(paged, minutes(0), minutes(20))
    await ack(paged, minutes(21), until=HOUR)
    said = await steps(paged, minutes(21), 5 * HOUR)
    assert [(where, why) for _, where, why in said] == [(PD, "acknowledged"), (PD, "acknowledged"), (CHAT, "repeat")]
    await ack(paged, 5 * HOUR)
    alert = await paged.alert()
    assert await paged.store.write(acknowledge, alert.id, None, T0 + 5 * HOUR + minutes(1))
    await steps(paged, 5 * HOUR, 5 * HOUR + minutes(2))
    assert (await paged.alert()).acknowledged is None


async def test_another_alert_of_the_group_is_told_all_the_same(paged: World) -> None:
    await ring(paged, minutes(0))
    await steps(paged, minutes(0), minutes(20))
    await ack(paged, minutes(21))
    await steps(paged, minutes(21), minutes(22))
    await ring(paged, minutes(30), "OTHER")
    assert sorted(await steps(paged, minutes(30), minutes(40)))[:2] == [
        (30, PD, "new_alerts"),
        (30, CHAT, "new_alerts"),
    ]


async def test_an_acknowledgement_survives_a_restart_and_what_does_not_fire_has_none(paged: World) -> None:
    await ring(paged, minutes(0))
    await steps(paged, minutes(0), minutes(2))
    await ack(paged, minutes(3))
    await paged.restart(T0 + minutes(3))
    alert = await paged.alert()
    assert alert.acknowledged
    assert alert.acknowledged.by == "ann"
    await heal(paged, minutes(10))
    await steps(paged, minutes(10), minutes(20))
    assert await paged.store.write(acknowledge, alert.id, Acknowledgement("bob", T0), T0 + minutes(21)) is None
