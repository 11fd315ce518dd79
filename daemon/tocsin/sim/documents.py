"""The JSON documents of DSS: definitions, fires, runs, futures, jobs and their forms in lists. Pure.

DSS parses definitions into classes, so a field of a wrong type is refused, while unknown fields are kept; what
``params`` and ``configuration`` hold is read only where it is used.
"""

import copy
import functools
import secrets
from datetime import datetime
from typing import Any

from tocsin.kit.clock import to_ms
from tocsin.sim.behaviour import Document, SimError
from tocsin.sim.entities import SimJob, SimProject, SimRun, SimScenario

# The triggers of fires that no stored trigger caused, as recorded from DSS.
BY_API: Document = {"id": "manual", "type": "manual", "name": "API run", "delay": 0, "active": False}
BY_HAND: Document = {**BY_API, "name": "Manual trigger"}
BY_PARENT: Document = {**BY_API, "id": "sub", "type": "sub", "name": "Run by another scenario"}

# Defaults of the parts of a definition; ``None`` stands for a generated id.
_SCENARIO: Document = {
    "type": "step_based",
    **dict.fromkeys(("active", "automationLocal", "markedAsTest"), False),
    **dict.fromkeys(("shortDesc", "description"), ""),
    "tags": [],
    "checklists": {"checklists": []},
    "customFields": {},
    "delayedTriggersBehavior": {
        "delayWhileRunning": False,
        "squashDelayedTriggers": True,
        "suppressTriggersWhileRunning": True,
    },
    "triggers": [],
    "reporters": [],
    "params": {},
}
_TRIGGER: Document = {"id": None, "name": "", "delay": 5, "active": True, "params": {}}
_REPORTER: Document = {"id": None, "name": "", "active": True, "phase": "END", "runConditionEnabled": False}
_STEP: Document = {
    "params": {},
    "runConditionType": "RUN_IF_STATUS_MATCH",
    "runConditionStatuses": ["SUCCESS", "WARNING"],
    "runConditionExpression": "",
    "resetScenarioStatus": False,
    "maxRetriesOnFail": 0,
    "delayBetweenRetries": 10,
}
_RUN_CONDITIONS = ("DISABLED", "RUN_ALWAYS", "RUN_IF_STATUS_MATCH", "RUN_CONDITIONALLY")
_IN_LISTS = ("type", "active", "automationLocal", "markedAsTest", "shortDesc", "description", "tags", "checklists")
_UNITS = {"Minutely": "minute", "Hourly": "hour", "Daily": "day", "Weekly": "week", "Monthly": "month"}

# The types of the fields that DSS itself reads: those of the defaults, and of the fields that have none.
Shape = Any  # a class, several, ``[shape]`` for a list or a dict for an object


def _shape(defaults: Document, *texts: str, **more: Shape) -> Shape:
    types = {key: type(value) for key, value in defaults.items()}
    return {**types, **dict.fromkeys(("id", "name", "type", *texts), str), **more}


_NUMBER = (int, float)
SCENARIO_SHAPE = _shape(
    _SCENARIO,
    "runAsUser",
    tags=[str],
    triggers=[_shape(_TRIGGER, delay=_NUMBER)],
    reporters=[_shape(_REPORTER, "runCondition", messaging={"type": str, "configuration": dict})],
    params={"steps": [_shape(_STEP, enabled=bool, delayBetweenRetries=_NUMBER)]},
)


class BadDefinition(SimError):
    """A part of a definition has a wrong type; the message names the first."""


def checked_definition(raw: Document) -> Document:
    """``raw`` without the fields that are null. Raises ``BadDefinition``."""
    document: Document = _checked(raw, SCENARIO_SHAPE, "")
    steps = document.get("params", {}).get("steps", ())
    for where, items in (("triggers", document.get("triggers", ())), ("params.steps", steps)):
        for number, item in enumerate(items):
            if "type" not in item:
                raise BadDefinition(f"{where}[{number}] has no type")
    return document


