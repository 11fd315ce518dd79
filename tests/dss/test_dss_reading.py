"""Reading projects, scenarios, runs, steps and jobs, in good and in odd shapes."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from tocsin.dss import DSSInvalidReply, DSSScenarioRunDetails, DSSStepRunDetails

START = 1_759_276_803_120  # 2025-10-01T00:00:03.120Z
END = 1_759_277_103_500


class FixedClock:
    def now(self) -> datetime:
        return datetime(2025, 10, 1, 1, 0, 3, 120_000, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0


def run(
    id: str = "R", outcome: str | None = "SUCCESS", start: int = START, end: int = END, **more: Any
) -> dict[str, Any]:
    raw = {
        "scenario": {"projectKey": "P", "id": "S", "markedAsTest": False},
        "runId": id,
        "start": start,
        "end": end if outcome else 0,
        "trigger": {"trigger": {"id": "t", "type": "temporal"}, "runId": "F"},
    }
    if outcome:
        raw["result"] = {"type": "SCENARIO_DONE", "outcome": outcome, "start": start, "end": end}
    return raw | more


def history(*runs: dict[str, Any]) -> Any:
    """Answers get-last-runs as DSS does: newest first, limited, the running ones left out on request."""

    def answer(request: Any) -> list[dict[str, Any]]:
        finished_only = request.query["onlyFinishedRuns"] == "True"
        seen = [r for r in runs if "result" in r or not finished_only]
        return seen[: int(request.query["limit"])]

    return answer


async def scenario_with(serve: Any, connect: Any, answer: Any) -> Any:
    return connect(await serve(answer), clock=FixedClock()).get_project("P").get_scenario("S")


async def test_a_finished_run_tells_its_outcome_times_and_trigger(serve: Any, connect: Any) -> None:
    [seen] = await (await scenario_with(serve, connect, [run(outcome="WARNING")])).get_last_runs()
    assert (seen.id, seen.running, seen.outcome, seen.good) == ("R", False, "WARNING", True)
    assert seen.start_time == datetime(2025, 10, 1, 0, 0, 3, 120_000, tzinfo=UTC)
    assert seen.end_time == datetime(2025, 10, 1, 0, 5, 3, 500_000, tzinfo=UTC)
    assert seen.duration == 300.38
    assert seen.trigger == {"id": "t", "type": "temporal"}
    assert seen.get_info() is seen.get_raw()


async def test_a_running_run_has_neither_outcome_nor_end_but_a_duration_until_now(serve: Any, connect: Any) -> None:
    [seen] = await (await scenario_with(serve, connect, [run(outcome=None)])).get_last_runs()
    assert (seen.running, seen.good, seen.duration) == (True, False, 3600.0)
    with pytest.raises(ValueError, match="no outcome yet"):
        _ = seen.outcome
    with pytest.raises(ValueError, match="has not ended"):
        _ = seen.end_time


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"start": "yesterday", "end": None, "result": None},
        {"start": True, "end": 1e300, "result": {"outcome": 7}},
        {"start": float("inf"), "end": -1, "result": {"outcome": None, "end": []}, "trigger": "x", "scenario": 1},
        {"start": 10**30, "trigger": {"trigger": None}},
    ],
)
async def test_an_odd_run_reads_without_a_crash(serve: Any, connect: Any, odd: dict[str, Any]) -> None:
    [seen] = await (await scenario_with(serve, connect, [odd])).get_last_runs()
    assert (seen.start_time, seen.duration, seen.trigger) == (None, 0.0, {})
    assert seen.running or seen.outcome == "UNKNOWN"
    with pytest.raises(DSSInvalidReply, match="without runId"):
        _ = seen.id


async def test_items_of_which_nothing_can_be_said_are_left_out_of_lists_but_not_of_raw_ones(
    serve: Any, connect: Any
) -> None:
    broken = [None, "x", 3, [run()], run("R1")]
    scenario = await scenario_with(serve, connect, broken)
    assert [seen.id for seen in await scenario.get_last_runs()] == ["R1"]
    assert await scenario.get_last_runs_raw() == broken
    client = connect(await serve([None, {"id": "S"}, {"projectKey": "P"}, {"projectKey": 3}, "y"]))
    assert await client.list_project_keys() == ["P"]
    assert await client.list_projects() == [{"projectKey": "P"}]
    assert len(await client.list_projects_raw()) == 5
    project = client.get_project("P")
    assert len(await project.list_scenarios()) == 3
    assert [scenario.id for scenario in await project.list_scenarios("objects")] == ["S"]
    assert len(await client.list_running_scenarios()) == 3
    assert len(await project.list_jobs()) == 3


@pytest.mark.parametrize("answer", [{}, {"items": []}, "null", '"x"'])
async def test_a_list_that_is_none_is_an_invalid_reply(serve: Any, connect: Any, answer: Any) -> None:
    scenario = await scenario_with(serve, connect, answer)
    with pytest.raises(DSSInvalidReply, match="a JSON list was expected"):
        await scenario.get_last_runs()


async def test_the_current_run_is_the_newest_if_it_runs(serve: Any, connect: Any) -> None:
    scenario = await scenario_with(serve, connect, history(run("R2", None), run("R1")))
    current = await scenario.get_current_run()
    assert current is not None
    assert current.id == "R2"
    idle = await scenario_with(serve, connect, history(run("R1")))
    assert await idle.get_current_run() is None


async def test_the_last_finished_run_may_have_failed_the_last_successful_one_not(serve: Any, connect: Any) -> None:
    runs = [run("now", None), run("bad", "FAILED"), run("gone", "ABORTED"), run("warned", "WARNING"), run("good")]
    scenario = await scenario_with(serve, connect, history(*runs))
    assert (await scenario.get_last_finished_run()).id == "bad"
    assert (await scenario.get_last_successful_run()).id == "warned"


async def test_a_success_far_back_is_found_and_none_at_all_is_a_value_error(serve: Any, connect: Any) -> None:
    failures = [run(f"R{n}", "FAILED") for n in range(150)]
    far = await scenario_with(serve, connect, history(*failures, run("good")))
    assert (await far.get_last_successful_run()).id == "good"
    never = await scenario_with(serve, connect, history(*failures))
    with pytest.raises(ValueError, match="P/S has no successful run"):
        await never.get_last_successful_run()


async def test_the_average_duration_counts_good_runs_only(serve: Any, connect: Any) -> None:
    def lasting(seconds: int, outcome: str) -> dict[str, Any]:
        return run(outcome=outcome, end=START + seconds * 1000)

    runs = [
        lasting(1, "FAILED"),
        lasting(10, "SUCCESS"),
        lasting(20, "WARNING"),
        lasting(99, "ABORTED"),
        lasting(60, "SUCCESS"),
    ]
    scenario = await scenario_with(serve, connect, history(*runs))
    assert await scenario.get_average_duration() == 30.0
    assert await scenario.get_average_duration(limit=2) == 15.0
    assert await scenario.get_average_duration(limit=4) is None


@pytest.mark.parametrize(
    ("bounds", "query"),
    [
        ((date(2025, 9, 1), date(2025, 10, 1)), "fromDate=2025-09-01&toDate=2025-10-01"),
        (("2025-09-01",), "fromDate=2025-09-01&toDate=2025-10-03"),
        ((datetime(2025, 9, 1, 23), datetime(2025, 10, 1)), "fromDate=2025-09-01&toDate=2025-10-01"),
        (
            (datetime(2025, 9, 1, 1, tzinfo=timezone(timedelta(hours=2))), datetime(2025, 9, 1, 23, tzinfo=UTC)),
            "fromDate=2025-08-30&toDate=2025-09-03",
        ),
    ],
)
async def test_dates_are_the_servers_days_and_moments_are_read_with_a_margin(
    serve: Any, connect: Any, bounds: tuple[Any, ...], query: str
) -> None:
    dss = await serve([])
    await connect(dss, clock=FixedClock()).get_project("P").get_scenario("S").get_runs_by_date(*bounds)
    assert dss.targets == [f"/dip/publicapi/projects/P/scenarios/S/get-runs-by-date?{query}"]


async def test_moments_bound_runs_exactly_and_the_newest_comes_first(serve: Any, connect: Any) -> None:
    runs = [run("a", start=START), run("c", start=START + 2_000), run("b", start=START + 1_000)]
    scenario = await scenario_with(serve, connect, runs)
    start = datetime(2025, 10, 1, 0, 0, 3, 120_000, tzinfo=UTC)
    seen = await scenario.get_runs_by_date(start, start + timedelta(seconds=2))
    assert [r.id for r in seen] == ["b", "a"]


def step(outcome: str | None = "SUCCESS", items: Any = (), thrown: Any = None, **more: Any) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "step": {"id": "build", "name": "Build x", "type": "build_flowitem"},
        "start": START,
        "end": END if outcome else 0,
        "additionalReportItems": list(items),
    }
    if outcome:
        raw["result"] = {"outcome": outcome} | ({"thrown": thrown} if thrown else {})
    return raw | more


async def test_details_give_steps_jobs_and_the_first_error(serve: Any, connect: Any) -> None:
    job = {"type": "JOB_EXECUTED", "jobId": "J1", "outcome": "FAILED", "thrown": {"message": "in the job"}}
    steps = [
        step(items=[{"type": "JOB_EXECUTED", "jobId": "J0"}]),
        step("FAILED", [job]),
        step("FAILED", thrown={"message": "later"}),
    ]
    scenario = await scenario_with(serve, connect, {"scenarioRun": run(outcome="FAILED"), "stepRuns": steps})
    details = await (await scenario.get_run("R")).get_details()
    assert [s.job_ids for s in details.steps] == [["J0"], ["J1"], []]
    assert details.first_error_details == {"message": "in the job"}
    assert details.last_step.first_error_details == {"message": "later"}
    first = details.steps[0]
    assert (first.id, first.name, first.type, first.outcome) == ("build", "Build x", "build_flowitem", "SUCCESS")
    assert (first.duration, first.running) == (300.38, False)
    assert details["stepRuns"] == steps


def test_a_step_that_threw_by_itself_tells_that_before_its_jobs() -> None:
    items = [{"outcome": "FAILED", "thrown": {"message": "job"}}]
    assert DSSStepRunDetails(step("FAILED", items, {"message": "step"})).first_error_details == {"message": "step"}


@pytest.mark.parametrize(
    "odd", [{}, {"stepRuns": None}, {"stepRuns": "x"}, {"stepRuns": [None, {}, {"result": None, "step": 1}]}]
)
def test_details_without_steps_or_results_are_empty_not_a_crash(odd: dict[str, Any]) -> None:
    details = DSSScenarioRunDetails(odd)
    assert details.first_error_details is None
    assert details.scenario_run == {}
    assert [(s.outcome, s.running, s.duration, s.job_ids) for s in details.steps] == [
        (None, True, None, []) for _ in details.steps
    ]


def test_an_ongoing_step_has_no_outcome_yet() -> None:
    ongoing = DSSStepRunDetails(step(None))
    assert (ongoing.running, ongoing.outcome, ongoing.duration, ongoing.first_error_details) == (True, None, None, None)


async def test_refresh_reads_the_run_again_and_keeps_it_if_dss_leaves_it_out(serve: Any, connect: Any) -> None:
    answers = iter([{"scenarioRun": run(outcome=None)}, {"scenarioRun": run()}, {"stepRuns": []}])
    scenario = await scenario_with(serve, connect, lambda request: next(answers))
    seen = await scenario.get_run("R")
    await seen.refresh()
    assert seen.outcome == "SUCCESS"
    await seen.refresh()
    assert seen.outcome == "SUCCESS"


async def test_reports_are_for_test_scenarios_only(serve: Any, connect: Any) -> None:
    scenario = await scenario_with(serve, connect, [run(), run(scenario={"markedAsTest": True})])
    plain, test = await scenario.get_last_runs()
    with pytest.raises(ValueError, match="test scenario"):
        await plain.get_report()
    with pytest.raises(ValueError, match="test scenario"):
        await plain.get_step_run_report("x")
    assert (await test.get_report()).startswith(b"[")


async def test_status_and_list_items_tell_what_they_know(serve: Any, connect: Any) -> None:
    item = {
        "id": "S",
        "name": "Nightly",
        "active": True,
        "running": True,
        "start": START,
        "nextRun": END,
        "tags": ["a", 1],
    }
    client = connect(await serve(lambda r: item if r.path.endswith("/light") else [item, {"id": "T", "nextRun": 0}]))
    nightly, bare = await client.get_project("P").list_scenarios()
    assert (nightly.id, nightly.name, nightly.active, nightly.running, nightly.tags) == (
        "S",
        "Nightly",
        True,
        True,
        ["a"],
    )
    assert (bare.name, bare.active, bare.running, bare.start_time, bare.next_run) == ("T", False, False, None, None)
    status = await nightly.to_scenario().get_status()
    assert (status.active, status.running) == (True, True)
    assert (status.start_time, status.next_run) == (nightly.start_time, nightly.next_run)
    assert status.get_raw() == item


async def test_a_list_in_an_unknown_form_is_refused(connect: Any, serve: Any) -> None:
    with pytest.raises(ValueError, match="as_type"):
        await connect(await serve([])).get_project("P").list_scenarios("dicts")


async def test_the_node_tells_who_it_is(serve: Any, connect: Any) -> None:
    info = await connect(
        await serve({"nodeId": "n1", "nodeName": "prod", "nodeType": "AUTOMATION"})
    ).get_instance_info()
    assert (info.node_id, info.node_name, info.node_type) == ("n1", "prod", "AUTOMATION")


async def test_the_default_project_is_the_one_that_the_client_was_given(connect: Any) -> None:
    assert connect("http://dss", default_project_key="P").get_default_project().project_key == "P"
    with pytest.raises(ValueError, match="default_project_key"):
        connect("http://dss").get_default_project()


async def test_testing_status_counts_outcomes(serve: Any, connect: Any) -> None:
    raw = {"nbTotalRanScenarios": 3, "nbScenariosPerOutcome": {"SUCCESS": 2, "FAILED": 1, "x": None}}
    status = await connect(await serve(raw)).get_project("P").get_testing_status()
    assert (status.nb_total_ran_scenarios, status.nb_scenarios_per_outcome) == (3, {"SUCCESS": 2, "FAILED": 1})
    assert status.get_raw() == raw


async def test_jobs_of_both_shapes_tell_their_names_and_times(serve: Any, connect: Any) -> None:
    shapes = [
        {"projectKey": "P", "jobId": "J", "startTime": START, "endTime": 0},
        {"def": {"projectKey": "P", "id": "K"}},
    ]
    client = connect(await serve(shapes))
    first, second = await client.list_running_jobs()
    assert [(j.project_key, j.job_id, j.to_job().id) for j in (first, second)] == [("P", "J", "J"), ("P", "K", "K")]
    assert (first.start_time is not None, first.end_time, second.start_time) == (True, None, None)
