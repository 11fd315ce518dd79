"""One name for one thing: what the tree defines, and the identifiers that say nothing."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import REPOSITORY

TREE = REPOSITORY / "daemon" / "tocsin"
TWICE_ON_PURPOSE: dict[str, str] = {
}  # fmt: skip
"""Names that stand twice, with the reason; four at most."""
SAY_NOTHING = frozenset({"one", "told", "given", "odd", "made", "mine", "owed"})


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(TREE.rglob("*.py")):
        yield str(path.relative_to(TREE)), ast.parse(path.read_text("utf-8"))


def test_no_class_and_no_public_function_is_defined_twice() -> None:
    """Classes anywhere; functions of modules, whose names are what an importer sees."""
    places: dict[str, list[str]] = defaultdict(list)
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                places[node.name].append(path)
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert {name: where for name, where in twice.items() if name not in TWICE_ON_PURPOSE} == {}
    assert set(TWICE_ON_PURPOSE) <= set(twice), "a name that stands once needs no leave"
    assert len(TWICE_ON_PURPOSE) <= 4


def _identifiers(tree: ast.Module) -> Iterator[tuple[str | None, int]]:
    """Every name that the code gives: variables, parameters, attributes, functions, classes, patterns, aliases."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        for field in ("id", "arg", "attr", "name", "rest", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value, line


def test_no_identifier_says_nothing() -> None:
    found = [
        f"{path}:{line}: {name}" for path, tree in modules() for name, line in _identifiers(tree) if name in SAY_NOTHING
    ]
    assert found == []


def test_layout_is_the_pipeline(repository: Path) -> None:
    packages = sorted(path.name for path in TREE.iterdir() if (path / "__init__.py").is_file())
    assert packages == [
        "app", "cli", "config", "decide", "deliver", "dss", "kit", "metrics", "model", "routing", "rules", "sim",
        "store", "watch", "web",
    ]  # fmt: skip
    texts = [path.read_text("utf-8") for path in TREE.rglob("*.py")]
    assert sum(text.count("\n") < 50 for text in texts) <= 25
