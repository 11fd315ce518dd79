"""Mails through apprise to a real SMTP server."""

import asyncio
import smtplib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from urllib.parse import quote

import pytest
from prometheus_client import CollectorRegistry

from tests.deliver.builders import KEY, NOW, HandClock, Plain, alert, config, event, group, owed
from tests.deliveries import get_delivery
from tests.fakedss.certs import make_certificate
from tests.fakedss.sinks import Mail, SmtpSink
from tocsin.config.model import Channel, Tls
from tocsin.deliver.mail import BadMailAddress, log_in, parse_address, parse_addresses, thread_id
from tocsin.deliver.outgoing import Facts, Outgoing
from tocsin.deliver.result import SendResult
from tocsin.deliver.sender import DeliverMetrics, Sender
from tocsin.deliver.transport import check_channel_url, connector, unreadable_recipients
from tocsin.model.notification import AttemptOutcome, EventNotice, MailOverrides, Notification, NotificationState
from tocsin.model.run import Details, RunError, ScenarioKey, Step
from tocsin.store import Store, deliveries, outbox

Send = Callable[..., Coroutine[None, None, SendResult]]


def mail(port: int, query: str = "", scheme: str = "mailto", user: str = "", **more: object) -> Channel:
    who = "from=Tocsin <tocsin@example.com>&to=ops@example.com"
    url = f"{scheme}://{user}127.0.0.1:{port}?{quote(query or who, safe='=&')}"
    return Channel(name="ops/mail", receiver="ops", url=Plain(url), **({"timeout": timedelta(seconds=5)} | more))  # type: ignore[arg-type]


@pytest.fixture
async def send(clock: HandClock) -> AsyncIterator[Send]:
    opened = []

    async def send(channel: Channel, one: Notification | None = None, facts: Facts | None = None) -> SendResult:
        opened.append(connector(clock)(channel))
        return await opened[-1].send(Outgoing(one or owed(), config(channel), facts or Facts()))

    yield send
    for transport in opened:
        await transport.close()


@pytest.fixture
async def server() -> AsyncIterator[SmtpSink]:
    async with SmtpSink() as sink:
        yield sink


def details() -> Facts:
    run = event().run
    assert run
    steps = (
        Step("s1", "Build", "build_flowitem", "SUCCESS", timedelta(seconds=42)),
        Step("s2", "Train", "build_flowitem", "FAILED", timedelta(seconds=130)),
    )
    error = RunError("disk full <b>", title="Job failed", step="Train")
    return Facts({run.key: Details(run.key, NOW, error, steps, "first line\nlast line")}, {KEY: timedelta(minutes=2)})


def parts(one: Mail) -> tuple[str, str]:
    text, html = one.message.get_body(("plain",)), one.message.get_body(("html",))
    assert text
    assert html
    return text.get_content(), html.get_content()


async def test_the_default_mail_says_what_broke_in_text_and_in_html(send: Send, server: SmtpSink) -> None:
    assert (await send(mail(server.port), facts=details())).outcome == AttemptOutcome.DELIVERED
    (got,) = server.mails
    assert got.message["Subject"] == "Nightly load FAILED in SALES on prod"
    assert got.message.get_content_type() == "multipart/alternative"
    text, html = parts(got)
    assert text.splitlines()[0] == "Nightly load FAILED in SALES on prod"
    for said in (
        "Duration: 4m 12s (usually 2m)",
        "Trigger: Every night",
        "Failed step: Train",
        "Previous outcome: SUCCESS",
        "Job failed: disk full <b>",
        "last line",
        "- SUCCESS  Build  42s",
        "Run in DSS: https://dss.example.com/projects/SALES/scenarios/NIGHTLY/runs/list/x",
        "Tocsin: https://tocsin.example.com/",
    ):
        assert said in text
    assert "disk full &lt;b&gt;" in html
    assert '<meta name="color-scheme" content="light dark">' in html
    assert ">Train</td>" in html


