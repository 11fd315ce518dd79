"""Writes the references from the code: ``docs/configuration.md`` whole, the tables of ``docs/metrics.md``, and the list
of modules in ``docs/architecture.md``.

Settings take their words from the comments in ``config/model.py``, series from their help texts. A setting
without words is an error, so that none can be forgotten; a test holds the pages against what is written here.
"""

import ast
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry

from tocsin.config import intervals, load, model, schema
from tocsin.config.problems import Schema, referenced
from tocsin.decide.decide import DecideMetrics
from tocsin.deliver.alertmanagers import AlertmanagerMetrics
from tocsin.deliver.sender import DeliverMetrics
from tocsin.metrics import ProcessMetrics
from tocsin.metrics.families import FAMILIES
from tocsin.watch.state import WatchMetrics

DOCS = Path(__file__).resolve().parent
SCHEMA = schema.json_schema()
KINDS = {
    "bool": "true or false", "int": "number", "float": "number", "Duration": "duration", "PositiveDuration": "duration",
    "HttpUrl": "URL", "PlainUrl": "URL", "ProxyUrl": "URL", "Headers": "mapping", "Listen": "host:port", "Rate": "rate", "Matchers": "matchers", "Addresses": "addresses",
    "Mapping": "mapping", "Ranges": "list", "DurationOrCount": "duration or number", "tuple": "list", "frozenset": "list", "Words": "list", "Numbers": "list", "Level": "`debug`, `info`, `warning`, `error`",
}  # fmt: skip


# --- settings ----------------------------------------------------------------------------------------------------------


def words() -> dict[tuple[str, str], tuple[str, str]]:
    """Annotation and comment of each key, by class and key."""
    found = {}
    for module in (model, intervals):
        source = inspect.getsource(module)
        lines = source.splitlines()
        for section in (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)):
            for field in (node for node in section.body if isinstance(node, ast.AnnAssign)):
                assert isinstance(field.target, ast.Name)
                beside = lines[(field.end_lineno or field.lineno) - 1][field.end_col_offset or 0 :].strip()
                above = lines[field.lineno - 2].strip()
                comment = next((text[2:] for text in (beside, above) if text.startswith("# ")), "")
                annotation = ast.unparse(field.annotation)
                alias = re.search(r"alias='(\w+)'", annotation)
                found[section.name, alias[1] if alias else field.target.id] = annotation, comment
    return found


def settings(section: Schema, path: str, known: dict[tuple[str, str], tuple[str, str]]) -> Iterator[str]:
    """A table row for each key below ``path``. Raises ``LookupError`` for one without words."""
    keys = section["properties"]
    name = section["title"]
    for key, value in keys.items():
        if (key.removesuffix("_file") in keys and key != key.removesuffix("_file")) or key.endswith("_env"):
            continue
        inner = referenced(SCHEMA, value)
        if inner is section:
            yield f"| `{path}{key}` | list | `[]` | the same again, for alerts that match |"
        elif "properties" in inner:
            yield from settings(inner, f"{path}{key}{'[]' if is_list(value) else ''}.", known)
        else:
            annotation, comment = known.get((name, key), ("", ""))
            if not comment:
                raise LookupError(f"{name}.{key} has no words: put a comment beside it")
            default = "required" if key in section.get("required", ()) else _default(value.get("default"))
            secret = f"{key}_file" in keys
            spelled = f"`{path}{key}`, `…_file`, `…_env`" if secret else f"`{path}{key}`"
            yield f"| {spelled} | {'secret' if secret else _kind(annotation)} | {default} | {comment} |"


def is_list(value: Schema) -> bool:
    return "items" in value or any("items" in kind for kind in value.get("anyOf", ()))


def _kind(annotation: str) -> str:
    if "parse_time_of_day)" in annotation:
        return "time of day"
    if annotation == "RuleKind":
        return ", ".join(f"`{kind}`" for kind in typing.get_args(model.RuleKind))
    if choices := re.search(r"Literal\[([^]]*)\]", annotation):
        return ", ".join(f"`{choice.strip(chr(39))}`" for choice in choices[1].split(", "))
    name = re.search(r"\w+", annotation.removeprefix("Annotated["))
    return KINDS.get(name[0] if name else "", "text")


