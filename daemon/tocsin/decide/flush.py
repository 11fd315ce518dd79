"""Flush: groups of alerts that are due → notifications, through a pipeline of stages as Alertmanager has it.

Everything is read again inside the transaction: who is in the group, what is silenced, inhibited or out of hours, and
the notification log. Resolved alerts leave the group with the flush, notified or not, as in Alertmanager; a channel
with ``resolve_what_was_sent`` is still notified of those that it was notified of, once nothing mutes them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from tocsin.config.model import Channel, Route
from tocsin.decide.evaluate import CompiledConfig, Evaluation, StepResult
from tocsin.kit.clock import to_ms
from tocsin.model.alert import Alert, Group, Member, NotificationLogEntry
from tocsin.model.decision import DecisionReason, Stage
from tocsin.model.labels import Labels
from tocsin.model.notification import GroupNotice, Notification
from tocsin.model.run import RunKey
from tocsin.routing.reporters import new_notification
from tocsin.routing.stages import Inhibitor, NotifyDecision, Silencer, deduplicate, muted_by_time
from tocsin.store import Connection, alerts, groups, runs
from tocsin.store.groups import NotificationLogRow

GROUPS = 100  # of one transaction
MOST_ALERTS = 200  # of one notice


# --- the stages: the first that decides ends the pipeline ----------------------------------------------------------------

Audible = tuple[Sequence[Member], NotifyDecision | None]  # the alerts that go on, and why when none is left


def inhibition(work: "FlushEvaluation", _route: Route, members: Sequence[Member]) -> Audible:
    return _without(members, work.inhibitor.inhibits)


def time_intervals(work: "FlushEvaluation", route: Route, members: Sequence[Member]) -> Audible:
    muted = muted_by_time(route, work.compiled.intervals, work.now) if members else None
    return (members, None) if muted is None else ((), muted)


def silencing(work: "FlushEvaluation", _route: Route, members: Sequence[Member]) -> Audible:
    return _without(members, work.silencer.silences)


def _without(members: Sequence[Member], mutes: Callable[[Labels], NotifyDecision | None]) -> Audible:
    found = [(member, mutes(member.alert.labels)) for member in members]
    audible = [member for member, muted in found if muted is None]
    return audible, None if audible or not found else found[-1][1]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one channel may be notified of."""

    channel: Channel
    route: Route
    alerts: Sequence[Alert]
    own_failure: bool  # an alert was left out because it is about this channel
    logged: NotificationLogEntry | None
    current: NotificationLogEntry  # what the log would say after a notification


def selection(candidate: Candidate) -> NotifyDecision | None:
    if candidate.alerts:
        return None
    if candidate.own_failure:
        return NotifyDecision(DecisionReason.NO_CHANNEL, "a failing channel is not notified of its own failure")
    return NotifyDecision(DecisionReason.NO_CHANGE)


def deduplication(candidate: Candidate) -> NotifyDecision:
    return deduplicate(candidate.logged, candidate.current, candidate.channel, candidate.route)


GROUP_STAGES = (inhibition, time_intervals, silencing)  # once a group, in Alertmanager's order
CHANNEL_STAGES = (selection, deduplication)  # once a channel of its receiver; then: enqueue, write the log


# --- groups of one transaction -------------------------------------------------------------------------------------------


def flush(connection: Connection, compiled: CompiledConfig, now: datetime) -> StepResult:
    """Flush the groups that are due, so many of them as one transaction takes."""
    due = groups.due_groups(connection, now, GROUPS)
    if not due:
        return StepResult(next_due=groups.next_flush(connection))
    keys = [group.key for group in due]
    inside = groups.members(connection, keys)
    rules, targets = compiled.config.inhibit_rules, [m.alert.labels for members in inside.values() for m in members]
    evaluation = FlushEvaluation(
        connection,
        compiled,
        now,
        inhibitor=Inhibitor(rules, groups.inhibition_sources(connection, rules, targets)),
        silencer=Silencer(alerts.active_silences(connection, now)),
        log=groups.load_notification_log(connection, keys),
    )
    for group in due:
        evaluation.flush(group, inside[group.key])
    evaluation.write()
    groups.drop_empty(connection, keys)
    evaluation.result.full = len(due) >= GROUPS
    evaluation.result.next_due = groups.next_flush(connection)
    return evaluation.result


