r"""Labels and matchers with Alertmanager's semantics: ``= != =~ !~``, anchored RE2, an absent label is empty.

As in Alertmanager 0.27 and later there are two readings: the classic one (``severity=critical``, quotes optional,
``\"``, ``\n`` and ``\\`` escaped), and for what it refuses the UTF-8 one (any name, quoted if it holds a reserved
character; inside quotes the escapes of Go, ``\x`` being a byte). Source: its ``matcher`` and ``pkg/labels``.

Two things are stricter. An empty label name is refused, and the cost of a regular expression is bounded, because RE2
compiles under the interpreter's lock: no other thread, so not the event loop either, runs meanwhile.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import re2

Labels = Mapping[str, str]


class BadMatcher(ValueError):
    """A matcher is written as NAME=VALUE, NAME!=VALUE, NAME=~REGEX or NAME!~REGEX."""


class _BadQuoted(BadMatcher):
    """A quoted text of the UTF-8 reading cannot be read; its message wins over that of the classic reading."""


class Op(StrEnum):
    EQUAL = "="
    NOT_EQUAL = "!="
    REGEX = "=~"
    NOT_REGEX = "!~"


_OPS = tuple(Op)
PROGRAM_BYTES = 1 << 19  # of one regular expression, with the memory for matching it
LONGEST_PATTERN = 16_384  # characters
MOST_EXPANSIONS = 50  # `{n}` and `\pL`: a few characters of the pattern that may cost RE2 half a millisecond each
MOST_REPETITIONS = 2000  # `?`, `*` and `+`: what a chain of them costs grows with its square

OPTIONS = re2.Options()
OPTIONS.log_errors = False
_BOUNDED = re2.Options()
_BOUNDED.log_errors = False
_BOUNDED.max_mem = PROGRAM_BYTES

_SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
_RESERVED = _SPACES + "{}!=~,\\\\\"'`"
_HAS_RESERVED = re.compile(f"[{_RESERVED}]")
_CLASSIC = re.compile(
    r"[ \t\n\f\r]*([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t\n\f\r]*(=~|!~|!=|=)[ \t\n\f\r]*(.*?)[ \t\n\f\r]*", re.DOTALL
)
_CLASSIC_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_GLOB = re.compile(r"\[(!?)([\w-]+)\]|.", re.DOTALL)
_WORD = rf'[{_SPACES}]*("(?:[^"\\]|\\.)*"|[^{_RESERVED}]+)[{_SPACES}]*'
_UTF8 = re.compile(rf"{_WORD}(=~|!~|!=|=){_WORD}(?:,[{_SPACES}]*|\Z)", re.DOTALL)
_GO_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|([0-3][0-7]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_GO_LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}
_GO_LETTER_OF = {value: f"\\{letter}" for letter, value in _GO_LETTERS.items()}


def compiled(pattern: str) -> "re2._Regexp[str]":
    """The anchored pattern, compiled once. Raises ``BadMatcher`` for what RE2 refuses or is too costly."""
    expression = _compile(pattern)
    if isinstance(expression, str):
        raise BadMatcher(expression)
    return expression


@lru_cache(maxsize=4096)
def _compile(pattern: str) -> "re2._Regexp[str] | str":
    """The pattern, or what is wrong with it."""
    excerpt = pattern if len(pattern) <= 200 else f"{pattern[:200]}…"
    subject = f"the regular expression {excerpt!r}"
    if len(pattern) > LONGEST_PATTERN:
        return f"{subject} is longer than {LONGEST_PATTERN} characters; split it"
    for part, most, words in (
        (r"\\[pP]|\{", MOST_EXPANSIONS, "repetitions like {2,5} and classes like \\pL"),
        (r"[?*+]", MOST_REPETITIONS, "of ?, * and +"),
    ):
        if len(re.findall(part, pattern)) > most:
            return f"{subject} is too costly: it has more than {most} {words}; write it shorter"
    try:
        return re2.compile(anchored(pattern), _BOUNDED)
    except (re2.error, UnicodeError) as error:
        reason = error.args[0] if error.args else error
        words = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        if words.startswith("pattern too large"):
            return f"{subject} is too costly: it needs more than {PROGRAM_BYTES // 1024} KiB; write it shorter"
        return f"{subject} cannot be read: {words.replace(anchored(pattern), excerpt)}"


def glob_pattern(glob: str) -> str:
    """A glob on names (``*``, ``?``, ``[ab]``, ``[!ab]``) as a regular expression."""
    parts = {"*": ".*", "?": "."}
    return _GLOB.sub(
        lambda part: parts.get(part[0]) or (f"[{'^' if part[1] else ''}{part[2]}]" if part[2] else re.escape(part[0])),
        glob,
    )


def anchored(pattern: str) -> str:
    return f"^(?:{pattern})$"


@lru_cache(maxsize=65_536)
def _regex_matches(pattern: str, value: str) -> bool:
    return compiled(pattern).search(value) is not None


@dataclass(frozen=True, slots=True)
class Matcher:
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
        """As Alertmanager prints it; ``parse_matcher`` reads it back."""
        if _HAS_RESERVED.search(self.name) or "\r" in self.value:  # which no form brings back as it is
            return f"{_go_quoted(self.name)}{self.op}{_go_quoted(self.value)}"
        value = self.value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
        return f'{self.name}{self.op}"{value}"'


@lru_cache(maxsize=16_384)
def parse_matcher(text: str) -> Matcher:
    """Raises ``BadMatcher`` with a sentence that says what is wrong."""
    if text.startswith("{") or text.endswith("}"):
        raise BadMatcher(f"{text!r} begins or ends with a brace; one matcher has none, and a value with one is quoted")
    matchers = _read(text, lambda: (_classic(text),))
    if len(matchers) != 1:
        raise BadMatcher(f"{text!r} is {len(matchers)} matchers instead of one")
    return matchers[0]


def parse_matchers(text: str) -> tuple[Matcher, ...]:
    """A list of matchers in one string, with or without braces: ``{project="SALES", severity=~"c.*"}``."""
    bare = text.removeprefix("{").removesuffix("}")  # as in Alertmanager, also where only one of them is there
    return _read(text, lambda: tuple(map(_classic, _split(bare))))


def matchers_text(matchers: Iterable[Matcher]) -> str:
    """Matchers in one string, as Alertmanager prints them: sorted, in braces. ``parse_matchers`` reads it back."""
    ordered = sorted(matchers, key=lambda matcher: (matcher.name, matcher.value, _OPS.index(matcher.op)))
    return f"{{{','.join(map(str, ordered))}}}"


def common_labels(sets: Sequence[Labels]) -> Labels:
    """What all of them say alike; nothing of no sets."""
    first, *others = sets or [{}]
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def all_match(matchers: Iterable[Matcher], labels: Labels) -> bool:
    return all(matcher.matches(labels) for matcher in matchers)


def _read(text: str, classic: Callable[[], tuple[Matcher, ...]]) -> tuple[Matcher, ...]:
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise BadMatcher(f"{text!r} is not Unicode text: it holds half of a character")
    try:
        return classic()
    except BadMatcher as refused:
        try:
            return _utf8(text)
        except _BadQuoted:
            raise
        except BadMatcher:
            raise refused from None


def _matcher(name: str, op: str, value: str) -> Matcher:
    matcher = Matcher(name, Op(op), value)
    if matcher.op in (Op.REGEX, Op.NOT_REGEX):
        compiled(value)
    return matcher


def _classic(text: str) -> Matcher:
    parts = _CLASSIC.fullmatch(text)
    if parts is None:
        raise BadMatcher(f'{text!r} is not a matcher; write it like severity="critical" or project=~"SALES.*"')
    name, op, body = parts.groups()
    if body.startswith('"'):
        body = body[1:]
        backslashes = len(body) - 1 - len(body[:-1].rstrip("\\"))
        if not body.endswith('"') or backslashes % 2:
            raise BadMatcher(f"{text!r} has an unfinished quote")
        body = body[:-1]
    if '"' in _CLASSIC_ESCAPE.sub("", body):
        raise BadMatcher(f'{text!r} has a double quote in its value; write it as \\"')
    value = _CLASSIC_ESCAPE.sub(lambda escape: {"n": "\n", '"': '"', "\\": "\\"}.get(escape[1], escape[0]), body)
    return _matcher(name, op, value)


def _split(text: str) -> Iterator[str]:
    """The parts between the commas that stand outside quotes; a last empty one does not count."""
    quoted, escaped, start = False, False, 0
    for index, letter in enumerate(text):
        if letter == '"' and not escaped:
            quoted = not quoted
        if letter == "," and not quoted:
            yield text[start:index]
            start = index + 1
        escaped = letter == "\\" and not escaped
    if last := text[start:].strip(_SPACES):
        yield last


def _utf8(text: str) -> tuple[Matcher, ...]:
    bare = text.strip(_SPACES)
    if bare.startswith("{"):
        if not bare.endswith("}"):
            raise BadMatcher(text)
        bare = bare[1:-1].strip(_SPACES)
    matchers: list[Matcher] = []
    end = 0
    while end < len(bare):
        parts = _UTF8.match(bare, end)
        if parts is None or parts[1] == '""':
            raise BadMatcher(text)
        matchers.append(_matcher(_unquoted(parts[1]), parts[2], _unquoted(parts[3])))
        end = parts.end()
    return tuple(matchers)


def _unquoted(word: str) -> str:
    """A word as it is meant. Quoted ones follow the rules of Go's strings: an escape may be one byte of a letter."""
    if word[0] != '"':
        return word
    body, plain, decoded = word[1:-1], 0, bytearray()
    if "\n" in body:
        raise _BadQuoted(f"{word} has a line break between its quotes; write it as \\n")
    try:
        for escape in _GO_ESCAPE.finditer(body):
            byte, octal, short, long, letter = escape.groups()
            decoded += body[plain : escape.start()].encode()
            plain = escape.end()
            if byte or octal:
                decoded.append(int(byte, 16) if byte else int(octal, 8))
            else:
                decoded += (_GO_LETTERS[letter] if letter else chr(int(short or long, 16))).encode()
        return (decoded + body[plain:].encode()).decode()
    except KeyError as error:
        raise _BadQuoted(
            f"{word} has the escape \\{error.args[0]}, which is none; a backslash is written as two"
        ) from None
    except (UnicodeError, ValueError, OverflowError):
        raise _BadQuoted(f"{word} is not UTF-8") from None


def _go_quoted(text: str) -> str:
    """The text as Go's ``strconv.Quote`` writes it."""

    def escaped(letter: str) -> str:
        code = ord(letter)
        return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

    return f'"{"".join(_GO_LETTER_OF.get(c) or (c if c.isprintable() else escaped(c)) for c in text)}"'
