"""The chart's pages are true: made from the values, and the values are what the schema knows."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.deploy.charts import CHART, REPOSITORY, Chart

PAGE = REPOSITORY / "docs" / "kubernetes.md"

# Their insides are Kubernetes' own, or free.
OPAQUE = {
    "config", "templates", "global", "commonLabels", "podSecurityContext", "securityContext", "resources", "probes",
    "grafanaDashboard.labels", "secrets.values",
}  # fmt: skip


@pytest.fixture(scope="module")
def readme() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme", REPOSITORY / "deploy" / "helm" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["readme"] = module
    spec.loader.exec_module(module)
    return module


def test_the_chart_s_readme_is_what_the_values_say(readme: ModuleType) -> None:
    assert (CHART / "README.md").read_text("utf-8") == readme.render(), "run deploy/helm/readme.py"


def _keys(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        here = f"{path}{key}"
        if isinstance(value, dict) and value and here not in OPAQUE:
            yield from _keys(value, f"{here}.")
        else:
            yield here


def test_every_value_is_described(readme: ModuleType) -> None:
    text = (CHART / "values.yaml").read_text("utf-8")
    described = {value.key for value in readme.documented(text)}
    inside = ("probes", "config")
    assert {key for key in _keys(yaml.safe_load(text)) if key not in described and not key.startswith(inside)} == set()


def test_the_schema_knows_the_values_and_nothing_else() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))

    def known(node: dict[str, Any], path: str = "") -> Iterator[str]:
        for key, child in node.get("properties", {}).items():
            here = f"{path}{key}"
            if "properties" in child and here not in OPAQUE:
                yield from known(child, f"{here}.")
            else:
                yield here

    assert set(known(schema)) == set(_keys(values))


def test_the_page_names_only_values_that_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    tops = "|".join(key for key, value in values.items() if isinstance(value, dict) and value and key not in OPAQUE)
    for dotted in re.findall(rf"`((?:{tops})\.[A-Za-z.]+)", PAGE.read_text("utf-8")):
        here: Any = values
        for part in dotted.rstrip(".").split("."):
            assert isinstance(here, dict), dotted
            assert part in here, dotted
            here = here[part]


def test_every_example_of_values_renders(chart: Chart, tmp_path: Path) -> None:
    blocks = re.findall(r"(?ms)^```yaml\n(.*?)^```", PAGE.read_text("utf-8"))
    examples = [block for block in blocks if not block.startswith("# tocsin.yaml")]
    assert len(examples) > 3
    for number, example in enumerate(examples):
        file = tmp_path / f"{number}.yaml"
        file.write_text(example, encoding="utf-8")
        chart.template(flags=["--values", str(file)])
