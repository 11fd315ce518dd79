"""Secrets: inline, in a file that is read again when it changes, or in the environment. They never print."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from tocsin.config.problems import is_variable
from tocsin.kit.files import DEADLINE_SECONDS, TextFile

MASK: Final = "<secret>"


class Secret(Protocol):
    """A value that ``str()`` and ``repr()`` hide."""

    __slots__ = ()

    def reveal(self) -> str:
        """The present value. May block for seconds, so for threads. Raises ``OSError`` when it cannot be read in time."""

    async def read(self) -> str:
        """As ``reveal``, for event loops."""
        return self.reveal()

    def __str__(self) -> str:
        return MASK


@dataclass(frozen=True, slots=True)
class InlineSecret(Secret):
    value: str = field(repr=False)

    def reveal(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class EnvSecret(Secret):
    name: str

    def reveal(self) -> str:
        value = os.environ.get(self.name)
        if not value:
            name = f" {self.name}" if is_variable(self.name) else ""
            raise FileNotFoundError(f"the environment variable{name} is not set")
        return value


@dataclass(frozen=True, slots=True)
class FileSecret(Secret):
    """A secret in a file, read again when it has changed, so that a rotated one is used at once. Surrounding blanks do
    not count. While the file cannot be read in time, the value last read is used."""

    path: Path
    deadline_seconds: float = field(default=DEADLINE_SECONDS, repr=False, compare=False)
    _file: TextFile = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        def report(hangs: bool) -> None:
            import structlog

            log = structlog.get_logger("tocsin.config.secrets")
            if hangs:
                log.warning("secret_file_hangs", path=str(self.path), action="the value last read, if any, is used")
            else:
                log.info("secret_file_answers_again", path=str(self.path))

        file = TextFile(self.path, 1 << 20, seconds=self.deadline_seconds, fresh_for_seconds=0.1, hangs=report)
        object.__setattr__(self, "_file", file)

    def reveal(self) -> str:
        try:
            return self._value(self._file.call())
        except TimeoutError:
            if self._file.text is None:
                raise
            return self._value(self._file.text)

    async def read(self) -> str:
        try:
            return self._value(await self._file.wait())
        except TimeoutError:
            if self._file.text is None:
                raise
            return self._value(self._file.text)

    def _value(self, text: str) -> str:
        if not (value := text.strip()):
            self._file.expire()
            raise OSError(f"{self.path} is empty")
        return value
