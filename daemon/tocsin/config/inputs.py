"""The files that a configuration is read from: bounded readings, and whether they have changed since.

In Kubernetes a mounted directory is swapped by a symbolic link: watching a file itself never sees that, asking what its
path resolves to does.
"""

import os
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from tocsin.kit.files import Version, version

LARGEST_FILE: Final = 4 << 20
_MOST_ENTRIES: Final = 10_000  # of directories, looked at for one pattern
_MOST_FILES: Final = 1_000  # that all patterns may match
_MAGIC: Final = re.compile(r"[*?\[]")


class TooMuch(Exception):
    """A file or a pattern exceeds a bound; the text says which."""


class Inputs:
    """What one reading of a configuration has looked at, each as it was just before it was read."""

    def __init__(self) -> None:
        self._files: dict[Path, tuple[str, Version] | None] = {}
        self._patterns: dict[Path, list[Path]] = {}

    def read(self, path: Path) -> str:
        """The text of a file. Raises ``OSError``, ``UnicodeDecodeError``, and ``TooMuch`` for a large one."""
        self._files[path] = _status(path)
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise TooMuch(f"is larger than {LARGEST_FILE >> 20} MiB")
        return data.decode("utf-8")

    def match(self, pattern: Path) -> list[Path]:
        """The files that a glob matches, sorted. Raises ``TooMuch``."""
        found = expand(pattern)
        self._patterns[pattern] = found
        if sum(map(len, self._patterns.values())) > _MOST_FILES:
            raise TooMuch(f"matches more than {_MOST_FILES} files")
        return found

    def changed(self) -> bool:
        """Whether a file is not as it was, or a glob matches other files; also while another thread still reads."""
        try:
            return any(_status(path) != seen for path, seen in list(self._files.items())) or any(
                expand(pattern) != found for pattern, found in list(self._patterns.items())
            )
        except TooMuch:
            return True


def expand(pattern: Path) -> list[Path]:
    """The existing files that an absolute glob matches, sorted; as a shell does it, a dot at the beginning of a name is
    to be written. Raises ``TooMuch`` rather than look at more than some thousand directory entries."""
    found, left = [Path(pattern.anchor)], _MOST_ENTRIES
    for part in pattern.parts[1:]:
        if not _MAGIC.search(part):
            found = [path / part for path in found]
            continue
        within: list[Path] = []
        for folder in found:
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        left -= 1
                        if left < 0:
                            raise TooMuch(f"looks at more than {_MOST_ENTRIES} files; name their directory")
                        hidden = entry.name.startswith(".") and not part.startswith(".")
                        if not hidden and fnmatchcase(entry.name, part):
                            within.append(folder / entry.name)
            except OSError:  # no directory, or none that may be read
                continue
        found = within
    # Not ``Path.exists``, which raises where a link leads to what may not be seen.
    return sorted(path for path in found if os.path.exists(path))


def _status(path: Path) -> tuple[str, Version] | None:
    try:
        return str(path.resolve()), version(os.stat(path))
    except (OSError, RuntimeError):  # a RuntimeError: a loop of symbolic links
        return None
