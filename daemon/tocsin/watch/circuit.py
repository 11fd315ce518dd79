"""The circuit of one node: closed while it answers, open and probed while it does not.

Promises one ``node.down`` with its reason and one ``node.up`` for each gap, over restarts too: what stands in the
node's row decides. The first good answer after a gap begins the backfill.
"""

from collections.abc import Awaitable, Callable, Coroutine
from math import inf

from tocsin.dss import RequestReport
from tocsin.model.event import DownReason, Event, EventName, node_event_id
from tocsin.watch.cadence import Rank
from tocsin.watch.health import Health, read_sign
from tocsin.watch.queue import NextJob, Permit
from tocsin.watch.state import NodeState


class Circuit:
    """The only source of requests while the circuit is open: it asks ``probe``, the list of projects."""

    def __init__(self, state: NodeState, probe: Callable[[Permit], Awaitable[None]]) -> None:
        self._state = state
        self._ask = probe
        self.health = Health(state.clock.monotonic())
        self._ended = -inf
        self._busy = False
        self._resumed = False
        self._told_down = False

    # --- the source --------------------------------------------------------------------------------------------------

    def offer(self, now: float) -> NextJob | None:
        return NextJob(Rank.SWEEP, now) if not self._busy and self.due_in(now) == inf else None

    def due_in(self, now: float) -> float:
        left = self._ended + self.health.pause - now
        return left if left > 0 else inf

    def take(self, now: float, permit: Permit) -> Coroutine[object, object, None]:
        self._busy = True
        return self._probe(permit)

    async def _probe(self, permit: Permit) -> None:
        try:
            await self._ask(permit)
            if self.health.down:
                await self._down()
        finally:
            self._busy = False
            self._ended = self._state.clock.monotonic()

    # --- answers -----------------------------------------------------------------------------------------------------

    def answered(self, report: RequestReport) -> bool:
        """Hear an answer; whether it opened the circuit."""
        was_open = self.health.open
        probe = report.operation == "list_projects"
        problem = str(report.error) if report.error else None
        self.health.answered(read_sign(report.error, probe=probe), problem, self._state.clock.monotonic(), probe=probe)
        return self.health.open and not was_open

    async def alive(self) -> None:
        """The list of projects was read: the node can be watched."""
        if self.health.open:
            self.health.close(self._state.clock.monotonic())
            if self._state.row.down_event_id is not None or not self._resumed:
                await self._resume()
        self._resumed = True

    async def _down(self) -> None:
        state, health = self._state, self.health
        reason = health.reason.value if health.reason else None
        state.forget_failures()
        if not self._told_down:
            self._told_down = True
            state.log.error("node_down", reason=reason, problem=health.problem)
        if state.row.down_event_id is not None:
            if state.row.down_reason != reason:
                await state.save({"down_reason": reason, "problem": health.problem})
            return
        event = self._event(EventName.NODE_DOWN, health.reason)
        told = {"down_reason": reason, "problem": health.problem}
        await state.save({"up": False, "down_since": event.time, "down_event_id": event.id, **told}, event)
        state.given.ring()

    async def _resume(self) -> None:
        """The watch begins or goes on after a gap: what happened in it is late, and is read back first."""
        state, row = self._state, self._state.row
        event = self._event(EventName.NODE_UP) if row.down_event_id is not None else None
        self._told_down = False
        if event is not None:
            state.log.info("node_up", was=row.down_reason)
        since = row.watched_since if row.last_ok_at else row.watched_since + state.dss_clock.offset
        nothing = dict.fromkeys(("down_reason", "down_since", "down_event_id", "problem"))
        began = {"watched_since": since, "resumed_at": state.now(), "last_ok_at": state.clock.now()}
        await state.save({"up": True, **nothing, **began}, event, backfill=True)
        await state.schedule.wake(state.schedule.watched.values())
        if event is not None:
            state.given.ring()

    def _event(self, name: EventName, reason: DownReason | None = None) -> Event:
        state, time = self._state, self._state.now()
        id_ = node_event_id(state.name, name, time)
        return Event(id_, name, state.name, time, detected_at=state.clock.now(), reason=reason)
