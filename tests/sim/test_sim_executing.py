"""What is really executed: Python, SQL, other scenarios, variables; conditions, retries and outcomes of steps."""

import sqlite3

import pytest

from tests.sim.driven import running
from tocsin.sim import Limits, World

pytestmark = pytest.mark.e2e


def world(*steps, **more):
    built = World()
    project = built.add_project("P")
    built.add_scenario(project, {"id": "S", "params": {"steps": list(steps)}, **more})
    return built


def python(code, **more):
    return {"type": "custom_python", "name": more.pop("name", "py"), "params": {"script": code}, **more}


def build(outcomes="SUCCESS", duration="1s", **more):
    sim = {"outcomes": outcomes, "duration": duration, "errors": [{"message": "no more disk"}]}
    return {
        "type": "build_flowitem",
        "name": more.pop("name", "b"),
        "params": {"sim": sim, **more.pop("params", {})},
        **more,
    }


async def run(sim, scenario_id="S"):
    """Run a scenario to its end; the run's details."""
    found = await sim.ask(sim.scenario(scenario_id, "P").run_and_wait, no_fail=True)
    return found, await sim.ask(found.get_details)


async def test_a_python_step_prints_into_the_log():
    async with running(world(python("print('a'); print('é')")), speed=20) as sim:
        found, details = await run(sim)
        log = await sim.ask(found.get_log, details.steps[0]["step"]["id"])
    assert found.outcome == "SUCCESS"
    assert [line.rpartition(" - ")[2] for line in log.splitlines() if "[process]" in line] == ["a", "é"]


async def test_an_exception_of_a_python_step_is_in_its_result():
    async with running(world(python("def f():\n    raise KeyError('nope')\nf()")), speed=20) as sim:
        found, details = await run(sim)
    error = details.first_error_details
    assert found.outcome == "FAILED"
    assert error["message"] == "KeyError: 'nope'"
    assert error["code"] == "ERR_SCENARIO_PYTHON"
    assert "line 2, in f" in error["stack"]
    assert "script_host" not in error["stack"]


async def test_a_script_is_a_scenario_of_its_own():
    built = World()
    project = built.add_project("P")
    built.add_scenario(project, {"id": "S", "type": "custom_python"}).payload = "raise SystemExit(3)"
    async with running(built, speed=20) as sim:
        found, details = await run(sim)
    assert (found.outcome, details.steps) == ("FAILED", [])
    assert found.run["result"]["thrown"]["message"] == "SystemExit: 3"


@pytest.mark.parametrize(
    ("code", "limits", "says"),
    [
        ("while True: print('x' * 1000)", Limits(30, 50_000), "printed more than 50000 bytes"),
        ("import time; time.sleep(60)", Limits(0.5, 1000), "took longer than 0.5 s"),
        ("import os; os._exit(9)", Limits(30, 1000), "exit code: 9"),
    ],
)
async def test_a_script_is_bounded(code, limits, says):
    async with running(world(python(code)), speed=20, limits=limits) as sim:
        found, details = await run(sim)
    assert found.outcome == "FAILED"
    assert says in details.first_error_details["message"]


async def test_an_abort_ends_the_script():
    async with running(world(python("import time\nprint('begun')\ntime.sleep(600)")), speed=20) as sim:
        fire = await sim.ask(sim.scenario("S", "P").run)
        current = await sim.ask(fire.wait_for_scenario_run)
        while "begun" not in await sim.ask(current.get_log):
            pass
        await sim.ask(sim.scenario("S", "P").abort)
        await sim.ask(current.wait_for_completion, no_fail=True)
    assert current.outcome == "ABORTED"


async def test_a_script_reaches_its_instance_and_sets_variables():
    code = (
        "import dataiku\nfrom dataiku.scenario import Scenario\n"
        "print(dataiku.api_client().list_project_keys(), dataiku.get_custom_variables()['country'])\n"
        "Scenario().set_scenario_variables(day=Scenario().get_trigger_params()['day'])\n"
        "Scenario().build_dataset('orders')\n"
    )
    condition = {"runConditionType": "RUN_CONDITIONALLY", "runConditionExpression": "day == 'monday'"}
    built = world(python(code), build(**condition))
    built.project("P").variables["standard"]["country"] = "FR"
    async with running(built, speed=20) as sim:
        found = await sim.ask(sim.scenario("S", "P").run_and_wait, {"day": "monday"})
        log = await sim.ask(found.get_log)
        jobs = [item.job_id for item in await sim.ask(sim.client().get_project("P").list_jobs)]
    assert "['P'] FR" in log
    assert [job.startswith("Build_orders_") for job in jobs].count(True) == 1
    assert len(jobs) == 2


