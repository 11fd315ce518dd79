"""What DSS's clock shows, by the Date headers of its answers, and the least that it showed lately."""

from datetime import timedelta

import pytest

from tests.watch.scenes import T0
from tests.watch.test_watch_queue import Hands
from tocsin.watch.state import NodeClock

HOUR = timedelta(hours=1)
ZERO = timedelta(0)


def answers(clock: Hands, node: NodeClock, offset: timedelta, count: int = 40) -> None:
    for _ in range(count):
        clock.seconds += 1
        node.observe((clock.now() + offset).replace(microsecond=0), 0.1)


def test_a_leap_ahead_moves_the_clock_but_not_the_least_of_it() -> None:
    clock = Hands()
    node = NodeClock(clock, ZERO, None, ZERO)
    answers(clock, node, ZERO)
    answers(clock, node, HOUR)
    assert (round(node.offset / HOUR, 2), node.least_offset) == (1.0, ZERO)
    answers(clock, node, ZERO)
    assert (node.offset, node.least_offset) == (ZERO, ZERO)


def test_a_leap_back_moves_both_at_once() -> None:
    clock = Hands()
    node = NodeClock(clock, ZERO, None, ZERO)
    answers(clock, node, ZERO)
    answers(clock, node, -HOUR)
    assert round(node.offset / HOUR, 2) == round(node.least_offset / HOUR, 2) == -1.0


def test_a_clock_that_stays_ahead_is_believed_after_hours() -> None:
    clock = Hands()
    node = NodeClock(clock, ZERO, None, ZERO)
    answers(clock, node, ZERO)
    for _ in range(7):
        answers(clock, node, HOUR)
        clock.seconds += 3600
    answers(clock, node, HOUR)
    assert round(node.least_offset / HOUR, 2) == 1.0


@pytest.mark.parametrize("least", [ZERO, HOUR])
def test_the_least_is_remembered_over_a_restart(least: timedelta) -> None:
    clock = Hands()
    node = NodeClock(clock, HOUR, T0, least)
    answers(clock, node, HOUR)
    assert round(node.least_offset / HOUR, 2) == least / HOUR
