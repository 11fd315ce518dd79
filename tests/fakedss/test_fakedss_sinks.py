"""The sinks keep what came and answer as the script says; the configuration and the process stand as written."""

import asyncio
import smtplib
import ssl
from email.message import EmailMessage

import aiohttp
import pytest
import yaml

from tests.fakedss import (
    DaemonProcess,
    FakeDSS,
    SlackSink,
    SmtpSink,
    WebhookSink,
    config_for,
    eventually,
    faults,
    make_certificate,
)


@pytest.fixture
async def web():
    async with aiohttp.ClientSession() as session:
        yield session


async def test_a_webhook_keeps_every_post_even_where_its_answer_is_lost(web):
    async with WebhookSink() as sink:
        sink.script(None, faults.too_many("3"), faults.reset(), faults.never())
        outcomes = []
        for number in range(5):
            headers = {"webhook-id": f"id-{number}"}
            post = web.post(sink.url, json={"n": number}, headers=headers, timeout=aiohttp.ClientTimeout(0.2))
            try:
                async with post as response:
                    outcomes.append(response.status)
            except (aiohttp.ClientError, TimeoutError):
                outcomes.append(None)
        assert outcomes == [200, 429, None, None, 200]
        assert [post.json["n"] for post in sink.posts] == [0, 1, 2, 3, 4]
        assert [post.headers["Webhook-Id"] for post in sink.posts] == [f"id-{n}" for n in range(5)]


async def test_slack_says_ok_to_a_message_and_400_to_none(web):
    async with SlackSink() as sink:
        answers = []
        for body in (b'{"text": "hello"}', b"{}", b"nonsense"):
            async with web.post(sink.url, data=body) as response:
                answers.append((response.status, await response.text()))
        assert answers == [(200, "ok"), (400, "no_text"), (400, "invalid_payload")]


def send_mail(sink, *recipients, trust=None, login=None):
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.com", ", ".join(recipients), "Grüße"
    message.set_content("Hello\n")
    with smtplib.SMTP("127.0.0.1", sink.port, timeout=5) as client:
        if trust:
            client.starttls(context=trust)
        if login:
            client.login(*login)
        return client.send_message(message)


async def test_smtp_keeps_parsed_messages_and_refuses_as_told():
    async with SmtpSink() as sink:
        sink.refuse("RCPT", "550 5.1.1 unknown", "nobody@*")
        refused = await asyncio.to_thread(send_mail, sink, "b@example.com", "nobody@example.com")
        assert refused == {"nobody@example.com": (550, b"5.1.1 unknown")}
        sink.refuse("DATA", "451 4.3.0 later", times=1)
        with pytest.raises(smtplib.SMTPDataError):
            await asyncio.to_thread(send_mail, sink, "b@example.com")
        await asyncio.to_thread(send_mail, sink, "c@example.com")
        assert [(m.recipients, m.message["Subject"]) for m in sink.mails] == [
            (("b@example.com",), "Grüße"),
            (("c@example.com",), "Grüße"),
        ]


@pytest.mark.e2e
async def test_smtp_wants_starttls_and_the_right_password(tmp_path):
    certificate = make_certificate(tmp_path)
    trust = ssl.create_default_context(cafile=certificate.cert_file)
    async with SmtpSink(tls=certificate.server_context(), user="me", password="secret") as sink:
        with pytest.raises(smtplib.SMTPSenderRefused):
            await asyncio.to_thread(send_mail, sink, "b@example.com", trust=trust)
        with pytest.raises(smtplib.SMTPAuthenticationError):
            await asyncio.to_thread(send_mail, sink, "b@example.com", trust=trust, login=("me", "wrong"))
        await asyncio.to_thread(send_mail, sink, "b@example.com", trust=trust, login=("me", "secret"))
        assert [mail.user for mail in sink.mails] == ["me"]


async def test_smtp_can_hang_once_it_has_the_message():
    async with SmtpSink(hang_after_data=True) as sink:
        sending = asyncio.create_task(asyncio.to_thread(send_mail, sink, "b@example.com"))
        await eventually(lambda: sink.mails)
        assert not sending.done()
    with pytest.raises(smtplib.SMTPServerDisconnected):
        await sending


async def test_the_configuration_has_nodes_store_listener_receiver_and_reporter(tmp_path):
    async with FakeDSS() as dss, WebhookSink() as sink:
        path = config_for(tmp_path, {"prod": dss}, sink, rules=[], reporters=None)
        config = yaml.safe_load(path.read_text())
    assert sorted(config) == ["http", "nodes", "receivers", "rules", "store"]
    assert config["nodes"][0]["url"] == dss.url
    assert config["receivers"][0]["channels"][0]["webhook"] == sink.url


@pytest.mark.e2e
async def test_a_daemon_that_ends_early_fails_with_what_it_wrote(tmp_path):
    config = tmp_path / "tocsin.yaml"
    config.write_text("nodez: []\n")
    daemon = DaemonProcess(config, url="http://127.0.0.1:1")
    with pytest.raises(AssertionError, match="before it was ready"):
        await daemon.__aenter__()
    assert (await daemon.wait() != 0, daemon.stderr != []) == (True, True)
