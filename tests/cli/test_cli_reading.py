"""The verbs that look: what they tell people and scripts."""

import asyncio

import pytest

pytestmark = pytest.mark.e2e

ITEM_KEYS = {
    *("address", "node", "project", "scenario", "name", "type", "active", "running", "start", "next_run"),
    *("triggers", "tags", "test"),
}
RUN_KEYS = {
    *("address", "node", "project", "scenario", "run", "outcome", "start", "end", "duration_seconds"),
    *("trigger", "run_as"),
}


async def test_projects_are_listed(dss):
    assert [(row["project"], row["owner"], row["tags"]) for row in await dss.ask("project", "list")] == [
        ("SALES", "amelie", ["emea"]),
        ("OTHER", "jonas", []),
        ("SANDBOX_1", "admin", []),
    ]


async def test_scenarios_are_listed_and_chosen_by_globs_state_and_tags(dss):
    rows, active, off, daily, other = await asyncio.gather(
        dss.ask("scenario", "list", "SALES"),
        dss.ask("scenario", "list", "SALES/NIGHTLY_*", "--active"),
        dss.ask("scenario", "list", "SALES/NIGHTLY_*", "--inactive"),
        dss.ask("scenario", "list", "--tag", "daily", "--tag", "nothing"),
        dss.ask("scenario", "list", "*/X", "SALES/NIGHTLY_A"),
    )
    assert all(set(row) == ITEM_KEYS for row in rows)
    assert [row["scenario"] for row in rows] == list(dss.sim.world.project("SALES").scenarios)
    assert (rows[0]["tags"], rows[0]["active"], rows[0]["running"]) == (["daily", "finance"], True, False)
    assert rows[0]["next_run"].endswith("Z")
    assert [row["scenario"] for row in active] == ["NIGHTLY_A", "NIGHTLY_B"]
    assert [row["scenario"] for row in off] == ["NIGHTLY_OFF"]
    assert [row["scenario"] for row in daily] == ["NIGHTLY_A", "NIGHTLY_B"]
    assert [(row["project"], row["scenario"]) for row in other] == [
        ("OTHER", "X"),
        ("SANDBOX_1", "X"),
        ("SALES", "NIGHTLY_A"),
    ]


async def test_off_a_terminal_a_table_is_plain_aligned_text(dss):
    said = await dss.run("scenario", "list", "SALES/NIGHTLY_*")
    header, first, *_ = said.lines
    assert header.split()[:4] == ["SCENARIO", "NAME", "ACTIVE", "RUNNING"]
    assert first.split()[:4] == ["127.0.0.1/SALES/NIGHTLY_A", "Nightly", "rebuild", "yes"]
    assert "\x1b" not in said.out + said.err


async def test_one_scenario_is_shown_with_its_last_run(dss):
    row = await dss.ask("scenario", "show", "SALES/NIGHTLY_A")
    assert set(row) == ITEM_KEYS | {*("description", "run_as", "effective_run_as", "steps", "reporters", "last_run")}
    assert (row["run_as"], row["effective_run_as"], row["steps"], row["reporters"]) == (None, "amelie", 2, ["everyone"])
    assert (set(row["last_run"]), row["last_run"]["outcome"]) == (RUN_KEYS, "SUCCESS")


async def test_runs_are_listed_by_count_by_time_and_by_day(dss):
    newest, since, day, none = await asyncio.gather(
        dss.ask("scenario", "runs", "SALES/NIGHTLY_A", "--limit", "2"),
        dss.ask("scenario", "runs", "SALES/NIGHTLY_A", "--from", "52h", "--finished"),
        dss.ask("scenario", "runs", "SALES/NIGHTLY_A", "--from", "2020-01-01", "--to", "2020-02-01T00:00:00Z"),
        dss.ask("scenario", "runs", "SALES/BROKEN"),
    )
    assert all(set(row) == RUN_KEYS for row in newest)
    assert (len(newest), len(day), none) == (2, 0, [])
    assert newest[0]["start"] > newest[1]["start"]
    assert {row["run"] for row in newest} <= {row["run"] for row in since}
    assert 2 <= len(since) <= 3
    assert newest[0]["duration_seconds"] == 4.0
    assert newest[0]["trigger"] == {"type": "temporal", "name": "Night"}
    assert newest[0]["address"] == f"127.0.0.1/SALES/NIGHTLY_A/{newest[0]['run']}"


async def test_next_runs_come_the_soonest_first(dss):
    rows = await dss.ask("scenario", "next-run")
    assert (rows[0]["scenario"], rows[0]["next_run"] is not None) == ("NIGHTLY_A", True)
    assert {row["next_run"] for row in rows[1:]} == {None}


async def test_statistics_count_outcomes_and_measure_good_runs(dss):
    (row,) = await dss.ask("scenario", "stats", "SALES/NIGHTLY_A")
    assert (row["runs"], row["outcomes"], row["success_rate"]) == (5, {"SUCCESS": 3, "FAILED": 2}, 0.6)
    assert (row["median_seconds"], row["p95_seconds"], row["max_seconds"]) == (4.0, 4.0, 4.0)
    assert row["last_success"] > row["last_failure"]
    (empty,) = await dss.ask("scenario", "stats", "SALES/BROKEN")
    assert (empty["runs"], empty["success_rate"], empty["median_seconds"]) == (0, None, None)


