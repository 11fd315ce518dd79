"""Identifiers: stable ones derived from facts, fresh ones for things that have none."""

import hashlib
import secrets


def derived_id(*facts: str | int) -> str:
    """A 32-digit hexadecimal id that is the same for the same facts, so that a replay makes the same thing.

    Facts are length-prefixed before hashing: ("a", "bc") and ("ab", "c") differ.
    """
    digest = hashlib.blake2b(digest_size=16)
    for fact in facts:
        raw = str(fact).encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(raw))
        digest.update(raw)
    return digest.hexdigest()


def fresh_id() -> str:
    """A random 32-digit hexadecimal id."""
    return secrets.token_hex(16)
