"""Secrets: inline, from a file that is read again when it changes, or from the environment. They never print."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from tocsin.app.settings.problems import is_variable

MASK = "<secret>"


@dataclass(frozen=True, slots=True)
class InlineSecret:
    """A secret that stands in the configuration itself."""

    value: str = field(repr=False)

    def reveal(self) -> str:
        return self.value

    def __str__(self) -> str:
        return MASK


@dataclass(frozen=True, slots=True)
class EnvSecret:
    """A secret in an environment variable."""

    name: str

    def reveal(self) -> str:
        value = os.environ.get(self.name)
        if not value:
            shown = f" {self.name}" if is_variable(self.name) else ""
            raise FileNotFoundError(f"the environment variable{shown} is not set")
        return value

    def __str__(self) -> str:
        return MASK


@dataclass(frozen=True, slots=True)
class FileSecret:
    """A secret in a file; read at each use, so that a rotated one is used at once. Surrounding blanks do not count."""

    path: Path

    def reveal(self) -> str:
        try:
            value = self.path.read_text("utf-8").strip()
        except UnicodeDecodeError:
            raise OSError(f"{self.path} is not text") from None
        if not value:
            raise OSError(f"{self.path} is empty")
        return value

    def __str__(self) -> str:
        return MASK