async def test_mails_of_one_scenario_are_one_thread_and_can_be_sorted(send: Send, server: SmtpSink) -> None:
    first, second = owed(EventNotice(event(1), "r")), owed(EventNotice(event(2, "SUCCESS"), "r"))
    other = owed(EventNotice(event(3, key=KEY._replace(scenario="OTHER")), "r"))
    for one in (first, second, other):
        await send(mail(server.port), one)
    headers = [one.message for one in server.mails]
    assert headers[0]["References"] == headers[1]["References"] == headers[0]["In-Reply-To"]
    assert headers[0]["References"] != headers[2]["References"]
    assert headers[0]["Message-ID"] == f"<{first.id}@example.com>"
    assert headers[0]["List-Id"] == "<sales.prod.tocsin.example.com>"
    assert headers[0]["Auto-Submitted"] == "auto-generated"


async def test_a_reporter_sets_sender_and_recipients_and_all_of_them_get_one_message(
    send: Send, server: SmtpSink
) -> None:
    who = MailOverrides(
        "Nightly <nightly@example.org>",
        ("Ann <a@example.com>", "b@example.com"),
        ("c@example.com",),
        ("d@example.com",),
    )
    await send(mail(server.port), owed(EventNotice(event(), "r", subject="${scenarioName}: ${outcome}", mail=who)))
    (got,) = server.mails
    assert got.sender == "nightly@example.org"
    assert got.recipients == ("a@example.com", "b@example.com", "c@example.com", "d@example.com")
    assert got.message["From"] == "Nightly <nightly@example.org>"
    assert got.message["To"] == "Ann <a@example.com>, b@example.com"
    assert got.message["Cc"] == "c@example.com"
    assert got.message["Bcc"] is None
    assert got.message["Subject"] == "Nightly load: FAILED"


async def test_the_urls_own_recipients_and_headers_are_used(send: Send, server: SmtpSink) -> None:
    query = (
        "from=Tocsin <t@example.com>&to=a@example.com,b@example.com&cc=c@example.com"
        "&bcc=d@example.com&reply=r@example.com&+X-Team=data&+Subject=no"
    )
    await send(mail(server.port, query))
    (got,) = server.mails
    assert sorted(got.recipients) == ["a@example.com", "b@example.com", "c@example.com", "d@example.com"]
    assert got.message["To"] == "a@example.com, b@example.com"
    assert got.message["Reply-To"] == "r@example.com"
    assert got.message["X-Team"] == "data"
    assert got.message.get_all("Subject") == ["Nightly load FAILED in SALES on prod"]


async def test_the_log_of_the_run_is_attached_when_asked(send: Send, server: SmtpSink) -> None:
    await send(mail(server.port), owed(EventNotice(event(), "r", attach=("log",))), details())
    (got,) = server.mails
    (file,) = got.message.iter_attachments()
    assert file.get_filename() == "log-2026-03-01-12-00-01-000.txt"
    assert file.get_content() == "first line\nlast line"
    assert parts(got)[0].startswith("Nightly load FAILED")


async def test_an_inline_html_message_gets_a_text_beside_it(send: Send, server: SmtpSink) -> None:
    inline = "<p>Scenario <b>${scenarioName}</b> ended ${outcome} by ${nobodyKnows}</p>"
    named = event(name="<Evil> & co")
    result = await send(mail(server.port), owed(EventNotice(named, "r", template=inline)))
    text, html = parts(server.mails[0])
    assert "<p>Scenario <b>&lt;Evil&gt; &amp; co</b> ended FAILED by ${nobodyKnows}</p>" in html
    assert "Scenario <Evil> & co ended FAILED" in text
    assert result.note == "the server took it; unknown variables: ${nobodyKnows}"


async def test_a_group_is_a_readable_list_and_an_end_says_how_long_it_lasted(send: Send, server: SmtpSink) -> None:
    await send(mail(server.port), owed(group(alert(1), alert(2, ended=True))))
    text, html = parts(server.mails[0])
    assert server.mails[0].message["Subject"] == "Alerts in SALES: 1 firing, 1 resolved"
    assert "firing: S1 failed" in text
    assert "Resolved: ScenarioFailed of S2 in SALES on prod, after 29m" in text
    assert "Lasted: 29m" in text
    assert "ScenarioFailed of S2" in html


