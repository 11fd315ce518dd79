import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.model.labels import BadMatcher, Matcher, Op, matchers_text, parse_matcher, parse_matchers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", ("a", "=", "b")),
        (' a != "b c" ', ("a", "!=", "b c")),
        ("a=~x|y", ("a", "=~", "x|y")),
        ("a!~", ("a", "!~", "")),
        (r'a="\"\\\n\t"', ("a", "=", '"\\\n\\t')),
        ("a=\\", ("a", "=", "\\")),
        ('"a b"="c"', ("a b", "=", "c")),
        (r'"é\u00e9"="\t"', ("éé", "=", "\t")),
        ("é=x", ("é", "=", "x")),
        ("a:b_1=x", ("a:b_1", "=", "x")),
    ],
)
def test_both_writings_are_read(text: str, expected: tuple[str, str, str]) -> None:
    name, op, value = expected
    assert parse_matcher(text) == Matcher(name, Op(op), value)


@pytest.mark.parametrize(
    "text", ["", "a", "=b", 'a="b', 'a=b"', 'a="b"c', "a=~[", '""="b"', "{a=b}", 'a="\\"', '"a\\q"=b']
)
def test_what_alertmanager_refuses_is_refused(text: str) -> None:
    with pytest.raises(BadMatcher):
        parse_matcher(text)


def test_a_list_is_split_at_commas_outside_quotes() -> None:
    parsed = parse_matchers(r'{a="b,c", d=~"e\",f", "g h"=i,}')
    assert [str(one) for one in parsed] == ['a="b,c"', r'd=~"e\",f"', '"g h"="i"']
    assert parse_matchers("") == ()
    assert parse_matchers("a={x}") == parse_matchers("{a={x")


@given(st.text(min_size=1), st.sampled_from([Op.EQUAL, Op.NOT_EQUAL]), st.text())
def test_what_is_printed_is_read_back(name: str, op: Op, value: str) -> None:
    matcher = Matcher(name, op, value)
    assert parse_matcher(str(matcher)) == matcher
    assert parse_matchers(matchers_text([matcher])) == (matcher,)


def test_an_absent_label_is_empty_and_regexes_are_anchored() -> None:
    assert parse_matcher("a=").matches({})
    assert parse_matcher("a!=b").matches({})
    assert parse_matcher("a=~b*").matches({})
    assert not parse_matcher("a=~b").matches({"a": "abc"})
    assert parse_matcher("a=~b|abc").matches({"a": "abc"})
