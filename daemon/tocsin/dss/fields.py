"""Reading DSS's JSON objects with tolerance: what is absent, null or of another type is None, never a crash."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from tocsin.dss.errors import DSSInvalidReply
from tocsin.dss.wire import Raw
from tocsin.kit.clock import from_ms


def text(raw: Raw, key: str) -> str | None:
    value = raw.get(key)
    return value if isinstance(value, str) else None


def needed(raw: Raw, key: str, of: str) -> str:
    """A text without which nothing can be done. Raises ``DSSInvalidReply``."""
    if not (value := text(raw, key)):
        raise DSSInvalidReply(f"a {of} without {key}", body=str(raw)[:200])
    return value


def moment(raw: Raw, key: str) -> datetime | None:
    """Epoch milliseconds as aware UTC; 0 means none."""
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return from_ms(int(value)) if value > 0 else None
    except (OverflowError, ValueError):  # beyond the calendar, infinite, not a number
        return None


def mapping(raw: Raw, key: str) -> Raw:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}


def objects(values: object) -> list[Raw]:
    """The objects of a list; of anything else nothing can be said."""
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def texts(values: object) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def with_id(items: Iterable[Any], key: str = "id") -> list[tuple[str, Raw]]:
    """The objects that say who they are, with their identifiers."""
    return [(found, item) for item in items if isinstance(item, dict) and (found := text(item, key))]
