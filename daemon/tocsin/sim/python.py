"""Python of scenarios, run in a process of its own: bounded in time and output, gone when the run is aborted."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tocsin.sim.behaviour import Document
from tocsin.sim.perform import ExecutionResult

_HOST = Path(__file__).parent / "script_host.py"
_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one script. At the first that is reached the script is killed and its step fails."""

    seconds: float = 300.0  # of real time, however fast the world's clock runs
    output_bytes: int = 1_000_000


async def run_python(
    code: str, context: Document, limits: Limits, say: Callable[[str], None]
) -> tuple[ExecutionResult, Document]:
    """Run ``code``; ``say`` gets what it prints. How it ended, and the variables it set."""
    with tempfile.TemporaryDirectory(prefix="tocsin-sim-") as folder:
        script, told, result = (Path(folder) / name for name in ("script.py", "context.json", "result.json"))
        script.write_text(code, encoding="utf-8", errors="replace")
        told.write_text(json.dumps(context, default=str), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-uP", _HOST, script, told, result,
            cwd=folder,
            env={"PYTHONIOENCODING": "utf-8", "PATH": os.defpath, "HOME": folder},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(limits.seconds):
                if not await _listen(process, limits.output_bytes, say):
                    return _killed(f"The script printed more than {limits.output_bytes} bytes"), {}
                code_of_exit = await process.wait()
        except TimeoutError:
            return _killed(f"The script took longer than {limits.seconds:g} s"), {}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        try:
            answer = json.loads(result.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return _killed(f"Process died (exit code: {code_of_exit})"), {}
    thrown = answer["thrown"]
    if thrown is None:
        return ExecutionResult(), answer["variables"]
    title = f"Error in Python process: {thrown['clazz']}"
    message = f"{thrown['clazz']}: {thrown['message']}"
    clazz = "com.dataiku.common.server.APIError$SerializedErrorException"
    error = {"clazz": clazz, "title": title, "message": message, "stack": thrown["stack"]}
    return ExecutionResult("FAILED", {**error, "code": "ERR_SCENARIO_PYTHON"}), answer["variables"]


async def _listen(process: asyncio.subprocess.Process, most: int, say: Callable[[str], None]) -> bool:
    """Hand on what the process prints, line by line, until it closes its output; ``False`` if that is too much."""
    assert process.stdout is not None
    rest, total = b"", 0
    while chunk := await process.stdout.read(_CHUNK):
        total += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            say(line.decode("utf-8", "replace"))
        if total > most:
            return False
    if rest:
        say(rest.decode("utf-8", "replace"))
    return True


def _killed(message: str) -> ExecutionResult:
    return ExecutionResult.failed(
        "com.dataiku.dip.exceptions.ProcessDiedException", message, code="ERR_SCENARIO_PYTHON"
    )
