"""What holds in every form of a message: addresses stay addresses, and nothing is left out without being counted."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from tests.deliver.builders import NOW, HandClock, Plain, alert, config, event, group
from tests.deliver.test_cards import crowd
from tocsin.config.model import Channel, MessageFormat, OpsgenieConfig, PagerDutyConfig, SlackConfig
from tocsin.deliver.check import preview
from tocsin.deliver.message import build_message
from tocsin.deliver.outgoing import Facts
from tocsin.deliver.render import Renderer
from tocsin.model.notification import EventNotice, GroupNotice
from tocsin.model.run import Details, Run, RunError, RunKey, ScenarioKey

HOSTILE = "https://x.example/a>|<!channel>)](http://evil.example)\"'<b>"
CHANNELS: dict[str, dict[str, Any]] = {
    "slack": {"slack": SlackConfig("C0ALERTS", Plain("x"))},
    "slack webhook": {"url": Plain("slack://TK14FKMLT/BK14FKMLT/K14FKMLTK14FKMLTK14FKMLT")},
    "teams": {"url": Plain("workflows://host/" + "w" * 32 + "/s" + "g" * 30)},
    "discord": {"url": Plain("discord://" + "1" * 18 + "/" + "t" * 60)},
    "google chat": {"url": Plain("gchat://space/key/token")},
    "mattermost": {"url": Plain("mmosts://host/" + "k" * 26)},
    "telegram": {"url": Plain("tgram://110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1/123")},
    "ntfy": {"url": Plain("ntfy://host/topic")},
    "mail": {"url": Plain("mailto://smtp.example.com?from=tocsin@example.com&to=ops@example.com")},
    "pagerduty": {"pagerduty": PagerDutyConfig(Plain("k" * 32))},
    "opsgenie": {"opsgenie": OpsgenieConfig(Plain("k"))},
}  # fmt: skip


def shown(service: str, notice: EventNotice | GroupNotice, facts: Facts | None = None, **more: Any) -> str:
    """What a channel of this service would get, whole."""
    channel = Channel("ops/x", "ops", **CHANNELS[service])
    found = preview(channel, notice, facts or Facts(), config(channel, **more), HandClock())
    assert found.problem is None or (service in ("pagerduty", "opsgenie") and isinstance(notice, EventNotice))
    return f"{found.title}\n{found.body}\n{found.html or ''}"


def scattered(causes: int, count: int) -> tuple[GroupNotice, Facts]:
    """A group with ``causes`` errors, and scenarios named Load 1…"""
    alerts, details = [], {}
    for n in range(count):
        run = RunKey(ScenarioKey("prod", "SALES", f"S{n}"), f"r{n}", NOW)
        own = alert(n, scenario_name=f"Load {n}")
        alerts.append(replace(own, run=run, annotations={"summary": f"Load {n} ended FAILED"}))
        details[run] = Details(
            run, NOW, RunError("cause " + "abcdefghij"[n % causes // 10] + "klmnopqrst"[n % causes % 10])
        )
    return group(*alerts), Facts(details)


@pytest.mark.parametrize("service", CHANNELS)
def test_an_address_from_outside_never_becomes_markup(service: str) -> None:
    own = alert(1)
    own = replace(own, annotations={**own.annotations, "run_url": HOSTILE, "runbook_url": HOSTILE})
    for notice in (group(own), group(own, alert(2)), EventNotice(replace(event(), run_url=HOSTILE), "r")):
        text = shown(service, notice)
        assert "<!channel" not in text
        assert "](http://evil" not in text
        assert ">|" not in text


@pytest.mark.parametrize("service", CHANNELS)
@pytest.mark.parametrize(("causes", "count"), [(1, 9), (2, 40), (1, 200), (40, 40), (60, 500), (100, 300)])
def test_what_is_listed_and_what_is_more_is_all_there_is(service: str, causes: int, count: int) -> None:
    notice, facts = scattered(causes, count)
    text = shown(service, notice, facts)
    if service == "mail":  # says it twice, as text and as a page
        text = text.partition("<!DOCTYPE")[0]
    if service == "opsgenie":  # as text and as details
        text = json.loads(text.partition("\n")[2])[0]["description"]
    listed = set(re.findall(r"Load \d+", text))
    more = [int(number) for number in re.findall(r"and (\d+) more", text)]
    assert len(listed) + sum(more) == count


@pytest.mark.parametrize("service", ["slack", "mattermost"])
def test_a_template_that_fails_costs_no_form(service: str) -> None:
    if service == "slack":
        text = shown(service, EventNotice(event(), "r"), template_texts={"slack.j2": "{{ nope }}"})
        assert json.loads(text.partition("\n")[2])["blocks"][1]["fields"]
    else:
        channel = Channel("ops/x", "ops", **CHANNELS[service], template="own.j2")
        found = preview(channel, EventNotice(event(), "r"), Facts(), config(channel, template_texts={"own.j2": "{{ nope }}"}),
                        HandClock())  # fmt: skip
        text = found.body
        assert json.loads(text)["attachments"][0]["fields"]
    assert "the template could not be rendered" in text


def test_a_kind_of_the_operator_that_fails_gives_the_built_in_one() -> None:
    renderer = Renderer({"text.j2": "{{ nope }}"})
    rendered = renderer.render(EventNotice(event(), "r"), Facts(), config(), MessageFormat.TEXT, None)
    assert "Outcome: FAILED" in (rendered.text or "")
    assert rendered.notes[0].startswith("the template could not be rendered: line 1")


def test_what_slack_shows_of_an_own_template_is_what_its_preview_shows() -> None:
    text = shown("slack", EventNotice(event(), "r"), template_texts={"slack.j2": "look at {{ event.project }}"})
    assert json.loads(text.partition("\n")[2])["blocks"][1]["text"]["text"] == "look at SALES"


def test_a_group_says_how_many_alerts_its_snapshot_leaves_out() -> None:
    notice, facts = crowd(60)
    message = build_message(replace(notice, truncated=440), facts, config())
    assert message.more + sum(section.size for section in message.sections) == 500


@pytest.mark.parametrize("service", CHANNELS)
@pytest.mark.parametrize(
    "text", ["\u202e\u05e9\u05dc\u05d5\u05dd \u0645\u0631 ", "a\x00b\ud800c ", "<!channel> @here "]
)
def test_signs_that_no_display_should_get_reach_none(service: str, text: str) -> None:
    text = text * 100
    run = RunKey(ScenarioKey("prod", text, text), text, NOW)
    own = replace(alert(1, ended=True, scenario=text, scenario_name=text), annotations={f"note_{text}": text}, run=run)
    firing = [replace(own, ends_at=None, end_reason=None, fingerprint=str(n)) for n in range(60)]
    facts = Facts({run: Details(run, NOW, RunError(text, step=text), (), text)},
                  mended={own.id: Run(run.scenario, text, NOW, NOW, "SUCCESS")})  # fmt: skip
    for notice in (group(own), group(*firing), group(firing[0])):
        written = shown(service, notice, facts)
        assert not {"\u202e", "\x00", "\ud800"}.intersection(written)
        assert "\\ud800" not in written
        if len(notice.alerts) > 1:
            assert re.search(r"and \d+ more", written)
