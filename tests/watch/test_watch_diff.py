from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.watch.scenes import EARLY, T0, at, poll_result, ran, told
from tocsin.model.event import FailedReporter
from tocsin.model.run import Run
from tocsin.model.scenario import match_starts
from tocsin.store.runs import StoredRun, StoredRuns
from tocsin.store.scenarios import ScenarioProgress
from tocsin.watch.diff import diff
from tocsin.watch.read import ListedRun

LONG_AGO = ScenarioProgress(watched_since=EARLY, watermark=EARLY)


def known(*runs: Run, **more: object) -> StoredRuns:
    return {
        (run.run_id, run.start): StoredRun(None if run.end else run, **more)  # type: ignore[arg-type]
        for run in runs
    }


def test_several_fast_runs_between_two_polls_give_each_start_and_end_in_order() -> None:
    found = diff({}, poll_result([ran(0, 1), ran(5, 6, "FAILED"), ran(9)], now=10), LONG_AGO)
    assert told(found.events) == [
        ("run.started", "run-0"),
        ("run.finished", "run-0"),
        ("run.started", "run-5"),
        ("run.failed", "run-5"),
        ("run.started", "run-9"),
    ]
    assert [event.time for event in found.events] == [at(0), at(1), at(5), at(6), at(9)]
    assert [event.previous_outcome for event in found.events] == [None, None, "SUCCESS", "SUCCESS", "FAILED"]
    assert found.cursor == at(9)
    assert (found.last_end, found.last_outcome) == (at(6), "FAILED")


def test_what_is_known_makes_nothing_more_even_if_it_reads_differently_now() -> None:
    before = known(ran(0, 1), ran(5))
    found = diff(before, poll_result([ran(0, 3, "FAILED"), ran(0), ran(5)], now=10), LONG_AGO)
    assert (found.runs, found.events) == ((), ())


def test_the_end_of_a_known_open_run_is_told_once() -> None:
    found = diff(known(ran(0)), poll_result([ran(0, 9, "ABORTED")], now=10), LONG_AGO)
    assert told(found.events) == [("run.aborted", "run-0")]
    assert [(change.run.end, change.ended) for change in found.runs] == [(at(9), True)]


@pytest.mark.parametrize(
    ("run", "events"),
    [
        (ran(-20, -10), []),
        (ran(-20, 5), ["run.finished"]),
        (ran(-20), []),
        (ran(0, 5), ["run.started", "run.finished"]),
        (ran(3), ["run.started"]),
        (ran(3, -3600), ["run.started", "run.finished"]),
    ],
    ids=[
        "ended before",
        "started before",
        "runs since before",
        "starts with it",
        "starts later",
        "seems to end before",
    ],
)
def test_what_the_beginning_of_the_watch_means_for_a_run(run: Run, events: list[str]) -> None:
    found = diff({}, poll_result([run], now=10), ScenarioProgress(watched_since=T0, watermark=EARLY))
    assert [event.name.value for event in found.events] == events
    assert [change.run for change in found.runs] == [run]
    assert [change.baseline for change in found.runs] == [not events and run.end is not None]


def test_a_run_before_the_watermark_makes_no_event_unless_it_is_known_as_open() -> None:
    past = ScenarioProgress(watched_since=EARLY, watermark=at(100))
    assert diff({}, poll_result([ran(0, 1)], now=200), past).runs == ()
    found = diff(known(ran(0)), poll_result([ran(0, 150)], now=200), past)
    assert told(found.events) == [("run.finished", "run-0")]


def test_what_ended_before_the_horizon_of_the_backfill_is_only_remembered() -> None:
    found = diff({}, poll_result([ran(0, 10), ran(20, 200)], now=300, max_age=200), LONG_AGO)
    assert told(found.events) == [("run.started", "run-20"), ("run.finished", "run-20")]
    assert [change.baseline for change in found.runs] == [True, False]


def test_two_runs_in_one_millisecond_are_two_runs() -> None:
    found = diff({}, poll_result([ran(0, 1, run_id="a"), ran(0, 1, run_id="b")], now=10), LONG_AGO)
    assert told(found.events) == [
        ("run.started", "a"),
        ("run.finished", "a"),
        ("run.started", "b"),
        ("run.finished", "b"),
    ]
    assert len({event.id for event in found.events}) == 4


def test_one_run_id_an_hour_apart_is_two_runs() -> None:
    found = diff(
        known(ran(0, 1, run_id="x")), poll_result([ran(3600, run_id="x"), ran(0, 1, run_id="x")], now=3601), LONG_AGO
    )
    assert told(found.events) == [("run.started", "x")]


def test_what_happened_in_a_downtime_is_late_and_tells_at_its_start_that_it_is_over() -> None:
    found = diff({}, poll_result([ran(0, 1), ran(20, 60)], now=100, late_before=50), LONG_AGO)
    assert [event.late for event in found.events] == [True, True, True, False]
    assert [event.run.end for event in found.events if event.run] == [at(1), at(1), at(60), at(60)]
    now = diff({}, poll_result([ran(20, 60)], now=100), LONG_AGO)
    assert [event.run.end for event in now.events if event.run] == [None, at(60)]


