"""The pure parts: cadence, health, trust, reading, inventory."""

import random
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from math import inf

import pytest

from tests.watch.scenes import EARLY, KEY, T0, at, ran
from tocsin.dss import (
    DSSForbidden,
    DSSInvalidReply,
    DSSNotFound,
    DSSServerError,
    DSSThrottled,
    DSSUnauthorized,
    DSSUnreachable,
)
from tocsin.kit.clock import to_ms
from tocsin.model.event import DownReason
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.store.scenarios import ProjectRow, ScenarioRow
from tocsin.watch.cadence import Rank, Reason, ScenarioState, next_poll
from tocsin.watch.circuit import Health, Sign, read_sign
from tocsin.watch.discovery import (
    ListTime,
    StartChanges,
    compare_projects,
    compare_scenarios,
    expected_changes,
    may_give_up,
    worth_writing,
)
from tocsin.watch.poll import late_before
from tocsin.watch.read import (
    ListedProject,
    ListedScenario,
    ParsedList,
    read_details,
    read_follows,
    read_projects,
    read_running,
    read_runs,
    read_scenarios,
)
from tocsin.watch.sweep import SweepSeries, confirms

# --- cadence ---------------------------------------------------------------------------------------------------------

NOW = 1000.0  # on the monotonic clock, when DSS's shows T0


def pace(
    polled_ago: float | None = None,
    *,
    seen_before: bool = False,
    sighted: bool | None = None,
    sighted_ago: float = inf,
    running_for: float | None = None,
    expected_in: float | None = None,
    ended_ago: float | None = None,
    followed_ago: float | None = None,
    **more: object,
) -> ScenarioState:
    """A scenario as the schedule knows it at ``NOW``; all are seconds, None: does not apply."""
    last_end = None if ended_ago is None else at(-ended_ago)
    key = ScenarioKey("prod", "SALES", "A")
    row = ScenarioRow(key, "A", (), None, True, None, (), watched_since=EARLY, last_end=last_end)
    return ScenarioState(
        replace(row, polled_at=T0 if seen_before else None),
        open_runs=() if running_for is None else (ran(-running_for),),
        pending=() if expected_in is None else (at(expected_in - 60),),
        polled_at=None if polled_ago is None else NOW - polled_ago,
        hinted=sighted is not None,
        running_hint="run" if sighted else None,
        differs_since=NOW - sighted_ago,
        followed_at=None if followed_ago is None else NOW - followed_ago,
        **{"tried_at": NOW} | more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("scenario", "by_sweep", "seconds", "rank", "reason"),
    [
        (pace(), False, 0, Rank.ROUTINE, Reason.BASELINE),
        (pace(seen_before=True), False, 0, Rank.ROUTINE, Reason.BACKFILL),
        (pace(seen_before=True, sighted=True), False, 0, Rank.NUDGED, Reason.BACKFILL),
        (pace(seen_before=True, sighted=False), False, 0, Rank.ROUTINE, Reason.BACKFILL),
        (pace(seen_before=True, sighted=False, running_for=20.0), False, 0, Rank.NUDGED, Reason.BACKFILL),
        (pace(100.0), False, 3500, Rank.ROUTINE, Reason.MAX_INTERVAL),
        (pace(100.0, sighted=True, sighted_ago=1.0), True, 0, Rank.NUDGED, Reason.SWEEP),
        (pace(100.0, sighted=True, sighted_ago=1.0), False, 0, Rank.NUDGED, Reason.FLAGS),
        (pace(0.0, sighted=True, sighted_ago=1.0, unconfirmed=1), False, 1, Rank.NUDGED, Reason.FLAGS),
        (pace(0.0, sighted=True, sighted_ago=1.0, unconfirmed=4), False, 8, Rank.NUDGED, Reason.FLAGS),
        (pace(0.0, sighted=True, running_for=20.0), True, 300, Rank.ROUTINE, Reason.RUNNING),
        (pace(0.0, running_for=20.0), False, 5, Rank.ROUTINE, Reason.RUNNING),
        (pace(0.0, running_for=400.0), False, 40, Rank.ROUTINE, Reason.RUNNING),
        (pace(100.0, expected_in=50.0), False, 50, Rank.NUDGED, Reason.EXPECTED),
        (pace(100.0, expected_in=-2.0), False, -2, Rank.NUDGED, Reason.EXPECTED),
        (pace(0.0, expected_in=-3.0), False, 5, Rank.NUDGED, Reason.EXPECTED),
        (pace(0.0, expected_in=-600.0), False, 200, Rank.NUDGED, Reason.EXPECTED),
        (pace(0.0, followed_ago=90.0), False, 30, Rank.NUDGED, Reason.FOLLOW),
        (pace(0.0, ended_ago=300.0), False, 100, Rank.ROUTINE, Reason.RECENT),
        (pace(100.0, failures=1), False, 1, Rank.NUDGED, Reason.RETRY),
        (pace(100.0, failures=9), False, 256, Rank.ROUTINE, Reason.RETRY),
        (pace(100.0, failures=2, forbidden=True), False, 240, Rank.ROUTINE, Reason.RETRY),
    ],
)
def test_when_the_next_poll_is_due_and_why(
    scenario: ScenarioState, by_sweep: bool, seconds: float, rank: Rank, reason: Reason
) -> None:
    due = next_poll(scenario, NOW, T0, by_sweep=by_sweep, max_interval=3600.0)
    assert (due.seconds, due.rank, due.reason) == (seconds, rank, reason)


