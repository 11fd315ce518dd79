"""Failover: what a receiver's channels do not deliver in time is enqueued for another receiver too, once."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import ClassVar

from tocsin.decide.evaluate import CompiledConfig, Evaluation, StepResult
from tocsin.model.alert import NotificationLogEntry
from tocsin.model.decision import DecisionReason, Stage
from tocsin.model.notification import GroupNotice, Notification
from tocsin.routing.reporters import new_notification
from tocsin.store import Connection, alerts, groups, outbox
from tocsin.store.groups import NotificationLogRow

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
    """``log``, by group key and channel, says what stand-ins were told of a group, so that a flush tells them its end."""

    log: dict[tuple[str, str], NotificationLogRow]
    _pending: list[Notification] = field(default_factory=list)
    stage: ClassVar[Stage] = Stage.FLUSH

    def fail_over(self, notification: Notification) -> None:
        """Enqueue it for each channel that stands in, can take its kind and was not notified of the same by a flush."""
        notice = notification.notice
        for channel in self.compiled.stand_ins(notification.receiver):
            if isinstance(notice, GroupNotice):
                if not self._is_news(notice, channel.name):
                    continue
                notice = replace(notice, receiver=channel.receiver)
            elif channel.alerts_only:
                continue
            parts = (notification.id, "failover", channel.name)
            copy = new_notification(channel, notification.ordering_key, notice, self.now, *parts)
            self._pending.append(copy)
            subject = f"{notification.channel} → {channel.name}"
            self.note(subject, DecisionReason.FAILOVER, notification.reason, notification_id=copy.id)

    def _is_news(self, notice: GroupNotice, channel: str) -> bool:
        """Whether the channel was not notified of the same; then the log says that it is by now."""
        firing = frozenset(alert.fingerprint for alert in notice.alerts if alert.firing)
        resolved = frozenset(alert.fingerprint for alert in notice.alerts if not alert.firing)
        row = self.log.get((notice.group_key, channel))
        before = row.notified if row else None
        if before is not None and firing <= before.firing and resolved <= before.resolved:
            return False
        entry = NotificationLogEntry(firing, resolved, self.now)
        self.log[notice.group_key, channel] = NotificationLogRow(
            notice.group_key, channel, entry, DecisionReason.FAILOVER
        )
        return True

    def write(self) -> None:
        self.enqueue(self._pending, {})
        outbox.mark_failed_over(self.connection, [item.id for item in self._pending], self.now)
        notified = [row for row in self.log.values() if row.notified and row.notified.at == self.now]
        groups.save_notification_log(self.connection, notified)
        alerts.record_decisions(self.connection, self.result.decisions)


def fail_over(
    connection: Connection, compiled: CompiledConfig, now: datetime, undelivered: Sequence[Notification]
) -> StepResult:
    """Notify other receivers in place of those that did not deliver, and note it on the rows. What was delivered, or
    failed over, since ``undelivered`` was read is left out."""
    keys = {item.notice.group_key for item in undelivered if isinstance(item.notice, GroupNotice)}
    evaluation = FailoverEvaluation(connection, compiled, now, log=groups.load_notification_log(connection, keys))
    marked = outbox.mark_failed_over(connection, [item.id for item in undelivered], now)
    for notification in undelivered:
        if notification.id in marked:
            evaluation.fail_over(notification)
    evaluation.write()
    return evaluation.result
