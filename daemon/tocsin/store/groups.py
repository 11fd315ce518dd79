"""Rows of alert groups: their members, when they are flushed next, and the notification log of each channel."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, case, delete, exists, func, select, true, update

from tocsin.config.model import InhibitRule
from tocsin.kit.clock import to_ms
from tocsin.model.alert import Group, Member, NotificationLogEntry
from tocsin.model.decision import DecisionReason
from tocsin.model.labels import Labels, Op, all_match
from tocsin.store.alerts import to_alert
from tocsin.store.schema import alerts, document_text, group_alerts, groups, notification_log
from tocsin.store.sql import BulkWrite, Insert, bulk_upsert, chunks, has_key, insert_into, maker, readable

_PUT_OFF = timedelta(minutes=10)
# Labels of alerts that are columns too, where an absent label is the empty text.
_COLUMNS = {
    "alertname": alerts.c.alertname,
    "dss_node": alerts.c.node,
    "project": alerts.c.project,
    "scenario": alerts.c.scenario,
}
_MOST_VALUES = 1000  # of one column in a statement
_REASONS = frozenset(DecisionReason)
to_group = maker(Group, path=lambda row: row["route"])


@dataclass(frozen=True, slots=True)
class GroupMembership:
    """An alert that enters a group; a group that is not there yet is made with this ``flush_at``."""

    group: Group
    fingerprint: str
    alert_id: str


@dataclass(frozen=True, slots=True)
class NotificationLogRow:
    """An entry of the notification log: of what one channel was last notified, and the reason of its last flush."""

    group_key: str
    channel: str
    notified: NotificationLogEntry | None
    reason: DecisionReason | None  # None: one that only another version knows


def add_members(connection: Connection, entering: Sequence[GroupMembership], now: datetime) -> None:
    """Put alerts into groups; an earlier firing of the same alert gives way to the new one."""
    _PUT.execute(connection, [
        (group.key, group.receiver, document_text(group.path), document_text(group.labels),
         None if group.flush_at is None else to_ms(group.flush_at))
        for group in {member.group.key: member.group for member in entering}.values()
    ])  # fmt: skip
    newest = {(member.group.key, member.fingerprint): member.alert_id for member in entering}
    _PUT_MEMBERS.execute(connection, [(*key, alert_id, False, to_ms(now)) for key, alert_id in newest.items()])


# Groups that are there stay as they were, unless another version wrote them.
_PUT = bulk_upsert(groups, ("key", "receiver", "route", "labels", "flush_at"), ("route", "labels"))


def _put_member(dialect: str) -> Insert:
    """An alert that is in the group already entered it before."""
    new = insert_into(dialect, group_alerts)
    same, entered_at = group_alerts.c.alert_id == new.excluded.alert_id, group_alerts.c.entered_at
    changing: dict[str, ColumnElement[Any]] = {name: new.excluded[name] for name in ("alert_id", "ended_muted")}
    changing["entered_at"] = case((same, entered_at), else_=new.excluded.entered_at)
    return new.on_conflict_do_update(index_elements=[*group_alerts.primary_key], set_=changing)


_PUT_MEMBERS = BulkWrite(("group_key", "fingerprint", "alert_id", "ended_muted", "entered_at"), _put_member)
_KEYS = ("key_group_key", "key_fingerprint")
_REMOVE = BulkWrite(_KEYS, lambda _: delete(group_alerts).where(has_key(group_alerts)))
_MUTE = BulkWrite(_KEYS, lambda _: update(group_alerts).where(has_key(group_alerts)).values(ended_muted=true()))


def remove_members(connection: Connection, members: Sequence[tuple[str, str]]) -> None:
    """Take alerts, by group key and fingerprint, out of groups."""
    _REMOVE.execute(connection, members)


def mark_ended_muted(connection: Connection, members: Sequence[tuple[str, str]]) -> None:
    """Mark alerts, by group key and fingerprint, that ended while muted."""
    _MUTE.execute(connection, members)


def due_groups(connection: Connection, now: datetime, limit: int) -> list[Group]:
    """The groups that are to be flushed, the longest overdue first. One that cannot be read is put off: it can again
    once an alert enters it, since its labels and matchers are then written anew."""
    query = select(groups).where(groups.c.flush_at <= now).order_by(groups.c.flush_at, groups.c.key).limit(limit)
    rows = connection.execute(query).all()
    due = readable(connection, groups, rows, to_group)
    if unreadable := {row.key for row in rows} - {group.key for group in due}:
        put_off = update(groups).where(groups.c.key.in_(sorted(unreadable)))
        connection.execute(put_off.values(flush_at=now + _PUT_OFF))
    return due


def all_groups(connection: Connection) -> list[Group]:
    """All groups that can be read."""
    return readable(connection, groups, connection.execute(select(groups).order_by(groups.c.key)), to_group)


def flush_groups_of(connection: Connection, alert_id: str, now: datetime) -> None:
    """Make the groups of an alert due now, so that those who keep an incident of it are told what changed."""
    inside = select(group_alerts.c.group_key).where(group_alerts.c.alert_id == alert_id)
    due = update(groups).where(groups.c.key.in_(inside), groups.c.flushed_at.is_not(None))
    connection.execute(due.values(flush_at=now))


def put_off(connection: Connection, until: Sequence[tuple[str, datetime]]) -> None:
    """Have groups flushed later, as if they had not been due yet."""
    _PUT_OFF_UNTIL.execute(connection, [(to_ms(at), key) for key, at in until])


_PUT_OFF_UNTIL = BulkWrite(
    ("due", "k"), lambda _: update(groups).where(groups.c.key == bindparam("k")).values(flush_at=bindparam("due"))
)


def next_flush(connection: Connection) -> datetime | None:
    moment: datetime | None = connection.execute(select(func.min(groups.c.flush_at))).scalar_one_or_none()
    return moment


def save_flushes(connection: Connection, next_flush_at: Sequence[tuple[str, datetime]], now: datetime) -> None:
    """Note the flush of groups and when each is due again."""
    _FLUSHED.execute(connection, [(to_ms(due_at), to_ms(now), key) for key, due_at in next_flush_at])


_FLUSHED = BulkWrite(
    ("due", "now", "k"),
    lambda _: (
        update(groups)
        .where(groups.c.key == bindparam("k"))
        .values(flush_at=bindparam("due"), flushed_at=bindparam("now"))
    ),
)


def drop_empty(connection: Connection, keys: Collection[str] | None = None) -> None:
    """Take away groups without alerts, all or of these. Their notification log stays."""
    empty = delete(groups).where(~exists().where(group_alerts.c.group_key == groups.c.key))
    if keys is None:
        connection.execute(empty)
    else:
        for part in chunks(sorted(keys)):
            connection.execute(empty.where(groups.c.key.in_(part)))


def members(connection: Connection, keys: Collection[str]) -> dict[str, list[Member]]:
    """The alerts of these groups, the oldest first."""
    by_group: dict[str, list[Member]] = {key: [] for key in keys}

    def member(row: Any) -> tuple[str, Member]:
        return row._mapping["group_key"], Member(to_alert(row), row.entered_at, row.ended_muted)

    for part in chunks(sorted(keys)):
        query = (
            select(group_alerts.c.group_key, group_alerts.c.entered_at, group_alerts.c.ended_muted, *alerts.c)
            .join_from(group_alerts, alerts, alerts.c.id == group_alerts.c.alert_id)
            .where(group_alerts.c.group_key.in_(part))
            .order_by(alerts.c.starts_at, alerts.c.id)
        )
        for key, item in readable(connection, alerts, connection.execute(query), member):
            by_group[key].append(item)
    return by_group


def load_notification_log(connection: Connection, keys: Collection[str]) -> dict[tuple[str, str], NotificationLogRow]:
    """The notification log of these groups, by group key and channel."""

    def to_row(row: Any) -> NotificationLogRow:
        notified = (
            None
            if row.at is None
            else NotificationLogEntry(
                frozenset(row.firing),
                frozenset(row.resolved),
                row.at,
                *(map(frozenset, (row.acknowledged or (), row.flapping or ()))),
            )
        )
        # The entry counts, whatever reason a newer version has written.
        reason = DecisionReason(row.reason) if row.reason in _REASONS else None
        return NotificationLogRow(row.group_key, row.channel, notified, reason)

    log: dict[tuple[str, str], NotificationLogRow] = {}
    for part in chunks(sorted(keys)):
        rows = connection.execute(select(notification_log).where(notification_log.c.group_key.in_(part)))
        for row in readable(connection, notification_log, rows, to_row):
            log[row.group_key, row.channel] = row
    return log


def save_notification_log(connection: Connection, rows: Sequence[NotificationLogRow]) -> None:
    """Write rows of the notification log over older ones."""
    _LOG.execute(connection, [
        (
            row.group_key, row.channel, *_log_sets(row.notified),
            to_ms(row.notified.at) if row.notified else None, row.reason.value,
        )
        for row in rows
        if row.reason is not None
    ])  # fmt: skip


def _log_sets(entry: NotificationLogEntry | None) -> Iterator[str]:
    """The sets of an entry as documents."""
    for name in _SETS:
        yield document_text(sorted(getattr(entry, name)) if entry else ())


_SETS = ("firing", "resolved", "acknowledged", "flapping")
_ENTRY = (*_SETS, "at", "reason")
_LOG = bulk_upsert(notification_log, ("group_key", "channel", *_ENTRY), _ENTRY)


def inhibition_sources(
    connection: Connection, rules: Sequence[InhibitRule], targets: Collection[Labels]
) -> dict[str, Labels]:
    """The labels, by id, of the firing alerts that may inhibit one of these by one of the rules.

    Rows are chosen by what a rule says of the columns that its labels have; labels are read of those alone.
    """
    sources: dict[str, Labels] = {}
    for rule in rules:
        concerned = [labels for labels in targets if not rule.upstream and all_match(rule.target_matchers, labels)]
        if not concerned:
            continue
        query = select(alerts.c.id, alerts.c.labels).where(alerts.c.ends_at.is_(None))
        for matcher in rule.source_matchers:
            if matcher.name in _COLUMNS and matcher.op is Op.EQUAL:
                query = query.where(_COLUMNS[matcher.name] == matcher.value)
        for name in rule.equal:
            values = {labels.get(name, "") for labels in concerned}
            if name in _COLUMNS and len(values) <= _MOST_VALUES:
                query = query.where(_COLUMNS[name].in_(sorted(values)))
        rows = connection.execute(query)
        sources.update(readable(connection, alerts, rows, lambda row: (row.id, row.labels)))
    return sources
