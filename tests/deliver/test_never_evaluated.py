"""Text from DSS is data in every field, message and dialect: nothing in it is ever evaluated."""

import html
import re
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.deliver.builders import NOW, alert, config, event, group, hook
from tocsin.config.model import MessageFormat
from tocsin.deliver.outgoing import Facts
from tocsin.deliver.render import Renderer
from tocsin.model.event import EventName, FailedReporter, ScenarioFacts
from tocsin.model.notification import EventNotice, Notice, SummaryNotice
from tocsin.model.run import Details, RunError, Step

HOSTILE = "{{ 7919*7907 }}{% if 1 %}${7919*7907}${dssURL}#{7919*7907}<#assign x=7919*7907>[=7919*7907]"
EVALUATED = str(7919 * 7907)
URL = "https://dss.example.com"
OWN = """${scenarioName}|${outcome}|${triggerName}|${mailVariables_who}|{{ headline }}|{{ error }}|{{ event.scenario.name }}
{% for line in lines %}{{ line | line }}{% endfor %}{% for step in steps %}{{ step.name }}{% endfor %}{{ log_tail }}"""
CONFIG = config(hook("http://127.0.0.1/"))


def hostile_event(name: EventName = EventName.RUN_FAILED) -> EventNotice:
    plain = event()
    assert plain.run
    said = replace(
        plain,
        name=name,
        scenario=ScenarioFacts("S", HOSTILE, (HOSTILE,), HOSTILE),
        run=replace(plain.run, outcome=HOSTILE, trigger_name=HOSTILE, trigger_type=HOSTILE, run_as=HOSTILE),
        previous_outcome=HOSTILE,
        reporter=FailedReporter(HOSTILE, HOSTILE, HOSTILE),
    )
    return EventNotice(said, "nightly", variables={"who": HOSTILE})


def facts() -> Facts:
    run = hostile_event().event.run
    assert run
    error = RunError(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    step = Step(HOSTILE, HOSTILE, HOSTILE, HOSTILE, timedelta(1), (HOSTILE,))
    return Facts({run.key: Details(run.key, NOW, error, (step,), HOSTILE, None)})


def notices() -> dict[str, Notice]:
    ours = replace(hostile_event(), subject="${scenarioName} ${mailVariables_who}: {{ headline }}")
    theirs = replace(hostile_event(), subject=HOSTILE, template=HOSTILE)
    shown = replace(alert(1), annotations={"summary": HOSTILE, "description": HOSTILE, "runbook_url": HOSTILE})
    return {
        "built in": hostile_event(),
        "a reporter of DSS": hostile_event(EventName.REPORTER_FAILED),
        "an own message": replace(ours, template=OWN),
        "an own template": replace(ours, template="own.j2"),
        "a mail of DSS, text": replace(theirs, plain="text"),
        "a mail of DSS, HTML": replace(theirs, plain="html"),
        "alerts": group(shown, replace(shown, labels=dict(shown.labels) | {"scenario": HOSTILE, "tags": HOSTILE})),
        "a summary": SummaryNotice("prod", NOW, NOW, {HOSTILE: 3}, (hostile_event().event,)),
    }


@pytest.mark.parametrize("kind", list(MessageFormat))
@pytest.mark.parametrize("name", list(notices()))
def test_nothing_in_a_text_of_dss_is_evaluated(name: str, kind: MessageFormat) -> None:
    notice = notices()[name]
    rendered = Renderer({"own.j2": OWN}).render(notice, facts(), CONFIG, kind, None)
    said = "\n".join(filter(None, (rendered.subject, rendered.text, rendered.html)))
    assert EVALUATED not in said
    assert not [note for note in rendered.notes if "could not be rendered" in note]
    shown = re.sub(r"[\\\u200b]", "", html.unescape(said))
    assert "{{ 7919*7907 }}" in shown
    if "a mail of DSS" not in name:  # whose own variables are filled in, as in DSS
        assert "${dssURL}" in shown
