"""Strings: ids, suggestions for misspelt words, and texts from outside made so that everything can hold them."""

import difflib
import hashlib
import json
import secrets
from collections.abc import Callable, Iterable


def derived_id(*facts: str | int) -> str:
    """A 32-digit hexadecimal id that is the same for the same facts. ("a", "bc") and ("ab", "c") differ."""
    text = "".join([f"{len(fact)}:{fact}" for fact in map(str, facts)])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def fresh_id() -> str:
    """A random 32-digit hexadecimal id."""
    return secrets.token_hex(16)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or nothing."""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def storable(text: str, length: int) -> str:
    """Without NUL, which PostgreSQL refuses, and lone surrogates, which no encoding has; not longer than ``length``."""
    return text[:length].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def json_text(value: object, default: Callable[[object], object] | None = None) -> str:
    """Indented JSON; in ASCII where it holds a lone surrogate."""
    text = json.dumps(value, default=default, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, default=default, indent=2)
    return text


def json_beginning(value: object, length: int) -> str:
    """The first characters of a value as JSON. Reads no further, however large or deep the value is."""
    text = ""
    for part in json.JSONEncoder(default=str).iterencode(value):
        text += part
        if len(text) >= length:
            break
    return storable(text, length)
