"""Words: every kind of notice in every dialect, and hostile texts in all of them."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.deliver.builders import NOW, Plain, alert, config, event, group, hook
from tests.deliver.test_cards import crowd
from tocsin.config.model import Channel, Config, MessageFormat, Receiver, Reporter, StoreConfig
from tocsin.deliver import escape
from tocsin.deliver.check import check_templates, samples
from tocsin.deliver.message import Tone, build_message
from tocsin.deliver.outgoing import Facts
from tocsin.deliver.render import Renderer, fill_variables, message_variables
from tocsin.model.alert import Acknowledgement, EndReason
from tocsin.model.event import DSS_VARIABLES, DownReason, Event, EventName, FailedReporter, dss_variables
from tocsin.model.labels import Matcher, Op, parse_matcher
from tocsin.model.notification import EventNotice, GroupNotice, Notice, SummaryNotice
from tocsin.model.run import Details, RunError, RunWarning, Step

CONFIG = config(hook("http://127.0.0.1/"))
RENDERER = Renderer({})


def render(
    notice: Notice, kind: MessageFormat = MessageFormat.TEXT, facts: Facts | None = None, template: str | None = None
):
    return RENDERER.render(notice, facts or Facts(), CONFIG, kind, template)


def node_event(name: EventName) -> Event:
    return Event("n" * 32, name, "prod", NOW, NOW, reason=DownReason.UNREACHABLE)


def reporter_failed() -> Event:
    one = event()
    return Event("r" * 32, EventName.REPORTER_FAILED, "prod", NOW, NOW, "SALES", one.scenario, one.run,
                 reporter=FailedReporter("Mail to boss", "mail-scenario", "no such host"))  # fmt: skip


@pytest.mark.parametrize(
    ("one", "headline", "tone"),
    [
        (event(outcome="FAILED"), "Nightly load FAILED in SALES on prod", Tone.BAD),
        (event(outcome="ABORTED"), "Nightly load was ABORTED in SALES on prod", Tone.WARN),
        (event(outcome="SUCCESS"), "Nightly load ended with SUCCESS in SALES on prod", Tone.GOOD),
        (event(outcome="WARNING"), "Nightly load ended with WARNING in SALES on prod", Tone.WARN),
        (event(outcome="ODD"), "Nightly load ended with ODD in SALES on prod", Tone.WARN),
        (event(outcome=None), "Nightly load started in SALES on prod", Tone.INFO),
        (node_event(EventName.NODE_DOWN), "DSS node prod cannot be watched: unreachable", Tone.BAD),
        (node_event(EventName.NODE_UP), "Recovered: DSS node prod answers again", Tone.GOOD),
        (
            replace(event(outcome="SUCCESS"), previous_outcome="FAILED"),
            "Recovered: Nightly load ended with SUCCESS in SALES on prod",
            Tone.GOOD,
        ),
        (reporter_failed(), "Reporter Mail to boss of Nightly load could not send in SALES on prod", Tone.BAD),
    ],
)
def test_the_first_line_says_what_happened_and_where(one: Event, headline: str, tone: Tone) -> None:
    said = build_message(EventNotice(one, "r"), Facts(), CONFIG)
    assert (said.headline, said.tone) == (headline, tone)
    assert render(EventNotice(one, "r")).subject == headline


@pytest.mark.parametrize("kind", list(MessageFormat))
@pytest.mark.parametrize("name", ["an event", "a group of alerts", "a summary"])
def test_every_notice_renders_in_every_dialect_without_a_note(kind: MessageFormat, name: str) -> None:
    notice, facts = next((notice, facts) for what, notice, facts in samples() if what == name)
    rendered = render(notice, kind, facts)
    assert rendered.notes == ()
    assert rendered.text
    assert (rendered.html is not None) == (kind is MessageFormat.MAIL)


@pytest.mark.parametrize("kind", list(MessageFormat))
def test_each_dialect_tells_a_failure_in_full_and_in_this_order(kind: MessageFormat) -> None:
    one = event()
    assert one.run
    steps = (Step("s", "Train", "build", "FAILED", timedelta(minutes=2)),)
    details = Details(one.run.key, NOW, RunError("disk full", step="Train"), steps, "first of the log\nlast of the log")
    facts = Facts({one.run.key: details}, {one.run.scenario: timedelta(minutes=2)})
    rendered = render(EventNotice(one, "r"), kind, facts)
    body = rendered.html if kind is MessageFormat.MAIL else rendered.text
    assert body
    assert rendered.subject == "Nightly load FAILED in SALES on prod"
    told = ("Outcome", "FAILED", "Started", "2026-03-01 11:00:01 UTC", "Duration", "4m 12s", "usually 2m", "Trigger",
            "Every night", "Failed step", "Train", "Previous outcome", "SUCCESS", "Error", "disk full", "last of the log",
            "https://tocsin.example.com/")  # fmt: skip
    places = [body.find(word, body.find("Outcome")) for word in told]
    assert [word for word, place in zip(told, places, strict=True) if place < 0] == []
    ordered = [body.find(word, body.find("Outcome")) for word in ("Started", "Duration", "Trigger", "Failed step", "disk full",
                                                                  "last of the log", "https://tocsin")]  # fmt: skip
    assert ordered == sorted(ordered)
    link = body.find("https://dss.example.com/projects/SALES")
    assert link > ordered[-2] if kind is MessageFormat.MAIL else 0 <= link < body.find("Outcome")


@pytest.mark.parametrize("kind", list(MessageFormat))
def test_a_warning_says_why(kind: MessageFormat) -> None:
    one = event(outcome="WARNING")
    assert one.run
    warnings = tuple(RunWarning("Check", f"{n} checks returned a warning", n) for n in range(1, 8))
    facts = Facts({one.run.key: Details(one.run.key, NOW, warnings=warnings)})
    rendered = render(EventNotice(one, "r"), kind, facts)
    body = rendered.html if kind is MessageFormat.MAIL else rendered.text
    assert body
    for words in ("Check: 1 checks returned a warning", "5 checks returned a warning (5×)", "and 2 more"):
        assert words in body.replace("\\", "")


def test_times_are_of_the_configured_zone() -> None:
    local = replace(CONFIG, timezone="Asia/Tokyo")
    said = build_message(EventNotice(event(), "r"), Facts(), local)
    assert dict(said.lines)["Started"] == "2026-03-01 20:00:01 JST"


def test_a_group_tells_each_error_once_the_most_severe_first() -> None:
    notice, facts = crowd()
    said = build_message(notice, facts, CONFIG)
    assert [(section.size, section.error and section.error.message) for section in said.sections] == [
        (10, "disk full"), (30, "Connection refused"),
    ]  # fmt: skip
    text = render(notice, facts=facts).text or ""
    assert text.count("disk full") == 1
    assert "30 firing: Connection refused" in text


def test_one_cause_stands_in_the_headline() -> None:
    notice, facts = crowd(40, "disk full")
    assert build_message(notice, facts, CONFIG).headline == "Alerts in SALES: 40 firing: disk full"


def test_annotations_labels_and_links_are_in_every_message() -> None:
    own = replace(alert(1, team="finance"), annotations={"summary": "s", "owner": "Ann", "runbook_url": "https://wiki/x",
                                                         "previous_outcome": "SUCCESS"})  # fmt: skip
    said = build_message(group(own), Facts(), CONFIG)
    lines, links = dict(said.lines), dict(said.links)
    assert (lines["Team"], lines["Owner"], "Previous outcome" in lines) == ("finance", "Ann", False)
    assert links["Runbook"] == "https://wiki/x"
    assert links["Tocsin"] == f"https://tocsin.example.com/alerts/{own.id}"
    assert links["Acknowledge"] == f"https://tocsin.example.com/alerts/{own.id}#ack"
    assert links["History"] == "https://tocsin.example.com/scenarios/prod/SALES/S1"
    silence = urlsplit(links["Silence 1 h"])
    assert (silence.path, parse_qs(silence.query)) == ("/silences/new", {
        "matcher": ['alertname="ScenarioFailed"', 'dss_node="prod"', 'project="SALES"', 'scenario="S1"'], "duration": ["1h"],
    })  # fmt: skip
    run = build_message(EventNotice(event(), "r"), Facts(), CONFIG)
    assert dict(run.links)["Tocsin"] == "https://tocsin.example.com/runs/prod/SALES/NIGHTLY/2026-03-01-12-00-01-000"


def test_a_label_with_every_sign_is_a_matcher_that_the_form_can_read() -> None:
    labels = {"project": 'a"b\\c\nd&e=f #%ü'}
    notice = replace(group(alert(1), alert(2)), group_labels=labels)
    links = dict(build_message(notice, Facts(), CONFIG).links)
    (matcher,) = parse_qs(urlsplit(links["Silence 1 h"]).query)["matcher"]
    assert parse_matcher(matcher) == Matcher("project", Op.EQUAL, labels["project"])
    assert parse_qs(urlsplit(links["Tocsin"]).query) == {"matcher": [matcher]}


def test_an_overlong_run_names_the_step_that_goes_on() -> None:
    key = event(outcome=None).run
    assert key
    steps = (Step("a", "Load", "sql", "SUCCESS", timedelta(minutes=2)), Step("b", "Train", "build", None, None))
    own = replace(alert(1), run=key.key)
    said = build_message(group(own), Facts({key.key: Details(key.key, NOW, None, steps)}), CONFIG)
    assert dict(said.lines)["Running step"] == "Train"


def test_who_has_an_alert_stands_in_its_message() -> None:
    own = replace(alert(1), acknowledged=Acknowledgement("ann", NOW, NOW + timedelta(hours=1), "on it"))
    said = build_message(group(own), Facts(), CONFIG)
    assert dict(said.lines)["Acknowledged"] == "by ann until 2026-03-01 13:00:00 UTC: on it"
    assert "Acknowledge" not in dict(said.links)


def test_the_end_of_a_group_begins_with_another_word_than_the_group() -> None:
    ended = [alert(1, ended=True), alert(2, ended=True)]
    assert build_message(group(*ended), Facts(), CONFIG).headline == "Resolved: Alerts in SALES: 2 alerts"
    off = [replace(item, end_reason=EndReason.DEACTIVATED) for item in ended]
    assert build_message(group(*off), Facts(), CONFIG).headline == "Switched off: Alerts in SALES: 2 alerts"


def test_what_a_node_that_is_down_said_last_stands_in_its_message() -> None:
    facts = Facts(problems={"prod": "connection refused"})
    said = build_message(EventNotice(node_event(EventName.NODE_DOWN), "r"), facts, CONFIG)
    assert dict(said.lines)["Why"] == "connection refused"


def test_a_single_alert_is_told_in_full_and_its_end_with_how_long_and_how_many_runs() -> None:
    one = alert(1, ended=True)
    ended = type(one)(**{name: getattr(one, name) for name in one.__dataclass_fields__} | {"count": 4})
    assert render(group(alert(1))).subject == "S1 failed"
    rendered = render(group(ended))
    assert rendered.subject == "Resolved: ScenarioFailed of S1 in SALES on prod, after 29m"
    assert "Lasted: 29m, 4 times" in (rendered.text or "")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (EndReason.RESOLVED, "Resolved"),
        (EndReason.DEACTIVATED, "Switched off"),
        (EndReason.UNWATCHED, "No longer watched"),
        (EndReason.BY_HAND, "Closed by hand"),
    ],
)
def test_an_end_says_how(reason: EndReason, words: str) -> None:
    one = alert(1, ended=True)
    ended = type(one)(**{name: getattr(one, name) for name in one.__dataclass_fields__} | {"end_reason": reason})
    assert render(group(ended)).subject == f"{words}: ScenarioFailed of S1 in SALES on prod, after 29m"


def test_a_summary_counts_and_lists_the_worst() -> None:
    notice = SummaryNotice("prod", NOW - timedelta(hours=3), NOW, {"SUCCESS": 10, "FAILED": 2}, (event(1), event(2)))
    rendered = render(notice)
    assert rendered.subject == "12 runs on prod were seen late: 2 FAILED, 10 SUCCESS"
    assert (rendered.text or "").count("Nightly load FAILED") == 2


def test_long_lists_are_cut_and_say_so() -> None:
    notice = GroupNotice("k", "ops", {}, tuple(alert(n) for n in range(80)), "first", truncated=5)
    text = render(notice).text or ""
    assert "80 firing\n- S0, S1, S2, S3, S4, S5, S6, S7 and 72 more\n" in text
    assert "- and 5 more" in text


# --- hostile texts -----------------------------------------------------------------------------------------------------

EVIL = (
    "<b>x</b> *b* _i_ `c` [l](http://e) <!channel> <@U1> @everyone {{ 7*7 }} {% raw %} \r\nBcc: a@b\u202e\x00\ud800🔥"
)


@pytest.mark.parametrize("kind", list(MessageFormat))
def test_hostile_texts_are_never_markup_never_jinja_and_never_invisible(kind: MessageFormat) -> None:
    one = event(name=EVIL)
    assert one.run
    steps = (Step("s", EVIL, "t", EVIL, None),)
    details = Details(one.run.key, NOW, RunError(EVIL, EVIL, EVIL, EVIL), steps, EVIL + "\n```\n" + EVIL)
    rendered = render(EventNotice(one, "r"), kind, Facts({one.run.key: details}))
    for text in (rendered.subject, rendered.text or "", rendered.html or ""):
        assert not {"\u202e", "\x00", "\ud800", "\r"} & set(text)
        assert "49" not in text
        text.encode("utf-8")
    assert "\n" not in rendered.subject
    body = rendered.html if kind is MessageFormat.MAIL else rendered.text
    assert body
    if kind is MessageFormat.SLACK:
        assert "<!" not in body
        assert "<@" not in body
    if kind is MessageFormat.MARKDOWN:
        assert body.count("\n```") == 2
        assert "[l](http" not in body.split("\n```")[0]
    if kind is MessageFormat.MAIL:
        assert "<b>x" not in body
    if kind is not MessageFormat.MAIL:
        assert "@everyone" not in body


@given(st.text())
def test_slack_text_holds_no_angle_and_no_bare_ampersand(value: str) -> None:
    written = escape.escape_slack(value)
    assert not {"<", ">", "`"} & set(written)
    rest = written.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "")
    assert "&" not in rest


@given(st.text(), st.integers(1, 50))
def test_one_line_is_one_line_and_short_enough(value: str, most: int) -> None:
    line = escape.to_one_line(value, most)
    assert len(line) <= most
    assert len(line.splitlines()) <= 1


def test_a_link_cannot_leave_its_place() -> None:
    one = event()
    evil = type(one)(
        **{name: getattr(one, name) for name in one.__dataclass_fields__} | {"run_url": 'javascript:alert("x")'}
    )
    assert "javascript" not in (render(EventNotice(evil, "r"), MessageFormat.MAIL).html or "")
    evil = type(one)(
        **{name: getattr(one, name) for name in one.__dataclass_fields__} | {"run_url": "https://d/>|<!channel>)"}
    )
    assert "<!channel" not in (render(EventNotice(evil, "r"), MessageFormat.SLACK).text or "")


# --- variables and templates ----------------------------------------------------------------------------------------


def test_check_knows_every_variable_that_a_condition_may_speak_of() -> None:
    one = event()
    assert one.run
    assert set(dss_variables(replace(one, run=replace(one.run, fire_id="f")))) == DSS_VARIABLES


def test_dss_variables_have_dsss_names() -> None:
    one = event()
    assert one.run
    details = Details(one.run.key, NOW, None, (Step("s", "build", "t", "SUCCESS", None),))
    known = message_variables(EventNotice(one, "r", variables={"team": "x"}), Facts({one.run.key: details}))
    assert known["scenarioName"] == "Nightly load"
    assert known["scenarioId"] == "NIGHTLY"
    assert known["projectKey"] == "SALES"
    assert known["outcome"] == "FAILED"
    assert known["triggerName"] == "Every night"
    assert known["dssURL"] == "https://dss.example.com"
    assert known["stepOutcome_build"] == "SUCCESS"
    assert known["mailVariables_team"] == "x"
    assert message_variables(EventNotice(event(outcome=None), "r"), Facts())["outcome"] == "N/A"


def test_unknown_variables_stay_and_are_named() -> None:
    text = "${outcome} ${other} ${if(outcome == 'FAILED','x','y')} $x {plain}"
    filled, unknown = fill_variables(text, {"outcome"}, str.upper)
    assert filled == "OUTCOME ${other} ${if(outcome == 'FAILED','x','y')} $x {plain}"
    assert unknown == ["${other}", "${if(outcome == 'FAILED','x','y')}"]


def test_a_value_of_a_variable_is_not_read_as_a_template() -> None:
    notice = EventNotice(event(name="{{ 7*7 }} ${projectKey}"), "r", subject="${scenarioName}!")
    assert render(notice).subject == "{{ 7*7 }} ${projectKey}!"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ event.__class__ }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ dss.clear() }}",
        "{{ 1/0 }}",
        "{{ nope }}",
        "{% if %}",
        "{% include 'missing.j2' %}",
        "{{ 'x' * 10**12 }}" if False else "{{ headline.nope.nope }}",
    ],
)
def test_a_template_that_may_not_or_cannot_render_gives_the_built_in_message_with_a_note(template: str) -> None:
    rendered = render(EventNotice(event(), "r", template=template))
    assert "Outcome: FAILED" in (rendered.text or "")
    assert "Note: the template could not be rendered" in (rendered.text or "")
    assert len(rendered.notes) == 1


def test_a_broken_subject_falls_back_to_the_headline() -> None:
    rendered = render(EventNotice(event(), "r", subject="{{ x"))
    assert rendered.subject == "Nightly load FAILED in SALES on prod"
    assert rendered.notes[0].startswith("the subject could not be rendered")


def test_templates_may_extend_and_include_each_other() -> None:
    renderer = Renderer(
        {"own.j2": "{% include 'part.j2' %} and {% include 'text.j2' %}", "part.j2": "{{ dss.outcome }}"}
    )
    rendered = renderer.render(EventNotice(event(), "r"), Facts(), CONFIG, MessageFormat.TEXT, "own.j2")
    assert (rendered.text or "").startswith("FAILED and Run in DSS: https://")


def test_templates_are_tried_on_samples_and_problems_told_by_name() -> None:
    channels = (
        Channel("a", "ops", url=Plain("json://x"), template="good.j2"),
        Channel("b", "ops", url=Plain("json://x"), template="events.j2"),
        Channel("c", "ops", url=Plain("json://x"), template="slack"),
        Channel("d", "ops", url=Plain("json://x"), template="broken.j2"),
    )
    reporters = (
        Reporter("r", "ops", frozenset({EventName.RUN_FAILED}), subject="${scenarioName} {{ dss.outcome }}"),
        Reporter("s", "ops", frozenset({EventName.RUN_FAILED}), message="{{ oops"),
    )
    settings = Config(
        (), StoreConfig(""), receivers=(Receiver("ops", channels),), reporters=reporters,
        template_texts={"good.j2": "{{ headline }}", "events.j2": "\n{{ event.run.run_id }}", "broken.j2": "a\nb\n{% oops %}"},
    )  # fmt: skip
    assert [str(problem) for problem in check_templates(settings)] == [
        "channel b: template events.j2 cannot render a group of alerts and a summary: line 2: UndefinedError: 'None' has no "
        "attribute 'run'",
        "channel d: template broken.j2 cannot render an event and a group of alerts and a summary: line 3: Encountered "
        "unknown tag 'oops'.",
        "reporter s: message cannot render an event: line 1: unexpected end of template, expected 'end of print "
        "statement'.",
    ]


def test_a_text_of_strangers_is_filled_and_never_executed() -> None:
    hostile = "{{ 7 * 7 }} {% for x in range(9999999) %}{{ x }}{% endfor %} ${scenarioName} ${nobodyKnows}{${outcome}}"
    named = event(name="<b>{{ 8 * 8 }}</b>")
    one = EventNotice(named, "r", subject=hostile, template=hostile, plain="text")
    said = render(one, MessageFormat.MAIL)
    expected = hostile.replace("${scenarioName}", "<b>{{ 8 * 8 }}</b>").replace("${outcome}", "FAILED")
    assert (said.text, said.html, said.notes) == (expected, None, ("unknown variables: ${nobodyKnows}",) * 2)
    assert said.subject == expected
    page = render(replace(one, plain="html"), MessageFormat.MAIL).html
    assert page == expected.replace("<b>{{ 8 * 8 }}</b>", "&lt;b&gt;{{ 8 * 8 }}&lt;/b&gt;")


def test_a_text_of_strangers_names_no_template() -> None:
    renderer = Renderer({"secret.j2": "for admins"})
    for name in ("secret.j2", "mail", "mail.txt.j2"):
        one = EventNotice(event(), "r", template=name, plain="text")
        assert renderer.render(one, Facts(), CONFIG, MessageFormat.MAIL, None).text == name


def test_every_name_that_templates_may_use_is_documented(repository: Path) -> None:
    from tocsin.deliver.message import Message

    page = (repository / "docs" / "messages.md").read_text("utf-8")
    names = {*Message.__dataclass_fields__, "subject", "event", "group", "summary", "dss"}
    assert [name for name in sorted(names) if f"| `{name}` |" not in page] == []
    known = message_variables(EventNotice(event(), "r"), Facts())
    assert [name for name in known if f"${{{name}}}" not in page] == []
