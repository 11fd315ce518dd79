"""What people do with scenarios in Python, written once for Dataiku's own client and for ours.

A case gets a client of either kind and ``ask``, which calls what asks DSS: in a thread for theirs, awaited for ours. It
answers plain values, so that both can be compared. Run as a program it tries the cases with whichever official client
the interpreter finds: URLs by case as JSON on standard input, what was read by case as JSON on standard output.
"""

import asyncio
import json
import re
import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from datetime import date, datetime
from typing import Any

KEY = "tocsin-sim-admin-key"
WORLD = """
timezone: Europe/Paris
projects:
  - key: SALES
    owner: amelie
    scenarios:
      - id: NIGHTLY
        name: NIGHTLY
        active: true
        tags: [daily, finance]
        triggers: [{id: t1, type: temporal, name: Night, params: {frequency: Daily, hour: 2, minute: 0}}]
        steps: [{id: check, name: Check, type: check_dataset}, {build: orders}]
        reporters:
          - {id: r1, name: mail, messaging: {type: mail-scenario, configuration: {sender: old@example.org, recipient: a@example.org}}}
          - {id: r2, name: chat, messaging: {type: slack-scenario, configuration: {message: x}}}
        behaviour: {duration: 4s, history: {runs: 6, outcomes: SUCCESS}}
      - id: BROKEN
        steps: [{id: check, name: Check, type: check_dataset}, {build: orders}]
        behaviour:
          duration: 4s
          outcomes: FAILED
          fails_at: Build orders
          errors: [{clazz: com.example.SparkDied, title: Spark died, message: Out of memory, code: ERR_OOM}]
      - {id: ENDLESS, runAsUser: batch, steps: [{build: all}], behaviour: {duration: 99999h}}
      - {id: TESTED, markedAsTest: true, steps: [{id: s1, name: unit, type: check_dataset}], behaviour: {duration: 1s}}
      - {id: SCRIPT, type: custom_python, script: "print('hello')"}
      - {id: A, active: true, steps: [{build: x}], behaviour: {duration: 2s}}
      - {id: B, steps: [{build: x}], behaviour: {duration: 3s, outcomes: WARNING}}
"""

Ask = Callable[..., Awaitable[Any]]
Case = Callable[[Any, Ask], Awaitable[object]]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def project(client: Any) -> Any:
    return client.get_project("SALES")


def scenario(client: Any, id: str = "NIGHTLY") -> Any:
    return project(client).get_scenario(id)


def ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def told(run: Any) -> object:
    """All of a run that does not depend on when it was asked for."""
    return {
        "id": run.id,
        "outcome": run.outcome,
        "start": ms(run.start_time),
        "end": ms(run.end_time),
        "duration": run.duration,
        "trigger": run.trigger,
        "raw": run.get_info(),
    }


def ended(run: Any) -> object:
    """What two runs of the same scenario have in common."""
    return run.outcome, run.running, run.trigger["type"], run.get_info()["trigger"]["params"]


async def raises(awaitable: Awaitable[Any]) -> bool:
    try:
        await awaitable
    except Exception:  # noqa: BLE001 - each client has errors of its own
        return True
    return False


@case
async def run_and_wait(client: Any, ask: Ask) -> object:
    return ended(await ask(scenario(client).run_and_wait, {"day": "monday"}))


@case
async def run_and_wait_for_a_failure(client: Any, ask: Ask) -> object:
    broken = scenario(client, "BROKEN")
    run = await ask(broken.run_and_wait, no_fail=True)
    return ended(run), await raises(ask(broken.run_and_wait))


@case
async def trigger_fires(client: Any, ask: Ask) -> object:
    fire = await ask(scenario(client).run, {"a": 1})
    run = await ask(fire.wait_for_scenario_run)
    again = await ask(scenario(client).get_trigger_fire, fire.trigger_id, fire.run_id)
    same = await ask(again.get_scenario_run)
    return fire.trigger_id, await ask(fire.is_cancelled), same.id == run.id


@case
async def a_second_start_is_cancelled(client: Any, ask: Ask) -> object:
    endless = scenario(client, "ENDLESS")
    await ask((await ask(endless.run)).wait_for_scenario_run)
    fire = await ask(endless.run)
    return await ask(fire.wait_for_scenario_run, no_fail=True), await raises(ask(fire.wait_for_scenario_run))


@case
async def last_runs(client: Any, ask: Ask) -> object:
    return [told(run) for run in await ask(scenario(client).get_last_runs, limit=4, only_finished_runs=True)]


@case
async def runs_by_date(client: Any, ask: Ask) -> object:
    found = scenario(client)
    days = await ask(found.get_runs_by_date, date(2026, 2, 27), date(2026, 3, 1))
    words = await ask(found.get_runs_by_date, "2026-02-27", "2026-03-01")
    return [told(run) for run in days], [run.id for run in words]


