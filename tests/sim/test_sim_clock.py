"""The world's clock: speed, pushes, alarms in order."""

import asyncio
import functools
from datetime import UTC, datetime, timedelta

import pytest

from tocsin.sim import WorldClock

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Hand:
    """A base clock that a test sets."""

    def __init__(self):
        self.elapsed = 0.0

    def now(self):
        return NOON + timedelta(seconds=self.elapsed)

    def monotonic(self):
        return 100.0 + self.elapsed


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 2), (60.0, 120), (0.5, 1), (0.0, 0)])
def test_time_passes_at_the_worlds_speed(speed, seconds):
    base = Hand()
    clock = WorldClock(base, speed)
    base.elapsed = 2.0
    assert clock.now() == NOON + timedelta(seconds=seconds)
    assert clock.monotonic() == seconds


def test_a_clock_does_not_run_backwards():
    with pytest.raises(ValueError, match="backwards"):
        WorldClock(Hand(), -1.0)


def test_a_clock_goes_on_from_a_later_moment_but_never_from_an_earlier_one():
    clock = WorldClock(Hand())
    clock.no_earlier_than(NOON - SECOND)
    assert clock.now() == NOON
    clock.no_earlier_than(NOON + SECOND)
    assert clock.now() == NOON + SECOND


async def test_a_push_rings_alarms_in_order_and_shows_each_its_own_moment():
    clock = WorldClock(Hand(), 0.0)
    rung = []

    def ring(name):
        rung.append((name, (clock.now() - NOON).total_seconds()))
        if name == "a":
            clock.call_at(clock.now() + SECOND, lambda: ring("from a"))

    for name, at in (("c", 9), ("a", 1), ("b", 5), ("late", 11)):
        clock.call_at(NOON + at * SECOND, functools.partial(ring, name))
    clock.call_at(NOON + 3 * SECOND, lambda: ring("never")).cancel()
    await clock.advance(10 * SECOND)
    assert rung == [("a", 1), ("from a", 2), ("b", 5), ("c", 9)]
    assert clock.now() == NOON + 10 * SECOND


async def test_a_sleeper_wakes_at_its_moment_and_can_be_cancelled():
    clock = WorldClock(Hand(), 0.0)
    sleeper = asyncio.create_task(clock.sleep(5 * SECOND))
    other = asyncio.create_task(clock.sleep(6 * SECOND))
    await asyncio.sleep(0)
    other.cancel()
    await clock.advance(4 * SECOND)
    assert not sleeper.done()
    await clock.advance(2 * SECOND)
    assert sleeper.done()
    await asyncio.gather(other, return_exceptions=True)
    assert other.cancelled()


async def test_a_fast_clock_rings_by_itself():
    clock = WorldClock(speed=100_000.0)
    await asyncio.wait_for(clock.sleep(timedelta(hours=1)), 5)
    clock.stop()
