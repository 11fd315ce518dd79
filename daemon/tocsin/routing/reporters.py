"""Reporters: every event that matches is told, each time, one notification a channel. No memory, no silences.

Ids are derived from the event, the reporter and the channel, so that deciding the same event again owes nothing twice.
A ordering_key is one scenario and one reporter: what is told of a scenario arrives in the order in which it happened.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tocsin.config.model import Channel, MessageFormat, Reporter
from tocsin.kit.strings import derived_id
from tocsin.model.decision import DecisionReason
from tocsin.model.event import END_EVENTS, Event, EventName, dss_variables, event_labels
from tocsin.model.labels import Labels, all_match
from tocsin.model.notification import EventNotice, MailOverrides, Notification, SummaryNotice
from tocsin.model.run import BAD_OUTCOMES, DetailsLevel, Outcome, Run
from tocsin.routing.formula import BadFormula, holds

_WORST = 5  # failures that a summary names
_BUILT_IN = frozenset(kind.value for kind in MessageFormat)  # the names of the built-in texts
_ALWAYS_DETAILED = frozenset({EventName.RUN_FAILED, EventName.RUN_ABORTED})


@dataclass(frozen=True, slots=True)
class Report:
    """What a reporter makes of one event. ``note`` is the condition that was false, or why one could not be read."""

    reporter: Reporter
    reason: DecisionReason
    note: str | None = None

    @property
    def owes(self) -> bool:
        return self.reason in (DecisionReason.ENQUEUED, DecisionReason.CONDITION_ERROR)


def ask(reporter: Reporter, event: Event, labels: Labels) -> Report | None:
    """What the reporter says to an event; None when it does not concern it (``on``, ``match``)."""
    if event.name not in reporter.on or not all_match(reporter.match, labels):
        return None
    return Report(reporter, *asked(reporter.condition, event))


def asked(condition: str | None, event: Event) -> tuple[DecisionReason, str | None]:
    """Whether a condition lets an event pass. One that cannot be read counts as true, and the note says why."""
    if condition is None or not condition.strip():
        return DecisionReason.ENQUEUED, None
    try:
        true = holds(condition, dss_variables(event))
    except BadFormula as error:
        return DecisionReason.CONDITION_ERROR, str(error)
    return (DecisionReason.ENQUEUED, None) if true else (DecisionReason.CONDITION, condition)


def late_start(event: Event) -> Run | None:
    """The run whose start is told late. If it has ended since, its start is never told, its end is."""
    return event.run if event.late and event.name is EventName.RUN_STARTED else None


def notice(reporter: Reporter, event: Event) -> EventNotice:
    """The frozen data of a notification."""
    mail = reporter.mail
    return EventNotice(
        event=event,
        reporter=reporter.name,
        subject=reporter.subject,
        mail=None if mail is None else MailOverrides(mail.sender, mail.to, mail.cc, mail.bcc),
        attach=reporter.attach,
        variables={} if mail is None else mail.variables,
        template=reporter.template or reporter.message,
    )


def ordering_key(reporter: Reporter, event: Event) -> str:
    place = "/".join(event.key) if event.key else event.node
    return f"reporter:{reporter.name}:{place}"


def notifications(
    reporter: Reporter, event: Event, channels: Sequence[Channel], now: datetime, due_at: datetime
) -> list[Notification]:
    """What a reporter owes for an event: one notification a channel of its receiver."""
    frozen, place = notice(reporter, event), ordering_key(reporter, event)
    return [
        Notification(
            id=derived_id(event.id, "reporter", reporter.name, channel.name),
            receiver=channel.receiver,
            channel=channel.name,
            ordering_key=place,
            notice=frozen,
            created_at=now,
            due_at=due_at,
        )
        for channel in channels
    ]


def wants_details(
    reporters: Sequence[Reporter], channels: Mapping[str, Channel], templates: Mapping[str, str]
) -> Callable[[Event], DetailsLevel]:
    """What is needed of the run that an event ended: all of it after a failure or an abort; after other ends the steps
    when a reporter that has a channel will tell it, and the log when that reporter attaches it or its text shows it."""
    by_receiver: dict[str, list[Channel]] = {}
    for channel in channels.values():
        by_receiver.setdefault(channel.receiver, []).append(channel)
    telling = [reporter for reporter in reporters if reporter.receiver in by_receiver and reporter.on & END_EVENTS]

    def level(reporter: Reporter, event: Event, labels: Labels) -> DetailsLevel:
        report = ask(reporter, event, labels)
        if report is None or not report.owes:
            return DetailsLevel.NOTHING
        own = reporter.template or reporter.message
        texts = {own or channel.template for channel in by_receiver[reporter.receiver] if channel.webhook is None}
        shown = "log" in reporter.attach or any(_shows_log(text, event, templates) for text in texts)
        return DetailsLevel.LOG if shown else DetailsLevel.STEPS

    def wanted(event: Event) -> DetailsLevel:
        if event.name not in END_EVENTS:
            return DetailsLevel.NOTHING
        if event.name in _ALWAYS_DETAILED:
            return DetailsLevel.LOG
        asked = [reporter for reporter in telling if event.name in reporter.on]
        if not asked:
            return DetailsLevel.NOTHING
        labels = event_labels(event)
        return max(level(reporter, event, labels) for reporter in asked)

    return wanted


def _shows_log(template: str | None, event: Event, templates: Mapping[str, str]) -> bool:
    """Whether a text shows the log of this run: the built-in ones do, below the error of a run that was not good."""
    default = event.run is not None and event.run.outcome != Outcome.SUCCESS
    if template is None or template in _BUILT_IN:
        return default
    text = templates.get(template, template)
    if any(word in text for word in ("include", "import", "extends")):
        return default or any("log_tail" in one for one in (text, *templates.values()))
    return "log_tail" in text


def summary(
    node: str, receiver: str, late: Sequence[Event], channels: Sequence[Channel], now: datetime
) -> list[Notification]:
    """One message a channel on what was withheld; ``late`` is in order of time and not empty."""
    outcomes = [event.run.outcome or "?" for event in late if event.run and event.name in END_EVENTS]
    failures = [event for event in late if event.run and event.run.outcome in BAD_OUTCOMES]
    notice = SummaryNotice(
        node=node,
        since=late[0].time,
        until=late[-1].time,
        runs_by_outcome=dict(Counter(outcomes)),
        worst=tuple(reversed(failures[-_WORST:])),
    )
    return [
        Notification(
            id=derived_id("summary", receiver, channel.name, *(event.id for event in late)),
            receiver=receiver,
            channel=channel.name,
            ordering_key=f"summary:{node}",
            notice=notice,
            created_at=now,
            due_at=now,
        )
        for channel in channels
    ]
