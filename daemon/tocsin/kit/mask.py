"""Secrets out of texts that people and logs will see."""

from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import parse_qsl, unquote, urlsplit

MASK = "***"
_SHORTEST = 4  # shorter ones would mask ordinary words, and guard nothing


def mask(text: str, secrets: Iterable[str]) -> str:
    """The text with every secret in it replaced, the longest first."""
    for secret in sorted({one for one in secrets if len(one) >= _SHORTEST}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def secrets_of(url: str) -> list[str]:
    """Every part of a URL that may be a secret, raw and decoded: all but the scheme and the host."""
    parts = urlsplit(url)
    user, password = parts.username or "", parts.password or ""
    raw = [user, password, *parts.path.split("/"), parts.fragment, *parts.query.split("&")]
    raw += [value for _name, value in parse_qsl(parts.query)]
    basic = b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    host = parts.netloc.rpartition("@")[2].partition(":")[0]  # of slack:// and the like it is a token
    raw += [] if "." in host or host == "localhost" else [host]
    return [url, basic, *raw, *(unquote(one) for one in raw)]
