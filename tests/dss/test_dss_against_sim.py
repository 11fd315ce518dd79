"""The client at work on the emulated DSS: what people do with scenarios, and the guide's own examples."""

import ast
import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tocsin.dss import (
    DSSClient,
    DSSConflict,
    DSSForbidden,
    DSSNotFound,
    DSSRunCancelled,
    DSSRunFailed,
    DSSUnauthorized,
    DSSWaitTimeout,
)
from tocsin.sim import DEFAULT_KEY, Sim, World, WorldClock

WORLD = """
timezone: Europe/Paris
projects:
  - key: SALES
    variables: {country: FR}
    scenarios:
      - id: NIGHTLY
        name: Nightly rebuild
        active: true
        tags: [daily, finance]
        triggers: [{id: t1, type: temporal, name: Night, params: {frequency: Daily, hour: 2, minute: 0}}]
        steps: [{id: check, name: Check, type: check_dataset}, {build: orders}]
        reporters:
          - {name: mail, active: true, phase: END, messaging: {type: mail-scenario, configuration: {sender: old@x, recipient: a@x}}}
        behaviour: {duration: 4s, outcomes: SUCCESS, history: {runs: 5, outcomes: SUCCESS}}
      - id: BROKEN
        steps: [{id: check, name: Check, type: check_dataset}, {build: orders}]
        behaviour:
          duration: 4s
          outcomes: FAILED
          fails_at: Build orders
          errors: [{clazz: com.example.SparkDied, title: Spark died, message: Out of memory, code: ERR_OOM}]
      - {id: ENDLESS, steps: [{build: all}], behaviour: {duration: 9999h}}
      - {id: TESTED, markedAsTest: true, steps: [{build: x}], behaviour: {duration: 1s}}
      - {id: "a/b c?d#é", steps: [{build: x}], behaviour: {duration: 1s}}
      - {id: SCRIPT, type: custom_python, script: "print('hello')"}
      - {id: A, steps: [{build: x}], behaviour: {duration: 2s}}
      - {id: B, steps: [{build: x}], behaviour: {duration: 3s, outcomes: WARNING}}
      - {id: C, steps: [{build: x}], behaviour: {duration: 4s, outcomes: FAILED}}
  - {key: EMPTY}
"""


@pytest.fixture
async def sim() -> AsyncIterator[tuple[Sim, str]]:
    """A DSS in which a second takes a millisecond."""
    sim = Sim(World.from_yaml(WORLD), clock=WorldClock(speed=1000))
    try:
        yield sim, await sim.start()
    finally:
        await sim.stop()


@pytest.fixture
async def client(sim: tuple[Sim, str]) -> AsyncIterator[DSSClient]:
    async with DSSClient(sim[1], DEFAULT_KEY, proxy="", poll_pauses=(0.002, 0.02)) as client:
        yield client


def scenario(client: DSSClient, id: str = "NIGHTLY") -> Any:
    return client.get_project("SALES").get_scenario(id)


async def test_a_scenario_is_run_to_its_end(client: DSSClient) -> None:
    run = await scenario(client).run_and_wait({"day": "monday"}, timeout=60)
    assert (run.outcome, run.duration >= 4, run.trigger["id"]) == ("SUCCESS", True, "manual")
    assert run.get_info()["trigger"]["params"] == {"day": "monday"}
    newest = (await scenario(client).get_last_runs(1))[0]
    assert (newest.id, newest.start_time) == (run.id, run.start_time)
    assert (await scenario(client).get_run(run.id)).end_time == run.end_time


async def test_a_failed_run_tells_its_error_its_steps_and_their_jobs(client: DSSClient) -> None:
    with pytest.raises(DSSRunFailed) as caught:
        await scenario(client, "BROKEN").run_and_wait(timeout=60)
    details = await caught.value.run.get_details()
    assert [(step.name, step.outcome) for step in details.steps] == [("Check", "SUCCESS"), ("Build orders", "FAILED")]
    assert details.first_error_details is not None
    assert details.first_error_details["message"] == "Out of memory"
    [job_id] = details.steps[1].job_ids
    job = client.get_project("SALES").get_job(job_id)
    assert (await job.get_status())["baseStatus"]["state"] == "FAILED"
    log = await caught.value.run.get_log()
    assert log.endswith(await caught.value.run.get_log(tail_bytes=20))
    assert await job.get_log() != ""


