"""YAML with the line of every key, as people mean it.

YAML 1.1 turns ``on:`` into true, ``12:30`` into 750 and a date into an object; here only true, false, null and plain
numbers are more than text. A key that stands twice is an error: the second would silently win.
"""

import re
from collections.abc import Hashable
from pathlib import Path

import yaml

from tocsin.app.settings.problems import BadConfig, Lines, Path_, Problem
from tocsin.kit.mask import mask_tokens

_QUOTED = re.compile(r" '[^'<]{4,}'")  # names of aliases and tags: a secret that begins with * or ! is read as one
_TOO_DEEP = "is nested too deeply or has too many aliases"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own way


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("tag:yaml.org,2002:null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:merge", r"<<$", "<"),
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    ("tag:yaml.org,2002:float", r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+)$", "-+0123456789."),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))


def read_yaml(path: Path) -> tuple[object, Lines]:
    """The document and the line of each key and item. Raises ``BadConfig`` for what is not readable YAML."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise BadConfig([Problem("there is no such file", str(path))]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig([Problem(f"cannot be read: {error}", str(path))]) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> tuple[object, Lines]:
    """As ``read_yaml``, from text; ``name`` stands in messages."""
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            lines: Lines = {}
            if root is None:
                return {}, lines
            _walk(root, (), lines, name)
            return loader.construct_document(root), lines
        finally:
            loader.dispose()
    except RecursionError:
        raise BadConfig([Problem(_TOO_DEEP, name)]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = _QUOTED.sub("", " ".join(part for part in (error.context, error.problem) if part))
        raise BadConfig([Problem(f"is not YAML: {words}", name, mark.line + 1 if mark else None)]) from None
    except yaml.YAMLError as error:
        raise BadConfig([Problem(f"is not YAML: {error}", name)]) from None


def _name(key: yaml.Node) -> str:
    return mask_tokens(str(key.value))


def _walk(node: yaml.Node, path: Path_, lines: Lines, name: str, depth: int = 0) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if depth > 50 or len(lines) > 500_000:
        raise BadConfig([Problem(_TOO_DEEP, name, node.start_mark.line + 1)])
    if isinstance(node, yaml.MappingNode):
        seen: dict[Hashable, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise BadConfig(
                    [Problem(f"the key {_name(key)!r} stands twice, first in line {seen[key.value]}", name, line)]
                )
            seen[key.value] = line
            lines[(*path, key.value)] = line
            _walk(value, (*path, key.value), lines, name, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*path, index), lines, name, depth + 1)