def _checked(value: object, shape: Shape, where: str) -> Any:
    if isinstance(shape, list):
        if not isinstance(value, list):
            raise BadDefinition(f"{where} must be a list")
        return [_checked(item, shape[0], f"{where}[{number}]") for number, item in enumerate(value)]
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise BadDefinition(f"{where or 'it'} must be an object")
        filled = {key: item for key, item in value.items() if item is not None or key not in shape}
        prefix = f"{where}." if where else ""
        return {key: _checked(item, shape.get(key, object), f"{prefix}{key}") for key, item in filled.items()}
    if not isinstance(value, shape) or (isinstance(value, bool) and shape not in (bool, object)):
        raise BadDefinition(f"{where} has a value of the wrong type")
    return value


def opaque_id() -> str:
    return secrets.token_urlsafe(6).replace("-", "x").replace("_", "y")


def version_tag(number: int, login: str, now: datetime) -> Document:
    return {"versionNumber": number, "lastModifiedBy": {"login": login}, "lastModifiedOn": to_ms(now)}


def new_definition(raw: Document, project_key: str, scenario_id: str, login: str, now: datetime) -> Document:
    tags = {key: version_tag(0, login, now) for key in ("creationTag", "versionTag")}
    identity = {"projectKey": project_key, "id": scenario_id}
    return _normalised({**tags, **_SCENARIO, **raw, **identity})


def replaced_definition(old: Document, new: Document, login: str, now: datetime) -> Document:
    """The new definition under the old identity, one version on; of some fields the old value if the new has none."""
    kept = {
        key: old[key] for key in ("name", "type", "triggers", "reporters", "params", "tags", "active", "markedAsTest")
    }
    identity = {key: old[key] for key in ("projectKey", "id", "creationTag")}
    tag = version_tag(old["versionTag"]["versionNumber"] + 1, login, now)
    return _normalised({**kept, **new, **identity, "versionTag": tag})


def _normalised(raw: Document) -> Document:
    """The definition as DSS stores it: ids and defaults filled in, what it does not keep dropped."""
    document = copy.deepcopy(raw)
    document["tags"] = sorted(set(document["tags"]))
    for trigger in document["triggers"]:
        _fill_defaults(trigger, _TRIGGER)
        if trigger["type"] == "temporal" and not trigger["name"]:
            trigger["name"] = "Time-based"
    for reporter in document["reporters"]:
        _fill_defaults(reporter, _REPORTER)
        if reporter["phase"] not in ("START", "END"):  # as of any unknown word of a closed set, nothing is kept
            del reporter["phase"]
        messaging = reporter.setdefault("messaging", {})
        messaging.pop("channelId", None)
        messaging.setdefault("configuration", {})
    if document["type"] == "step_based":
        taken: set[str] = set()
        for number, step in enumerate(document["params"].setdefault("steps", [])):
            step_id = str(step.get("id") or f"{step.get('type')}_{number}")
            step["id"] = step_id if step_id not in taken else f"{step_id}_{number}"
            taken.add(step["id"])
            _fill_defaults(step, {"name": step["id"], **_STEP})
            if step["runConditionType"] not in _RUN_CONDITIONS:
                step["runConditionType"] = None
    return document


def _fill_defaults(document: Document, defaults: Document) -> None:
    for key, default in defaults.items():
        document.setdefault(key, opaque_id() if default is None else copy.deepcopy(default))


@functools.lru_cache(maxsize=1000)  # thousands of runs share a few; nobody changes one
def auth_context(login: str, source: str = "USER_FROM_UI") -> Document:
    return {"authSource": source, "realUserLogin": login, "userGroups": [], "via": []}


def effective_login(definition: Document) -> str:
    """Who a scenario runs as: ``runAsUser`` if set, else who changed it last."""
    return str(definition.get("runAsUser") or definition["versionTag"]["lastModifiedBy"]["login"])


def run_auth(definition: Document) -> Document:
    return auth_context(effective_login(definition))