async def test_hostile_names_stay_text_and_break_no_header(send: Send, server: SmtpSink) -> None:
    name = "x\r\nBcc: evil@example.com\r\n\r\n<script>alert(1)</script>\u202egnp.exe🔥\ud800" + "A" * 10_000
    await send(mail(server.port), owed(EventNotice(event(name=name), "r", subject="${scenarioName}", attach=("log",))))
    (got,) = server.mails
    assert got.recipients == ("ops@example.com",)
    assert got.message["Bcc"] is None
    subject = got.message["Subject"]
    assert len(subject) <= 200
    assert not {"\r", "\n", "\u202e"} & set(subject)
    text, html = parts(got)
    assert "<script>" not in html
    assert "🔥" in text
    assert "\u202e" not in text + html


@pytest.mark.e2e
async def test_starttls_and_login_are_used(send: Send, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.cert_file))
    async with SmtpSink(tls=made.server_context(), user="bell", password="pass word") as server:
        query = "from=t@example.com&to=ops@example.com"
        good = mail(server.port, query, "mailtos", "bell:pass%20word@")
        assert (await send(good)).outcome == AttemptOutcome.DELIVERED
        bad = await send(mail(server.port, query, "mailtos", "bell:wr0ng-pass@"))
        assert bad.outcome == AttemptOutcome.REFUSED
        assert bad.note.startswith("SMTP 535: the server refuses the login")
        assert "wr0ng-pass" not in bad.note
        monkeypatch.delenv("SSL_CERT_FILE")
        assert (await send(good)).outcome == AttemptOutcome.FAILED
        unverified = mail(server.port, query, "mailtos", "bell:pass%20word@", tls=Tls(verify=False))
        assert (await send(unverified)).outcome == AttemptOutcome.DELIVERED
        own = mail(server.port, query, "mailtos", "bell:pass%20word@", tls=Tls(ca_file=str(made.cert_file)))
        assert (await send(own)).outcome == AttemptOutcome.DELIVERED
    assert [one.user for one in server.mails] == ["bell", "bell", "bell"]


async def test_an_unknown_recipient_is_refused_and_a_busy_server_tried_again(send: Send, server: SmtpSink) -> None:
    server.refuse("RCPT", "550 5.1.1 no such user", times=1)
    result = await send(mail(server.port))
    assert result.outcome == AttemptOutcome.REFUSED
    assert result.note == "the server refuses the recipients: ops@example.com: 550 5.1.1 no such user"
    server.refuse("DATA", "451 4.3.0 later", times=1)
    result = await send(mail(server.port))
    assert (result.outcome, result.note) == (AttemptOutcome.FAILED, "SMTP 451: 4.3.0 later")
    server.refuse("DATA", "554 5.7.1 spam", times=1)
    assert (await send(mail(server.port))).outcome == AttemptOutcome.REFUSED


async def test_who_took_the_mail_gets_nothing_twice_when_another_recipient_waits(
    clock: HandClock, server: SmtpSink
) -> None:
    channel = mail(server.port, "from=t@example.com&to=a@example.com,b@example.com,gone@example.com")
    transport = connector(clock)(channel)
    outgoing = Outgoing(owed(), config(channel))
    server.refuse("RCPT", "450 greylisted", "b@*", times=1)
    server.refuse("RCPT", "550 unknown", "gone@*", times=1)
    first = await transport.send(outgoing)
    second = await transport.send(outgoing)
    await transport.close()
    assert [first.outcome, second.outcome] == [AttemptOutcome.FAILED, AttemptOutcome.DELIVERED]
    assert [one.recipients for one in server.mails] == [("a@example.com",), ("b@example.com",)]


async def test_a_server_that_hangs_after_the_mail_leaves_the_outcome_unknown(send: Send) -> None:
    async with SmtpSink(hang_after_data=True) as server:
        result = await send(mail(server.port, timeout=timedelta(seconds=1)))
        assert result.outcome == AttemptOutcome.UNKNOWN


async def test_bad_addresses_are_refused_before_anything_is_sent(send: Send, server: SmtpSink) -> None:
    bad = owed(EventNotice(event(), "r", mail=MailOverrides(to=("not an address",))))
    result = await send(mail(server.port), bad)
    assert (result.outcome, result.note) == (AttemptOutcome.REFUSED, "'not an address' is not a mail address")
    assert server.mails == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a@example.com", "a@example.com"),
        ("Ann B <a@example.com>", "Ann B <a@example.com>"),
        ('"B, Ann" <a@example.com>', '"B, Ann" <a@example.com>'),
    ],
)
def test_addresses_are_read_as_people_write_them(text: str, shown: str) -> None:
    assert str(parse_address(text)) == shown


