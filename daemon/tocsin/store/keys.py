"""Many keys in one parameter: rows by hundreds of composite keys, at the price of one.

``(a, b, c) IN (…)`` with 500 keys costs SQLAlchemy more than the database; a JSON array that both databases unfold
into a table costs neither much.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    cast,
    func,
    literal,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB

from tocsin.kit.clock import to_ms
from tocsin.store.schema import Moment


def among(
    connection: Connection,
    query: Select[Any],
    columns: Sequence[Column[Any]],
    keys: Iterable[Sequence[object]],
) -> Select[Any]:
    """``query`` narrowed to the rows whose ``columns`` equal one of ``keys``; moments are given as datetimes."""
    packed = [[to_ms(value) if isinstance(value, datetime) else value for value in key] for key in keys]
    wanted = _unfold(connection, json.dumps(packed), columns)
    same = and_(*(_plain(column) == wanted.c[f"k{index}"] for index, column in enumerate(columns)))
    return query.join(wanted, same)


def _unfold(connection: Connection, packed: str, columns: Sequence[Column[Any]]) -> Any:
    if connection.dialect.name == "sqlite":
        each = func.json_each(packed).table_valued("value")
        parts: list[ColumnElement[Any]] = [
            func.json_extract(each.c.value, f"$[{index}]") for index in range(len(columns))
        ]
    else:
        each = func.jsonb_array_elements(cast(literal(packed, Text), JSONB)).table_valued(
            "value", name="each"
        )
        value = type_coerce(each.c.value, JSONB)
        parts = [
            cast(value[index].astext, BigInteger if isinstance(column.type, Moment) else Text)
            for index, column in enumerate(columns)
        ]
    return select(*(part.label(f"k{index}") for index, part in enumerate(parts))).subquery()


def _plain(column: Column[Any]) -> ColumnElement[Any]:
    return type_coerce(column, BigInteger) if isinstance(column.type, Moment) else column