@dataclass(slots=True)
class FlushEvaluation(Evaluation):
    """The groups of one transaction."""

    inhibitor: Inhibitor
    silencer: Silencer
    log: dict[tuple[str, str], NotificationLogRow]  # by group key and channel
    _pending: list[Notification] = field(default_factory=list)
    _runs: dict[str, list[RunKey]] = field(default_factory=dict)  # by notification
    _entries: list[NotificationLogRow] = field(default_factory=list)
    _leaving: list[tuple[str, str]] = field(default_factory=list)
    _keeping: list[tuple[str, str]] = field(default_factory=list)
    _flushed: list[tuple[str, datetime]] = field(default_factory=list)
    stage: ClassVar[Stage] = Stage.FLUSH

    def flush(self, group: Group, members: Sequence[Member]) -> None:
        """Send one group through the stages, and take the resolved alerts out of it."""
        route = self.compiled.router.find(group.receiver, group.path) if self.compiled.router else None
        if route is None:  # the tree lost it between a reload and this flush
            self._leaving += [(group.key, member.alert.fingerprint) for member in members]
            return
        audible, muted = members, None
        for stage in GROUP_STAGES:
            if muted is None:
                audible, muted = stage(self, route, audible)
        channels = self.compiled.channels.get(group.receiver, ())
        for channel in channels:
            self._notify(group, route, channel, audible, muted)
        if not channels:
            self._record(group, "", NotifyDecision(DecisionReason.NO_CHANNEL, f"receiver {group.receiver}"))
        reached = {member.alert.fingerprint for member in audible}
        for member in members:
            if not member.alert.firing:
                waits = member.alert.fingerprint not in reached and self._needs_end(group, channels, member.alert)
                (self._keeping if waits else self._leaving).append((group.key, member.alert.fingerprint))
        self._flushed.append((group.key, self.now + route.group_interval))

    def _notify(
        self, group: Group, route: Route, channel: Channel, audible: Sequence[Member], muted: NotifyDecision | None
    ) -> None:
        """Select the alerts for one channel, compare them with its log entry, enqueue a notification, and log it."""
        others = [member for member in audible if member.alert.failing_channel != channel.name]
        selected = [member.alert for member in others if not member.ended_muted or channel.resolve_what_was_sent]
        firing = [alert for alert in selected if alert.firing]
        resolved = [alert for alert in selected if not alert.firing]
        entry = NotificationLogEntry(_fingerprints(firing), _fingerprints(resolved), self.now)
        before = self.log.get((group.key, channel.name))
        logged = before.notified if before else None
        candidate = Candidate(channel, route, selected, len(others) < len(audible), logged, entry)
        decision = muted or next(filter(None, (stage(candidate) for stage in CHANNEL_STAGES)))
        notification = None
        if decision.send:
            shown = firing + resolved if channel.send_resolved else firing
            notice = GroupNotice(
                group_key=group.key,
                receiver=group.receiver,
                group_labels=group.labels,
                alerts=tuple(shown[:MOST_ALERTS]),
                reason=decision.reason.value,
                truncated=max(0, len(shown) - MOST_ALERTS),
            )
            id_parts = (group.key, channel.name, to_ms(self.now))
            notification = new_notification(channel, group.key, notice, self.now, *id_parts)
            self._pending.append(notification)
            self._runs[notification.id] = sorted({alert.run for alert in notice.alerts if alert.run is not None})
        self._record(group, channel.name, decision, entry if decision.log else None, notification)

    def _record(
        self,
        group: Group,
        channel: str,
        decision: NotifyDecision,
        entry: NotificationLogEntry | None = None,
        notification: Notification | None = None,
    ) -> None:
        """Note the decision and write the notification log; a decision that is no news is only counted."""
        before = self.log.get((group.key, channel))
        if notification is None and entry is None and before is not None and before.reason is decision.reason:
            self.result.unchanged[decision.reason] += 1
            return
        self._entries.append(
            NotificationLogRow(group.key, channel, entry or (before.notified if before else None), decision.reason)
        )
        subject = f"{group.key} → {channel}" if channel else group.key
        id_ = notification.id if notification else None
        self.note(subject, decision.reason, decision.note, notification_id=id_)

    def _needs_end(self, group: Group, channels: Sequence[Channel], alert: Alert) -> bool:
        """Whether a channel that asks for it was notified of this alert, and not yet of its end."""
        rows = [self.log.get((group.key, channel.name)) for channel in channels if channel.resolve_what_was_sent]
        return any(row and row.notified and alert.fingerprint in row.notified.firing for row in rows)

    def write(self) -> None:
        """Enqueue notifications, those whose runs' details are still to be read a little later, and write the rows."""
        awaited = runs.awaiting_details(self.connection, {run for keys in self._runs.values() for run in keys})
        self.enqueue(self._pending, {id_: [run for run in keys if run in awaited] for id_, keys in self._runs.items()})
        groups.save_notification_log(self.connection, self._entries)
        groups.remove_members(self.connection, self._leaving)
        groups.mark_ended_muted(self.connection, self._keeping)
        groups.save_flushes(self.connection, self._flushed, self.now)
        alerts.record_decisions(self.connection, self.result.decisions)


def _fingerprints(alerts: Sequence[Alert]) -> frozenset[str]:
    return frozenset(alert.fingerprint for alert in alerts)
