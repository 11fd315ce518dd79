r"""Matchers are read and printed as Alertmanager 0.27 and later does in its default mode.

The tables hold what its parsers (``matcher/parse``, ``matcher/compat``, ``pkg/labels``) make of a text: the UTF-8
reading, the classic one, and which of them counts where both accept a text.
"""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tocsin.model.labels import (
    LONGEST_PATTERN,
    MOST_EXPANSIONS,
    BadMatcher,
    Matcher,
    Op,
    matchers_text,
    parse_matcher,
    parse_matchers,
)

LISTS: list[tuple[str, str]] = [  # a list, and how it is printed
    ("", "{}"),
    ("{}", "{}"),
    (" { } ", "{}"),
    ("{foo=bar}", '{foo="bar"}'),
    ("{foo=bar,}", '{foo="bar"}'),
    ("foo=bar, ", '{foo="bar"}'),
    ("{foo!=bar}", '{foo!="bar"}'),
    ("{foo=~[a-z]+}", '{foo=~"[a-z]+"}'),
    ("foo!~[a-z]+", '{foo!~"[a-z]+"}'),
    ("{foo=🙂bar}", '{foo="🙂bar"}'),
    ("{foo=bar,bar!=baz}", '{bar!="baz",foo="bar"}'),
    ('{"foo"="bar","bar"!="baz",}', '{bar!="baz",foo="bar"}'),
    ('foo="bar", baz!~".*quux", derp="wat"', '{baz!~".*quux",derp="wat",foo="bar"}'),
    ('{foo="bar,quux", job="job1"}', '{foo="bar,quux",job="job1"}'),
    (r'{quote="She said: \"Hi, ladies! It is…\""}', r'{quote="She said: \"Hi, ladies! It is…\""}'),
    (r'a != "\"" , b !~ "x,y" , ', r'{a!="\"",b!~"x,y"}'),
    # Space and newlines around braces; the classic reading refuses them.
    ('\n{ foo = "bar" }\n', '{foo="bar"}'),
    ('{\n  foo="bar",\n  baz=~"x|y",\n}', '{baz=~"x|y",foo="bar"}'),
    ('{foo="bar"} ', '{foo="bar"}'),
    ("\u00a0{foo=bar}\u2003", '{foo="bar"}'),
    # Escapes of the UTF-8 reading: bytes, octal ones too, code points, letters.
    (r'{"foo"="\xf0\x9f\x99\x82"}', '{foo="🙂"}'),
    (r'{"foo"="\360\237\231\202"}', '{foo="🙂"}'),
    (r'{"foo"="\U0001f642\u00e9"}', '{foo="🙂é"}'),
    (r'{"\xc3\xa9"="x"}', '{é="x"}'),
    (r'{"foo"="\t\n\\\""}', '{foo="\t\\n\\\\\\""}'),
    (r'{"foo"=~"\\d+"}', r'{foo=~"\\d+"}'),
    # Where both readings accept a text the classic one counts.
    (r'{foo="\xf0\x9f\x99\x82"}', r'{foo="\\xf0\\x9f\\x99\\x82"}'),
    (r'foo="\xf0\x9f"', r'{foo="\\xf0\\x9f"}'),
    (r'foo="a\tb"', r'{foo="a\\tb"}'),
    ("{foo=bar} ", '{foo="bar}"}'),
    ("{foo=bar}}", '{foo="bar}"}'),
    ("foo=bar}", '{foo="bar"}'),
    ("{foo=bar", '{foo="bar"}'),
    ("{", "{}"),
    ("}", "{}"),
    ("{foo=!bar,bar=$baz\\n}", '{bar="$baz\\n",foo="!bar"}'),
    ("job=", '{job=""}'),
    ("tricky=~~~", '{tricky=~"~~"}'),
    (r"trickier==\\=\=\"", r'{trickier="=\\=\\=\""}'),
    ("{foo=,bar=}}", '{bar="}",foo=""}'),
    # What only the UTF-8 reading accepts, the whole list in it.
    ("{foo🙂=bar,bar=baz🙂}", '{bar="baz🙂",foo🙂="bar"}'),
    ("{name-with-dashes = bar, 0=x}", '{0="x",name-with-dashes="bar"}'),
    ('{"foo bar"="baz", foo=bar}', '{foo="bar","foo bar"="baz"}'),
    # A regular expression that the classic reading cannot have is tried in the other one.
    (r'foo=~"\u005ba-c\u005d"', '{foo=~"[a-c]"}'),
    (r'{foo=~"\U0001f642", a=b}', '{a="b",foo=~"🙂"}'),
]  # fmt: skip

