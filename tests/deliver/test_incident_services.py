"""PagerDuty, Opsgenie and Slack, as emulated servers with the limits of the real ones understand us."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from tests.deliver.builders import NOW, HandClock, Inbox, Plain, alert, config, event, group, owed
from tests.fakedss import eventually
from tocsin.config.model import Channel, OpsgenieConfig, PagerDutyConfig, SlackConfig
from tocsin.deliver.outgoing import Facts, Outgoing
from tocsin.deliver.result import SendResult
from tocsin.deliver.sender import DeliverMetrics, Sender
from tocsin.deliver.transport import connector
from tocsin.model.alert import Acknowledgement
from tocsin.model.notification import AttemptOutcome, EventNotice, GroupNotice, Notice
from tocsin.model.run import Details, Run, RunError, RunKey, ScenarioKey
from tocsin.sim.services import EmulatedOpsgenie, EmulatedPagerDuty, EmulatedSlack, Fault, ServiceReply, service_routes
from tocsin.store import Store, outbox, runs

KEY = "k" * 32


@dataclass
class Services:
    pagerduty: EmulatedPagerDuty
    opsgenie: EmulatedOpsgenie
    slack: EmulatedSlack
    url: str

    def channel(self, kind: str) -> Channel:
        settings: dict[str, Any] = {
            "pagerduty": PagerDutyConfig(Plain(KEY), url=f"{self.url}/pagerduty/v2/enqueue"),
            "opsgenie": OpsgenieConfig(Plain("genie"), url=f"{self.url}/opsgenie"),
            "slack": SlackConfig("C0ALERTS", Plain("xoxb"), api_url=f"{self.url}/slack/api"),
        }
        return Channel(f"ops/{kind}", "ops", timeout=timedelta(seconds=5), **{kind: settings[kind]})


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    def now() -> datetime:
        return datetime.now(UTC)

    found = Services(EmulatedPagerDuty(now, KEY), EmulatedOpsgenie(now, "genie"), EmulatedSlack(now, "xoxb"), "")
    app = web.Application()
    app.add_routes(service_routes(found.pagerduty, found.opsgenie, found.slack))
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


class Line:
    """One channel that keeps what the store would: where its last message stands."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.transport = connector(HandClock())(channel)
        self.sent: dict[str, object] | None = None
        self.attempts = 0

    async def send(self, notice: Notice, facts: Facts | None = None) -> SendResult:
        row = owed(notice, self.channel.name, attempts=self.attempts)
        outgoing = Outgoing(row, config(self.channel), facts or Facts(), sent=self.sent)
        result = await self.transport.send(outgoing)
        self.sent = dict(result.sent) if result.sent is not None else self.sent
        return result


@pytest.fixture
async def line(services: Services) -> AsyncIterator[Callable[..., Line]]:
    lines: list[Line] = []

    def make(kind: str) -> Line:
        lines.append(Line(services.channel(kind)))
        return lines[-1]

    yield make
    for one in lines:
        await one.transport.close()


def failure(error: str, step: str = "Build") -> Facts:
    one = event()
    assert one.run
    return Facts({one.run.key: Details(one.run.key, NOW, RunError(error, step=step), (), "first\nlast of the log")})


def acknowledged(notice: GroupNotice) -> GroupNotice:
    by = Acknowledgement("ann", NOW)
    return replace(notice, alerts=tuple(replace(one, acknowledged=by) for one in notice.alerts))


# --- PagerDuty ----------------------------------------------------------------------------------------------------------


async def test_an_incident_opens_is_updated_acknowledged_and_closes_under_one_key(
    services: Services, line: Callable[..., Line]
) -> None:
    pagerduty = line("pagerduty")
    for notice in (
        group(alert(1)),
        group(alert(1), alert(2, severity="critical"), reason="new_alerts"),
        acknowledged(group(alert(1), alert(2, severity="critical"), reason="repeat")),
        group(alert(1, ended=True), alert(2, ended=True), reason="resolved"),
    ):
        assert (await pagerduty.send(notice)).note == "HTTP 202"
    (incident,) = services.pagerduty.incidents
    assert incident.actions == ["trigger", "trigger", "trigger", "acknowledge", "resolve"]
    assert (incident.status, incident.severity) == ("resolved", "critical")
    assert incident.summary == "Alerts in SALES: 2 firing"


