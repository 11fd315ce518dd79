"""DSS's own mail reporters: who gets a mail, with which words, and who does not."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.config.model import Channel, DssReportersConfig
from tocsin.deliver.mail import parse_address, parse_addresses
from tocsin.model.decision import DecisionReason
from tocsin.model.event import Event, EventName, FailedReporter, ScenarioFacts, end_event_name
from tocsin.model.notification import EventNotice, MailOverrides
from tocsin.model.run import Run, ScenarioKey
from tocsin.model.scenario import MailReporter
from tocsin.routing import dss_reporters as mirror
from tocsin.routing.reporters import ReporterResult, reporter_notifications

T0 = datetime(2026, 3, 2, 6, tzinfo=UTC)
MIRROR = DssReportersConfig("mirror", "ops", ("*@example.com",), ("*@example.com",))
FALLBACK = replace(MIRROR, mode="fallback")
MAIL = MailReporter("r1", "nightly mail", recipient="a@example.com", subject="${scenarioName}: ${outcome}")
CHANNELS = (Channel("ops/mail", "ops"), Channel("ops/second", "ops"))


def event(outcome: str | None = "FAILED", name: EventName | None = None, scenario: str = "Nightly") -> Event:
    key = ScenarioKey("prod", "SALES", "NIGHTLY")
    run = Run(key, "run-1", T0, T0 + timedelta(minutes=1) if outcome else None, outcome, "manual", "Hand")
    name = name or (end_event_name(outcome) if outcome else EventName.RUN_STARTED)
    facts = ScenarioFacts("NIGHTLY", scenario)
    return Event("e1", name, "prod", T0, T0, project="SALES", scenario=facts, run=run)


def failed(name: str = "nightly mail", outcome: str | None = "FAILED", kind: str = "mail-scenario") -> Event:
    told = FailedReporter(name, kind, "no route to host")
    return replace(event(outcome, EventName.REPORTER_FAILED), reporter=told)


def one(reporter: MailReporter, config: DssReportersConfig = MIRROR, about: Event | None = None) -> ReporterResult:
    about = about or event()
    found = (mirror.evaluate_fallback if about.reporter else mirror.evaluate_mirror)(config, about, [reporter])
    assert found is not None
    (only,) = found
    return only


def who(reporter: MailReporter, config: DssReportersConfig = MIRROR) -> list[MailOverrides]:
    return mails(one(reporter, config))


def mails(found: ReporterResult) -> list[MailOverrides]:
    return [notice.mail for notice in found.notices if notice.mail is not None]


def told(reporter: MailReporter, about: Event | None = None) -> EventNotice:
    notice = reporter_notifications(one(reporter, about=about), CHANNELS[:1], T0)[0].notice
    assert isinstance(notice, EventNotice)
    return notice


@pytest.mark.parametrize(
    ("recipient", "expected"),
    [
        ("a@example.com", ["a@example.com"]),
        ("a@example.com, b@example.com;c@example.com,", ["a@example.com", "b@example.com", "c@example.com"]),
        ("a@example.com,\n  b@example.com", ["a@example.com", "b@example.com"]),
        ("a@example.com, a@example.com", ["a@example.com"]),
        ('["a@example.com", "b@example.com"]', ["a@example.com", "b@example.com"]),
        ('["a@example.com, b@example.com", 3, null]', ["a@example.com", "b@example.com"]),
        ("Ann Lee <a@example.com>", ['"Ann Lee" <a@example.com>']),
        ('"Lee, Ann" <a@example.com>, b@example.com', ['"Lee, Ann" <a@example.com>', "b@example.com"]),
        ("${projectKey}@example.com", ["SALES@example.com"]),
        ("A@Example.COM", ["A@Example.COM"]),
    ],
)
def test_recipients_are_read_as_dss_writes_them(recipient: str, expected: list[str]) -> None:
    assert who(replace(MAIL, recipient=recipient)) == [MailOverrides(to=tuple(expected))]


@pytest.mark.parametrize(
    ("recipient", "reason"),
    [
        ("eve@example.org", "eve@example.org (not allowed)"),
        ("eve@example.org <a@example.com", "eve@example.org <a@example.com (not an address)"),
        ('"a@example.com" <eve@example.org>', '"a@example.com" <eve@example.org> (not allowed)'),
        ("a@example.com <eve@example.org>", "a@example.com <eve@example.org> (not allowed)"),
        ("<a@example.com> eve@example.org", "<a@example.com> eve@example.org (not an address)"),
        ('"eve@example.org"@example.com', '"eve@example.org"@example.com (not an address)'),
        ("eve@example.org@example.com", "eve@example.org@example.com (not an address)"),
        ("a@example.com\r\nBcc: eve@example.org", "'a@example.com\\r\\nBcc: eve@example.org' (not an address)"),
        ("x\0@example.com", "'x\\x00@example.com' (not an address)"),
        ("nobody", "nobody (not an address)"),
        ("a..b@example.com", "a..b@example.com (not an address)"),
        ("ü@example.com", "ü@example.com (not an address)"),
        ("${mailing_list}", "${mailing_list} (the variable ${mailing_list} is not known here)"),
        ("<" + " " * 50_000, None),
        ("[not json", "all recipients: they begin as JSON and are none"),
        ('{"to": "a@example.com"}', "all recipients: the JSON object names no mails"),
        ("[" * 100_000, "all recipients: they begin as JSON and are none"),
    ],
)
def test_who_is_not_allowed_or_no_address_is_left_out_and_named(recipient: str, reason: str | None) -> None:
    found = one(replace(MAIL, recipient=recipient))
    assert (found.reason, found.notices) == (DecisionReason.NOT_ALLOWED, ())
    assert reason is None or found.left_out == (reason,)
    mixed = one(replace(MAIL, cc="b@example.com", recipient=recipient))
    assert mails(mixed) == [MailOverrides(cc=("b@example.com",))]


def test_sender_and_copies_are_dss_s_and_the_same_lists_hold_for_them() -> None:
    reporter = replace(MAIL, sender="Nightly <n@example.com>", cc="c@example.com, eve@example.org", bcc="d@example.com")
    found = one(reporter)
    assert mails(found) == [
        MailOverrides('"Nightly" <n@example.com>', ("a@example.com",), ("c@example.com",), ("d@example.com",))
    ]
    assert (found.reason, found.left_out) == (DecisionReason.ENQUEUED, ("eve@example.org (not allowed)",))


def test_a_sender_that_is_not_allowed_gives_way_to_the_channels_own() -> None:
    found = one(replace(MAIL, sender="boss@example.org"))
    assert [mail.sender for mail in mails(found)] == [None]
    assert found.left_out == ("sender boss@example.org (not allowed)",)


@pytest.mark.parametrize(
    ("lists", "reason"),
    [
        ({"allow_recipients": ()}, "all: allow_recipients allow nobody"),
        ({"allow_senders": ()}, "all: allow_senders allow nobody"),
        ({"allow_recipients": (), "allow_senders": ()}, "all: allow_recipients and allow_senders allow nobody"),
    ],
)
@pytest.mark.parametrize("mode", ["mirror", "fallback"])
def test_empty_lists_send_nothing(mode: str, lists: dict[str, tuple[str, ...]], reason: str) -> None:
    config = replace(MIRROR, mode=mode, **lists)  # type: ignore[arg-type]
    found = one(MAIL, config, event() if mode == "mirror" else failed())
    assert (found.reason, found.notices, found.left_out) == (DecisionReason.NOT_ALLOWED, (), (reason,))


PIECES = st.sampled_from(
    ["a", "eve", "@example.com", "@example.org", ",", ";", '"', "<", ">", "(", ")", "\\", ":", " ", ".", "=?utf-8?q?", "?=",
     "%", "!", "\r\n", "\0", "ü", "[", "]", "${projectKey}", "${", "}", "@"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=14).map("".join))
def test_whatever_is_written_the_mail_goes_where_it_is_allowed_to(recipient: str) -> None:
    for mail in mails(one(replace(MAIL, recipient=recipient))):
        for written in mail.to:
            read = parse_address(written)  # as delivery reads it: one address, never a refused mail
            assert read.addr_spec.lower().endswith("@example.com")
            assert parse_addresses([written]) == ((read,), ())
        assert len(parse_addresses(mail.to)[0]) == len(mail.to)


def test_individual_mails_are_one_notification_each_with_variables_of_their_own() -> None:
    recipient = json.dumps(
        {
            "mails": [
                {"to": "a@example.com", "variables": {"name": "Ann", "n": 3}},
                {"to": "eve@example.org"},
                {"to": "${mailVariables_who}@example.com", "variables": {"who": "b"}},
                "nonsense",
                {"to": "d@example.com", "variables": [1]},
            ]
        }
    )
    found = one(replace(MAIL, recipient=recipient))
    assert [(mail.to, notice.variables) for mail, notice in zip(mails(found), found.notices, strict=True)] == [
        (("a@example.com",), {"name": "Ann", "n": "3"}),
        (("b@example.com",), {"who": "b"}),
        (("d@example.com",), {}),
    ]
    owed = reporter_notifications(found, CHANNELS, T0)
    assert [one.channel for one in owed] == ["ops/mail"] * 3 + ["ops/second"] * 3
    assert len({one.id for one in owed}) == 6
    assert owed == reporter_notifications(one(replace(MAIL, recipient=recipient)), CHANNELS, T0)


def test_a_thousand_recipients_are_taken_and_no_more() -> None:
    many = ", ".join(f"u{number}@example.com" for number in range(1_003))
    found = one(replace(MAIL, recipient=many))
    assert len(mails(found)[0].to) == mirror.MOST_ADDRESSES
    assert found.left_out == ("all after 1000 addresses",)
    separate = {"mails": [{"to": "a@example.com"}] * 250}
    found = one(replace(MAIL, recipient=json.dumps(separate)))
    assert (len(found.notices), found.left_out) == (100, ("all individual mails after 100",))
    many = ", ".join(f"u{number}@example.org" for number in range(1_000))
    note = mirror.left_out_note(one(replace(MAIL, recipient=many)).left_out)
    assert note.endswith(", and 980 more")
    assert len(note) < 1_000


@pytest.mark.parametrize(
    ("condition", "outcome", "reason"),
    [
        (None, "SUCCESS", DecisionReason.ENQUEUED),
        ("", "SUCCESS", DecisionReason.ENQUEUED),
        ("outcome != 'SUCCESS'", "SUCCESS", DecisionReason.CONDITION),
        ("outcome != 'SUCCESS'", "FAILED", DecisionReason.ENQUEUED),
        ("outcome == 'FAILED' || outcome == 'ABORTED'", "ABORTED", DecisionReason.ENQUEUED),
        ("myVariable > 3", "SUCCESS", DecisionReason.CONDITION_ERROR),
        ("contains(outcome, ", "SUCCESS", DecisionReason.CONDITION_ERROR),
        ("(" * 5_000, "SUCCESS", DecisionReason.CONDITION_ERROR),
    ],
)
def test_a_condition_decides_and_one_that_cannot_be_read_counts_as_true(
    condition: str | None, outcome: str, reason: DecisionReason
) -> None:
    found = one(replace(MAIL, condition=condition), about=event(outcome))
    assert found.reason is reason
    assert bool(found.notices) == (reason is not DecisionReason.CONDITION)
    assert bool(found.note) == (reason is not DecisionReason.ENQUEUED)


@pytest.mark.parametrize(
    ("text", "freemarker", "kept"),
    [
        ("Hello ${scenarioName}", True, True),
        ("Hello ${scenarioName} and ${whatever}", False, True),
        ("<p>${outcome}</p> {{ 7 * 7 }} {% raw %}", True, True),
        ("${if(outcome == 'FAILED', 'x', 'y')}", False, False),
        ("<#if true>x</#if>", True, False),
        ("<#if true>x</#if>", False, True),
        ("<@macro/>", True, False),
        ("#{1 + 1}", True, False),
        ("[#ftl][#if true]x[/#if]", True, False),
        ("${outcome!'none'}", True, False),
        ('${"freemarker.template.utility.Execute"?new()("id")}', True, False),
        ("${outcome", True, False),
    ],
)
def test_plain_texts_are_filled_and_any_other_gives_way(text: str, freemarker: bool, kept: bool) -> None:
    reporter = replace(MAIL, message=text, subject=text, freemarker=freemarker)
    notice = told(reporter)
    assert notice.template == (text if kept else None)
    assert notice.subject == (text if kept else mirror.DEFAULT_SUBJECT)
    assert bool(one(reporter).note) == (not kept)


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ({}, None),
        ({"template": "default.ftl"}, None),
        ({"message": "<#list _fullStepRuns as step>${_rawScenarioRun.start}</#list>"}, None),
        ({"template": "ours.ftl"}, "the built-in mail replaces the template file ours.ftl"),
        ({"attachments": ("LOG", "DATASET")}, "attachments that only DSS has: DATASET"),
    ],
)
def test_the_default_message_is_the_built_in_mail(more: dict[str, object], note: str | None) -> None:
    reporter = replace(MAIL, **more)  # type: ignore[arg-type]
    assert told(reporter).template is None
    assert one(reporter).note == note


def test_the_log_is_attached_and_html_stays_html() -> None:
    notice = told(replace(MAIL, message="<b>x</b>", html=True, attachments=("LOG",)))
    assert (notice.attach, notice.plain, notice.template) == (("log",), "html", "<b>x</b>")
    assert told(MAIL).plain == "text"


def test_a_reporter_speaks_in_its_own_phase() -> None:
    both = [MAIL, replace(MAIL, id="r2", phase="START")]
    at_end, at_start = mirror.evaluate_mirror(MIRROR, event(), both), mirror.evaluate_mirror(MIRROR, event(None), both)
    assert [one.key[1] for one in at_end] == ["r1"]
    assert [one.key[1] for one in at_start] == ["r2"]


@pytest.mark.parametrize(
    ("config", "about", "concerned"),
    [
        (MIRROR, event(), True),
        (MIRROR, event(None), True),
        (MIRROR, failed(), False),
        (FALLBACK, event(), True),
        (FALLBACK, event(None), False),
        (FALLBACK, failed(), True),
        (FALLBACK, failed(kind="slack-scenario"), False),
        (DssReportersConfig(), event(), False),
        (DssReportersConfig(), failed(), False),
    ],
)
def test_each_mode_has_its_events(config: DssReportersConfig, about: Event, concerned: bool) -> None:
    assert mirror.concerns(config, about) is concerned


def test_what_dss_failed_to_send_is_sent_for_the_run_without_asking_its_condition() -> None:
    reporter = replace(MAIL, condition="outcome == 'NEVER'")
    found = one(reporter, FALLBACK, failed())
    assert (found.reason, found.notices[0].event.name) == (DecisionReason.ENQUEUED, EventName.RUN_FAILED)
    start = one(replace(reporter, phase="START"), FALLBACK, failed(outcome=None))
    assert start.notices[0].event.name is EventName.RUN_STARTED


def test_a_reporter_of_the_end_that_failed_before_the_end_was_seen_waits_for_it() -> None:
    early, end = failed(outcome=None), event()
    assert mirror.evaluate_fallback(FALLBACK, early, [MAIL]) == []
    (found,) = mirror.evaluate_fallback(FALLBACK, early, [MAIL], end.run) or []
    about = found.notices[0].event
    assert (about.name, about.run, about.id) == (EventName.RUN_FAILED, end.run, early.id)
    start = replace(MAIL, phase="START")
    assert len(mirror.evaluate_fallback(FALLBACK, early, [start]) or []) == 1
    assert mirror.evaluate_fallback(FALLBACK, early, [start], end.run) == []


def test_the_failed_reporter_is_found_by_its_name_or_by_being_the_only_one() -> None:
    other = replace(MAIL, id="r2", name="other")
    found = mirror.evaluate_fallback(FALLBACK, failed("other"), [MAIL, other])
    assert [one.key[1] for one in found or ()] == ["r2"]
    assert mirror.evaluate_fallback(FALLBACK, failed("nobody"), [MAIL, other]) is None
    assert mirror.evaluate_fallback(FALLBACK, failed("renamed since"), [MAIL]) is not None
    assert mirror.evaluate_fallback(FALLBACK, failed(), []) is None