@case
async def current_run(client: Any, ask: Ask) -> object:
    endless = scenario(client, "ENDLESS")
    before = await ask(endless.get_current_run)
    run = await ask((await ask(endless.run)).wait_for_scenario_run)
    current = await ask(endless.get_current_run)
    return before, current.id == run.id, current.running, (await ask(endless.get_status)).running


@case
async def run_by_id(client: Any, ask: Ask) -> object:
    newest = (await ask(scenario(client).get_last_runs, 1))[0]
    return told(await ask(scenario(client).get_run, newest.id))


@case
async def finished_successful_average(client: Any, ask: Ask) -> object:
    found = scenario(client)
    return (
        told(await ask(found.get_last_finished_run)),
        told(await ask(found.get_last_successful_run)),
        await ask(found.get_average_duration, 3),
        await ask(found.get_average_duration, 50),
        await raises(ask(scenario(client, "BROKEN").get_last_finished_run)),
    )


@case
async def disable_and_enable(client: Any, ask: Ask) -> object:
    read: list[object] = []
    items = await ask(project(client).list_scenarios)
    active = [item["id"] for item in items if item["active"]]
    for wanted in (False, True):
        for id in active:
            settings = await ask(scenario(client, id).get_settings)
            settings.active = wanted
            await ask(settings.save)
        listed = await ask(project(client).list_scenarios)
        read.append([(item["id"], item["active"], item["nextRun"], item.tags) for item in listed])
    return active, read


@case
async def run_as_and_reassign(client: Any, ask: Ask) -> object:
    async def everyone() -> list[object]:
        found = [await ask(one.get_settings) for one in await ask(project(client).list_scenarios, as_type="objects")]
        return [(one.run_as, one.effective_run_as) for one in found]

    before = await everyone()
    for one in await ask(project(client).list_scenarios, as_type="objects"):
        settings = await ask(one.get_settings)
        if settings.effective_run_as == "amelie":
            settings.run_as = "bob"
            await ask(settings.save)
    return before, await everyone()


@case
async def next_run(client: Any, ask: Ask) -> object:
    status = await ask(scenario(client).get_status)
    none = await ask(scenario(client, "A").get_status)
    return ms(status.next_run), status.running, ms(none.next_run), status.get_raw()["triggerDigest"]


@case
async def jobs_errors_and_steps(client: Any, ask: Ask) -> object:
    run = await ask(scenario(client, "BROKEN").run_and_wait, no_fail=True)
    details = await ask(run.get_details)
    jobs = [id for step in details.steps for id in step.job_ids]
    status = await ask(project(client).get_job(jobs[0]).get_status)
    return (
        [(step["step"]["name"], step.outcome, len(step.job_ids)) for step in details.steps],
        details.last_step["step"]["name"],
        details.first_error_details,
        [step.first_error_details for step in details.steps],
        status["baseStatus"]["state"],
        [item["jobId"] if "jobId" in item else item["def"]["id"] for item in await ask(project(client).list_jobs)]
        == jobs,
        "Out of memory" in await ask(project(client).get_job(jobs[0]).get_log),
    )


@case
async def logs_of_runs(client: Any, ask: Ask) -> object:
    run = (await ask(scenario(client).get_last_runs, 1))[0]
    whole, step = await ask(run.get_log), await ask(run.get_log, "check")
    return [re.sub(r"ScenarioThread-\w+", "", text) for text in (whole, step)]


@case
async def junit_reports(client: Any, ask: Ask) -> object:
    run = await ask(scenario(client, "TESTED").run_and_wait)
    whole = await content(ask, run.get_report)
    step = await content(ask, run.get_step_run_report, "s1")
    status = await ask(project(client).get_testing_status)
    other = (await ask(scenario(client).get_last_runs, 1))[0]
    return (
        [b"<testsuite" in whole, b"<testcase" in step, b"failure" in whole],
        (status.nb_total_ran_scenarios, status.nb_scenarios_per_outcome),
        [one.id for one in await ask(project(client).list_test_scenarios)],
        await raises(ask(other.get_report)),
    )


@case
async def several_at_once(client: Any, ask: Ask) -> object:
    fires = [await ask(scenario(client, id).run) for id in ("A", "B", "BROKEN", "NIGHTLY")]
    runs = [await ask(fire.wait_for_scenario_run) for fire in fires]
    for run in runs:
        await ask(run.wait_for_completion, no_fail=True)
    return [run.outcome for run in runs]


@case
async def from_of_all_mail_reporters(client: Any, ask: Ask) -> object:
    for one in await ask(project(client).list_scenarios, as_type="objects"):
        settings = await ask(one.get_settings)
        mails = [r["messaging"] for r in settings.raw_reporters if r["messaging"]["type"] == "mail-scenario"]
        for mail in mails:
            mail["configuration"]["sender"] = "new@example.org"
        if mails:
            await ask(settings.save)
    return (await ask(scenario(client).get_settings)).raw_reporters


