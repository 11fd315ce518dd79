"""The budget of a node: never more than the rate, less for a node in trouble, and not blinded by sporadic errors."""

import heapq
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.watch.queue import Budget

Answer = tuple[str, float, float | None]
"""What came back ("ok", "failed", "throttled"), after how many seconds, and its Retry-After."""


def answer(budget: Budget, kind: str, now: float, retry_after: float | None = None) -> None:
    match kind:
        case "ok":
            budget.succeeded(now)
        case "failed":
            budget.failed(now)
        case _:
            budget.throttled(now, retry_after)


def answers(budget: Budget, kinds: Sequence[str], since: float, every: float) -> float:
    """Let these answers come, one ``every`` so many seconds; when the next one would."""
    for number, kind in enumerate(kinds):
        answer(budget, kind, since + number * every)
    return since + len(kinds) * every


def used(
    rate: float, concurrency: int, seconds: float, node: Callable[[float], Answer], *, urgent: bool = False
) -> tuple[float, float]:
    """The share of the configured rate that a client with endless work sends, and the lowest limit on the way."""
    budget, now, sent, lowest = Budget(rate, concurrency), 0.0, 0, rate
    in_flight: list[tuple[float, str, float | None]] = []
    while now < seconds:
        wait = inf if len(in_flight) >= budget.max_in_flight else budget.wait(now, urgent=urgent)
        lands = in_flight[0][0] if in_flight else inf
        if now + wait < lands:
            now += wait + 1e-6
            budget.sent(now)
            sent += 1
            kind, after, retry_after = node(now)
            heapq.heappush(in_flight, (now + after, kind, retry_after))
        else:
            now, kind, retry_after = heapq.heappop(in_flight)
            answer(budget, kind, now, retry_after)
            lowest = min(lowest, budget.limit)
    return sent / (rate * seconds), lowest


# --- the bound -------------------------------------------------------------------------------------------------------