def report_item(kind: str, outcome: str, target: Document, start: int, end: int, **more: object) -> Document:
    """``more`` is ``thrown``, ``logTail``, ``warnings`` or ids."""
    return {"type": kind, "outcome": outcome, "target": target, "start": start, "end": end, **more}


def scenario_target(scenario: SimScenario, kind: str = "SCENARIO") -> Document:
    return {"type": kind, "projectKey": scenario.project_key, "scenarioId": scenario.id}


def scenario_item(scenario: SimScenario, now: datetime) -> Document:
    """A scenario in a list, and its ``light`` form."""
    definition, upcoming = scenario.definition, scenario.next_occurrence(now)
    triggers = [(trigger, _described(trigger)) for trigger in definition["triggers"]]
    reporters = [(reporter, reporter["messaging"].get("type", "")) for reporter in definition["reporters"]]
    document = {
        "projectKey": scenario.project_key,
        "id": scenario.id,
        "name": definition["name"],
        **{key: definition.get(key, _SCENARIO[key]) for key in _IN_LISTS},
        "unavailable": False,
        "triggerDigest": ", ".join(description for trigger, description in triggers if trigger["active"]),
        "nextRun": 0 if upcoming is None else to_ms(upcoming),
        "running": scenario.current is not None,
        "start": 0,
        "interest": {},
    }
    for key, items in (("triggerDigestItems", triggers), ("reporterDigestItems", reporters)):
        document[key] = [
            {"name": item["name"], "description": description, "active": bool(item["active"])}
            for item, description in items
        ]
    for prefix, tag in (("created", definition["creationTag"]), ("lastModified", definition["versionTag"])):
        login = tag["lastModifiedBy"]["login"]
        document[f"{prefix}By"] = {"login": login, "displayName": login}
        document[f"{prefix}On"] = tag["lastModifiedOn"]
    if definition.get("runAsUser"):
        document["runAsUser"] = definition["runAsUser"]
    if (run := scenario.current) is not None:
        document |= {"start": run.document["start"], "futureId": run.future_id, "trigger": run.document["trigger"]}
    return document


def _described(trigger: Document) -> str:
    if trigger["type"] != "temporal":
        return str(trigger["name"] or trigger["type"])
    params = trigger["params"]
    unit, count = _UNITS.get(str(params.get("frequency")), "time"), params.get("repeatFrequency", 1)
    every = f"every {unit}" if count == 1 else f"every {count} {unit}s"
    hour, minute = str(params.get("hour", 0)), str(params.get("minute", 0))
    return every if unit == "minute" else f"{every} at {hour.zfill(2)}:{minute.zfill(2)}"


def future_state(scenario: SimScenario, run: SimRun, now: datetime, *, with_result: bool = False) -> Document:
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
    return {**state, "result": run.document} if run.ended and with_result else state


def job_definition(project: SimProject, job: SimJob) -> Document:
    identity = {"id": job.id, "projectKey": project.key, "name": job.id}
    return {**job.definition, **identity, "initiator": job.login, "initiationTimestamp": job.start}


def job_item(project: SimProject, job: SimJob) -> Document:
    identity = {"def": job_definition(project, job), "projectKey": project.key, "jobId": job.id}
    times = {"startTime": job.start, "endTime": job.end}
    return {**identity, "state": job.state, "stableState": bool(job.end), **times}


def job_status(project: SimProject, job: SimJob) -> Document:
    times = {"jobStartTime": job.start, "jobEndTime": job.end}
    base: Document = {"def": job_definition(project, job), "state": job.state, **times}
    if job.failure is not None:
        clazz, message = job.failure["clazz"], job.failure["message"]
        base["unexpectedFailure"] = {
            "errorType": clazz,
            "message": message,
            "detailedMessage": f"{clazz}: {message}",
            "stackTraceStr": job.failure["stack"],
        }
    counts = {state.lower(): int(job.state == state) for state in ("DONE", "FAILED", "ABORTED", "RUNNING")}
    return {"baseStatus": base, "globalState": {**counts, "total": 1}}
