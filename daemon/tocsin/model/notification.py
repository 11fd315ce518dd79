"""Notifications: what is to be sent to one channel, and the attempts to send it.

The data is frozen when it is enqueued and rendered when it is sent, since details of a run become known later.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal

from tocsin.kit.clock import to_ms
from tocsin.model.alert import Alert
from tocsin.model.event import Event
from tocsin.model.labels import Labels


class NotificationState(StrEnum):
    """The last four are final, though a dead one can be sent again by hand."""

    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    DEAD = "dead"  # given up: too old, a permanent error, or its channel is gone
    SUPERSEDED = "superseded"  # a newer state of the same group took its place
    CANCELLED = "cancelled"  # it ended before its start was ever delivered


class AttemptOutcome(StrEnum):
    """How one attempt ended. UNKNOWN: the deadline passed and it may still arrive."""

    DELIVERED = "delivered"
    FAILED = "failed"  # worth another try
    REFUSED = "refused"  # permanent: another try would fail the same way
    UNKNOWN = "unknown"


class DeadReason(StrEnum):
    TOO_OLD = "too_old"  # no attempt succeeded before the channel's ``max_age``
    REFUSED = "refused"  # by the receiver or the channel's own settings, for good
    CHANNEL_GONE = "channel_gone"  # its channel is no longer in the configuration
    UNREADABLE = "unreadable"  # its row cannot be read back


@dataclass(frozen=True, slots=True)
class MailOverrides:
    sender: str | None = None
    to: tuple[str, ...] = ()
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EventNotice:
    event: Event
    reporter: str
    subject: str | None = None
    mail: MailOverrides | None = None
    attach: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)  # of individual mails
    template: str | None = None  # a file or an inline message of the reporter, over the channel's
    # Subject and template are untrusted texts of this kind: their ${variables} are filled, nothing in them is executed.
    plain: Literal["text", "html"] | None = None


@dataclass(frozen=True, slots=True)
class GroupNotice:
    group_key: str
    receiver: str
    group_labels: Labels
    alerts: tuple[Alert, ...]
    reason: str  # first, new_alerts, resolved, repeat
    truncated: int = 0  # alerts of the group that the snapshot leaves out

    @property
    def firing(self) -> tuple[Alert, ...]:
        return tuple(alert for alert in self.alerts if alert.firing)

    @property
    def resolved(self) -> tuple[Alert, ...]:
        return tuple(alert for alert in self.alerts if not alert.firing)

    @property
    def acknowledged(self) -> bool:
        """Whether somebody has all that fires."""
        return bool(self.firing) and all(alert.acknowledged for alert in self.firing)


@dataclass(frozen=True, slots=True)
class SummaryNotice:
    """One message for events: those that were withheld while history was read back after a downtime, or those of a
    reporter's ``digest``, which may be of several nodes, and ``node`` is empty then."""

    node: str
    since: datetime
    until: datetime
    runs_by_outcome: Mapping[str, int]
    worst: tuple[Event, ...] = ()  # the newest failures, a few
    recovered: tuple[str, ...] = ()  # ids of those among the worst after which the scenario had a good run
    digest: str | None = None  # the reporter whose digest it is
    mail: MailOverrides | None = None


Notice = EventNotice | GroupNotice | SummaryNotice


def merge_unsent(newest: GroupNotice, unsent: Sequence[GroupNotice], notified: Set[str]) -> GroupNotice | None:
    """What to send for the newest flush of a group when older ones, oldest first, were never sent; None: nothing.

    ``notified``: the ids of alerts whose start has, or may have, arrived. An end that only an unsent flush carries moves
    into the newest; a flush of nothing but ends whose starts were never sent is not sent.
    """
    known = {alert.fingerprint for alert in newest.alerts}
    carried = {
        alert.fingerprint: alert
        for notice in unsent
        for alert in notice.resolved
        if alert.fingerprint not in known and alert.id in notified
    }
    alerts = newest.alerts + tuple(carried.values())
    if not newest.truncated and not any(alert.firing or alert.id in notified for alert in alerts):
        return None
    return replace(newest, alerts=alerts) if carried else newest


@dataclass(frozen=True, slots=True)
class Notification:
    """One row of the outbox. Rows of one ``ordering_key`` and channel are sent in order and supersede each other."""

    id: str  # also the delivery id that receivers see
    receiver: str
    channel: str
    ordering_key: str
    notice: Notice
    created_at: datetime
    due_at: datetime
    state: NotificationState = NotificationState.PENDING
    attempts: int = 0
    reason: str | None = None  # why it is dead, superseded or cancelled
    dead_reason: DeadReason | None = None  # set while it is dead

    @property
    def thread(self) -> str | None:
        """What one message that is edited in place is about: an alert group, or a run."""
        match self.notice:
            case GroupNotice(group_key=key):
                return f"group:{key}"
            case EventNotice(event=event) if event.run is not None:
                run = event.run.key
                return "run:" + "/".join((*run.scenario, run.run_id, str(to_ms(run.start))))
        return None


@dataclass(frozen=True, slots=True)
class Attempt:
    notification_id: str
    number: int
    started_at: datetime
    ended_at: datetime
    outcome: AttemptOutcome
    note: str = ""  # what the receiver or the transport said; secrets masked
