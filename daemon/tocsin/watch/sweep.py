"""The sweep: one request that lists everything that runs now on a node. A hint, never a fact.

A difference from what polls say nudges that scenario until a poll explains it. A run longer than three sweeps that only
a poll saw (a key without admin rights, a node that lists no futures) ends the trust; a sweep that shows every run known
to be running brings it back.
"""

from collections import deque
from collections.abc import Collection, Coroutine, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from statistics import median_low

from tocsin.dss import DSSClient, DSSError, DSSForbidden, DSSUnauthorized
from tocsin.kit.clock import to_ms
from tocsin.model.run import ScenarioKey
from tocsin.watch.cadence import Rank, Reason
from tocsin.watch.diff import Poll
from tocsin.watch.discovery import Discovery
from tocsin.watch.queue import NextJob, Permit
from tocsin.watch.read import read_running
from tocsin.watch.state import NodeState

_SHARE = 0.5  # of the budget, at most
_STRETCH = 4.0  # a node that answers in t seconds is swept every 4 t at most,
_SPEED_OF = 3  # and t is the median of so many sweeps: one that hangs makes the next ones no rarer
_RETRY_EVERY = 3600.0  # seconds between two trials of a sweep that is not trusted;
_NOTHING_RAN = 60.0  # one that nothing could confirm is repeated so soon
_FAILURES = 5  # so many sweeps in a row may fail before the lists take over; a dead node shows sooner
_FRESH = 30.0  # seconds for which a poll says what runs now
_MISSED = 3  # a run that lasted for so many sweeps must be in one of them
_CLOCKS = 2.0  # seconds that two clocks may disagree


@dataclass(frozen=True, slots=True)
class SweepSeries:
    """The unbroken row of sweeps until now, in seconds of one clock; ``interval`` is the one that really was kept."""

    since: float
    until: float
    interval: float

    def contradicts(self, start: float, end: float, swept_at: float | None) -> bool:
        """Whether a run from ``start`` to ``end`` (or until now) should have been in a sweep and was in none;
        ``swept_at``: when its scenario was in one last."""
        if swept_at is not None and swept_at >= start - _CLOCKS:
            return False
        return min(end - _CLOCKS, self.until) - max(start + _CLOCKS, self.since) > _MISSED * self.interval


def confirms(swept: Collection[tuple[str, str]], running: Collection[tuple[str, str]]) -> bool:
    """Whether a sweep on trial shows all that is known to run, and that is something."""
    return bool(running) and set(running) <= set(swept)