@pytest.mark.parametrize("text", ["", "a", "a@", "@b", "<>", "a@b\r\nBcc: c@d, e", "a b@c"])
def test_what_is_no_address_is_an_error(text: str) -> None:
    with pytest.raises(BadMailAddress):
        parse_address(text)


def test_a_list_in_one_string_is_split_outside_quotes() -> None:
    found, bad = parse_addresses(['"B, Ann; C" <a@example.com>, c@example.com', "d@example.com; <e@example.com>;"])
    assert [one.addr_spec for one in found] == ["a@example.com", "c@example.com", "d@example.com", "e@example.com"]
    assert bad == ()


@pytest.mark.parametrize(
    "text", ['"' + '\\"' * 25_000, '"\\' * 25_000, "a" + " " * 50_000 + "b"], ids=["quotes", "escapes", "blanks"]
)
def test_a_list_that_no_person_wrote_is_read_quickly(text: str) -> None:
    began = time.perf_counter()
    assert parse_addresses([text])[0] == ()
    assert time.perf_counter() - began < 4


def test_what_cannot_be_read_in_a_list_is_named_and_the_rest_is_kept() -> None:
    found, bad = parse_addresses(["a@example.com, nobody, b@example.com c@example.com", "d@b\u00fccher.example"])
    assert [one.addr_spec for one in found] == ["a@example.com", "d@xn--bcher-kva.example"]
    assert bad == ("'nobody' is not a mail address", "'b@example.com c@example.com' is not a mail address")


TO = "from=t@example.com&to="


@pytest.mark.parametrize(
    ("to", "got", "note"),
    [
        ("a@example.com; b@example.com", ["a@example.com", "b@example.com"], "the server took it"),
        ("Ann <a@example.com>;B <b@example.com>", ["a@example.com", "b@example.com"], "the server took it"),
        ("a@b\u00fccher.example, b@example.com", ["a@xn--bcher-kva.example", "b@example.com"], "the server took it"),
        (
            "a@example.com, nobody, b@example.com",
            ["a@example.com", "b@example.com"],
            "the server took it; 'nobody' is not a mail address",
        ),
        (
            "a@example.com, \u00fc@example.com",
            ["a@example.com"],
            "the server refuses some recipients: \u00fc@example.com: 553 the server takes no addresses beyond ASCII",
        ),
        (
            "a@example.com, gone@example.com, nobody",
            ["a@example.com"],
            "the server refuses some recipients: gone@example.com: 550 unknown; 'nobody' is not a mail address",
        ),
    ],
)
@pytest.mark.parametrize("whose", ["the channel's", "the reporter's"])
async def test_who_can_get_a_mail_gets_it_and_who_cannot_is_named(
    send: Send, server: SmtpSink, to: str, got: list[str], note: str, whose: str
) -> None:
    server.refuse("RCPT", "550 unknown", "gone@*")
    overrides = MailOverrides(to=(to,)) if whose == "the reporter's" else None
    channel = mail(server.port, TO + ("x@example.com" if overrides else to))
    result = await send(channel, owed(EventNotice(event(), "r", mail=overrides)))
    assert (result.outcome, result.note) == (AttemptOutcome.DELIVERED, note)
    (one,) = server.mails
    assert list(one.recipients) == got
    assert [address.addr_spec for address in one.message["To"].addresses if address.addr_spec.isascii()][:2] == got[
        :2
    ] or ("gone" in to)


async def test_a_semicolon_in_a_url_begins_another_recipient_or_another_parameter(send: Send, server: SmtpSink) -> None:
    url = f"mailto://127.0.0.1:{server.port}?from=t@example.com;to=a@example.com; b@example.com;cc=c@example.com"
    assert (await send(Channel("ops/mail", "ops", Plain(url)))).note == "the server took it"
    assert server.mails[0].recipients == ("a@example.com", "b@example.com", "c@example.com")


