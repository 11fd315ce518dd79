"""What the official client changes: runs, aborts, definitions, variables, jobs, discussions, channels."""

import dataikuapi
import pytest
from dataikuapi.utils import DataikuException

from tests.sim.driven import running
from tocsin.sim import ApiKey


async def test_a_manual_fire_has_the_shape_of_the_recorded_one(sim):
    fire = await sim.ask(sim.scenario().run, {"day": "monday"})
    raw = fire.get_raw()
    assert raw["trigger"] == {"id": "manual", "type": "manual", "name": "API run", "delay": 0, "active": False}
    assert (raw["cancelled"], raw["params"]) == (False, {"day": "monday"})
    assert raw["triggerAuthCtx"]["realUserLogin"] == "admin"
    assert fire.run_id.endswith(f"{(raw['timestamp'] + 1) % 1000:03d}")


async def test_run_and_wait_gives_the_run_or_raises_its_outcome():
    async with running(speed=20) as sim:
        with pytest.raises(DataikuException, match="Scenario run returned status FAILED"):
            await sim.ask(sim.scenario().run_and_wait)
        run = await sim.ask(sim.scenario().run_and_wait)
        assert (run.outcome, run.trigger["type"]) == ("SUCCESS", "manual")


async def test_the_run_of_a_fire_stays_known_after_its_end(sim):
    fire = await sim.ask(sim.scenario().run)
    assert await sim.ask(fire.get_scenario_run) is None
    await sim.push("1m")
    run = await sim.ask(fire.get_scenario_run)
    assert run.outcome == "FAILED"
    assert run.run["trigger"]["runId"] == fire.run_id
    assert await sim.ask(fire.is_cancelled, refresh=True) is False


async def test_a_fire_that_finds_its_scenario_running_is_cancelled(sim):
    await sim.ask(sim.scenario().run)
    await sim.push("2s")
    late = await sim.ask(sim.scenario().run)
    assert late.is_cancelled()
    assert await sim.ask(late.wait_for_scenario_run, no_fail=True) is None
    with pytest.raises(DataikuException, match="cancelled"):
        await sim.ask(late.wait_for_scenario_run)


@pytest.mark.parametrize(("squash", "runs"), [(True, 2), (False, 3)])
async def test_delayed_fires_run_after_the_current_run(sim, squash, runs):
    settings = await sim.ask(sim.scenario().get_settings)
    settings.get_raw()["delayedTriggersBehavior"] = {"delayWhileRunning": True, "squashDelayedTriggers": squash}
    await sim.ask(settings.save)
    fires = [await sim.ask(sim.scenario().run)]
    await sim.push("2s")
    fires += [await sim.ask(sim.scenario().run), await sim.ask(sim.scenario().run)]
    await sim.push("2m")
    assert len(sim.world_scenario().runs) == 5 + runs
    assert [await sim.ask(fire.is_cancelled, refresh=True) for fire in fires] == [False, squash, False]


async def test_a_fire_by_hand_takes_the_place_of_a_promoted_one(sim):
    scenario, clock = sim.world_scenario(), sim.sim.clock
    await clock.advance(scenario.next_occurrence(clock.now()) - clock.now())
    promoted = scenario.waiting
    await sim.ask(sim.scenario().run)
    assert promoted.document["cancelled"] is True
    await sim.push("2m")
    assert len(scenario.runs) == 6


async def test_an_abort_is_accepted_and_takes_effect_later(sim):
    await sim.ask(sim.scenario().run)
    await sim.push("2s")
    await sim.ask(sim.scenario().abort)
    assert (await sim.ask(sim.scenario().get_current_run)).running
    await sim.push("1s")
    run = await sim.ask(sim.scenario().get_last_finished_run)
    assert run.outcome == "ABORTED"
    assert run.duration < 4
    details = await sim.ask(run.get_details)
    assert [step.outcome for step in details.steps] == ["ABORTED"]


async def test_an_abort_of_an_idle_scenario_does_nothing(sim):
    assert "msg" in await sim.ask(sim.scenario().abort)
    assert (await sim.ask(sim.scenario().get_status)).running is False


