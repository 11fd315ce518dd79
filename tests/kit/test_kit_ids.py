"""Identifiers from facts and from nothing."""

import re

from hypothesis import given
from hypothesis import strategies as st

from tocsin.kit.strings import derived_id, fresh_id

FACTS = st.lists(st.text(max_size=5) | st.integers(), max_size=4)


def test_a_derived_id_is_the_same_in_every_process_and_version() -> None:
    assert derived_id("prod", "SALES", "NIGHTLY", "2026-03-01-02-00-03-120", 1772330403120) == (
        "205272b6bb8c121bf5b2ff1f1c95c2b8"
    )


def test_where_one_fact_ends_and_the_next_begins_matters() -> None:
    assert len({derived_id("a", "bc"), derived_id("ab", "c"), derived_id("abc"), derived_id("a", "b", "c")}) == 4


@given(FACTS, FACTS)
def test_different_facts_give_different_ids(first: list[str | int], second: list[str | int]) -> None:
    same = [str(fact) for fact in first] == [str(fact) for fact in second]
    assert (derived_id(*first) == derived_id(*second)) is same


def test_a_lone_surrogate_is_a_fact_like_any_other() -> None:
    assert derived_id("\ud800") != derived_id("\ud801")


def test_ids_are_32_hexadecimal_digits_and_fresh_ones_never_the_same() -> None:
    ids = [derived_id("x"), *(fresh_id() for _ in range(100))]
    assert all(re.fullmatch("[0-9a-f]{32}", id) for id in ids)
    assert len(set(ids)) == 101