# --- health ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "probe", "sign"),
    [
        (None, False, Sign.ALIVE),
        (DSSThrottled(), True, Sign.THROTTLED),
        (DSSUnreachable("refused"), False, DownReason.UNREACHABLE),
        (DSSUnauthorized(), False, DownReason.UNAUTHORIZED),
        (DSSForbidden(), False, Sign.NOTHING),
        (DSSForbidden(), True, DownReason.FORBIDDEN),
        (DSSInvalidReply(), False, DownReason.INVALID_REPLY),
        (DSSNotFound(error_type="x.NotFoundException"), False, Sign.ALIVE),
        (DSSNotFound(), False, DownReason.INVALID_REPLY),
        (DSSServerError(status=502), False, DownReason.UNREACHABLE),
    ],
)
def test_what_an_answer_says_about_the_node(error: None, probe: bool, sign: Sign | DownReason) -> None:
    assert read_sign(error, probe=probe) is sign


def closed_health() -> Health:
    health = Health(0.0)
    assert (health.open, health.down) == (True, False)
    health.close(0.0)
    return health


@pytest.mark.parametrize(
    ("sign", "every", "failures"),
    [
        (DownReason.UNREACHABLE, 2.0, 3),
        (DownReason.UNREACHABLE, 1.0, 5),
        (DownReason.UNREACHABLE, 0.01, 8),
        (DownReason.FORBIDDEN, 0.01, 1),
        (Sign.THROTTLED, 1.0, 62),
        (Sign.NOTHING, 1.0, None),
    ],
)
def test_how_many_failures_in_a_row_open_the_circuit(
    sign: Sign | DownReason, every: float, failures: int | None
) -> None:
    health = closed_health()
    needed = None
    for number in range(1, 100):
        health.answered(sign, "", number * every)
        if health.open:
            needed = number
            break
    assert (needed, health.down) == (failures, failures is not None)


def test_errors_sprinkled_at_random_open_no_circuit() -> None:
    chance, health = random.Random(11), closed_health()
    for number in range(100_000):
        health.answered(DownReason.UNREACHABLE if chance.random() < 0.08 else Sign.ALIVE, "", number / 80)
        assert not health.open


def test_a_dead_node_is_probed_at_pauses_that_only_failed_probes_make_longer() -> None:
    health = closed_health()
    for _ in range(50):  # as many as were in flight
        health.answered(DownReason.UNREACHABLE, "", 10.0)
    assert (health.open, health.pause) == (True, 1.0)
    pauses = []
    for _ in range(20):
        health.answered(DownReason.UNAUTHORIZED, "no", 11.0, probe=True)
        pauses.append(health.pause)
    assert (health.open, health.down, health.reason) == (True, True, DownReason.UNAUTHORIZED)
    assert all(before <= after <= 1.5 * before for before, after in pairwise(pauses))
    assert (pauses[0], pauses[-1]) == (1.0, 60.0)


# --- trust -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "seen", "expected"),
    [
        (100.0, 120.0, None, True),
        (100.0, 120.0, 50.0, True),
        (100.0, 120.0, 101.0, False),
        (100.0, 105.0, None, False),
        (-50.0, 8.0, None, False),
    ],
    ids=["never seen", "only an older run was", "seen", "too short", "before the sweeps began"],
)
def test_a_long_run_that_no_sweep_showed_ends_the_trust(
    start: float, end: float, seen: float | None, expected: bool
) -> None:
    assert SweepSeries(since=0.0, until=500.0, interval=2.0).contradicts(start, end, seen) is expected