async def test_a_run_is_aborted_through_its_future(sim):
    await sim.ask(sim.scenario().run)
    await sim.push("6s")
    state = (await sim.ask(sim.client().list_running_scenarios, all_users=True))[0]
    future = sim.client().get_future(state["jobId"])
    assert (await sim.ask(future.peek_state))["hasResult"] is False
    await sim.ask(future.abort)
    await sim.push("1s")
    result = await sim.ask(future.get_result)
    assert result["result"]["outcome"] == "ABORTED"
    job = list(sim.sim.world.project("SALES").jobs.values())[-1]
    assert job.state == "ABORTED"


async def test_a_scenario_is_created_changed_and_deleted(sim):
    project = sim.client().get_project("SALES")
    created = await sim.ask(project.create_scenario, "Weekly: été (v2)", "step_based")
    assert created.id == "Weekly___t___v2_"
    settings = await sim.ask(created.get_settings)
    settings.add_daily_trigger(hour=3, minute=15, timezone="Europe/Paris")
    settings.add_monthly_trigger(day=31, run_on="ON_THE_DAY")
    settings.add_hourly_trigger(minute_of_hour=5)
    settings.add_periodic_trigger(every_minutes=10)
    settings.raw_steps.append(
        {"type": "build_flowitem", "params": {"builds": [{"itemId": "x"}]}, "runConditionType": "?"}
    )
    settings.raw_reporters.append({"messaging": {"type": "mail-scenario", "channelId": "lost"}})
    settings.active = True
    await sim.ask(settings.save)
    kept = await sim.ask(created.get_settings)
    assert all(trigger["id"] for trigger in kept.raw_triggers)
    assert kept.raw_steps[0]["runConditionType"] is None
    assert "channelId" not in kept.raw_reporters[0]["messaging"]
    assert kept.get_raw()["versionTag"]["versionNumber"] == 1
    assert (await sim.ask(created.get_status)).next_run is not None
    await sim.ask(created.delete)
    with pytest.raises(DataikuException, match="NotFoundException: scenario does not exist"):
        await sim.ask(created.get_settings)


@pytest.mark.parametrize(
    ("name", "scenario_id"),
    [("Nightly build", "Nightly_build"), ("nightly-build", "nightly_build"), ("a.b/c", "a_b_c"), ("Ünï", "_n_")],
)
async def test_the_id_of_a_new_scenario_is_its_name_with_other_characters_as_underscores(sim, name, scenario_id):
    created = await sim.ask(sim.client().get_project("SALES").create_scenario, name, "step_based")
    assert created.id == scenario_id
    assert (await sim.ask(created.get_settings)).get_raw()["name"] == name


@pytest.mark.parametrize("name", ["Nightly build", "Nightly-build", "Nightly rebuild"])
async def test_a_scenario_of_an_equal_name_or_id_is_refused(sim, name):
    project = sim.client().get_project("SALES")
    await sim.ask(project.create_scenario, "Nightly build", "step_based")
    with pytest.raises(DataikuException, match="already exists"):
        await sim.ask(project.create_scenario, name, "step_based")


@pytest.mark.parametrize("project", ["SALES", "OTHER"])
async def test_a_definition_of_another_scenario_is_copied(sim, project):
    if project == "OTHER":
        await sim.ask(sim.client().create_project, project, project, "admin")
    with pytest.warns(DeprecationWarning, match="get_settings"):
        original = await sim.ask(sim.scenario().get_definition, with_status=False)
    into = sim.client().get_project(project)
    copied = await sim.ask(into.create_scenario, "A copy", original["type"], definition=dict(original))
    assert copied.id == "A_copy"
    kept = (await sim.ask(copied.get_settings)).get_raw()
    assert (kept["id"], kept["projectKey"], kept["name"]) == ("A_copy", project, "A copy")
    assert kept["params"] == original["params"]
    assert kept["versionTag"]["versionNumber"] == 0
    assert (await sim.ask(sim.scenario().get_settings)).get_raw()["name"] == original["name"]


