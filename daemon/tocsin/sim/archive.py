"""Definitions and history that outlive the process: one SQLite file behind ``tocsin sim --db``.

Each change is one small transaction on the event loop's thread: this is a simulator, not a store under load.
"""

import json
import sqlite3
from datetime import datetime
from pathlib import Path

from tocsin.kit.clock import from_ms, to_ms
from tocsin.sim.behaviour import Behaviour, Document
from tocsin.sim.documents import report_item, scenario_target
from tocsin.sim.entities import SimJob, SimProject, SimRun, SimScenario, TriggerFire
from tocsin.sim.world import World

# A document of the instance, a project or a scenario has no run; the parts that its key lacks are empty.
_SCHEMA = """CREATE TABLE IF NOT EXISTS documents (
  project TEXT, scenario TEXT, run TEXT, body TEXT NOT NULL, PRIMARY KEY (project, scenario, run)
);"""
_FORMAT = 2
_JOB_FIELDS = ("id", "definition", "start", "login", "end", "state", "failure")


class NotAnArchive(Exception):
    """A file that cannot be used as the database of a simulator."""


class SqliteArchive:
    """Keeps a world in ``path``, or nothing without one.

    Raises ``NotAnArchive`` if the file is something else, ``sqlite3.Error``, ``OSError``.
    """

    def __init__(self, path: Path | None) -> None:
        self._db: sqlite3.Connection | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if version not in (0, _FORMAT) or (version == 0 and tables):
                raise NotAnArchive(f"{path} is not a database of this simulator")
            self._db.executescript(f"{_SCHEMA}PRAGMA user_version = {_FORMAT};")
            self._db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise NotAnArchive(f"{path} is not a database of this simulator: {error}") from None

    def close(self) -> None:
        if self._db is not None:
            self._db.close()

    def keep_instance(self, world: World) -> None:
        self._keep(_fields(world, "variables", "channels"))

    def keep_project(self, project: SimProject) -> None:
        self._keep(_fields(project, "document", "variables"), project.key)

    def keep_scenario(self, scenario: SimScenario) -> None:
        body = _fields(scenario, "definition", "payload", "discussions", "turns")
        body["behaviour"] = scenario.behaviour.raw if scenario.behaviour else None
        body["evaluated"] = {key: to_ms(at) for key, at in scenario.evaluated.items()}
        self._keep(body, scenario.project_key, scenario.id)

    def keep_run(self, scenario: SimScenario, run: SimRun, jobs: list[SimJob]) -> None:
        body = {**_fields(run, "document", "future_id", "step_runs"), "log": run.log.lines}
        body["jobs"] = [{**_fields(job, *_JOB_FIELDS), "log": job.log.lines} for job in jobs]
        self._keep(body, scenario.project_key, scenario.id, run.id)

    def keep_world(self, world: World) -> None:
        if self._db is None:
            return
        self._db.execute("BEGIN")
        self.keep_instance(world)
        for project in world.projects.values():
            self.keep_project(project)
            for scenario in project.scenarios.values():
                self.keep_scenario(scenario)
                for run in scenario.runs.values():
                    self.keep_run(scenario, run, project.jobs_of(run))
        self._db.execute("COMMIT")

    def drop(self, *key: str) -> None:
        """Drop a project by its key, a scenario by (project, scenario) or a run by (project, scenario, run)."""
        if self._db is not None:
            where = " AND ".join(f"{name} = ?" for name in ("project", "scenario", "run")[: len(key)])
            self._db.execute(f"DELETE FROM documents WHERE {where}", key)

    def _keep(self, body: Document, project: str = "", scenario: str = "", run: str = "") -> None:
        if self._db is not None:  # an update, not REPLACE, which would move a row to the end: all keep their order
            insert = "INSERT INTO documents VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body"
            self._db.execute(insert, (project, scenario, run, json.dumps(body, default=str)))

    def load(self, world: World) -> datetime | None:
        """Put what is kept in the place of the world's projects, variables and channels.

        Runs that were in progress come back as ABORTED at their start. Returns the latest moment that is kept, which
        the clock must not go back behind, or ``None`` if nothing is kept.
        """
        latest: int | None = None
        if self._db is None:
            return None
        rows = self._db.execute("SELECT project, scenario, body FROM documents WHERE run = '' ORDER BY rowid")
        for project_key, scenario_id, body in rows:
            kept = json.loads(body)
            if scenario_id:
                raw = kept["behaviour"]
                behaviour = None if raw is None else Behaviour.parse(raw, str(kept["definition"]["id"]))
                scenario = world.add_scenario(world.project(project_key), kept["definition"], behaviour)
                scenario.payload, scenario.turns = kept["payload"], kept["turns"]
                scenario.discussions = kept["discussions"]
                scenario.evaluated = {key: from_ms(at) for key, at in kept["evaluated"].items()}
            elif project_key:
                world.projects[project_key] = SimProject(**kept)
            else:
                world.variables, world.channels, world.projects = kept["variables"], kept["channels"], {}
                latest = 0
        order = "ORDER BY json_extract(body, '$.document.start')"
        rows = self._db.execute(f"SELECT project, scenario, body FROM documents WHERE run != '' {order}")
        for project_key, scenario_id, body in rows:
            latest = max(latest or 0, _load_run(world.project(project_key), scenario_id, json.loads(body)))
        return None if latest is None else from_ms(latest)


def _fields(item: object, *names: str) -> Document:
    return {name: getattr(item, name) for name in names}


def _load_run(project: SimProject, scenario_id: str, kept: Document) -> int:
    """Put one run back. The last moment known of it, in epoch milliseconds."""
    document, scenario = kept["document"], project.scenario(scenario_id)
    jobs, lines = kept.pop("jobs"), kept.pop("log")
    run = scenario.runs[document["runId"]] = SimRun(**kept)
    run.log.lines = [tuple(line) for line in lines]
    last = max(document["end"], document["start"])
    if not run.ended:
        item = report_item("SCENARIO_DONE", "ABORTED", scenario_target(scenario), document["start"], last)
        document |= {"end": last, "result": item}
    fire = document["trigger"]
    scenario.fires[fire["trigger"]["id"], fire["runId"]] = TriggerFire(fire, run=run)
    for entry in jobs:
        lines = entry.pop("log")
        job = project.jobs[entry["id"]] = SimJob(**entry)
        job.log.lines = [tuple(line) for line in lines]
    return int(last)
