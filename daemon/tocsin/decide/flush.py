"""Flush: groups of alerts that are due → notifications, through a pipeline of stages as Alertmanager has it.

Everything is read again inside the transaction. Resolved alerts leave the group with the flush, notified or not, as in
Alertmanager; a channel with ``resolve_what_was_sent`` is still notified of those that it was notified of, once nothing
mutes them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import ClassVar

from tocsin.config.model import Channel, Reporter, Route
from tocsin.decide.causes import YoungFailures, young_failures
from tocsin.decide.evaluate import CompiledConfig, Evaluation, StepResult
from tocsin.kit.clock import human_duration, isoformat, to_ms
from tocsin.model.alert import Alert, Group, Member, NotificationLogEntry
from tocsin.model.decision import DecisionReason, Stage
from tocsin.model.notification import GroupNotice, Notification
from tocsin.model.run import RunKey
from tocsin.routing.reporters import digest_notifications, new_notification
from tocsin.routing.stages import Inhibitor, NotifyDecision, Silencer, deduplicate, muted_by_time
from tocsin.store import Connection, alerts, events, failures, groups, runs
from tocsin.store.groups import NotificationLogRow

GROUPS = 100  # of one transaction
MOST_ALERTS = 200  # of one notice


Audible = tuple[Sequence[Member], NotifyDecision | None]  # the alerts that go on, and why when none is left


def inhibition(work: "FlushEvaluation", group: Group, _route: Route, members: Sequence[Member]) -> Audible:
    notified = work.notified(group)

    def mutes(alert: Alert) -> NotifyDecision | None:
        # Who was notified of the start before the other alert fired is to be notified of the end.
        over = not alert.firing and alert.fingerprint in notified
        return work.inhibitor.by_rules(alert.labels) if over else work.inhibitor.inhibits(alert.labels)

    return _without(members, mutes)


def time_intervals(work: "FlushEvaluation", _group: Group, route: Route, members: Sequence[Member]) -> Audible:
    muted = muted_by_time(route, work.compiled.intervals, work.now) if members else None
    return (members, None) if muted is None else ((), muted)


def silencing(work: "FlushEvaluation", _group: Group, _route: Route, members: Sequence[Member]) -> Audible:
    return _without(members, lambda alert: work.silencer.silences(alert.labels))


def _without(members: Sequence[Member], mutes: Callable[[Alert], NotifyDecision | None]) -> Audible:
    weighed = [(member, mutes(member.alert)) for member in members]
    audible = [member for member, muted in weighed if muted is None]
    return audible, None if audible or not weighed else weighed[-1][1]


# Once a group, in Alertmanager's order; the first that mutes all alerts ends it. Then, once a channel of the receiver:
# select its alerts, compare them with its log entry, enqueue a notification, and write the log.
GROUP_STAGES = (inhibition, time_intervals, silencing)


def flush(connection: Connection, compiled: CompiledConfig, now: datetime) -> StepResult:
    """Flush the groups that are due, as many as one transaction takes, and the digests of reporters."""
    result = _send_digests(DigestEvaluation(connection, compiled, now))
    due = groups.due_groups(connection, now, GROUPS)
    if not due:
        result.next_due = _next_due(connection)
        return result
    keys = [group.key for group in due]
    inside = groups.members(connection, keys)
    rules, targets = compiled.config.inhibit_rules, [m.alert.labels for members in inside.values() for m in members]
    evaluation = FlushEvaluation(
        connection,
        compiled,
        now,
        inhibitor=Inhibitor(
            rules,
            groups.inhibition_sources(connection, rules, targets),
            failures.related_alerts(connection, compiled.config, targets),
        ),
        silencer=Silencer(alerts.active_silences(connection, now)),
        log=groups.load_notification_log(connection, keys),
        young=young_failures(connection, compiled, (member for each in inside.values() for member in each), now),
    )
    for group in due:
        evaluation.flush(group, inside[group.key])
    evaluation.write()
    groups.drop_empty(connection, keys)
    flushed = evaluation.result
    flushed.full = len(due) >= GROUPS
    flushed.notifications += result.notifications
    flushed.decisions += result.decisions
    flushed.next_due = _next_due(connection)
    return flushed


def _next_due(connection: Connection) -> datetime | None:
    return min(filter(None, (groups.next_flush(connection), events.next_digest(connection))), default=None)


@dataclass(slots=True)
class DigestEvaluation(Evaluation):
    stage: ClassVar[Stage] = Stage.REPORTER


def _send_digests(evaluation: DigestEvaluation) -> StepResult:
    """What waited for digests that are due, in one message a channel; also of a reporter that is no more."""
    for (name, receiver), happened in events.release_digests(evaluation.connection, evaluation.now).items():
        known = (item for item in evaluation.compiled.config.reporters if item.name == name)
        reporter = next(known, Reporter(name, receiver))
        channels = evaluation.compiled.channels.get(receiver, ())
        evaluation.enqueue(digest_notifications(reporter, happened, channels, evaluation.now))
        reason = DecisionReason.DIGEST if channels else DecisionReason.NO_CHANNEL
        evaluation.note(name, reason, f"{len(happened)} events to {receiver}")
    alerts.record_decisions(evaluation.connection, evaluation.result.decisions)
    return evaluation.result


def _digest(last: NotificationLogEntry | None, current: NotificationLogEntry) -> NotifyDecision:
    """Whether a digest has something to say: what fires and nobody has, or what began or ended since the one before."""
    before = last.firing if last else frozenset[str]()
    if current.firing - before or current.firing - current.acknowledged or current.resolved:
        return NotifyDecision(DecisionReason.DIGEST, send=True, log=True)
    return NotifyDecision(DecisionReason.NO_CHANGE, "acknowledged, and in the digest before")


@dataclass(slots=True)
class FlushEvaluation(Evaluation):
    inhibitor: Inhibitor
    silencer: Silencer
    log: dict[tuple[str, str], NotificationLogRow]  # by group key and channel
    young: YoungFailures
    _pending: list[Notification] = field(default_factory=list)
    _runs: dict[str, list[RunKey]] = field(default_factory=dict)  # by notification
    _entries: list[NotificationLogRow] = field(default_factory=list)
    _leaving: list[tuple[str, str]] = field(default_factory=list)
    _keeping: list[tuple[str, str]] = field(default_factory=list)
    _flushed: list[tuple[str, datetime]] = field(default_factory=list)
    _put_off: list[tuple[str, datetime]] = field(default_factory=list)
    stage: ClassVar[Stage] = Stage.FLUSH

    def flush(self, group: Group, members: Sequence[Member]) -> None:
        """Send one group through the stages, and take the resolved alerts out of it."""
        route = self.compiled.router.find(group.receiver, group.path) if self.compiled.router else None
        if route is None:  # the tree lost it between a reload and this flush
            self._leaving += [(group.key, member.alert.fingerprint) for member in members]
            return
        if (later := self._waits(group, route, members)) is not None:
            self.result.counts[Stage.FLUSH, DecisionReason.WAITING] += 1
            notified = self.notified(group)
            members = [member for member in members if member.alert.fingerprint in notified]
            if not any(not member.alert.firing or member.alert.acknowledged for member in members):
                self._put_off.append((group.key, later))
                return
        audible, muted = (self._unattended(group, route, members) if route.escalates else members), None
        for stage in GROUP_STAGES:
            if muted is None:
                audible, muted = stage(self, group, route, audible)
        firing = [member.alert for member in members if member.alert.firing]
        quiet = frozenset(alert.fingerprint for alert in firing if self.inhibitor.by_relation(alert.labels))
        channels = self.compiled.channels.get(group.receiver, ())
        for channel in channels:
            self._notify(group, route, channel, audible, muted, quiet)
        for channel in self.compiled.stand_ins(group.receiver):  # what failed over to it, it is told the end of
            before = self.log.get((group.key, channel.name))
            if before is not None and before.notified is not None and before.notified.firing:
                known = [member for member in audible if member.alert.fingerprint in before.notified.firing]
                self._notify(group, route, channel, known, muted, quiet, stands_in=True)
        if not channels:
            self._record(group, "", NotifyDecision(DecisionReason.NO_CHANNEL, f"receiver {group.receiver}"))
        # A channel that asks for it is yet to be notified of the end of what it was notified of.
        rows = [self.log.get((group.key, channel.name)) for channel in channels if channel.resolve_what_was_sent]
        waiting = frozenset[str]().union(*(row.notified.firing for row in rows if row and row.notified))
        waiting -= {member.alert.fingerprint for member in audible}
        for member in members:
            if not member.alert.firing:
                waits = member.alert.fingerprint in waiting
                (self._keeping if waits else self._leaving).append((group.key, member.alert.fingerprint))
        # An alert that does not fire for long enough yet is due for escalation in time.
        due = [m.entered_at + route.group_wait for m in members if route.escalates and m.alert.firing]
        again = route.next_flush(self.now, self.compiled.config.timezone)
        due += [again] if later is None else [again, later]
        self._flushed.append((group.key, min(d for d in due if d > self.now)))

    def _unattended(self, group: Group, route: Route, members: Sequence[Member]) -> list[Member]:
        """The alerts of an escalation: those that nobody acknowledged in time, and those that were escalated before."""
        notified = self.notified(group)
        since = self.now - route.group_wait

        def waits(member: Member) -> bool:
            alert = member.alert
            held = alert.acknowledged is not None and alert.acknowledged.holds(self.now)
            return not alert.firing or held or member.entered_at > since

        return [m for m in members if m.alert.fingerprint in notified or not waits(m)]

    def notified(self, group: Group) -> frozenset[str]:
        """The alerts that a channel of the group was last notified of as firing."""
        channels = self.compiled.channels.get(group.receiver, ())
        rows = [self.log.get((group.key, channel.name)) for channel in channels]
        return frozenset[str]().union(*(row.notified.firing for row in rows if row and row.notified))

    def _waits(self, group: Group, route: Route, members: Sequence[Member]) -> datetime | None:
        """Until when a group is put off because all that is new in it are failures that may turn out to be one."""
        if not self.young.names or route.escalates:
            return None
        notified = self.notified(group)
        new = [m.alert for m in members if m.alert.firing and m.alert.fingerprint not in notified]
        new = [alert for alert in new if self.inhibitor.inhibits(alert.labels) is None]
        until = [self.young.until(alert, route.group_wait) for alert in new]
        later = max(filter(None, until), default=self.now)
        return later if later > self.now and all(until) else None

    def _notify(
        self,
        group: Group,
        route: Route,
        channel: Channel,
        audible: Sequence[Member],
        muted: NotifyDecision | None,
        quiet: frozenset[str],
        *,
        stands_in: bool = False,
    ) -> None:
        others = [member for member in audible if member.alert.failing_channel != channel.name]
        shown = [member.alert for member in others if not member.ended_muted or channel.resolve_what_was_sent]
        selected = [
            replace(alert, acknowledged=None) if (held := alert.acknowledged) and not held.holds(self.now) else alert
            for alert in shown
        ]
        firing = [alert for alert in selected if alert.firing]
        resolved = [alert for alert in selected if not alert.firing]
        entry = NotificationLogEntry(
            firing=frozenset(alert.fingerprint for alert in firing),
            resolved=frozenset(alert.fingerprint for alert in resolved),
            at=self.now,
            acknowledged=frozenset(alert.fingerprint for alert in firing if alert.acknowledged),
            flapping=frozenset(alert.fingerprint for alert in firing if alert.flapping),
        )
        before = self.log.get((group.key, channel.name))
        if before is not None and before.notified is not None and quiet:  # what it goes on to be notified of the end of
            known, acknowledged = quiet & before.notified.firing, quiet & before.notified.acknowledged
            entry = replace(entry, firing=entry.firing | known, acknowledged=entry.acknowledged | acknowledged)
        if muted is not None:
            decision = muted
        elif selected:
            last = before.notified if before else None
            decision = _digest(last, entry) if route.digest else deduplicate(last, entry, channel, route)
            if route.escalates and decision.reason in (DecisionReason.FIRST, DecisionReason.NEW_ALERTS):
                note = f"nobody acknowledged it for {human_duration(route.group_wait)}"
                decision = replace(decision, reason=DecisionReason.ESCALATED, note=note)
            if stands_in and decision.reason is DecisionReason.REPEAT:
                decision = NotifyDecision(DecisionReason.NO_CHANGE, "stands in for another receiver", log=True)
        elif route.escalates:
            note = f"acknowledged, over, or firing for less than {human_duration(route.group_wait)}"
            decision = NotifyDecision(DecisionReason.NO_CHANGE, note)
        elif len(others) < len(audible):
            note = "a failing channel is not notified of its own failure"
            decision = NotifyDecision(DecisionReason.NO_CHANNEL, note)
        else:
            decision = NotifyDecision(DecisionReason.NO_CHANGE)
        notification = None
        if decision.send:
            content = firing + resolved if channel.send_resolved or route.digest else firing
            # Each digest is a message of its own, which no later one takes the place of.
            key = f"{group.key}@{isoformat(self.now)}" if route.digest else group.key
            notice = GroupNotice(
                group_key=key,
                receiver=channel.receiver if stands_in else group.receiver,
                group_labels=group.labels,
                alerts=tuple(content[:MOST_ALERTS]),
                reason=decision.reason.value,
                truncated=max(0, len(content) - MOST_ALERTS),
            )
            id_parts = (group.key, channel.name, to_ms(self.now))
            notification = new_notification(channel, key, notice, self.now, *id_parts)
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
        """Note a decision and write the notification log; a decision that repeats the last one is only counted."""
        before = self.log.get((group.key, channel))
        if notification is None and entry is None and before is not None and before.reason is decision.reason:
            self.result.counts[Stage.FLUSH, decision.reason] += 1
            return
        notified = entry or (before.notified if before else None)
        self._entries.append(NotificationLogRow(group.key, channel, notified, decision.reason))
        subject = f"{group.key} → {channel}" if channel else group.key
        id_ = notification.id if notification else None
        self.note(subject, decision.reason, decision.note, notification_id=id_)

    def write(self) -> None:
        """Enqueue notifications, those whose runs' details are still to be read a little later, and write the rows."""
        awaited = runs.awaiting_details(self.connection, {run for keys in self._runs.values() for run in keys})
        self.enqueue(self._pending, {id_: [run for run in keys if run in awaited] for id_, keys in self._runs.items()})
        groups.save_notification_log(self.connection, self._entries)
        groups.remove_members(self.connection, self._leaving)
        groups.mark_ended_muted(self.connection, self._keeping)
        groups.save_flushes(self.connection, self._flushed, self.now)
        groups.put_off(self.connection, self._put_off)
        alerts.record_decisions(self.connection, self.result.decisions)
