"""Addresses: what people write, what is meant, and that what is printed can be typed back in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.cli.dss.address import (
    Address,
    AddressPart,
    InvalidAddress,
    format_address,
    listing_address,
    run_address,
    scenario_address,
)


@pytest.mark.parametrize(
    ("text", "node", "project", "scenario"),
    [
        ("SALES/NIGHTLY", None, "SALES", "NIGHTLY"),
        ("prod/SALES/NIGHTLY", "prod", "SALES", "NIGHTLY"),
        ("SALES/a%2Fb", None, "SALES", "a/b"),
        ("SALES/été 1", None, "SALES", "été 1"),
        ("SALES/100%", None, "SALES", "100%"),
        ("SALES/%2A", None, "SALES", "*"),
    ],
)
def test_an_address_names_a_scenario(text, node, project, scenario):
    address = scenario_address(text)
    assert (address.node and address.node.exact, address.project.exact, address.scenario.exact) == (
        node,
        project,
        scenario,
    )
    assert not address.is_glob


@pytest.mark.parametrize(
    ("text", "run"),
    [
        ("SALES/X", "last"),
        ("SALES/X/current", "current"),
        ("SALES/X/2026-01-01-00-00-00-000", "2026-01-01-00-00-00-000"),
        ("prod/SALES/X/last", "last"),
    ],
)
def test_a_run_is_an_id_last_or_current(text, run):
    assert run_address(text).run == run


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (scenario_address, "SALES"),
        (scenario_address, "a/b/c/d"),
        (scenario_address, "SALES/"),
        (scenario_address, "/X"),
        (scenario_address, "SALES/.."),
        (scenario_address, "SALES/%2E"),
        (scenario_address, "SALES/a\x1b[2J"),
        (scenario_address, "SALES/\udcff"),
        (run_address, "SALES"),
        (run_address, "SALES/*"),
        (run_address, "a/b/c/d/e"),
        (listing_address, ""),
    ],
)
def test_what_is_no_address_is_refused(read, text):
    with pytest.raises(InvalidAddress):
        read(text)


@pytest.mark.parametrize(
    ("pattern", "identifier", "matches"),
    [
        ("NIGHTLY_*", "NIGHTLY_A", True),
        ("NIGHTLY_*", "nightly_a", False),
        ("*", "a/b", True),
        ("A[12]", "A1", True),
        ("A[12]", "A[12]", True),
        ("A?", "A12", False),
        ("%2A", "*", True),
        ("%2A", "X", False),
        ("x%2A*", "x*y", True),
        ("x%2A*", "xyz", False),
    ],
)
def test_globs_match_as_in_the_shell_and_encoded_signs_stand_for_themselves(pattern, identifier, matches):
    assert AddressPart(pattern).matches(identifier) is matches


def test_a_project_alone_lists_all_its_scenarios():
    assert listing_address("SALES") == Address(None, AddressPart("SALES"), AddressPart("*"))


@given(st.lists(st.text(min_size=1).filter(lambda t: t not in (".", "..") and t.isprintable()), min_size=3, max_size=3))
def test_what_is_shown_can_be_typed_back_in(parts):
    address = scenario_address(format_address(*parts))
    assert [part and part.exact for part in (address.node, address.project, address.scenario)] == parts
    assert not address.is_glob
    assert address.scenario.matches(parts[2])


def test_three_parts_that_begin_with_a_node_name_its_last_run():
    assert run_address("prod/SALES/NIGHTLY", ["prod"]) == Address(
        AddressPart("prod"), AddressPart("SALES"), AddressPart("NIGHTLY"), "last"
    )
    assert run_address("SALES/NIGHTLY/1", ["prod"]) == Address(None, AddressPart("SALES"), AddressPart("NIGHTLY"), "1")
