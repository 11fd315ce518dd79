"""Flush: what a group of alerts makes its receiver owe, now.

Everything is read again inside the transaction: who is in the group, who is silenced, inhibited or out of hours, and
what each channel was last told. The order is Alertmanager's: inhibition, time intervals, silences, then the memory of
what was told. Alerts that have ended leave the group with the flush, told or not, as Alertmanager has it; a channel
with ``resolve_what_was_sent`` still hears of those that it was told of, once nothing mutes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import Connection

from tocsin.config.model import Channel, Route, WatchConfig
from tocsin.decide.compiled import CompiledConfig
from tocsin.decide.outcome import Outcome
from tocsin.kit.clock import to_ms
from tocsin.kit.strings import derived_id
from tocsin.model.alert import Alert, Group, Member, NotificationLogEntry
from tocsin.model.decision import Decision, DecisionReason, Stage
from tocsin.model.notification import GroupNotice, Notification
from tocsin.model.run import RunKey
from tocsin.routing.dedup import Wanted, decide
from tocsin.routing.mute import Inhibitor, Muted, Silencer, muted_by_time
from tocsin.store import decisions, groups, outbox, runs, silences
from tocsin.store.groups import Told

GROUPS = 100  # of one transaction
MOST_ALERTS = 200  # of one notice
_DEFAULT_WAIT = WatchConfig().details_wait


@dataclass(slots=True)
class _Flush:
    """One transaction's view of the world, and what it will write."""

    compiled: CompiledConfig
    now: datetime
    inhibitor: Inhibitor
    silencer: Silencer
    told: dict[tuple[str, str], Told]
    result: Outcome = field(default_factory=Outcome)
    remembered: list[Told] = field(default_factory=list)
    leaving: list[tuple[str, str]] = field(default_factory=list)
    keeping: list[tuple[str, str]] = field(default_factory=list)
    again: list[tuple[str, datetime]] = field(default_factory=list)

    def flush(self, group: Group, members: Sequence[Member]) -> None:
        route = self.compiled.router.find(group.receiver, group.path) if self.compiled.router else None
        if route is None:  # the tree lost it between a reload and this flush
            self.leaving += [(group.key, member.alert.fingerprint) for member in members]
            return
        heard, muted = self._audible(route, members)
        channels = self.compiled.channels.get(group.receiver, ())
        for channel in channels:
            self._tell(group, route, channel, heard, muted)
        if not channels:
            self._note(group, "", Wanted(DecisionReason.NO_CHANNEL, False, False, f"receiver {group.receiver}"), None)
        audible = {member.alert.fingerprint for member in heard}
        for member in members:
            if member.alert.firing:
                continue
            place = (group.key, member.alert.fingerprint)
            late = member.alert.fingerprint not in audible and self._owes_end(group, channels, member.alert)
            (self.keeping if late else self.leaving).append(place)
        self.again.append((group.key, self.now + route.group_interval))

    def _audible(self, route: Route, members: Sequence[Member]) -> tuple[list[Member], Muted | None]:
        """The members that nothing mutes, and what muted the last of the others."""
        heard: list[Member] = []
        muted: Muted | None = None
        for member in members:
            found = self.inhibitor.inhibits(member.alert.labels)
            muted = found or muted
            if found is None:
                heard.append(member)
        by_time = muted_by_time(route, self.compiled.intervals, self.now) if heard else None
        if by_time is not None:
            return [], by_time
        audible: list[Member] = []
        for member in heard:
            found = self.silencer.silences(member.alert.labels)
            muted = found or muted
            if found is None:
                audible.append(member)
        return audible, muted

    def _tell(self, group: Group, route: Route, channel: Channel, heard: Sequence[Member], muted: Muted | None) -> None:
        mine = [
            member.alert
            for member in heard
            if (not member.kept or channel.resolve_what_was_sent) and member.alert.failing_channel != channel.name
        ]
        firing = frozenset(alert.fingerprint for alert in mine if alert.firing)
        ended = frozenset(alert.fingerprint for alert in mine if not alert.firing)
        if not heard and muted is not None:
            wanted = Wanted(muted.reason, False, False, muted.note)
        elif not mine:
            own = any(member.alert.failing_channel == channel.name for member in heard)
            why = "a channel that fails is not told so itself" if own else None
            wanted = Wanted(DecisionReason.NO_CHANNEL if own else DecisionReason.NO_CHANGE, False, False, why)
        else:
            row = self.told.get((group.key, channel.name))
            wanted = decide(
                row.notified if row else None,
                firing,
                ended,
                send_resolved=channel.send_resolved,
                repeat_interval=route.repeat_interval,
                group_interval=route.group_interval,
                now=self.now,
            )
        renewed = NotificationLogEntry(firing, ended, self.now) if wanted.remember else None
        owed = self._owe(group, channel, mine, wanted.reason) if wanted.send else None
        self._note(group, channel.name, wanted, renewed, owed)

    def _owe(self, group: Group, channel: Channel, mine: Sequence[Alert], reason: DecisionReason) -> Notification:
        shown = [alert for alert in mine if alert.firing]
        if channel.send_resolved:
            shown += [alert for alert in mine if not alert.firing]
        notice = GroupNotice(
            group_key=group.key,
            receiver=group.receiver,
            group_labels=group.labels,
            alerts=tuple(shown[:MOST_ALERTS]),
            reason=reason.value,
            truncated=max(0, len(shown) - MOST_ALERTS),
        )
        owed = Notification(
            id=derived_id(group.key, channel.name, to_ms(self.now)),
            receiver=group.receiver,
            channel=channel.name,
            ordering_key=group.key,
            notice=notice,
            created_at=self.now,
            due_at=self.now,
        )
        self.result.owed.append(owed)
        return owed

    def _note(
        self,
        group: Group,
        channel: str,
        wanted: Wanted,
        renewed: NotificationLogEntry | None,
        owed: Notification | None = None,
    ) -> None:
        """Remember the verdict; a decision row and a log line only when it is news."""
        before = self.told.get((group.key, channel))
        if owed is None and before is not None and before.reason is wanted.reason and renewed is None:
            counts = self.result.unchanged
            counts[wanted.reason] = counts.get(wanted.reason, 0) + 1
            return
        notified = renewed or (before.notified if before else None)
        self.remembered.append(Told(group.key, channel, notified, wanted.reason))
        subject = f"{group.key} → {channel}" if channel else group.key
        id_ = owed.id if owed else None
        self.result.made.append(
            Decision(self.now, Stage.FLUSH, subject, wanted.reason, wanted.note, notification_id=id_)
        )

    def _owes_end(self, group: Group, channels: Sequence[Channel], alert: Alert) -> bool:
        for channel in channels:
            row = self.told.get((group.key, channel.name))
            told = row.notified.firing if row and row.notified else frozenset[str]()
            if channel.resolve_what_was_sent and alert.fingerprint in told:
                return True
        return False


