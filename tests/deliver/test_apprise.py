"""Channels through apprise to real servers: Slack's webhook, generic JSON, and what may not be used."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from apprise.plugins.discord import NotifyDiscord

from tests.deliver.builders import NOW, HandClock, Inbox, Plain, alert, config, event, group, owed
from tests.fakedss.sinks import SlackSink, WebhookSink
from tocsin.config.model import Channel
from tocsin.deliver.outgoing import Facts, Outgoing
from tocsin.deliver.result import Cause, SendResult, failed
from tocsin.deliver.transport import check_channel_url, connector
from tocsin.model.notification import AttemptOutcome, EventNotice, Notification
from tocsin.model.run import Details, RunError

SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/"
Send = Callable[..., Coroutine[None, None, SendResult]]


def channel(url: str, **more: object) -> Channel:
    return Channel(name="ops/x", receiver="ops", url=Plain(url), **({"timeout": timedelta(seconds=5)} | more))  # type: ignore[arg-type]


@pytest.fixture
async def send(clock: HandClock) -> AsyncIterator[Send]:
    opened = []

    async def send(
        channel: Channel,
        one: Notification | None = None,
        facts: Facts | None = None,
        slack_url: str | None = None,
        **more: Any,
    ) -> SendResult:
        opened.append(connector(clock, slack_url=slack_url)(channel))
        return await opened[-1].send(Outgoing(one or owed(), config(channel, **more), facts or Facts()))

    yield send
    for transport in opened:
        await transport.close()


def blocks(sink: WebhookSink) -> list[str]:
    (attachment,) = sink.posts[-1].json["attachments"]
    return [block["text"]["text"] for block in attachment["blocks"]]


async def test_slack_gets_a_header_and_lines_in_its_own_markup(send: Send) -> None:
    async with SlackSink() as sink:
        result = await send(channel(SLACK), slack_url=sink.url)
        assert result.outcome == AttemptOutcome.DELIVERED
        assert sink.posts[0].path == "/hook/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
        header, body = blocks(sink)
        assert header == "Nightly load FAILED in SALES on prod"
        assert "*Outcome:* FAILED\n" in body
        assert "<https://dss.example.com/projects/SALES/scenarios/NIGHTLY/runs/list/x|Run in DSS>" in body


async def test_nothing_from_dss_can_ping_or_format_in_slack(send: Send) -> None:
    evil = "<!channel> <@U123> *bold* @here ``` <https://evil.example.com|click>\u202e" + "y" * 10_000
    one = owed(EventNotice(event(name=evil), "r"))
    assert isinstance(one.notice, EventNotice)
    assert one.notice.event.run
    error = RunError(evil + "\r\nmore", step=evil)
    facts = Facts({one.notice.event.run.key: Details(one.notice.event.run.key, NOW, error, (), evil)})
    async with SlackSink() as sink:
        await send(channel(SLACK), one, facts, sink.url)
        header, body = blocks(sink)
        for text in (header, body):
            assert "<!" not in text
            assert "<@" not in text
            assert "@here" not in text
            assert (
                "evil.example.com|" not in text.replace("&gt;", "").split("<https://evil")[0]
                or "<https://evil" not in text
            )
        assert len(body) <= 3_000
        assert len(header) <= 150
        assert body.count("```") % 2 == 0


async def test_a_slack_group_lists_its_alerts(send: Send) -> None:
    async with SlackSink() as sink:
        await send(
            channel(SLACK), owed(group(*(alert(n) for n in range(20)), alert(30, ended=True))), slack_url=sink.url
        )
        header, body = blocks(sink)
        assert header == "Alerts in SALES: 20 firing, 1 resolved"
        assert "• *20 firing*\nS0, S1, S2, S3, S4, S5, S6, S7 and 12 more" in body
        assert "• *Resolved:* ScenarioFailed of S30 in SALES on prod, after 29m" in body


async def test_a_template_of_the_configuration_is_used_and_a_broken_one_replaced_with_a_note(send: Send) -> None:
    async with SlackSink() as sink:
        own = channel(SLACK, template="short.j2")
        await send(own, slack_url=sink.url, template_texts={"short.j2": "*{{ event.scenario.name }}* {{ error }}"})
        assert blocks(sink)[1] == "*Nightly load*"
        result = await send(own, slack_url=sink.url, template_texts={"short.j2": "{{ nothing.here }}"})
        assert result.outcome == AttemptOutcome.DELIVERED
        assert "the template could not be rendered" in result.note
        assert "_Note: the template could not be rendered: line 1: UndefinedError" in blocks(sink)[1]
        assert "*Outcome:* FAILED" in blocks(sink)[1]


@pytest.mark.parametrize(
    ("status", "text", "outcome"),
    [
        (200, "ok", AttemptOutcome.DELIVERED),
        (200, "<html>a gateway's page</html>", AttemptOutcome.FAILED),
        (403, "invalid_token", AttemptOutcome.REFUSED),
        (404, "channel_not_found", AttemptOutcome.REFUSED),
        (410, "channel_is_archived", AttemptOutcome.REFUSED),
        (429, "rate_limited", AttemptOutcome.FAILED),
        (500, "rollup_error", AttemptOutcome.FAILED),
        (302, "", AttemptOutcome.REFUSED),
    ],
)
async def test_what_slack_answers_is_told_apart(
    send: Send, inbox: Inbox, status: int, text: str, outcome: AttemptOutcome
) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=text, headers={"Location": inbox.url} if status == 302 else None)

    inbox.answer = answer
    result = await send(channel(SLACK), slack_url=inbox.url)
    assert result.outcome == outcome
    assert len(inbox.received) == 1
    if status in (403, 429):
        assert text in result.note


async def test_secrets_of_the_url_are_in_no_note_and_apprises_log_goes_nowhere(
    send: Send, inbox: Inbox, capfd: pytest.CaptureFixture[str]
) -> None:
    async def answer(request: web.Request) -> web.Response:
        said = json.dumps({"you sent": dict(request.headers), "to": str(request.rel_url)})
        return web.Response(status=500, text=said)

    inbox.answer = answer
    root, stream = logging.getLogger(), io.StringIO()
    handler, level = logging.StreamHandler(stream), root.level
    handler.addFilter(lambda record: record.name != "aiohttp.access")  # the test's own server
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    host = inbox.url.removeprefix("http://").removesuffix("/hook")
    url = f"json://planted-user:planted-pass@{host}/planted-path/?+X-Key=planted-header&-q=planted-query"
    result = await send(channel(url))
    root.removeHandler(handler)
    root.setLevel(level)
    assert result.outcome == AttemptOutcome.FAILED
    assert "HTTP 500" in result.note
    assert "you sent" in result.note
    out, err = capfd.readouterr()
    everything = result.note + stream.getvalue() + out + err
    assert "planted" not in everything
    assert "cGxhbnRlZC11c2VyOnBsYW50ZWQtcGFzcw" not in everything
    assert not logging.getLogger("apprise").propagate


async def test_names_that_need_no_proxy_are_no_secrets(
    send: Send, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1,.corp.example.com,10.0.0.0/8")

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=502, text="chat.corp.example.com is away")

    inbox.answer = answer
    result = await send(channel(inbox.url.replace("http", "json")))
    assert "chat.corp.example.com is away" in result.note


async def test_text_services_get_a_title_and_plain_lines(send: Send, inbox: Inbox) -> None:
    await send(channel(inbox.url.replace("http", "json")))
    document = json.loads(inbox.received[0].body)
    assert document["title"] == "Nightly load FAILED in SALES on prod"
    link, outcome, *_ = document["message"].splitlines()
    assert link.startswith("Run in DSS: https://dss.example.com/")
    assert outcome == "Outcome: FAILED"
    assert document["type"] == "failure"


async def test_chats_that_read_markdown_get_it_with_every_name_escaped(send: Send, inbox: Inbox) -> None:
    url = inbox.url.replace("http://", "mmost://").removesuffix("/hook") + "/3ccdd113474722377935511fc85d3dd4"
    await send(
        channel(url, template="markdown"), owed(EventNotice(event(name="**x** @channel <b> [a](http://evil)"), "r"))
    )
    text = json.loads(inbox.received[0].body)["text"]
    assert text.startswith(
        "**\\*\\*x\\*\\* @\u200bchannel \\<b\\> \\[a\\]\\(http://evil\\) FAILED in SALES on prod**\n\n"
    )


async def test_what_is_longer_than_a_service_takes_is_cut_and_arrives(send: Send, inbox: Inbox) -> None:
    host = inbox.url.removeprefix("http://").removesuffix("/hook")
    long = replace(alert(1), annotations={f"note_{n}": f"{n} words " * 50 for n in range(20)})
    many = owed(
        group(*(replace(long, fingerprint=f"{n}", labels={**long.labels, "scenario": f"{n}"}) for n in range(50)))
    )
    assert (
        await send(channel(f"mmost://{host}/{'k' * 26}", template="markdown"), many)
    ).outcome == AttemptOutcome.DELIVERED
    said = json.loads(inbox.received[0].body)["text"]
    assert 3_000 < len(said) <= 4_000
    assert said.startswith("**Alerts in SALES: 50 firing**")
    assert "and 40 more" in said


async def test_a_send_that_hangs_keeps_its_thread_and_the_next_gets_another(clock: HandClock, inbox: Inbox) -> None:
    hang = asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        if len(inbox.received) == 1:
            await hang.wait()
        return web.Response()

    inbox.answer = answer
    one = channel(inbox.url.replace("http", "json"), timeout=timedelta(seconds=30))
    transport = connector(clock)(one)
    stuck = asyncio.create_task(transport.send(Outgoing(owed(), config(one))))
    while not inbox.received:
        await asyncio.sleep(0.01)
    result = await transport.send(Outgoing(owed(), config(one)))
    assert result.outcome == AttemptOutcome.DELIVERED
    assert not stuck.done()
    hang.set()
    assert (await stuck).outcome == AttemptOutcome.DELIVERED
    await transport.close()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mailto://bell:pw@smtp.example.com?from=a@example.com&to=b@example.com", None),
        (SLACK, None),
        ("https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", None),
        ("discord://123456789012345678/abcdefghijklmnopqrstuvwxyz", None),
        ("syslog://", "'syslog' is not allowed"),
        ("dbus://", "'dbus' is not allowed"),
        ("windows://", "'windows' is not allowed"),
        ("gnome://", "'gnome' is not allowed"),
        ("xmpp://user:pass@host", "'xmpp' is not allowed"),
        ("file:///etc/passwd", "'file' is not a scheme that apprise knows"),
        ("slak://a/b/c", "'slak' is not a scheme that apprise knows"),
        ("https://example.com/x", "apprise cannot read the https:// URL"),
        ("", "'' is not a scheme that apprise knows"),
        ("mailto://smtp.example.com", "apprise cannot read the mailto:// URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_told_in_one_line(url: str, problem: str | None) -> None:
    told = check_channel_url(url)
    assert told == problem if told is None or problem is None else told.startswith(problem)


def test_the_problem_of_a_url_does_not_repeat_its_secrets() -> None:
    told = check_channel_url("slack://planted-token-one/planted-token-two")
    assert told
    assert "planted" not in told


async def test_the_wait_that_a_service_asks_for_is_that_of_its_answer(send: Send, inbox: Inbox) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "7"}, text="rate_limited")

    inbox.answer = answer
    result = await send(channel(SLACK), slack_url=inbox.url)
    assert (result.outcome, result.retry_after) == (AttemptOutcome.FAILED, timedelta(seconds=7))


async def test_a_plugin_that_would_sleep_makes_its_channel_wait_instead(
    clock: HandClock, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(_request: web.Request) -> web.Response:
        far = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "99999999999"}
        return web.Response(status=200, headers=far)

    inbox.answer = answer
    monkeypatch.setattr(NotifyDiscord, "notify_url", inbox.url)
    discord = channel("discord://123456789012345678/abcdefghijklmnopqrstuvwxyz")
    transport = connector(clock)(discord)
    assert (await transport.send(Outgoing(owed(), config(discord)))).outcome == AttemptOutcome.DELIVERED
    assert await transport.send(Outgoing(owed(), config(discord))) == failed(
        "the service asks for fewer messages", timedelta(hours=1), cause=Cause.RATE_LIMITED
    )
    assert len(inbox.received) == 1
    await transport.close()


async def test_apprise_follows_the_proxy_of_the_environment_and_no_proxy(
    send: Send, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("all_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("http_proxy", inbox.url.removesuffix("/hook"))
    assert (await send(channel("json://10.9.8.7:81/x"))).outcome == AttemptOutcome.DELIVERED
    assert inbox.received[0].headers["Host"] == "10.9.8.7:81"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    direct = channel(inbox.url.replace("http", "json"))
    assert (await send(direct)).outcome == AttemptOutcome.FAILED
    monkeypatch.setenv("no_proxy", "127.0.0.0/8")
    assert (await send(direct)).outcome == AttemptOutcome.DELIVERED


async def test_a_connection_serves_several_sends_and_no_cookie_comes_back(inbox: Inbox, clock: HandClock) -> None:
    peers = []

    async def answer(request: web.Request) -> web.Response:
        peers.append(request.transport.get_extra_info("peername") if request.transport else None)
        return web.Response(text="ok", headers={"Set-Cookie": "session=s3cret"})

    inbox.answer = answer
    one = channel(inbox.url.replace("http", "json"))
    transport = connector(clock)(one)
    for _ in range(3):
        assert (await transport.send(Outgoing(owed(), config(one)))).outcome == AttemptOutcome.DELIVERED
    await transport.close()
    assert len(set(peers)) == 1
    assert [got.headers.get("Cookie") for got in inbox.received] == [None] * 3
