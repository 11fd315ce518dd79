"""Many conditions at once must say what each says by itself."""

from hypothesis import given
from hypothesis import strategies as st

from tocsin.model.labels import Matcher, Op, all_match, parse_matchers
from tocsin.model.matcher_index import MatcherIndex, set_bits

PATTERNS = ["x|y", "x.*", ".*", ".+", "", "[xy]+", "(?i)X", "^x$", "x$|^y", "[^x]", "x{2}", "x)|(?:y"]
WORDS = st.sampled_from(["x", "y", "xy", "xx", "", "X", "x\n", "ü"])
MATCHERS = st.one_of(
    st.builds(Matcher, st.sampled_from("ab"), st.sampled_from([Op.EQUAL, Op.NOT_EQUAL]), WORDS),
    st.builds(Matcher, st.sampled_from("ab"), st.sampled_from([Op.REGEX, Op.NOT_REGEX]), st.sampled_from(PATTERNS)),
)


@given(
    st.lists(st.lists(MATCHERS, max_size=4), max_size=6),
    st.lists(st.fixed_dictionaries({}, optional={"a": WORDS, "b": WORDS})),
)
def test_all_at_once_is_each_by_itself(conditions: list[list[Matcher]], label_sets: list[dict[str, str]]) -> None:
    index = MatcherIndex(conditions)
    for labels in label_sets:
        alone = [index for index, matchers in enumerate(conditions) if all_match(matchers, labels)]
        assert list(set_bits(index.matching(labels))) == alone


def test_patterns_that_are_too_much_at_once_are_asked_one_by_one() -> None:
    conditions = [parse_matchers(f'a=~"(.*[a-f].{{80}}){{3}}.*{n}"') for n in range(200)]
    index = MatcherIndex(conditions)
    value = "abcdefghij" * 60 + "17"
    assert list(set_bits(index.matching({"a": value}))) == [7, 17]
    assert index.matching({"a": "x"}) == 0