async def test_many_scenarios_run_at_once_and_each_gets_its_own_outcome(client: DSSClient) -> None:
    waits = (scenario(client, id).run_and_wait(no_fail=True, timeout=60) for id in ("A", "B", "C", "NIGHTLY"))
    runs = await asyncio.gather(*waits)
    assert [run.outcome for run in runs] == ["SUCCESS", "WARNING", "FAILED", "SUCCESS"]


async def test_a_long_run_is_found_running_and_aborted(client: DSSClient) -> None:
    endless = scenario(client, "ENDLESS")
    run = await (await endless.run()).wait_for_scenario_run(timeout=60)
    with pytest.raises(DSSWaitTimeout):
        await run.wait_for_completion(timeout=0.02)
    assert ((await endless.get_current_run()).id, (await endless.get_status()).running) == (run.id, True)
    [future] = await client.list_running_scenarios(all_users=True)
    assert future["payload"]["targets"][0]["objectId"] == "ENDLESS"
    await endless.abort()
    await run.wait_for_completion(no_fail=True, timeout=60)
    assert run.outcome == "ABORTED"
    assert await endless.get_current_run() is None


async def test_a_run_is_aborted_by_its_future_too(client: DSSClient) -> None:
    run = await (await scenario(client, "ENDLESS").run()).wait_for_scenario_run(timeout=60)
    [future] = await client.list_running_scenarios(all_users=True)
    await client.get_future(future["jobId"]).abort()
    await run.wait_for_completion(no_fail=True, timeout=60)
    assert run.outcome == "ABORTED"


async def test_a_fire_while_the_scenario_runs_is_cancelled(client: DSSClient) -> None:
    endless = scenario(client, "ENDLESS")
    await (await endless.run()).wait_for_scenario_run(timeout=60)
    fire = await endless.run()
    with pytest.raises(DSSRunCancelled):
        await fire.wait_for_scenario_run(timeout=60)
    assert await fire.wait_for_scenario_run(no_fail=True, timeout=60) is None


async def test_runs_are_read_by_day_and_by_moment(client: DSSClient) -> None:
    nightly = scenario(client)
    history = await nightly.get_last_runs(limit=100, only_finished_runs=True)
    assert len(history) == 5
    assert {run.id for run in history} <= {run.id for run in await nightly.get_runs_by_date("2000-01-01")}
    third = history[2].start_time
    assert [r.id for r in await nightly.get_runs_by_date(third, third + timedelta(milliseconds=1))] == [history[2].id]
    assert (await nightly.get_last_successful_run()).good
    assert (await nightly.get_average_duration() or 0) > 0
    with pytest.raises(ValueError, match="no finished run"):
        await scenario(client, "A").get_last_finished_run()


async def test_scenarios_are_switched_off_remembered_and_switched_on_again(client: DSSClient) -> None:
    project = client.get_project("SALES")
    were_active = [item.id for item in await project.list_scenarios() if item.active]
    for id in were_active:
        settings = await project.get_scenario(id).get_settings()
        settings.active = False
        await settings.save()
    assert [item.id for item in await project.list_scenarios() if item.active] == []
    assert (await scenario(client).get_status()).next_run is None
    for id in were_active:
        settings = await project.get_scenario(id).get_settings()
        settings.active = True
        await settings.save()
    assert [item.id for item in await project.list_scenarios() if item.active] == were_active
    assert (await scenario(client).get_status()).next_run > datetime.now(UTC)


async def test_the_sender_of_mail_reporters_is_changed_and_nothing_else(client: DSSClient) -> None:
    before = (await scenario(client).get_settings()).get_raw()
    settings = await scenario(client).get_settings()
    for reporter in settings.raw_reporters:
        reporter["messaging"]["configuration"]["sender"] = "new@x"
    await settings.save()
    after = (await scenario(client).get_settings()).get_raw()
    assert after["reporters"][0]["messaging"]["configuration"]["sender"] == "new@x"
    assert {k for k in before if before[k] != after[k]} == {"reporters", "versionTag"}


