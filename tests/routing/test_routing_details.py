"""What is read of a run after its end, and for what."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from tocsin.config.model import Channel, Config, DssReportersConfig, Node, Receiver, Reporter, StoreConfig
from tocsin.config.secrets import InlineSecret
from tocsin.deliver.services import SCHEMES, ServiceFormat
from tocsin.model.event import END_EVENTS, Event, EventName, ScenarioFacts, end_event_name
from tocsin.model.run import DetailsLevel, Run, ScenarioKey
from tocsin.model.scenario import MailReporter
from tocsin.routing.details import DetailsReason, details_needed

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
CHAT = Channel("ops/chat", "ops", url=InlineSecret("slack://a/b/c"))
HOOK = Channel("ops/hook", "ops", webhook=Url())
OWN = MailReporter("r1", "nightly mail", recipient="a@example.com")
PLAIN = Reporter("all", "ops", END_EVENTS)


def end(outcome: str) -> Event:
    run = Run(ScenarioKey("prod", "SALES", "NIGHTLY"), "run-1", T0, T0 + timedelta(minutes=1), outcome)
    facts = ScenarioFacts("NIGHTLY", "Nightly")
    return Event("e1", end_event_name(outcome), "prod", T0, T0, project="SALES", scenario=facts, run=run)


def config(reporters: list[Reporter], channel: Channel, mode: str = "off") -> Config:
    mirror = DssReportersConfig(mode, "ops", ("*@example.com",), ("*@example.com",))  # type: ignore[arg-type]
    return Config(
        (Node("prod", "https://dss"),),
        StoreConfig("sqlite://"),
        receivers=(Receiver("ops", (channel,)),),
        reporters=tuple(reporters),
        template_texts=TEMPLATES,
        dss_reporters=mirror,
    )


@pytest.mark.parametrize(
    ("what", "reporters", "channel", "success", "warning"),
    [
        ("nobody sends it", [], MAIL, NOTHING, STEPS),
        ("its receiver has no channel", [replace(PLAIN, receiver="others")], MAIL, NOTHING, STEPS),
        ("only failures are sent", [replace(PLAIN, on=frozenset({EventName.RUN_FAILED}))], MAIL, NOTHING, STEPS),
        ("its condition is false", [replace(PLAIN, condition="outcome == 'X'")], MAIL, NOTHING, STEPS),
        ("the built-in mail shows its steps", [PLAIN], MAIL, STEPS, LOG),
        ("the built-in text shows none", [PLAIN], CHAT, NOTHING, LOG),
        ("the built-in mail is sent to a chat", [PLAIN], replace(CHAT, template="mail"), STEPS, LOG),
        ("a built-in text is named", [PLAIN], replace(CHAT, template="markdown"), NOTHING, LOG),
        ("a webhook is posted", [PLAIN], HOOK, STEPS, STEPS),
        ("a mail has the log attached", [replace(PLAIN, attach=("log",))], MAIL, LOG, LOG),
        ("another reporter attaches it to failures alone",
         [PLAIN, replace(PLAIN, on=frozenset({EventName.RUN_FAILED}), attach=("log",))], HOOK, STEPS, STEPS),
        ("a template without it", [replace(PLAIN, template="short")], MAIL, NOTHING, STEPS),
        ("a template shows the log", [replace(PLAIN, template="long")], MAIL, LOG, LOG),
        ("a template of the channel shows the log", [PLAIN], replace(MAIL, template="long"), LOG, LOG),
        ("a template includes one that shows the log", [PLAIN], replace(MAIL, template="wrapper"), LOG, LOG),
        ("an inline message shows the log", [replace(PLAIN, message="{{ log_tail }}")], MAIL, LOG, LOG),
        ("an inline message shows the outcome", [replace(PLAIN, message="${outcome}")], MAIL, NOTHING, STEPS),
        ("an inline message shows a step", [replace(PLAIN, message="${stepOutcome_a}")], MAIL, STEPS, STEPS),
        ("a subject shows a step", [replace(PLAIN, subject="${stepOutcome_a}")], CHAT, STEPS, LOG),
    ],
)  # fmt: skip
def test_how_much_of_a_run_is_read(
    what: str, reporters: list[Reporter], channel: Channel, success: DetailsLevel, warning: DetailsLevel
) -> None:
    wanted = details_needed(config(reporters, channel))
    needs = [wanted(end(outcome), ()) for outcome in ("SUCCESS", "WARNING", "FAILED", "ABORTED")]
    assert [need.level if need else NOTHING for need in needs] == [success, warning, LOG, LOG], what


@pytest.mark.parametrize(
    ("outcome", "reporters", "reason"),
    [
        ("SUCCESS", [], None),
        ("SUCCESS", [PLAIN], DetailsReason.STEPS_SHOWN),
        ("SUCCESS", [replace(PLAIN, template="long")], DetailsReason.LOG_SHOWN),
        ("SUCCESS", [replace(PLAIN, attach=("log",))], DetailsReason.LOG_ATTACHED),
        ("WARNING", [], DetailsReason.WARNING),
        ("ABORTED", [], DetailsReason.FAILURE),
    ],
)
def test_a_need_has_its_reason(outcome: str, reporters: list[Reporter], reason: DetailsReason | None) -> None:
    need = details_needed(config(reporters, MAIL))(end(outcome), ())
    assert (need and need.reason) == reason


def test_nothing_is_read_after_a_start() -> None:
    started = replace(end("SUCCESS"), name=EventName.RUN_STARTED)
    assert details_needed(config([PLAIN], MAIL))(started, (OWN,)) is None


@pytest.mark.parametrize(
    ("mode", "own", "level"),
    [
        ("mirror", OWN, STEPS),
        ("mirror", replace(OWN, attachments=("LOG",)), LOG),
        ("mirror", replace(OWN, condition="outcome != 'SUCCESS'"), NOTHING),
        ("mirror", replace(OWN, phase="START"), NOTHING),
        ("mirror", replace(OWN, message="${outcome}"), NOTHING),
        ("mirror", replace(OWN, message="${stepOutcome_a}"), STEPS),
        ("fallback", OWN, NOTHING),
    ],
)
def test_mails_of_dss_that_will_be_sent_ask_for_what_they_show(
    mode: str, own: MailReporter, level: DetailsLevel
) -> None:
    need = details_needed(config([], MAIL, mode))(end("SUCCESS"), (own,))
    assert (need.level if need else NOTHING) == level


@pytest.mark.parametrize("scheme", [*SCHEMES[ServiceFormat.MAIL], "mailto"])
def test_a_channel_of_mail_shows_steps(scheme: str) -> None:
    mail = replace(CHAT, url=InlineSecret(f"{scheme}://example.com"))
    assert details_needed(config([PLAIN], mail))(end("SUCCESS"), ()) is not None
