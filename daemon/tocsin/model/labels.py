"""Labels and matchers with Alertmanager's semantics: ``= != =~ !~``, anchored RE2, an absent label is empty.

Both of Alertmanager's writings are read. The classic one (``severity="critical"``, quotes optional) is tried first;
what it refuses may be the UTF-8 one, in which names may be quoted and hold any letter. That is Alertmanager's own
order where both could read a text: the classic reading wins. Source of the fact: Alertmanager's documentation, and
amtool 0.25, against which a test compares random texts.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
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


OPTIONS = re2.Options()
OPTIONS.log_errors = False
_CLASSIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_CLASSIC = re.compile(
    r"[ \t\n\f\r]*([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t\n\f\r]*(=~|!~|!=|=)[ \t\n\f\r]*(.*?)[ \t\n\f\r]*", re.DOTALL
)
_WORD = r"""("(?:[^"\\\n]|\\.)*"|[^\s{}!=~,\\"'`]+)"""
_UTF8 = re.compile(rf"\s*{_WORD}\s*(=~|!~|!=|=)\s*{_WORD}\s*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_GO_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|(.))")
_GO_LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}


@lru_cache(maxsize=4096)
def compiled(pattern: str) -> "re2._Regexp[str]":
    """The anchored pattern, compiled once. Raises ``BadMatcher`` with RE2's own reason."""
    try:
        return re2.compile(anchored(pattern), OPTIONS)
    except (re2.error, UnicodeError) as error:
        reason = error.args[0] if error.args else error
        words = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        words = words.replace(anchored(pattern), pattern)
        raise BadMatcher(f"the regular expression {pattern!r} cannot be read: {words}") from None


def anchored(pattern: str) -> str:
    """The pattern as Alertmanager anchors it."""
    return f"^(?:{pattern})$"


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
        """The matcher as Alertmanager prints it; ``parse_matcher`` reads it back."""
        name = self.name if _CLASSIC_NAME.fullmatch(self.name) else json.dumps(self.name, ensure_ascii=False)
        value = self.value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
        if name == self.name:
            return f'{name}{self.op}"{value}"'
        return f"{name}{self.op}{json.dumps(self.value, ensure_ascii=False)}"


@lru_cache(maxsize=16_384)
def parse_matcher(text: str) -> Matcher:
    """One matcher from its writing. Raises ``BadMatcher`` with a sentence that says what is wrong."""
    try:
        matcher = _parse_classic(text)
    except BadMatcher as refused:
        parsed = _parse_utf8(text)
        if parsed is None:
            raise refused from None
        matcher = parsed
    if matcher.op in (Op.REGEX, Op.NOT_REGEX):
        compiled(matcher.value)
    return matcher


def parse_matchers(text: str) -> tuple[Matcher, ...]:
    """A list of matchers in one string, with or without braces: ``{project="SALES", severity=~"c.*"}``.

    As in Alertmanager a brace at either end is dropped, whether or not there is one at the other.
    """
    return tuple(parse_matcher(part) for part in _split(text.removeprefix("{").removesuffix("}")))


def matchers_text(matchers: Iterable[Matcher]) -> str:
    """Matchers in one string, as Alertmanager prints them: sorted, in braces. ``parse_matchers`` reads it back."""
    return f"{{{','.join(str(one) for one in sorted(matchers, key=_order))}}}"


def all_match(matchers: Iterable[Matcher], labels: Labels) -> bool:
    """Whether every matcher holds; true for none."""
    return all(matcher.matches(labels) for matcher in matchers)


def _order(matcher: Matcher) -> tuple[str, str, int]:
    return matcher.name, matcher.value, tuple(Op).index(matcher.op)


def _parse_classic(text: str) -> Matcher:
    found = _CLASSIC.fullmatch(text)
    if found is None:
        raise BadMatcher(f'{text!r} is not a matcher; write it like severity="critical" or project=~"SALES.*"')
    name, op, raw = found.groups()
    quoted = raw.startswith('"')
    body = raw[1:] if quoted else raw
    if quoted:
        if not _ends_with_quote(body):
            raise BadMatcher(f"{text!r} has an unfinished quote")
        body = body[:-1]
    if _has_bare_quote(body):
        raise BadMatcher(f'{text!r} has a double quote in its value; write it as \\"')
    value = _ESCAPE.sub(lambda one: {"n": "\n", '"': '"', "\\": "\\"}.get(one[1], one[0]), body)
    return Matcher(name, Op(op), value)


def _parse_utf8(text: str) -> Matcher | None:
    found = _UTF8.fullmatch(text)
    if found is None:
        return None
    name, value = _unquote(found[1]), _unquote(found[3])
    return None if not name or value is None else Matcher(name, Op(found[2]), value)


def _unquote(word: str) -> str | None:
    """A word of the UTF-8 writing; quoted ones follow the rules of Go's strings. None when an escape is unknown."""
    if not word.startswith('"'):
        return word
    try:
        return _GO_ESCAPE.sub(_go_letter, word[1:-1])
    except (KeyError, ValueError):
        return None


def _go_letter(found: re.Match[str]) -> str:
    byte, short, long, octal, letter = found.groups()
    if letter is not None:
        return _GO_LETTERS[letter]
    if octal is not None:
        return chr(int(octal, 8))
    return chr(int(byte or short or long, 16))


def _ends_with_quote(text: str) -> bool:
    stripped = text[:-1].rstrip("\\")
    return text.endswith('"') and (len(text) - 1 - len(stripped)) % 2 == 0


def _has_bare_quote(text: str) -> bool:
    return '"' in _ESCAPE.sub("", text)


def _split(text: str) -> Iterator[str]:
    quoted, escaped, start = False, False, 0
    for index, letter in enumerate(text):
        if letter == '"' and not escaped:
            quoted = not quoted
        if letter == "," and not quoted:
            yield text[start:index]
            start = index + 1
        escaped = letter == "\\" and not escaped
    if text[start:].strip():
        yield text[start:]