async def test_tags_come_back_sorted(sim):
    settings = await sim.ask(sim.scenario().get_settings)
    settings.get_raw()["tags"] = ["zeta", "Beta", "alpha", "zeta"]
    await sim.ask(settings.save)
    assert (await sim.ask(sim.scenario().get_settings)).get_raw()["tags"] == ["Beta", "alpha", "zeta"]
    (item,) = (i for i in await sim.ask(sim.client().get_project("SALES").list_scenarios) if i["id"] == "NIGHTLY")
    assert item.tags == ["Beta", "alpha", "zeta"]


async def test_an_unknown_phase_of_a_reporter_is_dropped(sim):
    settings = await sim.ask(sim.scenario().get_settings)
    told = [{"phase": phase, "messaging": {"type": "mail-scenario"}} for phase in ("START", "MIDDLE", "end", "END")]
    settings.raw_reporters[:] = told
    await sim.ask(settings.save)
    kept = (await sim.ask(sim.scenario().get_settings)).raw_reporters
    assert [reporter.get("phase") for reporter in kept] == ["START", None, None, "END"]


async def test_the_light_form_changes_five_fields_only(sim):
    light = (await sim.ask(sim.scenario().get_status)).get_raw()
    light.update(active=False, shortDesc="soon", name="Other")
    with pytest.warns(DeprecationWarning, match="get_settings"):
        await sim.ask(sim.scenario().set_definition, light)
    definition = (await sim.ask(sim.scenario().get_settings)).get_raw()
    assert (definition["active"], definition["shortDesc"], definition["name"]) == (False, "soon", "Nightly rebuild")
    light.pop("name")
    with (
        pytest.warns(DeprecationWarning, match="get_settings"),
        pytest.raises(DataikuException, match="Could not parse a Scenario"),
    ):
        await sim.ask(sim.scenario().set_definition, light)


async def test_code_of_a_script_is_saved_with_its_settings(sim):
    settings = await sim.ask(sim.scenario("SCRIPT").get_settings)
    settings.code = "print('bye')"
    await sim.ask(settings.save)
    with pytest.warns(DeprecationWarning, match="get_settings"):
        assert await sim.ask(sim.scenario("SCRIPT").get_payload) == "print('bye')"
    with pytest.warns(DeprecationWarning, match="get_settings"):
        await sim.ask(sim.scenario("SCRIPT").set_payload, "print(1)")
    assert (await sim.ask(sim.scenario("SCRIPT").get_settings)).code == "print(1)"


async def test_only_an_admin_sets_the_user_that_a_scenario_runs_as():
    async with running(api_keys=["root", ApiKey("k", user="bob", admin=False)]) as sim:
        bob = await sim.ask(sim.client("k").get_project("SALES").get_scenario("NIGHTLY").get_settings)
        bob.run_as = "eve"
        with pytest.raises(DataikuException, match="UnauthorizedException"):
            await sim.ask(bob.save)
        root = await sim.ask(sim.client("root").get_project("SALES").get_scenario("NIGHTLY").get_settings)
        root.run_as = "eve"
        await sim.ask(root.save)
        saved = await sim.ask(sim.client("root").get_project("SALES").get_scenario("NIGHTLY").get_settings)
        assert (saved.effective_run_as, saved.get_raw()["versionTag"]["lastModifiedBy"]["login"]) == ("eve", "admin")
        await sim.ask(sim.client("root").get_project("SALES").get_scenario("NIGHTLY").run)
        await sim.push("1s")
        assert sim.world_scenario().current.document["runAsUser"]["realUserLogin"] == "eve"


async def test_a_definition_that_is_none_is_refused_and_loses_nothing(sim):
    before = (await sim.ask(sim.scenario().get_settings)).get_raw()
    for broken in ({"params": []}, {"triggers": ["x"]}, {"triggers": [{}]}, {"params": {"steps": [{"name": "x"}]}}):
        with pytest.raises(DataikuException, match="Could not parse a Scenario"):
            await sim.ask(sim.client()._perform_json, "PUT", "/projects/SALES/scenarios/NIGHTLY", body=broken)
    assert (await sim.ask(sim.scenario().get_settings)).get_raw() == before


