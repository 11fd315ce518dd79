"""Is it worth a notification? What a channel was last told, held against what is true now.

The decision of Alertmanager's notification log, by fingerprints: an alert that ended and rang again between two
flushes is no news. Source of the fact: Alertmanager's documentation and its behaviour beside ours in a test.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from tocsin.model.alert import NotificationLogEntry
from tocsin.model.decision import DecisionReason

RETENTION = timedelta(hours=120)  # of what a channel was told, at most
MAINTENANCE = timedelta(minutes=15)  # Alertmanager drops an entry at the first maintenance after its time


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whether to notify (``verdict`` says why or why not), and whether the channel's memory is to be renewed."""

    reason: DecisionReason
    send: bool
    remember: bool
    note: str | None = None


def decide(
    told: NotificationLogEntry | None,
    firing: frozenset[str],
    ended: frozenset[str],
    *,
    send_resolved: bool,
    repeat_interval: timedelta,
    group_interval: timedelta,
    now: datetime,
) -> Wanted:
    """Whether a group with these firing and ended alerts is told to a channel now.

    However old what was told is: the end of an alert that was told as firing is news.
    """
    old = told is not None and expired(told, repeat_interval, group_interval, now)
    if told is None or (old and told.firing.isdisjoint(ended)):
        return _send(DecisionReason.FIRST) if firing else _no_change("it ended before anyone was told")
    if not firing <= told.firing:
        return _send(DecisionReason.NEW_ALERTS)
    if not firing:
        if not told.firing:
            return _no_change("it ended before anyone was told")
        if not send_resolved:
            return Wanted(DecisionReason.NO_CHANGE, False, True, "send_resolved is off")
        return _send(DecisionReason.RESOLVED)
    if send_resolved and not ended <= told.ended:
        return _send(DecisionReason.RESOLVED)
    if told.at < now - repeat_interval:
        return _send(DecisionReason.REPEAT)
    return _no_change(None)


def expired(told: NotificationLogEntry, repeat_interval: timedelta, group_interval: timedelta, now: datetime) -> bool:
    """Whether what was told is too long ago to count.

    It is in use for twice the repeat interval, five days at most, and until the next flush in any case; it is kept
    for ``MAINTENANCE`` beyond that.
    """
    return told.at + max(min(RETENTION, 2 * repeat_interval), group_interval) + MAINTENANCE <= now


def _send(reason: DecisionReason) -> Wanted:
    return Wanted(reason, True, True)


def _no_change(note: str | None) -> Wanted:
    return Wanted(DecisionReason.NO_CHANGE, False, False, note)
