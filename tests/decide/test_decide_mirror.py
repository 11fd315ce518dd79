"""Timelines of DSS's own mail reporters: events and their rows in, mails owed out."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.decide.world import T0, World, channel, config, key, minutes
from tests.deliver.builders import Plain
from tocsin.config.model import Channel, Config, DssReportersConfig, Receiver
from tocsin.model.decision import DecisionReason
from tocsin.model.event import Event, EventName, FailedReporter, run_event_id
from tocsin.model.notification import EventNotice, MailOverrides, SummaryNotice
from tocsin.model.scenario import MailReporter
from tocsin.store import events, scenarios
from tocsin.store.schema import events as events_table

MAIL = MailReporter("r1", "nightly mail", condition="outcome != 'SUCCESS'", recipient="a@example.com",
                    subject="${scenarioName}: ${outcome}")  # fmt: skip
START = replace(MAIL, id="r2", name="start mail", phase="START", condition=None)


class Unreadable(Plain):
    def reveal(self) -> str:
        raise FileNotFoundError(2, "No such file")


def mail(name: str = "ops/mail", url: str = "mailto://127.0.0.1?from=t@example.com") -> Channel:
    return channel(name, url=Plain(url))


def mirroring(mode: str = "mirror", *channels: Channel, **more: object) -> Config:
    own = DssReportersConfig(mode, "ops", ("*@example.com",), ("*@example.com",))  # type: ignore[arg-type]
    slack = channel("ops/slack", url=Plain("slack://a/b/c"))
    return config(
        rules=(),
        receivers=(Receiver("ops", (slack, *(channels or (mail(),)))),),
        dss_reporters=replace(own, **more),  # type: ignore[arg-type]
    )


async def have(world: World, *reporters: MailReporter) -> None:
    await world.store.write(scenarios.put_mail_reporters, [(key(), reporters)])


async def told(world: World) -> list[tuple[str, str, str]]:
    return [
        (one.channel, one.notice.reporter, one.notice.event.name.value)
        for one in await world.notifications()
        if isinstance(one.notice, EventNotice)
    ]


async def failure(world: World, of: Event, *, ended: bool = True, name: str = MAIL.name) -> None:
    """DSS says that this reporter could not send."""
    assert of.run
    run = of.run if ended else replace(of.run, end=None, outcome=None)
    said = replace(
        of,
        id=run_event_id(run, EventName.REPORTER_FAILED, name),
        name=EventName.REPORTER_FAILED,
        time=run.end or run.start,
        run=run,
        reporter=FailedReporter(name, "mail-scenario", "no route to host"),
    )
    await world.store.write(events.insert_events, [said])


async def test_active_mail_reporters_tell_starts_and_ends_through_the_mail_channels(world: World) -> None:
    world.config = mirroring("mirror", mail(), mail("ops/second", "mailtos://h?from=t@example.com"))
    await have(world, MAIL, START)
    await world.start(T0)
    await world.step(T0)
    assert await told(world) == [("ops/mail", "start mail", "run.started"), ("ops/second", "start mail", "run.started")]
    await world.end(T0 + minutes(1), "FAILED")
    await world.step(T0 + minutes(1))
    owed = await world.notifications()
    assert [one.channel for one in owed] == ["ops/mail", "ops/second"]
    notice = owed[0].notice
    assert isinstance(notice, EventNotice)
    assert (notice.mail, notice.subject, notice.plain) == (MailOverrides(to=("a@example.com",)), MAIL.subject, "text")
    await world.run(T0 + minutes(5), "SUCCESS")
    await world.step(T0 + minutes(6))
    assert [name for _, name, _ in await told(world)] == ["start mail", "start mail"]
    assert (await world.reasons())[-1] == DecisionReason.CONDITION


async def test_deciding_the_same_events_again_owes_nothing_twice(world: World) -> None:
    world.config = mirroring()
    await have(world, MAIL, START)
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    assert len(await told(world)) == 2
    again = events_table.update().values(processed_at=None, seq=None)
    await world.store.write(lambda c: c.execute(again) and None)
    await world.step(T0 + minutes(2))
    assert await told(world) == []


async def test_who_is_left_out_is_named_in_a_decision(world: World) -> None:
    world.config = mirroring()
    await have(world, replace(MAIL, recipient="a@example.com, eve@example.org", condition="whoKnows == 1"))
    await world.run(T0, "SUCCESS")
    await world.step(T0 + minutes(1))
    decisions = [(one.subject, one.reason, one.note) for one in await world.decisions()]
    assert decisions == [
        ("DSS: nightly mail", DecisionReason.NOT_ALLOWED, "left out: eve@example.org (not allowed)"),
        ("DSS: nightly mail", DecisionReason.CONDITION_ERROR, "the variable 'whoKnows' is not known here"),
    ]
    assert len(await told(world)) == 1


@pytest.mark.parametrize(
    ("settings", "reporters", "expected"),
    [
        (mirroring("mirror", allow_recipients=()), (MAIL,), [DecisionReason.NOT_ALLOWED]),
        (mirroring("mirror", allow_senders=()), (MAIL,), [DecisionReason.NOT_ALLOWED]),
        (mirroring("mirror"), (replace(MAIL, recipient=""),), [DecisionReason.NOT_ALLOWED]),
        (mirroring("mirror", channel("ops/hook", webhook=Plain("http://h/"))), (MAIL,), [DecisionReason.NO_CHANNEL]),
        (mirroring("mirror"), (), []),
        (mirroring("mirror"), None, [DecisionReason.UNKNOWN_REPORTER, DecisionReason.UNKNOWN_REPORTER]),
        (mirroring("off"), (MAIL,), []),
    ],
)
async def test_what_sends_nothing_says_why(
    world: World, settings: Config, reporters: tuple[MailReporter, ...] | None, expected: list[DecisionReason]
) -> None:
    world.config = settings
    if reporters is not None:
        await have(world, *reporters)
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    assert await world.reasons() == expected
    assert await told(world) == []


async def test_a_channel_whose_address_cannot_be_read_now_is_owed_its_mail(world: World) -> None:
    world.config = mirroring("mirror", channel("ops/mail", url=Unreadable("")))
    await have(world, MAIL)
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    assert await told(world) == [("ops/mail", "nightly mail", "run.failed")]


async def test_late_events_are_told_in_the_summary_alone(world: World) -> None:
    world.config = mirroring()
    await have(world, MAIL)
    await world.run(T0 - timedelta(hours=3), "FAILED", late=True)
    await world.step(T0)
    owed = await world.notifications()
    assert [type(one.notice) for one in owed] == [SummaryNotice, SummaryNotice]
    assert (await world.reasons())[0] == DecisionReason.LATE


async def test_fallback_sends_only_what_dss_failed_to_send(world: World) -> None:
    world.config = mirroring("fallback")
    await have(world, MAIL, START)
    ended = await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    assert await told(world) == []
    await failure(world, ended)
    await world.step(T0 + minutes(2))
    assert await told(world) == [("ops/mail", "nightly mail", "run.failed")]
    await failure(world, ended, name="nobody knows it")
    await world.step(T0 + minutes(3))
    assert await told(world) == []
    assert await world.reasons() == [DecisionReason.ENQUEUED, DecisionReason.UNKNOWN_REPORTER]


@pytest.mark.parametrize("together", [False, True])
async def test_a_failure_that_is_seen_before_the_end_waits_for_it(world: World, together: bool) -> None:
    world.config = mirroring("fallback")
    await have(world, MAIL, START)
    run = await world.start(T0)
    started = world.event(EventName.RUN_STARTED, run, T0)
    await failure(world, started, ended=False)
    await failure(world, started, ended=False, name=START.name)
    if not together:
        await world.step(T0 + minutes(1))
        assert await told(world) == [("ops/mail", "start mail", "run.started")]
    await world.end(T0 + minutes(2), "ABORTED")
    await world.step(T0 + minutes(2))
    new = await told(world)
    assert new[-1] == ("ops/mail", "nightly mail", "run.aborted")
    assert len(new) == (2 if together else 1)


async def test_a_thousand_individual_mails_are_bounded(world: World) -> None:
    import json

    world.config = mirroring()
    mails = [{"to": f"u{number}@example.com"} for number in range(1_000)]
    await have(world, replace(MAIL, recipient=json.dumps({"mails": mails})))
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    assert len(await told(world)) == 100
    assert (await world.reasons())[0] == DecisionReason.NOT_ALLOWED
