"""Events as CloudEvents 1.0 in the structured JSON mode; the schema beside this file describes them."""

import json
from datetime import datetime
from importlib.resources import files
from urllib.parse import quote

from tocsin.kit.clock import isoformat
from tocsin.model.event import Event
from tocsin.model.run import Details, Run

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


def event_schema() -> dict[str, Json]:
    """The JSON Schema of what ``to_cloudevent`` makes."""
    loaded: dict[str, Json] = json.loads(files("tocsin.model").joinpath("cloudevent.schema.json").read_text("utf-8"))
    return loaded


def event_source(event: Event) -> str:
    """The CloudEvents source: ``/nodes/N/projects/P/scenarios/S``, or ``/nodes/N`` for events about a node."""
    source = f"/nodes/{quote(event.node, safe='')}"
    if event.project is not None and event.scenario is not None:
        source += f"/projects/{quote(event.project, safe='')}/scenarios/{quote(event.scenario.id, safe='')}"
    return source


def to_cloudevent(event: Event, details: Details | None = None) -> dict[str, Json]:
    """The event with what is known of the run's details. In ``data`` what is unknown or does not apply is null, never
    absent; around it CloudEvents allows no null, so an event about a node has no ``subject``."""
    scenario, run = event.scenario, event.run
    document: dict[str, Json] = {
        "specversion": "1.0",
        "id": event.id,
        "type": f"tocsin.{event.name.value}",
        "source": event_source(event),
        "time": isoformat(event.time),
        "datacontenttype": "application/json",
        "data": {
            "node": event.node,
            "project": event.project,
            "scenario": None
            if scenario is None
            else {"id": scenario.id, "name": scenario.name, "tags": list(scenario.tags), "type": scenario.type},
            "run": None if run is None else _run(run, event.run_url),
            "previous_outcome": event.previous_outcome,
            "late": event.late,
            "detected_at": isoformat(event.detected_at),
            "reason": event.reason.value if event.reason else None,
            "reporter": None
            if event.reporter is None
            else {"name": event.reporter.name, "type": event.reporter.type, "error": event.reporter.error},
            "error": _error(details),
            "steps": _steps(details),
        },
    }
    if event.run is not None:
        document["subject"] = event.run.run_id
    if event.seq is not None:
        document["seq"] = event.seq
    return document


def _run(run: Run, url: str | None) -> Json:
    duration = run.duration
    return {
        "id": run.run_id,
        "start": isoformat(run.start),
        "end": _moment(run.end),
        "duration_seconds": None if duration is None else duration.total_seconds(),
        "outcome": run.outcome,
        "trigger": {"type": run.trigger_type, "name": run.trigger_name},
        "run_as": run.run_as,
        "url": url,
    }


def _error(details: Details | None) -> Json:
    if details is None or details.error is None:
        return None
    error = details.error
    return {"code": error.code, "title": error.title, "message": error.message, "step": error.step}


def _steps(details: Details | None) -> Json:
    if details is None or (details.problem is not None and not details.steps):
        return None
    return [
        {
            "id": step.id,
            "name": step.name,
            "type": step.type,
            "outcome": step.outcome,
            "duration_seconds": None if step.duration is None else step.duration.total_seconds(),
            "job_ids": list(step.job_ids),
        }
        for step in details.steps
    ]


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else isoformat(moment)
