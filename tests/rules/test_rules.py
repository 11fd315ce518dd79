"""Rules as pure functions: tables, and that batches and restarts make no difference."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.config.model import Flapping, Rule
from tocsin.model.event import Event, EventName, ScenarioFacts, end_event_name, run_event_id
from tocsin.model.labels import parse_matcher
from tocsin.model.rule_state import AnyRuleState
from tocsin.model.run import Run, ScenarioKey
from tocsin.model.scenario import NodeView, ScenarioView
from tocsin.rules import compile_rule
from tocsin.rules.rule import Fired, Resolved, RuleStatus, RuleView, Updated, expand_variables
from tocsin.rules.starts import Cohort, group_moments

T0 = datetime(2026, 3, 2, 6, tzinfo=UTC)
KEY = ScenarioKey("prod", "SALES", "NIGHTLY")
SIGHT = ScenarioView(KEY, "Nightly", ("b", "a"), active=True)
OUTCOMES = st.sampled_from(["SUCCESS", "WARNING", "FAILED", "FAILED", "ABORTED", "ODD"])


def view(now: datetime) -> RuleView:
    return RuleView(now, NodeView("prod", up=True), SIGHT, base_url="https://dss")


def end(index: int, outcome: str) -> Event:
    start = T0 + timedelta(hours=index)
    run = Run(KEY, f"r{index}", start, start + timedelta(minutes=5), outcome)
    name = end_event_name(outcome)
    facts = ScenarioFacts("NIGHTLY", "Nightly", ("a", "b"))
    return Event(run_event_id(run, name), name, "prod", run.end or start, start, "SALES", facts, run)


def play(rule: Rule, outcomes: Iterable[str], *, hold_until: int = 0) -> list[str]:
    """What changes over a row of runs; the first ``hold_until`` are read back together."""
    compiled = compile_rule(rule)
    state: AnyRuleState | None = None
    said: list[str] = []
    for index, outcome in enumerate(outcomes):
        event = end(index, outcome)
        state = compiled.on_event(state, event)
        if state is None or index + 1 < hold_until:
            continue
        seen = view(event.time)
        state, change = compiled.apply(compiled.evaluate(state, seen), seen, event.time)
        match change:
            case Fired(alert):
                said.append(f"{index} fired {alert.count}")
            case Updated(alert):
                said.append(f"{index} {alert.count}")
            case Resolved():
                said.append(f"{index} resolved")
            case None:
                pass
    return said


@pytest.mark.parametrize(
    ("after", "resolve_after", "outcomes", "expected"),
    [
        (1, 1, "FSF", ["0 fired 1", "1 resolved", "2 fired 1"]),
        (1, 1, "FFW", ["0 fired 1", "1 2", "2 resolved"]),
        (3, 1, "FFSFFF", ["5 fired 3"]),
        (3, 1, "FAFAF", ["4 fired 3"]),
        (1, 2, "FSFSS", ["0 fired 1", "2 2", "4 resolved"]),
        (1, 2, "FSAS", ["0 fired 1", "3 resolved"]),
        (2, 2, "FSFF", ["3 fired 2"]),
        (1, 1, "SSAA", []),
        (1, 1, "FO", ["0 fired 1"]),
        (1, 1, "LS", ["0 fired 1", "1 resolved"]),
        (2, 1, "LF", ["1 fired 2"]),
    ],
)
def test_failures_in_a_row_fire_and_good_runs_resolve(
    after: int, resolve_after: int, outcomes: str, expected: list[str]
) -> None:
    words = {"F": "FAILED", "S": "SUCCESS", "W": "WARNING", "A": "ABORTED", "O": "ODD", "L": "UNKNOWN"}
    rule = Rule("X", "failed", after=after, resolve_after=resolve_after)
    assert play(rule, [words[letter] for letter in outcomes]) == expected


@pytest.mark.parametrize(
    ("outcomes", "changes", "within", "expected"),
    [
        # the fourth turn is a good run: it goes on firing, and three good runs in a row end it
        ("FSFSSS", 4, 6, ["0 fired 1", "1 resolved", "2 fired 1", "3 1", "5 resolved"]),
        ("FSFSFSSS", 4, 8, ["0 fired 1", "1 resolved", "2 fired 1", "3 1", "4 2", "7 resolved"]),
        # what flapped and is steady again begins anew
        ("FSFSSSFSF", 4, 9, ["0 fired 1", "1 resolved", "2 fired 1", "3 1", "5 resolved", "6 fired 1", "7 resolved", "8 fired 1"]),
        # turns that are too old do not count
        ("FSFSFS", 4, 2, ["0 fired 1", "1 resolved", "2 fired 1", "3 resolved", "4 fired 1", "5 resolved"]),
        # the third turn is a bad run: it fires as what it is
        ("FSFSSS", 3, 6, ["0 fired 1", "1 resolved", "2 fired 1", "5 resolved"]),
        ("FFFSAFFFSSS", 4, 11, ["0 fired 1", "1 2", "2 3", "3 resolved", "5 fired 1", "6 2", "7 3", "8 3", "10 resolved"]),
    ],
)  # fmt: skip
def test_what_turns_often_goes_on_firing_until_it_is_steady(
    outcomes: str, changes: int, within: int, expected: list[str]
) -> None:
    words = {"F": "FAILED", "S": "SUCCESS", "A": "ABORTED"}
    rule = Rule("X", "failed", flapping=Flapping(changes, timedelta(hours=within), 3))  # a run an hour
    assert play(rule, [words[letter] for letter in outcomes]) == expected


def test_a_good_run_that_is_far_shorter_than_usual_fires_until_one_is_not() -> None:
    compiled = compile_rule(Rule("X", "short", below_usual=0.2, min_runs=4))

    def ends(index: int, minutes: float, earlier: Sequence[float]) -> RuleStatus:
        start = T0 + timedelta(hours=index)
        run = Run(KEY, f"r{index}", start, start + timedelta(minutes=minutes), "SUCCESS")
        facts = ScenarioFacts("NIGHTLY", "Nightly")
        name = EventName.RUN_FINISHED
        event = Event(run_event_id(run, name), name, "prod", start, start, "SALES", facts, run)
        event = replace(event, time=run.end or start)
        state = compiled.on_event(None, event)
        assert compiled.evaluate(state, view(event.time)).status is RuleStatus.UNKNOWN
        durations = [timedelta(minutes=each) for each in (minutes, *earlier)]
        return compiled.evaluate(state, replace(view(event.time), durations=durations)).status

    assert ends(0, 1, [10, 10, 10]) is RuleStatus.INACTIVE  # too few
    assert ends(0, 1, [10, 10, 10, 10]) is RuleStatus.FIRING
    assert ends(0, 2, [10, 10, 10, 10]) is RuleStatus.INACTIVE


def test_aborted_counts_where_a_rule_says_so() -> None:
    rule = Rule("X", "failed", outcomes=("FAILED", "ABORTED", "WARNING"))
    assert play(rule, ["ABORTED", "WARNING", "SUCCESS"]) == ["0 fired 1", "1 2", "2 resolved"]


def test_a_lost_run_is_told_in_words_and_fires_nothing_where_a_rule_leaves_it_out() -> None:
    compiled = compile_rule(Rule("X", "failed"))
    state = compiled.on_event(None, end(0, "UNKNOWN"))
    assert state
    content = compiled.evaluate(state, view(T0)).content
    assert content
    assert "DSS lost this run" in content.summary
    assert "DSS lost this run" in content.description
    assert play(Rule("X", "failed", outcomes=("FAILED",)), ["UNKNOWN"]) == []


@given(st.lists(OUTCOMES, min_size=1, max_size=12), st.integers(1, 3), st.integers(1, 3), st.integers(1, 12))
def test_reading_back_ends_where_living_through_it_ends(
    outcomes: list[str], after: int, resolve_after: int, hold: int
) -> None:
    flapping = Flapping(3, timedelta(hours=9), 2)
    rule = Rule("X", "failed", after=after, resolve_after=resolve_after, flapping=flapping)
    lived = play(rule, outcomes)
    read_back = play(rule, outcomes, hold_until=min(hold, len(outcomes)))

    def firing(said: Sequence[str]) -> bool:
        return bool(said) and not said[-1].endswith("resolved")

    assert firing(lived) == firing(read_back)
    assert len(read_back) <= len(lived)


def test_an_alert_carries_labels_that_do_not_change_and_words_that_do() -> None:
    rule = Rule(
        "X", "failed", labels={"team": "sales"}, annotations={"runbook": "https://wiki/${project}/${unknown}", "summary": "${scenario_name}: ${count}"}
    )  # fmt: skip
    compiled = compile_rule(rule)
    state = compiled.on_event(None, end(0, "FAILED"))
    assert state
    _, change = compiled.apply(compiled.evaluate(state, view(T0)), view(T0), T0)
    assert isinstance(change, Fired)
    assert change.alert.labels == {
        "alertname": "X", "severity": "warning", "dss_node": "prod", "project": "SALES", "scenario": "NIGHTLY",
        "scenario_name": "Nightly", "tags": ",a,b,", "team": "sales",
    }  # fmt: skip
    assert change.alert.annotations == {
        "summary": "Nightly: 1",
        "description": "Run r0 ended FAILED; failing since 2026-03-02 06:05:00 UTC.",
        "scenario_url": "https://dss/projects/SALES/scenarios/NIGHTLY/",
        "runbook": "https://wiki/SALES/${unknown}",
    }


def test_odd_ids_stand_encoded_in_the_address_of_a_scenario() -> None:
    address = ScenarioKey("prod", "SALES", "à la carte/2").url("https://dss/")
    assert address == "https://dss/projects/SALES/scenarios/%C3%A0%20la%20carte%2F2"


def test_a_rule_is_known_by_what_it_watches_not_by_how_strict_it_is() -> None:
    plain = Rule("X", "failed")
    assert compile_rule(replace(plain, after=3)).id == compile_rule(plain).id
    others = [
        replace(plain, alert="Y"),
        replace(plain, kind="stale"),
        replace(plain, labels={"a": "b"}),
        replace(plain, severity="critical"),
        replace(plain, match=(parse_matcher("a=b"),)),
    ]
    assert len({compile_rule(rule).id for rule in (plain, *others)}) == 6


def test_events_about_other_things_leave_a_state_as_it_is() -> None:
    started = replace(end(0, "FAILED"), name=EventName.REPORTER_FAILED)
    for kind in ("failed", "missed", "overlong", "stale", "node_down"):
        assert compile_rule(Rule("X", kind)).on_event(None, started) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cohort", "stalled", "undecided"),
    [
        ((0, 10, 0), True, False),
        ((0, 9, 0), False, False),
        ((0, 9, 1), False, True),
        ((40, 10, 0), True, False),
        ((41, 10, 0), False, False),
        ((41, 10, 1), False, True),
        ((100, 5, 10), False, False),
    ],
)
def test_a_cohort_is_stalled_from_a_fifth_and_ten_on(
    cohort: tuple[int, int, int], stalled: bool, undecided: bool
) -> None:
    met, missed, unseen = cohort
    one = Cohort(T0, T0, met, missed, unseen)
    assert (one.stalled, one.undecided) == (stalled, undecided)


def test_starts_that_lie_close_together_are_one_group() -> None:
    moments = [T0 + timedelta(minutes=minute) for minute in (0, 40, 14, 28)]
    assert group_moments(moments) == [(T0, T0 + timedelta(minutes=40))]
    assert group_moments([T0, T0 + timedelta(minutes=16)]) == [(T0, T0), (T0 + timedelta(minutes=16),) * 2]


def test_a_value_in_an_annotation_is_not_filled_again() -> None:
    hostile = "${severity} {{ 7 * 7 }} ${count}"
    rule = Rule("X", "failed", annotations={"runbook": "${scenario_name} ${count}", "summary": "${tags}"})
    seen = replace(SIGHT, name=hostile, tags=(hostile,))
    compiled = compile_rule(rule)
    state = compiled.on_event(None, end(0, "FAILED"))
    assert state
    hostile_view = replace(view(T0), scenario=seen)
    _, change = compiled.apply(compiled.evaluate(state, hostile_view), hostile_view, T0)
    assert isinstance(change, Fired)
    assert change.alert.annotations["runbook"] == f"{hostile} 1"
    assert change.alert.annotations["summary"] == f",{hostile},"


def test_unknown_variables_of_an_annotation_stay() -> None:
    assert expand_variables("${a} ${b} $c ${d", {"a": "1", "c": "2"}) == "1 ${b} $c ${d"
