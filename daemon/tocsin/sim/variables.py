"""The variables that formulas, templates and scripts of a run can see. Pure."""

import json

from tocsin.sim.behaviour import Document
from tocsin.sim.nouns import SimRun, SimScenario
from tocsin.sim.world import World


def project_variables(world: World, project_key: str) -> Document:
    """Those of the instance and the project; local ones win."""
    kept = world.project(project_key).variables
    return {**world.variables, **kept.get("standard", {}), **kept.get("local", {})}


def run_url(world: World, run: SimRun) -> str | None:
    """The page of a run, if the instance knows its own address."""
    if not world.dss_url:
        return None
    scenario = run.document["scenario"]
    base = world.dss_url.rstrip("/")
    return f"{base}/projects/{scenario['projectKey']}/scenarios/{scenario['id']}/runs/list/{run.id}"


def run_variables(world: World, scenario: SimScenario, run: SimRun, outcome: str = "") -> Document:
    """All variables of a run as they stand now; ``outcome`` is empty before its end."""
    fire = run.document["trigger"]
    params = fire["params"]
    done = [step for step in run.step_runs if "result" in step]
    results = {step["step"]["name"]: _without_words(step["result"]) for step in done}
    outcomes = {name: result["outcome"] for name, result in results.items()}
    identity = {
        "projectKey": scenario.project_key,
        "scenarioProjectKey": scenario.project_key,
        "scenarioId": scenario.id,
        "scenarioName": scenario.definition["name"],
        "triggerName": fire["trigger"].get("name", ""),
        "triggerType": fire["trigger"]["type"],
        "outcome": outcome or run.outcome,
        "scenarioTriggerTime": fire["timestamp"],
        "scenarioTriggerRunId": fire["runId"],
        "scenarioTriggerParams": json.dumps(params),
        "stepResults": results,
        "stepOutcomes": outcomes,
    }
    if (url := run_url(world, run)) is not None:
        identity |= {"scenarioRunURL": url, "dssURL": world.dss_url}
    return {
        **project_variables(world, scenario.project_key),
        **run.document["variables"],
        **{f"scenarioTriggerParam_{key}": value for key, value in params.items()},
        **{f"stepResult_{name}": result for name, result in results.items()},
        **{f"stepOutcome_{name}": value for name, value in outcomes.items()},
        **run.variables,
        **identity,
    }


def _without_words(result: Document) -> Document:
    return {key: result[key] for key in ("type", "target", "start", "end", "outcome")}
