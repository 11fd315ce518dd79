"""The files that a configuration is read from: bounded reads, whether they have changed since, YAML with lines of keys.

YAML 1.1 turns ``on:`` into true, ``12:30`` into 750 and a date into an object; here only true, false, null and plain
numbers are more than text. A key that stands twice is an error: the second would silently win.
"""

import os
import re
from collections.abc import Hashable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import yaml

from tocsin.config.problems import BadConfig, Lines, Path_, Problem
from tocsin.kit.files import Version, version
from tocsin.kit.mask import mask_tokens

LARGEST_FILE: Final = 4 << 20
_MOST_ENTRIES: Final = 10_000  # of directories, looked at for one pattern
_MOST_FILES: Final = 1_000  # that all patterns may match


class TooMuch(Exception):
    """A file or a pattern exceeds a bound; the text says which."""


class Inputs:
    """What one reading of a configuration has looked at, each as it was just before it was read."""

    def __init__(self) -> None:
        self._files: dict[Path, tuple[str, Version] | None] = {}
        self._patterns: dict[Path, list[Path]] = {}

    def read(self, path: Path) -> str:
        """The text of a file. Raises ``OSError``, ``UnicodeDecodeError``, and ``TooMuch`` for a large one."""
        self._files[path] = _status(path)
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise TooMuch(f"is larger than {LARGEST_FILE >> 20} MiB")
        return data.decode("utf-8")

    def match(self, pattern: Path) -> list[Path]:
        """The files that a glob matches, sorted. Raises ``TooMuch``."""
        self._patterns[pattern] = files = expand_glob(pattern)
        if sum(map(len, self._patterns.values())) > _MOST_FILES:
            raise TooMuch(f"matches more than {_MOST_FILES} files")
        return files

    def changed(self) -> bool:
        """Whether a file is not as it was, or a glob matches other files; also while another thread still reads."""
        try:
            return any(_status(path) != seen for path, seen in list(self._files.items())) or any(
                expand_glob(pattern) != files for pattern, files in list(self._patterns.items())
            )
        except TooMuch:
            return True


def expand_glob(pattern: Path) -> list[Path]:
    """The existing files that an absolute glob matches, sorted; hidden ones only if the pattern writes their dot. Raises
    ``TooMuch`` rather than look at more than some thousand directory entries."""
    paths, entries_left = [Path(pattern.anchor)], _MOST_ENTRIES
    for part in pattern.parts[1:]:
        if not re.search(r"[*?\[]", part):
            paths = [path / part for path in paths]
            continue
        matching: list[Path] = []
        for folder in paths:
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        entries_left -= 1
                        if entries_left < 0:
                            raise TooMuch(f"looks at more than {_MOST_ENTRIES} files; name their directory")
                        hidden = entry.name.startswith(".") and not part.startswith(".")
                        if not hidden and fnmatchcase(entry.name, part):
                            matching.append(folder / entry.name)
            except OSError:  # no directory, or none that may be read
                continue
        paths = matching
    # Not ``Path.exists``, which raises where a link leads to what may not be seen.
    return sorted(path for path in paths if os.path.exists(path))


def _status(path: Path) -> tuple[str, Version] | None:
    """With what the path resolves to: Kubernetes replaces a mounted directory by changing a symbolic link."""
    try:
        return str(path.resolve()), version(os.stat(path))
    except (OSError, RuntimeError):  # a RuntimeError: a loop of symbolic links
        return None


_QUOTED = re.compile(r" '[^'<]{4,}'")  # names of aliases and tags: a secret that begins with * or ! is read as one
_DEEPEST: Final = 50
_MOST_ITEMS: Final = 100_000  # keys, values and items of lists
_MOST_DIGITS: Final = 18
_TOO_DEEP: Final = f"is nested more than {_DEEPEST} deep"
_TOO_MANY: Final = f"holds more than {_MOST_ITEMS} keys and values"
_LONGEST_VALUE: Final = 100_000  # characters
_Base: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast


class _Loader(_Base):  # type: ignore[valid-type, misc] # one of two
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own way


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("tag:yaml.org,2002:null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:merge", r"<<$", "<"),
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    ("tag:yaml.org,2002:float", r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+)$", "-+0123456789."),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))


def read_yaml(path: Path, inputs: Inputs) -> tuple[object, Lines]:
    """The document and the line of each key and item. Raises ``BadConfig`` for a file or YAML that cannot be read."""
    line = None
    try:
        text = inputs.read(path)
        _check_bounds(text)
        loader = _Loader(text)
        try:
            lines: Lines = {}
            if (root := loader.get_single_node()) is None:
                return {}, lines
            _add_lines(root, (), lines)
            return loader.construct_document(root), lines
        finally:
            loader.dispose()
    except FileNotFoundError:
        message = "there is no such file"
    except UnicodeDecodeError as error:
        message, line = "is not UTF-8 text", error.object[: error.start].count(b"\n") + 1
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
    except TooMuch as error:
        message = str(error)
    except _Unreadable as error:
        message, line = error.args
    except RecursionError:
        message = _TOO_DEEP
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = _QUOTED.sub("", " ".join(part for part in (error.context, error.problem) if part))
        message, line = f"is not YAML: {words}", mark.line + 1 if mark else None
    except yaml.YAMLError as error:
        message = f"is not YAML: {error}"
    raise BadConfig([Problem(message, str(path), line)])


class _Unreadable(Exception):
    """The message and the line."""


def _check_bounds(text: str) -> None:
    """Count what the text holds, without building anything of it."""
    if (character := yaml.reader.Reader.NON_PRINTABLE.search(text)) is not None:
        line = text.count("\n", 0, character.start()) + 1
        raise _Unreadable(f"holds the character {character[0]!r}, which YAML does not allow", line)
    scanner = _Loader(text)
    depth = count = 0
    try:
        while scanner.check_event():
            event = scanner.get_event()
            count += isinstance(event, yaml.NodeEvent)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                message = _TOO_DEEP
            elif count > _MOST_ITEMS:
                message = _TOO_MANY
            elif isinstance(event, yaml.ScalarEvent) and len(event.value) > _LONGEST_VALUE:
                message = f"a value of more than {_LONGEST_VALUE} characters"
            elif getattr(event, "tag", None) not in (None, "!", "tag:yaml.org,2002:str"):
                message = "a tag (a word that begins with !) is not supported; write the value without it, or in quotes"
            else:
                continue
            raise _Unreadable(message, event.start_mark.line + 1)
    finally:
        scanner.dispose()


def _add_lines(node: yaml.Node, path: Path_, lines: Lines) -> None:
    """An alias counts once for each place where it stands."""
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if len(path) > _DEEPEST:
        raise _Unreadable("an alias stands within itself", line)
    if len(lines) > _MOST_ITEMS:
        raise _Unreadable(f"{_TOO_MANY}, with its aliases", line)
    if node.tag == "tag:yaml.org,2002:int" and len(node.value) > _MOST_DIGITS:
        raise _Unreadable(f"a number of more than {_MOST_DIGITS} digits", line)
    if isinstance(node, yaml.MappingNode):
        seen: dict[Hashable, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise _Unreadable("a key must be a word", line)
            if key.value in seen:
                message = f"the key {mask_tokens(key.value)!r} stands twice, first in line {seen[key.value]}"
                raise _Unreadable(message, line)
            seen[key.value] = lines[(*path, key.value)] = line
            _add_lines(value, (*path, key.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _add_lines(item, (*path, index), lines)