async def test_an_incident_says_where_what_and_since_when_and_links_to_the_pages(
    services: Services, line: Callable[..., Line]
) -> None:
    own = alert(1, team="finance", scenario_name="Nightly load")
    own = replace(own, annotations={**own.annotations, "runbook_url": "https://wiki/x", "owner": "Ann"})
    await line("pagerduty").send(group(own))
    event_ = services.pagerduty.incidents[0].event
    payload = event_["payload"]
    assert payload["source"] == "prod/SALES/S1"
    assert (payload["component"], payload["group"], payload["class"]) == ("Nightly load", "SALES", "ScenarioFailed")
    assert payload["timestamp"] == "2026-03-01T11:30:00.000Z"
    assert {"Team": "finance", "Owner": "Ann", "firing": "1"}.items() <= payload["custom_details"].items()
    assert [link["text"] for link in event_["links"]] == ["Runbook", "Tocsin", "Silence 1 h", "Acknowledge", "History"]
    assert event_["client_url"] == "https://tocsin.example.com"


async def test_two_groups_are_two_incidents_and_a_group_that_fires_again_opens_a_new_one(
    services: Services, line: Callable[..., Line]
) -> None:
    pagerduty = line("pagerduty")
    await pagerduty.send(group(alert(1), key="a"))
    await pagerduty.send(group(alert(2), key="b"))
    await pagerduty.send(group(alert(1, ended=True), key="a"))
    await pagerduty.send(group(alert(1), key="a"))
    assert [incident.status for incident in services.pagerduty.incidents] == ["resolved", "triggered", "triggered"]


@pytest.mark.parametrize(("fault", "outcome", "note"), [
    (Fault(ServiceReply(400, {"status": "invalid event", "errors": ["Invalid routing key"]})), "refused", "Invalid routing key"),
    (Fault(ServiceReply(202, {"status": "error", "message": "later"})), "failed", "HTTP 202: error: later"),
    (Fault(ServiceReply(429, {"message": "slow down"}, {"Retry-After": "7"})), "failed", "HTTP 429"),
    (Fault(ServiceReply(503, {"message": "away"})), "failed", "HTTP 503"),
    (Fault(processed=True, dropped=True), "failed", "Disconnected"),
    (Fault(ServiceReply(302, {}, {"Location": "https://elsewhere"})), "refused", "redirects are not followed"),
])  # fmt: skip
async def test_what_pagerduty_answers_has_the_right_result(
    services: Services, line: Callable[..., Line], fault: Fault, outcome: str, note: str
) -> None:
    services.pagerduty.faults.append(fault)
    pagerduty = line("pagerduty")
    result = await pagerduty.send(group(alert(1)))
    assert result.outcome == AttemptOutcome(outcome)
    assert note in result.note
    if outcome == "failed":  # and the next attempt opens no second incident
        assert (await pagerduty.send(group(alert(1)))).outcome is AttemptOutcome.DELIVERED
        assert len(services.pagerduty.incidents) == 1


async def test_a_wrong_key_is_refused_and_never_in_the_note(services: Services, line: Callable[..., Line]) -> None:
    services.pagerduty.secret = "x" * 32
    services.pagerduty.faults.append(Fault(ServiceReply(400, {"errors": [f"routing key {KEY} is unknown"]})))
    result = await line("pagerduty").send(group(alert(1)))
    assert result.outcome is AttemptOutcome.REFUSED
    assert KEY not in result.note
    assert result.hint == "check the credentials of the channel"


HOSTILE = "<!channel> *x* \u202e\x00 \ud800 \U0001f525 \u0645\u0631\u062d\u0628\u0627 " * 2_500  # 100 kB of everything


@pytest.mark.parametrize("kind", ["pagerduty", "opsgenie", "slack"])
async def test_500_alerts_with_errors_of_100_kb_in_every_script_fit(
    services: Services, line: Callable[..., Line], kind: str
) -> None:
    alerts = [replace(alert(n, scenario_name=f"{n} {HOSTILE}"), annotations={"summary": HOSTILE, "note": HOSTILE})
              for n in range(500)]  # fmt: skip
    result = await line(kind).send(group(*alerts))
    assert result.outcome is AttemptOutcome.DELIVERED, result.note


