"""Logging by structlog: JSON lines for machines, a console for people. Foreign loggers come out in the same form.

Our own lines go straight to the stream: a line a notification is written on the way of every delivery, and the
detour over ``logging`` would cost twice as much. Each package has its own level, which a reload may change.
"""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

# Not apprise: its channel listens to all that it says, and lets nothing of it out.
_QUIET = ("aiohttp.access", "alembic", "asyncio", "sqlalchemy", "mail.log")
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


class _Lines(structlog.WriteLogger):
    """Writes the lines of one package."""

    def __init__(self, stream: TextIO, name: str = "") -> None:
        super().__init__(stream)
        self.package = name.removeprefix("tocsin.").partition(".")[0]

    def msg(self, message: str) -> None:
        """A line that cannot be written (a closed pipe, a full disk) is lost; whoever wrote it goes on."""
        with suppress(OSError, ValueError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


_levels = _Levels()


def set_levels(level: str, levels: Mapping[str, str]) -> None:
    """From now on write lines of at least ``level``, or for the packages named in ``levels`` of their own."""
    _levels.set(level, levels)


def configure_logging(
    level: str, form: str, stream: TextIO | None = None, levels: Mapping[str, str] | None = None
) -> None:
    """Send log lines to ``stream`` (standard error); ``auto`` is a console on a terminal and JSON elsewhere."""
    to = stream or sys.stderr
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
        return made.get(name) or made.setdefault(name, _Lines(to, name))

    structlog.configure(
        processors=[*shared, *last],
        logger_factory=lines,
        wrapper_class=_levels,  # type: ignore[arg-type] # called with a logger, as a class would be
        cache_logger_on_first_use=False,  # a reload changes levels
    )
    handler = logging.StreamHandler(to)
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
