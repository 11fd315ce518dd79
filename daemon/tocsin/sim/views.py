"""How scenarios, futures and jobs look in lists: derived documents. Pure."""

from datetime import datetime

from tocsin.kit.clock import to_ms
from tocsin.sim.behaviour import Document
from tocsin.sim.nouns import SimJob, SimProject, SimRun, SimScenario

_UNITS = {"Minutely": "minute", "Hourly": "hour", "Daily": "day", "Weekly": "week", "Monthly": "month"}


def light(scenario: SimScenario, now: datetime) -> Document:
    """A scenario in a list, and its ``light`` form: definition in short and what runs now."""
    definition = scenario.definition
    upcoming = scenario.next_occurrence(now)
    created, modified = definition["creationTag"], definition["versionTag"]
    document = {
        "projectKey": scenario.project_key,
        "id": scenario.id,
        "name": definition["name"],
        "type": definition["type"],
        "active": bool(definition["active"]),
        "unavailable": False,
        "automationLocal": bool(definition.get("automationLocal")),
        "markedAsTest": bool(definition.get("markedAsTest")),
        "shortDesc": definition.get("shortDesc", ""),
        "description": definition.get("description", ""),
        "tags": definition.get("tags", []),
        "checklists": definition.get("checklists", {"checklists": []}),
        "triggerDigest": ", ".join(_described(t) for t in definition["triggers"] if t["active"]),
        "triggerDigestItems": [
            {"name": t["name"], "description": _described(t), "active": bool(t["active"])}
            for t in definition["triggers"]
        ],
        "reporterDigestItems": [
            {"name": r["name"], "description": r["messaging"].get("type", ""), "active": bool(r["active"])}
            for r in definition["reporters"]
        ],
        "nextRun": 0 if upcoming is None else to_ms(upcoming),
        "running": scenario.current is not None,
        "start": 0,
        "createdBy": _person(created),
        "createdOn": created["lastModifiedOn"],
        "lastModifiedBy": _person(modified),
        "lastModifiedOn": modified["lastModifiedOn"],
        "interest": {},
    }
    if definition.get("runAsUser"):
        document["runAsUser"] = definition["runAsUser"]
    if (run := scenario.current) is not None:
        document |= {"start": run.document["start"], "futureId": run.future_id, "trigger": run.document["trigger"]}
    return document


def future(scenario: SimScenario, run: SimRun, now: datetime, *, with_result: bool = False) -> Document:
    """The state of the future that hosts a run."""
    start = run.document["start"]
    state: Document = {
        "jobId": run.future_id,
        "alive": not run.ended,
        "hasResult": run.ended,
        "aborted": run.outcome == "ABORTED",
        "startTime": start,
        "runningTime": (run.document["end"] if run.ended else to_ms(now)) - start,
        "owner": run.document["runAsUser"]["realUserLogin"],
        "progress": {"states": []},
        "payload": {
            "displayName": f"Scenario {run.document['scenario']['name']}",
            "targets": [{"objectType": "SCENARIO", "projectKey": scenario.project_key, "objectId": scenario.id}],
        },
    }
    if run.ended and with_result:
        state["result"] = run.document
    return state


def job_item(project: SimProject, job: SimJob) -> Document:
    """A job in a list."""
    return {
        "def": job_definition(project, job),
        "projectKey": project.key,
        "jobId": job.id,
        "state": job.state,
        "stableState": bool(job.end),
        "startTime": job.start,
        "endTime": job.end,
    }


def job_status(project: SimProject, job: SimJob) -> Document:
    """A job by itself; why it failed stands under ``unexpectedFailure``."""
    base: Document = {
        "def": job_definition(project, job),
        "state": job.state,
        "jobStartTime": job.start,
        "jobEndTime": job.end,
    }
    if job.failure is not None:
        base["unexpectedFailure"] = {
            "errorType": job.failure["clazz"],
            "message": job.failure["message"],
            "detailedMessage": f"{job.failure['clazz']}: {job.failure['message']}",
            "stackTraceStr": job.failure["stack"],
        }
    counts = {state.lower(): int(job.state == state) for state in ("DONE", "FAILED", "ABORTED", "RUNNING")}
    return {"baseStatus": base, "globalState": {**counts, "total": 1}}


def job_definition(project: SimProject, job: SimJob) -> Document:
    return {
        **job.definition,
        "id": job.id,
        "projectKey": project.key,
        "name": job.id,
        "initiator": job.login,
        "initiationTimestamp": job.start,
    }


def _person(tag: Document) -> Document:
    login = tag["lastModifiedBy"]["login"]
    return {"login": login, "displayName": login}


def _described(trigger: Document) -> str:
    if trigger["type"] != "temporal":
        return str(trigger["name"] or trigger["type"])
    params = trigger["params"]
    unit, count = _UNITS.get(str(params.get("frequency")), "time"), params.get("repeatFrequency", 1)
    every = f"every {unit}" if count == 1 else f"every {count} {unit}s"
    hour, minute = str(params.get("hour", 0)), str(params.get("minute", 0))
    return every if unit == "minute" else f"{every} at {hour.zfill(2)}:{minute.zfill(2)}"