# --- Opsgenie -----------------------------------------------------------------------------------------------------------


async def test_an_alert_of_opsgenie_opens_gets_a_note_is_acknowledged_and_closes_under_one_alias(
    services: Services, line: Callable[..., Line]
) -> None:
    opsgenie = line("opsgenie")
    for notice in (
        group(alert(1, severity="critical")),
        acknowledged(group(alert(1, severity="critical"), alert(2), reason="new_alerts")),
        group(alert(1, ended=True), alert(2, ended=True), reason="resolved"),
    ):
        assert (await opsgenie.send(notice)).outcome is AttemptOutcome.DELIVERED
    (found,) = services.opsgenie.alerts
    assert (found.status, found.acknowledged, found.count) == ("closed", True, 2)
    assert found.body["priority"] == "P1"
    assert "2 firing" in found.notes[0]
    assert "Resolved: Alerts in SALES: 2 alerts" in found.notes[1]


@pytest.mark.parametrize(("fault", "outcome"), [
    (Fault(ServiceReply(404, {"message": "Alert not found"})), "delivered"),
    (Fault(ServiceReply(422, {"message": "not processable"})), "refused"),
    (Fault(ServiceReply(429, {"message": "later"}, {"Retry-After": "3"})), "failed"),
])  # fmt: skip
async def test_closing_what_opsgenie_no_longer_has_is_no_failure(
    services: Services, line: Callable[..., Line], fault: Fault, outcome: str
) -> None:
    services.opsgenie.faults.append(fault)
    assert (await line("opsgenie").send(group(alert(1, ended=True)))).outcome == AttemptOutcome(outcome)


async def test_what_became_of_a_request_to_opsgenie_is_the_receipt(
    services: Services, line: Callable[..., Line]
) -> None:
    opsgenie = line("opsgenie")
    assert (await opsgenie.send(group(alert(1, ended=True)))).note == "HTTP 202: Alert does not exist"
    services.opsgenie.delayed = 1
    assert (await opsgenie.send(group(alert(1)))).note == "HTTP 202: Created alert"
    services.opsgenie.delayed = 99
    unknown = await opsgenie.send(group(alert(1)))
    assert (unknown.outcome, unknown.note) == (AttemptOutcome.DELIVERED, "HTTP 202")
    services.opsgenie.delayed, services.opsgenie.failing = 0, "The team is over its quota"
    result = await opsgenie.send(group(alert(1)))
    assert (result.outcome, result.note) == (AttemptOutcome.FAILED, "HTTP 202, but then: The team is over its quota")


@pytest.mark.parametrize(("url", "outcome"), [
    ("http://[bad/", "refused"), ("http://" + "a" * 70 + ".example/", "refused"), ("http://127.0.0.1:9/", "failed"),
])  # fmt: skip
async def test_only_an_address_that_can_never_be_used_is_a_dead_letter(
    clock: HandClock, url: str, outcome: str
) -> None:
    channel = Channel("ops/x", "ops", opsgenie=OpsgenieConfig(Plain("genie"), url=url))
    transport = connector(clock)(channel)
    result = await transport.send(Outgoing(owed(group(alert(1)), "ops/x"), config(channel)))
    await transport.close()
    assert result.outcome == AttemptOutcome(outcome), result.note


async def test_a_secret_of_several_words_waits_until_somebody_mends_it(clock: HandClock) -> None:
    channel = Channel("ops/x", "ops", opsgenie=OpsgenieConfig(Plain("genie\nbottle"), url="http://127.0.0.1:9/"))
    transport = connector(clock)(channel)
    result = await transport.send(Outgoing(owed(group(alert(1)), "ops/x"), config(channel)))
    await transport.close()
    assert (result.outcome, result.hint) == (AttemptOutcome.FAILED, "check the credentials of the channel")


class Rotated(Plain):
    """A secret that is another one at each read."""

    reads = 0

    async def read(self) -> str:
        type(self).reads += 1
        return f"{self.value}{self.reads}"