async def test_the_definition_its_steps_and_its_code_are_read(dss):
    settings, steps, code = await asyncio.gather(
        dss.ask("scenario", "settings", "SALES/NIGHTLY_A"),
        dss.ask("scenario", "steps", "SALES/NIGHTLY_A"),
        dss.run("scenario", "code", "SALES/SCRIPT"),
    )
    assert settings == dss.definition("NIGHTLY_A")
    assert [(step["id"], step["type"], step["enabled"]) for step in steps] == [
        ("check", "check_dataset", True),
        ("build_flowitem_1", "build_flowitem", True),
    ]
    assert code.out == "print('hello')"


async def test_a_failed_run_tells_its_steps_errors_jobs_and_log(dss):
    said = await dss.run("scenario", "run", "SALES/BROKEN", "--wait")
    assert (said.code, said.err) == (1, "")
    shown, errors, jobs, steps, log, tail, step = await asyncio.gather(
        dss.ask("runs", "show", "SALES/BROKEN/last"),
        dss.ask("runs", "errors", "SALES/BROKEN"),
        dss.ask("runs", "jobs", "SALES/BROKEN"),
        dss.ask("runs", "steps", "SALES/BROKEN"),
        dss.run("runs", "log", "SALES/BROKEN"),
        dss.run("runs", "log", "SALES/BROKEN", "--tail", "20"),
        dss.run("runs", "log", "SALES/BROKEN", "--step", "Build orders"),
    )
    assert set(shown) == RUN_KEYS | {"running", "steps", "first_error"}
    assert (shown["outcome"], shown["running"], shown["trigger"]["type"]) == ("FAILED", False, "manual")
    assert shown["steps"] == steps
    assert [(step["name"], step["outcome"]) for step in steps] == [("Check", "SUCCESS"), ("Build orders", "FAILED")]
    assert (errors[0], len(errors)) == (shown["first_error"], 1)
    assert (errors[0]["step"], errors[0]["code"], errors[0]["message"]) == ("Build orders", "ERR_OOM", "Out of memory")
    assert [(job["job"], job["step"], job["state"]) for job in jobs] == [
        (steps[1]["job_ids"][0], "Build orders", "FAILED")
    ]
    assert log.out.endswith(tail.out)
    assert "Starting step Check" in log.out
    assert "Starting step Check" not in step.out


async def test_reports_of_test_scenarios_are_printed_or_written(dss):
    await dss.ask("scenario", "run", "SALES/TESTED", "--wait")
    printed, written, none = await asyncio.gather(
        dss.run("runs", "report", "SALES/TESTED"),
        dss.run("runs", "report", "SALES/TESTED", "--step", "build_flowitem_0", "-o", "report.xml"),
        dss.run("runs", "report", "SALES/NIGHTLY_A"),
    )
    assert "<testsuite" in printed.out
    assert (written.out, "<testsuite" in (dss.folder / "report.xml").read_text()) == ("", True)
    assert (none.code, none.err.count("\n")) == (1, 1)
    assert "test scenario" in none.err


async def test_an_identifier_with_odd_letters_is_addressed_and_shown_so_that_it_can_be_typed_back(dss):
    (run,) = await dss.ask("scenario", "run", "SALES/a%2Fb c?d#é", "--wait")
    assert (run["scenario"], run["outcome"]) == ("a/b c?d#é", "SUCCESS")
    assert run["address"].startswith("127.0.0.1/SALES/a%2Fb c%3Fd#é/")
    again = await dss.ask("runs", "show", run["address"])
    assert again["run"] == run["run"]


async def test_a_scenario_is_talked_about(dss):
    begun = await dss.ask("scenario", "discussions", "SALES/BROKEN", "--topic", "Late", "--message", "why?")
    assert [(one["topic"], [said["text"] for said in one["replies"]]) for one in begun] == [("Late", ["why?"])]
    said = await dss.run("scenario", "discussions", "SALES/BROKEN", "--reply", begun[0]["id"], "--message", "who knows")
    assert [line.rpartition(": ")[2] for line in said.lines[1:]] == ["why?", "who knows"]
    wrong = await dss.run("scenario", "discussions", "SALES/BROKEN", "--topic", "Late")
    assert wrong.code == 2


async def test_a_run_that_ended_with_warning_says_why(dss):
    await dss.run("scenario", "run", "SALES/NIGHTLY_B", "--wait")
    (warning,) = await dss.ask("runs", "errors", "SALES/NIGHTLY_B")
    assert (warning["step"], warning["title"], warning["count"]) == ("Build x", "warning", 1)
    assert warning["message"]
    said = await dss.run("runs", "errors", "SALES/NIGHTLY_B")
    assert warning["message"] in said.out
