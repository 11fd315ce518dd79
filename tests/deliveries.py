"""One row of the outbox with its attempts, as tests look at it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from tocsin.model.notification import Attempt, Notification
from tocsin.store.deliveries import load_attempts
from tocsin.store.outbox import to_notification
from tocsin.store.schema import outbox


@dataclass(frozen=True, slots=True)
class Delivery:
    notification: Notification
    settled_at: datetime | None
    attempts: tuple[Attempt, ...]


def get_delivery(connection: Connection, id_: str) -> Delivery | None:
    row = connection.execute(select(outbox).where(outbox.c.id == id_)).one_or_none()
    if row is None:
        return None
    return Delivery(to_notification(row), row.settled_at, tuple(load_attempts(connection, [row])[id_]))
