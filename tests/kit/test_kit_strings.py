import json

from hypothesis import given
from hypothesis import strategies as st

from tocsin.kit.strings import json_beginning, json_text, storable

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too


@given(ANY_TEXT, st.integers(0, 50))
def test_a_storable_text_has_an_encoding_no_nul_and_a_bound(text: str, length: int) -> None:
    clean = storable(text, length)
    clean.encode()
    assert "\0" not in clean
    assert len(clean) <= length


@given(
    st.recursive(st.none() | st.integers() | ANY_TEXT, lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner))
)
def test_any_value_has_json_that_can_be_printed(value: object) -> None:
    text = json_text(value)
    text.encode()
    assert json.loads(text) == value


def test_letters_stay_letters_in_printed_json() -> None:
    assert json_text({"name": "Zürich"}) == '{\n  "name": "Zürich"\n}'


def test_the_beginning_of_a_value_is_had_however_deep_or_long_it_is() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert json_beginning(deep, 5) == "[[[[["
    assert json_beginning({"a": ["x" * 10_000]}, 12) == '{"a": ["xxxx'
