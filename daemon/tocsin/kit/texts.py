"""Texts from outside, made so that every database, log and message can hold them."""

import json


def storable(text: str, length: int) -> str:
    """Without NUL, which PostgreSQL refuses, and lone surrogates, which no encoding has; not longer than ``length``."""
    return text[:length].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def json_beginning(value: object, length: int) -> str:
    """The first characters of a value as JSON. Reads no further, however large or deep the value is."""
    text = ""
    for part in json.JSONEncoder(default=str).iterencode(value):
        text += part
        if len(text) >= length:
            break
    return storable(text, length)
