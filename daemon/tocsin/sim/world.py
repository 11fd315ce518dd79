"""One emulated instance, read from YAML and kept in memory.

docs/sim.md describes the format; ``lively.yaml`` beside this module is an example.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml

from tocsin.kit.clock import BadDuration, from_ms, parse_duration
from tocsin.sim.behaviour import BadWorld, Behaviour, Document, as_list, checked_keys
from tocsin.sim.documents import SCENARIO_SHAPE, BadDefinition, checked_definition, new_definition, version_tag
from tocsin.sim.entities import SimProject, SimRun, SimScenario, look_up


@dataclass(slots=True, eq=False)
class World:
    node_name: str = "sim"
    node_type: str = "DESIGN"
    dss_version: str = "14.7.0"
    dss_url: str = ""  # empty: no scenarioRunURL in reporters, as on an instance whose admin never set it
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    owner: str = "admin"
    automatic_triggers: bool = True
    promotion_delay: timedelta = timedelta(seconds=60)
    launch_delay: timedelta = timedelta(milliseconds=10)
    abort_delay: timedelta = timedelta(milliseconds=500)
    history_limit: int = 1000
    seed: int = 1
    variables: Document = field(default_factory=dict)
    channels: dict[str, Document] = field(default_factory=dict)
    connections: dict[str, str] = field(default_factory=dict)
    projects: dict[str, SimProject] = field(default_factory=dict)

    @classmethod
    def from_yaml(cls, text: str) -> "World":
        """Raises ``BadWorld``."""
        try:
            raw = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise BadWorld(f"not YAML: {error}") from None
        data, world = checked_keys(raw, {*_READERS, "projects"}, "world"), cls()
        for key, value in data.items():
            try:
                if key != "projects":
                    setattr(world, "zone" if key == "timezone" else key, _READERS[key](value))
            except BadWorld:
                raise
            except (BadDuration, ZoneInfoNotFoundError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise BadWorld(f"{key}: {error}") from None
        keys = {"key", "name", "owner", "tags", "shortDesc", "variables", "disableAutomaticTriggers", "scenarios"}
        for entry in as_list(data.get("projects")):
            entry = checked_keys(entry, keys, "projects")
            if not entry.get("key"):
                raise BadWorld("projects: an entry without key")
            more = {key: entry[key] for key in ("tags", "shortDesc", "disableAutomaticTriggers") if key in entry}
            key, name, owner = (str(entry.get(field, "")) for field in ("key", "name", "owner"))
            project = world.add_project(key, name, owner, **more)
            project.variables["standard"] = dict(entry.get("variables") or {})
            for scenario in as_list(entry.get("scenarios")):
                _read_scenario(world, project, scenario)
        return world

    @classmethod
    def from_file(cls, path: Path | str) -> "World":
        """Raises ``BadWorld``, ``OSError``."""
        try:
            return cls.from_yaml(Path(path).read_text(encoding="utf-8"))
        except BadWorld as error:
            raise BadWorld(f"{path}: {error}") from None

    def project(self, key: str) -> SimProject:
        return look_up(self.projects, key, "project", key)

    def scenario(self, project_key: str, scenario_id: str) -> SimScenario:
        return self.project(project_key).scenario(scenario_id)

    def every_scenario(self) -> Iterator[SimScenario]:
        for project in self.projects.values():
            yield from project.scenarios.values()

    def add_project(self, key: str, name: str = "", owner: str = "", **more: object) -> SimProject:
        owner = owner or self.owner
        document = {
            "projectKey": key,
            "name": name or key,
            **dict.fromkeys(("ownerLogin", "ownerDisplayName"), owner),
            "projectStatus": "Sandbox",
            "projectType": "REGULAR",
            "shortDesc": "",
            "tags": [],
            **dict.fromkeys(("versionTag", "creationTag"), version_tag(0, owner, from_ms(0))),
            "disableAutomaticTriggers": False,
        }
        project = self.projects[key] = SimProject({**document, **more})
        return project

    def add_scenario(
        self,
        project: SimProject,
        raw: Document,
        behaviour: Behaviour | None = None,
        *,
        now: datetime | None = None,
        login: str = "",
    ) -> SimScenario:
        """A new scenario from its definition. Raises ``BadWorld`` where the project has one of that id.

        Without ``id`` it is the name with ``_`` for all but ASCII letters and digits, its case kept.
        """
        name = str(raw.get("name") or raw.get("id") or "")
        scenario_id = str(raw.get("id") or re.sub(r"[^0-9A-Za-z_]", "_", name))
        if scenario_id in project.scenarios:
            raise BadWorld(f"Scenario already exists: {project.key}.{scenario_id}")
        named, login = {**raw, "name": name or scenario_id}, login or project.document["ownerLogin"]
        document = new_definition(named, project.key, scenario_id, login, now or from_ms(0))
        scenario = SimScenario(document, random.Random(f"{self.seed}/{project.key}/{scenario_id}"), behaviour)
        scenario.read_triggers(self.zone)
        project.scenarios[scenario_id] = scenario
        return scenario

    def project_variables(self, project_key: str) -> Document:
        variables = self.project(project_key).variables
        return {**self.variables, **variables.get("standard", {}), **variables.get("local", {})}

    def run_variables(self, scenario: SimScenario, run: SimRun, outcome: str = "") -> Document:
        """What formulas, templates and scripts of a run can see now; ``outcome`` is empty before its end."""
        fire = run.document["trigger"]
        params = fire["params"]
        results = {
            step["step"]["name"]: {key: step["result"][key] for key in ("type", "target", "start", "end", "outcome")}
            for step in run.step_runs
            if "result" in step
        }
        outcomes = {name: result["outcome"] for name, result in results.items()}
        identity = {
            **dict.fromkeys(("projectKey", "scenarioProjectKey"), scenario.project_key),
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
        if self.dss_url:
            page = f"projects/{scenario.project_key}/scenarios/{scenario.id}/runs/list/{run.id}"
            identity |= {"scenarioRunURL": f"{self.dss_url.rstrip('/')}/{page}", "dssURL": self.dss_url}
        return {
            **self.project_variables(scenario.project_key),
            **run.document["variables"],
            **{f"scenarioTriggerParam_{key}": value for key, value in params.items()},
            **{f"stepResult_{name}": result for name, result in results.items()},
            **{f"stepOutcome_{name}": value for name, value in outcomes.items()},
            **run.variables,
            **identity,
        }


def lively_world() -> World:
    """The demo's world, in which something happens every few seconds."""
    return World.from_yaml(resources.files("tocsin.sim").joinpath("lively.yaml").read_text(encoding="utf-8"))