def test_a_sweep_on_trial_must_show_all_that_runs() -> None:
    assert confirms({("P", "A"), ("P", "B")}, {("P", "A")})
    assert not confirms({("P", "A")}, {("P", "A"), ("P", "B")})
    assert not confirms({("P", "A")}, set())


# --- reading ---------------------------------------------------------------------------------------------------------


def test_foreign_items_among_the_runs_are_counted_and_the_others_are_read() -> None:
    raw = [
        None,
        "foreign",
        {},
        {"runId": 7, "start": 1000},
        {"runId": "x", "start": "yesterday"},
        {"runId": "other", "start": 1000, "scenario": {"id": "ELSEWHERE"}},
        {"runId": "a", "start": 1000, "end": 2000, "result": {"outcome": "FAILED"}, "trigger": None},
        {"runId": "a", "start": 1000, "end": 0},
        {"runId": "b\0", "start": 1000},
    ]
    reading = read_runs(raw, KEY, T0)
    assert [(seen.run.run_id, seen.run.outcome) for seen in reading.items] == [("a", "FAILED")]
    assert (reading.invalid, reading.example) == (7, "null")


def test_a_run_has_ended_once_it_has_a_result() -> None:
    start, end = 1_772_366_400_000, 1_772_366_460_000

    def outcome(**more: object) -> str | None:
        (seen,) = read_runs([{"runId": "a", "start": start, **more}], KEY, T0).items
        return seen.run.outcome

    assert outcome(end=0) is None
    assert outcome(end=end) is None
    assert outcome(end=end - 10**7) == "UNKNOWN"
    assert outcome(end=end, result={"outcome": None}) == "UNKNOWN"
    assert outcome(end=None, result={"outcome": "SUCCESS", "end": end}) == "SUCCESS"
    assert outcome(end=end, result={"outcome": "NEW\ud800"}) == "NEW?"


@pytest.mark.parametrize(("minutes_ago", "outcome"), [(9, None), (10, "UNKNOWN")])
def test_a_run_without_result_was_lost_once_its_successor_has_long_begun(minutes_ago: int, outcome: str | None) -> None:
    next_start = to_ms(T0 - timedelta(minutes=minutes_ago))
    raw = [{"runId": "b", "start": next_start}, {"runId": "a", "start": next_start - 1000, "end": 0}]
    newest, lost = read_runs(raw, KEY, T0).items
    assert (newest.run.outcome, lost.run.outcome) == (None, outcome)
    assert lost.run.end == (newest.run.start if outcome else None)


def test_a_copy_of_the_definition_and_the_trigger_tell_whom_a_scenario_follows() -> None:
    follow = {"type": "follow_scenariorun", "params": {"scenarioId": "LOAD"}}
    other = {"type": "follow_scenariorun", "params": {"scenarioId": "X", "projectKey": "P2"}}
    off = {"type": "follow_scenariorun", "active": False, "params": {"scenarioId": "Y"}}
    raw = [
        {"runId": "c", "start": 3000},
        {"runId": "b", "start": 2000, "trigger": {"trigger": follow}},
        {"runId": "a", "start": 1000, "scenario": {"triggers": [follow, other, off, None]}},
    ]
    follows = [seen.follows for seen in read_runs(raw, KEY, T0).items]
    assert follows == [None, (("SALES", "LOAD"),), (("SALES", "LOAD"), ("P2", "X"))]


def test_lists_and_futures_that_make_no_sense_are_empty() -> None:
    for raw in (None, {}, "x", 7, {"message": "no"}):
        assert read_projects(raw).invalid == read_running(raw).invalid == read_scenarios(raw, "n", "P").invalid == 1
    target = {"projectKey": "P", "objectId": "S"}
    futures = [
        {"jobId": "j", "payload": {"targets": [{"objectType": "JOB"}, target]}},
        {"jobId": "k", "alive": False, "payload": {"targets": [target]}},
        {"jobId": "l", "payload": None},
    ]
    assert read_running(futures) == ParsedList(((("P", "S"), "j"),), 1, '{"jobId": "l", "payload": null}')


