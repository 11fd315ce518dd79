"""Random life for a world: runs begin at a given rate and last as long as a distribution says, from a seed.

``step`` is the whole logic and takes the time, so that a day can pass in a millisecond; ``live`` is the loop
round it. It goes by the clock of the world, which a jump of the server's clock does not move; runs are written
with the server's time at which they were due, not at which the loop woke.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from tests.fakedss.world import Scenario, World

Durations = Callable[[random.Random], float]
"""Seconds that a run lasts."""

OUTCOMES = {"SUCCESS": 0.85, "WARNING": 0.05, "FAILED": 0.08, "ABORTED": 0.02}


def between(shortest: float, longest: float) -> Durations:
    """Evenly spread on a logarithmic scale: many short runs, few long ones, as nodes have them."""
    return lambda chance: math.exp(chance.uniform(math.log(shortest), math.log(longest)))


class Life:
    """Starts ``per_second`` runs a second on average, on scenarios that are idle; the same seed, the same life."""

    def __init__(
        self,
        world: World,
        per_second: float,
        durations: Durations,
        seed: int = 0,
        outcomes: Mapping[str, float] = OUTCOMES,
    ) -> None:
        self._world, self._per_second, self._durations = world, per_second, durations
        self._chance = random.Random(seed)
        self._outcomes = outcomes
        self._scenarios: list[Scenario] = list(world.all_scenarios())
        self._ends: list[tuple[int, str, str, str]] = []
        self._next_start_ms = world.clock_ms() + self._pause_ms()

    def step(self, now_ms: int) -> int:
        """Let happen all that is due at ``now_ms``, in order; the answer is when something is due next."""
        while (due := self._due_ms()) <= now_ms:
            if self._ends and self._ends[0][0] == due:
                self._end(*heapq.heappop(self._ends))
            else:
                self._next_start_ms = due + self._pause_ms()
                self._start(due)
        return self._due_ms()

    async def live(self) -> None:
        """For ever; cancel it."""
        while True:
            now = self._world.clock_ms()
            await asyncio.sleep(max(0.0, (self.step(now) - now) / 1000))

    def finish(self) -> None:
        """No more starts, and what runs ends now or, if that was due earlier, when it was due."""
        now = self._world.clock_ms()
        while self._ends:
            due, *who = heapq.heappop(self._ends)
            self._end(min(due, now), *who)

    def _due_ms(self) -> int:
        return min(self._next_start_ms, self._ends[0][0]) if self._ends else self._next_start_ms

    def _pause_ms(self) -> int:
        return 1 + round(1000 * self._chance.expovariate(self._per_second))

    def _start(self, at_ms: int) -> None:
        owner = self._chance.choice(self._scenarios)
        lasts_ms = 1 + round(1000 * self._durations(self._chance))
        if owner.running is None:
            run = self._world.start_run(owner.project, owner.id, self._server_time(at_ms))
            heapq.heappush(self._ends, (at_ms + lasts_ms, owner.project, owner.id, run))

    def _end(self, at_ms: int, project: str, scenario: str, run: str) -> None:
        [outcome] = self._chance.choices(list(self._outcomes), list(self._outcomes.values()))
        owner = self._world.projects.get(project, {}).get(scenario)
        # A restart or a test may have ended it, or taken the scenario away.
        if owner is not None and owner.running is not None and owner.running.id == run:
            error = f"Job of {scenario} failed" if outcome == "FAILED" else None
            self._world.end_run(project, scenario, outcome, self._server_time(at_ms), error)

    def _server_time(self, at_ms: int) -> datetime:
        return datetime.fromtimestamp((at_ms + self._world.skew_ms) / 1000, UTC)
