"""Rows of events that were too late to be told one by one, until the summary after a backfill."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, select

from tocsin.model.event import Event
from tocsin.store.schema import events, withheld
from tocsin.store.sql import insert, readable


def add(connection: Connection, late: Sequence[tuple[str, str, str]]) -> None:
    """Note (node, receiver, event id); one event is noted once a receiver, however many reporters heard of it."""
    if late:
        rows = [{"node": node, "receiver": receiver, "event_id": id_} for node, receiver, id_ in set(late)]
        connection.execute(insert(connection, withheld).on_conflict_do_nothing(), rows)


def nodes(connection: Connection) -> list[str]:
    """The nodes for which something is withheld."""
    return list(connection.execute(select(withheld.c.node).distinct().order_by(withheld.c.node)).scalars())


def take(connection: Connection, node: str) -> dict[str, list[Event]]:
    """What is withheld for a node, by receiver and in order of time; it is withheld no more."""
    query = (
        select(events.c.n, withheld.c.receiver, events.c.body)
        .join(events, events.c.id == withheld.c.event_id)
        .where(withheld.c.node == node)
        .order_by(withheld.c.receiver, events.c.time, events.c.n)
    )
    found: dict[str, list[Event]] = {}
    for _, receiver, body in readable(connection, events, connection.execute(query), tuple):
        found.setdefault(receiver, []).append(body)
    connection.execute(delete(withheld).where(withheld.c.node == node))
    return found
