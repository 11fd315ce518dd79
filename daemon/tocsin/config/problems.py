"""The problems of a configuration, each with its file, line and key, and with the nearest known key."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from tocsin.kit.mask import mask, mask_tokens, secrets_of
from tocsin.kit.strings import did_you_mean

if TYPE_CHECKING:
    from pydantic import ValidationError

Path_ = tuple[str | int, ...]
Lines = dict[Path_, int]
Schema = dict[str, Any]
_LONGEST: Final = 500  # characters of a message, which may repeat what was written


class IncludedLine(int):
    """A line of a file that the configuration includes, with its place in that file."""

    file: str
    at: Path_

    def __new__(cls, line: int, file: str, at: Path_) -> Self:
        self = super().__new__(cls, line)
        self.file, self.at = file, at
        return self


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """The outcome of a reload. ``problems``: lines as ``tocsin check`` prints them; ``needs_restart``: settings that
    changed but are read at the start only."""

    at: datetime
    problems: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. ``key`` is the dotted path in the file, as ``nodes[0].url``. A line of an included file knows its
    file and key, over those of the one that includes it."""

    message: str
    file: str | None = None
    line: int | None = None
    key: str | None = None
    severity: Literal["error", "warning"] = "error"

    def __post_init__(self) -> None:
        if isinstance(self.line, IncludedLine):
            object.__setattr__(self, "file", self.line.file)
            object.__setattr__(self, "key", self.key and dotted(self.line.at))

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        words = f"{self.key}: {self.message}" if self.key else self.message
        return f"{place}: {words}" if place else words


