"""The log of a run or a job: kept as facts, written out in DSS's layout only when somebody reads it."""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from tocsin.kit.clock import from_ms, to_ms
from tocsin.sim.behaviour import Document

TAIL_LINES = 50


class SimLogLine(NamedTuple):
    """One line; ``step`` is the id of the step that wrote it, empty for the run itself."""

    at: int
    message: str
    logger: str
    level: str
    step: str


class SimLog:
    """Lines in the order in which they were written, all by one thread."""

    __slots__ = ("lines", "thread")

    def __init__(self, thread: str, lines: Iterable[SimLogLine] = ()) -> None:
        self.thread = thread
        self.lines = list(lines)

    def say(self, at: datetime, message: str, logger: str, level: str = "INFO", step: str = "") -> None:
        """Add a message, line by line."""
        moment = to_ms(at)
        self.lines.extend(SimLogLine(moment, line, logger, level, step) for line in message.splitlines() or [""])

    def written(self, zone: ZoneInfo, step: str | None = None) -> list[str]:
        """All lines, or those of one step, as they stand in DSS's files."""
        return [self._written(line, zone) for line in self.lines if step is None or line.step == step]

    def text(self, zone: ZoneInfo, step: str | None = None) -> str:
        return "".join(f"{line}\n" for line in self.written(zone, step))

    def tail(self, zone: ZoneInfo, step: str | None = None) -> Document:
        """The last lines, as report items carry them."""
        lines = self.written(zone, step)
        return {"totalLines": len(lines), "lines": lines[-TAIL_LINES:], "status": [0], "maxLevel": 0}

    def _written(self, line: SimLogLine, zone: ZoneInfo) -> str:
        local = from_ms(line.at).astimezone(zone)
        stamp = f"{local:%Y/%m/%d-%H:%M:%S}.{local.microsecond // 1000:03d}"
        return f"[{stamp}] [{self.thread}] [{line.level}] [{line.logger}]  - {line.message}"
