"""The JSON documents of DSS: how definitions, fires, runs, step runs and jobs look on the wire. Pure.

Shapes and their sources stand in docs/sim.md. What a caller wrote into a definition is kept; what DSS would add is
added: ids of triggers, reporters and steps, tags of versions, defaults.
"""

import copy
import functools
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from tocsin.kit.clock import from_ms, to_ms
from tocsin.sim.behaviour import Document

_RUN_CONDITIONS = ("DISABLED", "RUN_ALWAYS", "RUN_IF_STATUS_MATCH", "RUN_CONDITIONALLY")
_PHASES = ("START", "END")
_STEP: Document = {
    "runConditionType": "RUN_IF_STATUS_MATCH",
    "runConditionStatuses": ["SUCCESS", "WARNING"],
    "runConditionExpression": "",
    "resetScenarioStatus": False,
    "maxRetriesOnFail": 0,
    "delayBetweenRetries": 10,
}
_EDITABLE_IN_LIGHT = ("active", "checklists", "description", "shortDesc", "tags")

# The triggers of fires that no stored trigger made, as recorded from DSS.
BY_API: Document = {"id": "manual", "type": "manual", "name": "API run", "delay": 0, "active": False}
BY_HAND: Document = {**BY_API, "name": "Manual trigger"}
BY_PARENT: Document = {**BY_API, "id": "sub", "type": "sub", "name": "Run by another scenario"}


def opaque_id() -> str:
    """A short random id, as DSS gives to triggers, reporters and futures."""
    return secrets.token_urlsafe(6).replace("-", "x").replace("_", "y")


def run_stamp(moment: datetime, zone: ZoneInfo) -> str:
    """A run's id: its moment in the server's local time, ``2025-10-01-02-00-03-120``."""
    local = moment.astimezone(zone)
    return f"{local:%Y-%m-%d-%H-%M-%S}-{local.microsecond // 1000:03d}"


