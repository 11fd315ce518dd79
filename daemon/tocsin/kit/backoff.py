"""Pauses that grow with each failure in a row. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses from ``first`` to ``longest`` seconds, each ``factor`` times the one before."""

    first: float = 1.0
    longest: float = inf
    factor: float = 2.0
    jitter: float = 0.0  # the share of a pause by which chance may shorten it

    def pause(self, attempt: int, random: Callable[[], float] = lambda: 0.0) -> float:
        """Seconds to wait after attempt ``attempt`` (from 1) failed. ``random``: from [0, 1)."""
        try:
            grown = self.first * self.factor ** (attempt - 1)
        except OverflowError:
            grown = inf
        return min(grown, self.longest) * (1 - self.jitter * random())
