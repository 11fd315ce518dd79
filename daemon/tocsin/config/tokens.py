"""Tokens that let people and programs in: lines of the tokens file, which hold digests and never tokens."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_NAME = re.compile(r"[^\s#]{1,200}")


class Role(StrEnum):
    """What a token allows: a viewer reads, an operator may change things too."""

    VIEWER = "viewer"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Token:
    name: str
    role: Role
    sha256: str


def make_token(name: str, role: Role) -> tuple[str, str]:
    """A new token, and its line of the tokens file. Raises ``ValueError`` for a name that no line can hold."""
    if not _NAME.fullmatch(name) or not name.isprintable():
        raise ValueError(f"{name!r} is not a token's name; it has no blank and no #, and at most 200 characters")
    secret = "tocsin_" + secrets.token_urlsafe(32)
    return secret, f"{name} {role.value} {token_digest(secret)}"


def parse_tokens(text: str) -> tuple[list[Token], list[str]]:
    """The tokens of a file's text, and a sentence for each line that is not one."""
    tokens, problems = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split("#", 1)[0].split()
        if not fields:
            continue
        if len(fields) != 3 or fields[1] not in list(Role) or not _DIGEST.fullmatch(fields[2]):
            problems.append(f"line {number} is not NAME viewer|operator SHA256")
            continue
        tokens.append(Token(fields[0], Role(fields[1]), fields[2].lower()))
    return tokens, problems


def token_digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
