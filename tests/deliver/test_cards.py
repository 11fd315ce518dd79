"""The form that each service gets, over its real plugin, and its limits."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.deliver.builders import NOW, HandClock, Inbox, Plain, alert, config, event, group, owed
from tocsin.config.model import Channel
from tocsin.deliver.cards import COMPLETIONS
from tocsin.deliver.message import build_message, smaller
from tocsin.deliver.outgoing import Facts, Outgoing
from tocsin.deliver.transport import connector
from tocsin.model.notification import AttemptOutcome, EventNotice, GroupNotice, Notice
from tocsin.model.run import Details, RunError, RunKey, ScenarioKey, Step

HOSTILE = "<!channel> **x** [l](http://e) <b>y</b> @everyone \u202e\x00 \ud800 \U0001f525 مرحبا `z` " * 1_500


def failure(error: str = "Connection to 'dwh' refused") -> tuple[EventNotice, Facts]:
    one = event()
    assert one.run
    details = Details(
        one.run.key, NOW, RunError(error, step="Build"), (Step("s", "Build", "t", "FAILED", None),), error
    )
    return EventNotice(one, "r"), Facts({one.run.key: details})


def crowd(count: int = 40, error: str = "Connection refused") -> tuple[GroupNotice, Facts]:
    """Alerts with two causes."""
    alerts, details = [], {}
    for n in range(count):
        run = RunKey(ScenarioKey("prod", "SALES", f"S{n}"), f"r{n}", NOW)
        own = alert(n, scenario_name=f"Load {n}", severity="critical" if n % 4 == 0 else "warning")
        alerts.append(replace(own, run=run))
        details[run] = Details(run, NOW, RunError(error if n % 4 else "disk full"))
    return group(*alerts), Facts(details)


URLS = {
    "workflows": "workflows://{host}/" + "w" * 32 + "/s" + "g" * 30,
    "discord": "discord://" + "1" * 18 + "/" + "t" * 60,
    "gchat": "gchat://space/key/token",
    "mmost": "mmost://{host}/" + "k" * 26,
    "ntfy": "ntfy://{host}/topic",
    "tgram": "tgram://110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1/123",
}


@pytest.mark.parametrize("scheme", sorted(COMPLETIONS))
@pytest.mark.parametrize("case", ["failure", "crowd", "hostile", "crowd of the hostile", "recovery"])
def test_every_form_is_json_within_its_limits_and_says_what_broke(scheme: str, case: str) -> None:
    cases: dict[str, Callable[[], tuple[Notice, Facts]]] = {
        "failure": failure, "crowd": crowd, "hostile": lambda: failure(HOSTILE),
        "crowd of the hostile": lambda: crowd(500, HOSTILE), "recovery": lambda: (group(alert(1, ended=True)), Facts()),
    }  # fmt: skip
    notice, facts = cases[case]()
    message = build_message(notice, facts, config())
    document = COMPLETIONS[scheme]({}, message)
    text = json.dumps(document)
    assert len(text) <= 28_000
    if scheme in ("tgram", "ntfy", "ntfys"):
        return
    words = json.loads(text)
    flat = json.dumps(words, ensure_ascii=False)
    assert {"failure": "Nightly load FAILED", "recovery": "Resolved"}.get(case, "") in flat
    assert "https://tocsin.example.com/" in flat
    if "crowd" in case:
        assert "more" in flat
    if "hostile" in case and scheme != "gchat":
        assert "@everyone" not in flat


@pytest.mark.parametrize("scheme", ["mmost", "ntfy"])
async def test_the_real_plugin_sends_this_form(scheme: str, inbox: Inbox, clock: HandClock) -> None:
    url = URLS[scheme].format(host=inbox.url.removeprefix("http://").removesuffix("/hook"))
    channel = Channel("ops/x", "ops", url=Plain(url), timeout=timedelta(seconds=5))
    transport = connector(clock)(channel)
    notice, facts = failure()
    result = await transport.send(Outgoing(owed(notice, channel.name), config(channel), facts))
    await transport.close()
    assert result.outcome is AttemptOutcome.DELIVERED, result.note
    document: dict[str, Any] = json.loads(inbox.received[0].body)
    if scheme == "mmost":
        assert document["attachments"][0]["fields"][0] == {"short": True, "title": "Outcome", "value": "FAILED"}
        assert document["attachments"][0]["color"] == "#b3261e"
    else:
        assert (document["priority"], document["tags"]) == (5, ["rotating_light"])
        assert document["actions"][0]["label"] == "Run in DSS"
        assert document["topic"] == "topic"
        assert "Connection to 'dwh' refused" in document["message"]


async def test_a_log_is_attached_to_ntfy(inbox: Inbox, clock: HandClock) -> None:
    url = URLS["ntfy"].format(host=inbox.url.removeprefix("http://").removesuffix("/hook"))
    channel = Channel("ops/x", "ops", url=Plain(url), timeout=timedelta(seconds=5))
    transport = connector(clock)(channel)
    notice, facts = failure()
    result = await transport.send(
        Outgoing(owed(replace(notice, attach=("log",)), channel.name), config(channel), facts)
    )
    await transport.close()
    assert result.outcome is AttemptOutcome.DELIVERED, result.note
    assert any(b"refused" in request.body and not request.body.startswith(b"{") for request in inbox.received)


async def test_an_own_template_is_sent_as_it_is(inbox: Inbox, clock: HandClock) -> None:
    url = URLS["mmost"].format(host=inbox.url.removeprefix("http://").removesuffix("/hook"))
    channel = Channel("ops/x", "ops", url=Plain(url), template="own.j2", timeout=timedelta(seconds=5))
    transport = connector(clock)(channel)
    notice, facts = failure()
    settings = config(channel, template_texts={"own.j2": "just {{ headline }}"})
    await transport.send(Outgoing(owed(notice, channel.name), settings, facts))
    await transport.close()
    assert "just Nightly load" in json.loads(inbox.received[0].body)["text"]


def test_what_matters_least_goes_first() -> None:
    notice, facts = crowd(100)
    sizes = [
        sum(map(len, (message.items, message.lines, message.steps)))
        for message in smaller(build_message(notice, facts, config()))
    ]
    assert sizes == sorted(sizes, reverse=True)
    *_, last = smaller(build_message(*failure(), config()))
    assert (last.headline, last.error and last.error.message) == (
        "Nightly load FAILED in SALES on prod",
        "Connection to 'dwh' refused",
    )
    assert last.links
