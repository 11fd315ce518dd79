"""One emulated instance, and how it is read from YAML; all of it in memory.

The format is described in docs/sim.md, and ``lively.yaml`` beside this module is an example.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml

from tocsin.kit.clock import from_ms
from tocsin.kit.durations import BadDuration, parse_duration
from tocsin.sim import documents
from tocsin.sim.behaviour import BadWorld, Behaviour, Document, as_list, checked_keys
from tocsin.sim.nouns import NoSuchObject, SimProject, SimRun, SimScenario
from tocsin.sim.shapes import BadDefinition, checked_definition

_SCENARIO_KEYS = {
    "id", "name", "type", "active", "automationLocal", "markedAsTest", "shortDesc", "description", "tags",
    "customFields", "checklists", "runAsUser", "delayedTriggersBehavior", "triggers", "reporters", "params",
    "steps", "script", "behaviour",
}  # fmt: skip


@dataclass(slots=True, eq=False)
class World:
    """One emulated instance."""

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
        """A world from its description. Raises ``BadWorld``."""
        try:
            raw = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise BadWorld(f"not YAML: {error}") from None
        return _world(raw)

    @classmethod
    def from_file(cls, path: Path | str) -> "World":
        """A world from a file. Raises ``BadWorld``, ``OSError``."""
        try:
            return cls.from_yaml(Path(path).read_text(encoding="utf-8"))
        except BadWorld as error:
            raise BadWorld(f"{path}: {error}") from None

    def project(self, key: str) -> SimProject:
        """Raises ``Missing``."""
        try:
            return self.projects[key]
        except KeyError:
            raise NoSuchObject(f"project does not exist: {key}") from None

    def scenario(self, project_key: str, scenario_id: str) -> SimScenario:
        """Raises ``Missing``."""
        return self.project(project_key).scenario(scenario_id)

    def every_scenario(self) -> Iterator[SimScenario]:
        for project in self.projects.values():
            yield from project.scenarios.values()

    def running(self) -> Iterator[tuple[SimScenario, SimRun]]:
        return ((s, s.current) for s in self.every_scenario() if s.current is not None)

    def add_project(self, key: str, name: str = "", owner: str = "", **more: object) -> SimProject:
        """A new, empty project; ``more`` goes into its document."""
        tag = documents.version_tag(0, owner or self.owner, from_ms(0))
        project = SimProject(
            {
                "projectKey": key,
                "name": name or key,
                "ownerLogin": owner or self.owner,
                "ownerDisplayName": owner or self.owner,
                "projectStatus": "Sandbox",
                "projectType": "REGULAR",
                "shortDesc": "",
                "tags": [],
                "versionTag": tag,
                "creationTag": tag,
                "disableAutomaticTriggers": False,
                **more,
            }
        )
        self.projects[key] = project
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
        """A new scenario from its definition; without ``id`` one is derived from the name. Raises ``BadWorld`` where
        the project has one of that id."""
        name = str(raw.get("name") or raw.get("id") or "")
        scenario_id = str(raw.get("id") or documents.scenario_id_from(name))
        if scenario_id in project.scenarios:
            raise BadWorld(f"Scenario already exists: {project.key}.{scenario_id}")
        document = documents.definition(
            {**raw, "name": name or scenario_id},
            project.key,
            scenario_id,
            login or project.document["ownerLogin"],
            now or from_ms(0),
        )
        rng = random.Random(f"{self.seed}/{project.key}/{scenario_id}")
        scenario = SimScenario(document, rng, behaviour)
        scenario.reread(self.zone)
        project.scenarios[scenario_id] = scenario
        return scenario


def lively_world() -> World:
    """The demo's world: some teams' projects in which something happens every few seconds."""
    return World.from_yaml(resources.files("tocsin.sim").joinpath("lively.yaml").read_text(encoding="utf-8"))


def _duration(raw: object) -> timedelta:
    return parse_duration(str(raw))


def _channels(raw: object) -> dict[str, Document]:
    blank: Document = {"configuration": {}, "permissions": None, "type": "smtp"}
    entries = [checked_keys(one, {"id", "type", "configuration", "permissions"}, "channels") for one in as_list(raw)]
    return {str(entry["id"]): {**blank, **entry} for entry in entries}


# What stands in a description, and how each is read into the field of the same name (``timezone`` into ``zone``).
_READ: dict[str, Callable[[Any], object]] = {
    **dict.fromkeys(("node_name", "node_type", "dss_version", "dss_url", "owner"), str),
    **dict.fromkeys(("promotion_delay", "launch_delay", "abort_delay"), _duration),
    "timezone": lambda raw: ZoneInfo(str(raw)),
    "automatic_triggers": bool,
    "history_limit": lambda raw: max(1, int(raw)),
    "seed": int,
    "variables": lambda raw: dict(raw or {}),
    "connections": lambda raw: {str(name): str(path) for name, path in (raw or {}).items()},
    "channels": _channels,
}


def _world(raw: object) -> World:
    data, world = checked_keys(raw, {*_READ, "projects"}, "world"), World()
    for key, read in _READ.items():
        if key in data:
            try:
                setattr(world, "zone" if key == "timezone" else key, read(data[key]))
            except (BadDuration, ZoneInfoNotFoundError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise error if isinstance(error, BadWorld) else BadWorld(f"{key}: {error}") from None
    for entry in as_list(data.get("projects")):
        _project(world, entry)
    return world


def _project(world: World, raw: object) -> None:
    keys = {"key", "name", "owner", "tags", "shortDesc", "variables", "disableAutomaticTriggers", "scenarios"}
    data = checked_keys(raw, keys, "projects")
    if not data.get("key"):
        raise BadWorld("projects: an entry without key")
    more = {key: data[key] for key in ("tags", "shortDesc", "disableAutomaticTriggers") if key in data}
    project = world.add_project(str(data["key"]), str(data.get("name", "")), str(data.get("owner", "")), **more)
    project.variables["standard"] = dict(data.get("variables") or {})
    for entry in as_list(data.get("scenarios")):
        _scenario(world, project, entry)


def _scenario(world: World, project: SimProject, raw: object) -> None:
    data = dict(checked_keys(raw, _SCENARIO_KEYS, f"{project.key}.scenarios"))
    where = f"{project.key}.{data.get('id') or data.get('name')}"
    if not (data.get("id") or data.get("name")):
        raise BadWorld(f"{project.key}.scenarios: an entry without id and name")
    behaviour = Behaviour.parse(data.pop("behaviour"), f"{where}.behaviour") if "behaviour" in data else None
    script = str(data.pop("script", ""))
    steps = as_list(data.pop("steps", None))
    if steps:
        data["params"] = {**(data.get("params") or {}), "steps": [_step(step, where) for step in steps]}
    # What a world file holds is JSON in YAML's clothes: dates become the text that DSS would hold.
    try:
        definition = checked_definition(json.loads(json.dumps(data, default=str)))
    except BadDefinition as misfit:
        raise BadWorld(f"{where}: {misfit}") from None
    scenario = world.add_scenario(project, definition, behaviour)
    scenario.payload = script
    if scenario.trouble:
        raise BadWorld(f"{where}.triggers: {scenario.trouble}")
    if behaviour and behaviour.history and not (behaviour.history.every or scenario.temporals):
        raise BadWorld(f"{where}.behaviour.history: needs `every` or an active temporal trigger")


def _step(raw: object, where: str) -> Document:
    """A step in DSS's shape, or the short forms ``build: NAME`` and ``python: CODE``."""
    if not isinstance(raw, dict):
        raise BadWorld(f"{where}.steps: each step is an object")
    step = dict(raw)
    if "build" in step:
        item = str(step.pop("build"))
        step = {"name": f"Build {item}", **step, "type": "build_flowitem"}
        build = {"type": "DATASET", "itemId": item, "partitionsSpec": ""}
        step["params"] = {"builds": [build], "jobType": "RECURSIVE_BUILD", **(step.get("params") or {})}
    elif "python" in step:
        code = str(step.pop("python"))
        step = {"name": "Python", **step, "type": "custom_python", "params": {"script": code}}
    if "type" not in step:
        raise BadWorld(f"{where}.steps: {step.get('name') or step} has neither type, build nor python")
    return step