async def test_two_editors_do_not_overwrite_each_other(client: DSSClient) -> None:
    mine, theirs = await scenario(client).get_settings(), await scenario(client).get_settings()
    theirs.run_as = "batch"
    await theirs.save()
    mine.active = False
    with pytest.raises(DSSConflict) as caught:
        await mine.save()
    assert caught.value.changed_by == theirs.get_raw()["versionTag"]["lastModifiedBy"]["login"]
    again = await scenario(client).get_settings()
    assert (again.active, again.run_as, again.effective_run_as) == (True, "batch", "batch")


async def test_a_new_trigger_of_each_kind_is_accepted(client: DSSClient) -> None:
    made = await client.get_project("SALES").create_scenario("Made", "step_based")
    settings = await made.get_settings()
    settings.active = True
    settings.add_periodic_trigger(every_minutes=30)
    settings.add_hourly_trigger(minute_of_hour=5)
    settings.add_daily_trigger(hour=3, days=["Monday"], timezone="Europe/Paris")
    settings.add_monthly_trigger(run_on="LAST_DAY_OF_THE_MONTH")
    await settings.save()
    assert [t["params"]["frequency"] for t in (await made.get_settings()).raw_triggers] == [
        "Minutely",
        "Hourly",
        "Weekly",
        "Monthly",
    ]
    assert (await made.get_status()).next_run is not None
    await made.delete()
    with pytest.raises(DSSNotFound):
        await made.get_settings()


async def test_a_scripts_code_is_read_and_replaced(client: DSSClient) -> None:
    settings = await scenario(client, "SCRIPT").get_settings()
    assert settings.code == "print('hello')"
    settings.code = "print('bye')"
    await settings.save()
    assert (await scenario(client, "SCRIPT").get_settings()).code == "print('bye')"


async def test_an_identifier_with_odd_letters_works_from_end_to_end(client: DSSClient) -> None:
    odd = scenario(client, "a/b c?d#é")
    run = await odd.run_and_wait(timeout=60)
    assert (run.outcome, (await odd.get_status()).running) == ("SUCCESS", False)
    assert len((await run.get_details()).steps) == 1


async def test_test_scenarios_have_reports(client: DSSClient) -> None:
    project = client.get_project("SALES")
    [tested] = await project.list_test_scenarios()
    run = await tested.run_and_wait(timeout=60)
    assert run
    assert b"<testsuite" in await run.get_report()
    assert b"<testsuite" in await project.get_last_test_scenario_runs_report()
    assert b"<html" in (await project.get_last_test_scenario_runs_html_report()).lower()
    assert (await project.get_testing_status()).nb_scenarios_per_outcome.get("SUCCESS") == 1


async def test_people_discuss_a_scenario(client: DSSClient) -> None:
    discussions = scenario(client).get_object_discussions()
    begun = await discussions.create_discussion("late again", "why?")
    await begun.add_reply("who knows")
    [listed] = await discussions.list_discussions()
    assert [reply.get_text() for reply in await listed.get_replies()] == ["why?", "who knows"]


async def test_variables_are_updated(client: DSSClient) -> None:
    project = client.get_project("SALES")
    await project.update_variables({"region": "EMEA"})
    assert (await project.get_variables())["standard"] == {"country": "FR", "region": "EMEA"}
    assert (await client.get_resolved_variables("SALES"))["region"] == "EMEA"


async def test_a_wrong_key_a_missing_scenario_and_a_missing_run_are_told_apart(
    client: DSSClient, sim: tuple[Sim, str]
) -> None:
    async with DSSClient(sim[1], "wrong", proxy="") as stranger:
        with pytest.raises(DSSUnauthorized, match="Unknown API Key"):
            await stranger.list_project_keys()
    with pytest.raises(DSSNotFound) as caught:
        await scenario(client, "NOPE").get_status()
    assert caught.value.error_type is not None
    with pytest.raises(DSSNotFound):
        await scenario(client).get_run("2020-01-01-00-00-00-000")
    with pytest.raises((DSSNotFound, DSSForbidden)):
        await client.get_project("NOPE").list_scenarios()


GUIDE = Path(__file__).resolve().parents[2] / "docs" / "client.md"


async def test_the_guides_examples_run(client: DSSClient, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    _, *examples = blocks  # the first one names a host
    names: dict[str, Any] = {"client": client, "asyncio": asyncio}
    code = compile("\n".join(examples), str(GUIDE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    await eval(code, names)
    assert [run.outcome for run in names["runs"]] == ["SUCCESS", "WARNING", "FAILED"]
    assert "SUCCESS" in capsys.readouterr().out
