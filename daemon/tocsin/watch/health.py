"""Whether a node can be watched at all, from the answers to its requests. Pure.

Repeated failures with no success between them open the circuit: then only a probe is sent, at growing pauses, and when
that fails too the node is down. One scenario that always fails opens nothing as long as others answer.
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
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0


class Sign(Enum):
    """What an answer says about the node itself, when it names no reason to call it down."""

    ALIVE = auto()
    NOTHING = auto()


def read_sign(error: DSSError | None, *, probe: bool) -> Sign | DownReason:
    """What an answer means for the node. ``probe``: it was asked for what every watch needs, the list of projects."""
    match error:
        case None:
            return Sign.ALIVE
        case DSSThrottled():
            return Sign.NOTHING
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
    """The circuit of one node. It begins open: the first answer of the probe closes it."""

    open: bool = True
    failures: int = 0  # in a row, of all requests
    reason: DownReason | None = None
    problem: str | None = None

    @property
    def down(self) -> bool:
        """Whether the failures are enough to say so."""
        return self.open and self.failures > 0 and self.failures >= REPEATED

    @property
    def pause(self) -> float:
        """Seconds between two probes."""
        return min(_FIRST_PAUSE * 2.0 ** min(max(0, self.failures - REPEATED), 10), _LONGEST_PAUSE)

    def answered(self, sign: Sign | DownReason, problem: str | None) -> None:
        """Hear what an answer said. Opens the circuit; only ``close`` closes it."""
        match sign:
            case Sign.ALIVE:
                self.failures = 0 if not self.open else self.failures
            case Sign.NOTHING:
                pass
            case _:
                # Without the right to list projects there is nothing to watch: no need to see that repeated.
                self.failures = max(self.failures + 1, REPEATED if sign is DownReason.FORBIDDEN else 0)
                self.reason, self.problem = sign, problem
                self.open = self.open or self.failures >= REPEATED

    def close(self) -> None:
        """The probe was answered well."""
        self.open, self.failures, self.reason, self.problem = False, 0, None, None
