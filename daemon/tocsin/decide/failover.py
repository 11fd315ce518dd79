"""Failover: what a receiver's channels do not deliver in time is enqueued for another receiver too, once."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import ClassVar

from tocsin.decide.evaluate import CompiledConfig, Evaluation, StepResult
from tocsin.model.decision import DecisionReason, Stage
from tocsin.model.notification import GroupNotice, Notification
from tocsin.routing.reporters import new_notification
from tocsin.store import Connection, alerts, outbox

_DEAD_SINCE = timedelta(hours=1)  # an older dead letter is history: its receiver had no failover when it died


def find_undelivered(connection: Connection, compiled: CompiledConfig, now: datetime) -> list[Notification]:
    """Notifications of receivers with a failover that are dead, or pending for too long. Reads only."""
    found: list[Notification] = []
    for receiver in compiled.config.receivers:
        if receiver.failover is not None and receiver.channels:
            channels = [channel.name for channel in receiver.channels]
            before = now - receiver.failover.after
            found += outbox.undelivered(connection, channels, before, now - _DEAD_SINCE)
    return found


@dataclass(slots=True)
class FailoverEvaluation(Evaluation):
    _pending: list[Notification] = field(default_factory=list)
    stage: ClassVar[Stage] = Stage.FLUSH

    def fail_over(self, notification: Notification, name: str) -> None:
        """Enqueue it for each channel of the receiver ``name`` that can take its kind."""
        notice = notification.notice
        if isinstance(notice, GroupNotice):
            notice = replace(notice, receiver=name)
        for channel in self.compiled.channels.get(name, ()):
            if isinstance(notice, GroupNotice) or not channel.alerts_only:
                parts = (notification.id, "failover", channel.name)
                copy = new_notification(channel, notification.ordering_key, notice, self.now, *parts)
                self._pending.append(copy)
                subject = f"{notification.channel} → {channel.name}"
                self.note(subject, DecisionReason.FAILOVER, notification.reason, notification_id=copy.id)

    def write(self) -> None:
        self.enqueue(self._pending, {})
        outbox.mark_failed_over(self.connection, [item.id for item in self._pending], self.now)
        alerts.record_decisions(self.connection, self.result.decisions)


def fail_over(
    connection: Connection, compiled: CompiledConfig, now: datetime, undelivered: Sequence[Notification]
) -> StepResult:
    """Notify other receivers in place of those that did not deliver, and note it on the rows. What was delivered, or
    failed over, since ``undelivered`` was read is left out."""
    evaluation = FailoverEvaluation(connection, compiled, now)
    marked = outbox.mark_failed_over(connection, [item.id for item in undelivered], now)
    for notification in undelivered:
        receiver = compiled.config.receiver(notification.receiver)
        if notification.id in marked and receiver is not None and receiver.failover is not None:
            evaluation.fail_over(notification, receiver.failover.receiver)
    evaluation.write()
    return evaluation.result
