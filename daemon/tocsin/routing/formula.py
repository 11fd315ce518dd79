"""DSS run conditions: ``outcome != 'SUCCESS' && projectKey == 'SALES'``.

The part of DSS's formula language that conditions are made of: comparisons, ``&&``, ``||``, ``!``, parentheses,
strings, numbers, ``true``, ``false``, ``null`` and variables. Anything else cannot be read, and a condition that
cannot be evaluated counts as true and says so: better a notice too many than one too few.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import assert_never

Value = str | float | bool | None
Variables = Mapping[str, Value]

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?(?![\w.]))
        |(?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
        |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
        |(?P<sign>&&|\|\||==|!=|<=|>=|[<>!()\-]))""",
    re.VERBOSE | re.DOTALL,
)
_CONSTANTS: Mapping[str, Value] = {"true": True, "false": False, "null": None}
_DEEPEST = 50  # parentheses and signs; deeper ones are no condition that people write


class BadFormula(ValueError):
    """A condition that cannot be read, or not be evaluated with the variables at hand; the message says why."""


@dataclass(frozen=True, slots=True)
class Literal:
    value: Value


@dataclass(frozen=True, slots=True)
class Variable:
    name: str


@dataclass(frozen=True, slots=True)
class Not:
    of: "Formula"


@dataclass(frozen=True, slots=True)
class Minus:
    of: "Formula"


@dataclass(frozen=True, slots=True)
class Binary:
    sign: str
    left: "Formula"
    right: "Formula"


Formula = Literal | Variable | Not | Minus | Binary


@lru_cache(maxsize=1024)
def parse(text: str) -> Formula:
    """The tree of a condition. Raises ``BadFormula`` with the place that cannot be read."""
    parser = _Parser(text)
    formula = parser.either(0)
    if parser.kind:
        raise parser.error("an operator such as && or ==")
    return formula


def holds(text: str, variables: Variables) -> bool:
    """Whether a condition is true. Raises ``BadFormula`` when that cannot be told."""
    return _truth(_evaluate(parse(text), variables))


def names(formula: Formula) -> frozenset[str]:
    """The variables that a condition speaks of."""
    match formula:
        case Literal():
            return frozenset()
        case Variable(name):
            return frozenset({name})
        case Not(of) | Minus(of):
            return names(of)
        case Binary(_, left, right):
            return names(left) | names(right)
        case _:
            assert_never(formula)


def _evaluate(formula: Formula, variables: Variables) -> Value:
    match formula:
        case Literal(value):
            return value
        case Variable(name):
            if name not in variables:
                raise BadFormula(f"the variable {name!r} is not known here")
            return variables[name]
        case Not(of):
            return not _truth(_evaluate(of, variables))
        case Minus(of):
            return -_number(_evaluate(of, variables))
        case Binary("&&", left, right):
            return _truth(_evaluate(left, variables)) and _truth(_evaluate(right, variables))
        case Binary("||", left, right):
            return _truth(_evaluate(left, variables)) or _truth(_evaluate(right, variables))
        case Binary(sign, left, right):
            return _compare(sign, _evaluate(left, variables), _evaluate(right, variables))
        case _:
            assert_never(formula)


def _truth(value: Value) -> bool:
    if isinstance(value, bool):
        return value
    raise BadFormula(f"{value!r} is neither true nor false")


def _number(value: Value) -> float:
    if isinstance(value, bool) or value is None:
        raise BadFormula(f"{value!r} is not a number")
    try:
        return float(value)
    except ValueError:
        raise BadFormula(f"{value!r} is not a number") from None


def _compare(sign: str, left: Value, right: Value) -> bool:
    if sign in ("==", "!="):
        return _equal(left, right) == (sign == "==")
    if isinstance(left, str) and isinstance(right, str):
        below, same = left < right, left == right
    else:
        a, b = _number(left), _number(right)
        below, same = a < b, a == b
    match sign:
        case "<":
            return below
        case "<=":
            return below or same
        case ">":
            return not below and not same
        case _:
            return not below


def _equal(left: Value, right: Value) -> bool:
    if isinstance(left, str) is isinstance(right, str):
        return left == right
    try:
        return _number(left) == _number(right)
    except BadFormula:
        return False


class _Parser:
    """One token ahead, one method a level of binding: ``||``, ``&&``, comparisons, signs, atoms."""

    def __init__(self, text: str) -> None:
        self.text = text
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

    def error(self, wanted: str) -> BadFormula:
        seen = repr(self.token) if self.token else "the end"
        return BadFormula(f"{self.text!r}: expected {wanted} at position {self.position}, found {seen}")

    def _takes(self, *signs: str) -> str | None:
        if self.kind != "sign" or self.token not in signs:
            return None
        sign = self.token
        self._next()
        return sign

    def either(self, depth: int) -> Formula:
        left = self._both(depth)
        while self._takes("||"):
            left = Binary("||", left, self._both(depth))
        return left

    def _both(self, depth: int) -> Formula:
        left = self._comparison(depth)
        while self._takes("&&"):
            left = Binary("&&", left, self._comparison(depth))
        return left

    def _comparison(self, depth: int) -> Formula:
        left = self._signed(depth)
        sign = self._takes("==", "!=", "<=", ">=", "<", ">")
        return left if sign is None else Binary(sign, left, self._signed(depth))

    def _signed(self, depth: int) -> Formula:
        if depth > _DEEPEST:
            raise BadFormula("the condition is nested too deeply")
        if self._takes("!"):
            return Not(self._signed(depth + 1))
        if self._takes("-"):
            return Minus(self._signed(depth + 1))
        if self._takes("("):
            inner = self.either(depth + 1)
            if not self._takes(")"):
                raise self.error("')'")
            return inner
        return self._atom()

    def _atom(self) -> Formula:
        kind, token = self.kind, self.token
        match kind:
            case "number":
                atom: Formula = Literal(float(token))
            case "string":
                atom = Literal(re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL))
            case "name":
                atom = Literal(_CONSTANTS[token]) if token in _CONSTANTS else Variable(token)
            case _:
                raise self.error("a value")
        self._next()
        return atom
