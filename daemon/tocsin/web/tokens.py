"""The file of access tokens: one a line, as ``NAME SCOPE SHA256``.

The file holds digests, never tokens, so that reading it gives nothing away. It is read again when it changes. A line
that cannot be understood is skipped and logged; a file that cannot be read lets nobody in, until it can.

::

    # name      scope     sha256 of the token
    grafana     viewer    <SHA-256 of the token in hexadecimal>
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog

from tocsin.kit.files import DEADLINE_SECONDS, TextFile

log = structlog.get_logger(__name__)

_LARGEST_FILE = 1 << 20


class Scope(StrEnum):
    """What a token allows: a viewer reads, an operator may change things too."""

    VIEWER = "viewer"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Token:
    name: str
    scope: Scope
    sha256: str


def make_token(name: str, scope: Scope) -> tuple[str, str]:
    """A fresh token, and the line of the tokens file that lets it in."""
    secret = "tocsin_" + secrets.token_urlsafe(32)
    return secret, f"{name} {scope.value} {_digest(secret)}"


def parse_tokens(text: str) -> tuple[list[Token], list[str]]:
    """The tokens of a file's text, and a sentence for each line that is not one."""
    tokens, problems = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split("#", 1)[0].split()
        if not fields:
            continue
        if len(fields) != 3 or fields[1] not in list(Scope) or not _is_digest(fields[2]):
            problems.append(f"line {number} is not NAME viewer|operator SHA256")
            continue
        tokens.append(Token(fields[0], Scope(fields[1]), fields[2].lower()))
    return tokens, problems


class TokenFile:
    """The tokens of one file, as it is now."""

    def __init__(self, path: str, seconds: float = DEADLINE_SECONDS) -> None:
        """``seconds``: how long reading may take; a file on a mount that hangs lets nobody in."""
        self.path = path
        self._file = TextFile(Path(path), _LARGEST_FILE, seconds=seconds)
        self._tokens: list[Token] = []
        self._text: str | None = None  # what the tokens were parsed from
        self._failed = False

    async def find(self, presented: str) -> Token | None:
        """The token that was presented. Every entry is compared, in constant time."""
        await self._read_if_changed()
        digest, found = _digest(presented), None
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found

    async def _read_if_changed(self) -> None:
        try:
            text = await self._file.wait()
        except OSError as error:  # also when a mount hangs: TimeoutError
            self._tokens, self._text = [], None
            if not self._failed:
                log.error("tokens_file_unreadable", path=self.path, error=str(error))
            self._failed = True
            return
        self._failed = False
        if text == self._text:
            return
        self._tokens, problems = parse_tokens(text)
        self._text = text
        for problem in problems:
            log.error("tokens_file_line_skipped", path=self.path, problem=problem)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _is_digest(text: str) -> bool:
    return len(text) == 64 and all(letter in "0123456789abcdef" for letter in text.lower())
