"""Decisions: why an alert or a notification was made, or not. The set of reasons is closed."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Stage(StrEnum):
    RULE = "rule"  # facts and time → alerts; the subject is the alert name
    REPORTER = "reporter"  # event → notification; the subject is the reporter
    ROUTE = "route"  # alert → group; the subject is the group's key
    FLUSH = "flush"  # group → notification; the subject is the group's key and the channel
    BACKFILL = "backfill"  # what was withheld, and its summary; the subject is the receiver


class DecisionReason(StrEnum):
    # rules
    FIRING = "firing"
    UPDATED = "updated"  # still firing, with another count or annotation
    WITHHELD = "withheld"  # until history is read back, or because another alert covers it
    ERROR = "error"  # a rule or reporter failed on this subject; the others went on
    UNREADABLE = "unreadable"  # an event that this version cannot read: nothing is decided on it
    # routes
    ROUTED = "routed"
    # reporters
    ENQUEUED = "enqueued"
    CONDITION_ERROR = "condition_error"  # its condition could not be evaluated, which counts as true
    CONDITION = "condition"  # its condition was false
    DEFERRED = "deferred"  # until the reporter's digest
    LATE = "late"  # too old for a notification of its own
    NOT_ALLOWED = "not_allowed"  # addresses that DSS's own reporter names, and the configuration does not allow
    UNKNOWN_REPORTER = "unknown_reporter"  # what this reporter of DSS would send was never read
    # flushes that notify
    FIRST = "first"
    NEW_ALERTS = "new_alerts"
    RESOLVED = "resolved"
    REPEAT = "repeat"
    DIGEST = "digest"  # what happened since the digest before it
    ESCALATED = "escalated"  # nobody acknowledged it in time, so another receiver is notified too
    ACKNOWLEDGED = "acknowledged"  # or no longer; notified to services that keep incidents
    FLAPPING = "flapping"  # an alert that fires has begun to flap; said once
    FAILOVER = "failover"  # another receiver did not deliver it
    SUMMARY = "summary"
    # and those that do not
    SILENCED = "silenced"
    INHIBITED = "inhibited"
    MUTED_TIME = "muted_time"
    NO_CHANGE = "no_change"
    NO_CHANNEL = "no_channel"
    WAITING = "waiting"  # the group is put off: its failures may turn out to have one common cause


ALERT_OPENS = frozenset(
    {DecisionReason.FIRING, DecisionReason.UPDATED}
)  # decisions of rules, after which an alert is routed
_MUTES = ("silenced", "inhibited", "muted_time", "no_change", "no_channel")
FLUSHES = tuple(
    map(
        DecisionReason,
        (
            "first",
            "new_alerts",
            "resolved",
            "repeat",
            "digest",
            "escalated",
            "acknowledged",
            "failover",
            "waiting",
            "flapping",
            *_MUTES,
        ),
    )
)
SUPPRESSIONS = tuple(map(DecisionReason, (*_MUTES, "condition", "deferred", "late", "not_allowed", "unknown_reporter")))


@dataclass(frozen=True, slots=True)
class Decision:
    at: datetime
    stage: Stage
    subject: str
    reason: DecisionReason
    note: str | None = None
    event_id: str | None = None
    fingerprint: str | None = None
    alert_id: str | None = None
    notification_id: str | None = None