def test_an_open_run_that_dss_forgets_is_closed_without_an_outcome_after_a_while() -> None:
    first = diff(known(ran(0)), poll_result([], now=100), LONG_AGO)
    assert (first.events, [change.absent_since for change in first.runs]) == ((), [at(100)])
    absent = known(ran(0), absent_since=at(100))
    assert diff(absent, poll_result([], now=200), LONG_AGO).runs == ()
    back = diff(absent, poll_result([ran(0)], now=200), LONG_AGO)
    assert [change.absent_since for change in back.runs] == [None]
    last = diff(absent, poll_result([], now=100 + 600), LONG_AGO)
    assert told(last.events) == [("run.finished", "run-0")]
    assert [(event.run.end, event.run.outcome) for event in last.events if event.run] == [(at(100), "UNKNOWN")]


def test_a_run_that_dss_does_not_know_by_its_id_is_closed_at_the_second_poll_whatever_the_list_holds() -> None:
    unreadable = poll_result([ran(500, 501)], now=1000, whole=False, all_history=False)
    lost = frozenset({("run-0", at(0))})
    first = diff(known(ran(0)), replace(unreadable, unknown=lost), LONG_AGO)
    assert [change.absent_since for change in first.runs if not change.ended] == [at(1000)]
    absent = known(ran(0), absent_since=at(1000))
    soon = replace(unreadable, unknown=lost, now=at(1010))
    assert [change for change in diff(absent, soon, LONG_AGO).runs if change.run.run_id == "run-0"] == []
    last = diff(absent, replace(unreadable, unknown=lost, now=at(1020)), LONG_AGO)
    assert [(e.run.end, e.run.outcome) for e in last.events if e.run and e.run.run_id == "run-0"] == [
        (at(1000), "UNKNOWN")
    ]
    young = replace(unreadable, unknown=lost, now=at(50))
    assert diff(known(ran(0)), young, LONG_AGO).runs == diff({}, young, LONG_AGO).runs


def test_the_open_run_of_a_scenario_that_is_gone_is_over_at_once() -> None:
    found = diff(known(ran(0)), replace(poll_result([], now=10), gone=True), LONG_AGO)
    assert told(found.events) == [("run.finished", "run-0")]
    assert [(change.run.outcome, change.run.end) for change in found.runs] == [("UNKNOWN", at(10))]


@pytest.mark.parametrize(
    "blind",
    [
        poll_result([ran(500, 501)], now=1000, all_history=False),
        poll_result([], now=1000, whole=False),
        poll_result([], now=30),
    ],
    ids=["the reply does not reach it", "something was unreadable", "the reply is older than the run"],
)
def test_an_open_run_is_absent_only_if_the_reply_would_have_shown_it(blind: object) -> None:
    assert [change for change in diff(known(ran(0)), blind, LONG_AGO).runs if change.absent_since] == []  # type: ignore[arg-type]


def test_a_poll_with_something_unreadable_does_not_move_the_cursor() -> None:
    assert diff({}, poll_result([ran(0, 1)], now=10, whole=False), LONG_AGO).cursor is None


def reporters(run: Run, *names: str) -> ListedRun:
    return ListedRun(run, tuple(FailedReporter(name, "mail-scenario", "no route") for name in names))


def test_a_reporter_that_failed_is_an_event_with_or_after_the_end_but_not_days_later() -> None:
    fresh = diff({}, poll_result([reporters(ran(0, 1), "mail", "chat")], now=10), LONG_AGO)
    assert [event.name.value for event in fresh.events][2:] == ["reporter.failed", "reporter.failed"]
    assert [event.reporter.name for event in fresh.events if event.reporter] == ["mail", "chat"]
    soon = diff(known(ran(0, 1), end_seen_at=at(2)), poll_result([reporters(ran(0, 1), "mail")], now=10), LONG_AGO)
    assert told(soon.events) == [("reporter.failed", "run-0")]
    later = poll_result([reporters(ran(0, 1), "mail")], now=86_400)
    assert diff(known(ran(0, 1), end_seen_at=at(2)), later, LONG_AGO).events == ()
    baseline = ScenarioProgress(watched_since=at(5), watermark=EARLY)
    assert diff({}, poll_result([reporters(ran(0, 1), "mail")], now=10), baseline).events == ()


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([ran(61, 70)], {0: "met"}),
        ([ran(61, 70, trigger="manual")], {}),
        ([ran(61, 70, trigger="sql_query")], {0: "met"}),
        ([ran(1800, 1900, trigger="sql_query")], {}),
        ([ran(5000, trigger="temporal")], {60: "met"}),
        ([ran(-30, 30, trigger="manual")], {0: "withdrawn"}),
        ([ran(-30, -10, trigger="manual")], {}),
        ([ran(-30)], {0: "withdrawn", 60: "withdrawn"}),
        ([ran(61, 70), ran(3661, 3700)], {0: "met", 60: "met"}),
    ],
)
def test_which_expected_starts_a_run_settles(runs: Iterable[Run], expected: dict[float, str]) -> None:
    pending = [T0, T0 + timedelta(minutes=60)]
    assert match_starts(pending, list(runs)) == {T0 + timedelta(minutes=m): state for m, state in expected.items()}
