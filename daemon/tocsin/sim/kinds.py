"""The step types that are really executed: Python, SQL on SQLite, other scenarios, variables, reports."""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing

from tocsin.sim import documents
from tocsin.sim.behaviour import Document, listed
from tocsin.sim.formula import BadFormula, as_text, evaluate, expand
from tocsin.sim.nouns import Missing, Scenario
from tocsin.sim.perform import Ending, Kind, Performance, scenario_target
from tocsin.sim.python import Limits, run_python
from tocsin.sim.reporters import NotSent, Reporters

_ILLEGAL = "java.lang.IllegalArgumentException"
_MOST_ROWS = 1000


class Kinds:
    """Executes steps. ``own_api`` gives the address and key under which scripts reach the instance itself."""

    def __init__(self, reporters: Reporters, own_api: Callable[[], tuple[str, str]], limits: Limits) -> None:
        self._reporters = reporters
        self._own_api = own_api
        self._limits = limits

    def table(self) -> Mapping[str, Kind]:
        """The step types and what executes them."""
        return {
            "custom_python": self._python,
            "exec_sql": self._sql,
            "run_scenario": self._run_scenario,
            "kill_scenario": self._kill_scenario,
            "define_vars": self._variables,
            "set_project_vars": self._variables,
            "set_global_vars": self._variables,
            "send_report": self._send_report,
        }

    async def _python(self, performance: Performance, step: Document, step_run: Document) -> Ending:
        url, key = self._own_api()
        run = performance.run
        context = {
            "project": performance.scenario.project_key,
            "scenario": performance.scenario.id,
            "variables": performance.variables(),
            "trigger": run.document["trigger"],
            "url": url,
            "key": key,
        }
        script = str(step["params"].get("script") or "")
        ending, defined = await run_python(
            script, context, self._limits, lambda line: performance.say(step["id"], line, "process")
        )
        run.variables.update(defined)
        return ending

    async def _sql(self, performance: Performance, step: Document, step_run: Document) -> Ending:
        name, sql = str(step["params"].get("connection")), str(step["params"].get("sql") or "")
        path = performance.engine.world.connections.get(name)
        if path is None:
            return Ending.failed(_ILLEGAL, f"Connection does not exist: {name}", code="ERR_CONNECTION_NOT_FOUND")
        database = sqlite3.connect(path, timeout=10, check_same_thread=False)
        work = asyncio.create_task(asyncio.to_thread(_execute, database, sql))
        try:
            async with asyncio.timeout(self._limits.seconds):
                rows = await asyncio.shield(work)
        except (sqlite3.Error, TimeoutError) as error:
            message = str(error) or f"The query took longer than {self._limits.seconds:g} s"
            return Ending.failed("java.sql.SQLException", message, code="ERR_SQL_QUERY_FAILED")
        finally:
            database.interrupt()
            await asyncio.gather(work, return_exceptions=True)
            database.close()
        performance.say(step["id"], f"{len(rows)} rows")
        performance.run.variables[f"stepOutput_{step['name']}"] = {"rows": rows}
        return Ending()

    async def _run_scenario(self, performance: Performance, step: Document, step_run: Document) -> Ending:
        """Run another scenario after what it is doing now; its end is the step's. An abort aborts both."""
        target = _target(performance, step)
        if target is None or target is performance.scenario:
            return Ending.failed(_ILLEGAL, f"Cannot run scenario {step['params'].get('scenarioId')}")
        auth = documents.auth_context(documents.effective_login(performance.run.document["scenario"]))
        variables = {**performance.run.document["variables"], **performance.run.variables}
        engine = performance.engine
        fire = engine.launch(target, documents.BY_PARENT, {}, auth, variables=variables, wait_for_turn=True)
        over = False
        try:
            if fire.settled is not None:
                await fire.settled.wait()
            if fire.run is not None and fire.run.live is not None:
                await fire.run.live.over.wait()
            over = True
        finally:
            if not over:
                fire.cancel() if fire.run is None else engine.abort(target)
        outcome = fire.run.outcome if fire.run is not None else "ABORTED"
        if fire.run is not None:
            done = fire.run.document
            extra = {"runId": fire.run.id}
            item = documents.result(
                "SCENARIO_DONE", outcome, scenario_target(target), done["start"], done["end"], extra
            )
            step_run["additionalReportItems"].append(item)
        if outcome in ("SUCCESS", "WARNING"):
            return Ending(outcome)
        return Ending.failed("com.dataiku.dip.scheduler.ScenarioFailed", f"Scenario {target.id} ended: {outcome}")

    async def _kill_scenario(self, performance: Performance, step: Document, step_run: Document) -> Ending:
        target = _target(performance, step)
        if target is None:
            return Ending.failed(_ILLEGAL, f"scenario does not exist: {step['params'].get('scenarioId')}")
        performance.engine.abort(target)
        return Ending()

    async def _variables(self, performance: Performance, step: Document, step_run: Document) -> Ending:
        params, world = step["params"], performance.engine.world
        now = performance.variables()
        try:
            values = {key: _valued(value, params, now) for key, value in (params.get("variables") or {}).items()}
            for entry in listed(params.get("definitions")):
                values[str(entry["key"])] = _valued(entry.get("value"), params, {**now, **values})
        except (BadFormula, KeyError, TypeError, AttributeError) as error:
            return Ending.failed(_ILLEGAL, f"The variables cannot be evaluated: {error}")
        match step["type"]:
            case "define_vars":
                performance.run.variables.update(values)
            case "set_project_vars":
                world.project(performance.scenario.project_key).variables["standard"].update(values)
                performance.engine.variables_changed(performance.scenario.project_key)
            case _:
                world.variables.update(values)
                performance.engine.variables_changed(None)
        return Ending()

    async def _send_report(self, performance: Performance, step: Document, step_run: Document) -> Ending:
        try:
            await self._reporters.send(performance.run, step["params"].get("messaging") or {}, performance.variables())
        except NotSent as error:
            return Ending.failed("com.dataiku.dip.exceptions.MessagingException", str(error))
        return Ending()


def _target(performance: Performance, step: Document) -> Scenario | None:
    project_key = str(step["params"].get("projectKey") or performance.scenario.project_key)
    try:
        return performance.engine.world.scenario(project_key, str(step["params"].get("scenarioId")))
    except Missing:
        return None


def _valued(value: object, params: Document, variables: Document) -> object:
    """A variable's value: evaluated as a formula if the step says so, else with its ``${}`` filled."""
    if params.get("evaluateValues"):
        return evaluate(as_text(value), variables)
    return expand(value, variables) if isinstance(value, str) else value


def _execute(database: sqlite3.Connection, sql: str) -> list[list[object]]:
    """Run all statements; the rows of the last that has some."""
    rows: list[list[object]] = []
    statement = ""
    with database:
        for piece in sql.split(";"):
            statement += piece + ";"
            if not sqlite3.complete_statement(statement):
                continue
            with closing(database.execute(statement)) as cursor:
                if cursor.description is not None:
                    rows = [list(row) for row in cursor.fetchmany(_MOST_ROWS)]
            statement = ""
    return rows