@given(rate=st.floats(0.1, 50), wishes=st.lists(st.floats(0, 2), min_size=1, max_size=80), urgent=st.booleans())
def test_no_second_sees_more_requests_than_the_rate(rate: float, wishes: list[float], urgent: bool) -> None:
    budget, now, sent = Budget(rate, 8), 0.0, []
    for wish in wishes:
        now += wish
        now += budget.wait(now, urgent=urgent)
        assert budget.wait(now + 1e-6, urgent=urgent) == 0
        now += 1e-6
        budget.sent(now)
        sent.append(now)
    window = max(1.0, 1 / rate)
    assert all(sum(start <= one < start + window for one in sent) <= max(1, -(-rate // 1)) for start in sent)


EVENTS = st.lists(
    st.tuples(
        st.floats(0, 30),
        st.sampled_from(["ok", "failed", "throttled"]),
        st.none() | st.floats(allow_nan=True, allow_infinity=True),
    ),
    max_size=300,
)


@given(rate=st.floats(0.1, 200), concurrency=st.integers(1, 64), events=EVENTS)
def test_whatever_answers_come_the_limit_stays_in_its_bounds_and_no_pause_is_long(
    rate: float, concurrency: int, events: list[tuple[float, str, float | None]]
) -> None:
    budget, now = Budget(rate, concurrency), 0.0
    for passed, kind, retry_after in events:
        now += passed
        answer(budget, kind, now, retry_after)
        assert min(rate, max(rate / 8, 0.5)) <= budget.limit <= rate
        assert 1 <= budget.max_in_flight <= concurrency
        assert 0 <= budget.wait(now, urgent=True) < 60.1


@given(events=EVENTS, rate=st.floats(0.1, 200))
def test_within_ten_seconds_there_is_one_cut(rate: float, events: list[tuple[float, str, float | None]]) -> None:
    budget, now, cuts = Budget(rate, 8), 0.0, []
    for passed, kind, retry_after in events:
        now += passed
        before = budget.limit
        answer(budget, kind, now, retry_after)
        if budget.limit < before:
            cuts.append(now)
    assert all(later - earlier >= 10 for earlier, later in pairwise(cuts))


# --- trouble ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "remains"),
    [
        (["failed"] * 4, 1.0),
        (["failed"] * 5, 0.5),
        (["ok"] * 20 + ["failed"] * 5, 1.0),
        (["ok"] * 19 + ["failed"] * 5, 0.5),
        (["ok", "ok", "ok", "ok", "failed"] * 40, 1.0),  # a fifth is not more than a fifth
        (["ok", "ok", "ok", "failed"] * 40, 0.5),
        (["throttled"], 0.75),
        (["throttled"] * 4, 0.75),
    ],
)
def test_the_limit_is_cut_when_more_than_a_fifth_of_the_answers_failed(kinds: list[str], remains: float) -> None:
    budget = Budget(80.0, 8)
    answers(budget, kinds, 100.0, every=1e-3)
    assert budget.limit == pytest.approx(80.0 * remains, rel=1e-2)


@pytest.mark.parametrize(("rate", "floor"), [(80.0, 10.0), (5.0, 0.625), (2.0, 0.5), (0.2, 0.2)])
def test_trouble_that_goes_on_cuts_once_per_ten_seconds_down_to_the_floor(rate: float, floor: float) -> None:
    budget = Budget(rate, 8)
    now, limits = 0.0, []
    for _ in range(5):
        now = answers(budget, ["failed"] * 20, now, every=0.5)
        limits.append(budget.limit)
    assert limits[:2] == [max(floor, rate / 2), max(floor, rate / 4)]
    assert limits[-1] == floor


def test_fewer_requests_are_in_flight_once_the_limit_is_below_a_half() -> None:
    budget = Budget(80.0, 8)
    now, in_flight = 0.0, [budget.max_in_flight]
    for _ in range(4):
        now = answers(budget, ["failed"] * 20, now, every=0.5)
        in_flight.append(budget.max_in_flight)
    assert in_flight == [8, 8, 4, 2, 2]


def test_old_failures_count_for_one_cut_and_not_after_a_minute() -> None:
    budget = Budget(8.0, 8)
    now = answers(budget, ["failed"] * 5, 0.0, every=0.1)
    assert budget.limit == 4.0
    answers(budget, ["failed"] * 4, now + 10, every=0.1)
    assert budget.limit == 4.0
    answer(budget, "failed", now + 75)
    assert budget.limit == 4.0


@pytest.mark.parametrize("good", [1000, 9, 5])
def test_after_a_minute_in_which_less_than_a_fifth_failed_the_limit_is_whole(good: int) -> None:
    budget = Budget(40.0, 8)
    now = answers(budget, ["failed"] * 80, 0.0, every=0.5)
    assert budget.limit == budget.floor
    kinds = [*["ok"] * 80, *["failed", *["ok"] * good] * 200][:1000]
    answers(budget, kinds, now, every=0.06)
    assert budget.limit == 40.0


# --- Retry-After -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry_after", "pause"),
    [(None, 0), (0.0, 0), (1.5, 1.5), (30.0, 30), (86_400.0, 60), (1e18, 60), (inf, 60), (-5.0, 0), (nan, 0)],
)
def test_a_retry_after_is_kept_but_never_longer_than_a_minute(retry_after: float | None, pause: float) -> None:
    budget = Budget(5.0, 8)
    budget.throttled(100.0, retry_after)
    assert budget.wait(100.0, urgent=True) == pytest.approx(pause)


def test_what_was_throttled_together_is_one_pause_and_one_cut() -> None:
    budget = Budget(40.0, 8)
    for number in range(4):
        budget.throttled(100.0 + number, 5.0)
    assert (budget.wait(100.0, urgent=True), budget.limit) == (5.0, 30.0)


def test_a_node_that_throttles_all_requests_is_paused_each_time() -> None:
    budget, now = Budget(40.0, 8), 0.0
    for _ in range(5):
        now = answers(budget, ["throttled"] * 5, now, every=0.01)
        budget.throttled(now, 20.0)
        assert budget.wait(now, urgent=True) == pytest.approx(20.0)
        now += 20.0
    assert budget.limit == budget.floor


# --- sporadic errors do not blind ------------------------------------------------------------------------------------


def sprinkled(seed: int, retry_after: float | None) -> Callable[[float], Answer]:
    """2 % of 429, every other one with this Retry-After, 4 % of 500, 2 % of resets, 1 % of five-second hangs."""
    chance = random.Random(seed)

    def node(_: float) -> Answer:
        dice = chance.random()
        if dice < 0.02:
            return "throttled", 0.05, retry_after if dice < 0.01 else None
        if dice < 0.08:
            return "failed", 0.05, None
        return "ok", 5.0 if dice < 0.09 else 0.05, None

    return node


@pytest.mark.parametrize(
    ("retry_after", "half"), [(None, 0.5), (1.0, 0.5), (5.0, 0.5), (30.0, 0.4), (1e18, 0.4)], ids=str
)
@pytest.mark.parametrize("rate", [1.0, 5.0, 80.0])
@pytest.mark.parametrize("seed", range(3))
def test_sporadic_errors_leave_half_of_the_rate(seed: int, rate: float, retry_after: float | None, half: float) -> None:
    share, lowest = used(rate, 8, 300.0, sprinkled(seed, retry_after))
    assert share >= half
    assert lowest >= rate / 4


def test_a_node_that_fails_half_of_its_answers_is_asked_an_eighth() -> None:
    chance = random.Random(5)
    share, _ = used(80.0, 8, 300.0, lambda _: (chance.choice(["ok", "failed"]), 0.05, None))
    assert 0.08 <= share <= 0.25


def test_an_outage_costs_less_than_a_minute() -> None:
    sporadic = sprinkled(3, None)
    node: Callable[[float], Answer] = lambda now: ("failed", 0.05, None) if now < 30 else sporadic(now)  # noqa: E731
    budget_used, _ = used(80.0, 8, 120.0, node)
    assert budget_used >= 0.5 * 60 / 120