class Sweep:
    """The source of sweeps, with a client of its own. While they are not trusted, project lists say what runs."""

    def __init__(self, state: NodeState, client: DSSClient, discovery: Discovery) -> None:
        self._state = state
        self._client = client
        self._discovery = discovery
        self._doubted = not state.row.sweep_trusted  # it was refused, or showed too little; it did not merely fail
        self.swept_at: datetime | None = None
        self._due = 0.0
        self._trial_pause = _RETRY_EVERY
        self._busy = False
        self._took: deque[float] = deque([0.0], maxlen=_SPEED_OF)
        self._last: float | None = None
        self._since: float | None = None
        self._seen: dict[tuple[str, str], float] = {}  # when each scenario was in a sweep last
        self._failures = 0

    @property
    def trusted(self) -> bool:
        return self._state.row.sweep_trusted

    @property
    def interval(self) -> float:
        """Seconds between two sweeps: longer when the node is slow or the budget is small."""
        configured = self._state.node.watch.sweep_interval.total_seconds()
        return max(configured, _STRETCH * median_low(self._took), 1 / (_SHARE * self._state.budget.limit))

    def jobs(self, now: float) -> Iterable[NextJob]:
        return () if self._busy else (NextJob(Rank.SWEEP, self._due, self._start),)

    def _start(self, permit: Permit) -> Coroutine[object, object, None]:
        self._busy = True
        return self._sweep(permit)

    async def _sweep(self, permit: Permit) -> None:
        clock, due = self._state.clock, self._due
        begun = clock.monotonic()
        try:
            raw = await permit.ask(partial(self._client.list_running_scenarios_raw, all_users=True))
        except DSSError as error:
            # Without the right to see everybody's futures the sweep is useless; what merely fails is soon tried again.
            self._took.append(clock.monotonic() - begun)
            self._failures += 1
            self._since = self._last = None
            refused = isinstance(error, DSSForbidden | DSSUnauthorized)
            self._trial_pause = _RETRY_EVERY if refused else _NOTHING_RAN
            if self._failures == 1 and self.trusted:
                self._state.note_failure("sweep_refused" if refused else "sweep_failed", error)
            if self.trusted and (refused or self._failures >= _FAILURES):
                self._doubted = refused
                await self._trust(False)
        else:
            self._took.append(clock.monotonic() - begun)
            self._failures, self.swept_at = 0, clock.now()
            await self._swept(dict(read_running(raw).items), begun)
        finally:
            self._busy = False
            pause = self.interval if self.trusted else self._trial_pause
            # Counted from when it was due, so that waiting in the queue makes no slower rhythm.
            self._due = max(due + pause, begun + pause / 2, clock.monotonic())

    async def _swept(self, running: dict[tuple[str, str], str], begun: float) -> None:
        schedule = self._state.schedule
        if not self.trusted:
            known = {
                (scenario.key.project, scenario.key.scenario)
                for scenario in schedule.running()
                if scenario.polled_at is not None and begun - scenario.polled_at < _FRESH
            }
            if self._doubted and not confirms(running, known):
                self._trial_pause = _RETRY_EVERY if known else _NOTHING_RAN
                return
            self._state.log.info("sweep_trusted")
            await self._trust(True)
        first = self._last is None
        if self._last is None or begun - self._last > _MISSED * self.interval:
            self._since = begun  # a series of sweeps begins; a gap says nothing about what ran in it
        self._last = begun
        before, schedule.swept = schedule.swept, running
        self._seen |= dict.fromkeys(running, begun)
        places = before.keys() | running.keys()
        if first:  # what an earlier life, or the lists, left as running
            places |= {(scenario.key.project, scenario.key.scenario) for scenario in schedule.running()}
        for place in places:
            scenario, run = schedule.scenarios.get(ScenarioKey(self._state.name, *place)), running.get(place)
            if scenario is not None:
                schedule.hint_running(scenario, run)
            elif run is not None and run != before.get(place):
                self._discovery.unknown_scenario(place[0])

    async def check(self, poll: Poll) -> None:
        """Whether the sweep saw the runs that a poll saw; else it is not trusted any more."""
        if not self.trusted or self._since is None or self._last is None:
            return
        state = self._state
        series = SweepSeries(self._since, self._last, self.interval)
        shift = state.clock.monotonic() - to_ms(state.now()) / 1000  # from DSS's clock to the monotonic one
        for listed in poll.seen[:3]:
            run = listed.run
            start, end = (to_ms(at) / 1000 + shift for at in (run.start, run.end or state.now()))
            _, project, scenario = poll.key
            if series.contradicts(start, end, self._seen.get((project, scenario))):
                hint = "give an admin key as sweep_api_key_file to see every user's runs"
                state.log.warning("sweep_untrusted", project=project, scenario=scenario, run=run.run_id, hint=hint)
                self._doubted, self._trial_pause = True, _RETRY_EVERY
                await self._trust(False)
                return

    async def _trust(self, trusted: bool) -> None:
        state = self._state
        self._due = 0.0 if trusted else state.clock.monotonic() + self._trial_pause
        if not trusted:
            state.schedule.swept = {}
        state.schedule.hints_from = Reason.SWEEP if trusted else Reason.FLAGS
        for scenario in state.schedule.scenarios.values():  # what the former source said counts no more
            scenario.running_hint, scenario.hinted, scenario.unconfirmed = None, False, 0
        self._discovery.respread()
        await state.save({"sweep_trusted": trusted})
