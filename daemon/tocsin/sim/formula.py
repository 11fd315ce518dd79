"""DSS's formula language, as far as run conditions and messages use it. Pure.

Comparisons, ``&&``, ``||``, ``!``, ``+``, parentheses, texts in either quote, numbers, ``true false null``, variables
with ``.field`` and ``["field"]``, and ``_FUNCTIONS``. The operators are written as Python's, Python's parser reads the
rest, and only what is listed here is evaluated.
"""

import ast
import json
import operator
import re
from collections.abc import Callable, Mapping

_TOKEN = re.compile(
    r"""(?P<number>\d+(?:\.\d+)?)|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"""|(?P<name>[A-Za-z_]\w*)|(?P<mark>&&|\|\||[=!<>]=|[<>!()+,.\[\]])|(?P<unknown>\S)"""
)
_PLACEHOLDER = re.compile(r"\$\{([^{}]*)\}")
_PYTHON = {"&&": "and", "||": "or", "!": "not"}
_ORDER = {ast.Lt: operator.lt, ast.Gt: operator.gt, ast.LtE: operator.le, ast.GtE: operator.ge}
_CONSTANTS: dict[str, object] = {"true": True, "false": False, "null": None}


class UnreadableFormula(ValueError):
    """A formula that cannot be read, or that names something which does not exist."""


def evaluate_formula(formula: str, variables: Mapping[str, object]) -> object:
    """Raises ``UnreadableFormula``."""
    try:
        return _value(ast.parse(_as_python(formula), mode="eval").body, {**variables, **_CONSTANTS})
    except UnreadableFormula:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UnreadableFormula(f"cannot read {formula!r}") from None


def is_true(value: object) -> bool:
    return value.lower() == "true" if isinstance(value, str) else bool(value)


def fill_template(template: str, variables: Mapping[str, object], *, strict: bool = False) -> str:
    """``template`` with each ``${formula}`` replaced; unknown ones become empty, or raise ``UnreadableFormula`` if strict."""

    def fill(match: "re.Match[str]") -> str:
        try:
            return formula_text(evaluate_formula(match[1], variables))
        except UnreadableFormula:
            if strict:
                raise
            return ""

    return _PLACEHOLDER.sub(fill, template)


def formula_text(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False, default=str)


def _as_python(formula: str) -> str:
    parts: list[str] = []
    for match in _TOKEN.finditer(formula):
        token = match[0]
        match match.lastgroup:
            case "unknown":
                raise UnreadableFormula(f"cannot read {formula!r} from {formula[match.start() :].strip()!r} on")
            case "name":
                parts.append(f"v_{token}")  # so that no name is one of Python's words
            case "text":
                parts.append(repr(re.sub(r"\\(.)", r"\1", token[1:-1])))
            case _:
                parts.append(_PYTHON.get(token, token))
    return " ".join(parts)


def _value(node: ast.expr, variables: Mapping[str, object]) -> object:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name[2:] in variables:
            return variables[name[2:]]
        case ast.Name(id=name):
            raise UnreadableFormula(f"unknown variable {name[2:]!r}")
        case ast.BoolOp(op=op, values=values):
            answers = [is_true(_value(value, variables)) for value in values]
            return all(answers) if isinstance(op, ast.And) else any(answers)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not is_true(_value(operand, variables))
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _compare(op, _value(left, variables), _value(right, variables))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            terms = _value(left, variables), _value(right, variables)
            if all(isinstance(term, int | float) for term in terms):
                return operator.add(*terms)
            return formula_text(terms[0]) + formula_text(terms[1])
        case ast.Attribute(value=inner, attr=name):
            return _field(_value(inner, variables), name[2:])
        case ast.Subscript(value=inner, slice=key):
            return _field(_value(inner, variables), _value(key, variables))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _call(name[2:], [_value(argument, variables) for argument in arguments])
    raise UnreadableFormula("only comparisons, &&, ||, !, + and functions can be evaluated")


def _field(value: object, key: object) -> object:
    if isinstance(value, Mapping):
        return value.get(key)
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return value[key]
    return None


def _compare(op: ast.cmpop, left: object, right: object) -> bool:
    texts = formula_text(left), formula_text(right)
    if type(op) not in _ORDER:
        return (texts[0] == texts[1]) == isinstance(op, ast.Eq)
    try:
        return bool(_ORDER[type(op)](float(texts[0]), float(texts[1])))
    except ValueError:
        raise UnreadableFormula(f"{left!r} and {right!r} are not both numbers") from None


def _call(name: str, arguments: list[object]) -> object:
    if name not in _FUNCTIONS:
        raise UnreadableFormula(f"unknown function {name!r}; known: {', '.join(_FUNCTIONS)}")
    try:
        return _FUNCTIONS[name](*arguments)
    except TypeError:
        raise UnreadableFormula(f"{name} does not take {len(arguments)} arguments") from None


_FUNCTIONS: dict[str, Callable[..., object]] = {
    "if": lambda condition, yes, no: yes if is_true(condition) else no,
    "not": lambda value: not is_true(value),
    "contains": lambda text, part: formula_text(part) in formula_text(text),
    "startsWith": lambda text, part: formula_text(text).startswith(formula_text(part)),
    "endsWith": lambda text, part: formula_text(text).endswith(formula_text(part)),
    "toUppercase": lambda text: formula_text(text).upper(),
    "toLowercase": lambda text: formula_text(text).lower(),
    "length": lambda value: len(value) if isinstance(value, list) else len(formula_text(value)),
    "isNull": lambda value: value is None,
}
