"""What DSS writes: reply bodies of the public API made from the world, without I/O."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.fakedss.ledger import Run
from tests.fakedss.world import Scenario, World

JSON = dict[str, object]

_TRIGGER_NAMES = {"manual": "API run", "temporal": "Time-based", "follow_scenariorun": "After scenario"}


def fire(run: Run) -> JSON:
    """The trigger fire of a run; its own run id is some milliseconds older than the run's."""
    by_hand = run.trigger == "manual"
    return {
        "projectKey": run.project,
        "scenarioId": run.scenario,
        "trigger": {
            "id": "manual" if by_hand else f"{run.trigger}-1",
            "type": run.trigger,
            "name": _TRIGGER_NAMES.get(run.trigger, run.trigger),
            "delay": 0 if by_hand else 5,
            "active": not by_hand,
        },
        "runId": "fire-" + run.id,
        "timestamp": run.start_ms - 2,
        "cancelled": False,
        "params": {},
    }


def run_item(run: Run, owner: Scenario) -> JSON:
    item: JSON = {
        "scenario": {
            "projectKey": owner.project,
            "id": owner.id,
            "name": owner.name,
            "type": owner.type,
            "active": owner.active,
            "markedAsTest": False,
            "tags": list(owner.tags),
        },
        "runId": run.id,
        "start": run.start_ms,
        "end": run.end_ms,
        "trigger": fire(run),
        "runAsUser": {"authSource": "USER_FROM_UI", "realUserLogin": run.run_as},
        "variables": {},
        "clustersUsed": [],
        "reportersStates": run.reporters_states,
    }
    if run.end_ms:
        target: JSON = {"type": "SCENARIO", "projectKey": run.project, "scenarioId": run.scenario}
        item["result"] = _result("SCENARIO_DONE", run.outcome, target, run.start_ms, run.end_ms)
    return item


def run_details(run: Run, owner: Scenario) -> JSON:
    """Two steps: the first always well, the second a build that bears the outcome and the error of the run."""
    middle = run.start_ms + max(0, (run.end_ms or run.start_ms) - run.start_ms) // 2
    steps = [_step(run, "prepare", "custom_python", "SUCCESS", run.start_ms, middle)]
    if run.end_ms:
        steps.append(_step(run, "build", "build_flowitem", run.outcome, middle, run.end_ms))
    return {"scenarioRun": run_item(run, owner), "stepRuns": steps}


def _step(run: Run, step: str, kind: str, outcome: str | None, start: int, end: int) -> JSON:
    target: JSON = {"type": "SCENARIO_STEP", "projectKey": run.project, "scenarioId": run.scenario, "stepId": step}
    items: list[JSON] = []
    if kind == "build_flowitem":
        job: JSON = {"type": "JOB_EXECUTED", "jobId": f"Build_{run.id}", "outcome": outcome, "start": start}
        if outcome == "FAILED":
            message = run.error or "Job failed"
            job["thrown"] = {
                "clazz": "com.dataiku.dip.exceptions.CodedException",
                "title": "Job failed",
                "message": message,
                "stack": f"com.dataiku.dip.exceptions.CodedException: {message}\n\tat …",
                "code": "ERR_RECIPE_FAILED",
                "fixability": "USER_CONFIG",
            }
        items.append(job | {"end": end, "target": {"type": "JOBS", "projectKey": run.project}})
    return {
        "step": {"id": step, "name": step.capitalize(), "type": kind, "params": {}},
        "runId": f"{step}-{run.id}",
        "retryIndex": 0,
        "start": start,
        "end": end,
        "result": _result("STEP_DONE", outcome, target, start, end),
        "additionalReportItems": items,
    }


def _result(kind: str, outcome: str | None, target: JSON, start: int, end: int) -> JSON:
    return {"type": kind, "outcome": outcome, "target": target, "start": start, "end": end}


def run_log(run: Run) -> str:
    stamp = f"{datetime.fromtimestamp(run.start_ms / 1000, UTC):%Y/%m/%d-%H:%M:%S}.000"
    lines = [f"[{stamp}] [Scenario-{run.scenario}] [INFO] [dku.scenarios]  - Starting run {run.id}"]
    if run.outcome == "FAILED":
        lines.append(f"[{stamp}] [Scenario-{run.scenario}] [ERROR] [dku.scenarios]  - {run.error or 'Job failed'}")
    if run.end_ms:
        lines.append(f"[{stamp}] [Scenario-{run.scenario}] [INFO] [dku.scenarios]  - Done: {run.outcome}")
    return "\n".join(lines) + "\n"


def light(owner: Scenario, world: World, idle_start: bool) -> JSON:
    """The status object, which is the item of the list too; ``idle_start``: ``start`` is there even when idle."""
    run = world.running.get(owner.key)
    status: JSON = {
        "projectKey": owner.project,
        "id": owner.id,
        "name": owner.name,
        "type": owner.type,
        "active": owner.active,
        "running": run is not None,
        "nextRun": owner.next_run_ms if owner.active else 0,
        "triggerDigest": "",
        "triggerDigestItems": [],
        "reporterDigestItems": [],
        "automationLocal": False,
        "unavailable": False,
        "markedAsTest": False,
        "tags": list(owner.tags),
        "createdOn": 0,
        "lastModifiedOn": 0,
    }
    if run or idle_start:
        status["start"] = run.start_ms if run else 0
    if run:
        status |= {"futureId": _future_id(run), "trigger": fire(run)}
    if owner.run_as:
        status["runAsUser"] = owner.run_as
    return status


def definition(owner: Scenario) -> JSON:
    whole: JSON = {
        "projectKey": owner.project,
        "id": owner.id,
        "name": owner.name,
        "type": owner.type,
        "active": owner.active,
        "automationLocal": False,
        "markedAsTest": False,
        "tags": list(owner.tags),
        "triggers": owner.triggers,
        "reporters": owner.reporters,
        "params": {"steps": []},
        "versionTag": {"versionNumber": 0, "lastModifiedBy": {"login": "admin"}, "lastModifiedOn": 0},
    }
    return whole | ({"runAsUser": owner.run_as} if owner.run_as else {})


def project(key: str, world: World) -> JSON:
    return {
        "projectKey": key,
        "name": f"Project {key}",
        "ownerLogin": "admin",
        "projectType": "REGULAR",
        "tags": list(world.tags_of_projects.get(key, ())),
        "versionTag": {"versionNumber": 1},
    }


def future(run: Run, world: World) -> JSON:
    return {
        "jobId": _future_id(run),
        "alive": True,
        "hasResult": False,
        "aborted": False,
        "owner": run.run_as,
        "startTime": run.start_ms,
        "runningTime": max(0, world.now_ms() - run.start_ms),
        "progress": {"states": []},
        "payload": {
            "type": "SCENARIO",
            "displayName": f"Scenario {run.scenario}",
            "targets": [{"objectType": "SCENARIO", "projectKey": run.project, "objectId": run.scenario}],
        },
    }


def _future_id(run: Run) -> str:
    return f"{run.project}-{run.scenario}-{run.id}"


def error(error_type: str, message: str) -> JSON:
    """A serialized error as DSS sends it."""
    return {
        "errorType": error_type,
        "message": message,
        "detailedMessage": message,
        "detailedMessageHTML": f"<span>{message}</span>",
        "stackTraceStr": f"{error_type}: {message}\n\tat …",
    }