async def test_sql_runs_on_sqlite_and_its_rows_are_variables(tmp_path):
    sql = "create table t(a, b); insert into t values (1, 'x; y'), (2, 'z'); select a, b from t order by a"
    condition = {"runConditionType": "RUN_CONDITIONALLY", "runConditionExpression": "stepOutput_q.rows[0][1] == 'x; y'"}
    built = world(
        {"type": "exec_sql", "name": "q", "params": {"connection": "warehouse", "sql": sql}},
        build(name="after", **condition),
    )
    built.connections["warehouse"] = str(tmp_path / "w.db")
    async with running(built, speed=20) as sim:
        found, details = await run(sim)
    assert found.outcome == "SUCCESS"
    assert [step["step"]["name"] for step in details.steps] == ["q", "after"]
    with sqlite3.connect(tmp_path / "w.db") as database:
        assert database.execute("select count(*) from t").fetchone() == (2,)
    database.close()


@pytest.mark.parametrize(
    ("connection", "sql", "says"),
    [
        ("warehouse", "select * from missing", "no such table: missing"),
        ("nowhere", "select 1", "Connection does not exist: nowhere"),
        (
            "warehouse",
            "with recursive r(x) as (select 1 union all select x + 1 from r) select count(*) from r",
            "took longer",
        ),
    ],
)
async def test_sql_that_fails_says_why(connection, sql, says):
    built = world({"type": "exec_sql", "name": "q", "params": {"connection": connection, "sql": sql}})
    built.connections["warehouse"] = ":memory:"
    async with running(built, speed=20, limits=Limits(seconds=1)) as sim:
        found, details = await run(sim)
    assert found.outcome == "FAILED"
    assert says in details.first_error_details["message"]


async def test_a_step_runs_another_scenario_and_takes_its_outcome():
    built = world(
        {"type": "define_vars", "name": "v", "params": {"variables": {"day": "monday"}}},
        {"type": "run_scenario", "name": "sub", "params": {"scenarioId": "CHILD"}},
    )
    condition = {"runConditionType": "RUN_CONDITIONALLY", "runConditionExpression": "day == 'monday'"}
    built.add_scenario(built.project("P"), {"id": "CHILD", "params": {"steps": [build("FAILED", **condition)]}})
    async with running(built, speed=20) as sim:
        found, details = await run(sim)
        child = (await sim.ask(sim.scenario("CHILD", "P").get_last_runs))[0]
    assert (found.outcome, child.outcome, child.trigger["type"]) == ("FAILED", "FAILED", "sub")
    assert child.run["variables"] == {"day": "monday"}
    assert details.first_error_details["message"] == "Scenario CHILD ended: FAILED"
    assert details.steps[1]["additionalReportItems"][0]["runId"] == child.id


async def test_an_abort_of_the_parent_aborts_the_child():
    built = world({"type": "run_scenario", "name": "sub", "params": {"scenarioId": "CHILD"}})
    built.add_scenario(built.project("P"), {"id": "CHILD", "params": {"steps": [build(duration="1h")]}})
    async with running(built) as sim:
        await sim.ask(sim.scenario("S", "P").run)
        await sim.push("5s")
        await sim.ask(sim.scenario("S", "P").abort)
        await sim.push("5s")
        outcomes = [(await sim.ask(sim.scenario(s, "P").get_last_runs))[0].outcome for s in ("S", "CHILD")]
    assert outcomes == ["ABORTED", "ABORTED"]


async def test_a_step_kills_another_scenario():
    built = world({"type": "kill_scenario", "name": "kill", "params": {"scenarioId": "CHILD"}})
    built.add_scenario(built.project("P"), {"id": "CHILD", "params": {"steps": [build(duration="1h")]}})
    async with running(built) as sim:
        await sim.ask(sim.scenario("CHILD", "P").run)
        await sim.push("5s")
        await sim.ask(sim.scenario("S", "P").run)
        await sim.push("5s")
        assert (await sim.ask(sim.scenario("CHILD", "P").get_last_runs))[0].outcome == "ABORTED"


async def test_steps_set_variables_of_the_project_and_of_the_instance():
    built = world(
        {
            "type": "set_project_vars",
            "name": "p",
            "params": {"variables": {"a": "x${scenarioId}"}, "definitions": [{"key": "b", "value": "1"}]},
        },
        {"type": "set_global_vars", "name": "g", "params": {"evaluateValues": True, "variables": {"c": "1 + 1"}}},
    )
    async with running(built, speed=20) as sim:
        await run(sim)
        variables = await sim.ask(sim.client().get_project("P").get_variables)
        assert variables["standard"] == {"a": "xS", "b": "1"}
        assert dict(await sim.ask(sim.client().get_global_variables)) == {"c": 2}


