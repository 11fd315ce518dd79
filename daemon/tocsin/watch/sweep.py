"""The sweep: one request that tells everything that runs now on a node. A hint, never a fact.

A difference between what it shows and what polls say nudges that scenario until a poll explains it.
"""

from collections import deque
from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import partial
from statistics import median_low

from tocsin.dss import DSSClient, DSSError, DSSForbidden, DSSUnauthorized
from tocsin.kit.clock import to_ms
from tocsin.model.run import ScenarioKey
from tocsin.watch.cadence import Rank, Reason
from tocsin.watch.diff import PollResult
from tocsin.watch.queue import NextJob, Permit
from tocsin.watch.read import read_running
from tocsin.watch.schedule import ScenarioState
from tocsin.watch.state import NodeState
from tocsin.watch.trust import RETRY_EVERY, Watching, confirms, contradicts

_SHARE = 0.5  # of the budget, at most
_STRETCH = 4.0  # a node that answers in t seconds is swept every 4 t at most,
_SPEED_OF = 3  # and t is the median of so many sweeps: one that hangs makes the next ones no rarer
_NOTHING_RAN = 60.0  # a trial that nothing could confirm is repeated so soon
_FAILURES = 5  # so many sweeps in a row may fail before the lists take over; a dead node shows sooner
_FRESH = 30.0  # seconds for which a poll tells what runs now


