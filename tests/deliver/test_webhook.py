import asyncio
import base64
import gzip
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import jsonschema
import pytest
import uvloop
from aiohttp import web
from yarl import URL

from tests.deliver.builders import NOW, HandClock, Inbox, Plain, alert, config, event, group, hook, owed, run
from tocsin import __version__
from tocsin.config.model import Channel
from tocsin.deliver.outgoing import Facts, Outgoing
from tocsin.deliver.result import Cause, SendResult, failed, refused
from tocsin.deliver.webhook import Webhook, env_proxy
from tocsin.model.alert import EndReason
from tocsin.model.cloudevent import event_schema
from tocsin.model.notification import AttemptOutcome, EventNotice, Notification, SummaryNotice
from tocsin.model.run import Details, RunError


@pytest.fixture
async def send(clock: HandClock) -> AsyncIterator:
    opened: list[Webhook] = []

    async def send(channel: Channel, one: Notification | None = None, details=None) -> SendResult:
        opened.append(Webhook(channel, clock))
        return await opened[-1].send(Outgoing(one or owed(), config(channel), Facts(details or {})))

    yield send
    for transport in opened:
        await transport.close()


async def test_an_event_is_one_structured_cloudevent_with_its_details(send, inbox: Inbox) -> None:
    one = owed()
    assert isinstance(one.notice, EventNotice)
    assert one.notice.event.run
    key = one.notice.event.run.key
    await send(hook(inbox.url), one, {key: Details(key, NOW, RunError("boom", step="build"))})
    (got,) = inbox.received
    document = json.loads(got.body)
    jsonschema.validate(document, event_schema())
    assert got.headers["Content-Type"] == "application/cloudevents+json"
    assert document["type"] == "tocsin.run.failed"
    assert document["data"]["error"]["message"] == "boom"
    assert got.headers["User-Agent"] == f"tocsin/{__version__}"


async def test_a_group_is_what_alertmanager_posts(send, inbox: Inbox) -> None:
    await send(hook(inbox.url), owed(group(alert(1), alert(2, ended=True))))
    document = json.loads(inbox.received[0].body)
    assert inbox.received[0].headers["Content-Type"] == "application/json"
    assert {name: value for name, value in document.items() if name != "alerts"} == {
        "version": "4",
        "groupKey": "{}:{project}",
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "ops",
        "notification_reason": "first notification",
        "groupLabels": {"project": "SALES"},
        "commonLabels": {"alertname": "ScenarioFailed", "severity": "warning", "dss_node": "prod", "project": "SALES"},
        "commonAnnotations": {"count": "1"},
        "externalURL": "https://tocsin.example.com",
    }
    assert [(one["status"], one["startsAt"], one["endsAt"]) for one in document["alerts"]] == [
        ("firing", "2026-03-01T11:30:00.000Z", "0001-01-01T00:00:00Z"),
        ("resolved", "2026-03-01T11:30:00.000Z", "2026-03-01T11:59:00.000Z"),
    ]


async def test_an_alert_says_its_first_error_how_many_runs_and_how_it_ended(send, inbox: Inbox) -> None:
    key = run().key
    firing, ended = replace(alert(1), run=key, count=3), replace(alert(2, ended=True), end_reason=EndReason.BY_HAND)
    read = {key: Details(key, NOW, RunError("disk full", title="Job failed", step="Build"))}
    await send(hook(inbox.url), owed(group(firing, ended)), read)
    rings, over = (one["annotations"] for one in json.loads(inbox.received[0].body)["alerts"])
    assert {name: rings.get(name) for name in ("first_error", "failed_step", "count", "end_reason")} == {
        "first_error": "Job failed: disk full",
        "failed_step": "Build",
        "count": "3",
        "end_reason": None,
    }
    assert (over["count"], over["end_reason"]) == ("1", "by_hand")


async def test_a_group_shows_at_most_two_hundred_alerts_and_says_how_many_it_leaves_out(send, inbox: Inbox) -> None:
    await send(hook(inbox.url), owed(group(*(alert(n, ended=True) for n in range(230)))))
    document = json.loads(inbox.received[0].body)
    assert (len(document["alerts"]), document["truncatedAlerts"], document["status"]) == (200, 30, "resolved")


async def test_a_summary_is_a_cloudevent_of_its_own_type(send, inbox: Inbox) -> None:
    one = owed(SummaryNotice("prod", NOW - timedelta(hours=2), NOW, {"FAILED": 3}, (event(),)))
    await send(hook(inbox.url), one)
    document = json.loads(inbox.received[0].body)
    assert (document["type"], document["id"], document["source"]) == ("tocsin.summary", one.id, "/nodes/prod")
    assert document["data"]["runs_by_outcome"] == {"FAILED": 3}
    assert document["data"]["worst"][0]["type"] == "tocsin.run.failed"


