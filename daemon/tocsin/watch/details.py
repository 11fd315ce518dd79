"""Details: what is read about a run after its end, into rows of their own: first error, steps, job ids, log tail.

Promises that each run whose details are owed gets a row, even if it only says what could not be read: a notification
that waits for it is never kept waiting for nothing.
"""

from collections.abc import Coroutine
from dataclasses import dataclass, replace
from datetime import timedelta
from heapq import heappop, heappush
from math import inf

from sqlalchemy import Connection

from tocsin.dss import DSSClient, DSSError, DSSNotFound, wire
from tocsin.dss.fields import get_object
from tocsin.model.run import Details, DetailsLevel, RunKey
from tocsin.store import runs
from tocsin.watch.cadence import Rank, Reason
from tocsin.watch.queue import NextJob, Permit
from tocsin.watch.read import clean, read_details, read_failed_reporters
from tocsin.watch.state import NodeState

_TRIES = 6
_LOADED = 10_000
_LOG_BYTES = 64 * 1024


@dataclass(slots=True, eq=False)
class _Owed:
    run: RunKey
    log: bool
    tries: int = 0


class DetailsReader:
    """The source of reads of run details."""

    def __init__(self, state: NodeState, client: DSSClient) -> None:
        self._state = state
        self._client = client
        self._heap: list[tuple[float, int, _Owed]] = []
        self._pushed = 0

    async def load(self) -> None:
        """Take up what an earlier life left unread."""
        for row in await self._state.read(runs.details_due, self._state.name, _LOADED):
            self._push(_Owed(row.run.key, log=True, tries=row.details_tries), 0.0)  # for what is not stored

    def owe(self, run: RunKey, level: DetailsLevel) -> None:
        self._push(_Owed(run, log=level is DetailsLevel.LOG), self._state.clock.monotonic())

    def offer(self, now: float) -> NextJob | None:
        return NextJob(Rank.DETAILS, self._heap[0][0]) if self._heap and self._heap[0][0] <= now else None

    def due_in(self, now: float) -> float:
        return self._heap[0][0] - now if self._heap and self._heap[0][0] > now else inf

    def take(self, now: float, permit: Permit) -> Coroutine[object, object, None]:
        _, _, owed = heappop(self._heap)
        return self._read(owed, permit)

    def _push(self, owed: _Owed, due: float) -> None:
        self._pushed += 1
        heappush(self._heap, (due, self._pushed, owed))

    async def _read(self, owed: _Owed, permit: Permit) -> None:
        state, run = self._state, owed.run
        _, project, scenario = run.scenario
        owed.tries += 1
        try:
            raw = await permit.ask(lambda: self._client.perform(wire.get_run(project, scenario, run.run_id)))
            read = read_details(raw, run, state.clock.now())
            if read.problem is None and owed.log:
                read = await self._with_log(read, permit)
        except (DSSError, ValueError) as error:  # DSS may use ids that no path can hold
            await self._failed(owed, error)
            return
        await state.write(_write, read, owed.tries)
        state.given.details_read()
        one = state.schedule.watched.get(run.scenario)
        if one is not None and read_failed_reporters(get_object(raw, "scenarioRun")):
            state.schedule.nudge(one, Reason.RECENT)  # reporters may fail only after the poll that saw the end

    async def _with_log(self, read: Details, permit: Permit) -> Details:
        """The end of the run's log; where DSS has none to give, the lines attached to the failed step serve."""
        _, project, scenario = read.run.scenario
        request = wire.get_run_log(project, scenario, read.run.run_id, tail=_LOG_BYTES)
        try:
            log = await permit.ask(lambda: self._client.perform(request))
        except DSSError as error:
            if error.transient:
                raise
            return read
        return replace(read, log_tail=clean(log, _LOG_BYTES)) if log.strip() else read

    async def _failed(self, owed: _Owed, error: DSSError | ValueError) -> None:
        state = self._state
        if owed.tries < _TRIES and not isinstance(error, DSSNotFound):
            pause = 2.0**owed.tries
            due_at = state.clock.now() + timedelta(seconds=pause)
            await state.write(runs.plan_details, owed.run, due_at, owed.tries)
            self._push(owed, state.clock.monotonic() + pause)
            return
        _, project, scenario = owed.run.scenario
        state.failed("details_failed", error, project=project, scenario=scenario, run=owed.run.run_id)
        problem = Details(owed.run, state.clock.now(), problem=str(error))
        await state.write(_write, problem, owed.tries)
        state.given.details_read()


def _write(connection: Connection, read: Details, tries: int) -> None:
    runs.put_details(connection, read)
    runs.plan_details(connection, read.run, None, tries)