def _read_channels(raw: object) -> dict[str, Document]:
    blank: Document = {"configuration": {}, "permissions": None, "type": "smtp"}
    keys = {"id", "type", "configuration", "permissions"}
    entries = [checked_keys(entry, keys, "channels") for entry in as_list(raw)]
    return {str(entry["id"]): {**blank, **entry} for entry in entries}


# What stands in a description, and how each is read into the field of the same name (``timezone`` into ``zone``).
_READERS: dict[str, Callable[[Any], object]] = {
    **dict.fromkeys(("node_name", "node_type", "dss_version", "dss_url", "owner"), str),
    **dict.fromkeys(("promotion_delay", "launch_delay", "abort_delay"), lambda raw: parse_duration(str(raw))),
    "timezone": lambda raw: ZoneInfo(str(raw)),
    "automatic_triggers": bool,
    "history_limit": lambda raw: max(1, int(raw)),
    "seed": int,
    "variables": lambda raw: dict(raw or {}),
    "connections": lambda raw: {str(name): str(path) for name, path in (raw or {}).items()},
    "channels": _read_channels,
}


def _read_scenario(world: World, project: SimProject, raw: object) -> None:
    data = dict(checked_keys(raw, {*SCENARIO_SHAPE, "steps", "script", "behaviour"}, f"{project.key}.scenarios"))
    where = f"{project.key}.{data.get('id') or data.get('name')}"
    if not (data.get("id") or data.get("name")):
        raise BadWorld(f"{project.key}.scenarios: an entry without id and name")
    behaviour = Behaviour.parse(data.pop("behaviour"), f"{where}.behaviour") if "behaviour" in data else None
    script = str(data.pop("script", ""))
    if steps := as_list(data.pop("steps", None)):
        data["params"] = {**(data.get("params") or {}), "steps": [_read_step(step, where) for step in steps]}
    # What a world file holds is JSON in YAML's clothes: dates become the text that DSS would hold.
    try:
        definition = checked_definition(json.loads(json.dumps(data, default=str)))
    except BadDefinition as error:
        raise BadWorld(f"{where}: {error}") from None
    scenario = world.add_scenario(project, definition, behaviour)
    scenario.payload = script
    if scenario.trigger_error:
        raise BadWorld(f"{where}.triggers: {scenario.trigger_error}")
    if behaviour and behaviour.history and not (behaviour.history.every or scenario.temporals):
        raise BadWorld(f"{where}.behaviour.history: needs `every` or an active temporal trigger")


def _read_step(raw: object, where: str) -> Document:
    """A step in DSS's shape, or the short forms ``build: NAME`` and ``python: CODE``."""
    if not isinstance(raw, dict):
        raise BadWorld(f"{where}.steps: each step is an object")
    step = dict(raw)
    if "build" in step:
        item = str(step.pop("build"))
        builds = {"builds": [{"type": "DATASET", "itemId": item, "partitionsSpec": ""}], "jobType": "RECURSIVE_BUILD"}
        params = {**builds, **(step.get("params") or {})}
        step = {"name": f"Build {item}", **step, "type": "build_flowitem", "params": params}
    elif "python" in step:
        code = str(step.pop("python"))
        step = {"name": "Python", **step, "type": "custom_python", "params": {"script": code}}
    if "type" not in step:
        raise BadWorld(f"{where}.steps: {step.get('name') or step} has neither type, build nor python")
    return step
