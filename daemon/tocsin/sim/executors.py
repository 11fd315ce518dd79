"""The step types that are really executed: Python, SQL on SQLite, other scenarios, variables, reports."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tocsin.sim.behaviour import Document, ExecutionResult, SimError, as_list
from tocsin.sim.documents import BY_PARENT, report_item, run_auth, scenario_target
from tocsin.sim.engine import Engine
from tocsin.sim.entities import SimScenario
from tocsin.sim.execution import RunExecution, StepExecutor
from tocsin.sim.formula import UnreadableFormula, evaluate_formula, fill_template, formula_text

_SCRIPT_HOST = Path(__file__).parent / "script_host.py"
_CHUNK_BYTES = 65_536
_MAX_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one script or query; at the first that is reached it is stopped and its step fails."""

    seconds: float = 300.0  # of real time, however fast the world's clock runs
    output_bytes: int = 1_000_000


@dataclass(frozen=True, slots=True)
class StepExecutors:
    """Executes steps. ``own_api`` gives the address and key under which scripts reach the instance itself."""

    engine: Engine
    own_api: Callable[[], tuple[str, str]]
    limits: Limits

    def table(self) -> Mapping[str, StepExecutor]:
        return {
            "custom_python": self._python,
            "exec_sql": self._sql,
            "run_scenario": self._run_scenario,
            "kill_scenario": self._kill_scenario,
            **dict.fromkeys(("define_vars", "set_project_vars", "set_global_vars"), self._set_variables),
            "send_report": self._send_report,
        }

    async def _python(self, execution: RunExecution, step: Document, step_run: Document) -> ExecutionResult:
        url, key = self.own_api()
        context = {
            "project": execution.scenario.project_key,
            "scenario": execution.scenario.id,
            "variables": execution.variables(),
            "trigger": execution.run.document["trigger"],
            "url": url,
            "key": key,
        }
        script, log = str(step["params"].get("script") or ""), lambda line: execution.log(step["id"], line, "process")
        thrown, variables = await _run_python(script, context, self.limits, log)
        execution.run.variables.update(variables)
        return ExecutionResult("FAILED" if thrown else "SUCCESS", thrown)

    async def _sql(self, execution: RunExecution, step: Document, step_run: Document) -> None:
        name, sql = str(step["params"].get("connection")), str(step["params"].get("sql") or "")
        path = execution.world.connections.get(name)
        if path is None:
            raise SimError(f"Connection does not exist: {name}", code="ERR_CONNECTION_NOT_FOUND")
        database = sqlite3.connect(path, timeout=10, check_same_thread=False)
        work = asyncio.create_task(asyncio.to_thread(_execute_sql, database, sql))
        try:
            async with asyncio.timeout(self.limits.seconds):
                rows = await asyncio.shield(work)
        except (sqlite3.Error, TimeoutError) as error:
            message = str(error) or f"The query took longer than {self.limits.seconds:g} s"
            raise SimError(message, "java.sql.SQLException", "ERR_SQL_QUERY_FAILED") from None
        finally:
            database.interrupt()
            await asyncio.gather(work, return_exceptions=True)
            database.close()
        execution.log(step["id"], f"{len(rows)} rows")
        execution.run.variables[f"stepOutput_{step['name']}"] = {"rows": rows}

    async def _run_scenario(self, execution: RunExecution, step: Document, step_run: Document) -> ExecutionResult:
        """Run another scenario once its current run is over; an abort aborts both."""
        target = _target(execution, step)
        if target is execution.scenario:
            raise SimError(f"Cannot run scenario {target.id}")
        auth = run_auth(execution.run.document["scenario"])
        fire = self.engine.launch(target, BY_PARENT, {}, auth, wait_for_turn=True)
        fire.variables = {**execution.run.document["variables"], **execution.run.variables}
        try:
            if fire.settled is not None:
                await fire.settled.wait()
            if fire.run is not None and fire.run.live is not None:
                await fire.run.live.over.wait()
        except asyncio.CancelledError:
            fire.cancel() if fire.run is None else self.engine.abort(target)
            raise
        outcome = fire.run.outcome if fire.run is not None else "ABORTED"
        if fire.run is not None:
            start, end = fire.run.document["start"], fire.run.document["end"]
            item = report_item("SCENARIO_DONE", outcome, scenario_target(target), start, end, runId=fire.run.id)
            step_run["additionalReportItems"].append(item)
        if outcome not in ("SUCCESS", "WARNING"):
            raise SimError(f"Scenario {target.id} ended: {outcome}", "com.dataiku.dip.scheduler.ScenarioFailed")
        return ExecutionResult(outcome)

    async def _kill_scenario(self, execution: RunExecution, step: Document, step_run: Document) -> None:
        self.engine.abort(_target(execution, step))

    async def _set_variables(self, execution: RunExecution, step: Document, step_run: Document) -> None:
        params, world, project_key = step["params"], execution.world, execution.scenario.project_key
        known, values = execution.variables(), dict[str, object]()

        def valued(value: object) -> object:
            if params.get("evaluateValues"):
                return evaluate_formula(formula_text(value), {**known, **values})
            return fill_template(value, {**known, **values}) if isinstance(value, str) else value

        try:
            values = {key: valued(value) for key, value in (params.get("variables") or {}).items()}
            for entry in as_list(params.get("definitions")):
                values[str(entry["key"])] = valued(entry.get("value"))
        except (UnreadableFormula, KeyError, TypeError, AttributeError) as error:
            raise SimError(f"The variables cannot be evaluated: {error}") from None
        match step["type"]:
            case "define_vars":
                execution.run.variables.update(values)
            case "set_project_vars":
                world.project(project_key).variables["standard"].update(values)
                self.engine.archive.keep_project(world.project(project_key))
            case _:
                world.variables.update(values)
                self.engine.archive.keep_instance(world)

    async def _send_report(self, execution: RunExecution, step: Document, step_run: Document) -> None:
        await self.engine.reporters.send(execution.run, step["params"].get("messaging") or {}, execution.variables())