@pytest.mark.parametrize(
    ("secret", "key"),
    [("plain secret\n", b"plain secret"), ("whsec_" + base64.b64encode(b"\x00key").decode(), b"\x00key")],
)
async def test_a_body_is_signed_as_standard_webhooks_says(send, inbox: Inbox, secret: str, key: bytes) -> None:
    one = owed()
    await send(hook(inbox.url, hmac_secret=Plain(secret), headers={"X-Team": Plain("data\n")}), one)
    (got,) = inbox.received
    timestamp = str(int(NOW.timestamp()))
    signed = hmac.new(key, f"{one.id}.{timestamp}.".encode() + got.body, hashlib.sha256).digest()
    assert got.headers["webhook-id"] == one.id
    assert got.headers["webhook-timestamp"] == timestamp
    assert got.headers["webhook-signature"] == f"v1,{base64.b64encode(signed).decode()}"
    assert got.headers["X-Team"] == "data"


async def test_without_a_secret_nothing_is_signed(send, inbox: Inbox) -> None:
    await send(hook(inbox.url))
    assert "webhook-signature" not in inbox.received[0].headers


async def test_a_secret_that_is_not_base64_is_refused_before_anything_is_sent(send, inbox: Inbox) -> None:
    result = await send(hook(inbox.url, hmac_secret=Plain("whsec_!!")))
    assert result.outcome == AttemptOutcome.REFUSED
    assert inbox.received == []


async def test_a_redirect_is_not_followed(send, inbox: Inbox) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=301, headers={"Location": inbox.url + "/elsewhere"})

    inbox.answer = answer
    result = await send(hook(inbox.url))
    assert result.outcome == AttemptOutcome.REFUSED
    assert len(inbox.received) == 1


async def test_what_a_receiver_says_is_noted_without_the_secrets_it_repeats(send, inbox: Inbox) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "7"}, text="slow\r\ndown, key s3cret-token!")

    inbox.answer = answer
    result = await send(hook(inbox.url, headers={"Authorization": Plain("s3cret-token")}))
    assert result == failed("HTTP 429: slow down, key ***!", timedelta(seconds=7), cause=Cause.RATE_LIMITED)


async def test_a_connection_reset_after_the_body_is_tried_again(send, inbox: Inbox) -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.transport
        request.transport.abort()
        return web.Response()

    inbox.answer = answer
    assert (await send(hook(inbox.url))).outcome == AttemptOutcome.FAILED
    assert len(inbox.received) == 1


async def test_nobody_listening_is_a_passing_failure(send) -> None:
    result = await send(hook("http://127.0.0.1:9/hook"))
    assert result == failed("ClientConnectorError: Connection refused", cause=Cause.CONNECTION)


@pytest.mark.e2e
async def test_no_answer_at_all_is_unknown(send, inbox: Inbox) -> None:
    async def answer(_request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    inbox.answer = answer
    result = await send(hook(inbox.url, timeout=timedelta(milliseconds=100)))
    assert result.outcome == AttemptOutcome.UNKNOWN


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_private_addresses_can_be_forbidden_by_number_and_by_name(send, inbox: Inbox, host: str) -> None:
    result = await send(hook(inbox.url.replace("127.0.0.1", host), allow_private=False))
    assert result == refused("the webhook's address is private, and allow_private is off", cause=Cause.URL)
    assert inbox.received == []


@pytest.mark.parametrize("url", ["not a url", "ftp://example.com/x", "http://", ""])
async def test_an_address_that_cannot_be_used_is_refused_without_repeating_it(send, url: str) -> None:
    result = await send(hook(url))
    assert result.outcome == AttemptOutcome.REFUSED
    assert not url or url not in result.note


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b"])
async def test_a_header_cannot_have_a_second_line(send, inbox: Inbox, value: str) -> None:
    result = await send(hook(inbox.url, headers={"X-Team": Plain(value)}))
    assert (result.outcome, result.cause) == (AttemptOutcome.REFUSED, Cause.URL)
    assert inbox.received == []


async def test_own_headers_replace_those_that_say_who_asks_but_not_those_of_the_body(send, inbox: Inbox) -> None:
    own = {"user-agent": "mine", "content-length": "3", "Content-Type": "text/plain", "webhook-id": "other"}
    one = owed()
    await send(hook(inbox.url, headers={name: Plain(value) for name, value in own.items()}), one)
    (got,) = inbox.received
    assert (got.headers["User-Agent"], got.id) == ("mine", one.id)
    assert got.headers["Content-Type"] == "application/cloudevents+json"
    assert int(got.headers["Content-Length"]) == len(got.body) > 3


async def test_a_login_in_the_address_is_sent_as_a_header(send, inbox: Inbox) -> None:
    address = inbox.url.replace("http://", "http://jane:s3cret@")
    await send(hook(address))
    assert inbox.received[0].headers["Authorization"] == "Basic " + base64.b64encode(b"jane:s3cret").decode()
    result = await send(hook(address, headers={"authorization": Plain("Bearer x")}))
    assert (result.outcome, len(inbox.received)) == (AttemptOutcome.REFUSED, 1)


async def test_a_changed_secret_is_used_for_the_next_send_and_the_connection_again(inbox: Inbox, clock) -> None:
    class Rotated(Plain):
        def reveal(self) -> str:
            return next(values)

    values = iter(["Bearer old", "Bearer new"])
    peers = []

    async def answer(request: web.Request) -> web.Response:
        peers.append(request.transport.get_extra_info("peername") if request.transport else None)
        return web.Response(text="ok")

    inbox.answer = answer
    channel = hook(inbox.url, headers={"Authorization": Rotated("")})
    transport = Webhook(channel, clock)
    for _ in range(2):
        assert (await transport.send(Outgoing(owed(), config(channel)))).outcome == AttemptOutcome.DELIVERED
    await transport.close()
    assert [got.headers["Authorization"] for got in inbox.received] == ["Bearer old", "Bearer new"]
    assert peers[0] == peers[1]


async def test_hostile_names_travel_as_data(send, inbox: Inbox) -> None:
    name = "a\r\nX-Evil: 1 <!channel> <b>&\u202e🔥\ud800" + "x" * 10_000
    await send(hook(inbox.url), owed(EventNotice(event(name=name), "nightly")))
    (got,) = inbox.received
    assert json.loads(got.body)["data"]["scenario"]["name"] == name.replace("\ud800", "\ufffd")
    assert "X-Evil" not in got.headers


async def test_no_compressed_answer_is_asked_for_and_none_becomes_a_note(send, inbox: Inbox) -> None:
    async def answer(_request: web.Request) -> web.Response:
        page = gzip.compress(b"<h1>Bad gateway</h1>" * 20)
        return web.Response(status=502, body=page, headers={"Content-Encoding": "gzip"})

    inbox.answer = answer
    result = await send(hook(inbox.url))
    assert inbox.received[0].headers["Accept-Encoding"] == "identity"
    assert result.note == "HTTP 502"


async def test_an_answer_with_control_characters_is_a_clean_note(send, inbox: Inbox) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=500, body=b"a\x00b \xff\xfe \x1b[2Jend")

    inbox.answer = answer
    assert (await send(hook(inbox.url))).note == "HTTP 500: ab \ufffd\ufffd [2Jend"


