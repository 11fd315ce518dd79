from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.routing.formula import BadFormula, holds, parse

VARIABLES: dict[str, Any] = {
    "outcome": "FAILED",
    "projectKey": "SALES",
    "scenarioTriggerParam_n": "12",
    "flag": True,
    "none": None,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("outcome != 'SUCCESS'", True),
        ('outcome == "FAILED" || outcome == "ABORTED"', True),
        ("outcome == 'SUCCESS' && projectKey == 'SALES'", False),
        ("!(outcome == 'SUCCESS')", True),
        ("outcome == 'SUCCESS' || outcome == 'FAILED' && projectKey == 'SALES'", True),
        ("scenarioTriggerParam_n > 9", True),
        ("scenarioTriggerParam_n == 12.0", True),
        ("-1 < 0 && 2 >= 2 && 1 <= 1 && !(1 > 1)", True),
        ("projectKey < 'T'", True),
        ("outcome == 12", False),
        ("flag", True),
        ("flag == false", False),
        ("none == null", True),
        (r"outcome == 'it\'s'", False),
        ("true || unknown == 1", True),
    ],
)
def test_conditions_are_evaluated(text: str, expected: bool) -> None:
    assert holds(text, VARIABLES) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "outcome",
        "outcome ==",
        "outcome == 'SUCCESS' or outcome == 'FAILED'",
        "unknown == 'x'",
        "outcome > 3",
        "none < 3",
        "(outcome == 'x'",
        "if(outcome == 'x', true, false)",
        "outcome = 'x'",
        "outcome == 'x",
        "1 2",
        "(" * 100 + "true" + ")" * 100,
        "!" * 1000 + "true",
        "outcome == 12abc",
    ],
)
def test_what_cannot_be_read_or_evaluated_says_so(text: str) -> None:
    with pytest.raises(BadFormula):
        holds(text, VARIABLES)


def test_a_bad_formula_names_the_place() -> None:
    with pytest.raises(BadFormula, match=r"expected an operator such as && or == at position 8, found 'or'"):
        parse("outcome or x")


@given(st.text(alphabet="ab1'\"()!&|=<>- .\\", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(BadFormula):
        holds(text, {"a": "x", "b": 1.0})
