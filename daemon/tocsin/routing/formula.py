"""DSS run conditions: ``outcome != 'SUCCESS' && projectKey == 'SALES'``.

The part of DSS's formula language that conditions are made of: comparisons, ``&&``, ``||``, ``!``, parentheses,
strings, numbers, ``true``, ``false``, ``null`` and variables. Anything else cannot be read.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import ge, gt, le, lt
from typing import Any

Value = str | float | bool | None
Variables = Mapping[str, Value]
Formula = Callable[[Variables], Value]

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?(?![\w.]))
        |(?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
        |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
        |(?P<sign>&&|\|\||==|!=|<=|>=|[<>!()\-]))""",
    re.VERBOSE | re.DOTALL,
)
_CONSTANTS: Mapping[str, Value] = {"true": True, "false": False, "null": None}
_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {"<": lt, "<=": le, ">": gt, ">=": ge}
_DEEPEST = 50  # parentheses and signs; deeper ones are no condition that people write


class BadFormula(ValueError):
    """A condition that cannot be read, or not be evaluated with the variables at hand; the message says why."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that can be read, and the names of the variables that it uses."""

    formula: Formula
    names: frozenset[str]


@lru_cache(maxsize=1024)
def parse(text: str) -> Condition:
    """Raises ``BadFormula`` with the place that cannot be read."""
    parser = _Parser(text)
    formula = parser.either(0)
    if parser.kind:
        raise parser.error("an operator such as && or ==")
    return Condition(formula, frozenset(parser.names))


def holds(text: str, variables: Variables) -> bool:
    """Whether a condition is true. Raises ``BadFormula`` when that cannot be told."""
    return _truth(parse(text).formula(variables))


def _truth(value: Value) -> bool:
    if isinstance(value, bool):
        return value
    raise BadFormula(f"{value!r} is neither true nor false")


def _number(value: Value) -> float:
    try:
        if isinstance(value, (str, float, int)) and not isinstance(value, bool):
            return float(value)
    except ValueError:
        pass
    raise BadFormula(f"{value!r} is not a number")


class _Parser:
    """One token ahead, one method a level of binding: ``||``, ``&&``, comparisons, signs with what they stand before."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: set[str] = set()
        self.position = self.end = 0
        self.kind: str | None = None
        self.token = ""
        self._next()

    def _next(self) -> None:
        found = _TOKEN.match(self.text, self.end)
        if found is None:
            self.position = self.end
            self.kind, self.token = None, self.text[self.end :].strip()
            if self.token:
                raise self.error("a value")
            return
        self.kind, self.token = found.lastgroup, found[found.lastgroup or 0]
        self.position, self.end = found.start(found.lastgroup or 0), found.end()

    def error(self, expected: str) -> BadFormula:
        token = repr(self.token) if self.token else "the end"
        return BadFormula(f"{self.text!r}: expected {expected} at position {self.position}, found {token}")

    def _takes(self, *signs: str) -> str | None:
        if self.kind != "sign" or self.token not in signs:
            return None
        sign = self.token
        self._next()
        return sign

    def either(self, depth: int) -> Formula:
        parts = [self._both(depth)]
        while self._takes("||"):
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else lambda known: any(_truth(part(known)) for part in parts)

    def _both(self, depth: int) -> Formula:
        parts = [self._comparison(depth)]
        while self._takes("&&"):
            parts.append(self._comparison(depth))
        return parts[0] if len(parts) == 1 else lambda known: all(_truth(part(known)) for part in parts)

    def _comparison(self, depth: int) -> Formula:
        first = self._signed(depth)
        if (sign := self._takes("==", "!=", *_ORDER)) is None:
            return first
        second = self._signed(depth)

        def compare(known: Variables) -> bool:
            left, right = first(known), second(known)
            alike = isinstance(left, str) is isinstance(right, str)
            if sign in _ORDER:
                both_texts = alike and isinstance(left, str)
                return _ORDER[sign](left, right) if both_texts else _ORDER[sign](_number(left), _number(right))
            try:
                equal = left == right if alike else _number(left) == _number(right)
            except BadFormula:
                equal = False
            return equal == (sign == "==")

        return compare

    def _signed(self, depth: int) -> Formula:
        if depth > _DEEPEST:
            raise BadFormula("the condition is nested too deeply")
        if sign := self._takes("!", "-"):
            operand = self._signed(depth + 1)
            return lambda known: not _truth(operand(known)) if sign == "!" else -_number(operand(known))
        if self._takes("("):
            inner = self.either(depth + 1)
            if not self._takes(")"):
                raise self.error("')'")
            return inner
        kind, token = self.kind, self.token
        if kind not in ("number", "string", "name"):
            raise self.error("a value")
        self._next()
        if kind == "name" and token not in _CONSTANTS:
            return self._variable(token)
        value = float(token) if kind == "number" else _CONSTANTS.get(token)
        if kind == "string":
            value = re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)
        return lambda _known: value

    def _variable(self, name: str) -> Formula:
        self.names.add(name)

        def look_up(known: Variables) -> Value:
            if name not in known:
                raise BadFormula(f"the variable {name!r} is not known here")
            return known[name]

        return look_up