def _target(execution: RunExecution, step: Document) -> SimScenario:
    project_key = str(step["params"].get("projectKey") or execution.scenario.project_key)
    return execution.world.scenario(project_key, str(step["params"].get("scenarioId")))


def _execute_sql(database: sqlite3.Connection, sql: str) -> list[list[object]]:
    """Run all statements; the rows of the last that has some."""
    rows: list[list[object]] = []
    statement = ""
    with database:
        for piece in sql.split(";"):
            statement += piece + ";"
            if not sqlite3.complete_statement(statement):
                continue
            with contextlib.closing(database.execute(statement)) as cursor:
                if cursor.description is not None:
                    rows = [list(row) for row in cursor.fetchmany(_MAX_ROWS)]
            statement = ""
    return rows


async def _run_python(
    code: str, context: Document, limits: Limits, log: Callable[[str], None]
) -> tuple[Document | None, Document]:
    """Run ``code`` in a process; ``log`` gets what it prints. What it threw, and its variables. Raises ``SimError``."""
    with tempfile.TemporaryDirectory(prefix="tocsin-sim-") as folder:
        script, inputs, output = (Path(folder) / name for name in ("script.py", "context.json", "result.json"))
        script.write_text(code, encoding="utf-8", errors="replace")
        inputs.write_text(json.dumps(context, default=str), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-uP", _SCRIPT_HOST, script, inputs, output),
            cwd=folder,
            env={"PYTHONIOENCODING": "utf-8", "PATH": os.defpath, "HOME": folder},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(limits.seconds):
                if not await _read_output(process, limits.output_bytes, log):
                    raise _killed(f"The script printed more than {limits.output_bytes} bytes")
                exit_code = await process.wait()
        except TimeoutError:
            raise _killed(f"The script took longer than {limits.seconds:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        try:
            answer = json.loads(output.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise _killed(f"Process died (exit code: {exit_code})") from None
    if (thrown := answer["thrown"]) is None:
        return None, answer["variables"]
    error = {
        "clazz": "com.dataiku.common.server.APIError$SerializedErrorException",
        "title": f"Error in Python process: {thrown['clazz']}",
        "message": f"{thrown['clazz']}: {thrown['message']}",
        "stack": thrown["stack"],
        "code": "ERR_SCENARIO_PYTHON",
    }
    return error, answer["variables"]


async def _read_output(process: asyncio.subprocess.Process, max_bytes: int, log: Callable[[str], None]) -> bool:
    """Log what the process prints, line by line, until it closes its output; ``False`` if that is too much."""
    assert process.stdout is not None
    rest, total = b"", 0
    while chunk := await process.stdout.read(_CHUNK_BYTES):
        total += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            log(line.decode("utf-8", "replace"))
        if total > max_bytes:
            return False
    if rest:
        log(rest.decode("utf-8", "replace"))
    return True


def _killed(message: str) -> SimError:
    return SimError(message, "com.dataiku.dip.exceptions.ProcessDiedException", "ERR_SCENARIO_PYTHON")
