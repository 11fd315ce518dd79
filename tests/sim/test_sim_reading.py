"""What the official client reads from the emulated DSS."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from dataikuapi.utils import DataikuException

from tests.sim.driven import running
from tocsin.sim import ApiKey, World, lively_world

PARIS = ZoneInfo("Europe/Paris")


async def test_projects_are_listed_with_their_names(sim):
    assert await sim.ask(sim.client().list_project_keys) == ["SALES", "EMPTY"]
    listed = await sim.ask(sim.client().list_projects)
    assert tuple(listed[0][key] for key in ("projectKey", "name", "ownerLogin")) == ("SALES", "Sales", "amelie")


async def test_scenarios_are_listed_with_what_the_client_reads(sim):
    items = await sim.ask(sim.client().get_project("SALES").list_scenarios)
    assert [item["id"] for item in items] == ["NIGHTLY", "SCRIPT", "AFTER"]
    assert items[0].id == "Nightly rebuild"
    assert items[0].tags == ["daily", "finance"]
    assert items[0].running is False
    assert items[0].start_time is None
    assert items[0].to_scenario().id == "NIGHTLY"
    assert "runAsUser" not in items[0]


async def test_history_is_there_from_the_beginning_newest_first(sim):
    runs = await sim.ask(sim.scenario().get_last_runs, limit=3)
    assert [run.outcome for run in runs] == ["SUCCESS"] * 3
    assert [run.duration for run in runs] == [10.0] * 3
    assert [run.run["start"] for run in runs] == sorted((run.run["start"] for run in runs), reverse=True)
    assert len(await sim.ask(sim.scenario().get_last_runs, limit=100)) == 5


async def test_history_of_a_scheduled_scenario_lies_at_its_occurrences(sim):
    runs = await sim.ask(sim.scenario().get_last_runs)
    starts = [datetime.fromtimestamp(run.run["start"] / 1000, PARIS) for run in runs]
    assert {start.strftime("%H:%M:%S") for start in starts} == {"02:01:00"}
    assert runs[0].trigger["name"] == "Night"


async def test_run_ids_are_the_start_in_the_servers_own_time(sim):
    run = (await sim.ask(sim.scenario().get_last_runs))[0]
    start = datetime.fromtimestamp(run.run["start"] / 1000, PARIS)
    assert run.id == start.strftime("%Y-%m-%d-%H-%M-%S-") + f"{run.run['start'] % 1000:03d}"


async def test_next_run_is_the_next_occurrence_and_only_of_active_scenarios(sim):
    status = await sim.ask(sim.scenario().get_status)
    assert status.next_run.astimezone(PARIS).strftime("%H:%M") == "02:00"
    assert status.next_run > sim.sim.clock.now()
    assert (await sim.ask(sim.scenario("SCRIPT").get_status)).next_run is None


async def test_settings_of_a_step_based_scenario(sim):
    settings = await sim.ask(sim.scenario().get_settings)
    assert type(settings).__name__ == "StepBasedScenarioSettings"
    assert [step["name"] for step in settings.raw_steps] == ["Check", "Build orders"]
    assert settings.raw_triggers[0]["id"] == "t1"
    assert settings.effective_run_as == "amelie"
    assert settings.active is True


async def test_settings_of_a_script(sim):
    settings = await sim.ask(sim.scenario("SCRIPT").get_settings)
    assert settings.code == "print('hello')"


async def test_a_run_that_goes_on_has_no_result_and_is_a_future(sim):
    fire = await sim.ask(sim.scenario().run)
    assert await sim.ask(fire.get_scenario_run) is None
    await sim.push("6s")
    run = await sim.ask(sim.scenario().get_current_run)
    assert run.running
    assert run.run["end"] == 0
    assert run.id != fire.run_id
    futures = await sim.ask(sim.client().list_running_scenarios, all_users=True)
    assert [f["payload"]["targets"][0]["objectId"] for f in futures] == ["NIGHTLY"]
    assert [f["alive"] for f in futures] == [True]
    details = await sim.ask(run.get_details)
    assert [step["step"]["id"] for step in details.steps] == ["check", "build_flowitem_1"]
    assert details.steps[0].outcome == "SUCCESS"
    assert "result" not in details.steps[1]
    light = await sim.ask(sim.scenario().get_status)
    assert (light.running, light.get_raw()["futureId"]) == (True, futures[0]["jobId"])


async def test_a_failed_build_has_its_error_in_the_report_item_of_the_job(sim):
    await sim.ask(sim.scenario().run)
    await sim.push("20s")
    run = await sim.ask(sim.scenario().get_last_finished_run)
    assert (run.outcome, run.duration) == ("FAILED", 10.0)
    details = await sim.ask(run.get_details)
    failed = details.last_step
    assert "thrown" not in failed["result"]
    assert details.first_error_details["message"] == "Out of memory"
    assert details.first_error_details["code"] == "ERR_OOM"
    job = sim.client().get_project("SALES").get_job(failed.job_ids[0])
    status = await sim.ask(job.get_status)
    assert status["baseStatus"]["state"] == "FAILED"
    assert status["baseStatus"]["unexpectedFailure"]["message"] == "Out of memory"
    assert "com.example.SparkDied: Out of memory" in await sim.ask(job.get_log)
    assert failed.job_ids[0].startswith("Build_orders_20")


async def test_logs_are_of_the_run_or_of_one_step(sim):
    await sim.ask(sim.scenario().run)
    await sim.push("20s")
    run = await sim.ask(sim.scenario().get_last_finished_run)
    whole, of_step = await sim.ask(run.get_log), await sim.ask(run.get_log, "check")
    assert "Starting step Build orders" in whole
    assert "Starting step Check" in of_step
    assert "Build orders" not in of_step


async def test_runs_by_date_count_days_of_the_server_and_exclude_the_last(sim):
    newest = (await sim.ask(sim.scenario().get_last_runs))[0]
    day = datetime.fromtimestamp(newest.run["start"] / 1000, PARIS).date()
    on_that_day = await sim.ask(sim.scenario().get_runs_by_date, day, day + timedelta(days=1))
    assert [run.id for run in on_that_day] == [newest.id]
    assert await sim.ask(sim.scenario().get_runs_by_date, day, day) == []
    since = datetime(2000, 1, 1), datetime(2100, 1, 1)
    assert len(await sim.ask(sim.scenario().get_runs_by_date, *since)) == 5


async def test_finished_runs_only_leave_out_the_running_one(sim):
    await sim.ask(sim.scenario().run)
    await sim.push("5s")
    assert (await sim.ask(sim.scenario().get_last_runs, limit=1))[0].running
    assert not (await sim.ask(sim.scenario().get_last_runs, limit=1, only_finished_runs=True))[0].running
    assert await sim.ask(sim.scenario().get_average_duration) == 10.0


async def test_who_asks_and_what_answers(sim):
    assert (await sim.ask(sim.client().get_auth_info))["authIdentifier"] == "admin"
    info = await sim.ask(sim.client().get_instance_info)
    assert (info.node_name, info.node_type) == ("sim", "DESIGN")
    summary = await sim.ask(sim.client().get_global_usage_summary)
    assert summary.raw["scenarios"] == {"all": 3, "activeWithTriggers": 2}


async def test_a_temporal_trigger_fires_and_the_run_starts_a_minute_later(sim):
    scenario = sim.world_scenario()
    occurrence = scenario.next_occurrence(sim.sim.clock.now())
    await sim.sim.clock.advance(occurrence - sim.sim.clock.now() + timedelta(seconds=59))
    assert scenario.current is None
    await sim.push("2s")
    assert scenario.current
    assert scenario.current.start == occurrence + timedelta(seconds=60)
    fire = scenario.current.document["trigger"]
    assert (fire["trigger"]["id"], fire["timestamp"]) == ("t1", occurrence.timestamp() * 1000)


async def test_what_follows_a_scenario_is_promoted_when_that_ends(sim):
    await sim.ask(sim.scenario().run)
    await sim.push("1m")
    assert sim.world_scenario("AFTER").current is None
    await sim.push("11s")
    assert sim.world_scenario("AFTER").current.document["trigger"]["trigger"]["type"] == "follow_scenariorun"


@pytest.mark.parametrize("switch", ["scenario", "project", "instance"])
async def test_automatic_triggers_can_be_off(sim, switch):
    if switch == "scenario":
        sim.world_scenario().definition["active"] = False
        sim.sim.engine.changed(sim.world_scenario())
    elif switch == "project":
        sim.sim.world.project("SALES").document["disableAutomaticTriggers"] = True
        sim.sim.engine.switched()
    else:
        sim.sim.world.automatic_triggers = False
        sim.sim.engine.switched()
    await sim.push("2d")
    assert len(sim.world_scenario().runs) == 5


async def test_an_occurrence_that_was_missed_is_caught_up_while_it_is_a_tenth_of_a_period_late(sim):
    scenario, world, clock = sim.world_scenario(), sim.sim.world, sim.sim.clock

    async def switch_on_after(late):
        world.automatic_triggers = False
        sim.sim.engine.switched()
        await clock.advance(scenario.next_occurrence(clock.now()) - clock.now() + late)
        world.automatic_triggers = True
        sim.sim.engine.switched()
        before = len(scenario.runs)
        await sim.push("2m")
        return len(scenario.runs) - before

    assert await switch_on_after(timedelta(hours=2)) == 1
    assert await switch_on_after(timedelta(hours=3)) == 0


async def test_history_is_bounded_and_can_be_cleared(sim):
    sim.sim.world.history_limit = 6
    for _ in range(4):
        await sim.ask(sim.scenario().run)
        await sim.push("15s")
    assert len(sim.world_scenario().runs) == 6
    sim.sim.engine.clear_history(sim.world_scenario())
    assert await sim.ask(sim.scenario().get_last_runs) == []


async def test_a_key_of_one_project_sees_no_other():
    keys = ["root", ApiKey("mine", user="bob", admin=False, projects=frozenset({"EMPTY"}))]
    async with running(api_keys=keys) as sim:
        bob = sim.client("mine")
        assert await sim.ask(bob.list_project_keys) == ["EMPTY"]
        with pytest.raises(DataikuException, match="UnauthorizedException"):
            await sim.ask(bob.get_project("SALES").list_scenarios)
        with pytest.raises(DataikuException, match="UnauthorizedException"):
            await sim.ask(bob.list_running_scenarios, all_users=True)
        assert await sim.ask(bob.list_running_scenarios) == []
        assert await sim.ask(sim.client("root").list_running_scenarios, all_users=True) == []


async def test_the_lively_world_fails_and_recovers_within_half_a_minute():
    async with running(lively_world()) as sim:
        began = sim.sim.clock.now()
        assert all(len(s.runs) >= 12 for s in sim.sim.world.every_scenario())
        await sim.push("30s")
        outcomes = {
            s.id: [run.outcome for run in s.runs.values() if run.ended and run.end >= began]
            for s in sim.sim.world.every_scenario()
        }
        assert outcomes["NIGHTLY_REBUILD"] == ["FAILED", "SUCCESS"]
        assert outcomes["CRM_SYNC"][:2] == ["FAILED", "SUCCESS"]
        assert len(outcomes["INGEST"]) >= 3
        assert sim.world_scenario("TRAIN_MODEL", "SALES_FORECAST").current is not None


async def test_ids_may_hold_blanks_and_letters_of_any_alphabet():
    world = World()
    project = world.add_project("PROJET_É")
    for scenario_id in ("Nuit d'été", "夜间", "a b"):
        world.add_scenario(project, {"id": scenario_id, "name": "x/y"})
    async with running(world) as sim:
        for scenario_id in ("Nuit d'été", "夜间", "a b"):
            scenario = sim.scenario(scenario_id, "PROJET_É")
            assert (await sim.ask(scenario.get_settings)).get_raw()["id"] == scenario_id
            fire = await sim.ask(scenario.run)
            await sim.push("1s")
            assert (await sim.ask(fire.get_scenario_run)).outcome == "SUCCESS"