async def test_a_server_that_takes_addresses_beyond_ascii_gets_them(send: Send) -> None:
    async with SmtpSink(utf8=True) as server:
        result = await send(mail(server.port, TO + "a@example.com,\u00fc@example.com"))
        assert result.note == "the server took it"
        assert server.mails[0].recipients == ("a@example.com", "\u00fc@example.com")
        assert "\u00fc@example.com" in str(server.mails[0].message["To"])


@pytest.mark.parametrize(
    ("query", "unusable", "bad"),
    [
        ("to=nobody;x", True, 2),
        ("to=a@example.com&cc=nobody", False, 1),
        ("to=a@example.com, b c@d", False, 1),
        ("to=a@example.com;b@b\u00fccher.example", False, 0),
    ],
)
def test_check_names_each_recipient_of_a_url_that_cannot_be_read(query: str, unusable: bool, bad: int) -> None:
    url = f"mailto://127.0.0.1?from=t@example.com&{query}"
    assert (check_channel_url(url) is not None) == unusable
    assert len(unreadable_recipients(url)) == bad


@pytest.mark.parametrize("user", ["bell", "gl\u00f6ckner"])
@pytest.mark.parametrize("password", ["p\u00e4ssword \U0001f514", "pass"])
async def test_a_login_beyond_ascii_is_sent_in_utf8(send: Send, user: str, password: str) -> None:
    async with SmtpSink(user=user, password=password) as server:
        login = f"{quote(user)}:{quote(password)}@"
        assert (await send(mail(server.port, user=login))).outcome == AttemptOutcome.DELIVERED
        wrong = await send(mail(server.port, user=f"{quote(user)}:wr%C3%B6ng@"))
        assert (wrong.outcome, wrong.note[:8]) == (AttemptOutcome.REFUSED, "SMTP 535")


class _Offers(smtplib.SMTP):
    """A server that offers some ways to log in and says yes to all of it."""

    def __init__(self, ways: str) -> None:
        super().__init__()
        self.ehlo_resp, self.esmtp_features = b"250", {"auth": ways} if ways else {}
        self.said: list[str] = []

    def docmd(self, cmd: str, args: str = "") -> tuple[int, bytes]:
        self.said.append(f"{cmd} {args}".strip())
        return (334, b"UGFzc3dvcmQ6") if "LOGIN" in args else (235, b"")


def test_a_login_beyond_ascii_takes_the_way_that_is_offered_or_is_refused_for_good() -> None:
    server = _Offers("LOGIN CRAM-MD5")
    log_in(server, "bell", "\u00e4")
    assert server.said == ["AUTH LOGIN YmVsbA==", "w6Q="]
    for ways in ("CRAM-MD5", "XOAUTH2", ""):
        with pytest.raises(smtplib.SMTPNotSupportedError):
            log_in(_Offers(ways), "bell", "\u00e4")


async def test_a_host_that_is_no_name_is_refused_for_good(send: Send) -> None:
    result = await send(Channel("ops/mail", "ops", Plain(f"mailto://{'x' * 70}.example?from=a@b.org&to=c@d.org")))
    assert result.outcome == AttemptOutcome.REFUSED


