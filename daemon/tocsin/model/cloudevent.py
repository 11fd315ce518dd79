"""Events as CloudEvents 1.0 in the structured JSON mode; the schema beside this file describes them."""

import json
from functools import lru_cache
from importlib.resources import files
from urllib.parse import quote

from tocsin.kit.clock import isoformat
from tocsin.model.event import Event, FailedReporter
from tocsin.model.run import Details, RunError, RunWarning

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


def event_schema() -> dict[str, Json]:
    loaded: dict[str, Json] = json.loads(files("tocsin.model").joinpath("cloudevent.schema.json").read_text("utf-8"))
    return loaded


def to_cloudevent(event: Event, details: Details | None = None) -> dict[str, Json]:
    """The event with what is known of the run's details. In ``data`` what is unknown or does not apply is null, never
    absent; around it CloudEvents allows no null, so an event about a node has no ``subject``."""
    scenario, run = event.scenario, event.run
    document: dict[str, Json] = {
        "specversion": "1.0",
        "id": event.id,
        "type": f"tocsin.{event.name.value}",
        "source": _source(event.node, event.project, scenario.id if scenario else None),
        "time": isoformat(event.time),
        "datacontenttype": "application/json",
        "data": {
            "node": event.node,
            "project": event.project,
            "scenario": None
            if scenario is None
            else {"id": scenario.id, "name": scenario.name, "tags": list(scenario.tags), "type": scenario.type},
            "run": None
            if run is None
            else {
                "id": run.run_id,
                "start": isoformat(run.start),
                "end": None if run.end is None else isoformat(run.end),
                "duration_seconds": None if run.duration is None else run.duration.total_seconds(),
                "outcome": run.outcome,
                "trigger": {"type": run.trigger_type, "name": run.trigger_name},
                "run_as": run.run_as,
                "url": event.run_url,
            },
            "previous_outcome": event.previous_outcome,
            "late": event.late,
            "detected_at": isoformat(event.detected_at),
            "reason": event.reason.value if event.reason else None,
            "reporter": _fields(event.reporter, ("name", "type", "error")),
            "error": _fields(details.error if details else None, ("message", "code", "title", "step")),
            "warnings": _warnings(details),
            "steps": _steps(details),
        },
    }
    if run is not None:
        document["subject"] = run.run_id
    if event.seq is not None:
        document["seq"] = event.seq
    return document


@lru_cache(maxsize=4_096)
def _source(node: str, project: str | None, scenario: str | None) -> str:
    source = f"/nodes/{quote(node, safe='')}"
    if project is not None and scenario is not None:
        source += f"/projects/{quote(project, safe='')}/scenarios/{quote(scenario, safe='')}"
    return source


def _fields(value: FailedReporter | RunError | RunWarning | None, names: tuple[str, ...]) -> Json:
    return None if value is None else {name: getattr(value, name) for name in names}


def _warnings(details: Details | None) -> Json:
    if details is None or (details.problem is not None and not details.steps):
        return None
    return [_fields(warning, ("step", "message", "count")) for warning in details.warnings]


def _steps(details: Details | None) -> Json:
    if details is None or (details.problem is not None and not details.steps):
        return None
    return [
        {
            **{name: getattr(step, name) for name in ("id", "name", "type", "outcome")},
            "duration_seconds": None if step.duration is None else step.duration.total_seconds(),
            "job_ids": list(step.job_ids),
        }
        for step in details.steps
    ]