async def test_a_trigger_that_makes_no_sense_is_kept_and_never_fires(sim):
    settings = await sim.ask(sim.scenario().get_settings)
    settings.raw_triggers[0]["params"]["hour"] = 99
    await sim.ask(settings.save)
    assert (await sim.ask(sim.scenario().get_status)).next_run is None


async def test_variables_of_a_project_and_of_the_instance(sim):
    project = sim.client().get_project("SALES")
    assert await sim.ask(project.get_variables) == {"standard": {"country": "FR"}, "local": {}}
    await sim.ask(project.update_variables, {"country": "DE"}, type="local")
    variables = await sim.ask(sim.client().get_global_variables)
    variables["region"] = {"n": 1}
    await sim.ask(variables.save)
    path = "/projects/SALES/variables-resolved"
    for typed, region in ((True, {"n": 1}), (False, '{"n": 1}')):
        resolved = await sim.ask(sim.client()._perform_json, "GET", path, params={"typed": str(typed).lower()})
        assert resolved == {"country": "DE", "region": region}


async def test_a_job_runs_and_can_be_aborted(sim):
    project = sim.client().get_project("EMPTY")
    job = await sim.ask(project.new_job().with_output("orders").start)
    assert [item.job_id for item in await sim.ask(project.list_running_jobs)] == [job.id]
    assert [item.job_id for item in await sim.ask(sim.client().list_running_jobs)] == [job.id]
    await sim.push("3s")
    assert (await sim.ask(job.get_status))["baseStatus"]["state"] == "DONE"
    second = await sim.ask(project.new_job().with_output("orders").start)
    await sim.push("500ms")
    await sim.ask(second.abort)
    await sim.push("1ms")
    states = [(item.job_id, item["state"]) for item in await sim.ask(project.list_jobs)]
    assert states == [(second.id, "ABORTED"), (job.id, "DONE")]
    assert "Job finished: ABORTED" in await sim.ask(second.get_log)


async def test_a_discussion_grows_by_replies(sim):
    discussions = await sim.ask(sim.scenario().get_object_discussions)
    discussion = await sim.ask(discussions.create_discussion, "Why?", "It failed again")
    await sim.ask(discussion.add_reply, "Out of memory")
    metadata = discussion.get_metadata()
    metadata["topic"] = "Why!"
    await sim.ask(discussion.set_metadata, metadata)
    listed = await sim.ask(discussions.list_discussions)
    assert [one.get_metadata()["topic"] for one in listed] == ["Why!"]
    replies = await sim.ask(listed[0].get_replies)
    assert [(r.get_text(), r.get_author()) for r in replies] == [
        ("It failed again", "admin"),
        ("Out of memory", "admin"),
    ]
    assert (await sim.ask(discussions.get_discussion, discussion.discussion_id)).get_metadata()["topic"] == "Why!"


async def test_projects_come_and_go(sim):
    project = await sim.ask(sim.client().create_project, "NEW", "A new one", "admin")
    await sim.ask(project.create_scenario, "First", "step_based")
    settings = await sim.ask(project.get_settings)
    settings.get_raw()["disableAutomaticTriggers"] = True
    await sim.ask(settings.save)
    assert (await sim.ask(project.get_summary))["disableAutomaticTriggers"] is True
    await sim.ask(project.delete)
    assert await sim.ask(sim.client().list_project_keys) == ["SALES", "EMPTY"]


async def test_a_deleted_scenario_that_runs_is_aborted_and_gone(sim):
    await sim.ask(sim.scenario().run)
    await sim.push("2s")
    await sim.ask(sim.scenario().delete)
    await sim.push("1m")
    assert await sim.ask(sim.client().list_running_scenarios, all_users=True) == []
    assert not sim.sim.engine._tasks


async def test_what_the_client_of_an_older_scenario_list_reads(sim):
    assert isinstance(sim.scenario(), dataikuapi.dss.scenario.DSSScenario)
    assert await sim.ask(sim.client().get_project("SALES").list_test_scenarios) == []
