"""One row of the outbox with its attempts, as tests look at it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from tocsin.model.notification import Attempt, Notification
from tocsin.store.outbox import to_notification
from tocsin.store.schema import attempts, outbox
from tocsin.store.sql import maker


@dataclass(frozen=True, slots=True)
class Delivery:
    notification: Notification
    settled_at: datetime | None
    attempts: tuple[Attempt, ...]


def get_delivery(connection: Connection, id_: str) -> Delivery | None:
    row = connection.execute(select(outbox).where(outbox.c.id == id_)).one_or_none()
    if row is None:
        return None
    query = select(attempts).where(attempts.c.notification_id == id_).order_by(attempts.c.number)
    return Delivery(to_notification(row), row.settled_at, tuple(map(maker(Attempt), connection.execute(query))))
