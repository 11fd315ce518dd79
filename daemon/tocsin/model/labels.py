"""Labels and matchers with Alertmanager's semantics: ``= != =~ !~``, anchored RE2, an absent label is empty.

Both writings are read: the classic one (``severity="critical"``, quotes optional) and the UTF-8 one, in which names
may be quoted too. Source of the fact: Alertmanager's documentation of matchers and the behaviour of amtool 0.25.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import re2

Labels = Mapping[str, str]


class BadMatcher(ValueError):
    """A matcher is written as NAME=VALUE, NAME!=VALUE, NAME=~REGEX or NAME!~REGEX."""


class Op(StrEnum):
    EQUAL = "="
    NOT_EQUAL = "!="
    REGEX = "=~"
    NOT_REGEX = "!~"


_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_CLASSIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_MATCHER = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^\s"=!~{},\\\'`]+)\s*(=~|!~|!=|=)\s*(.*?)\s*', re.DOTALL)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


@lru_cache(maxsize=4096)
def compiled(pattern: str) -> "re2._Regexp[str]":
    """The anchored pattern, compiled once. Raises ``BadMatcher`` with RE2's own reason."""
    try:
        return re2.compile(f"^(?:{pattern})$", _OPTIONS)
    except re2.error as error:
        reason = (
            error.args[0].decode("utf-8", "replace")
            if isinstance(error.args[0], bytes)
            else str(error.args[0])
        )
        raise BadMatcher(f"the regular expression {pattern!r} cannot be read: {reason}") from None


@lru_cache(maxsize=65_536)
def _regex_matches(pattern: str, value: str) -> bool:
    return compiled(pattern).search(value) is not None


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on one label."""

    name: str
    op: Op
    value: str

    def matches(self, labels: Labels) -> bool:
        actual = labels.get(self.name, "")
        match self.op:
            case Op.EQUAL:
                return actual == self.value
            case Op.NOT_EQUAL:
                return actual != self.value
            case Op.REGEX:
                return _regex_matches(self.value, actual)
            case Op.NOT_REGEX:
                return not _regex_matches(self.value, actual)

    def __str__(self) -> str:
        name = self.name if _CLASSIC_NAME.fullmatch(self.name) else json.dumps(self.name, ensure_ascii=False)
        return f"{name}{self.op}{json.dumps(self.value, ensure_ascii=False)}"


def parse_matcher(text: str) -> Matcher:
    """One matcher from its writing. Raises ``BadMatcher`` with a sentence that says what is wrong."""
    found = _MATCHER.fullmatch(text)
    if found is None:
        raise BadMatcher(
            f'{text!r} is not a matcher; write it like severity="critical" or project=~"SALES.*"'
        )
    name, op, value = found.groups()
    matcher = Matcher(_unquote(name, text), Op(op), _unquote(value, text))
    if not matcher.name:
        raise BadMatcher(f"{text!r} has no label name")
    if matcher.op in (Op.REGEX, Op.NOT_REGEX):
        compiled(matcher.value)
    return matcher


def parse_matchers(text: str) -> tuple[Matcher, ...]:
    """A list of matchers in one string, with or without braces: ``{project="SALES", severity=~"c.*"}``."""
    inner = text.strip()
    if inner.startswith("{") != inner.endswith("}"):
        raise BadMatcher(f"{text!r} has an opening or a closing brace only")
    inner = inner[1:-1] if inner.startswith("{") else inner
    return tuple(parse_matcher(part) for part in _split(inner))


def all_match(matchers: Iterable[Matcher], labels: Labels) -> bool:
    """Whether every matcher holds; true for none."""
    return all(matcher.matches(labels) for matcher in matchers)


def labels_key(labels: Labels) -> tuple[tuple[str, str], ...]:
    """A hashable form of a label set, independent of the order of its labels."""
    return tuple(sorted(labels.items()))


def _unquote(text: str, whole: str) -> str:
    if not text.startswith('"'):
        if '"' in text.replace('\\"', ""):
            raise BadMatcher(f"{whole!r} has a quote in an unquoted part")
        return text
    quoted = _QUOTED.fullmatch(text)
    if quoted is None:
        raise BadMatcher(f"{whole!r} has an unfinished quote")
    return _ESCAPE.sub(lambda found: {"n": "\n", '"': '"', "\\": "\\"}.get(found[1], found[0]), quoted[1])


def _split(text: str) -> list[str]:
    parts, quoted, escaped, start = [], False, False, 0
    for index, letter in enumerate(text):
        if escaped:
            escaped = False
        elif letter == "\\":
            escaped = True
        elif letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return [part for part in parts if part.strip()]
