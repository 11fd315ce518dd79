"""Logging by structlog: JSON lines for machines, a console for people. Foreign loggers come out in the same form.

Our own lines do not pass ``logging``: one is written for every delivery, and the detour would cost twice as much.
Each package has its own level, which a reload may change.

Whoever logs never waits for the reader of the log. Lines pass a bounded queue to a thread that writes them; when
nobody reads (a full pipe, a stopped terminal) the queue fills up and further lines are dropped, counted, and
reported by one line once there is room.
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
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

# Not apprise: its channel listens to all that it says, and lets nothing of it out.
_QUIET = ("aiohttp.access", "alembic", "asyncio", "sqlalchemy", "mail.log")
_LONGEST_QUEUE: Final = 4_000_000  # characters, some ten thousand lines
_GATHER_SECONDS: Final = 0.005
LAST_LINES_SECONDS: Final = 2.0  # how long the end of the process waits for whoever reads the log
_SECRET = ("password", "secret", "api_key", "token", "authorization")


class _Levels:
    """The level of each package of Tocsin: the second part of a logger's name."""

    def __init__(self) -> None:
        self.set("info", {})

    def set(self, level: str, levels: Mapping[str, str]) -> None:
        self._default: Callable[..., FilteringBoundLogger] = structlog.make_filtering_bound_logger(level)
        self._of: dict[str, Callable[..., FilteringBoundLogger]] = {
            package: structlog.make_filtering_bound_logger(its) for package, its in levels.items()
        }

    def __call__(self, logger: "_Lines", **more: Any) -> FilteringBoundLogger:
        return self._of.get(logger.package, self._default)(logger, **more)


class LogQueue:
    """Lines on their way to a stream, in the order of ``write``. Safe to use from any thread, and from destructors."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._lock = threading.RLock()  # re-entrant: the garbage collector may run a destructor that logs
        self._lines: list[str | threading.Event] = []  # and those who wait for all before them
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()  # whether to go on
        self._woken = False
        self._waiting = 0  # characters in the queue and on their way to the stream
        self._unreported = 0
        self.dropped = 0  # lines since the start
        threading.Thread(target=self._run, name="tocsin log", daemon=True).start()

    def write(self, line: str) -> None:
        """Take a line, or count it as dropped when too much waits already. Never blocks."""
        with self._lock:
            if self._waiting + len(line) > _LONGEST_QUEUE:
                self._drop(1)
                return
            self._waiting += len(line)
            self._take(line)

    def flush(self) -> None:
        """Nothing; a stream must have it. ``drain`` waits."""

    def drain(self, seconds: float) -> bool:
        """Wait until all lines so far are written, at most so long; whether they are."""
        written = threading.Event()
        with self._lock:
            self._take(written)
        return written.wait(seconds)

    def close(self) -> None:
        """Let the thread end once it has written what waits."""
        self._wake.put(False)

    def _take(self, item: str | threading.Event) -> None:
        self._lines.append(item)
        if not self._woken:  # else it takes this one along
            self._woken = True
            self._wake.put(True)

    def _drop(self, lines: int) -> None:
        with self._lock:
            self.dropped += lines
            self._unreported += lines

    def _run(self) -> None:
        going_on = True
        while going_on:
            going_on = self._wake.get()
            time.sleep(_GATHER_SECONDS)  # a thread that wakes for each line costs more than the lines
            with self._lock:
                items, self._lines, self._woken = self._lines, [], False
            lines: list[str] = []
            for item in items:
                if isinstance(item, str):
                    lines.append(item)
                    continue
                self._write_all(lines)
                lines = []
                item.set()
            self._write_all(lines)

    def _write_all(self, lines: list[str]) -> None:
        if not lines:
            return
        text, report = "".join(lines), 0
        try:
            self._write(text)
        except (OSError, ValueError):  # a closed pipe, a full disk: these lines are lost, the next may not be
            self._drop(len(lines))
        else:
            report = self._to_report(len(text))
        with self._lock:
            self._waiting -= len(text)
        if report:
            log.error("log_lines_dropped", count=report, reason="nobody read the log, or it could not be written")

    def _to_report(self, written: int) -> int:
        """How many lines to report as dropped, now that one could be written: none before there is ample room."""
        with self._lock:
            if self._waiting - written > _LONGEST_QUEUE // 2:
                return 0
            report, self._unreported = self._unreported, 0
            return report


class _Lines:
    """Writes the lines of one package."""

    def __init__(self, lines: LogQueue, name: str = "") -> None:
        self._write = lines.write
        self.package = name.removeprefix("tocsin.").partition(".")[0]

    def msg(self, message: str) -> None:
        self._write(message + "\n")

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


log = structlog.get_logger("tocsin.app.logs")
_levels = _Levels()
_queue: LogQueue | None = None  # of the last configure_logging; the log is one for the whole process


def dropped_lines() -> int:
    """How many lines of this process's log were dropped since the start."""
    return _queue.dropped if _queue else 0


