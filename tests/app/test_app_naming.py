"""The name of a node that no file names stays what it was at the first start."""

import pytest

from tocsin.app.run import choose_name


@pytest.mark.parametrize(
    ("own", "known", "chosen"),
    [
        pytest.param("design", [], "design", id="a new node is named as it says"),
        pytest.param(None, [], "dss.example.com", id="one that does not say is named by its host"),
        pytest.param("design", ["design"], "design", id="a known one keeps its name"),
        pytest.param(None, ["design"], "design", id="also while it does not answer"),
        pytest.param("design", ["dss.example.com"], "dss.example.com", id="a name by host stays"),
        pytest.param("design", ["another"], "design", id="another node is another"),
        pytest.param(None, ["one", "two"], "dss.example.com", id="of several none is guessed"),
    ],
)
def test_a_known_name_is_kept(own: str | None, known: list[str], chosen: str) -> None:
    assert choose_name(own, "dss.example.com", known) == chosen
