"""Rows of alert groups: who is in them, when they are told next, and what each channel was last told."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, exists, func, select, update

from tocsin.config.model import InhibitRule
from tocsin.model.alert import Group, Member, NotificationLogEntry
from tocsin.model.decision import DecisionReason
from tocsin.model.labels import Labels, Op, all_match
from tocsin.store.alerts import to_alert
from tocsin.store.schema import alerts, group_alerts, groups, notification_log
from tocsin.store.sql import chunks, readable, upsert

_PUT_OFF = timedelta(minutes=10)

# Labels of alerts that are columns too, where an absent label is the empty text.
_COLUMNS = {
    "alertname": alerts.c.alertname,
    "dss_node": alerts.c.node,
    "project": alerts.c.project,
    "scenario": alerts.c.scenario,
}
_MOST_VALUES = 1000  # of one column in a statement


@dataclass(frozen=True, slots=True)
class GroupMembership:
    """An alert that enters a group; a group that is not there yet is made with this ``flush_at``."""

    group: Group
    fingerprint: str
    alert_id: str


@dataclass(frozen=True, slots=True)
class Told:
    """A row of a channel's memory: what it was told, and the verdict of the last flush."""

    group_key: str
    channel: str
    notified: NotificationLogEntry | None
    reason: DecisionReason | None  # None: one that only another version knows


def join(connection: Connection, joining: Sequence[GroupMembership]) -> None:
    """Put alerts into groups; an earlier firing of the same alert gives way to the new one."""
    if not joining:
        return
    rows = [
        {
            "key": group.key,
            "receiver": group.receiver,
            "route": group.path,
            "labels": dict(group.labels),
            "flush_at": group.flush_at,
        }
        for group in {one.group.key: one.group for one in joining}.values()
    ]
    upsert(connection, groups, rows, ("route", "labels"))  # as they were, unless another version wrote them
    entering = {(one.group.key, one.fingerprint): one.alert_id for one in joining}
    members = [
        {"group_key": key, "fingerprint": fingerprint, "alert_id": alert_id, "kept": False}
        for (key, fingerprint), alert_id in entering.items()
    ]
    upsert(connection, group_alerts, members, ("alert_id", "kept"))


def due(connection: Connection, now: datetime, limit: int) -> list[Group]:
    """The groups that are to be flushed, the longest overdue first. One that cannot be read is put off: it can again
    once an alert enters it, since its labels and matchers are then written anew."""
    query = select(groups).where(groups.c.flush_at <= now).order_by(groups.c.flush_at, groups.c.key).limit(limit)
    rows = connection.execute(query).all()
    found = readable(connection, groups, rows, _group)
    if len(found) < len(rows):
        aside = {row.key for row in rows} - {group.key for group in found}
        connection.execute(update(groups).where(groups.c.key.in_(sorted(aside))).values(flush_at=now + _PUT_OFF))
    return found


def next_flush(connection: Connection) -> datetime | None:
    found: datetime | None = connection.execute(select(func.min(groups.c.flush_at))).scalar_one_or_none()
    return found


def every(connection: Connection) -> list[Group]:
    """All groups that can be read."""
    return readable(connection, groups, connection.execute(select(groups).order_by(groups.c.key)), _group)


def members(connection: Connection, keys: Collection[str]) -> dict[str, list[Member]]:
    """The alerts of these groups, the oldest first."""
    found: dict[str, list[Member]] = {key: [] for key in keys}
    for part in chunks(sorted(keys)):
        query = (
            select(group_alerts.c.group_key, group_alerts.c.kept, *alerts.c)
            .join_from(group_alerts, alerts, alerts.c.id == group_alerts.c.alert_id)
            .where(group_alerts.c.group_key.in_(part))
            .order_by(alerts.c.starts_at, alerts.c.id)
        )
        for key, member in readable(connection, alerts, connection.execute(query), _member):
            found[key].append(member)
    return found


def _member(row: Row[Any]) -> tuple[str, Member]:
    return row._mapping["group_key"], Member(to_alert(row), row._mapping["kept"])