async def test_a_token_that_changed_during_the_send_is_tried_again(services: Services, clock: HandClock) -> None:
    channel = Channel("ops/x", "ops", slack=SlackConfig("C0ALERTS", Rotated("x"), api_url=f"{services.url}/slack/api"))
    transport = connector(clock)(channel)
    assert transport.concurrency == channel.workers
    result = await transport.send(Outgoing(owed(group(alert(1)), "ops/x"), config(channel)))
    await transport.close()
    assert (result.outcome, result.note) == (AttemptOutcome.FAILED, "chat.postMessage: invalid_auth")


# --- Slack --------------------------------------------------------------------------------------------------------------


def roots(services: Services) -> list[str]:
    return [
        item.text for item in services.slack.messages.get("C0ALERTS", ()) if not item.thread_ts and not item.deleted
    ]


def replies(services: Services) -> list[str]:
    return [item.text for item in services.slack.messages.get("C0ALERTS", ()) if item.thread_ts]


async def test_a_group_is_one_message_that_is_edited_with_its_news_in_the_thread(
    services: Services, line: Callable[..., Line]
) -> None:
    slack = line("slack")
    for notice in (
        group(alert(1)),
        group(alert(1), alert(2), reason="new_alerts"),
        group(alert(1), alert(2), reason="repeat"),
        group(alert(1), alert(2, ended=True), reason="resolved"),
        group(alert(1, ended=True), reason="resolved"),
    ):
        assert (await slack.send(notice)).outcome is AttemptOutcome.DELIVERED
    assert len(roots(services)) == 1
    assert roots(services)[0].startswith("\u2705 Resolved: ScenarioFailed of S1")
    assert services.slack.messages["C0ALERTS"][0].edits == 4
    said = replies(services)
    assert [text[0] for text in said] == ["\U0001f534", "\u2705", "\u2705"]
    assert "S2 failed" in said[0]
    await slack.send(group(alert(1)))  # it fires anew: a new message
    assert len(roots(services)) == 2


async def test_a_run_is_one_message_from_its_start_to_its_end_with_its_error_in_the_thread(
    services: Services, line: Callable[..., Line]
) -> None:
    slack = line("slack")
    await slack.send(EventNotice(event(outcome=None), "r"))
    await slack.send(EventNotice(event(), "r"), failure("disk full"))
    assert roots(services) == ["\U0001f534 Nightly load FAILED in SALES on prod: disk full"]
    assert "disk full" in replies(services)[0]
    assert "last of the log" in replies(services)[0]


async def test_a_message_that_somebody_deleted_is_posted_anew(services: Services, line: Callable[..., Line]) -> None:
    slack = line("slack")
    await slack.send(group(alert(1)))
    services.slack.messages["C0ALERTS"][0].deleted = True
    assert (await slack.send(group(alert(1), alert(2), reason="new_alerts"))).outcome is AttemptOutcome.DELIVERED
    assert len(roots(services)) == 1


async def test_a_post_whose_answer_was_lost_is_found_again_and_not_repeated(
    services: Services, line: Callable[..., Line]
) -> None:
    slack = line("slack")
    services.slack.faults.append(Fault(processed=True, dropped=True))
    row = owed(group(alert(1)), slack.channel.name)
    lost = await slack.transport.send(Outgoing(row, config(slack.channel)))
    assert lost.outcome is AttemptOutcome.FAILED
    again = await slack.transport.send(Outgoing(replace(row, attempts=1), config(slack.channel)))
    assert again.outcome is AttemptOutcome.DELIVERED
    assert len(roots(services)) == 1


async def test_an_answer_that_comes_in_pieces_is_read_whole(inbox: Inbox, clock: HandClock) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in (b'{"ok": true, "channel": "C1", ', b'"ts": "17.01", "message": {"text": "', b"x" * 5_000, b'"}}'):
            await response.write(part)
            await asyncio.sleep(0.02)
        return response

    inbox.answer = answer
    channel = Channel("ops/x", "ops", slack=SlackConfig("C1", Plain("t"), api_url=inbox.url))
    transport = connector(clock)(channel)
    result = await transport.send(Outgoing(owed(group(alert(1)), "ops/x"), config(channel)))
    await transport.close()
    assert (result.outcome, result.sent and result.sent["ts"]) == (AttemptOutcome.DELIVERED, "17.01")


