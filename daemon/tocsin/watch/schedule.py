"""Which scenario is polled next: the watched scenarios of a node in memory, by due time.

Everything here can be made again from the store; nothing is lost when the process dies. Several nudges before a poll
is sent are one poll, one poll a scenario is on its way, and a nudge that comes meanwhile makes one more after it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heappop, heappush
from itertools import islice
from math import inf

from tocsin.kit.clock import Clock
from tocsin.model.run import Run, ScenarioKey
from tocsin.model.scenario import LAUNCH_DELAY
from tocsin.store.scenarios import ScenarioRow
from tocsin.watch.cadence import Due, Pace, Rank, Reason, next_poll

_AT_ONCE = 200  # plans before others get their turn
_SPARE_AFTER = 5.0  # a scenario is not polled again sooner only because there is room,
_INACTIVE = 8  # and an inactive one, which only people and other scenarios start, waits so many times longer
_HOOK_SHARE = 0.25  # of the budget
_HOOK_PAUSE = 1.0  # seconds between two polls of a scenario that hooks ask for


@dataclass(slots=True, eq=False)
class ScenarioState:
    """A scenario that is watched. Bare floats are monotonic seconds."""

    row: ScenarioRow
    open_runs: tuple[Run, ...] = ()
    mail_reporters: int | None = None  # a mark of those that this process last wrote
    settled: tuple[int, ...] = ()  # marks of runs that the last poll wrote as ended
    unreadable: dict[int, int] = field(default_factory=dict)  # marks of runs, and how many polls could not read them
    pending: tuple[datetime, ...] = ()  # expected starts, on DSS's clock
    sighted: str | None = None  # the run that sweep or list show as running
    told: bool = False  # whether they said anything since they became the ones to say it
    doubted_at: float = -inf  # when they began to differ from what polls say
    unexplained: int = 0
    polled_at: float | None = None  # the last good poll of this process
    tried_at: float = -inf
    failures: int = 0
    forbidden: bool = False
    not_found: bool = False
    problem: str | None = None
    followed_at: float | None = None
    in_flight: bool = False
    nudged: Reason | None = None  # waits for a poll, or for the end of the one that is on its way
    added_at: float = 0.0
    due_at: float = inf
    queued: tuple[Rank, Reason] | None = None

    @property
    def key(self) -> ScenarioKey:
        return self.row.key


@dataclass(slots=True)
class Schedule:
    """``clock`` is DSS's; ``sighting`` who tells what runs now: the sweep, the lists or nobody."""

    clock: Clock
    max_interval: float
    sighting: Reason | None = None
    suspended: set[str] = field(default_factory=set)  # projects that cannot be read
    watched: dict[ScenarioKey, ScenarioState] = field(default_factory=dict)
    _by_project: dict[str, set[ScenarioKey]] = field(default_factory=dict)
    _heap: list[tuple[float, int, ScenarioKey]] = field(default_factory=list)
    _ready: dict[Rank, OrderedDict[ScenarioKey, float]] = field(
        default_factory=lambda: {rank: OrderedDict() for rank in Rank}
    )
    _spare: OrderedDict[ScenarioKey, float] = field(default_factory=OrderedDict)  # by the last poll, oldest first
    _spare_inactive: OrderedDict[ScenarioKey, float] = field(default_factory=OrderedDict)
    _hooked: OrderedDict[ScenarioKey, float] = field(default_factory=OrderedDict)
    _hook_free_at: float = -inf
    _followers: dict[tuple[str, str], set[ScenarioKey]] = field(default_factory=dict)
    _pushed: int = 0

    # --- what is watched ---------------------------------------------------------------------------------------------

    def add(self, one: ScenarioState) -> None:
        self.watched[one.key] = one
        one.added_at = self.clock.monotonic()
        self._by_project.setdefault(one.key.project, set()).add(one.key)
        self._follow(one.key, (), one.row.follows)
        self.plan(one)

    def remove(self, key: ScenarioKey) -> None:
        one = self.watched.pop(key, None)
        if one is not None:
            self._follow(key, one.row.follows, ())
            self._unqueue(one)
            self._by_project[key.project].discard(key)
            self._drop_spare(key)
            self._hooked.pop(key, None)

    def update(self, one: ScenarioState, row: ScenarioRow) -> None:
        """The scenario's row changed."""
        self._follow(one.key, one.row.follows, row.follows)
        one.row = row
        self.plan(one)

    def _follow(self, key: ScenarioKey, before: Iterable[tuple[str, str]], now: Iterable[tuple[str, str]]) -> None:
        for leader in set(before) - set(now):
            self._followers.get(leader, set()).discard(key)
        for leader in now:
            self._followers.setdefault(leader, set()).add(key)

    # --- nudges ------------------------------------------------------------------------------------------------------

    def sight(self, one: ScenarioState, run: str | None) -> None:
        """What the sweep or a list shows: a name of the run that is running, or None."""
        changed = one.sighted != run or not one.told
        differs = (run is not None) != bool(one.open_runs)
        swapped = changed and run is not None and one.sighted is not None
        one.sighted, one.told = run, True
        if changed and (differs or swapped):
            one.doubted_at = self.clock.monotonic()
            one.unexplained = 0
        if changed:
            self.plan(one)

    def nudge(self, one: ScenarioState, reason: Reason) -> None:
        """A poll is due now."""
        one.nudged = reason
        self.plan(one)

    def hook(self, one: ScenarioState) -> None:
        """DSS called: a poll as soon as the share of hooks in the budget allows."""
        self._hooked.setdefault(one.key, self.clock.monotonic())

    def take_hook_permit(self, now: float, limit: float) -> bool:
        """Take one request from the share of hooks, if there is one."""
        free = now >= self._hook_free_at
        if free:
            self._hook_free_at = now + 1 / (_HOOK_SHARE * limit)
        return free

    def ended(self, key: ScenarioKey) -> None:
        """A run ended: the scenarios that follow it will start soon."""
        for follower in self._followers.get((key.project, key.scenario), ()):
            if (one := self.watched.get(follower)) is not None:
                one.followed_at = self.clock.monotonic()
                self.plan(one)

    async def add_all(self, ones: Iterable[ScenarioState]) -> None:
        for number, one in enumerate(sorted(ones, key=_urgency)):
            self.add(one)
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)

    async def wake(self, ones: Iterable[ScenarioState]) -> None:
        """These are due for a poll: the node, or the right to see them, came back."""
        for number, one in enumerate(sorted(ones, key=_urgency)):
            one.polled_at, one.failures = None, 0
            self.plan(one)
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)

    def rest(self, project: str) -> None:
        """No polls into a project that cannot be read."""
        self.suspended.add(project)
        for one in self.of_project(project):
            self.plan(one)

    async def resume(self, project: str) -> None:
        self.suspended.discard(project)
        await self.wake(self.of_project(project))

    def of_project(self, project: str) -> list[ScenarioState]:
        return [self.watched[key] for key in self._by_project.get(project, ())]

    # --- planning ----------------------------------------------------------------------------------------------------

    def plan(self, one: ScenarioState) -> None:
        """Put the scenario where it belongs now; what waits already keeps its place."""
        waited = self._ready[one.queued[0]].get(one.key) if one.queued else None
        rank = one.queued[0] if one.queued else None
        if one.in_flight or one.key not in self.watched or one.key.project in self.suspended:
            self._unqueue(one)
            self._drop_spare(one.key)
            return
        spare = self._spare_of(one)
        if one.key not in spare:
            self._drop_spare(one.key)
            spare[one.key] = 0.0
            if one.polled_at is None:
                spare.move_to_end(one.key, last=False)
        now = self.clock.monotonic()
        if one.nudged is not None and not one.failures:
            due = Due(0.0, Rank.NUDGED, one.nudged)
        else:
            due = next_poll(self._pace(one, now), self.max_interval)
        if waited is not None and due.seconds <= 0 and due.rank is rank:
            one.queued = (due.rank, due.reason)
            return
        self._unqueue(one)
        one.queued = (due.rank, due.reason)
        one.due_at = now + max(0.0, due.seconds)
        if due.seconds <= 0:
            self._ready[due.rank][one.key] = now
        else:
            self._pushed += 1
            heappush(self._heap, (one.due_at, self._pushed, one.key))

    def _unqueue(self, one: ScenarioState) -> None:
        if one.queued is not None:
            self._ready[one.queued[0]].pop(one.key, None)
        one.queued, one.due_at = None, inf

    def _pace(self, one: ScenarioState, now: float) -> Pace:
        dss_now = self.clock.now()

        def ago(moment: datetime | None) -> float | None:
            return None if moment is None else (dss_now - moment).total_seconds()

        launches = [at + LAUNCH_DELAY for at in one.pending]
        due = max((at for at in launches if at <= dss_now), default=min(launches, default=None))
        expected = ago(due)
        return Pace(
            polled_ago=None if one.polled_at is None else now - one.polled_at,
            seen_before=one.row.polled_at is not None,
            tried_ago=now - one.tried_at,
            failures=one.failures,
            forbidden=one.forbidden,
            sighted=one.sighted is not None if one.told else None,
            sighted_ago=now - one.doubted_at,
            unexplained=one.unexplained,
            by_sweep=self.sighting is Reason.SWEEP,
            running_for=ago(one.open_runs[0].start) if one.open_runs else None,
            expected_in=None if expected is None else -expected,
            ended_ago=ago(one.row.last_end),
            followed_ago=None if one.followed_at is None else now - one.followed_at,
        )

    # --- what is next ------------------------------------------------------------------------------------------------

    def promote_due(self, now: float) -> None:
        """Move what has become due from the heap to its place in the order."""
        while self._heap and self._heap[0][0] <= now:
            due_at, _, key = heappop(self._heap)
            one = self.watched.get(key)
            if one is not None and one.due_at == due_at and one.queued is not None:
                self._ready[one.queued[0]].setdefault(key, due_at)

    def best(self, now: float) -> tuple[Rank, float] | None:
        """Rank of the most urgent poll that is due, and since when."""
        self.promote_due(now)
        if self._hooked and self._hook_key(now) is not None:
            return Rank.NUDGED, next(iter(self._hooked.values()))
        for rank, ready in self._ready.items():
            if ready:
                return rank, next(iter(ready.values()))
        spare = self._next_spare(now)
        return None if spare is None else (Rank.SPARE, spare[1])

    def _next_spare(self, now: float) -> tuple[ScenarioKey, float] | None:
        """The scenario that a spare poll goes to, and its last poll: inactive ones age more slowly."""
        oldest = [
            ((now - last) / slower, key, last)
            for line, slower in ((self._spare, 1), (self._spare_inactive, _INACTIVE))
            for key, last in islice(line.items(), 1)
        ]
        age, key, last = max(oldest, default=(0.0, None, 0.0))
        return (key, last) if key is not None and age >= _SPARE_AFTER else None

    def _spare_of(self, one: ScenarioState) -> OrderedDict[ScenarioKey, float]:
        return self._spare_inactive if one.row.active is False else self._spare

    def _drop_spare(self, key: ScenarioKey) -> None:
        self._spare.pop(key, None)
        self._spare_inactive.pop(key, None)

    def pop(self, now: float, limit: float) -> tuple[ScenarioState, Reason]:
        """The poll that ``best`` told; ``limit`` is the budget's rate now."""
        best = self.best(now)
        assert best is not None, "nothing is due"
        rank, _ = best
        key = self._hook_key(now) if self._hooked else None
        if rank is Rank.NUDGED and key is not None:
            del self._hooked[key]
            self.take_hook_permit(now, limit)
            reason = Reason.HOOK
        elif rank is Rank.SPARE:
            spare = self._next_spare(now)
            assert spare is not None
            key, reason = spare[0], Reason.SPARE
        else:
            key = next(iter(self._ready[rank]))
            queued = self.watched[key].queued
            assert queued is not None
            reason = queued[1]
        one = self.watched[key]
        self._hooked.pop(key, None)
        self._unqueue(one)
        one.in_flight, one.nudged, one.tried_at = True, None, now
        self._drop_spare(key)
        return one, reason

    def finished(self, one: ScenarioState) -> None:
        """The poll is over, well or not."""
        one.in_flight = False
        self.plan(one)
        spare = self._spare_of(one)
        if one.key in spare:
            spare[one.key] = self.clock.monotonic()
            spare.move_to_end(one.key)

    def due_in(self, now: float) -> float:
        """Seconds until a poll becomes due that is not yet."""
        waits = [self._heap[0][0] - now] if self._heap else []
        for line, slower in ((self._spare, 1), (self._spare_inactive, _INACTIVE)):
            waits += [last + slower * _SPARE_AFTER - now for last in islice(line.values(), 1)]
        if self._hooked:
            waits.append(max(self._hook_free_at - now, 0.2))
        return min((wait for wait in waits if wait > 0), default=inf)

    def _hook_key(self, now: float) -> ScenarioKey | None:
        if now < self._hook_free_at:
            return None
        for key in self._hooked:
            one = self.watched.get(key)
            rests = one is None or one.in_flight or key.project in self.suspended
            if one is not None and not rests and now - one.tried_at >= _HOOK_PAUSE:
                return key
        return None

    def oldest_poll_age(self, now: float) -> float:
        """Seconds since the least recent good poll of a scenario, or since it is watched if there was none."""
        polled = (one.added_at if one.polled_at is None else one.polled_at for one in self.watched.values())
        return max((now - at for at in polled), default=0.0)

    def overdue(self, now: float) -> float:
        """Seconds for which the poll that waits longest has been due; spare polls never are."""
        self.promote_due(now)
        firsts = [next(iter(line.values())) for line in self._ready.values() if line]
        firsts += [since for key, since in self._hooked.items() if key.project not in self.suspended][:1]
        return max((now - due for due in firsts), default=0.0)


def _urgency(one: ScenarioState) -> tuple[bool, bool, float]:
    """In which order to poll when all are due: what runs, what is active, what was not polled for long."""
    polled = one.row.polled_at.timestamp() if one.row.polled_at else 0.0
    return (not one.open_runs, one.row.active is False, polled)
