"""Rows of nodes: since when each is watched, whether it answers, and how far its clock is off."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select, update

from tocsin.store.schema import nodes
from tocsin.store.sql import insert


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node as it was last seen. ``watched_since`` and ``resumed_at`` are on DSS's clock, the others on Tocsin's."""

    node: str
    watched_since: datetime
    up: bool | None = None  # None: neither answered nor failed yet
    down_reason: str | None = None
    down_since: datetime | None = None
    down_event_id: str | None = None
    problem: str | None = None
    last_ok_at: datetime | None = None
    clock_offset_ms: int = 0  # DSS's clock minus ours
    clock_offset_least_ms: int | None = None  # the least of it for hours
    dss_version: str | None = None
    node_type: str | None = None
    sweep_trusted: bool = True
    last_sweep_at: datetime | None = None
    last_discovery_at: datetime | None = None
    backfilling: bool = False
    resumed_at: datetime | None = None
    scope: str | None = None


def ensure_node(connection: Connection, node: str, watched_since: datetime) -> NodeRow:
    """The node's row; a new one is watched since the given moment."""
    fresh = insert(connection, nodes).values(node=node, watched_since=watched_since)
    connection.execute(fresh.on_conflict_do_nothing())
    found = get_node(connection, node)
    assert found is not None
    return found


def get_node(connection: Connection, node: str) -> NodeRow | None:
    row = connection.execute(select(nodes).where(nodes.c.node == node)).mappings().one_or_none()
    return None if row is None else NodeRow(**row)


def all_nodes(connection: Connection) -> list[NodeRow]:
    return [NodeRow(**row) for row in connection.execute(select(nodes).order_by(nodes.c.node)).mappings()]


def save_node(connection: Connection, row: NodeRow) -> None:
    """Write the whole row of a node that exists; only its watcher does."""
    values = {column.name: getattr(row, column.name) for column in nodes.columns}
    connection.execute(update(nodes).where(nodes.c.node == row.node).values(values))