async def test_a_reply_that_is_cut_off_makes_no_second_message(services: Services, line: Callable[..., Line]) -> None:
    slack = line("slack")
    services.slack.faults += [Fault(processed=True), Fault(dropped=True)]
    cut = await slack.send(EventNotice(event(), "r"), failure("disk full"))
    assert cut.outcome is AttemptOutcome.FAILED
    assert (await slack.send(EventNotice(event(), "r"), failure("disk full"))).outcome is AttemptOutcome.DELIVERED
    assert (len(roots(services)), len(replies(services))) == (1, 1)


async def test_a_rate_limit_in_the_middle_waits_and_then_replies_once(
    services: Services, line: Callable[..., Line]
) -> None:
    slack = line("slack")
    await slack.send(group(alert(1)))
    services.slack.faults += [Fault(processed=True), Fault(ServiceReply(429, {"ok": False, "error": "ratelimited"},
                                                                 {"Retry-After": "9"}))]  # fmt: skip
    limited = await slack.send(group(alert(1), alert(2), reason="new_alerts"))
    assert (limited.outcome, limited.retry_after) == (AttemptOutcome.FAILED, timedelta(seconds=9))
    assert (await slack.send(group(alert(1), alert(2), reason="new_alerts"))).outcome is AttemptOutcome.DELIVERED
    assert len(roots(services)) == 1
    assert len(replies(services)) == 1


@pytest.mark.parametrize(("error", "hint"), [
    ("channel_not_found", "check the address of the channel: nobody is there"),
    ("not_in_channel", "check the address of the channel: nobody is there"),
    ("invalid_auth", "check the credentials of the channel"),
    ("msg_too_long", "the receiver does not take such a message; read what it said"),
])  # fmt: skip
async def test_a_no_of_slack_in_a_200_is_a_refusal_with_its_reason(
    services: Services, line: Callable[..., Line], error: str, hint: str
) -> None:
    services.slack.faults.append(Fault(ServiceReply(200, {"ok": False, "error": error})))
    result = await line("slack").send(group(alert(1)))
    assert (result.outcome, result.note, result.hint) == (AttemptOutcome.REFUSED, f"chat.postMessage: {error}", hint)


async def test_a_new_token_is_used_for_the_next_edit(services: Services, line: Callable[..., Line]) -> None:
    slack = line("slack")
    await slack.send(group(alert(1)))
    services.slack.secret = "xoxb-new"
    assert (await slack.send(group(alert(1), reason="repeat"))).outcome is AttemptOutcome.REFUSED
    token = slack.channel.slack
    assert token
    assert isinstance(token.token, Plain)
    object.__setattr__(token.token, "value", "xoxb-new")
    assert (await slack.send(group(alert(1), reason="repeat"))).outcome is AttemptOutcome.DELIVERED
    assert len(roots(services)) == 1


# --- through the outbox -------------------------------------------------------------------------------------------------


async def send_all(store: Store, services: Services, kind: str, *notices: GroupNotice, clock: HandClock) -> None:
    """Each by another process: what it knows of the ones before stands in rows."""
    for notice in notices:
        sender = Sender(
            store, holder=str(clock.at), clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1)
        )
        key = f"{notice.group_key}"
        await store.write(outbox.enqueue, [owed(notice, f"ops/{kind}", key, clock.now())])
        await sender.step(clock.now(), config(services.channel(kind)))
        await sender.idle()
        await sender.close(timedelta(0))
        clock.forward(minutes=1)


@pytest.mark.parametrize("kind", ["pagerduty", "opsgenie", "slack"])
async def test_restarts_between_all_sends_change_nothing(
    store: Store, services: Services, clock: HandClock, kind: str
) -> None:
    await send_all(
        store, services, kind,
        group(alert(1)),
        group(alert(1), alert(2), reason="new_alerts"),
        group(alert(1, ended=True), alert(2, ended=True), reason="resolved"),
        clock=clock,
    )  # fmt: skip
    found = {
        "pagerduty": [incident.actions for incident in services.pagerduty.incidents],
        "opsgenie": [[one.status, one.count] for one in services.opsgenie.alerts],
        "slack": [[root[:8]] for root in roots(services)],
    }[kind]
    assert found == {
        "pagerduty": [["trigger", "trigger", "resolve"]],
        "opsgenie": [["closed", 2]],
        "slack": [["\u2705 Resolv"]],
    }[kind]  # fmt: skip


