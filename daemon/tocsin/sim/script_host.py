"""Runs one script of a scenario in a process of its own: ``script_host.py SCRIPT CONTEXT RESULT``, each a file.

Writes to RESULT what the script threw and the variables it set. Imports nothing of Tocsin.
"""

import importlib
import json
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any


class ScriptHost:
    """Offered as the module ``dataiku``."""

    def __init__(self, context: dict[str, Any]) -> None:
        self.context = context
        self.defined: dict[str, Any] = {}

    def default_project_key(self) -> str:
        return str(self.context["project"])

    def get_custom_variables(self, project_key: str | None = None, typed: bool = False) -> dict[str, Any]:
        return {**self.context["variables"], **self.defined}

    def api_client(self) -> Any:
        return importlib.import_module("dataikuapi").DSSClient(self.context["url"], self.context["key"])


class ScriptScenario:
    """Offered as ``dataiku.scenario.Scenario``."""

    host: ScriptHost

    def get_trigger_type(self) -> str:
        return str(self.host.context["trigger"]["trigger"]["type"])

    def get_trigger_params(self) -> Any:
        return self.host.context["trigger"]["params"]

    def get_all_variables(self) -> dict[str, Any]:
        return self.host.get_custom_variables()

    def set_scenario_variables(self, **variables: Any) -> None:
        self.host.defined.update(variables)

    def build_dataset(self, dataset_name: str, project_key: str | None = None, **ignored: Any) -> Any:
        return self._project(project_key).new_job().with_output(dataset_name, "DATASET").start_and_wait()

    def run_scenario(self, scenario_id: str, project_key: str | None = None, **ignored: Any) -> Any:
        return self._project(project_key).get_scenario(scenario_id).run_and_wait()

    def _project(self, project_key: str | None) -> Any:
        return self.host.api_client().get_project(project_key or self.host.default_project_key())


def _run_script(script: str) -> dict[str, str] | None:
    try:
        exec(compile(Path(script).read_text(encoding="utf-8"), script, "exec"), {"__name__": "__main__"})
    except SystemExit as leaving:
        if leaving.code in (None, 0):
            return None
        return {"clazz": "SystemExit", "message": str(leaving.code), "stack": f"SystemExit: {leaving.code}"}
    except BaseException as error:  # noqa: BLE001 - whatever the script throws is the answer
        frames = error.__traceback__.tb_next if error.__traceback__ else None
        stack = "".join(traceback.format_exception(type(error), error, frames))
        sys.stderr.write(stack)
        return {"clazz": type(error).__name__, "message": str(error), "stack": stack}
    return None


if __name__ == "__main__":
    script_file, context_file, result_file = sys.argv[1:4]
    host = ScriptScenario.host = ScriptHost(json.loads(Path(context_file).read_text(encoding="utf-8")))
    scenario_module = ModuleType("dataiku.scenario")
    scenario_module.__dict__["Scenario"] = ScriptScenario
    package = ModuleType("dataiku")
    names = ("default_project_key", "get_custom_variables", "api_client")
    package.__dict__.update({name: getattr(host, name) for name in names}, scenario=scenario_module)
    sys.modules |= {"dataiku": package, "dataiku.scenario": scenario_module}
    thrown = _run_script(script_file)
    answer = {"thrown": thrown, "variables": host.defined}
    Path(result_file).write_text(json.dumps(answer, default=str), encoding="utf-8")
    sys.exit(1 if thrown else 0)
