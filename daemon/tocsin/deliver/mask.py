"""Secrets out of texts that people and logs will see."""

from collections.abc import Iterable

MASK = "***"
_SHORTEST = 4  # shorter ones would mask ordinary words, and guard nothing


def mask(text: str, secrets: Iterable[str]) -> str:
    """The text with every secret in it replaced, the longest first."""
    for secret in sorted({one for one in secrets if len(one) >= _SHORTEST}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text