def test_details_of_another_run_under_the_same_id_are_not_taken() -> None:
    key = RunKey(KEY, "x", at(0))
    assert read_details({"scenarioRun": {"runId": "x", "start": 1000}}, key, T0).problem is not None
    assert read_details({}, key, T0).problem is None


# --- inventory -------------------------------------------------------------------------------------------------------

PROJECT = ProjectRow("prod", "SALES", "Sales", T0)


def row(scenario: str, **more: object) -> ScenarioRow:
    key = ScenarioKey("prod", "SALES", scenario)
    base = ScenarioRow(key, scenario, (), None, True, None, (), watched_since=T0, watermark=EARLY)
    return replace(base, **more)  # type: ignore[arg-type]


def listed(*scenarios: str, invalid: int = 0, **more: object) -> ParsedList[ListedScenario]:
    seen = (
        ListedScenario(ScenarioKey("prod", "SALES", id_), id_, active=True, **more)  # type: ignore[arg-type]
        for id_ in scenarios
    )
    return ParsedList(tuple(seen), invalid)


def compare(
    known: list[ScenarioRow], seen: ParsedList[ListedScenario], counts: bool = True, **more: object
) -> dict[str, ScenarioRow]:
    when = ListTime(at(50), at(50), **more)  # type: ignore[arg-type]
    rows = compare_scenarios(
        PROJECT,
        {one.key.scenario: one for one in known},
        seen,
        lambda id_, tags: "off" not in tags,
        lambda row: counts,
        when,
    )
    return {one.key.scenario: one for one in rows}


def test_a_new_scenario_counts_since_its_project_does_unless_its_scope_is_new() -> None:
    assert compare([], listed("A"))["A"].watched_since == T0
    assert compare([], listed("A"), newcomers_since=at(40))["A"].watched_since == at(40)


def test_what_a_list_lacks_is_missing_once_more_and_what_it_shows_is_not() -> None:
    known = [row("A", missing=2), row("B", missing=1)]
    found = compare(known, listed("B"))
    assert (found["A"].missing, found["B"].missing) == (3, 0)
    assert "A" not in compare(known, listed("B", invalid=1))
    assert "A" not in compare(known, listed("B"), counts=False)


def test_a_scenario_that_was_gone_goes_on_where_it_was() -> None:
    found = compare([row("A", gone_at=at(9), missing=3, backfilled=True)], listed("A"))["A"]
    assert (found.gone_at, found.missing, found.backfilled, found.watched_since) == (None, 0, False, T0)


def test_a_scenario_whose_tags_leave_the_scope_is_gone_at_once() -> None:
    assert compare([row("A")], listed("A", tags=("off",)))["A"].gone_at == at(50)


def test_projects_come_go_missing_and_return() -> None:
    known = {key: replace(PROJECT, project=key) for key in ("A", "B", "C")}
    known["C"] = replace(known["C"], gone_at=at(1), missing=3)
    seen = ParsedList((ListedProject("A", "New name"), ListedProject("C"), ListedProject("D"), ListedProject("X")))
    changed = compare_projects(known, seen, "prod", lambda key: key != "X", lambda _: at(7))
    rows = {one.project: (one.name, one.in_scope_since, one.missing, one.gone_at) for one in changed}
    assert rows == {
        "A": ("New name", T0, 0, None),
        "B": ("Sales", T0, 1, None),
        "C": (None, at(7), 0, None),
        "D": (None, at(7), 0, None),
    }


@pytest.mark.parametrize(
    ("counts", "watched", "expected"),
    [([3], 1, True), ([3, 3], 10, True), ([3, 3, 3], 10, False), ([300] * 9, 10, True), ([3, 3], 2, False)],
)
def test_over_a_fifth_at_once_is_not_believed_for_a_day(counts: list[int], watched: int, expected: bool) -> None:
    assert may_give_up(counts, watched) is expected


def test_an_announced_start_is_expected_until_it_is_taken_back() -> None:
    soon, later = at(100), at(200)
    assert expected_changes([], row("A", next_run=soon), T0) == StartChanges((soon,))
    near = soon + timedelta(seconds=20)
    assert expected_changes([soon], row("A", next_run=near), T0) == StartChanges()
    assert expected_changes([soon], row("A", next_run=later), T0) == StartChanges((later,), (soon,))
    assert expected_changes([soon], row("A", next_run=later), at(150)) == StartChanges((later,))
    assert expected_changes([soon, later], row("A", active=False, next_run=later), at(150)) == StartChanges(
        (), (soon, later)
    )
    assert expected_changes([soon], row("A"), T0) == StartChanges((), (soon,))


