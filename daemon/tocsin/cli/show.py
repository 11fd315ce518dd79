"""What verbs print: tables for people, JSON for scripts, progress for those who wait.

A row is a mapping of Python values. As JSON it keeps all its keys: times become RFC 3339 in UTC, durations seconds,
and what is not known is null, never absent. Text from DSS never reaches a terminal with its control characters.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from shutil import get_terminal_size

from tocsin.cli.exits import one_line
from tocsin.kit.clock import human_duration, isoformat
from tocsin.kit.strings import json_text

Row = Mapping[str, object]
_COLOURS = {  # of a terminal, by the words of a cell
    **dict.fromkeys(("SUCCESS", "changed", "delivered", "resolved"), "32"),
    **dict.fromkeys(("WARNING", "would change", "warning", "pending", "sending"), "33"),
    **dict.fromkeys(("running", "info", "acknowledged", "suppressed"), "36"),
    **dict.fromkeys(("FAILED", "UNKNOWN", "failed", "critical", "firing", "dead"), "1;31"),
    **dict.fromkeys(("ABORTED", "not tried"), "35"),
}
_LEAST_WIDTH = 8  # of a column that is cut


def rows(items: Sequence[Row], columns: Sequence[str], *, as_json: bool = False) -> None:
    """Print a list. A column is a key, or ``heading=key`` where the heading is another."""
    if as_json:
        print_json(items)
    else:
        pairs = [column.partition("=")[::2] if "=" in column else (_heading(column), column) for column in columns]
        _print_table(
            [heading.upper() for heading, _ in pairs], [[cell(row.get(key)) for _, key in pairs] for row in items]
        )


def item(row: Row, *, hide: Iterable[str] = (), as_json: bool = False) -> None:
    """Print one row: its keys and values, as text without those to ``hide``."""
    if as_json:
        return print_json(row)
    cells = {_heading(key): cell(row[key]) for key in row if key not in hide}
    width = max(map(len, cells), default=0)
    for key, value in cells.items():
        print(f"{key:<{width}}  {value}".rstrip())
    return None


def print_json(value: object) -> None:
    def jsonable(part: object) -> object:
        if isinstance(part, datetime):
            return isoformat(part)
        if isinstance(part, timedelta):
            return part.total_seconds()
        raise TypeError(f"{type(part).__name__} is not JSON")

    print(json_text(value, jsonable))


def cell(value: object) -> str:
    """A value as people read it; times in this machine's zone."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime():
            return f"{value.astimezone():%Y-%m-%d %H:%M:%S}"
        case timedelta():
            return human_duration(value)
        case float():
            return f"{value:g}"
        case list() | tuple():
            return ", ".join(map(cell, value))
        case Mapping():
            return ", ".join(f"{one_line(str(key))}={cell(part)}" for key, part in value.items())
        case _:
            return one_line(str(value))


def _heading(key: str) -> str:
    return key.replace("_seconds", "").replace("_", " ")


def _print_table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """A line each. On a terminal the widest columns but the first are cut to its width, and words have colours."""
    widths = [max(map(len, column)) for column in zip(headings, *lines, strict=True)]
    terminal = sys.stdout.isatty()
    excess = sum(widths) + 2 * (len(widths) - 1) - get_terminal_size().columns if terminal else 0
    while excess > 0:
        widest = max(range(1, len(widths)), key=widths.__getitem__, default=0)
        if widest == 0 or widths[widest] <= _LEAST_WIDTH:
            break
        widths[widest] -= 1
        excess -= 1

    def padded(text: str, width: int) -> str:
        shown = text if len(text) <= width else f"{text[: width - 1]}…"
        colour = _COLOURS.get(text) if terminal else None
        coloured = f"\x1b[{colour}m{shown}\x1b[0m" if colour else shown
        return coloured + " " * (width - len(shown))

    for line in (headings, *lines):
        print("  ".join(map(padded, line, widths)).rstrip())


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """A turning wheel on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(one_line(what)), spinner="dots"):  # a text would be read as rich's markup
        yield


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error, if that is a terminal; call what it gives for each thing that is done."""
    if not sys.stderr.isatty() or total < 2:
        with spinner(what):
            yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
