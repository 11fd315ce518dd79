"""``INSERT … ON CONFLICT`` for both databases behind one name."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from sqlalchemy import ColumnElement, Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

Item = TypeVar("Item")
Insert = sqlite.Insert | postgresql.Insert


def insert(connection: Connection, table: Table) -> Insert:
    """An insert that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update`` in this database's dialect."""
    return _insert(connection.dialect.name, table)


def upsert(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, object]],
    newer: Sequence[str] = (),
    *,
    added: Sequence[str] = (),
    where: ColumnElement[bool] | None = None,
) -> None:
    """Write rows, each primary key once. A row that is there takes the columns ``newer`` over and adds up ``added``,
    if it fits ``where``; the rest of it stays."""
    if rows:
        connection.execute(_upsert(connection.dialect.name, table, tuple(newer), tuple(added), where), rows)


@lru_cache(maxsize=64)
def _upsert(
    dialect: str, table: Table, newer: tuple[str, ...], added: tuple[str, ...], where: ColumnElement[bool] | None
) -> Insert:
    """RuleStateRow: building the statement takes longer than running it."""
    new = _insert(dialect, table)
    changing = {name: new.excluded[name] for name in newer} | {n: table.c[n] + new.excluded[n] for n in added}
    return new.on_conflict_do_update(index_elements=[*table.primary_key], set_=changing, where=where)


def _insert(dialect: str, table: Table) -> Insert:
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def chunks(items: Sequence[Item], size: int = 400) -> Iterator[Sequence[Item]]:
    """Pieces small enough for one statement's parameters."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
