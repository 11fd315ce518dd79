"""Masking secrets in texts that people and logs will see."""

import re
import traceback
from base64 import b64decode, b64encode
from collections.abc import Iterable
from pathlib import PurePath
from urllib.parse import quote, unquote

MASK = "***"
_SHORTEST = 4  # shorter ones would mask ordinary words, and guard nothing
_PART = 5  # characters of a secret in a row that are masked wherever they stand
# Values in the query of a URL that are settings of apprise and no secrets.
_PUBLIC = frozenset(("false", "html", "markdown", "split", "text", "true", "truncate", "upstream"))
# A host with perhaps a port. One word is none: in URLs of apprise it is a token.
_AUTHORITY = re.compile(
    r"([a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z][a-z0-9-]*|localhost|[0-9]+(\.[0-9]+){3}|\[[0-9a-f:.]+\])(:[0-9]{1,5})?",
    re.IGNORECASE,
)


def mask(text: str, secrets: Iterable[str]) -> str:
    """The text without the secrets and parts of them, since receivers cut them short, in upper or lower case."""
    folded_secrets = {secret.translate(_LOWER) for secret in secrets if len(secret) >= _SHORTEST}
    parts = {secret[i : i + _PART] for secret in folded_secrets for i in range(max(len(secret) - _PART + 1, 1))}
    folded = text.translate(_LOWER)
    spans: list[tuple[int, int]] = []
    for part in parts:
        start = folded.find(part)
        while start >= 0:
            spans.append((start, start + len(part)))
            start = folded.find(part, start + 1)
    masked: list[str] = []
    done = 0
    for start, stop in sorted(spans):
        if start > done or not masked:
            masked += [text[done:start], MASK]
        done = max(done, stop)
    return "".join([*masked, text[done:]])


def secrets_of(url: str, *, host_is_public: bool = True) -> list[str]:
    """Every part of a URL, or what is meant as one, that may be a secret, as it is written and decoded.

    In URLs of apprise the place of the host often holds a token: ``host_is_public`` says that it does not.
    """
    rest = url.partition("://")[2] or url
    before_fragment, _, fragment = rest.partition("#")
    address, _, query = before_fragment.partition("?")
    login, _, place = address.rpartition("@")
    authority, *path = place.split("/")
    user, _, password = login.partition(":")
    raw = [login, user, password, *password.split("@"), *login.split("/"), *path, fragment]
    if not (host_is_public and _AUTHORITY.fullmatch(authority)):
        raw += [authority, *authority.split(":")]
    for pair in query.split("&"):
        raw += [part for part in (pair.partition("=")[2], pair) if part.lower() not in _PUBLIC and "=" not in part]
    decoded = [unquote(part) for part in raw]
    basic = b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode() if login else ""
    return list(dict.fromkeys(part for part in (basic, *raw, *decoded, *map(quote, decoded)) if len(part) >= _SHORTEST))


def secrets_of_header(value: str) -> list[str]:
    """All of the value but a scheme as ``Bearer``; of ``Basic`` also the login and its parts."""
    scheme, _, credentials = value.strip().partition(" ")
    secrets = [credentials.strip() or scheme]
    if scheme.lower() == "basic":
        try:
            login = b64decode(credentials, validate=True).decode()
        except ValueError:
            return secrets
        secrets += [login, *login.split(":", 1)]
    return secrets


def mask_tokens(text: str) -> str:
    """The text without words that look like a key or a password: letters and digits change too often for a name."""

    def looks_random(word: str) -> bool:
        if word.isdecimal():
            return len(word) > 8
        run_length = len(word) / len(_RUN.findall(word))
        return run_length < 2.2 or (len(word) >= 16 and run_length < 4)

    return _WORD.sub(lambda word: MASK if any(map(looks_random, _PLAIN.findall(word[0]))) else word[0], text)


def where(error: BaseException) -> str:
    """The places that an error passed, the innermost first; its message is left out, as it may hold a secret."""
    frames = reversed(traceback.extract_tb(error.__traceback__)[-5:])
    return " < ".join(f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)


_WORD = re.compile(r"[A-Za-z0-9_+=-]{8,}")
_PLAIN = re.compile(r"[A-Za-z0-9]{8,}")
_RUN = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_LOWER = {ord(sign): sign.lower() for sign in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