def _default(value: object) -> str:
    match value:
        case None | [] | [[0, 6]]:  # every day, as its words say
            return ""
        case list():
            return f"`[{', '.join(map(str, value))}]`"
        case _:
            return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def configuration() -> str:
    known = words()
    parts = [
        "# Configuration reference",
        "",
        "Written by `docs/generate.py` from the code. [config/tocsin.yaml](../config/tocsin.yaml) shows the keys in use,",
        "`config/tocsin.schema.json` serves editors, `tocsin check` names file, line and the nearest known key of a",
        "mistake. Unknown keys are errors. Durations are written as Prometheus writes them: `30s`, `1h30m`, `7d`. A",
        "*secret* `x` can be written as `x`, `x_file` (a file, read again when it changes) or `x_env` (a variable).",
        "All but `store.url`, `http.listen` and `log.format` follows a reload: SIGHUP, `POST /-/reload`, or a changed file;",
        "a template that a glob begins or ceases to match is a change too. A reload that has mistakes, or that would break",
        "a template that can be rendered, is refused, and what is in force stays.",
        "",
        "A file has at most 4 MiB, 100 000 keys and values and 50 levels; a value has at most 100 000 characters, a number",
        "18 digits, a duration a hundred years; `templates` match at most 1 000 files. What exceeds that is refused.",
        "",
    ]
    for key, value in SCHEMA["properties"].items():
        inner = referenced(SCHEMA, value)
        rows = list(
            settings(inner if "properties" in inner else {"title": "Config", "properties": {key: value}}, "", known)
        )
        parts += [
            f"## `{key}`{': a list' if 'properties' in inner and is_list(value) else ''}",
            "",
            "| key | kind | default | meaning |",
            "|---|---|---|---|",
        ]
        parts += [*rows, ""]
    parts += INCLUDED
    parts += [f"| `scope.projects` | list | required in `scope` | {known['FileScope', 'projects'][1]} |", ""]
    parts += ["## Without a file", "", "The node is named by itself, every alert goes to `TOCSIN_NOTIFY`.", ""]
    parts += ["| variable | meaning |", "|---|---|", *variables(), ""]
    return "\n".join(parts)


INCLUDED = """## Included files

Each file that `include` names holds a part of the configuration, as of one team: `receivers`, `reporters`, `rules`, `inhibit_rules`
and `time_intervals` are added to those above, `routes` to the children of the root, after its own. Files are read in the order of the
globs and of their names. Relative paths in them begin at their own folder; they include no other files. With
`scope: {projects: ["FIN_*"]}` all of the file's routes, rules, reporters and inhibit rules (both sides) are narrowed to these projects, so
that a team can speak about its own projects only; rules about nodes, and the names of alerts about nodes, are refused there. A scope
narrows what a file is about, not what it may read: whoever writes it can name any secret file that the daemon can open, and any address
to send it to. Names are unique over all files. A mistake names file and line, and a reload takes all
files or none: what was in force stays whole. New, changed and vanished files are noticed within a second.
[config/conf.d/finance.yaml](../config/conf.d/finance.yaml) is an example, `config/include.schema.json` serves editors.

| key | kind | default | meaning |
|---|---|---|---|""".splitlines()

VARIABLES = {
    "TOCSIN_DSS_URL": "where DSS is",
    "TOCSIN_DSS_API_KEY": "its key; or `TOCSIN_DSS_API_KEY_FILE`",
    "TOCSIN_NOTIFY": "apprise URLs, separated by blanks or lines",
    "TOCSIN_STORE_URL": "as `store.url`",
    "TOCSIN_HTTP_LISTEN": "as `http.listen`",
    "TOCSIN_EXTERNAL_URL": "as `http.external_url`",
    "TOCSIN_LOG_LEVEL": "as `log.level`",
    "TOCSIN_CONFIG": "a file all the same, where no `--config` is given",
}


