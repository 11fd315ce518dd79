"""Whether a node can be watched at all, from the answers to its requests. Pure.

Failures with no success between them open the circuit: then only a probe is sent, at growing pauses, and when that
fails too the node is down. One scenario that always fails opens nothing as long as others answer, nor do errors that
are sprinkled at random: a few failures in a row mean something only if nothing was answered well for seconds.
"""

from dataclasses import dataclass
from enum import Enum, auto

from tocsin.dss import (
    DSSError,
    DSSForbidden,
    DSSInvalidReply,
    DSSNotFound,
    DSSServerError,
    DSSThrottled,
    DSSUnauthorized,
    DSSUnreachable,
)
from tocsin.model.event import DownReason

REPEATED = 3
"""Failures in a row that say something once no answer was good for ``_SILENT``,"""
_SILENT = 5.0
_MANY = 8  # and failures in a row that no chance explains, however soon they came
_THROTTLED = 60.0  # seconds without a good answer after which being throttled is being down
_FIRST_PAUSE = 1.0
_PAUSE_GROWTH = 1.5  # an outage is over for at most half of its length when the probe sees that
_LONGEST_PAUSE = 60.0


class Sign(Enum):
    """What an answer says about the node itself, when it names no reason to call it down."""

    ALIVE = auto()
    THROTTLED = auto()
    NOTHING = auto()


def read_sign(error: DSSError | None, *, probe: bool) -> Sign | DownReason:
    """What an answer means for the node. ``probe``: it was asked for what every watch needs, the list of projects."""
    match error:
        case None:
            return Sign.ALIVE
        case DSSThrottled():
            return Sign.THROTTLED
        case DSSUnreachable():
            return DownReason.UNREACHABLE
        case DSSUnauthorized():
            return DownReason.UNAUTHORIZED
        case DSSForbidden():
            return DownReason.FORBIDDEN if probe else Sign.NOTHING
        case DSSInvalidReply():
            return DownReason.INVALID_REPLY
        case DSSNotFound():
            return Sign.ALIVE if error.error_type is not None and not probe else DownReason.INVALID_REPLY
        case DSSServerError():
            return DownReason.UNREACHABLE
        case _:
            return DownReason.INVALID_REPLY if probe else Sign.NOTHING


@dataclass(slots=True)
class Health:
    """The circuit of one node. It begins open: the first answer of the probe closes it. Times are monotonic seconds."""

    alive_at: float  # the last good answer, or the start
    open: bool = True
    failures: int = 0  # in a row, of all requests
    failed_probes: int = 0  # since it opened
    reason: DownReason | None = None
    problem: str | None = None

    @property
    def down(self) -> bool:
        """Whether the failures are enough to say so."""
        return self.open and self.failures >= REPEATED

    @property
    def pause(self) -> float:
        """Seconds between two probes. What else fails, or was in flight when the circuit opened, makes none longer."""
        return min(_FIRST_PAUSE * _PAUSE_GROWTH ** min(max(0, self.failed_probes - 1), 20), _LONGEST_PAUSE)

    def answered(self, sign: Sign | DownReason, problem: str | None, now: float, *, probe: bool = False) -> None:
        """Count an answer, of the probe or any other. Opens the circuit; only ``close`` closes it."""
        silent = now - self.alive_at
        match sign:
            case Sign.NOTHING:
                return
            case Sign.ALIVE:
                self.alive_at = now
                self.failures = 0 if not self.open else self.failures
                return
            case Sign.THROTTLED if silent < _THROTTLED:
                return
            case Sign.THROTTLED:
                self.reason = DownReason.UNREACHABLE
            case _:
                self.reason = sign
        self.problem = problem
        self.failures += 1
        self.failed_probes += self.open and probe
        if sign is DownReason.FORBIDDEN:  # without the right to list projects there is nothing to watch
            self.failures = max(self.failures, _MANY)
        self.open |= self.failures >= _MANY or (self.failures >= REPEATED and silent >= _SILENT)

    def close(self, now: float) -> None:
        """The probe was answered well."""
        self.open, self.failures, self.failed_probes, self.reason, self.problem = False, 0, 0, None, None
        self.alive_at = now
