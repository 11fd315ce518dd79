"""What is needed of a run after its end, and why: its steps, or the end of its log too. Pure.

Each costs a request to DSS, so of a good run nothing is read that nobody shows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from tocsin.config.model import Channel, Config, MessageFormat, Reporter
from tocsin.model.decision import DecisionReason
from tocsin.model.event import END_EVENTS, Event, EventName
from tocsin.model.labels import all_match
from tocsin.model.run import DetailsLevel, Outcome
from tocsin.model.scenario import MailReporter
from tocsin.routing.dss_reporters import mirrored_message
from tocsin.routing.reporters import check_condition, evaluate_reporter

_BUILT_IN = frozenset(kind.value for kind in MessageFormat)  # the names of the built-in texts
_PERHAPS_MAIL = frozenset(  # schemes of channels that send the built-in mail, and what a URL in a file counts as
    [
        "mailto",
        "mailtos",
        "mailgun",
        "sendgrid",
        "ses",
        "azure",
        "o365",
        "smtp2go",
        "sparkpost",
        "postmark",
        "resend",
        "brevo",
        "mailersend",
        "sendpulse",
        "groundmail",
        "url",
    ]
)


class DetailsReason(StrEnum):
    FAILURE = "failure"  # the first error and the end of the log say why
    WARNING = "warning"  # the runs of its steps say why
    STEPS_SHOWN = "steps_shown"  # by a message that will be sent
    LOG_SHOWN = "log_shown"
    LOG_ATTACHED = "log_attached"


class DetailsNeed(NamedTuple):
    level: DetailsLevel
    reason: DetailsReason


_SHOWS = {
    DetailsLevel.STEPS: DetailsNeed(DetailsLevel.STEPS, DetailsReason.STEPS_SHOWN),
    DetailsLevel.LOG: DetailsNeed(DetailsLevel.LOG, DetailsReason.LOG_SHOWN),
}
_ATTACHES = DetailsNeed(DetailsLevel.LOG, DetailsReason.LOG_ATTACHED)

WantsDetails = Callable[[Event, Sequence[MailReporter]], DetailsNeed | None]
"""What is needed of the run that an event ended, by the mail reporters of its scenario too; None: nothing."""


def details_needed(config: Config) -> WantsDetails:
    """What this configuration needs of runs."""
    receivers = {receiver.name: receiver.channels for receiver in config.receivers if receiver.channels}
    sending = [item for item in config.reporters if item.receiver in receivers and item.on & END_EVENTS]
    mirrors = config.dss_reporters.mode == "mirror" and bool(config.dss_reporters.allow_recipients)

    def needed(event: Event, mail_reporters: Sequence[MailReporter]) -> DetailsNeed | None:
        if event.name not in END_EVENTS:
            return None
        if event.name in (EventName.RUN_FAILED, EventName.RUN_ABORTED):
            return DetailsNeed(DetailsLevel.LOG, DetailsReason.FAILURE)
        needs: list[DetailsNeed] = []
        if event.run is not None and event.run.outcome == Outcome.WARNING:
            needs.append(DetailsNeed(DetailsLevel.STEPS, DetailsReason.WARNING))
        concerned = [reporter for reporter in sending if event.name in reporter.on]
        labels = config.event_labels(event) if concerned else {}
        for reporter in concerned:
            if all_match(reporter.match, labels) and evaluate_reporter(reporter, event).notices:
                needs += _of_reporter(reporter, receivers[reporter.receiver], event, config.template_texts)
        for mail_reporter in mail_reporters if mirrors else ():
            needs += _of_mail_reporter(mail_reporter, event)
        return max(needs, key=lambda need: need.level, default=None)

    return needed


def _of_reporter(
    reporter: Reporter, channels: Sequence[Channel], event: Event, templates: Mapping[str, str]
) -> Iterator[DetailsNeed]:
    good = event.run is not None and event.run.outcome == Outcome.SUCCESS
    if "log" in reporter.attach:
        yield _ATTACHES
    own = reporter.template or reporter.message
    for channel in channels:
        level = max(_shown(own, channel, templates, good), _named(reporter.subject or "", good))
        if level in _SHOWS:
            yield _SHOWS[level]


def _of_mail_reporter(reporter: MailReporter, event: Event) -> Iterator[DetailsNeed]:
    if reporter.phase != "END" or check_condition(reporter.condition, event)[0] is DecisionReason.CONDITION:
        return
    if "LOG" in reporter.attachments:
        yield _ATTACHES
    text, _ = mirrored_message(reporter)
    if text is None or "step" in text or "step" in reporter.subject:
        yield _SHOWS[DetailsLevel.STEPS]


def _shown(own: str | None, channel: Channel, templates: Mapping[str, str], good: bool) -> DetailsLevel:
    """What the text of a message on a channel shows; ``own`` is the reporter's, over that of the channel."""
    if channel.webhook is not None:
        return DetailsLevel.STEPS  # in the data of the event
    text = own or channel.template
    if text is None or text in _BUILT_IN:
        if not good:
            return DetailsLevel.LOG
        mail = text == MessageFormat.MAIL or channel.scheme in _PERHAPS_MAIL
        return DetailsLevel.STEPS if mail else DetailsLevel.NOTHING
    text = templates.get(text, text)
    if any(word in text for word in ("include", "import", "extends")):
        level = max(DetailsLevel.STEPS, *(_named(other, good) for other in (text, *templates.values())))
        return level if good else DetailsLevel.LOG
    return _named(text, good)


def _named(text: str, good: bool) -> DetailsLevel:
    """What a text shows by the names of variables in it; the error is none after a good run."""
    if "log_tail" in text:
        return DetailsLevel.LOG
    return DetailsLevel.STEPS if "step" in text or (not good and "error" in text) else DetailsLevel.NOTHING