async def outcomes_of(*steps):
    async with running(world(*steps)) as sim:
        fire = await sim.ask(sim.scenario("S", "P").run)
        await sim.push("10m")
        found = await sim.ask(fire.get_scenario_run)
        details = await sim.ask(found.get_details)
    return found.outcome, [(step["step"]["name"], step["retryIndex"], step.outcome) for step in details.steps]


async def test_a_failed_step_is_tried_again_and_each_attempt_is_listed():
    outcome, steps = await outcomes_of(build("FAILED, FAILED, SUCCESS", maxRetriesOnFail=5, delayBetweenRetries=30))
    assert outcome == "SUCCESS"
    assert steps == [("b", 0, "FAILED"), ("b", 1, "FAILED"), ("b", 2, "SUCCESS")]


async def test_steps_after_a_failure_run_only_if_they_ask_for_it():
    outcome, steps = await outcomes_of(
        build("FAILED", name="bad"),
        build(name="usual"),
        build(name="always", runConditionType="RUN_ALWAYS"),
        build(name="on failure", runConditionStatuses=["FAILED"]),
        build(name="never", runConditionType="DISABLED"),
        build(name="off", enabled=False, runConditionType="RUN_ALWAYS"),
    )
    assert outcome == "FAILED"
    assert [name for name, _, _ in steps] == ["bad", "always", "on failure"]


async def test_a_failure_can_be_passed_over_or_forgotten():
    assert (await outcomes_of(build("FAILED", params={"proceedOnFailure": True}), build(name="next")))[0] == "WARNING"
    reset = build(name="reset", runConditionType="RUN_ALWAYS", resetScenarioStatus=True)
    assert (await outcomes_of(build("FAILED"), reset))[0] == "SUCCESS"


@pytest.mark.parametrize("counted", ["SUCCESS", "WARNING", "FAILED"])
async def test_a_warning_counts_as_the_step_says(counted):
    outcome, steps = await outcomes_of(build("WARNING", params={"handleWarningsAs": counted}))
    assert (outcome, steps[0][2]) == (counted, "WARNING")


async def test_a_condition_that_cannot_be_read_is_not_met():
    bad = {"runConditionType": "RUN_CONDITIONALLY", "runConditionExpression": "outcome == 'x' or true"}
    assert await outcomes_of(build(**bad)) == ("SUCCESS", [])


async def test_an_unknown_step_type_takes_a_second_and_succeeds():
    assert await outcomes_of({"type": "pystep_magic", "name": "m"}) == ("SUCCESS", [("m", 0, "SUCCESS")])


async def test_test_scenarios_have_junit_reports_and_a_status():
    built = world(build("FAILED", name="<b>"), markedAsTest=True)
    built.add_scenario(built.project("P"), {"id": "PLAIN"})
    async with running(built) as sim:
        project = sim.client().get_project("P")
        fire = await sim.ask(sim.scenario("S", "P").run)
        await sim.push("1m")
        found = await sim.ask(fire.get_scenario_run)
        assert [s.id for s in await sim.ask(project.list_test_scenarios)] == ["S"]
        report = (await sim.ask(found.get_report)).text
        assert 'failures="1"' in report
        assert "no more disk" in report
        step_id = (await sim.ask(found.get_details)).steps[0]["step"]["id"]
        assert (await sim.ask(found.get_step_run_report, step_id)).text == report
        assert (await sim.ask(project.get_testing_status)).nb_scenarios_per_outcome == {"FAILED": 1}
        assert "<testsuites" in (await sim.ask(project.get_last_test_scenario_runs_report)).text
        assert "FAILED" in (await sim.ask(project.get_last_test_scenario_runs_html_report)).text


async def test_a_parent_that_is_aborted_while_it_waits_for_its_child_leaves_nothing_behind():
    built = world({"type": "run_scenario", "name": "sub", "params": {"scenarioId": "CHILD"}})
    built.add_scenario(built.project("P"), {"id": "CHILD", "params": {"steps": [build(duration="1m")]}})
    async with running(built) as sim:
        await sim.ask(sim.scenario("CHILD", "P").run)
        await sim.push("5s")
        await sim.ask(sim.scenario("S", "P").run)
        await sim.push("5s")
        await sim.ask(sim.scenario("S", "P").abort)
        await sim.push("5m")
        outcomes = [run.outcome for run in await sim.ask(sim.scenario("CHILD", "P").get_last_runs)]
    assert outcomes == ["SUCCESS"]


async def test_a_launch_that_was_withdrawn_does_not_keep_its_scenario_busy():
    async with running(world(build())) as sim:
        first = sim.sim.engine.launch(sim.world_scenario("S", "P"), {"id": "m", "type": "manual"}, {}, {})
        first.cancel()
        again = await sim.ask(sim.scenario("S", "P").run)
        await sim.push("5s")
        assert (await sim.ask(again.get_scenario_run)).outcome == "SUCCESS"
