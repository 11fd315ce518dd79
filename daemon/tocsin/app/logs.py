"""Logging by structlog: JSON lines for machines, a console for people. Foreign loggers come out in the same form."""

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_QUIET = ("aiohttp.access", "apprise", "alembic", "asyncio", "sqlalchemy", "mail.log")


def configure_logging(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send log lines to ``stream`` (standard error); ``auto`` is a console on a terminal and JSON elsewhere."""
    stream = stream or sys.stderr
    console = form == "console" or (form == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _plain_secrets_never,
    ]
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str, ensure_ascii=False)]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("tocsin").setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _plain_secrets_never(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """A last guard: values under names that say secret are masked, whoever wrote them."""
    for name in line:
        lowered = name.lower()
        if any(word in lowered for word in ("password", "secret", "api_key", "token", "authorization")):
            line[name] = "<secret>"
    return line
