"""Files that verbs read and write."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tocsin.cli.exits import USAGE, Failure


def read_text(path: Path) -> str:
    """The text of a file, or of standard input for ``-``. Raises ``Failure``."""
    try:
        return sys.stdin.read() if path == Path("-") else path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read {path}: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ``Failure``."""
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise Failure(f"{path} is not JSON: {error}", USAGE) from None
    if not isinstance(found, dict):
        raise Failure(f"{path} must hold a JSON object", USAGE)
    return found


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a file whole or not at all, readable by its owner alone if ``private``. Raises ``Failure``."""
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
