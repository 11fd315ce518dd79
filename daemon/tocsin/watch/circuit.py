"""The circuit of one node: closed while it answers, open and probed while it does not.

One ``node.down`` with its reason and one ``node.up`` for each gap, over restarts too; then the backfill begins.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from math import inf

from tocsin import dss
from tocsin.kit.backoff import Backoff
from tocsin.model.event import DownReason, Event, EventName, node_event_id
from tocsin.watch.cadence import Rank
from tocsin.watch.queue import NextJob, Permit
from tocsin.watch.state import NodeState

_REPEATED = 3  # failures in a row that say something once no answer was good for so many seconds,
_SILENT = 5.0
_MANY = 8  # and failures in a row that no chance explains, however soon they came
_THROTTLED = 60.0  # seconds without a good answer after which being throttled is being down
_PROBE_PAUSE = Backoff(longest=60, factor=1.5)  # the probe sees the end after at most 1.5 times the outage


class Sign(Enum):
    """What an answer says about the node itself, when it names no reason to call it down."""

    ALIVE = auto()
    THROTTLED = auto()
    NOTHING = auto()


def read_sign(error: dss.DSSError | None, *, probe: bool) -> Sign | DownReason:
    """What an answer means for the node. ``probe``: it was asked for what every watch needs, the list of projects."""
    match error:
        case None:
            return Sign.ALIVE
        case dss.DSSThrottled():
            return Sign.THROTTLED
        case dss.DSSUnauthorized():
            return DownReason.UNAUTHORIZED
        case dss.DSSForbidden():
            return DownReason.FORBIDDEN if probe else Sign.NOTHING
        case dss.DSSNotFound() if error.error_type is not None and not probe:
            return Sign.ALIVE
        case dss.DSSInvalidReply() | dss.DSSNotFound():
            return DownReason.INVALID_REPLY
        case dss.DSSUnreachable() | dss.DSSServerError():
            return DownReason.UNREACHABLE
        case _:
            return DownReason.INVALID_REPLY if probe else Sign.NOTHING


@dataclass(slots=True)
class Health:
    """Whether a node can be watched at all, from the answers to its requests. Pure; times are monotonic seconds.

    It begins open: a good answer of the probe closes it. Failures with no success between them open it again: then
    only a probe is sent, at growing pauses, and when that fails too the node is down.
    """

    alive_at: float  # the last good answer, or the start
    open: bool = True
    failures: int = 0  # in a row, of all requests
    failed_probes: int = 0  # since it opened
    reason: DownReason | None = None
    problem: str | None = None

    @property
    def down(self) -> bool:
        return self.open and self.failures >= _REPEATED

    @property
    def pause(self) -> float:
        """Seconds between two probes. What else fails, or was in flight when the circuit opened, makes none longer."""
        return _PROBE_PAUSE.pause(max(1, self.failed_probes))

    def answered(self, sign: Sign | DownReason, problem: str | None, now: float, *, probe: bool = False) -> None:
        """Count an answer, of the probe or any other. Opens the circuit; only ``close`` closes it."""
        silent = now - self.alive_at
        if sign is Sign.ALIVE:
            self.alive_at = now
            self.failures = self.failures if self.open else 0
        if sign in (Sign.ALIVE, Sign.NOTHING) or (sign is Sign.THROTTLED and silent < _THROTTLED):
            return
        self.reason = sign if isinstance(sign, DownReason) else DownReason.UNREACHABLE
        self.problem = problem
        self.failures += 1
        self.failed_probes += self.open and probe
        if sign is DownReason.FORBIDDEN:  # without the right to list projects there is nothing to watch
            self.failures = max(self.failures, _MANY)
        self.open |= self.failures >= _MANY or (self.failures >= _REPEATED and silent >= _SILENT)

    def close(self, now: float) -> None:
        self.open, self.failures, self.failed_probes, self.reason, self.problem = False, 0, 0, None, None
        self.alive_at = now


class Circuit:
    """The only source of requests while the circuit is open: it runs ``probe``, which reads the list of projects."""

    def __init__(self, state: NodeState, probe: Callable[[Permit], Awaitable[None]]) -> None:
        self._state = state
        self._probe = probe
        self.health = Health(state.clock.monotonic())
        self._probed_at = -inf
        self._busy = False
        self._resumed = False
        self._logged_down = False

    def jobs(self, now: float) -> Iterable[NextJob]:
        return () if self._busy else (NextJob(Rank.SWEEP, self._probed_at + self.health.pause, self._start),)

    def _start(self, permit: Permit) -> Coroutine[object, object, None]:
        self._busy = True
        return self._run_probe(permit)

    async def _run_probe(self, permit: Permit) -> None:
        state, health = self._state, self.health
        try:
            await self._probe(permit)
            if not health.down:
                return
            state.drop_failures()
            cause = {"down_reason": health.reason and health.reason.value, "problem": health.problem}
            if not self._logged_down:
                self._logged_down = True
                state.log.error("node_down", reason=cause["down_reason"], problem=health.problem)
            if state.row.down_event_id is None:
                event = self._event(EventName.NODE_DOWN, health.reason)
                await state.save({"up": False, "down_since": event.time, "down_event_id": event.id, **cause}, event)
                state.deps.wake()
            elif state.row.down_reason != cause["down_reason"]:
                await state.save(cause)
        finally:
            self._busy = False
            self._probed_at = state.clock.monotonic()

    def answered(self, report: dss.RequestReport) -> bool:
        """Count an answer; returns whether it opened the circuit."""
        was_open, probe = self.health.open, report.operation == "list_projects"
        problem = str(report.error) if report.error else None
        self.health.answered(read_sign(report.error, probe=probe), problem, self._state.clock.monotonic(), probe=probe)
        return self.health.open and not was_open

    async def alive(self) -> None:
        """The list of projects was read: the node can be watched. After a gap a backfill begins."""
        state, row = self._state, self._state.row
        if not self.health.open:
            self._resumed = True
            return
        self.health.close(state.clock.monotonic())
        event = self._event(EventName.NODE_UP) if row.down_event_id is not None else None
        if event is not None or not self._resumed:
            self._logged_down = False
            if event is not None:
                state.log.info("node_up", was=row.down_reason)
            since = row.watched_since if row.last_ok_at else row.watched_since + state.dss_clock.offset
            changes = dict.fromkeys(("down_reason", "down_since", "down_event_id", "problem")) | {
                "up": True,
                "watched_since": since,
                "resumed_at": state.now(),
                "last_ok_at": state.clock.now(),
                "backfilling": True,
            }
            await state.save(changes, event)
            await state.schedule.backfill(state.schedule.scenarios.values())
            if event is not None:
                state.deps.wake()
        self._resumed = True

    def _event(self, name: EventName, reason: DownReason | None = None) -> Event:
        state, time = self._state, self._state.now()
        id_ = node_event_id(state.name, name, time)
        return Event(id_, name, state.name, time, detected_at=state.clock.now(), reason=reason)
