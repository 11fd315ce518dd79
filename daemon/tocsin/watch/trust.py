"""Whether the sweep may be believed. Pure.

A key without admin rights gets its own futures only, and some nodes list none: then a run longer than three sweeps
is seen by a poll and by no sweep. That ends the trust; an hourly sweep that shows every run known to be running
brings it back.
"""

from collections.abc import Collection
from dataclasses import dataclass

_SWEEPS = 3
_CLOCKS = 2.0  # seconds that two clocks may disagree
RETRY_EVERY = 3600.0


@dataclass(frozen=True, slots=True)
class Watching:
    """The unbroken row of sweeps until now, in seconds of one clock; ``interval`` is the one that really was kept."""

    since: float
    until: float
    interval: float


def contradicts(watching: Watching | None, start: float, end: float, seen_by_sweep: float | None) -> bool:
    """Whether a run from ``start`` to ``end`` (or until now) should have been in a sweep and was in none.

    ``seen_by_sweep``: when the scenario was in a sweep last.
    """
    if watching is None or (seen_by_sweep is not None and seen_by_sweep >= start - _CLOCKS):
        return False
    watched_from = max(start + _CLOCKS, watching.since)
    watched_until = min(end - _CLOCKS, watching.until)
    return watched_until - watched_from > _SWEEPS * watching.interval


def confirms(swept: Collection[tuple[str, str]], running: Collection[tuple[str, str]]) -> bool:
    """Whether a sweep on trial shows all that is known to run, and that is something."""
    return bool(running) and set(running) <= set(swept)
