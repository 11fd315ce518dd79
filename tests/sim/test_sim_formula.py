"""The formula language of conditions and messages."""

import pytest

from tocsin.sim.formula import UnreadableFormula, evaluate_formula, fill_template, is_true

KNOWN = {"outcome": "FAILED", "n": 3, "deep": {"a b": [1, {"c": "x"}]}, "flag": True, "none": None, "import": "odd"}


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("outcome == 'FAILED'", True),
        ('outcome != "FAILED"', False),
        ("outcome == 'FAILED' || outcome == 'ABORTED'", True),
        ("outcome == 'x' || n > 2 && n <= 3", True),
        ("!(flag)", False),
        ("!flag || !!flag", True),
        ("n + 1", 4),
        ("'a' + n", "a3"),
        ('deep["a b"][1].c', "x"),
        ("deep.nothing", None),
        ("if(outcome == 'FAILED', 'bad', 'good')", "bad"),
        ("toLowercase(outcome) == 'failed' && startsWith(outcome, 'F') && length(outcome) == 6", True),
        (r"'it\'s'", "it's"),
        ("not(contains(outcome, 'x')) && isNull(none)", True),
        ("import", "odd"),
        ("n == '3'", True),
        ("true", True),
        ("'&& || !'", "&& || !"),
        ("10 > 9", True),
    ],
)
def test_formulas_have_values(formula, value):
    assert evaluate_formula(formula, KNOWN) == value


@pytest.mark.parametrize(
    "formula",
    ["", "outcome ==", "a or b", "flag and flag", "unknown == 1", "f(1)", "if(1)", "1 2", "outcome; n", "(" * 500, "'x",
     "n > 'x'", "lambda: 1", "n.__class__ + (1)(2)", "[1]", "n if n else n", "1 < 2 < 3", "__import__('os')", "n - 1"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(formula):
    with pytest.raises(UnreadableFormula):
        evaluate_formula(formula, KNOWN)


def test_places_in_a_text_are_filled():
    assert fill_template("${outcome}: ${n + 1} ${flag} ${unknown}${none}.", KNOWN) == "FAILED: 4 true ."
    with pytest.raises(UnreadableFormula):
        fill_template("${unknown}", KNOWN, strict=True)


@pytest.mark.parametrize(
    ("value", "met"), [("true", True), ("TRUE", True), ("yes", False), (0, False), (2, True), (None, False)]
)
def test_values_as_answers(value, met):
    assert is_true(value) is met
