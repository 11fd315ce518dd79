"""What webhooks get, whatever stands in names and errors."""

import json
import re
from dataclasses import replace

import pytest

from tests.deliver.builders import NOW, alert, config, event, group, owed
from tocsin.config.model import MessageFormat
from tocsin.deliver.outgoing import Facts
from tocsin.deliver.render import Renderer
from tocsin.deliver.webhook import build_payload
from tocsin.model.notification import EventNotice, SummaryNotice
from tocsin.model.run import Details, RunError, Step


def test_no_half_of_a_sign_and_no_nul_reaches_a_receiver() -> None:
    odd = "a\ud800b\0c\udfff\U0001f514 \\ud800"
    one = event(name=odd)
    assert one.run
    details = {
        one.run.key: Details(one.run.key, NOW, RunError(odd, step=odd), (Step("s", odd, "t", "FAILED", None),), odd)
    }
    alarm = replace(alert(), labels={**alert().labels, "scenario_name": odd}, annotations={"summary": odd})
    for notice in (EventNotice(one, "r"), group(alarm), SummaryNotice("prod", NOW, NOW, {odd: 1}, (one,))):
        body = build_payload(owed(notice), details, None).body
        text = json.dumps(json.loads(body), ensure_ascii=False)
        text.encode("utf-8")
        assert "\\u0000" not in text
        assert "a\ufffdbc\ufffd\U0001f514 \\\\ud800" in text


@pytest.mark.parametrize("said", ["{{ 7 * 7 }}", "${projectKey} ${scenarioId}", "{% for x in y %}", "#{7*7} <%= 7 %>"])
def test_what_looks_like_a_template_in_a_name_or_an_error_is_told_as_it_is(said: str) -> None:
    one = event(name=said)
    assert one.run
    details = {one.run.key: Details(one.run.key, NOW, RunError(said, step=said), (), said)}
    assert build_payload(owed(EventNotice(one, "r")), details, None).body.decode().count(json.dumps(said)[1:-1]) >= 3
    for kind in MessageFormat:
        for template in (
            None,
            "${scenarioName} {{ error.message }} {{ error.step }}",
            "{{ headline }} ${scenarioName}",
        ):
            notice = EventNotice(one, "r", template=template, subject="${scenarioName}!")
            rendered = Renderer({}).render(notice, Facts(details), config(), kind, None)
            assert rendered.subject == f"{said}!"
            assert rendered.notes == ()
            assert not {"49", "SALES NIGHTLY"} & set(
                re.findall(r"49|SALES NIGHTLY", rendered.text or rendered.html or "")
            )
