"""Rows of notifications owed, from the moment they are owed to their receipt or their giving up."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, select

from tocsin.model.notification import DeadReason, EventNotice, GroupNotice, Notice, Notification, NotificationState
from tocsin.model.run import RunKey
from tocsin.store.schema import outbox, outbox_waits
from tocsin.store.sql import chunks, insert, readable


def owe(
    connection: Connection, owed: Sequence[Notification], waits: Mapping[str, Sequence[RunKey]] | None = None
) -> list[Notification]:
    """Write notifications that are not there yet; answers those.

    ``waits`` names, by notification id, the runs whose details it wants: it is due at its ``due_at``, or as soon as
    the details of all of them were read (see ``runs.put_details``).
    """
    if not owed:
        return []
    statement = insert(connection, outbox).on_conflict_do_nothing().returning(outbox.c.id)
    fresh = set(connection.execute(statement, [_row(one) for one in owed]).scalars())
    rows = [_wait(id_, run) for id_, runs in (waits or {}).items() if id_ in fresh for run in runs]
    if rows:
        connection.execute(insert(connection, outbox_waits).on_conflict_do_nothing(), rows)
    return [one for one in owed if one.id in fresh]


def notifications(connection: Connection, ids: Sequence[str]) -> dict[str, Notification]:
    """Notifications by id."""
    found: dict[str, Notification] = {}
    for part in chunks(ids):
        rows = connection.execute(select(outbox).where(outbox.c.id.in_(part)))
        found.update(readable(connection, outbox, rows, lambda row: (row.id, to_notification(row))))
    return found


def to_notification(row: Row[Any]) -> Notification:
    """A notification from a row with all columns of the outbox."""
    fields = row._mapping
    return Notification(
        id=fields["id"],
        receiver=fields["receiver"],
        channel=fields["channel"],
        ordering_key=fields["ordering_key"],
        notice=fields["notice"],
        created_at=fields["created_at"],
        due_at=fields["due_at"],
        state=NotificationState(fields["state"]),
        attempts=fields["attempts"],
        reason=fields["reason"],
        dead_reason=dead_reason(fields["dead_reason"]),
    )


def dead_reason(value: str | None) -> DeadReason | None:
    """None also for a reason that only a newer version knows: it serves counting alone."""
    return DeadReason(value) if value in set(DeadReason) else None


def kind_of(notice: Notice) -> str:
    match notice:
        case EventNotice():
            return "event"
        case GroupNotice():
            return "group"
        case _:
            return "summary"


def _row(one: Notification) -> dict[str, object]:
    return {
        "id": one.id,
        "receiver": one.receiver,
        "channel": one.channel,
        "ordering_key": one.ordering_key,
        "kind": kind_of(one.notice),
        "notice": one.notice,
        "event_id": one.notice.event.id if isinstance(one.notice, EventNotice) else None,
        "created_at": one.created_at,
        "due_at": one.due_at,
        "state": one.state.value,
        "reason": one.reason,
        "attempts": one.attempts,
    }


def _wait(notification_id: str, run: RunKey) -> dict[str, object]:
    node, project, scenario = run.scenario
    return {
        "notification_id": notification_id,
        "node": node,
        "project": project,
        "scenario": scenario,
        "run_id": run.run_id,
        "start": run.start,
    }
