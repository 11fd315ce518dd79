"""Rows of decisions: why something rang, was told, or was not."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, or_, select

from tocsin.model.decision import Decision, DecisionReason, Stage
from tocsin.store.schema import decisions
from tocsin.store.sql import chunks, readable


def record(connection: Connection, made: Sequence[Decision]) -> None:
    """Write decisions."""
    if made:
        connection.execute(insert(decisions), [_row(one) for one in made])


def about(
    connection: Connection,
    *,
    events: Collection[str] = (),
    alerts: Collection[str] = (),
    subjects: Collection[str] = (),
) -> list[Decision]:
    """The decisions on these events and alerts, and of these subjects (groups), in the order in which they were made."""
    found: dict[int, Decision] = {}
    for column, wanted in (
        (decisions.c.event_id, events),
        (decisions.c.alert_id, alerts),
        (decisions.c.subject, subjects),
    ):
        for part in chunks(sorted(set(wanted))):
            rows = connection.execute(select(decisions).where(or_(column.in_(part))))
            found.update(readable(connection, decisions, rows, lambda row: (row.n, to_decision(row))))
    return [found[n] for n in sorted(found)]


def to_decision(row: Row[Any]) -> Decision:
    """A decision from a row with all columns of the table."""
    fields = row._mapping
    return Decision(
        at=fields["at"],
        stage=Stage(fields["stage"]),
        subject=fields["subject"],
        reason=DecisionReason(fields["reason"]),
        note=fields["note"],
        event_id=fields["event_id"],
        fingerprint=fields["fingerprint"],
        alert_id=fields["alert_id"],
        notification_id=fields["notification_id"],
    )


def _row(one: Decision) -> dict[str, object]:
    return {
        "at": one.at,
        "stage": one.stage.value,
        "subject": one.subject,
        "reason": one.reason.value,
        "note": one.note,
        "event_id": one.event_id,
        "fingerprint": one.fingerprint,
        "alert_id": one.alert_id,
        "notification_id": one.notification_id,
    }
