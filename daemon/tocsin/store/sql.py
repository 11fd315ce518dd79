"""What statements share: upserts in both dialects, composite keys, rows as objects, and rows that cannot be read.

A newer version may have written a value that this one does not know, and a file may be damaged. Whatever reads rows
passes them through ``readable``: what cannot be made of a row costs that row only. The row stays as it is, so that
the version that wrote it finds it again; where it would be read over and over, its stage moves it out of the way.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from enum import Enum
from functools import lru_cache
from operator import itemgetter
from sys import intern
from typing import Any, TypeVar, get_args, get_type_hints

import structlog
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Delete,
    Dialect,
    FromClause,
    RowMapping,
    Select,
    Subquery,
    Table,
    Text,
    Update,
    and_,
    bindparam,
    cast,
    func,
    select,
    type_coerce,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSONB

from tocsin.kit.clock import to_ms
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.store.schema import Document, Moment, Unreadable, document_text, metadata

log = structlog.get_logger(__name__)
Item = TypeVar("Item")
Insert = sqlite.Insert | postgresql.Insert
Key = Iterable[object]  # texts, numbers and datetimes; a key inside a key stands for its parts
SCENARIO = ScenarioKey._fields
RUN = (*SCENARIO, "run_id", "start")

# --- insert and update ------------------------------------------------------------------------------------------------


def shared_key(node: str, project: str, scenario: str) -> ScenarioKey:
    """A key for those who hold ten thousand: its names are the same objects wherever they are held."""
    return ScenarioKey(intern(node), intern(project), intern(scenario))


def insert(connection: Connection, table: Table) -> Insert:
    """An insert that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update`` in this database's dialect."""
    return insert_into(connection.dialect.name, table)


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


@lru_cache(maxsize=64)  # building the statement takes longer than running it
def _upsert(
    dialect: str, table: Table, newer: tuple[str, ...], added: tuple[str, ...], where: ColumnElement[bool] | None
) -> Insert:
    new = insert_into(dialect, table)
    changing = {name: new.excluded[name] for name in newer} | {n: table.c[n] + new.excluded[n] for n in added}
    return new.on_conflict_do_update(index_elements=[*table.primary_key], set_=changing, where=where)