@case
async def settings_of_steps(client: Any, ask: Ask) -> object:
    settings = await ask(scenario(client).get_settings)
    before = settings.get_raw()["name"], settings.active, len(settings.raw_steps), len(settings.raw_triggers)
    settings.raw_steps.append({"id": "new", "type": "check_dataset", "name": "New", "params": {}})
    settings.add_periodic_trigger(every_minutes=10)
    settings.add_hourly_trigger(minute_of_hour=5, year=2026, month=1, day=1)
    settings.add_daily_trigger(hour=3, minute=15, days=["Monday"], year=2026, month=1, day=1)
    settings.add_monthly_trigger(day=31, hour=4, year=2026, month=1, run_on="LAST_DAY_OF_THE_MONTH")
    await ask(settings.save)
    kept = await ask(scenario(client).get_settings)
    return (
        before,
        [step["id"] for step in kept.raw_steps],
        [(t["type"], t["active"], t["params"]) for t in kept.raw_triggers],
    )


@case
async def settings_of_a_script(client: Any, ask: Ask) -> object:
    settings = await ask(scenario(client, "SCRIPT").get_settings)
    code = settings.code
    settings.code = "print('bye')"
    await ask(settings.save)
    return code, (await ask(scenario(client, "SCRIPT").get_settings)).code


@case
async def create_and_delete(client: Any, ask: Ask) -> object:
    made = await ask(project(client).create_scenario, "Été (v2)", "step_based")
    raw = (await ask(made.get_settings)).get_raw()
    await ask(made.delete)
    return made.id, (raw["name"], raw["type"], raw["active"]), await raises(ask(made.get_settings))


@case
async def abort(client: Any, ask: Ask) -> object:
    endless = scenario(client, "ENDLESS")
    run = await ask((await ask(endless.run)).wait_for_scenario_run)
    await ask(endless.abort)
    await ask(run.wait_for_completion, no_fail=True)
    await ask(run.refresh)
    return run.outcome, run.running, await ask(endless.get_current_run), "msg" in await ask(endless.abort)


@case
async def running_scenarios(client: Any, ask: Ask) -> object:
    await ask((await ask(scenario(client, "ENDLESS").run)).wait_for_scenario_run)
    running = await ask(client.list_running_scenarios, all_users=True)
    return [one["payload"]["targets"][0]["objectId"] for one in running]


@case
async def discussions(client: Any, ask: Ask) -> object:
    kept = await ask(scenario(client).get_object_discussions)
    begun = await ask(kept.create_discussion, "late", "why?")
    await ask(begun.add_reply, "who knows")
    listed = await ask(kept.list_discussions)
    replies = await ask(listed[0].get_replies)
    return listed[0].get_metadata()["topic"], [(one.get_text(), one.get_author()) for one in replies]


@case
async def definition_and_payload_calls(client: Any, ask: Ask) -> object:
    found, script = scenario(client), scenario(client, "SCRIPT")
    light, full = await ask(found.get_definition), await ask(found.get_definition, False)
    await ask(found.set_definition, {**full, "shortDesc": "soon"}, False)
    await ask(found.set_definition, {**(await ask(found.get_definition)), "active": False})
    before = await ask(script.get_payload)
    await ask(script.set_payload, "print(1)")
    after = (await ask(found.get_settings)).get_raw()
    return light, full, (after["shortDesc"], after["active"]), before, await ask(script.get_payload)


@case
async def what_does_not_exist(client: Any, ask: Ask) -> object:
    return (
        await raises(ask(scenario(client, "NOPE").get_settings)),
        await raises(ask(scenario(client, "NOPE").run)),
        await raises(ask(scenario(client).get_run, "2020-01-01-00-00-00-000")),
        await raises(ask(client.get_project("NOPE").list_scenarios)),
    )


async def content(ask: Ask, read: Callable[..., Any], *words: Any) -> bytes:
    """A report, which theirs gives as a stream and ours as bytes."""
    found = await ask(read, *words)
    whole: bytes = found if isinstance(found, bytes) else getattr(found, "content", None) or found.read()
    return whole


async def with_official(urls: dict[str, str]) -> dict[str, object]:
    """Try the cases with the official client; what a version does not have is told as missing."""
    import dataikuapi

    nap = time.sleep
    time.sleep = lambda seconds: nap(min(float(seconds), 0.05))  # theirs sleeps up to 5 s between two looks

    async def one(name: str, url: str) -> tuple[str, object]:
        try:
            return name, {"read": await CASES[name](dataikuapi.DSSClient(url, KEY), asyncio.to_thread)}
        except AttributeError as error:
            return name, {"missing": str(error)}
        except Exception as error:  # noqa: BLE001 - one case that breaks is told, and stops no other
            return name, {"error": f"{type(error).__name__}: {error}"}

    return dict([await one(name, url) for name, url in urls.items()])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(asyncio.run(with_official(json.load(sys.stdin)))))
