"""Is it worth a notification? What a channel was last told, held against what is true now.

The decision of Alertmanager's notification log, by fingerprints: an alert that ended and rang again between two
flushes is no news. Source of the fact: Alertmanager's documentation and its behaviour beside ours in a test.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from tocsin.model.decision import Verdict
from tocsin.model.group import Notified

RETENTION = timedelta(hours=120)  # how long a channel is remembered to have been told, at most


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whether to notify (``verdict`` says why or why not), and whether the channel's memory is to be renewed."""

    verdict: Verdict
    send: bool
    remember: bool
    note: str | None = None


def decide(
    told: Notified | None,
    firing: frozenset[str],
    ended: frozenset[str],
    *,
    send_resolved: bool,
    repeat_interval: timedelta,
    now: datetime,
) -> Wanted:
    """Whether a group with these firing and ended alerts is told to a channel now."""
    told = None if told is None or forgotten(told, repeat_interval, now) else told
    if told is None:
        return _send(Verdict.FIRST) if firing else _no_change("it ended before anyone was told")
    if not firing <= told.firing:
        return _send(Verdict.NEW_ALERTS)
    if not firing:
        if not told.firing:
            return _no_change("it ended before anyone was told")
        if not send_resolved:
            return Wanted(Verdict.NO_CHANGE, False, True, "send_resolved is off")
        return _send(Verdict.RESOLVED)
    if send_resolved and not ended <= told.ended:
        return _send(Verdict.RESOLVED)
    if told.at < now - repeat_interval:
        return _send(Verdict.REPEAT)
    return _no_change(None)


def forgotten(told: Notified, repeat_interval: timedelta, now: datetime) -> bool:
    """Whether the memory is too old to count: twice the repeat interval, five days at most."""
    return told.at + min(RETENTION, 2 * repeat_interval) <= now


def _send(verdict: Verdict) -> Wanted:
    return Wanted(verdict, True, True)


def _no_change(note: str | None) -> Wanted:
    return Wanted(Verdict.NO_CHANGE, False, False, note)