def drain_log(seconds: float) -> bool:
    """Wait until the log is written, at most so long; whether it is."""
    return _queue is None or _queue.drain(seconds)


def set_levels(level: str, levels: Mapping[str, str]) -> None:
    """From now on write lines of at least ``level``, or for the packages named in ``levels`` of their own."""
    _levels.set(level, levels)


def configure_logging(
    level: str, form: str, stream: TextIO | None = None, levels: Mapping[str, str] | None = None
) -> None:
    """Send log lines to ``stream`` (standard error); ``auto`` is a console on a terminal and JSON elsewhere."""
    global _queue
    to = stream or sys.stderr
    if _queue is not None:
        atexit.unregister(_queue.drain)
        _queue.close()
    waiting = _queue = LogQueue(_writer(to))
    atexit.register(waiting.drain, LAST_LINES_SECONDS)
    console = form == "console" or (form == "auto" and to.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _plain_secrets_never,
        _plain_text,
    ]
    encode = json.JSONEncoder(default=str, ensure_ascii=False).encode
    last: list[Processor] = (
        # Plain tracebacks: the default shows the variables of each frame, and some of them are secrets.
        [structlog.dev.ConsoleRenderer(colors=to.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [structlog.processors.format_exc_info, lambda _logger, _method, line: encode(line)]
    )
    set_levels(level, levels or {})
    made: dict[str, _Lines] = {}

    def lines(name: str = "") -> _Lines:
        return made.get(name) or made.setdefault(name, _Lines(waiting, name))

    structlog.configure(
        processors=[*shared, *last],
        logger_factory=lines,
        wrapper_class=_levels,  # type: ignore[arg-type] # called with a logger, as a class would be
        cache_logger_on_first_use=False,  # a reload changes levels
    )
    handler = logging.StreamHandler(waiting)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # whoever sends what is no HTTP fills no log


def _writer(stream: TextIO) -> Callable[[str], None]:
    """How to write to a stream. A file is written without its buffer, whose lock would be held while a pipe is full."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # a stream in memory

        def write_text(line: str) -> None:
            stream.write(line)
            stream.flush()

        return write_text
    encoding = stream.encoding or "utf-8"

    def write_bytes(line: str) -> None:
        left = memoryview(line.encode(encoding, "backslashreplace"))
        while left:
            try:
                left = left[os.write(number, left) :]
            except BlockingIOError:  # whoever started us made it non-blocking
                select.select([], [number], [])

    return write_bytes


def log_what_python_says() -> None:
    """Send warnings, and errors in threads and destructors, to the log: Python would write them to a standard error
    that nobody may read."""
    logging.captureWarnings(True)
    sys.unraisablehook = _unraisable
    threading.excepthook = _thread_ended


def _unraisable(failed: "sys.UnraisableHookArgs") -> None:
    # Not the object: its repr is called in the middle of its destruction.
    log.error("error_in_destructor", reason=failed.err_msg, exc_info=failed.exc_value)


def _thread_ended(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None and not isinstance(failed.exc_value, SystemExit):
        log.error("thread_ended", thread=failed.thread.name if failed.thread else None, exc_info=failed.exc_value)


def _plain_secrets_never(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """A last guard: values under names that say secret are masked, whoever wrote them."""
    for name in line:
        if name not in _SEEN_PLAIN:
            if any(word in name.lower() for word in _SECRET):
                line[name] = "<secret>"
            elif len(_SEEN_PLAIN) < 1_000:
                _SEEN_PLAIN.add(name)
    return line


_SEEN_PLAIN: set[str] = set()  # names that say nothing of the kind; there are few and they come back in every line


def _plain_text(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Names from DSS forge no line and turn none round: what is not printable is shown as its escape."""
    for name, value in line.items():
        if isinstance(value, str) and not value.isprintable():
            line[name] = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in value)
    return line