def next_flush_of(connection: Connection, fingerprints: Collection[str]) -> datetime | None:
    """When one of the groups in which these alerts stand is told next; None when they stand in none."""
    query = select(func.min(groups.c.flush_at)).join(group_alerts, group_alerts.c.group_key == groups.c.key)
    found: datetime | None = connection.execute(
        query.where(group_alerts.c.fingerprint.in_(sorted(fingerprints)))
    ).scalar_one_or_none()
    return found


def told(connection: Connection, keys: Collection[str]) -> dict[tuple[str, str], Told]:
    """What the channels were told about these groups, by group key and channel."""
    found: dict[tuple[str, str], Told] = {}
    for part in chunks(sorted(keys)):
        rows = connection.execute(select(notification_log).where(notification_log.c.group_key.in_(part)))
        for one in readable(connection, notification_log, rows, _told):
            found[one.group_key, one.channel] = one
    return found


def _told(row: Row[Any]) -> Told:
    notified = None if row.at is None else NotificationLogEntry(frozenset(row.firing), frozenset(row.ended), row.at)
    # What was told counts, whatever word a newer version has for it.
    reason = DecisionReason(row.reason) if row.reason in _VERDICTS else None
    return Told(row.group_key, row.channel, notified, reason)


_VERDICTS = frozenset(DecisionReason)


def sources(connection: Connection, rules: Sequence[InhibitRule], targets: Collection[Labels]) -> list[Labels]:
    """The labels of the firing alerts that may inhibit one of these by one of the rules.

    Rows are chosen by what a rule says of the columns that its labels have; labels are read of those alone.
    """
    found: dict[str, Labels] = {}
    for rule in rules:
        concerned = [labels for labels in targets if all_match(rule.target_matchers, labels)]
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
        found.update(readable(connection, alerts, rows, lambda row: (row.id, row.labels)))
    return list(found.values())


def remember(connection: Connection, rows: Sequence[Told]) -> None:
    """Write the channels' memories over older ones."""
    told = [
        {
            "group_key": one.group_key,
            "channel": one.channel,
            "firing": tuple(sorted(one.notified.firing)) if one.notified else (),
            "ended": tuple(sorted(one.notified.ended)) if one.notified else (),
            "at": one.notified.at if one.notified else None,
            "reason": one.reason.value,
        }
        for one in rows
        if one.reason is not None
    ]
    upsert(connection, notification_log, told, ("firing", "ended", "at", "reason"))


def leave(connection: Connection, left: Sequence[tuple[str, str]]) -> None:
    """Take alerts, by group key and fingerprint, out of groups."""
    if left:
        connection.execute(
            delete(group_alerts).where(
                group_alerts.c.group_key == bindparam("k"), group_alerts.c.fingerprint == bindparam("f")
            ),
            [{"k": key, "f": fingerprint} for key, fingerprint in left],
        )


def keep(connection: Connection, kept: Sequence[tuple[str, str]]) -> None:
    """Mark alerts that ended while muted."""
    if kept:
        connection.execute(
            update(group_alerts)
            .where(group_alerts.c.group_key == bindparam("k"), group_alerts.c.fingerprint == bindparam("f"))
            .values(kept=True),
            [{"k": key, "f": fingerprint} for key, fingerprint in kept],
        )


def flushed(connection: Connection, next_flush_at: Sequence[tuple[str, datetime]], now: datetime) -> None:
    """Note the flush of groups and when each is due again."""
    if next_flush_at:
        connection.execute(
            update(groups).where(groups.c.key == bindparam("k")).values(flush_at=bindparam("due"), flushed_at=now),
            [{"k": key, "due": due_at} for key, due_at in next_flush_at],
        )


def drop_empty(connection: Connection, keys: Collection[str] | None = None) -> None:
    """Take away groups without alerts, all or of these. What their channels were told stays."""
    empty = ~exists().where(group_alerts.c.group_key == groups.c.key)
    if keys is None:
        connection.execute(delete(groups).where(empty))
        return
    for part in chunks(sorted(keys)):
        connection.execute(delete(groups).where(groups.c.key.in_(part), empty))


def _group(row: Row[Any]) -> Group:
    fields = row._mapping
    return Group(
        key=fields["key"],
        receiver=fields["receiver"],
        path=fields["route"],
        labels=fields["labels"],
        flush_at=fields["flush_at"],
        flushed_at=fields["flushed_at"],
    )
