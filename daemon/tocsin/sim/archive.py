"""Definitions and history that outlive the process: one SQLite file behind ``tocsin sim --db``.

Each change is one small transaction on the event loop's thread; this is a simulator, not a store under load. Runs that
were in progress when the process ended come back as ABORTED at their start.
"""

import json
import sqlite3
from datetime import datetime
from pathlib import Path

from tocsin.kit.clock import from_ms, to_ms
from tocsin.sim.behaviour import Behaviour, Document
from tocsin.sim.documents import report_item, scenario_target
from tocsin.sim.entities import SimJob, SimLogLine, SimProject, SimRun, SimScenario, TriggerFire
from tocsin.sim.world import World

_SCHEMA = """
CREATE TABLE IF NOT EXISTS instance (id INTEGER PRIMARY KEY CHECK (id = 1), body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS projects (project TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS scenarios (project TEXT, scenario TEXT, body TEXT NOT NULL, PRIMARY KEY (project, scenario));
CREATE TABLE IF NOT EXISTS runs (
  project TEXT, scenario TEXT, run TEXT, start INTEGER NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (project, scenario, run)
);
"""
_FORMAT = 1
_JOB_FIELDS = ("id", "definition", "start", "login", "end", "state", "failure")


class NotAnArchive(Exception):
    """A file that this version cannot use as the database of a simulator."""


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
        self._keep("instance", 1, body={"variables": world.variables, "channels": world.channels})

    def keep_project(self, project: SimProject) -> None:
        self._keep("projects", project.key, body={"document": project.document, "variables": project.variables})

    def keep_scenario(self, scenario: SimScenario) -> None:
        body = {
            **{key: getattr(scenario, key) for key in ("definition", "payload", "discussions", "turns")},
            "behaviour": scenario.behaviour.raw if scenario.behaviour else None,
            "evaluated": {key: to_ms(at) for key, at in scenario.evaluated.items()},
        }
        self._keep("scenarios", scenario.project_key, scenario.id, body=body)

    def keep_run(self, scenario: SimScenario, run: SimRun, jobs: list[SimJob]) -> None:
        body = {
            "document": run.document,
            "future": run.future_id,
            "steps": run.step_runs,
            "log": run.log.lines,
            "jobs": [{**{name: getattr(job, name) for name in _JOB_FIELDS}, "log": job.log.lines} for job in jobs],
        }
        self._keep("runs", scenario.project_key, scenario.id, run.id, run.document["start"], body=body)

    def keep_world(self, world: World) -> None:
        """Keep everything, for a world that was not loaded from here."""
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
            for table in ("projects", "scenarios", "runs")[len(key) - 1 :]:
                self._db.execute(f"DELETE FROM {table} WHERE {where}", key)

    def _keep(self, table: str, *key: object, body: Document) -> None:
        if self._db is not None:  # an update, not REPLACE, which would move a row to the end: all keep their order
            values = ", ".join("?" * (len(key) + 1))
            row = (*key, json.dumps(body, default=str))
            update = "ON CONFLICT DO UPDATE SET body = excluded.body"
            self._db.execute(f"INSERT INTO {table} VALUES ({values}) {update}", row)

    def load(self, world: World) -> datetime | None:
        """Put what is kept in the place of the world's projects, variables and channels.

        Returns its latest moment, so that the clock never goes back behind it, or ``None`` if nothing is kept.
        """
        if self._db is None or (row := self._db.execute("SELECT body FROM instance").fetchone()) is None:
            return None
        kept = json.loads(row[0])
        world.variables, world.channels, world.projects = kept["variables"], kept["channels"], {}
        for (body,) in self._db.execute("SELECT body FROM projects ORDER BY rowid"):
            kept = json.loads(body)
            world.projects[kept["document"]["projectKey"]] = SimProject(kept["document"], kept["variables"])
        for (body,) in self._db.execute("SELECT body FROM scenarios ORDER BY rowid"):
            kept = json.loads(body)
            definition, raw = kept["definition"], kept["behaviour"]
            behaviour = None if raw is None else Behaviour.parse(raw, str(definition["id"]))
            scenario = world.add_scenario(world.project(definition["projectKey"]), definition, behaviour)
            scenario.payload, scenario.discussions, scenario.turns = kept["payload"], kept["discussions"], kept["turns"]
            scenario.evaluated = {key: from_ms(at) for key, at in kept["evaluated"].items()}
        latest = 0
        for project, scenario_id, body in self._db.execute("SELECT project, scenario, body FROM runs ORDER BY start"):
            latest = max(latest, _load_run(world.project(project), scenario_id, json.loads(body)))
        return from_ms(latest)


def _load_run(project: SimProject, scenario_id: str, kept: Document) -> int:
    """Put one run back; the last moment known of it, in epoch milliseconds."""
    document, scenario = kept["document"], project.scenario(scenario_id)
    run = SimRun(document, kept["future"], kept["steps"])
    run.log.lines = [SimLogLine(*line) for line in kept["log"]]
    last = max(document["end"], document["start"])
    if not run.ended:
        document["end"] = last
        target = scenario_target(scenario)
        document["result"] = report_item("SCENARIO_DONE", "ABORTED", target, document["start"], last)
    scenario.runs[run.id] = run
    fire = TriggerFire(document["trigger"], run=run)
    scenario.fires[fire.key] = fire
    for entry in kept["jobs"]:
        lines = entry.pop("log")
        job = project.jobs[entry["id"]] = SimJob(**entry)
        job.log.lines = [SimLogLine(*line) for line in lines]
    return int(last)
