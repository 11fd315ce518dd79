"""Log lines by the hundred: their facts are handed over as they are, and the thread that writes the log makes the lines."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

Line = Mapping[str, object]  # ``event`` is its message


class LineWriter(Protocol):
    def __call__(self, package: str, level: str, make: Callable[[], Iterable[Line]], count: int) -> None: ...


def _write_nothing(package: str, level: str, make: Callable[[], Iterable[Line]], count: int) -> None:
    """Nobody configured the log yet."""


_writer: LineWriter = _write_nothing


def set_line_writer(writer: LineWriter) -> None:
    global _writer
    _writer = writer


def write_lines(package: str, level: str, make: Callable[[], Iterable[Line]], count: int = 1) -> None:
    """Log what ``make`` returns, about ``count`` lines, in the name of a package of Tocsin's. ``make`` is called on another
    thread, or never when that package's level is higher; what it reads must not change any more."""
    _writer(package, level, make, count)