@pytest.mark.parametrize(
    ("what", "written", "pending", "expected"),
    [
        ("is new", None, (), True),
        ("says what was written just now", row("A", status_read_at=at(40)), (), False),
        ("says what was written a minute ago", row("A", status_read_at=at(-11)), (), True),
        ("is otherwise than what was written", row("A", status_read_at=at(40), active=False), (), True),
        ("tells of a start that is overdue", row("A", status_read_at=at(40)), (at(30), at(90)), True),
        ("tells of a start to come", row("A", status_read_at=at(40)), (at(90),), False),
    ],
)
def test_what_a_list_says_is_written_if_it(
    what: str, written: ScenarioRow | None, pending: tuple[datetime, ...], expected: bool
) -> None:
    seen = row("A", status_read_at=at(50))
    assert worth_writing(seen, written, pending, ListTime(at(50), at(50))) is expected, what


@pytest.mark.parametrize(
    ("what", "resumed", "here", "ever", "expected"),
    [
        ("polled lately", 50, 1, 1, None),
        ("not polled for long in this life", 50, 4, 4, 0),
        ("after a short restart", 0.1, None, 0.2, 0.1),
        ("after a long downtime", 0.1, None, 9, 0.1),
        ("its project could not be read for long", 50, None, 8, 0),
        ("its project could not be read since the start", 8, None, 50, 0),
        ("its project could not be read for a moment", 50, None, 0.5, 50),
        ("never polled", 50, None, None, 50),
    ],
)
def test_what_happened_while_nobody_could_poll_is_late(
    what: str, resumed: float, here: float | None, ever: float | None, expected: float | None
) -> None:
    def hours(number: float | None) -> timedelta | None:
        return None if number is None else timedelta(hours=number)

    found = late_before(T0, T0 - timedelta(hours=resumed), hours(here), hours(ever), timedelta(hours=3))
    assert found == (None if expected is None else T0 - timedelta(hours=expected)), what


@pytest.mark.parametrize(("warnings", "read"), [
    ({"totalCount": 2, "warnings": {"CHECK": {"count": 2, "stored": [{"message": "2 checks returned a warning"}]}}},
     [("Check", "2 checks returned a warning", 2)]),
    ({"warnings": {"CHECK": {"count": 3, "stored": [{"message": "a"}, {"message": "b"}, {"message": "a"}]}}},
     [("Check", "a", 2), ("Check", "b", 1)]),
    ({"warnings": {"INPUT_DATA_BAD_ROWS": {"count": 7}}}, [("Check", "INPUT_DATA_BAD_ROWS", 7)]),
    ({"warnings": {"X": {"count": "many", "stored": ["no object", {"message": 3}]}, "Y": None}}, [("Check", "X", 1)]),
    ({"warnings": ["no mapping"]}, []),
    ("nothing", []),
    (None, []),
])  # fmt: skip
def test_a_warning_has_its_reason(warnings: object, read: list[tuple[str, str, int]]) -> None:
    run = RunKey(ScenarioKey("n", "p", "s"), "r", T0)
    step = {"step": {"id": "c", "name": "Check"}, "result": {"outcome": "WARNING", "warnings": warnings}}
    details = read_details({"stepRuns": [step]}, run, T0)
    assert [(warning.step, warning.message, warning.count) for warning in details.warnings] == read


def test_a_scenario_follows_those_that_trigger_it_and_those_that_its_steps_run() -> None:
    definition = {
        "triggers": [
            {"type": "follow_scenariorun", "active": True, "params": {"scenarioId": "LOAD"}},
            {"type": "follow_scenariorun", "active": False, "params": {"scenarioId": "OFF"}},
            {"type": "temporal", "params": {"scenarioId": "NONE"}},
        ],
        "params": {
            "steps": [
                {"type": "run_scenario", "params": {"scenarioId": "CHECK", "projectKey": "OTHER"}},
                {"type": "run_scenario", "enabled": False, "params": {"scenarioId": "SKIPPED"}},
                {"type": "kill_scenario", "params": {"scenarioId": "NONE"}},
                "nonsense",
            ]
        },
    }
    assert read_follows(definition, "SALES") == (("SALES", "LOAD"), ("OTHER", "CHECK"))
    assert read_follows({"params": "nonsense"}, "SALES") == ()