async def test_a_webhook_follows_the_proxy_of_the_environment_and_no_proxy(
    send, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("all_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("http_proxy", inbox.url.removesuffix("/hook"))
    monkeypatch.setenv("no_proxy", "10.0.0.0/16,10.9.0.0/16:81")
    assert (await send(hook("http://10.9.8.7:82/x"))).outcome == AttemptOutcome.DELIVERED
    assert inbox.received[0].headers["Host"] == "10.9.8.7:82"
    assert env_proxy(URL("http://10.0.1.2/x")) is None
    assert env_proxy(URL("http://10.9.8.7:82/y")) == inbox.url.removesuffix("/hook")


@pytest.mark.e2e
@pytest.mark.parametrize(("status", "outcome"), [(200, AttemptOutcome.DELIVERED), (403, AttemptOutcome.REFUSED)])
async def test_a_body_that_never_comes_does_not_change_what_the_status_says(
    send, inbox: Inbox, status: int, outcome: AttemptOutcome
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(status=status, headers={"Content-Length": "10"})
        await reply.prepare(request)
        await asyncio.sleep(30)
        return reply

    inbox.answer = answer
    assert (await send(hook(inbox.url))).outcome == outcome


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_both_event_loops_tell_the_same(loop, clock: HandClock) -> None:
    async def results() -> list[SendResult]:
        inbox, hang = Inbox(), asyncio.Event()

        async def answer(request: web.Request) -> web.Response:
            if request.path == "/hook/hang":
                await hang.wait()
            if request.path == "/hook/reset" and request.transport:
                request.transport.abort()
            return web.Response(status=503 if request.path == "/hook/busy" else 204)

        inbox.answer = answer
        runner = await inbox.start()
        found = []
        for channel in (
            hook(inbox.url),
            hook(f"{inbox.url}/busy"),
            hook(f"{inbox.url}/reset"),
            hook(f"{inbox.url}/hang", timeout=timedelta(milliseconds=100)),
            hook(inbox.url.replace("127.0.0.1", "localhost"), allow_private=False),
            hook("http://127.0.0.1:9/hook"),
            hook("http://no-such-host.invalid/hook"),
        ):
            transport = Webhook(channel, clock)
            found.append(await transport.send(Outgoing(owed(), config(channel))))
            await transport.close()
        hang.set()
        await runner.cleanup()
        return found

    with asyncio.Runner(loop_factory=loop) as runner:
        found = runner.run(results())
    assert [(result.outcome.value, result.cause and result.cause.name) for result in found] == [
        ("delivered", None),
        ("failed", "RECEIVER"),
        ("failed", "CONNECTION"),
        ("unknown", "TIMEOUT"),
        ("refused", "URL"),
        ("failed", "CONNECTION"),
        ("failed", "DNS"),
    ]