class BulkWrite:
    """A writing statement that is compiled once for each dialect and executed with tuples of plain values.

    A tuple holds the parameters in the order of ``names``: moments as epoch milliseconds, enums as their values,
    documents as JSON text (see ``schema.document_text``). ``build`` makes the statement for a dialect.
    """

    def __init__(self, names: Sequence[str], build: Callable[[str], Insert | Update | Delete]) -> None:
        self._names = tuple(names)
        self._build = build
        self._compiled: dict[str, tuple[str, Callable[[Any], tuple[Any, ...]] | None]] = {}

    def execute(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """The number of rows that were written."""
        if not rows:
            return 0
        dialect = connection.dialect
        if dialect.name not in self._compiled:
            self._compiled[dialect.name] = self._compile(dialect)
        text, arrange = self._compiled[dialect.name]
        return connection.exec_driver_sql(text, list(rows if arrange is None else map(arrange, rows))).rowcount

    def _compile(self, dialect: Dialect) -> tuple[str, Callable[[Any], tuple[Any, ...]] | None]:
        statement = self._build(dialect.name)
        keys = list(self._names) if isinstance(statement, Insert) else None
        by_place = dialect if dialect.positional else type(dialect)(paramstyle="format")  # type: ignore[call-arg]
        compiled = statement.compile(dialect=by_place, column_keys=keys)
        order = [self._names.index(name) for name in compiled.positiontup or ()]
        return str(compiled), None if order == list(range(len(self._names))) else itemgetter(*order)


def bulk_upsert(
    table: Table,
    names: Sequence[str],
    newer: Sequence[str] = (),
    *,
    added: Sequence[str] = (),
    where: ColumnElement[bool] | None = None,
) -> BulkWrite:
    """As ``upsert``, of the columns ``names``. With neither ``newer`` nor ``added`` a row that is there stays."""

    def build(dialect: str) -> Insert:
        if newer or added:
            return _upsert(dialect, table, tuple(newer), tuple(added), where)
        return insert_into(dialect, table).on_conflict_do_nothing()

    return BulkWrite(names, build)


def insert_into(dialect: str, table: Table) -> Insert:
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def chunks(items: Sequence[Item], size: int = 400) -> Iterator[Sequence[Item]]:
    """Pieces small enough for one statement's parameters."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


# --- keys -------------------------------------------------------------------------------------------------------------


def flat(key: Key) -> tuple[Any, ...]:
    """The parts of a composite key, in the order of the columns of a table."""
    parts: list[Any] = []
    for item in key:
        if isinstance(item, tuple):
            parts += item
        else:
            parts.append(item)
    return tuple(parts)


def columns(table: FromClause, *names: str) -> list[Any]:
    return [table.c[name] for name in names]


def key_values(table: Table, key: Key, prefix: str = "") -> dict[str, Any]:
    """A primary key by column: of a row to insert, or with a ``prefix`` as the parameters of ``has_key``."""
    return dict(zip(_key_names(table, prefix), flat(key), strict=True))


@lru_cache(maxsize=64)
def _key_names(table: Table, prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}{column.name}" for column in table.columns if column.primary_key)


def has_key(table: Table, key: Key | None = None) -> ColumnElement[bool]:
    """Whether a row has this primary key; without one, that of the parameters ``key_…``."""
    columns = [column for column in table.columns if column.primary_key]
    parts = flat(key) if key else [bindparam(f"key_{column.name}", type_=column.type) for column in columns]
    return and_(*(column == part for column, part in zip(columns, parts, strict=True)))


def equals(table: FromClause, names: Sequence[str], key: Key) -> ColumnElement[bool]:
    """Whether the columns ``names`` of a row are the parts of ``key``."""
    return and_(*(table.c[name] == part for name, part in zip(names, flat(key), strict=True)))


def same(left: FromClause, right: FromClause, names: Sequence[str] = SCENARIO) -> ColumnElement[bool]:
    """Whether two rows speak of the same scenario, or of the same of whatever ``names`` say."""
    return and_(*(left.c[name] == right.c[name] for name in names))


def is_key(table: FromClause, keys: Subquery, names: Sequence[str] = SCENARIO) -> ColumnElement[bool]:
    """Whether a row has a key of ``unfold``'s."""
    return and_(*(plain(table.c[name]) == keys.c[f"k{index}"] for index, name in enumerate(names)))


def plain(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A column as the database sees it: a moment is a number."""
    return type_coerce(column, BigInteger) if isinstance(column.type, Moment) else column


class Keyed:
    """A query for the rows whose ``columns`` equal one of many keys in one parameter, at the price of one key.

    ``(a, b, c) IN (…)`` with 500 keys costs SQLAlchemy more than the database; a JSON array that both databases unfold
    into a table costs neither much. The query is built once for each kind of database. ``query`` may be a function
    that makes it from the table of the keys, with the columns ``k0``, ``k1``…
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
            unfolded = unfold(dialect, self._columns)
            if isinstance(self._query, Select):
                equal = (plain(column) == unfolded.c[f"k{index}"] for index, column in enumerate(self._columns))
                self._built[dialect] = self._query.join(unfolded, and_(*equal))
            else:
                self._built[dialect] = self._query(unfolded)
        return connection.execute(self._built[dialect], {"keys": packed}).all()


def pack(keys: Iterable[Key]) -> str:
    """Keys, all of one shape, as the JSON text that goes into the parameter ``keys``."""
    keys = list(keys)
    if keys and all(type(part) in _PLAIN for part in keys[0]):
        return document_text(keys)
    return document_text([[to_ms(part) if isinstance(part, datetime) else part for part in flat(key)] for key in keys])


_PLAIN = (str, int)


def plain_key(run: RunKey) -> tuple[str | int, ...]:
    """The parts of a key as rows hold them."""
    (node, project, scenario), run_id, start = run
    return node, project, scenario, run_id, to_ms(start)


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
        kinds = [BigInteger if isinstance(column.type, Moment | BigInteger) else Text for column in columns]
        parts = [cast(value[index].astext, kind) for index, kind in enumerate(kinds)]
    return select(*(part.label(f"k{index}") for index, part in enumerate(parts))).subquery()


# --- rows as objects --------------------------------------------------------------------------------------------------


def shallow(item: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, which are the columns of its table."""
    return {name: getattr(item, name) for name in _field_names(item.__class__)}


@lru_cache(maxsize=64)
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def maker(kind: type[Item], **other: Callable[[Mapping[str, Any]], object]) -> Callable[[Any], Item]:
    """A function that makes a dataclass from the columns of its fields' names in a row; enums from their values.

    ``other`` says for single fields how they are made from the whole row. Raises ``ValueError`` for what makes no
    sense, as ``readable`` expects.
    """
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind) if field.name not in other]  # type: ignore[arg-type]
    enums = {name: enum for name in names if (enum := _enum_in(hints[name])) is not None}

    def make(row: Any) -> Item:
        mapping = row._mapping
        values = {name: mapping[name] for name in names}
        for name, enum in enums.items():
            if values[name] is not None:
                values[name] = enum(values[name])
        for name, function in other.items():
            values[name] = function(mapping)
        return kind(**values)

    return make


def _enum_in(hint: object) -> type[Enum] | None:
    return next((part for part in (hint, *get_args(hint)) if isinstance(part, type) and issubclass(part, Enum)), None)


# --- rows that cannot be read -----------------------------------------------------------------------------------------

_OPTION = "tocsin_set_aside"
_MOST_REMEMBERED = 10_000
_WITH_ENUMS = ("alerts", "attempts", "decisions", "rule_states")
TABLES = sorted({*_WITH_ENUMS, *(table.name for table in metadata.tables.values()
                                 if any(isinstance(column.type, Document) for column in table.columns))})  # fmt: skip


class SetAside:
    """Which rows one store has set aside since it was opened: counted by table, each reported once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: set[tuple[str, str]] = set()
        self._counts: Counter[str] = Counter(dict.fromkeys(TABLES, 0))

    def counts(self) -> Mapping[str, int]:
        """Rows by table, each table from the start; at most 10 000 rows are counted."""
        with self._lock:
            return dict(self._counts)

    @property
    def options(self) -> dict[str, object]:
        """Execution options that lead ``readable`` here."""
        return {_OPTION: self}

    def note(self, table: Table, key: str, why: str) -> None:
        with self._lock:
            if (table.name, key) in self._seen or len(self._seen) >= _MOST_REMEMBERED:
                return
            self._seen.add((table.name, key))
            self._counts[table.name] += 1
        log.warning("row_set_aside", table=table.name, row=key, reason=why,
                    hint="a newer version wrote it, or it is damaged; it stays in the store")  # fmt: skip


def readable(connection: Connection, table: Table, rows: Iterable[Any], make: Callable[[Any], Item]) -> list[Item]:
    """What ``make`` makes of the rows of ``table`` that can be read; the others are reported."""
    items: list[Item] = []
    for row in rows:
        try:
            items.append(make(whole(row)))
        except (ValueError, KeyError, OverflowError) as error:
            set_aside(connection, table, row, error)
    return items


def whole(row: Any) -> Any:
    """The row. Raises ``ValueError`` when one of its values cannot be read."""
    values = row.values() if type(row) is RowMapping else row  # ``isinstance`` of an abstract class is slow
    if Unreadable in map(type, values):
        raise ValueError(next(value.why for value in values if isinstance(value, Unreadable)))
    return row


def emptied(connection: Connection, table: Table, rows: Iterable[Any]) -> Iterator[Sequence[Any]]:
    """The rows, with ``()`` for lists that cannot be read: for rows that are worth more than their lists."""
    for row in rows:
        try:
            yield whole(row)
        except ValueError as error:
            set_aside(connection, table, row, error)
            yield tuple(() if isinstance(value, Unreadable) else value for value in row)


def set_aside(connection: Connection, table: Table, row: Any, error: Exception) -> None:
    """Count a row that cannot be read, and log it once."""
    mapping = row if isinstance(row, RowMapping) else row._mapping
    known = [mapping[column] for column in table.primary_key if column in mapping]
    why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    ledger = connection.get_execution_options().get(_OPTION) or SetAside()
    ledger.note(table, "/".join(map(str, known)) or "?", why)
