"""Which scenario is polled next: the watched scenarios of a node in memory, by due time.

Several nudges before a poll is sent are one poll, one poll of a scenario is in flight at a time, and a nudge that comes
meanwhile makes one more after it. Everything here can be built again from the store.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count, islice
from math import inf

from tocsin.kit.clock import Clock
from tocsin.model.run import ScenarioKey
from tocsin.store.scenarios import ScenarioRow
from tocsin.watch.cadence import Due, Rank, Reason, ScenarioState, next_poll

_AT_ONCE = 200  # plans before other tasks get their turn
_SPARE_AFTER = 5.0  # a scenario is not polled again sooner only because there is room,
_INACTIVE = 8  # and an inactive one, which only people and other scenarios start, waits so many times longer
_HOOK_SHARE = 0.25  # of the budget
_HOOK_PAUSE = 1.0  # seconds between two polls of a scenario that hooks ask for

_Ordered = OrderedDict[ScenarioKey, float]


@dataclass(frozen=True, slots=True)
class NextPoll:
    rank: Rank
    due: float  # monotonic seconds
    scenario: ScenarioState
    reason: Reason


class Schedule:
    """``clock`` is DSS's; ``hints_from`` says who tells what runs now: the sweep, the lists or nobody."""

    def __init__(self, clock: Clock, max_interval: float, hints_from: Reason | None = None) -> None:
        self.clock = clock
        self.max_interval = max_interval
        self.hints_from = hints_from
        self.suspended: set[str] = set()  # projects that cannot be read
        self.scenarios: dict[ScenarioKey, ScenarioState] = {}
        self.swept: dict[tuple[str, str], str] = {}  # what the last sweep showed as running, by project and scenario
        self._by_project: defaultdict[str, set[ScenarioKey]] = defaultdict(set)
        self._followers: defaultdict[tuple[str, str], set[ScenarioKey]] = defaultdict(set)
        self._heap: list[tuple[float, int, ScenarioKey]] = []
        self._numbers = count()
        self._ready: dict[Rank, _Ordered] = {rank: OrderedDict() for rank in Rank}  # since when due
        # By how many times slower they age: the time of the last poll, oldest first.
        self._spare: dict[int, _Ordered] = {1: OrderedDict(), _INACTIVE: OrderedDict()}
        self._hooked: _Ordered = OrderedDict()
        self._hook_free_at = -inf

    def add(self, scenario: ScenarioState) -> None:
        scenario.added_at = self.clock.monotonic()
        self.scenarios[scenario.key] = scenario
        self._by_project[scenario.key.project].add(scenario.key)
        self._follow(scenario.key, (), scenario.row.follows)
        self.plan(scenario)

    def remove(self, key: ScenarioKey) -> None:
        scenario = self.scenarios.pop(key, None)
        if scenario is not None:
            self._follow(key, scenario.row.follows, ())
            self.plan(scenario)
            self._by_project[key.project].discard(key)
            self._hooked.pop(key, None)

    def update(self, scenario: ScenarioState, row: ScenarioRow) -> None:
        self._follow(scenario.key, scenario.row.follows, row.follows)
        scenario.row = row
        self.plan(scenario)

    def of_project(self, project: str) -> list[ScenarioState]:
        return [self.scenarios[key] for key in self._by_project.get(project, ())]

    def running(self) -> list[ScenarioState]:
        return [scenario for scenario in self.scenarios.values() if scenario.open_runs]

    def _follow(self, key: ScenarioKey, before: Iterable[tuple[str, str]], now: Iterable[tuple[str, str]]) -> None:
        for leader in set(before) - set(now):
            self._followers[leader].discard(key)
        for leader in now:
            self._followers[leader].add(key)

    def hint_running(self, scenario: ScenarioState, run: str | None) -> None:
        """The sweep or a list shows this run, or None, as running."""
        before = scenario.running_hint
        if scenario.hinted and before == run:
            return
        scenario.running_hint, scenario.hinted = run, True
        if (run is not None) != bool(scenario.open_runs) or None not in (run, before):
            scenario.differs_since = self.clock.monotonic()
            scenario.unconfirmed = 0
        self.plan(scenario)

    def nudge(self, scenario: ScenarioState, reason: Reason) -> None:
        scenario.nudged = reason
        self.plan(scenario)

    def hook(self, scenario: ScenarioState) -> None:
        """DSS called: a poll as soon as the share of hooks in the budget allows."""
        self._hooked.setdefault(scenario.key, self.clock.monotonic())

    def take_hook_permit(self, now: float, limit: float) -> bool:
        """Take a request from the share of hooks; False if there is none left now."""
        if now < self._hook_free_at:
            return False
        self._hook_free_at = now + 1 / (_HOOK_SHARE * limit)
        return True

    def run_ended(self, key: ScenarioKey) -> None:
        """The scenarios that follow this one will start soon."""
        for follower in self._followers.get((key.project, key.scenario), ()):
            if (scenario := self.scenarios.get(follower)) is not None:
                scenario.followed_at = self.clock.monotonic()
                self.plan(scenario)

    async def backfill(self, scenarios: Iterable[ScenarioState], *, new: bool = False) -> None:
        """Each is due for a poll: they are new, or the node or the right to read them is back."""

        def urgency(scenario: ScenarioState) -> tuple[bool, bool, float]:
            """What runs, then what is active, then what was not polled for long."""
            polled = scenario.row.polled_at.timestamp() if scenario.row.polled_at else 0.0
            return not scenario.open_runs, scenario.row.active is False, polled

        for number, scenario in enumerate(sorted(scenarios, key=urgency), 1):
            scenario.polled_at, scenario.failures = None, 0
            (self.add if new else self.plan)(scenario)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)

    def suspend(self, project: str) -> None:
        """No polls of a project that cannot be read."""
        self.suspended.add(project)
        for scenario in self.of_project(project):
            self.plan(scenario)

    async def resume(self, project: str) -> None:
        self.suspended.discard(project)
        await self.backfill(self.of_project(project))

    def plan(self, scenario: ScenarioState) -> None:
        """Put the scenario where it belongs now; what waits already keeps its place."""
        key, queued, now = scenario.key, scenario.queued, self.clock.monotonic()
        if scenario.in_flight or key not in self.scenarios or key.project in self.suspended:
            self._unqueue(scenario)
            self._drop_spare(key)
            return
        spare = self._spare_of(scenario)
        if key not in spare:
            self._drop_spare(key)
            spare[key] = 0.0
            if scenario.polled_at is None:
                spare.move_to_end(key, last=False)
        if scenario.nudged is not None and not scenario.failures:
            due = Due(0.0, Rank.NUDGED, scenario.nudged)
        else:
            by_sweep = self.hints_from is Reason.SWEEP
            due = next_poll(scenario, now, self.clock.now(), by_sweep=by_sweep, max_interval=self.max_interval)
        if due.seconds <= 0 and queued is not None and queued.rank is due.rank and key in self._ready[due.rank]:
            scenario.queued = due
            return
        self._unqueue(scenario)
        scenario.queued, scenario.due_at = due, now + max(0.0, due.seconds)
        if due.seconds <= 0:
            self._ready[due.rank][key] = now
        else:
            heappush(self._heap, (scenario.due_at, next(self._numbers), key))

    def _unqueue(self, scenario: ScenarioState) -> None:
        if scenario.queued is not None:
            self._ready[scenario.queued.rank].pop(scenario.key, None)
        scenario.queued, scenario.due_at = None, inf

    def _spare_of(self, scenario: ScenarioState) -> _Ordered:
        return self._spare[_INACTIVE if scenario.row.active is False else 1]

    def _drop_spare(self, key: ScenarioKey) -> None:
        for spare in self._spare.values():
            spare.pop(key, None)

    def polls(self, now: float) -> Iterator[NextPoll]:
        """The first poll of each kind: for a hook, of each rank, into spare room, and the one that becomes due next."""
        for key, since in self._hooked.items():
            scenario = self.scenarios[key]
            if not scenario.in_flight and key.project not in self.suspended:
                free_at = scenario.tried_at + _HOOK_PAUSE
                yield NextPoll(Rank.NUDGED, max(since, self._hook_free_at, free_at), scenario, Reason.HOOK)
                if free_at <= now:
                    break
        while self._heap:  # what has become due moves to its place in the order
            due_at, _, key = self._heap[0]
            later = self.scenarios.get(key)
            if later is not None and later.queued is not None and later.due_at == due_at:
                if due_at > now:
                    yield NextPoll(later.queued.rank, due_at, later, later.queued.reason)
                    break
                self._ready[later.queued.rank].setdefault(key, due_at)
            heappop(self._heap)
        for rank, ready in self._ready.items():
            for key, since in islice(ready.items(), 1):
                if (queued := self.scenarios[key].queued) is not None:
                    yield NextPoll(rank, since, self.scenarios[key], queued.reason)
        firsts = [(slower, *next(iter(spare.items()))) for slower, spare in self._spare.items() if spare]
        if firsts:
            slower, key, polled_at = max(firsts, key=lambda first: ((now - first[2]) / first[0], first[0]))
            yield NextPoll(Rank.SPARE, polled_at + slower * _SPARE_AFTER, self.scenarios[key], Reason.SPARE)

    def begin(self, poll: NextPoll, limit: float) -> None:
        """``limit`` is the budget's rate now. Once the poll is over, call ``finished``."""
        scenario, now = poll.scenario, self.clock.monotonic()
        if poll.reason is Reason.HOOK:
            self.take_hook_permit(now, limit)
        self._hooked.pop(scenario.key, None)
        scenario.in_flight, scenario.nudged, scenario.tried_at = True, None, now
        self.plan(scenario)

    def finished(self, scenario: ScenarioState) -> None:
        scenario.in_flight = False
        self.plan(scenario)
        spare = self._spare_of(scenario)
        if scenario.key in spare:
            spare[scenario.key] = self.clock.monotonic()
            spare.move_to_end(scenario.key)

    def all_polled(self) -> bool:
        """Whether every active scenario that can be read was polled, or failed to be."""
        return all(
            scenario.polled_at is not None
            or scenario.failures
            or scenario.row.active is False
            or scenario.key.project in self.suspended
            for scenario in self.scenarios.values()
        )

    def oldest_poll_age(self, now: float) -> float:
        """Seconds since the least recent good poll of a scenario, or since it is watched if there was none."""
        watched = self.scenarios.values()
        return max(
            (now - (item.added_at if item.polled_at is None else item.polled_at) for item in watched), default=0.0
        )

    def longest_overdue(self, now: float) -> float:
        """Seconds for which the poll that waits longest has been due; spare polls never are."""
        dues = (poll.due for poll in self.polls(now) if poll.reason is not Reason.SPARE)
        return max(0.0, now - min(dues, default=now))