class Sweep:
    """The source of sweeps. ``stranger`` hears of scenarios that are not known yet, ``changed`` when trust did."""

    def __init__(
        self,
        state: NodeState,
        client: DSSClient,
        *,
        limit: Callable[[], float],
        stranger: Callable[[str, str], None],
        changed: Callable[[], None],
    ) -> None:
        self._state = state
        self._client = client
        self._limit = limit
        self._stranger = stranger
        self._changed = changed
        self.trusted = state.row.sweep_trusted
        self._doubted = not self.trusted  # what it showed, or that it was refused; it did not merely fail
        self.swept_at: datetime | None = None
        self._due = 0.0
        self._trial_pause = RETRY_EVERY
        self._busy = False
        self._took: deque[float] = deque([0.0], maxlen=_SPEED_OF)
        self._last: float | None = None
        self._since: float | None = None
        self._running: dict[tuple[str, str], str] = {}
        self._seen: dict[tuple[str, str], float] = {}
        self._failures = 0

    # --- the source --------------------------------------------------------------------------------------------------

    def offer(self, now: float) -> NextJob | None:
        return NextJob(Rank.SWEEP, self._due) if now >= self._due and not self._busy else None

    def due_in(self, now: float) -> float:
        return self._due - now if self._due > now else float("inf")

    def take(self, now: float, permit: Permit) -> Coroutine[object, object, None]:
        self._busy = True
        return self._sweep(permit)

    @property
    def interval(self) -> float:
        """Seconds between two sweeps: longer when the node is slow or the budget is small."""
        wanted = self._state.node.watch.sweep_interval.total_seconds()
        return max(wanted, _STRETCH * median_low(self._took), 1 / (_SHARE * self._limit()))

    # --- sweeping ----------------------------------------------------------------------------------------------------

    async def _sweep(self, permit: Permit) -> None:
        clock, due = self._state.clock, self._due
        begun = clock.monotonic()
        try:
            raw = await permit.ask(partial(self._client.list_running_scenarios_raw, all_users=True))
        except DSSError as error:
            self._took.append(clock.monotonic() - begun)
            await self._failed(error)
        else:
            self._took.append(clock.monotonic() - begun)
            self._failures, self.swept_at = 0, self._state.clock.now()
            await self._swept(dict(read_running(raw).items), begun)
        finally:
            self._busy = False
            pause = self.interval if self.trusted else self._trial_pause
            # Counted from when it was due, so that waiting in the line makes no slower rhythm.
            self._due = max(due + pause, begun + pause / 2, clock.monotonic())

    async def _swept(self, running: dict[tuple[str, str], str], begun: float) -> None:
        if not self.trusted:
            known = self._known_to_run(begun)
            if self._doubted and not confirms(running, known):
                self._trial_pause = RETRY_EVERY if known else _NOTHING_RAN
                return
            self._state.log.info("sweep_trusted")
            await self._trust(True)
        first = self._last is None
        if self._last is None or begun - self._last > 3 * self.interval:
            self._since = begun  # a row of sweeps begins; a gap says nothing about what ran in it
        self._last = begun
        before, self._running = self._running, running
        self._seen |= dict.fromkeys(running, begun)
        places = before.keys() | running.keys()
        if first:  # what an earlier life, or the lists, left as running
            open_ = (one.key for one in self._state.schedule.watched.values() if one.open_runs)
            places |= {(key.project, key.scenario) for key in open_}
        for place in places:
            self._show(place, running.get(place), before.get(place))

    def _known_to_run(self, now: float) -> set[tuple[str, str]]:
        return {
            (one.key.project, one.key.scenario)
            for one in self._state.schedule.watched.values()
            if one.open_runs and one.polled_at is not None and now - one.polled_at < _FRESH
        }

    def _show(self, place: tuple[str, str], run: str | None, before: str | None) -> None:
        one = self._state.schedule.watched.get(ScenarioKey(self._state.name, *place))
        if one is not None:
            self._state.schedule.sight(one, run)
        elif run is not None and run != before:
            self._stranger(*place)

    def show_again(self, one: ScenarioState) -> None:
        """A scenario became known: what the last sweep said about it counts."""
        if self.trusted:
            self._state.schedule.sight(one, self._running.get((one.key.project, one.key.scenario)))

    async def _failed(self, error: DSSError) -> None:
        """Without the right to see everybody's futures the sweep is of no use; what merely fails is soon tried again."""
        self._failures += 1
        self._since = self._last = None
        refused = isinstance(error, DSSForbidden | DSSUnauthorized)
        self._trial_pause = RETRY_EVERY if refused else _NOTHING_RAN
        if self._failures == 1 and self.trusted:
            self._state.failed("sweep_refused" if refused else "sweep_failed", error)
        if self.trusted and (refused or self._failures >= _FAILURES):
            self._doubted = refused
            await self._trust(False)

    # --- trust -------------------------------------------------------------------------------------------------------

    async def judge(self, sight: PollResult) -> None:
        """A poll saw runs: did the sweep see them?"""
        if not self.trusted or self._since is None or self._last is None:
            return
        state = self._state
        watching = Watching(self._since, self._last, self.interval)
        shift = state.clock.monotonic() - to_ms(state.now()) / 1000  # from DSS's clock to the monotonic one
        seen_at = self._seen.get((sight.key.project, sight.key.scenario))
        for seen in sight.seen[:3]:
            run = seen.run
            start = to_ms(run.start) / 1000 + shift
            end = to_ms(run.end or state.now()) / 1000 + shift
            if contradicts(watching, start, end, seen_at):
                state.log.warning(
                    "sweep_untrusted",
                    project=sight.key.project,
                    scenario=sight.key.scenario,
                    run=run.run_id,
                    hint="give an admin key as sweep_api_key_file to see every user's runs",
                )
                self._doubted, self._trial_pause = True, RETRY_EVERY
                await self._trust(False)
                return

    async def _trust(self, trusted: bool) -> None:
        self.trusted = trusted
        state = self._state
        if trusted:
            self._due = 0.0
        else:
            self._running.clear()
            self._due = state.clock.monotonic() + self._trial_pause
        state.schedule.sighting = Reason.SWEEP if trusted else Reason.FLAGS
        for one in state.schedule.watched.values():
            one.sighted, one.told, one.unexplained = None, False, 0
        self._changed()
        await state.save({"sweep_trusted": trusted})
