"""The reading half of DSS's public API over a world: which operation a path names, and what is true for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote

from tests.fakedss import wire
from tests.fakedss.world import World

_PREFIXES = (["dip", "publicapi"], ["public", "api"])
_UNDER_SCENARIO = {"light": "light", "get-last-runs": "last_runs", "get-runs-by-date": "runs_by_date"}


@dataclass(frozen=True, slots=True)
class Call:
    """A request as the API understands it; the parts that its path does not name are empty."""

    operation: str
    project: str = ""
    scenario: str = ""
    run: str = ""


@dataclass(slots=True)
class Dialect:
    """What is not known for sure about DSS, to be tried both ways."""

    idle_start: bool = True
    """List items of idle scenarios carry ``start``: 0."""
    max_limit: int = 10_000
    """The most runs that get-last-runs gives, whatever it was asked."""
    missing_is_500: bool = False
    """An object that does not exist is a 500 instead of a 404."""
    futures_of_others: str = "forbidden"
    """For a key that is no admin's: ``forbidden`` (403), or ``empty`` (its own futures, none)."""
    version: str = "14.1.0"


class Forbidden(Exception):
    """The key lacks the right."""


def parse(path: str) -> Call:
    """The operation of a raw path; slashes double or at the end are tolerated, as DSS does."""
    parts = [unquote(part) for part in path.partition("?")[0].split("/") if part]
    if parts[:2] not in _PREFIXES:
        return Call("unknown")
    match parts[2:]:
        case ["auth", "info"]:
            return Call("auth_info")
        case ["instance-info"]:
            return Call("instance_info")
        case ["futures"]:
            return Call("futures")
        case ["projects"]:
            return Call("projects")
        case ["projects", project]:
            return Call("project", project)
        case ["projects", project, "scenarios"]:
            return Call("scenarios", project)
        case ["projects", project, "scenarios", scenario]:
            return Call("scenario", project, scenario)
        case ["projects", project, "scenarios", scenario, last]:
            if last in _UNDER_SCENARIO:
                return Call(_UNDER_SCENARIO[last], project, scenario)
            return Call("run", project, scenario, last)
        case ["projects", project, "scenarios", scenario, run, "log"]:
            return Call("run_log", project, scenario, run)
    return Call("unknown")


@dataclass(slots=True)
class Api:
    """Answers from the world, for one kind of key: an admin's sees all, another not what is hidden from it."""

    world: World
    dialect: Dialect
    node_name: str
    absent: set[str]
    closed: set[str]

    def truth(self, call: Call, query: Mapping[str, str], *, admin: bool) -> object:
        """JSON, or text for a log. ``KeyError`` means that there is no such thing, ``ValueError`` bad input."""
        if call.project in self.closed and not admin:
            raise Forbidden
        match call.operation:
            case "auth_info":
                return {"authIdentifier": "admin" if admin else "api:watch", "groups": [], "adminKey": admin}
            case "instance_info":
                name = self.node_name
                version = self.dialect.version
                return {"nodeId": name, "nodeName": name, "nodeType": "AUTOMATION", "dssVersion": version}
            case "futures":
                return self._futures(query, admin)
            case "projects":
                shown = (key for key in self.world.projects if admin or key not in self.absent)
                return [wire.project(key, self.world) for key in shown]
            case "project":
                self._must_exist(call)
                return wire.project(call.project, self.world)
            case "scenarios":
                scenarios = self.world.projects[call.project].values()
                return [wire.light(owner, self.world, self.dialect.idle_start) for owner in scenarios]
            case "unknown":
                raise KeyError("no such path")
            case _:
                return self._of_scenario(call, query)

    def _must_exist(self, call: Call) -> None:
        if call.project not in self.world.projects:
            raise KeyError(call.project)

    def _of_scenario(self, call: Call, query: Mapping[str, str]) -> object:
        owner = self.world.scenario(call.project, call.scenario)
        match call.operation:
            case "scenario":
                return wire.definition(owner)
            case "light":
                return wire.light(owner, self.world, True)
            case "last_runs":
                limit = min(int(query.get("limit", "10")), self.dialect.max_limit)
                finished_only = query.get("onlyFinishedRuns", "").lower() == "true"
                runs = (run for run in reversed(owner.history) if run.end_ms or not finished_only)
                return [wire.run_item(run, owner) for _, run in zip(range(limit), runs, strict=False)]
            case "runs_by_date":
                begin, end = self._midnight_ms(query["fromDate"]), self._midnight_ms(query["toDate"])
                return [wire.run_item(run, owner) for run in owner.history if begin <= run.start_ms < end]
        # The newest wins where two runs share an id, an hour apart in an autumn night.
        run = next((run for run in reversed(owner.history) if run.id == call.run), None)
        if run is None:
            raise KeyError(call.run)
        return wire.run_details(run, owner) if call.operation == "run" else wire.run_log(run)

    def _futures(self, query: Mapping[str, str], admin: bool) -> object:
        if query.get("allUsers", "").lower() == "true" and not admin:
            if self.dialect.futures_of_others == "forbidden":
                raise Forbidden
            return []
        if query.get("withScenarios", "true").lower() != "true" or not admin:
            return []
        return [wire.future(run, self.world) for run in self.world.running.values()]

    def _midnight_ms(self, day: str) -> int:
        return round(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=self.world.zone).timestamp() * 1000)
