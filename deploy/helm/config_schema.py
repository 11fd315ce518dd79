"""Puts Tocsin's configuration schema into the chart's, so that ``helm install`` refuses a misspelt key of ``config``:
``python deploy/helm/config_schema.py``, which ``make schema`` calls. What the chart itself sets is taken out."""

import json
from pathlib import Path
from typing import Any

CHART = Path(__file__).resolve().parent / "tocsin"
CONFIG = CHART.parents[2] / "config" / "tocsin.schema.json"
OF_CHART = {"http": ("listen", "tokens_file", "hooks_secret"), "store": ("url",)}  # with their _file and _env
HINTS = {
    "http": "listen, tokens_file and hooks_secret_file are the chart's: see values.http, tokens and hooks",
    "store": "store.url is the chart's: see values.store",
}


def render(values: dict[str, Any], config: dict[str, Any]) -> str:
    """The chart's schema with the configuration's."""
    definitions = config["$defs"]
    properties = dict(config["properties"])
    for name, own in OF_CHART.items():
        section = definitions[properties[name]["$ref"].rpartition("/")[2]]
        kept = {key: value for key, value in section["properties"].items() if not key.startswith(own)}
        properties[name] = {
            "type": "object",
            "additionalProperties": False,
            "properties": kept,
            "description": HINTS[name],
        }
    section = {"type": "object", "additionalProperties": False, "properties": properties}
    values = {**values, "properties": {**values["properties"], "config": section}, "$defs": definitions}
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    file = CHART / "values.schema.json"
    file.write_text(render(*(json.loads(path.read_text("utf-8")) for path in (file, CONFIG))), encoding="utf-8")