def job_stamp(moment: datetime) -> str:
    """The end of a job's id: its moment in UTC, ``2025-10-01T00-00-04.123``."""
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H-%M-%S}.{utc.microsecond // 1000:03d}"


def scenario_id_from(name: str) -> str:
    """The id DSS derives from a name: its case is kept, and all but ASCII letters and digits is ``_``."""
    return re.sub(r"[^0-9A-Za-z_]", "_", name)


def version_tag(number: int, login: str, now: datetime) -> Document:
    return {"versionNumber": number, "lastModifiedBy": {"login": login}, "lastModifiedOn": to_ms(now)}


def definition(raw: Document, project_key: str, scenario_id: str, login: str, now: datetime) -> Document:
    """The full definition of a new scenario; every field a client relies on is there."""
    document: Document = {
        "type": "step_based",
        "active": False,
        "automationLocal": False,
        "markedAsTest": False,
        "name": scenario_id,
        "shortDesc": "",
        "description": "",
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
        **copy.deepcopy(raw),
        "projectKey": project_key,
        "id": scenario_id,
    }
    document.setdefault("creationTag", version_tag(0, login, now))
    document.setdefault("versionTag", version_tag(0, login, now))
    return normalised(document)


def replaced(old: Document, new: Document, login: str, now: datetime) -> Document:
    """What is kept of a PUT: the new definition under the old identity, one version on."""
    document = {**copy.deepcopy(new), "projectKey": old["projectKey"], "id": old["id"]}
    document.setdefault("name", old["name"])
    document.setdefault("type", old["type"])
    document["creationTag"] = old["creationTag"]
    document["versionTag"] = version_tag(old["versionTag"]["versionNumber"] + 1, login, now)
    for key in ("triggers", "reporters", "params", "tags", "active", "markedAsTest"):
        document.setdefault(key, copy.deepcopy(old[key]))
    return normalised(document)


def light_replaced(old: Document, light: Document, login: str, now: datetime) -> Document:
    """What is kept of a PUT of the light form: five fields, no others."""
    return replaced(old, {**old, **{k: light[k] for k in _EDITABLE_IN_LIGHT if k in light}}, login, now)


def normalised(document: Document) -> Document:
    """The definition as DSS stores it: ids and defaults filled in, what it does not keep dropped. In place."""
    document["tags"] = sorted(set(document["tags"]))
    for trigger in document["triggers"]:
        _fill(trigger, {"id": opaque_id(), "name": "", "delay": 5, "active": True, "params": {}})
        if trigger["type"] == "temporal" and not trigger["name"]:
            trigger["name"] = "Time-based"
    for reporter in document["reporters"]:
        _fill(reporter, {"id": opaque_id(), "name": "", "active": True, "phase": "END", "runConditionEnabled": False})
        if reporter["phase"] not in _PHASES:  # as of any unknown word of a closed set, nothing is kept
            del reporter["phase"]
        messaging = reporter.setdefault("messaging", {})
        messaging.pop("channelId", None)
        messaging.setdefault("configuration", {})
    if document["type"] == "step_based":
        taken: set[str] = set()
        for number, step in enumerate(document["params"].setdefault("steps", [])):
            given = str(step.get("id") or f"{step.get('type')}_{number}")
            step["id"] = given if given not in taken else f"{given}_{number}"
            taken.add(step["id"])
            _fill(step, {"name": step["id"], "params": {}, **copy.deepcopy(_STEP)})
            if step["runConditionType"] not in _RUN_CONDITIONS:
                step["runConditionType"] = None
    return document


def _fill(document: Document, defaults: Document) -> None:
    for key, default in defaults.items():
        document.setdefault(key, default)


def trigger_fire(
    scenario: Document, trigger: Document, fire_id: str, at: datetime, params: Document, auth: Document
) -> Document:
    return {
        "projectKey": scenario["projectKey"],
        "scenarioId": scenario["id"],
        "trigger": trigger,
        "runId": fire_id,
        "timestamp": to_ms(at),
        "cancelled": False,
        "params": params,
        "triggerAuthCtx": auth,
    }


@functools.lru_cache(maxsize=1000)  # thousands of runs share a few; nobody changes one
def auth_context(login: str, source: str = "USER_FROM_UI") -> Document:
    return {"authSource": source, "realUserLogin": login, "userGroups": [], "via": []}


def effective_login(scenario: Document) -> str:
    """Who a scenario runs as: ``runAsUser`` if set, else who changed it last."""
    return str(scenario.get("runAsUser") or scenario["versionTag"]["lastModifiedBy"]["login"])


def scenario_run(snapshot: Document, run_id: str, start: datetime, fire: Document, variables: Document) -> Document:
    login = effective_login(snapshot)
    return {
        "scenario": snapshot,
        "runId": run_id,
        "start": to_ms(start),
        "end": 0,
        "trigger": fire,
        "runAsUser": auth_context(login),
        "effectiveUser": auth_context(login),
        "variables": variables,
        "clustersUsed": [],
        "reportersStates": [],
    }


def result(kind: str, outcome: str, target: Document, start: int, end: int, part: Document | None = None) -> Document:
    """A report item, the result of a step or of a run; ``part`` adds ``thrown``, ``logTail``, ``warnings`` or ids."""
    return {"type": kind, "outcome": outcome, "target": target, "start": start, "end": end, **(part or {})}


def counted_warnings(messages: Iterable[str]) -> Document:
    shown = [{"message": message} for message in messages]
    kinds = {"CUSTOM": {"count": len(shown), "stored": shown}} if shown else {}
    return {"totalCount": len(shown), "warnings": kinds}


def error_body(error_type: str, message: str) -> Document:
    """The body of an HTTP error."""
    return {
        "errorType": error_type,
        "message": message,
        "detailedMessage": message,
        "detailedMessageHTML": message.replace("&", "&amp;").replace("<", "&lt;"),
        "stackTraceStr": "",
    }


def local_day(epoch_ms: int, zone: ZoneInfo) -> str:
    return from_ms(epoch_ms).astimezone(zone).date().isoformat()


def truthy(text: Any) -> bool:
    """A boolean of a query string, in any case."""
    return str(text).lower() in ("true", "1", "yes")