class BadConfig(Exception):
    """The configuration cannot be used; as text one line for a single problem, else a line for each after the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        lines = [str(problem) for problem in problems]
        head = "the configuration cannot be used"
        super().__init__(f"{head}: {lines[0]}" if len(lines) == 1 else "\n".join([head, *lines]))
        self.problems = tuple(problems)


_SECRET_KEYS = ("api", "auth", "bearer", "key", "password", "secret", "token")
_ADDRESS_KEYS = ("url", "webhook", "proxy")


def without_secrets(error: BadConfig, document: object, base: Path) -> BadConfig:
    """The same problems without what may be a secret, wherever in the file it was written by mistake."""
    secrets = list(_secrets_in(document, base))

    def masked(text: str) -> str:
        text = mask_tokens(mask(text, secrets))
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"

    return BadConfig([replace(p, message=masked(p.message), key=p.key and masked(p.key)) for p in error.problems])


def _secrets_in(document: object, base: Path, name: str = "") -> Iterator[str]:
    match document:
        case dict():
            for key, value in document.items():
                yield from _secrets_in(value, base, name if name == "headers" else str(key).lower())
        case list():
            for item in document:
                yield from _secrets_in(item, base, name)
        case str() if name.endswith("_file") and is_place(document, base):
            pass
        case str() if name.endswith("_env") and is_variable(document):
            pass
        case str() if name == "headers" or any(word in name for word in _SECRET_KEYS):
            yield document
        case str() if any(word in name for word in _ADDRESS_KEYS):
            yield from secrets_of(document)


def is_place(file: str | Path, base: Path) -> bool:
    """Whether this names an existing or plausible file. Otherwise it may be the secret itself, written as its file."""
    path = base / file
    # Not ``Path.exists``, which raises for what is too long for a name, with all of it, or may not be seen.
    if os.path.exists(path) or re.fullmatch(r"[\w-]+\.[a-z]{2,5}", str(file)):
        return True
    folder = base if path.is_relative_to(base) else path.anchor
    parts = path.relative_to(folder).parts
    return len(parts) > 1 and os.path.isdir(Path(folder, parts[0]))


def is_variable(name: str) -> bool:
    """Whether this is a usual name of an environment variable. Otherwise it may be the secret itself."""
    return re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", name) is not None


def dotted(path: Path_) -> str:
    """``nodes[0].url`` for ("nodes", 0, "url")."""
    words = ""
    for part in path:
        words += f"[{part}]" if isinstance(part, int) else f".{part}" if words else part
    return words


def line_of(path: Path_, lines: Mapping[Path_, int]) -> int | None:
    """The line of a key, or of the nearest one above it."""
    return next((lines[path[:length]] for length in range(len(path), -1, -1) if path[:length] in lines), None)


def problems_of(
    error: "ValidationError", schema: Callable[[], Schema], file: str | None, lines: Lines
) -> list[Problem]:
    """One problem for each finding of pydantic, in the order of the file. ``schema``: its JSON Schema, for known keys."""
    problems = []
    for details in error.errors(include_url=False, include_context=True):
        path: Path_ = tuple(details["loc"])
        match details["type"]:
            case "unexpected_keyword_argument":
                section = root = schema()
                for part in path[:-1]:
                    value = section.get("properties", {}).get(part, {}) if isinstance(part, str) else section
                    section = referenced(root, value)
                known = sorted(section.get("properties", {}))
                key, colon, _value = str(path[-1]).partition(":")
                if colon:  # the value has become part of the key
                    message = "a blank is missing after its colon"
                    problems.append(Problem(message, file, line_of(path, lines), dotted((*path[:-1], key))))
                    continue
                near = did_you_mean(str(path[-1]), known) or (f"; known here: {', '.join(known)}" if known else "")
                message = _hint(path) or f"unknown key{near}"
            case "missing":
                message = "is missing"
            case "value_error":
                message = str(details["ctx"]["error"]) if "ctx" in details else details["msg"]
            case "tuple_type" | "list_type" | "set_type" | "frozen_set_type":
                message = "must be a list"
            case "dataclass_type" | "dict_type" | "mapping_type":
                message = "must be a mapping of keys to values"
            case "literal_error" | "enum":
                message = f"{details['input']!r} is not one of {details['ctx']['expected']}"
                message += did_you_mean(str(details["input"]), re.findall(r"'([^']*)'", details["ctx"]["expected"]))
            case _:
                message = details["msg"][0].lower() + details["msg"][1:]
        problems.append(Problem(message, file, line_of(path, lines), dotted(path)))
    return sorted(problems, key=lambda problem: problem.line or 0)


def _hint(path: Path_) -> str | None:
    """What to write instead of a key of another program, mostly of Alertmanager."""
    within, key = path[0], path[-1]
    if within == "receivers" and isinstance(key, str) and (service := key.removesuffix("_configs")) != key:
        way = "webhook: https://…" if service == "webhook" else f"url: {_SCHEMES.get(service, service)}://…"
        return f"this is Alertmanager's way; here a receiver has channels, as `channels: [{{{way}}}]`"
    return _HINTS.get((within, key)) if len(path) > 1 else _HINTS.get(("", key))


_SCHEMES = {"email": "mailto", "telegram": "tgram", "msteams": "workflows", "msteamsv2": "workflows", "sns": "sns"}
_HINTS: dict[tuple[object, object], str] = {
    ("rules", "receiver"): "a rule names no receiver; routes choose it by the alert's labels",
    ("route", "match"): """write matchers instead, as `matchers: ['severity="critical"']`""",
    ("route", "match_re"): """write matchers instead, as `matchers: ['project=~"SALES.*"']`""",
    ("inhibit_rules", "source_match"): """write source_matchers instead, as `['severity="critical"']`""",
    ("inhibit_rules", "source_match_re"): """write source_matchers instead, as `['project=~"SALES.*"']`""",
    ("inhibit_rules", "target_match"): """write target_matchers instead, as `['severity="warning"']`""",
    ("inhibit_rules", "target_match_re"): """write target_matchers instead, as `['project=~"SALES.*"']`""",
    ("", "include"): "an included file includes no others; name them in the main file",
    ("", "route"): "an included file has routes, which are children of the root; write routes: instead",
    ("", "mute_time_intervals"): "intervals stand under time_intervals; routes name them as mute_time_intervals",
    ("", "global"): "there are no global settings; each channel has its own, in its url or beside it",
    ("", "groups"): "rules are a list of Tocsin's own kinds, not Prometheus's groups; see docs/rules.md",
}


def referenced(schema: Schema, value: Schema) -> Schema:
    """The section that this value is, or that its list holds; else the value."""
    for inner in (value, value.get("items"), *value.get("anyOf", ())):
        if inner and "$ref" in inner:
            section: Schema = schema["$defs"][inner["$ref"].rpartition("/")[2]]
            return section
        if inner and inner is not value and (section := referenced(schema, inner)) is not inner:
            return section
    return value
