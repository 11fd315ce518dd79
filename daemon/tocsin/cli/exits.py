"""How verbs end: the exit codes, and one clear line on standard error for what goes wrong; and files of theirs."""

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

DONE = 0
NO = 1  # the answer is no: check failed, run FAILED, expectation unmet; or nothing could be started
USAGE = 2
UNREACHABLE = 3  # cannot reach DSS or the daemon
NOT_ALLOWED = 4


class Failure(Exception):
    """A verb cannot go on; the text is printed for the user."""

    def __init__(self, message: str, code: int = NO) -> None:
        super().__init__(message)
        self.code = code


def print_stderr(message: str) -> None:
    """A line for people, beside what scripts read."""
    print(f"tocsin: {message}", file=sys.stderr)


def fail(message: str, code: int = NO) -> NoReturn:
    """Print ``message`` on standard error and exit with ``code``."""
    print_stderr(message)
    raise SystemExit(code)


def one_line(text: str) -> str:
    """Text from elsewhere, without what could move a terminal's cursor."""
    return "".join(sign for sign in " ".join(text.split()) if sign.isprintable())


def read_text(path: Path) -> str:
    """The text of a file, or of standard input for ``-``. Raises ``Failure``."""
    try:
        return sys.stdin.read() if path == Path("-") else path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read {path}: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ``Failure``."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise Failure(f"{path} is not JSON: {error}", USAGE) from None
    if not isinstance(value, dict):
        raise Failure(f"{path} must hold a JSON object", USAGE)
    return value


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a file whole or not at all, readable by its owner alone if ``private``. Raises ``Failure``."""
    import tempfile

    try:
        if private:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)
        if not private:
            Path(name).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        Path(name).replace(path)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror or error}") from None


def append_line(path: Path, line: str) -> None:
    """Add a line at the end of a file, which is made readable by its owner alone. Ends with ``fail`` if it cannot."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "rb+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            between = "" if file.read(1) in (b"", b"\n") else "\n"
            file.write(f"{between}{line}\n".encode())
            os.fsync(handle)
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror or error}")
