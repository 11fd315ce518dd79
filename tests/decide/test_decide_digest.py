"""Digests: one summary at given times, of a route's alerts and of a reporter's events."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.decide.test_decide_acknowledge import ack
from tests.decide.test_decide_flush import HOUR, SECOND, heal, ring, silence, steps
from tests.decide.world import T0, World, alert_word, config, key, minutes, tree
from tocsin.config.model import Digest, Reporter, ReporterMail, Rule
from tocsin.deliver.message import build_message
from tocsin.deliver.outgoing import Facts
from tocsin.model.notification import GroupNotice, Notification, SummaryNotice

DAILY = Digest((8 * 60 + 30,))  # T0 is at six: two and a half hours later
CHAT = "ops/slack"


@pytest.mark.parametrize(
    ("digest", "now", "then"),
    [
        (DAILY, "2026-03-02T06:00", "2026-03-02T08:30"),
        (DAILY, "2026-03-02T08:30", "2026-03-03T08:30"),
        (Digest((510, 1020)), "2026-03-02T08:30", "2026-03-02T17:00"),
        (Digest((510,), ((1, 5),)), "2026-03-06T09:00", "2026-03-09T08:30"),
        (Digest((510,), ((1, 5),), "Europe/Paris"), "2026-03-27T09:00", "2026-03-30T06:30"),
        (Digest((150,), location="Europe/Paris"), "2026-03-28T12:00", "2026-03-29T01:00"),  # 02:30 does not exist
        (Digest((150,), location="Europe/Paris"), "2026-10-24T12:00", "2026-10-25T00:30"),  # 02:30 comes twice
        (Digest((0,)), "2026-12-31T00:01", "2027-01-01T00:00"),
        (Digest((1440,), ((0, 0),)), "2026-03-02T12:00", "2026-03-09T00:00"),
    ],
)
def test_moments_are_those_of_the_clocks_of_its_place(digest: Digest, now: str, then: str) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert digest.next_after(moment, "UTC") == datetime.fromisoformat(then).replace(tzinfo=UTC)


def contents(item: Notification) -> list[str]:
    assert isinstance(item.notice, GroupNotice)
    return sorted(alert_word(alert) for alert in item.notice.alerts)


@pytest.fixture
def daily(world: World) -> World:
    world.config = config(route=tree(digest=DAILY), rules=(Rule("A", "failed"), Rule("B", "failed", severity="info")))
    return world


async def test_one_message_tells_what_fires_and_what_ended_meanwhile(daily: World) -> None:
    await ring(daily, minutes(0), "LONG")
    await ring(daily, minutes(5), "SHORT")
    await heal(daily, minutes(30), "SHORT")
    assert await daily.step(T0 + minutes(60)) == T0 + 2.5 * HOUR
    await daily.restart(T0 + 2 * HOUR)
    await daily.step(T0 + 2.5 * HOUR)
    (item,) = await daily.notifications()
    assert contents(item) == ["A", "A!resolved", "B", "B!resolved"]
    assert (item.created_at, item.notice.reason) == (T0 + 2.5 * HOUR, "digest")  # type: ignore[union-attr]
    assert build_message(item.notice, Facts(), daily.config).headline.startswith("Digest: Alerts: 2 firing, 2 resolved")
    await heal(daily, 3 * HOUR, "LONG")
    assert await steps(daily, 3 * HOUR, 26 * HOUR) == []
    await daily.step(T0 + 26.5 * HOUR)
    (item,) = await daily.notifications()
    assert contents(item) == ["A!resolved", "B!resolved"]
    assert await steps(daily, 27 * HOUR, 100 * HOUR) == []


async def test_what_nobody_has_comes_again_and_what_somebody_has_does_not(daily: World) -> None:
    daily.config = config(route=tree(digest=DAILY), rules=(Rule("A", "failed"),))
    await ring(daily, minutes(0))
    said = await steps(daily, minutes(0), 51 * HOUR)
    assert said == [(150, CHAT, "digest"), (150 + 1440, CHAT, "digest"), (150 + 2880, CHAT, "digest")]
    await ack(daily, 51 * HOUR)
    assert await steps(daily, 51 * HOUR, 100 * HOUR) == []


async def test_what_is_silenced_at_its_time_waits_for_the_next(daily: World) -> None:
    await ring(daily, minutes(0))
    await silence(daily, "alertname=~.+", 2 * HOUR, 3 * HOUR)
    assert await steps(daily, minutes(0), 27 * HOUR) == [(150 + 1440, CHAT, "digest")]


async def test_an_outage_over_its_time_sends_it_afterwards(daily: World) -> None:
    await ring(daily, minutes(0))
    await daily.restart(T0 + 4 * HOUR)
    assert await steps(daily, 4 * HOUR, 5 * HOUR) == [(240, CHAT, "digest")]


async def test_a_reporter_keeps_its_events_for_one_summary(world: World) -> None:
    mail = ReporterMail(to=("boss@example.com",))
    nightly = Reporter("nightly", "ops", digest=DAILY, mail=mail)
    world.config = config(rules=(), reporters=(nightly,))
    world.decides_at_once = True
    for name in ("GOOD", "BAD", "MENDED"):
        await world.scenario(key(name))
    await world.step(T0)
    await world.run(T0, "SUCCESS", key("GOOD"))
    await world.run(T0 + minutes(5), "FAILED", key("BAD"))
    await world.run(T0 + minutes(10), "FAILED", key("MENDED"))
    await world.run(T0 + minutes(20), "SUCCESS", key("MENDED"))
    assert await world.step(T0 + minutes(30)) == T0 + 2.5 * HOUR
    assert await world.notifications() == []
    await world.restart(T0 + HOUR)
    await world.step(T0 + HOUR)
    await world.step(T0 + 2.5 * HOUR + SECOND)
    (item,) = await world.notifications()
    assert isinstance(item.notice, SummaryNotice)
    assert (item.notice.runs_by_outcome, item.notice.digest) == ({"SUCCESS": 2, "FAILED": 2}, "nightly")
    assert item.notice.mail is not None
    assert item.notice.mail.to == ("boss@example.com",)
    message = build_message(item.notice, Facts(), world.config)
    assert message.headline == "Digest nightly: 4 runs on prod: 2 FAILED, 2 SUCCESS"
    lines = [line.items[0].title for line in message.sections]
    assert [line.endswith(", and was good later") for line in lines] == [True, False]
    assert await steps(world, 3 * HOUR, 30 * HOUR) == []
    assert set(await world.reasons()) == {"deferred", "digest"}


async def test_what_a_reporter_kept_is_sent_though_it_is_gone_or_its_condition_changed(world: World) -> None:
    world.config = config(
        rules=(), reporters=(Reporter("nightly", "ops", digest=DAILY, condition="outcome == 'FAILED'"),)
    )
    await world.run(T0, "SUCCESS")
    await world.run(T0 + minutes(5), "FAILED")
    await world.step(T0 + minutes(10))
    world.config = config(rules=())
    await world.step(T0 + minutes(20))
    await world.step(T0 + 2.5 * HOUR)
    (item,) = await world.notifications()
    assert isinstance(item.notice, SummaryNotice)
    assert item.notice.runs_by_outcome == {"FAILED": 1}
    assert await world.step(T0 + timedelta(days=2)) is None
