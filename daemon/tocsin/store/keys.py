"""Many keys in one parameter: rows by hundreds of composite keys, at the price of one.

``(a, b, c) IN (…)`` with 500 keys costs SQLAlchemy more than the database; a JSON array that both databases unfold
into a table costs neither much. A ``Keyed`` query is built once for each kind of database.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Select,
    Subquery,
    Text,
    and_,
    bindparam,
    cast,
    func,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB

from tocsin.kit.clock import to_ms
from tocsin.store.schema import Moment

Key = Sequence[object]  # texts, numbers and datetimes


class Keyed:
    """A query for the rows whose ``columns`` equal one of the keys that are given at the call.

    ``query`` may be a function that makes it from the table of the keys, with the columns ``k0``, ``k1``…
    """

    def __init__(self, query: Select[Any] | Callable[[Subquery], Select[Any]], columns: Sequence[Column[Any]]) -> None:
        self._query = query
        self._columns = columns
        self._built: dict[str, Select[Any]] = {}

    def rows(self, connection: Connection, keys: Iterable[Key]) -> Sequence[Sequence[Any]]:
        packed = pack(keys)
        if packed == "[]":
            return ()
        dialect = connection.dialect.name
        if dialect not in self._built:
            self._built[dialect] = self._build(dialect)
        return connection.execute(self._built[dialect], {"keys": packed}).all()

    def _build(self, dialect: str) -> Select[Any]:
        wanted = unfold(dialect, self._columns)
        if not isinstance(self._query, Select):
            return self._query(wanted)
        same = and_(*(plain(column) == wanted.c[f"k{index}"] for index, column in enumerate(self._columns)))
        return self._query.join(wanted, same)


def pack(keys: Iterable[Key]) -> str:
    """Keys as the JSON text that goes into the parameter ``keys``."""
    return json.dumps([[to_ms(part) if isinstance(part, datetime) else part for part in key] for key in keys])


def unfold(dialect: str, columns: Sequence[Column[Any]]) -> Subquery:
    """The parameter ``keys`` as a table with the columns ``k0``, ``k1``…, of the types of ``columns``."""
    packed = bindparam("keys", type_=Text)
    parts: list[ColumnElement[Any]]
    if dialect == "sqlite":
        each = func.json_each(packed).table_valued("value")
        parts = [func.json_extract(each.c.value, f"$[{index}]") for index in range(len(columns))]
    else:
        each = func.jsonb_array_elements(cast(packed, JSONB)).table_valued("value", name="each")
        value = type_coerce(each.c.value, JSONB)
        parts = [
            cast(value[index].astext, BigInteger if _is_number(column) else Text)
            for index, column in enumerate(columns)
        ]
    return select(*(part.label(f"k{index}") for index, part in enumerate(parts))).subquery()


def plain(column: Column[Any]) -> ColumnElement[Any]:
    """A column as the database sees it: a moment is a number."""
    return type_coerce(column, BigInteger) if isinstance(column.type, Moment) else column


def _is_number(column: Column[Any]) -> bool:
    return isinstance(column.type, Moment | BigInteger)
