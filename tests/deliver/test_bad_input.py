"""What can be wrong with a channel or its receiver: each gets the right result, and nothing owed is lost."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from tests.deliver.builders import NOW, HandClock, Plain, config, event, hook, owed
from tests.deliveries import get_delivery
from tests.fakedss import faults
from tests.fakedss.answers import Answer
from tests.fakedss.sinks import SmtpSink, WebhookSink
from tocsin.app.reload import Source
from tocsin.app.validate import validate
from tocsin.config.model import Channel
from tocsin.config.secrets import FileSecret
from tocsin.deliver.sender import Sender
from tocsin.model.notification import EventNotice, Notification, NotificationState
from tocsin.model.run import Details
from tocsin.store import Store, outbox, runs

PENDING, DEAD, DELIVERED = NotificationState.PENDING, NotificationState.DEAD, NotificationState.DELIVERED


class Desk:
    """A sender at work on a store, and what became of notifications."""

    def __init__(self, store: Store, sender: Sender, clock: HandClock) -> None:
        self.store, self.sender, self.clock = store, sender, clock

    async def send(self, channel: Channel, one: Notification, **later: float) -> tuple[NotificationState, str]:
        await self.store.write(outbox.enqueue, [one])
        await self.sender.step(self.clock.forward(**later), config(channel))
        await self.sender.idle()
        found = await self.store.read(get_delivery, one.id)
        assert found
        return found.notification.state, found.attempts[-1].note if found.attempts else ""


@pytest.fixture
def desk(store: Store, sender: Sender, clock: HandClock) -> Desk:
    return Desk(store, sender, clock)


def status(code: int, **headers: str) -> faults.Fault:
    return lambda _answer: Answer(code, b"so it is", "text/plain", headers)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("fault", "state", "said"),
    [
        (status(200), DELIVERED, "HTTP 200"),
        (faults.slow(0.3), DELIVERED, "HTTP 200"),
        (status(204), DELIVERED, "HTTP 204"),
        (status(301, Location="/elsewhere"), DEAD, "HTTP 301: redirects are not followed"),
        (status(400), DEAD, "HTTP 400: so it is"),
        (status(401), DEAD, "HTTP 401: so it is"),
        (status(429, **{"Retry-After": "30"}), PENDING, "HTTP 429: so it is"),
        (status(500), PENDING, "HTTP 500: so it is"),
        (faults.reset(), PENDING, "ClientOSError"),
        (faults.reset_after_headers(), DELIVERED, "HTTP 200"),
    ],
    ids=[
        "200",
        "200 slowly",
        "204",
        "301",
        "400",
        "401",
        "429",
        "500",
        "reset after the body",
        "reset after the answer",
    ],
)
async def test_each_answer_of_a_webhook_has_its_verdict_and_what_passes_is_sent_again(
    desk: Desk, fault: faults.Fault, state: NotificationState, said: str
) -> None:
    one = owed()
    async with WebhookSink() as sink:
        sink.script(fault)
        found, note = await desk.send(hook(sink.url), one)
        assert (found, note[: len(said)]) == (state, said)
        later, _ = await desk.send(hook(sink.url), one, minutes=1)
        assert later == (DEAD if state is DEAD else DELIVERED)
        assert [post.headers["webhook-id"] for post in sink.posts] == [one.id] * (2 if state is PENDING else 1)


@pytest.mark.parametrize("content", [None, "", "  \n"], ids=["missing", "empty", "blank"])
@pytest.mark.parametrize("kind", ["webhook", "url"])
async def test_a_receiver_whose_file_is_missing_or_empty_gets_its_mail_when_it_is_there(
    desk: Desk, tmp_path: Path, content: str | None, kind: str
) -> None:
    file = tmp_path / "address"
    if content is not None:
        file.write_text(content)
    one = owed()
    async with WebhookSink() as sink:
        channel = Channel("ops/hook", "ops", timeout=timedelta(seconds=60), **{kind: FileSecret(file)})  # type: ignore[arg-type]
        found, note = await desk.send(channel, one)
        assert found == PENDING
        assert note.startswith("cannot read ")
        file.write_text(sink.url if kind == "webhook" else f"json://127.0.0.1:{sink.port}/\n")
        found, _ = await desk.send(channel, one, seconds=5)
        assert (found, len(sink.posts)) == (DELIVERED, 1)


def test_the_check_names_each_receiver_that_could_not_be_reached(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "local").write_text("syslog://SECRET-PART\n")
    (tmp_path / "good").write_text("json://example.com/\n")
    channels = [{"name": name, "url_file": name} for name in ("missing", "empty", "local", "good")]
    (tmp_path / "tocsin.yaml").write_text(
        f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: k}}]\n"
        f"receivers: [{{name: ops, channels: {json.dumps(channels)}}}]\nroute: {{receiver: ops}}\n"
    )
    problems = validate(Source(tmp_path / "tocsin.yaml"), NOW, offline=False)
    told = [one.message.replace(f"{tmp_path}/", "") for one in problems if one.severity == "error"]
    assert told == [
        "the url of channel 'missing' cannot be read: No such file or directory",
        "the url of channel 'empty' cannot be read: empty is empty",
        "the url of channel 'local': 'syslog' is not allowed",
    ]


def test_the_check_tells_the_line_of_everything_outside_of_the_file_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "tocsin.yaml").write_text(
        "nodes:\n- {name: prod, url: 'https://dss.example.com',\n   api_key_file: key,\n   tls: {ca_file: ca}}\n"
        "receivers:\n- name: ops\n  channels:\n  - {webhook: 'https://h',\n     hmac_secret: whsec_!}\n"
        "route: {receiver: ops}\nhttp:\n  tokens_file: tokens\n"
    )
    problems = validate(Source(tmp_path / "tocsin.yaml"), NOW, offline=False)
    assert [(one.line, one.message.split(":")[0]) for one in problems] == [
        (3, "the api key of node 'prod' cannot be read"),
        (4, "the tls.ca_file of node 'prod' cannot be read"),
        (9, "the hmac secret of channel 'ops/webhook'"),
        (12, "the tokens file cannot be read"),
    ]


def test_the_check_tells_what_every_send_would_be_refused_for(tmp_path: Path) -> None:
    (tmp_path / "tocsin.yaml").write_text(
        "nodes: [{name: prod, url: 'https://dss.example.com', api_key: k}]\n"
        "receivers:\n- name: ops\n  channels:\n"
        "  - {name: mail, url: 'mailto://h.example.com?from=a@example.com&to=b@example.com,nobody'}\n"
        "  - {name: near, webhook: 'http://10.1.2.3/x', allow_private: false}\n"
        "route: {receiver: ops}\n"
        "reporters:\n- name: r\n  receiver: ops\n  mail:\n"
        "    to: 'a@example.com; b@example.com, \"C, D\" <c@example.com>, nobody'\n    cc: [a@b\u00fccher.example, '@x']\n"
        "    from: me\n"
    )
    problems = validate(Source(tmp_path / "tocsin.yaml"), NOW, offline=False)
    assert [(one.line, one.message) for one in problems if one.severity == "error"] == [
        (5, "the url of channel 'mail': 'nobody' is not a mail address"),
        (6, "the webhook of channel 'near': the webhook's address is private, and allow_private is off"),
        (12, "reporter r: mail.to: 'nobody' is not a mail address"),
        (13, "reporter r: mail.cc: '@x' is not a mail address"),
        (14, "reporter r: mail.from: 'me' is not a mail address"),
    ]


@pytest.mark.parametrize("address", ["hooks.example.com/s3cr3t", "https://hooks .example.com/s3cr3t", "ftp://h/s3cr3t"])
def test_the_check_names_an_address_in_a_file_that_is_none_of_http(tmp_path: Path, address: str) -> None:
    (tmp_path / "address").write_text(address + "\n")
    (tmp_path / "tocsin.yaml").write_text(
        "nodes: [{name: prod, url: 'https://dss.example.com', api_key: k}]\n"
        "receivers:\n- name: ops\n  channels:\n"
        "  - {name: far, webhook_file: address}\n"
        "  - {name: near, webhook_file: address, allow_private: false}\n"
        "route: {receiver: ops}\n"
        "heartbeat: {url_file: address}\n"
    )
    problems = validate(Source(tmp_path / "tocsin.yaml"), NOW, offline=False)
    assert [(one.line, one.message) for one in problems if one.severity == "error"] == [
        (5, "the webhook of channel 'far': it is not an http or https URL"),
        (6, "the webhook of channel 'near': it is not an http or https URL"),
        (8, "the heartbeat's url: it is not an http or https URL"),
    ]


@pytest.mark.parametrize("url", ["nonsense", "slack://", "syslog://", "dbus://", "xmpp://a:b@c"])
async def test_an_address_that_cannot_be_used_is_a_dead_letter_with_its_reason(desk: Desk, url: str) -> None:
    found, note = await desk.send(Channel("ops/hook", "ops", url=Plain(url)), owed())
    assert found == DEAD
    assert "is not " in note or "cannot read" in note


def mail(port: int) -> Channel:
    url = Plain(f"mailto://127.0.0.1:{port}?from=a@example.com&to=ops@example.com")
    return Channel("ops/mail", "ops", url=url, timeout=timedelta(seconds=60))


async def test_a_log_too_large_is_attached_with_its_end_and_one_that_is_not_there_is_named(
    desk: Desk, store: Store
) -> None:
    told = EventNotice(event(), "nightly", attach=("log",))
    async with SmtpSink() as smtp:
        assert await desk.send(mail(smtp.port), owed(told, "ops/mail")) == (
            DELIVERED,
            "the server took it; the log of the run could not be had, so it is not attached",
        )
        run = event().run
        assert run
        log = "old\n" + "x" * 2_000_000 + "\nnew"
        await store.write(runs.put_details, Details(run.key, desk.clock.now(), log_tail=log))
        found, _ = await desk.send(mail(smtp.port), owed(told, "ops/mail", ordering_key="other"))
        assert found == DELIVERED
    without, with_log = (one.message for one in smtp.mails)
    assert list(without.iter_attachments()) == []
    body = without.get_body(("plain",))
    assert body
    assert "Note: the log of the run could not be had" in body.get_content()
    (file,) = with_log.iter_attachments()
    assert 100_000 < len(file.get_content()) <= 500_000
    assert file.get_content().endswith("x\nnew")
