"""Channels that do not deliver: told through the others, once, until they deliver again. Decider and sender at work."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

import pytest
from prometheus_client import CollectorRegistry

from tests.decide.world import T0, World, channel, config, key, tree
from tests.deliver.builders import HandClock
from tocsin.config.model import Channel, MetricsConfig, Receiver, Reporter, Route
from tocsin.decide.decide import resolve_by_hand
from tocsin.deliver.outgoing import Outgoing
from tocsin.deliver.result import SendResult, delivered, failed, refused
from tocsin.deliver.sender import DeliverMetrics, Sender
from tocsin.model.event import EventName
from tocsin.model.labels import parse_matchers
from tocsin.model.notification import GroupNotice
from tocsin.store import deliveries, query

AWAY, LOCKED = failed("HTTP 503"), refused("HTTP 401")


@dataclass
class Fleet:
    """A world whose notifications are sent; ``answers`` says how each channel's receiver answers."""

    world: World
    clock: HandClock = field(default_factory=lambda: HandClock(T0))
    answers: dict[str, SendResult] = field(default_factory=dict)
    heard: list[tuple[str, str]] = field(default_factory=list)  # channel, and a state of an alert or an event
    sender: Sender | None = None

    def connect(self, channel: Channel) -> "Line":
        return Line(self, channel.name)

    def begin(self) -> "Fleet":
        metrics = DeliverMetrics(CollectorRegistry())
        self.sender = Sender(
            self.world.store, holder="me", clock=self.clock, metrics=metrics, random=Random(1), connect=self.connect
        )
        return self

    async def fail(self, name: str = "NIGHTLY") -> None:
        await self.world.scenario(key(name))
        await self.world.run(self.clock.now(), "FAILED", key(name), length=timedelta(seconds=1))

    async def last(self, **by: float) -> list[tuple[str, str]]:
        """What is heard of channels while time passes, in the order of the channels' names at each step."""
        assert self.sender
        end, before = self.clock.now() + timedelta(**by), len(self.heard)
        while self.clock.now() < end:
            self.clock.forward(seconds=10)
            await self.world.step(self.clock.now())
            await self.sender.step(self.clock.now(), self.world.config)
            await self.sender.idle()
        return [one for one in self.heard[before:] if ":" in one[1]]


@dataclass
class Line:
    """The way to a receiver that answers as the fleet says."""

    fleet: Fleet
    name: str
    concurrency: int = 1

    async def send(self, outgoing: Outgoing) -> SendResult:
        reason = self.fleet.answers.get(self.name, delivered())
        notice = outgoing.notification.notice
        if reason == delivered() and isinstance(notice, GroupNotice):
            self.fleet.heard += [
                (self.name, f"{one.failing_channel}: {'fails' if one.firing else one.end_reason}")
                for one in notice.alerts
                if one.failing_channel
            ]
        return reason

    async def close(self) -> None:
        pass


@pytest.fixture
async def fleet(world: World) -> AsyncIterator[Fleet]:
    world.config = config(receivers=(Receiver("ops", (channel("slack"), channel("mail"))),))
    fleet = Fleet(world).begin()
    yield fleet
    assert fleet.sender
    await fleet.sender.close(timedelta(0))


async def test_a_channel_that_fails_is_told_to_the_others_once_and_its_end_too(fleet: Fleet) -> None:
    fleet.answers["slack"] = AWAY
    await fleet.fail()
    assert await fleet.last(minutes=1) == []
    assert await fleet.last(minutes=12) == [("mail", "slack: fails")]
    del fleet.answers["slack"]
    assert await fleet.last(minutes=12) == [("mail", "slack: resolved")]
    assert await fleet.world.alerts() == ["ScenarioFailed", "ChannelFailing!resolved"]


async def test_short_troubles_of_a_channel_ring_nothing(fleet: Fleet) -> None:
    for _ in range(3):
        fleet.answers["slack"] = AWAY
        await fleet.fail()
        await fleet.last(minutes=1, seconds=30)
        del fleet.answers["slack"]
        await fleet.last(minutes=6)
    assert await fleet.world.alerts() == ["ScenarioFailed"]


async def test_an_alert_that_a_channel_refuses_rings_at_once(fleet: Fleet) -> None:
    fleet.answers["mail"] = LOCKED
    await fleet.fail()
    assert await fleet.last(minutes=1) == [("slack", "mail: fails")]
    dead = (await fleet.world.store.read(query.list_deliveries, {"state": ["dead"]}, 9)).items
    del fleet.answers["mail"]
    await fleet.world.store.write(deliveries.retry_dead, [one.id for one in dead], fleet.clock.now())
    assert await fleet.last(minutes=10) == [("slack", "mail: resolved")]


async def test_a_reporters_message_that_is_refused_alone_says_nothing_of_the_channel(fleet: Fleet) -> None:
    reporter = Reporter("each", "ops", frozenset({EventName.RUN_FAILED}))
    receivers = (Receiver("ops", (channel("slack"), channel("mail"))),)
    fleet.world.config = config(receivers=receivers, reporters=(reporter,), rules=())
    fleet.answers["mail"] = LOCKED
    await fleet.fail()
    assert await fleet.last(minutes=12) == []
    assert await fleet.world.alerts() == []


