"""Texts from outside, made so that every database, log and message can hold them."""

import json
from collections.abc import Callable


def storable(text: str, length: int) -> str:
    """Without NUL, which PostgreSQL refuses, and lone surrogates, which no encoding has; not longer than ``length``."""
    return text[:length].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def json_text(value: object, default: Callable[[object], object] | None = None) -> str:
    """Readable JSON that can be printed and written: in all letters, but in ASCII where one has no encoding."""
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