def variables() -> list[str]:
    """Table rows of the variables that ``config`` reads. Raises ``LookupError`` for one without words."""
    read = {name.removesuffix("_FILE") for name in re.findall(r"\"(TOCSIN_[A-Z_]+)\"", inspect.getsource(load))}
    if read != set(VARIABLES):
        raise LookupError(f"these variables have no words here, or are not read: {read ^ set(VARIABLES)}")
    return [f"| `{name}` | {meaning} |" for name, meaning in VARIABLES.items()]


# --- metrics -----------------------------------------------------------------------------------------------------------


def series() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Name as a query would say it, kind, labels and words of every family."""
    found = [(one.name, one.kind, one.labels, one.documentation) for one in FAMILIES]
    registry = CollectorRegistry()
    parts = (ProcessMetrics, WatchMetrics, DecideMetrics, DeliverMetrics, AlertmanagerMetrics)
    for struct in (part(registry) for part in parts):
        own = [metric for metric in vars(struct).values() if hasattr(metric, "_labelnames")]
        found += [(one._name, one._type, tuple(one._labelnames), one._documentation) for one in own]
    found.append(("tocsin_build_info", "gauge", ("version", "python"), "1, with the version."))
    return [(f"{name}_total" if kind == "counter" else name, kind, *rest) for name, kind, *rest in found]  # type: ignore[misc]


def metrics(page: str) -> str:
    """The page with its tables written anew."""
    scenario = ("dss_node", "project", "scenario")
    tables: dict[str, list[str]] = {"scenarios": [], "projects and nodes": [], "tocsin": []}
    for name, kind, labels, documentation in sorted(series(), key=lambda one: one[0]):
        part = "tocsin" if name.startswith("tocsin") else "projects and nodes"
        if labels[:3] == scenario:
            part, labels = "scenarios", labels[3:]
        shown = f"{{{','.join(labels)}}}" if labels else ""
        tables[part].append(f"| `{name}{shown}` | {kind} | {documentation.rstrip('.')} |")
    for part, rows in tables.items():
        page = replace_part(page, part, "\n".join(["| series | kind | says |", "|---|---|---|", *rows]))
    return page


def replace_part(page: str, part: str, text: str) -> str:
    begin, end = f"<!-- generated: {part} -->\n", "<!-- end -->"
    before, _, rest = page.partition(begin)
    assert rest, f"the page has no place for {part}"
    return f"{before}{begin}\n{text}\n\n{end}{rest.partition(end)[2]}"


# --- modules -----------------------------------------------------------------------------------------------------------

PACKAGE = DOCS.parent / "daemon" / "tocsin"
PIPELINE = [
    "kit",
    "model",
    "config",
    "dss",
    "sim",
    "store",
    "watch",
    "rules",
    "routing",
    "decide",
    "deliver",
    "metrics",
    "web",
    "app",
    "cli",
]


def modules(page: str) -> str:
    """The page with the first sentence of every module's docstring, package by package in the order of the pipeline."""

    def sentence(path: Path) -> str:
        documentation = ast.get_docstring(ast.parse(path.read_text("utf-8")))
        assert documentation, f"{path} has no docstring"
        return re.split(r"(?<=\.)\s", " ".join(documentation.split()).replace("|", "\\|"), maxsplit=1)[0].rstrip(":.")

    assert sorted(PIPELINE) == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    rows = []
    for name in PIPELINE:
        rows.append(f"| **`{name}/`** | **{sentence(PACKAGE / name / '__init__.py')}** |")
        paths = sorted(path for path in (PACKAGE / name).rglob("*.py") if path.name != "__init__.py")
        rows += [
            f"| `{path.relative_to(PACKAGE)}` | {sentence(path)} |" for path in paths if "migrations" not in path.parts
        ]
    return replace_part(page, "modules", "\n".join(["| module | does |", "|---|---|", *rows]))


if __name__ == "__main__":
    (DOCS / "configuration.md").write_text(configuration(), encoding="utf-8")
    for name, written in (("metrics.md", metrics), ("architecture.md", modules)):
        (DOCS / name).write_text(written((DOCS / name).read_text("utf-8")), encoding="utf-8")