@pytest.mark.parametrize("names", [("NIGHTLY", "NIGHTLY"), ("NIGHTLY", "OTHER")], ids=["one scenario", "two scenarios"])
async def test_a_channel_of_reporters_alone_that_refuses_message_after_message_rings(
    fleet: Fleet, names: tuple[str, str]
) -> None:
    reporter = Reporter("each", "ops", frozenset({EventName.RUN_FAILED}))
    receivers = (Receiver("ops", (channel("slack"), channel("mail"))),)
    fleet.world.config = config(receivers=receivers, reporters=(reporter,), rules=())
    fleet.answers["mail"] = LOCKED
    await fleet.fail(names[0])
    assert await fleet.last(minutes=2) == []
    fleet.clock.forward(hours=20)
    await fleet.fail(names[1])
    assert await fleet.last(minutes=1) == [("slack", "mail: fails")]
    del fleet.answers["mail"]
    await fleet.fail(names[0])
    assert await fleet.last(minutes=10) == [("slack", "mail: resolved")]


async def test_refusals_with_a_delivery_between_them_say_nothing_of_the_channel(fleet: Fleet) -> None:
    reporter = Reporter("each", "ops", frozenset({EventName.RUN_FAILED}))
    fleet.world.config = config(receivers=fleet.world.config.receivers, reporters=(reporter,), rules=())
    for answer in (LOCKED, delivered(), LOCKED, delivered()):
        fleet.answers["mail"] = answer
        await fleet.fail()
        assert await fleet.last(minutes=12) == []


async def test_who_hears_by_the_tree_only_of_itself_is_told_by_the_first_route_of_another(fleet: Fleet) -> None:
    receivers = [Receiver(name, (channel(f"{name}/hook", name),)) for name in ("ops", "oncall", "sales")]
    critical = Route("oncall", parse_matchers('severity="critical"'))
    fleet.world.config = config(receivers=tuple(receivers), route=tree(routes=(critical, Route("sales"))))
    fleet.answers |= {"oncall/hook": AWAY, "sales/hook": AWAY}
    await fleet.fail()
    await fleet.world.down(fleet.clock.now())
    await fleet.last(minutes=10)
    assert sorted(fleet.heard) == [("ops/hook", "oncall/hook: fails"), ("ops/hook", "sales/hook: fails")]


async def test_when_the_second_falls_silent_the_first_is_told_where_somebody_still_hears(fleet: Fleet) -> None:
    receivers = (Receiver("ops", (channel("slack"), channel("mail"))), Receiver("sales", (channel("pager", "sales"),)))
    sales = Route("sales", parse_matchers('project="SALES"'), continues=True)
    rest = Route("ops")
    fleet.world.config = config(receivers=receivers, route=tree(routes=(sales, rest)))
    fleet.answers["slack"] = AWAY
    await fleet.fail()
    assert await fleet.last(minutes=12) == [("mail", "slack: fails")]
    fleet.answers["mail"] = AWAY
    await fleet.world.run(fleet.clock.now(), "SUCCESS", length=timedelta(seconds=1))
    assert sorted(await fleet.last(minutes=12)) == [("pager", "mail: fails"), ("pager", "slack: fails")]


async def test_with_nobody_else_to_tell_it_rings_in_the_rows_and_the_status_alone(fleet: Fleet) -> None:
    fleet.world.config = config(receivers=(Receiver("ops", (channel("slack"),)),))
    fleet.answers["slack"] = AWAY
    await fleet.fail()
    assert await fleet.last(minutes=12) == []
    assert await fleet.world.alerts() == ["ScenarioFailed", "ChannelFailing"]
    assert fleet.sender
    assert list(fleet.sender.failing()) == ["slack"]


async def test_a_channel_that_is_taken_away_ends_its_alert(fleet: Fleet) -> None:
    fleet.answers["slack"] = AWAY
    await fleet.fail()
    await fleet.last(minutes=10)
    fleet.world.config = config(receivers=(Receiver("ops", (channel("mail"),)),))
    await fleet.last(minutes=10)
    assert "ChannelFailing!unwatched" in await fleet.world.alerts()


async def test_a_reload_keeps_it_and_by_hand_it_ends_until_there_is_something_new(fleet: Fleet) -> None:
    fleet.answers["slack"] = AWAY
    await fleet.fail()
    await fleet.last(minutes=10)
    fleet.world.config = config(receivers=fleet.world.config.receivers, metrics=MetricsConfig(5))
    await fleet.last(minutes=10)
    assert await fleet.world.alerts() == ["ScenarioFailed", "ChannelFailing"]
    rung = await fleet.world.alert()
    await fleet.world.store.write(resolve_by_hand, rung.id, fleet.clock.now(), fleet.world.config)
    await fleet.last(minutes=12)
    assert await fleet.world.alerts(firing=True) == ["ScenarioFailed"]
    await fleet.fail("OTHER")
    await fleet.last(minutes=8)
    assert await fleet.world.alerts(firing=True) == ["ScenarioFailed", "ScenarioFailed", "ChannelFailing"]


async def test_who_was_told_in_place_of_another_hears_the_end_though_a_reload_comes_first(fleet: Fleet) -> None:
    receivers = tuple(Receiver(name, (channel(f"{name}/hook", name),)) for name in ("ops", "oncall"))
    route = tree(routes=(Route("oncall", parse_matchers('severity="critical"')), Route("ops")))
    fleet.world.config = config(receivers=receivers, route=route)
    fleet.answers["oncall/hook"] = AWAY
    await fleet.world.down(fleet.clock.now())
    assert await fleet.last(minutes=10) == [("ops/hook", "oncall/hook: fails")]
    del fleet.answers["oncall/hook"]
    while "ChannelFailing!resolved" not in await fleet.world.alerts():
        assert await fleet.last(seconds=10) == []
    fleet.world.config = config(receivers=receivers, route=route, metrics=MetricsConfig(5))
    assert ("ops/hook", "oncall/hook: resolved") in await fleet.last(minutes=12)