REFUSED_LISTS = [
    ",",
    "{,}",
    "foo",
    "=bar",
    "foo!bar",
    "{foo!bar}",
    'foo="bar',
    'foo=bar"',
    '{foo=:"bar"}',
    'foo = foo"bar',
    '{foo=~"invalid[regexp"}',
    '"foo=\\"bar"',
    '"{foo=\\"bar\\"}"',
    "{{foo=",
    '{"foo"="bar"',
    '"foo"="bar"}',
    '{"foo"="bar"}}',
    '"foo"="bar" baz=x',
    '"foo"="bar",,baz=x',
    '"foo"=bar\\n',
    '"foo"=\'bar\'',
    '"foo"="a\nb"',
    r'{"foo"="bar\w"}',
    r'{"foo"=~"\d+"}',
    r'"foo"="\'"',
    r'"foo"="\x4"',
    r'"foo"="\400"',
    # Not UTF-8.
    r'{"foo"="\xf0\x9f"}',
    r'{"foo"="\377"}',
    r'{"foo"="\ud800"}',
    r'{"foo"="\U00110000"}',
    r'{"\xff"="x"}',
    "foo=\ud800",
    # One part for each reading makes a list for neither.
    r'{"g h"=i, d=x\y}',
    # Alertmanager accepts the empty name in routes, where it is of no use, and refuses it in silences.
    '""="bar"',
]  # fmt: skip


@pytest.mark.parametrize(("text", "printed"), LISTS)
def test_a_list_is_read_as_a_whole(text: str, printed: str) -> None:
    assert matchers_text(parse_matchers(text)) == printed


@pytest.mark.parametrize("text", REFUSED_LISTS)
def test_what_alertmanager_refuses_is_refused(text: str) -> None:
    with pytest.raises(BadMatcher):
        parse_matchers(text)
    with pytest.raises(BadMatcher):
        parse_matcher(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", ("a", "=", "b")),
        (' a != "b c" ', ("a", "!=", "b c")),
        ("a=~x|y", ("a", "=~", "x|y")),
        ("a!~", ("a", "!~", "")),
        (r'a="\"\\\n\t"', ("a", "=", '"\\\n\\t')),
        ("a=\\", ("a", "=", "\\")),
        ("a=b,c=d", ("a", "=", "b,c=d")),
        ('"a b"="c"', ("a b", "=", "c")),
        ('"a b"="c",', ("a b", "=", "c")),
        (r'"é\u00e9"="\t"', ("éé", "=", "\t")),
        ("é=x", ("é", "=", "x")),
        ("foo🙂=bar", ("foo🙂", "=", "bar")),
        ("a:b_1=x", ("a:b_1", "=", "x")),
        (r'foo=~"\u005ba\u005d"', ("foo", "=~", "[a]")),
        ("foo=!bar\\n", ("foo", "=", "!bar\n")),
    ],
)
def test_one_matcher_is_read(text: str, expected: tuple[str, str, str]) -> None:
    name, op, value = expected
    assert parse_matcher(text) == Matcher(name, Op(op), value)


@pytest.mark.parametrize("text", ["", "{}", "{a=b}", "a=b}", "a=~x{2}", '"a"=b,c=d'])
def test_one_matcher_has_no_braces_and_is_one(text: str) -> None:
    with pytest.raises(BadMatcher):
        parse_matcher(text)