@pytest.mark.parametrize("length", [20, 43, 44, 76, 200])
async def test_ids_of_threads_and_lists_stand_in_headers_as_they_are(send: Send, server: SmtpSink, length: int) -> None:
    domain = ".".join(["d" * 20] * (length // 20) + ["d" * (length % 20 or 1), "example"])
    one = owed(EventNotice(event(key=ScenarioKey("a-node-with-a-long-name" * 2, "P" * 60, "S")), "r"))
    query = f"from=t@{domain}&to=a@example.com&+X-Ticket={'9' * 100}&+List-Unsubscribe=<mailto:{'u' * 90}@{domain}>"
    await send(mail(server.port, query), one)
    await send(mail(server.port, query), owed(one.notice))
    first, second = (one.message for one in server.mails)
    raw = server.mails[0].raw.replace(b"\r\n", b"\n").split(b"\n\n")[0]
    headers = {
        name: " ".join(value.split()) for name, _, value in (line.partition(": ") for line in raw.decode().split("\n"))
    }
    assert headers["Message-ID"] == f"<{one.id}@{domain}>"
    assert headers["References"] == headers["In-Reply-To"] == f"<{thread_id(one)}@{domain}>"
    assert headers["List-Id"] == f"<{'p' * 40}.{('a-node-with-a-long-name' * 2)[:40]}.tocsin.{domain}>"
    assert headers["X-Ticket"] == "9" * 100
    assert first["References"] == second["References"] == headers["References"]


@pytest.mark.parametrize(
    "value", ["x\r\nBcc: evil@example.com\r\n\r\nbody", "y" * 100_000, "\u00e9" * 100_000, " " * 100_000]
)
async def test_hostile_names_make_no_header_and_no_endless_one(send: Send, server: SmtpSink, value: str) -> None:
    key = ScenarioKey(value, value, value)
    one = event(name=value, key=key)
    assert one.run
    run = replace(one.run, run_id=value, trigger_name=value)
    one = replace(one, run=run)
    details = Details(run.key, NOW, RunError(value, step=value), (), value)
    notice = EventNotice(one, "r", subject="${scenarioName} ${scenarioRunId}", attach=("log",))
    result = await send(mail(server.port), owed(notice), Facts({run.key: details}))
    assert result.outcome == AttemptOutcome.DELIVERED
    (got,) = server.mails
    assert got.recipients == ("ops@example.com",)
    assert got.message["Bcc"] is None
    assert len(got.message["Subject"] or "") <= 200
    head = got.raw.replace(b"\r\n", b"\n").split(b"\n\n")[0]
    assert max(len(line) for line in head.split(b"\n")) < 998
    assert len(head) < 4_000
    assert got.message["References"].startswith("<")


@pytest.mark.e2e
async def test_three_hours_without_a_mail_server_end_with_each_report_in_order_and_the_present_alerts(
    store: Store, clock: HandClock
) -> None:
    sink = SmtpSink()
    async with sink:
        port = sink.port
    settings = config(mail(port))
    sender = Sender(store, holder="me", clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1))
    rows: list[Notification] = []
    for minutes in range(0, 180, 10):
        rows.append(owed(EventNotice(event(minutes), "r", subject=f"mail {minutes}"), "ops/mail", at=clock.now()))
        flush = owed(group(alert(1, ended=minutes > 60), alert(minutes)), "ops/mail", "a group", at=clock.now())
        await store.write(outbox.enqueue, [rows[-1], flush])
        due = await sender.step(clock.now(), settings)
        await sender.idle()
        assert due is None or due <= clock.now() + timedelta(minutes=10)
        clock.forward(minutes=10)
    first = await store.read(get_delivery, rows[0].id)
    assert first
    assert first.notification.state == NotificationState.PENDING
    assert len(first.attempts) == 18
    async with SmtpSink(port=port) as sink:
        for _ in range(60):
            await sender.step(clock.forward(seconds=20), settings)
            await sender.idle()
        subjects = [one.message["Subject"] for one in sink.mails]
        assert [one for one in subjects if one.startswith("mail")] == [
            f"mail {minutes}" for minutes in range(0, 180, 10)
        ]
        (told,) = [one for one in sink.mails if not one.message["Subject"].startswith("mail")]
        assert "S170 failed" in parts(told)[0]
        assert "firing: S1 " not in parts(told)[0]
    await sender.close(timedelta(0))


@pytest.mark.e2e
async def test_a_hanging_mail_server_holds_up_no_other_channel(store: Store, clock: HandClock) -> None:
    async with SmtpSink(hang_after_data=True) as stuck, SmtpSink() as good:
        hanging = [
            Channel(
                **{f: getattr(mail(stuck.port, timeout=timedelta(seconds=60)), f) for f in Channel.__slots__}
                | {"name": f"m{n}"}
            )
            for n in range(24)
        ]
        settings = config(*hanging, mail(good.port))
        sender = Sender(store, holder="me", clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1))
        await store.write(outbox.enqueue, [owed(channel=f"m{n}") for n in range(24)])
        await sender.step(clock.now(), settings)
        while len(stuck.mails) < 24:
            await asyncio.sleep(0.02)
        await store.write(outbox.enqueue, [owed(channel="ops/mail")])
        await sender.step(clock.now(), settings)
        while not good.mails:
            await asyncio.sleep(0.02)
        depth = await store.read(deliveries.outbox_depth)
        assert depth.open >= 24
        await sender.close(timedelta(0))
