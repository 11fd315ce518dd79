"""The step types that are really executed: Python, SQL on SQLite, other scenarios, variables, reports."""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing

from tocsin.sim import documents
from tocsin.sim.behaviour import Document, as_list
from tocsin.sim.formula import UnreadableFormula, evaluate_formula, fill_template, formula_text
from tocsin.sim.nouns import NoSuchObject, SimScenario
from tocsin.sim.perform import ExecutionResult, RunExecution, StepExecutor, target_of
from tocsin.sim.python import Limits, run_python
from tocsin.sim.reporters import MessageNotSent, Reporters

_ILLEGAL = "java.lang.IllegalArgumentException"
_MOST_ROWS = 1000


class StepExecutors:
    """Executes steps. ``own_api`` gives the address and key under which scripts reach the instance itself."""

    def __init__(self, reporters: Reporters, own_api: Callable[[], tuple[str, str]], limits: Limits) -> None:
        self._reporters = reporters
        self._own_api = own_api
        self._limits = limits

    def table(self) -> Mapping[str, StepExecutor]:
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

    async def _python(self, performance: RunExecution, step: Document, step_run: Document) -> ExecutionResult:
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

    async def _sql(self, performance: RunExecution, step: Document, step_run: Document) -> ExecutionResult:
        name, sql = str(step["params"].get("connection")), str(step["params"].get("sql") or "")
        path = performance.engine.world.connections.get(name)
        if path is None:
            return ExecutionResult.failed(
                _ILLEGAL, f"Connection does not exist: {name}", code="ERR_CONNECTION_NOT_FOUND"
            )
        database = sqlite3.connect(path, timeout=10, check_same_thread=False)
        work = asyncio.create_task(asyncio.to_thread(_execute, database, sql))
        try:
            async with asyncio.timeout(self._limits.seconds):
                rows = await asyncio.shield(work)
        except (sqlite3.Error, TimeoutError) as error:
            message = str(error) or f"The query took longer than {self._limits.seconds:g} s"
            return ExecutionResult.failed("java.sql.SQLException", message, code="ERR_SQL_QUERY_FAILED")
        finally:
            database.interrupt()
            await asyncio.gather(work, return_exceptions=True)
            database.close()
        performance.say(step["id"], f"{len(rows)} rows")
        performance.run.variables[f"stepOutput_{step['name']}"] = {"rows": rows}
        return ExecutionResult()

    async def _run_scenario(self, performance: RunExecution, step: Document, step_run: Document) -> ExecutionResult:
        """Run another scenario after what it is doing now; its end is the step's. An abort aborts both."""
        target = _target(performance, step)
        if target is None or target is performance.scenario:
            return ExecutionResult.failed(_ILLEGAL, f"Cannot run scenario {step['params'].get('scenarioId')}")
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
            item = documents.result("SCENARIO_DONE", outcome, target_of(target), done["start"], done["end"], extra)
            step_run["additionalReportItems"].append(item)
        if outcome in ("SUCCESS", "WARNING"):
            return ExecutionResult(outcome)
        return ExecutionResult.failed(
            "com.dataiku.dip.scheduler.ScenarioFailed", f"Scenario {target.id} ended: {outcome}"
        )

    async def _kill_scenario(self, performance: RunExecution, step: Document, step_run: Document) -> ExecutionResult:
        target = _target(performance, step)
        if target is None:
            return ExecutionResult.failed(_ILLEGAL, f"scenario does not exist: {step['params'].get('scenarioId')}")
        performance.engine.abort(target)
        return ExecutionResult()

    async def _variables(self, performance: RunExecution, step: Document, step_run: Document) -> ExecutionResult:
        params, world = step["params"], performance.engine.world
        now = performance.variables()
        try:
            values = {key: _valued(value, params, now) for key, value in (params.get("variables") or {}).items()}
            for entry in as_list(params.get("definitions")):
                values[str(entry["key"])] = _valued(entry.get("value"), params, {**now, **values})
        except (UnreadableFormula, KeyError, TypeError, AttributeError) as error:
            return ExecutionResult.failed(_ILLEGAL, f"The variables cannot be evaluated: {error}")
        match step["type"]:
            case "define_vars":
                performance.run.variables.update(values)
            case "set_project_vars":
                world.project(performance.scenario.project_key).variables["standard"].update(values)
                performance.engine.variables_changed(performance.scenario.project_key)
            case _:
                world.variables.update(values)
                performance.engine.variables_changed(None)
        return ExecutionResult()

    async def _send_report(self, performance: RunExecution, step: Document, step_run: Document) -> ExecutionResult:
        try:
            await self._reporters.send(performance.run, step["params"].get("messaging") or {}, performance.variables())
        except MessageNotSent as error:
            return ExecutionResult.failed("com.dataiku.dip.exceptions.MessagingException", str(error))
        return ExecutionResult()


def _target(performance: RunExecution, step: Document) -> SimScenario | None:
    project_key = str(step["params"].get("projectKey") or performance.scenario.project_key)
    try:
        return performance.engine.world.scenario(project_key, str(step["params"].get("scenarioId")))
    except NoSuchObject:
        return None


def _valued(value: object, params: Document, variables: Document) -> object:
    """A variable's value: evaluated as a formula if the step says so, else with its ``${}`` filled."""
    if params.get("evaluateValues"):
        return evaluate_formula(formula_text(value), variables)
    return fill_template(value, variables) if isinstance(value, str) else value


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
