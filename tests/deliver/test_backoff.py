from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.deliver.builders import NOW
from tocsin.deliver.receipts import next_retry

LATER = NOW + timedelta(hours=24)


@pytest.mark.parametrize(("number", "seconds"), [(1, 2), (2, 4), (3, 8), (8, 256), (9, 512), (10, 600), (10_000, 600)])
def test_waits_double_up_to_ten_minutes(number: int, seconds: int) -> None:
    assert next_retry(NOW, number, LATER, lambda: 0.0) == NOW + timedelta(seconds=seconds)
    assert next_retry(NOW, number, LATER, lambda: 1.0) == NOW + timedelta(seconds=seconds / 2)


def test_the_receiver_may_ask_for_longer_but_not_for_shorter() -> None:
    assert next_retry(NOW, 3, LATER, lambda: 0.0, retry_after=timedelta(minutes=1)) == NOW + timedelta(minutes=1)
    assert next_retry(NOW, 3, LATER, lambda: 0.0, retry_after=timedelta(seconds=1)) == NOW + timedelta(seconds=8)


def test_the_last_try_comes_at_the_end_and_none_after_it() -> None:
    end = NOW + timedelta(seconds=3)
    assert next_retry(NOW, 3, end, lambda: 0.0) == end
    assert next_retry(end, 4, end, lambda: 0.0) is None
    assert next_retry(NOW, 1, end, lambda: 0.0, retry_after=timedelta(seconds=4)) is None


@given(
    st.integers(1, 1000),
    st.floats(0, 1, exclude_max=True),
    st.timedeltas(timedelta(0), timedelta(days=2)),
    st.none() | st.timedeltas(timedelta(0), timedelta(days=1)),
)
def test_a_next_try_is_never_in_the_past_nor_after_the_end(number, random, left, retry_after) -> None:
    again = next_retry(NOW, number, NOW + left, lambda: random, retry_after=retry_after)
    assert again is None or NOW < again <= NOW + left
