"""Writes the chart's README from its values: ``python deploy/helm/readme.py``.

The comments of ``values.yaml`` that begin with ``# --`` are the only place where a value is described; a test holds the
README against them. ``# @section`` begins a new table.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

CHART = Path(__file__).resolve().parent / "tocsin"

HEAD = """\
# Tocsin's chart

{description}

{needs}. The chart is held against Helm 3 and Helm 4.

```sh
kubectl create secret generic tocsin-dss --from-literal=prod-api-key=…
helm install tocsin deploy/helm/tocsin --set secrets.existingSecret=tocsin-dss --values - <<'YAML'
config:
  nodes:
    - {{name: prod, url: "https://dss.example.com", api_key_file: /run/secrets/tocsin/prod-api-key}}
YAML
```

How to run it (volumes, PostgreSQL, reload, monitoring, OpenShift, GitOps) stands in `docs/kubernetes.md`. This page is
made by `deploy/helm/readme.py` from the comments in `values.yaml`; edit those.
"""


@dataclass(frozen=True)
class Value:
    """One documented key: its dotted name, its default as JSON, what is said of it, the section it stands in."""

    key: str
    default: str
    words: str
    section: str


def documented(text: str) -> Iterator[Value]:
    """Every key with a ``# --`` comment, in the order of the file."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    yield from _walk(root, (), text.splitlines(), yaml.safe_load(text))


def _walk(node: yaml.Node, path: tuple[str, ...], lines: list[str], value: object) -> Iterator[Value]:
    if not isinstance(node, yaml.MappingNode) or not isinstance(value, dict):
        return
    for key, child in node.value:
        here = (*path, key.value)
        line = key.start_mark.line
        # A key that shares its line with the one above it, `{a: 1}`, has no comment of its own.
        words = _comment(lines, line) if lines[line].lstrip().startswith(key.value) else ""
        below = list(_walk(child, here, lines, value[key.value]))
        if words:
            default = json.dumps(value[key.value]) if not below else ""
            yield Value(".".join(here), default, words, _section(lines, line))
        yield from below


def _comment(lines: list[str], line: int) -> str:
    """The comment right above ``line``, from its ``# --`` on; empty without one."""
    above: list[str] = []
    while line > 0 and (found := re.fullmatch(r"\s*# ?(.*)", lines[line - 1])):
        above.insert(0, found[1])
        line -= 1
    starts = [index for index, words in enumerate(above) if words.startswith("-- ")]
    return " ".join(above[starts[-1] :]).removeprefix("-- ") if starts else ""


def _section(lines: list[str], line: int) -> str:
    found = (re.fullmatch(r"# @section (.+)", words) for words in reversed(lines[:line]))
    return next((match[1] for match in found if match), "Values")


def render() -> str:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    needs = f"Kubernetes {chart['kubeVersion'].removesuffix('-0').replace('>=', '')} or newer"
    parts = [HEAD.format(description=chart["description"], needs=needs)]
    section = ""
    for value in documented((CHART / "values.yaml").read_text("utf-8")):
        if value.section != section:
            section = value.section
            parts.append(f"\n## {section}\n\n| value | default | what it is |\n|---|---|---|\n")
        default = f"`{value.default}`".replace("|", "\\|") if value.default else ""
        parts.append(f"| `{value.key}` | {default} | {value.words.replace('|', chr(92) + '|')} |\n")
    return "".join(parts)


if __name__ == "__main__":
    (CHART / "README.md").write_text(render(), encoding="utf-8")