def flush(connection: Connection, compiled: CompiledConfig, now: datetime) -> Outcome:
    """Tell the groups that are due, so many of them as one transaction takes."""
    due = groups.due(connection, now, GROUPS)
    if not due:
        return Outcome(next_due=groups.next_flush(connection))
    keys = [group.key for group in due]
    inside = groups.members(connection, keys)
    rules, targets = compiled.config.inhibit_rules, [one.alert.labels for members in inside.values() for one in members]
    inhibitor = Inhibitor(rules, groups.sources(connection, rules, targets))
    work = _Flush(compiled, now, inhibitor, Silencer(silences.active(connection, now)), groups.told(connection, keys))
    for group in due:
        work.flush(group, inside[group.key])
    work.result.owed = _with_waits(connection, compiled, work.result.owed, now)
    groups.remember(connection, work.remembered)
    groups.leave(connection, work.leaving)
    groups.keep(connection, work.keeping)
    groups.flushed(connection, work.again, now)
    groups.drop_empty(connection, keys)
    decisions.record(connection, work.result.made)
    work.result.full = len(due) >= GROUPS
    work.result.next_due = groups.next_flush(connection)
    return work.result


def _with_waits(
    connection: Connection, compiled: CompiledConfig, owed: Sequence[Notification], now: datetime
) -> list[Notification]:
    """Owe the notifications; those whose runs' details are still to be read wait for them a little."""
    runs_of = {one.id: _runs(one) for one in owed}
    awaited = runs.awaiting_details(connection, {run for runs in runs_of.values() for run in runs})
    timed: list[Notification] = []
    waits: dict[str, Sequence[RunKey]] = {}
    for one in owed:
        mine = [run for run in runs_of[one.id] if run in awaited]
        if mine:
            waits[one.id] = mine
            nodes = [compiled.nodes.get(run.scenario.node) for run in mine]
            longest = max(node.watch.details_wait if node else _DEFAULT_WAIT for node in nodes)
            one = replace(one, due_at=now + longest)
        timed.append(one)
    return outbox.owe(connection, timed, waits)


def _runs(one: Notification) -> list[RunKey]:
    notice = one.notice
    if not isinstance(notice, GroupNotice):
        return []
    return sorted({alert.run for alert in notice.alerts if alert.run is not None})
