"""Reading DSS's JSON objects with tolerance: what is absent, null or of another type is None or empty, never a crash."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, TypeVar

from tocsin.dss.errors import DSSInvalidReply
from tocsin.dss.wire import Raw
from tocsin.kit.clock import from_ms

T = TypeVar("T", covariant=True)
_LATEST_MS = 7_258_118_400_000  # 2200-01-01


class RawView:
    def __init__(self, data: Raw) -> None:
        self.data = data

    def get_raw(self) -> Raw:
        return self.data


class Field(Generic[T]):
    """An attribute that is read from an object's JSON: from the object itself, or from the part ``of`` it."""

    def __init__(self, read: Callable[[Raw, str], T], key: str, *, of: str | None = None) -> None:
        self._read = read
        self._key = key
        self._of = of

    def __get__(self, owner: Any, kind: type) -> T:
        raw: Raw = owner if isinstance(owner, dict) else owner.get_raw()
        return self._read(get_object(raw, self._of) if self._of else raw, self._key)


def get_text(raw: Raw, key: str) -> str | None:
    value = raw.get(key)
    return value if isinstance(value, str) else None


def require_text(raw: Raw, key: str, of: str) -> str:
    """A text without which nothing can be done. Raises ``DSSInvalidReply``."""
    if not (value := get_text(raw, key)):
        raise DSSInvalidReply(f"a {of} without {key}", body=str(raw)[:200])
    return value


def get_flag(raw: Raw, key: str) -> bool:
    return bool(raw.get(key))


def get_time(raw: Raw, key: str) -> datetime | None:
    """Epoch milliseconds as aware UTC; 0 means none. Beyond 2200 it is none either: near the end of the calendar no
    time could be added to it."""
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return from_ms(int(value)) if 0 < value < _LATEST_MS else None


def get_object(raw: Raw, key: str) -> Raw:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}


def only_objects(values: object) -> list[Raw]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def only_texts(values: object) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []
