"""Logging by structlog: JSON lines for machines, a console for people. Foreign loggers come out in the same form.

Our own lines do not pass ``logging``: one is written for every delivery, and the detour would cost twice as much.
Logging never waits for the reader of the log: lines pass a bounded queue to a thread that writes them.
"""

import atexit
import json
import logging
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache, partial
from typing import Any, Final, NamedTuple, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from tocsin.kit.clock import SystemClock, isoformat
from tocsin.kit.lines import Line, set_line_writer
from tocsin.kit.mask import where

# Not apprise: its channel listens to all that it says, and lets nothing of it out.
_QUIET = ("aiohttp.access", "alembic", "asyncio", "sqlalchemy", "mail.log")
_LONGEST_QUEUE: Final = 4_000_000  # characters, some ten thousand lines
_GATHER_SECONDS: Final = 0.005
_USUAL_LINE: Final = 400  # characters
LAST_LINES_SECONDS: Final = 2.0  # how long the end of the process waits for whoever reads the log
_SECRET = ("password", "secret", "api_key", "token", "authorization")
_LEVELS = logging.getLevelNamesMapping()


class _Later(NamedTuple):
    """Lines that the thread makes."""

    make: Callable[[], str]
    lines: int

    @property
    def size(self) -> int:
        return self.lines * _USUAL_LINE


class LogQueue:
    """Lines on their way to a stream, in the order of ``write``. Safe to use from any thread, and from destructors.

    When nobody reads (a full pipe, a stopped terminal) further lines are dropped, counted, and reported by one line
    once there is room.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._lock = threading.RLock()  # re-entrant: the garbage collector may run a destructor that logs
        # An event is set once all lines before it are written; None ends the thread.
        self._items: queue.SimpleQueue[str | _Later | threading.Event | None] = queue.SimpleQueue()
        self._queued = 0  # characters in the queue and on their way to the stream
        self._unreported = 0
        self.dropped = 0  # lines since the start
        threading.Thread(target=self._run, name="tocsin log", daemon=True).start()

    def write(self, line: str) -> None:
        """Take a line, or count it as dropped when the queue is full. Never blocks."""
        self._put(line, len(line), 1)

    def write_later(self, make: Callable[[], str], count: int) -> None:
        """As ``write``, for about ``count`` lines that this queue's thread makes."""
        later = _Later(make, count)
        self._put(later, later.size, count)

    def _put(self, item: str | _Later, size: int, count: int) -> None:
        with self._lock:
            if self._queued + size > _LONGEST_QUEUE:
                self.dropped += count
                self._unreported += count
            else:
                self._queued += size
                self._items.put(item)

    def flush(self) -> None:
        """Nothing; a stream must have it. ``drain`` waits."""

    def drain(self, seconds: float) -> bool:
        """Wait at most so long until all lines so far are written; whether they are."""
        written = threading.Event()
        self._items.put(written)
        return written.wait(seconds)

    def close(self) -> None:
        """Let the thread end once it has written what is queued."""
        self._items.put(None)

    def _run(self) -> None:
        items: list[str | _Later | threading.Event | None] = []
        while None not in items:
            items = [self._items.get()]
            time.sleep(_GATHER_SECONDS)  # a thread that wakes for each line costs more than the lines
            items += [self._items.get() for _ in range(self._items.qsize())]
            if lines := [item for item in items if isinstance(item, str | _Later)]:
                self._write_all(lines)
            for item in items:
                if isinstance(item, threading.Event):
                    item.set()

    def _write_all(self, lines: list[str | _Later]) -> None:
        report = lost = 0
        try:
            self._write("".join(line if isinstance(line, str) else line.make() for line in lines))
        except (OSError, ValueError):  # a closed pipe, a full disk: these lines are lost, the next may not be
            lost = sum(1 if isinstance(line, str) else line.lines for line in lines)
        with self._lock:
            self._queued -= sum(len(line) if isinstance(line, str) else line.size for line in lines)
            self.dropped += lost
            self._unreported += lost
            if not lost and self._queued <= _LONGEST_QUEUE // 2:  # there is ample room again
                report, self._unreported = self._unreported, 0
        if report:
            log.error("log_lines_dropped", count=report, reason="nobody read the log, or it could not be written")


class _PackageLogger:
    """Writes the lines of one package; a filtering bound logger calls no other methods."""

    def __init__(self, lines: LogQueue, name: str = "") -> None:
        self._write = lines.write
        self.package = name.removeprefix("tocsin.").partition(".")[0]

    def msg(self, message: str) -> None:
        self._write(message + "\n")

    debug = info = warning = error = critical = msg


log = structlog.get_logger("tocsin.app.logs")
_queue: LogQueue | None = None  # of the last configure_logging; the log is one for the whole process
_package_levels: dict[str, int] = {}
_default_level = logging.INFO


def dropped_lines() -> int:
    """How many lines of this process's log were dropped since the start."""
    return _queue.dropped if _queue else 0


def drain_log(seconds: float) -> bool:
    """Wait at most so long until the log is written; whether it is."""
    return _queue is None or _queue.drain(seconds)


def set_levels(level: str, levels: Mapping[str, str]) -> None:
    """From now on write lines of at least ``level``, or of the level of their package in ``levels``."""
    global _default_level, _package_levels
    _default_level = _LEVELS[level.upper()]
    _package_levels = {package: _LEVELS[name.upper()] for package, name in levels.items()}


def _bound_logger(logger: _PackageLogger, *args: Any, **more: Any) -> FilteringBoundLogger:
    """What is below the level of the logger's package costs nothing."""
    make: Callable[..., FilteringBoundLogger] = structlog.make_filtering_bound_logger(
        _package_levels.get(logger.package, _default_level)
    )
    return make(logger, *args, **more)


def configure_logging(
    level: str, form: str, stream: TextIO | None = None, levels: Mapping[str, str] | None = None
) -> None:
    """Send log lines to ``stream`` (standard error); ``auto`` is a console on a terminal and JSON elsewhere."""
    global _queue
    target = stream or sys.stderr
    if _queue is not None:
        atexit.unregister(_queue.drain)
        _queue.close()
    lines = _queue = LogQueue(_writer(target))
    atexit.register(lines.drain, LAST_LINES_SECONDS)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _mask_and_escape,
    ]
    if form == "console" or (form == "auto" and target.isatty()):
        # Plain tracebacks: the default shows the variables of each frame, and some of them are secrets.
        plain = structlog.dev.plain_traceback
        last: list[Processor] = [structlog.dev.ConsoleRenderer(colors=target.isatty(), exception_formatter=plain)]
        render: Callable[[EventDict], str] = partial(_render_console, last[0])
    else:
        encode = json.JSONEncoder(default=str, ensure_ascii=False).encode
        render = partial(_render_json, encode)
        last = [structlog.processors.format_exc_info, lambda _logger, _method, line: encode(line)]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=_bound_logger,  # type: ignore[arg-type] # called like a class
        logger_factory=cache(partial(_PackageLogger, lines)),
        cache_logger_on_first_use=False,  # a reload changes levels
    )
    set_levels(level, levels or {})

    def write_many(package: str, level: str, make: Callable[[], Iterable[Line]], count: int) -> None:
        if _LEVELS[level.upper()] >= _package_levels.get(package, _default_level):
            at = isoformat(SystemClock().now())
            lines.write_later(partial(_render_lines, render, make, {"level": level, "timestamp": at}), count)

    set_line_writer(write_many)
    handler = logging.StreamHandler(lines)
    formatter = structlog.stdlib.ProcessorFormatter
    handler.setFormatter(formatter(foreign_pre_chain=shared, processors=[formatter.remove_processors_meta, *last]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # of a lost connection its user has the error
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # requests that are not HTTP do not fill the log


def _render_lines(render: Callable[[EventDict], str], make: Callable[[], Iterable[Line]], more: Line) -> str:
    try:
        return "".join(f"{render({**line, **more})}\n" for line in make())
    except Exception as error:  # noqa: BLE001 - these lines are lost, the thread goes on
        log.error("log_lines_failed", error=type(error).__name__, at=where(error))
        return ""


def _render_json(encode: Callable[[EventDict], str], line: EventDict) -> str:
    text = msgspec.json.encode(line, enc_hook=str).decode()
    return text if text.isprintable() else encode(_mask_and_escape(None, "", line))


def _render_console(renderer: Processor, line: EventDict) -> str:
    return str(renderer(None, line["level"], _mask_and_escape(None, "", line)))


def _writer(stream: TextIO) -> Callable[[str], object]:
    """How to write to a stream. A file is written without its buffer, whose lock would be held while a pipe is full."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # a stream in memory
        return lambda text: stream.write(text) and stream.flush()
    encoding = stream.encoding or "utf-8"

    def write_bytes(text: str) -> None:
        rest = memoryview(text.encode(encoding, "backslashreplace"))
        while rest:
            try:
                rest = rest[os.write(number, rest) :]
            except BlockingIOError:  # the parent process made it non-blocking
                select.select([], [number], [])

    return write_bytes


def log_python_errors() -> None:
    """Send warnings, and errors in threads and destructors, to the log: Python would write them to a standard error
    that nobody may read."""

    def on_unraisable(error: "sys.UnraisableHookArgs") -> None:
        # Not the object: its repr would be called in the middle of its destruction.
        log.error("error_in_destructor", reason=error.err_msg, exc_info=error.exc_value)

    def on_thread_error(error: threading.ExceptHookArgs) -> None:
        if error.exc_value is not None and not isinstance(error.exc_value, SystemExit):
            log.error("thread_ended", thread=error.thread.name if error.thread else None, exc_info=error.exc_value)

    logging.captureWarnings(True)
    sys.unraisablehook = on_unraisable
    threading.excepthook = on_thread_error


@lru_cache(maxsize=1_000)
def _is_secret(key: str) -> bool:
    return any(word in key.lower() for word in _SECRET)


def _mask_and_escape(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """A last guard: values under names that say secret are masked, and names from DSS can neither forge a line nor
    reverse its direction."""
    for name, value in line.items():
        if _is_secret(name):
            line[name] = "<secret>"
        elif isinstance(value, str) and not value.isprintable():
            line[name] = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in value)
    return line