@pytest.mark.parametrize(
    ("matcher", "printed"),
    [
        (Matcher("foo", Op.EQUAL, r"back\slash"), r'foo="back\\slash"'),
        (Matcher("foo", Op.REGEX, 'double"quote'), r'foo=~"double\"quote"'),
        (Matcher("foo", Op.EQUAL, "new\nline"), r'foo="new\nline"'),
        (Matcher("foo", Op.EQUAL, "tab\tstop"), 'foo="tab\tstop"'),
        (Matcher("foo", Op.EQUAL, "🙂"), 'foo="🙂"'),
        (Matcher("foo!", Op.NOT_EQUAL, "bar"), '"foo!"!="bar"'),
        (Matcher("foo🙂", Op.EQUAL, "bar"), 'foo🙂="bar"'),
        (Matcher("foo bar", Op.EQUAL, "tab\tend\x7f\u00ad\U000e0001"), r'"foo bar"="tab\tend\x7f\u00ad\U000e0001"'),
        (Matcher("a,b", Op.EQUAL, "é"), '"a,b"="é"'),
    ],
)
def test_matchers_are_printed_as_alertmanager_prints_them(matcher: Matcher, printed: str) -> None:
    assert str(matcher) == printed
    assert parse_matcher(printed) == matcher


@given(st.text(min_size=1), st.sampled_from([Op.EQUAL, Op.NOT_EQUAL]), st.text())
@example("{", Op.EQUAL, "}")
@example("\x1c", Op.EQUAL, "\x1c")
def test_what_is_printed_is_read_back(name: str, op: Op, value: str) -> None:
    matcher = Matcher(name, op, value)
    assert parse_matcher(str(matcher)) == matcher
    assert parse_matchers(matchers_text([matcher])) == (matcher,)
    both = Matcher("other", Op.EQUAL, "x"), matcher
    assert set(parse_matchers(matchers_text(both))) == set(both)


@given(st.text(alphabet='ab=~!"\\{},x0f\u00e9\ud800 \n', max_size=12))
def test_whatever_is_written_is_read_or_refused_and_never_half_a_character(text: str) -> None:
    for read in (parse_matchers, parse_matcher):
        try:
            found = read(text)
        except BadMatcher:
            continue
        for matcher in found if isinstance(found, tuple) else (found,):
            str(matcher).encode()
            matcher.matches({matcher.name: "some value"})


def test_an_absent_label_is_empty_and_regexes_are_anchored() -> None:
    assert parse_matcher("a=").matches({})
    assert parse_matcher("a!=b").matches({})
    assert parse_matcher("a=~b*").matches({})
    assert not parse_matcher("a=~b").matches({"a": "abc"})
    assert parse_matcher("a=~b|abc").matches({"a": "abc"})


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("a" * (LONGEST_PATTERN + 1), f"is longer than {LONGEST_PATTERN} characters"),
        (r"\pL" * (MOST_EXPANSIONS + 1), f"more than {MOST_EXPANSIONS} repetitions"),
        ("(x{2}|y{1,3})" * MOST_EXPANSIONS, f"more than {MOST_EXPANSIONS} repetitions"),
        ("a?" * 2001, "more than 2000 of"),
        (r"\pL{500}", "needs more than 512 KiB"),
        ("((.{30}){30}){30}", "cannot be read"),
        ("a{1001}", "cannot be read"),
    ],
)
def test_a_regular_expression_that_costs_too_much_is_refused_in_few_words(pattern: str, reason: str) -> None:
    for _ in range(2):  # the answer is remembered
        with pytest.raises(BadMatcher, match=reason) as refused:
            parse_matcher(f'a=~"{pattern}"'.replace("\\", "\\\\"))
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "pattern",
    [
        "|".join(f"SCENARIO_{number:03}" for number in range(500)),
        "(?i).*(nightly|daily).*",
        "[^x]{1000}",
        r"\pL{20}",
        ".*,(finance|sales|hr),.*",
    ],
)
def test_regular_expressions_of_every_day_are_not_too_costly(pattern: str) -> None:
    matcher = Matcher("a", Op.REGEX, pattern)
    assert parse_matcher(str(matcher)) == matcher