async def test_a_recovery_leads_to_the_run_that_mended_it(store: Store, services: Services, clock: HandClock) -> None:
    ended = alert(1, ended=True)
    key = ScenarioKey("prod", "SALES", "S1")
    own = replace(ended, count=3, run=RunKey(key, "bad", NOW - timedelta(minutes=31)), annotations={
        "summary": "S1 ended FAILED 3 times in a row", "scenario_url": "https://dss.example.com/projects/SALES/scenarios/S1/",
        "run_url": "https://dss.example.com/projects/SALES/scenarios/S1/runs/list/bad",
    })  # fmt: skip
    assert own.ends_at
    good = Run(key, "good", own.ends_at - timedelta(minutes=4), own.ends_at, "SUCCESS")
    other = Run(key, "later", own.ends_at + timedelta(minutes=1), own.ends_at + timedelta(minutes=2), "SUCCESS")
    await store.write(runs.put_runs, [runs.RunRow(run, False, False, NOW) for run in (good, other)])
    await store.write(outbox.enqueue, [owed(group(own, reason="resolved"), "ops/slack", "k", clock.now())])
    sender = Sender(store, holder="me", clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1))
    await sender.step(clock.now(), config(services.channel("slack")))
    await sender.idle()
    await sender.close(timedelta(0))
    (message,) = services.slack.messages["C0ALERTS"]
    assert message.text == "\u2705 Resolved: ScenarioFailed of S1 in SALES on prod, after 29m"
    fields = dict(field["text"].split("\n") for field in message.blocks[1]["fields"])
    assert fields["*Mended by*"] == "run good, started 2026-03-01 11:55:00 UTC, SUCCESS after 4m"
    assert fields["*Lasted*"] == "29m, 3 runs failed"
    assert [(item["text"]["text"], item["url"]) for item in message.blocks[-1]["elements"]] == [
        ("Run in DSS", "https://dss.example.com/projects/SALES/scenarios/S1/runs/list/good"),
        ("Tocsin", "https://tocsin.example.com/runs/prod/SALES/S1/good"),
        ("History", "https://tocsin.example.com/scenarios/prod/SALES/S1"),
    ]


async def test_a_receipt_that_was_never_written_makes_no_second_message(
    store: Store, services: Services, clock: HandClock
) -> None:
    await store.write(outbox.enqueue, [owed(group(alert(1)), "ops/slack", "k", clock.now())])
    settings = config(services.channel("slack"))
    dead = Sender(store, holder="dead", clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1))
    dead._receipts.add = lambda *_: None  # type: ignore[method-assign] # the process is killed before it writes
    await dead.step(clock.now(), settings)
    await eventually(lambda: roots(services))
    clock.forward(minutes=5)
    alive = Sender(store, holder="alive", clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1))
    await alive.step(clock.now(), settings)
    await alive.idle()
    await alive.close(timedelta(0))
    await dead.close(timedelta(0))
    assert len(roots(services)) == 1
    assert services.slack.messages["C0ALERTS"][0].edits == 1


async def test_what_is_wrong_with_a_template_stands_in_the_message_the_log_and_the_receipt(
    services: Services, line: Callable[..., Line], capsys: pytest.CaptureFixture[str]
) -> None:
    result = await line("slack").send(EventNotice(event(), "r", template="{{ nope }}"))
    assert "the template could not be rendered" in result.note
    assert "template_problem" in capsys.readouterr().out
    assert "Note: the template could not" in services.slack.messages["C0ALERTS"][0].blocks[-1]["elements"][0]["text"]


async def test_a_reporters_own_subject_and_text_are_what_slack_shows(
    services: Services, line: Callable[..., Line]
) -> None:
    own = EventNotice(event(), "r", subject="DSS: ${scenarioName} ${outcome}", template="look at *{{ event.project }}*")
    await line("slack").send(own)
    header, section, actions = services.slack.messages["C0ALERTS"][0].blocks
    assert header["text"]["text"] == "\U0001f534 DSS: Nightly load FAILED"
    assert section["text"]["text"] == "look at *SALES*"
    assert actions["elements"][0]["text"]["text"] == "Run in DSS"
