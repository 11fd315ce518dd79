"""What reporters need to know of a run before they tell its end."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from tocsin.config.model import Channel, Reporter
from tocsin.model.event import END_EVENTS, Event, EventName, ScenarioFacts, end_event_name
from tocsin.model.run import DetailsLevel, Run, ScenarioKey
from tocsin.routing.reporters import details_needed

T0 = datetime(2026, 3, 1, tzinfo=UTC)
NOTHING, STEPS, LOG = DetailsLevel
TEMPLATES = {"short": "{{ headline }}", "long": "{{ log_tail }}", "wrapper": "{% include 'long' %}"}


@dataclass(frozen=True)
class Url:
    def reveal(self) -> str:
        return "json://example.com"

    async def read(self) -> str:
        return self.reveal()


MAIL = Channel("ops/mail", "ops", url=Url())
HOOK = Channel("ops/hook", "ops", webhook=Url())
PLAIN = Reporter("all", "ops", END_EVENTS)


def end(outcome: str) -> Event:
    run = Run(ScenarioKey("prod", "SALES", "NIGHTLY"), "run-1", T0, T0 + timedelta(minutes=1), outcome)
    facts = ScenarioFacts("NIGHTLY", "Nightly")
    return Event("e1", end_event_name(outcome), "prod", T0, T0, project="SALES", scenario=facts, run=run)


@pytest.mark.parametrize(
    ("what", "reporters", "channel", "success", "warning"),
    [
        ("nobody tells it", [], MAIL, NOTHING, NOTHING),
        ("its receiver has no channel", [replace(PLAIN, receiver="others")], MAIL, NOTHING, NOTHING),
        ("only failures are told", [replace(PLAIN, on=frozenset({EventName.RUN_FAILED}))], MAIL, NOTHING, NOTHING),
        ("its condition is false", [replace(PLAIN, condition="outcome == 'X'")], MAIL, NOTHING, NOTHING),
        ("the built-in text tells it", [PLAIN], MAIL, STEPS, LOG),
        ("a built-in text is named", [PLAIN], replace(MAIL, template="markdown"), STEPS, LOG),
        ("a webhook is posted", [PLAIN], HOOK, STEPS, STEPS),
        ("a mail has it attached", [replace(PLAIN, attach=("log",))], MAIL, LOG, LOG),
        ("another reporter attaches it to failures alone",
         [PLAIN, replace(PLAIN, on=frozenset({EventName.RUN_FAILED}), attach=("log",))], HOOK, STEPS, STEPS),
        ("a template without it", [replace(PLAIN, template="short")], MAIL, STEPS, STEPS),
        ("a template shows it", [replace(PLAIN, template="long")], MAIL, LOG, LOG),
        ("a template of the channel shows it", [PLAIN], replace(MAIL, template="long"), LOG, LOG),
        ("a template includes one that shows it", [PLAIN], replace(MAIL, template="wrapper"), LOG, LOG),
        ("an inline message shows it", [replace(PLAIN, message="{{ log_tail }}")], MAIL, LOG, LOG),
        ("an inline message does not", [replace(PLAIN, message="${outcome}")], MAIL, STEPS, STEPS),
    ],
)  # fmt: skip
def test_how_much_of_a_run_is_read_when(
    what: str, reporters: list[Reporter], channel: Channel, success: DetailsLevel, warning: DetailsLevel
) -> None:
    wanted = details_needed(reporters, {channel.name: channel}, TEMPLATES)
    levels = [wanted(end(outcome)) for outcome in ("SUCCESS", "WARNING", "FAILED", "ABORTED")]
    assert levels == [success, warning, LOG, LOG], what
