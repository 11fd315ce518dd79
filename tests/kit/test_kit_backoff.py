import pytest

from tocsin.kit.backoff import Backoff


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [(Backoff(), [1, 2, 4, 8]), (Backoff(2, 10), [2, 4, 8, 10, 10]), (Backoff(1, 60, 1.5), [1, 1.5, 2.25])],
)
def test_pauses_grow_from_the_first_to_the_longest(backoff: Backoff, expected: list[float]) -> None:
    assert [backoff.pause(attempt) for attempt in range(1, len(expected) + 1)] == expected


def test_a_pause_after_very_many_failures_is_the_longest() -> None:
    assert Backoff(1, 300).pause(100_000) == 300


def test_chance_shortens_a_pause_by_the_jitter_at_most() -> None:
    backoff = Backoff(2, 600, jitter=0.5)
    assert [backoff.pause(2, random) for random in (lambda: 0.0, lambda: 0.5, lambda: 1.0)] == [4, 3, 2]
