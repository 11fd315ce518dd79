"""Errors and logs of DSS as people read them: without prefixes and class names that say nothing, and as they are
compared: without what differs from run to run. Pure text in, pure text out; escaping is left to the dialects."""

import hashlib
import re

from tocsin.model.run import RunError

_FINGERPRINT_LENGTH = 300
_READ = 10_000  # characters of an error
# DSS's layout of log lines: [date-time] [thread] [LEVEL] [logger]  - message. Source: third-party parsers of its logs.
_LOG_PREFIX = re.compile(
    r"^\[(?:\d{4}/\d\d/\d\d-)?(\d\d:\d\d:\d\d)(?:[.,]\d+)?\] \[[^\]\n]*\] \[([A-Z]+)\] \[[^\]\n]*\]\s*-\s"
)
_ERROR_LEVELS = frozenset({"ERROR", "FATAL", "SEVERE"})
_ERROR_LINE = re.compile(r"^(?:\S+ )?(?:ERROR|FATAL|SEVERE)\b|^(?:Caused by: )?[\w.$]*(?:Error|Exception): ")
_PYTHON_PROCESS = re.compile(
    r"^Error in [Pp]ython process: (?:At line (?P<line>\d+): )?(?:<(?:class|type) '(?P<name>[\w.]+)'>: )?"
)
_QUALIFIED = re.compile(r"^(?:[a-z_$][\w$]*\.)+(?P<name>[A-Z][\w$]*)(?::\s+|$)")
_EMPTY_NAME = re.compile(r"^(?:Exception|RuntimeException|RuntimeError|Error|Throwable|Failure): (?=\S)")
_VARYING = (  # in this order: what is longer and more certain goes first
    (re.compile(r"https?://[^\s\"'<>]+"), "<url>"),
    (re.compile(r"\b\d{4}[-/]\d\d[-/]\d\d(?:[-T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"), "<time>"),
    (re.compile(r"\b\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?\b"), "<time>"),
    (re.compile(r"\"[^\"\n]{1,200}\"|(?<!\w)'[^'\n]{1,200}'|`[^`\n]{1,200}`|«[^»\n]{1,200}»"), "<name>"),
    (re.compile(r"(?<![\w<])(?:[A-Za-z]:)?(?:[/\\][\w.@%+=~-]+){2,}[/\\]?"), "<path>"),
    (re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b"), "<id>"),
    (re.compile(r"\b(?=[A-Za-z_-]*\d)[0-9a-zA-Z_-]{12,}\b"), "<id>"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b|\b(?=\w*\d)[0-9a-fA-F]{8,}\b"), "<id>"),
    (re.compile(r"\d+(?:[.,]\d+)*"), "<n>"),
)


def readable_error(text: str) -> str:
    """An error's message without log prefixes, packages and class names that say nothing.

    A class name stays where the message alone would not be understood: ``KeyError: 'x'``.
    """
    text = _LOG_PREFIX.sub("", text.strip()).strip()
    line = None
    if match := _PYTHON_PROCESS.match(text):
        line, rest = match["line"], text[match.end() :].strip()
        name = (match["name"] or "").rpartition(".")[2]
        text = f"{name}: {rest}" if name and rest else name or rest or text
    while match := _QUALIFIED.match(text):
        rest = text[match.end() :].strip()
        if " " not in rest.partition("\n")[0]:
            text = f"{match['name']}: {rest}" if rest else match["name"]
            break
        text = rest
    text = _EMPTY_NAME.sub("", text, count=1)
    if line is not None:
        head, newline, rest = text.partition("\n")
        text = f"{head} (line {line}){newline}{rest}"
    return text


def error_text(error: RunError) -> str:
    """What an error says, with its title where the message does not repeat it."""
    message = readable_error((error.message or "")[:_READ])
    title = error.title if error.title and error.title not in (error.message or "") else None
    return ": ".join(part for part in (title, message) if part) or error.code or "an error without a message"


def error_digest(error: RunError | None) -> str | None:
    """The fingerprint as rows and labels hold it; None for an error that says nothing."""
    if error is None or not (error.message or error.title or error.code):
        return None
    return hashlib.blake2b(error_fingerprint(error).encode(), digest_size=8).hexdigest()


def error_fingerprint(error: RunError) -> str:
    """Equal for errors with one cause: the code, and the message's first line without numbers, ids, times, paths, addresses
    and quoted names."""
    line = error_text(error).partition("\n")[0][:_FINGERPRINT_LENGTH]
    for pattern, sign in _VARYING:
        line = pattern.sub(sign, line)
    return f"{error.code or ''}|{' '.join(line.split()).casefold()}"


def shorten_log(text: str, lines: int, limit: int) -> str:
    """The last whole lines of a log, at most so many lines and characters, with the time and the level of each.

    The last line that reports an error is always among them, before the others where it is older.
    """
    shortened = [_shorten_line(line) for line in text.replace("\r\n", "\n").rstrip("\n").split("\n")]
    while shortened and not shortened[0].strip():
        shortened.pop(0)
    kept: list[str] = []
    room = limit
    for line in reversed(shortened[-lines:]):
        if len(line) + 1 > room and kept:
            break
        kept.append(line if len(line) < room else line[: max(room - 1, 0)] + "…")
        room -= len(kept[-1]) + 1
    kept.reverse()
    first = len(shortened) - len(kept)
    last_error = next((n for n in range(len(shortened) - 1, -1, -1) if _ERROR_LINE.search(shortened[n])), None)
    if last_error is None or last_error >= first:
        return "\n".join(kept)
    line = shortened[last_error]
    head = [line if len(line) <= limit // 2 else line[: limit // 2 - 1] + "…", "…"]
    while kept and (len(kept) + 2 > lines or sum(map(len, head + kept)) + len(head + kept) - 1 > limit):
        kept.pop(0)
    return "\n".join(head + kept)


def _shorten_line(line: str) -> str:
    match = _LOG_PREFIX.match(line)
    if match is None:
        return line
    level = f"{match[2]} " if match[2] in _ERROR_LEVELS or match[2].startswith("WARN") else ""
    return f"{match[1]} {level}{line[match.end() :]}"
