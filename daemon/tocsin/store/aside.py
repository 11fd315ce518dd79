"""Rows that this version cannot read: they are set aside, reported once, and stop nobody.

A newer version may have written a value that this one does not know, and a file may be damaged. Whatever reads rows
passes them through ``readable``: what cannot be made of a row costs that row only. The row stays as it is, so that
the version that wrote it finds it again; where it would be read over and over, its stage moves it out of the way.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError
from sqlalchemy import Connection, RowMapping, Table

from tocsin.store.schema import Document, Unreadable, metadata, why_invalid

Item = TypeVar("Item")

log = structlog.get_logger(__name__)
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
        """Rows by table, each table from the start; at most 10 000 rows are told apart."""
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
    """What ``make`` makes of the rows (or their mappings) of ``table`` that can be read; the others are reported."""
    found: list[Item] = []
    for row in rows:
        try:
            found.append(make(whole(row)))
        except (ValueError, KeyError, OverflowError) as error:
            report(connection, table, row, error)
    return found


def whole(row: Any) -> Any:
    """The row. Raises ``ValueError`` when one of its values cannot be read."""
    values = row.values() if isinstance(row, RowMapping) else row
    if Unreadable in map(type, values):
        raise ValueError(next(value.why for value in values if isinstance(value, Unreadable)))
    return row


def emptied(connection: Connection, table: Table, rows: Iterable[Any]) -> Iterator[Sequence[Any]]:
    """The rows, with ``()`` for lists that cannot be read: for rows that are worth more than their lists."""
    for row in rows:
        try:
            yield whole(row)
        except ValueError as error:
            report(connection, table, row, error)
            yield tuple(() if isinstance(value, Unreadable) else value for value in row)


def report(connection: Connection, table: Table, row: Any, error: Exception) -> None:
    """Count a row that cannot be read, and log it once."""
    fields = row if isinstance(row, RowMapping) else row._mapping
    known = [fields[column] for column in table.primary_key if column in fields]
    key = "/".join(str(part) for part in known) or "?"
    ledger = connection.get_execution_options().get(_OPTION) or SetAside()
    ledger.note(table, key, _reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return why_invalid(error)
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
