"""Reporters: every event that matches is sent, each time, one notification a channel. No state, no silences. Pure.

Ids are derived from event, reporter and channel, so that evaluating an event again enqueues nothing twice. An ordering
key is one scenario and one reporter: notifications about a scenario arrive in the order of events.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import msgspec

from tocsin.config.model import Channel, Reporter
from tocsin.kit.clock import to_ms
from tocsin.kit.strings import derived_id
from tocsin.model.decision import DecisionReason
from tocsin.model.event import END_EVENTS, Event, dss_variables, is_good
from tocsin.model.notification import EventNotice, MailOverrides, Notice, Notification, SummaryNotice
from tocsin.model.run import BAD_OUTCOMES
from tocsin.routing.formula import BadFormula, holds

_WORST = 5  # failures that a summary names
_WORST_OF_DIGEST = 100


class ReporterResult(msgspec.Struct, frozen=True):
    """What a reporter makes of one event: notices, or the reason why there are none."""

    name: str  # of the reporter in decisions
    key: tuple[str, str]  # kind and id of the reporter, in ids and ordering keys of notifications
    reason: DecisionReason
    note: str | None = None  # the condition that was false, or why one could not be read
    notices: tuple[EventNotice, ...] = ()
    left_out: tuple[str, ...] = ()  # recipients who get nothing, each with its reason


def evaluate_reporter(reporter: Reporter, event: Event) -> ReporterResult:
    """What the reporter makes of an event that concerns it (``on``, ``match``)."""
    reason, note = check_condition(reporter.condition, event)
    notices: tuple[EventNotice, ...] = ()
    if reason is not DecisionReason.CONDITION:
        mail, overrides = reporter.mail, overrides_of(reporter)
        notice = EventNotice(
            event=event,
            reporter=reporter.name,
            subject=reporter.subject,
            mail=overrides,
            attach=reporter.attach,
            variables={} if mail is None else mail.variables,
            template=reporter.template or reporter.message,
        )
        notices = (notice,)
    return ReporterResult(reporter.name, ("reporter", reporter.name), reason, note, notices)


def overrides_of(reporter: Reporter) -> MailOverrides | None:
    mail = reporter.mail
    return None if mail is None else MailOverrides(mail.sender, mail.to, mail.cc, mail.bcc)


def check_condition(condition: str | None, event: Event) -> tuple[DecisionReason, str | None]:
    """Whether a condition lets an event pass. One that cannot be read counts as true, and the note says why."""
    if condition is None or not condition.strip():
        return DecisionReason.ENQUEUED, None
    try:
        true = holds(condition, dss_variables(event))
    except BadFormula as error:
        return DecisionReason.CONDITION_ERROR, str(error)
    return (DecisionReason.ENQUEUED, None) if true else (DecisionReason.CONDITION, condition)


def new_notification(
    channel: Channel, ordering_key: str, notice: Notice, now: datetime, *id_parts: str | int
) -> Notification:
    id_ = derived_id(*id_parts)
    return Notification(id_, channel.receiver, channel.name, ordering_key, notice, created_at=now, due_at=now)


def reporter_notifications(result: ReporterResult, channels: Sequence[Channel], now: datetime) -> list[Notification]:
    """One notification for each notice, all about one event, and channel."""
    event, (kind, id_) = result.notices[0].event, result.key
    ordering_key = f"{kind}:{id_}:{'/'.join(event.key or (event.node,))}"
    return [
        new_notification(channel, ordering_key, notice, now, event.id, kind, id_, channel.name, index)
        for channel in channels
        for index, notice in enumerate(result.notices)
    ]


def summary_notifications(
    node: str, receiver: str, late: Sequence[Event], channels: Sequence[Channel], now: datetime
) -> list[Notification]:
    """One message a channel on what was withheld; ``late`` is in order of time and not empty."""
    notice = _summary(node, late, _WORST)
    ids, key = [event.id for event in late], f"summary:{node}"
    return [new_notification(item, key, notice, now, "summary", receiver, item.name, *ids) for item in channels]


def digest_notifications(
    reporter: Reporter, happened: Sequence[Event], channels: Sequence[Channel], now: datetime
) -> list[Notification]:
    """One message a channel on what happened since the reporter's digest before; in order of time and not empty."""
    nodes = {event.node for event in happened}
    summary = _summary(nodes.pop() if len(nodes) == 1 else "", happened, _WORST_OF_DIGEST)
    mail = overrides_of(reporter)
    notice = replace(summary, digest=reporter.name, mail=mail)
    key = f"digest:{reporter.name}"
    return [new_notification(item, key, notice, now, key, item.name, to_ms(now)) for item in channels]


def _summary(node: str, happened: Sequence[Event], most: int) -> SummaryNotice:
    outcomes = Counter(event.run.outcome or "?" for event in happened if event.run and event.name in END_EVENTS)
    failures = [event for event in happened if event.run and event.run.outcome in BAD_OUTCOMES]
    worst = tuple(reversed(failures[-most:]))
    mended = {event.key: event.time for event in happened if event.run and is_good(event.run.outcome)}
    recovered = tuple(event.id for event in worst if event.key in mended and mended[event.key] > event.time)
    return SummaryNotice(node, happened[0].time, happened[-1].time, dict(outcomes), worst, recovered)
