"""The kinds of values that stand in the configuration file, each with the sentence for a wrong one."""

import re
from datetime import timedelta
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from tocsin.kit.durations import parse_duration
from tocsin.model.labels import Matcher, parse_matchers

T = TypeVar("T")
_LONGEST = timedelta(days=36_500)  # so that no moment of the past or future is out of a calendar's range


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value == 0:
        return timedelta(0)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a duration; write it like 30s, 1h30m or 7d")
    if (duration := parse_duration(value)) > _LONGEST:
        raise ValueError(f"{value!r} is longer than a hundred years")
    return duration


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0s")
    return value


def _rate(value: object) -> object:
    """``1/s``, ``30/m``, ``100/h`` as sends a second."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)/(s|m|h)", value) if isinstance(value, str) else None
    if found is None or float(found[1]) == 0:
        raise ValueError(f"{value!r} is not a rate; write it like 1/s, 30/m or 100/h")
    return float(found[1]) / {"s": 1, "m": 60, "h": 3600}[found[2]]


def _matchers(value: object) -> object:
    if not isinstance(value, list) or not all(isinstance(item, str | Matcher) for item in value):
        raise ValueError("""must be a list of matchers, as ['severity="critical"', 'project=~"SALES.*"']""")
    return tuple(m for item in value for m in ((item,) if isinstance(item, Matcher) else parse_matchers(item)))


def http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - reading it checks it
        (parts.hostname or "").encode("idna")
    except ValueError:
        raise ValueError(f"{value!r} is not a URL") from None
    if not value.strip().isprintable() or re.search(r"[\s\\]", parts.netloc):
        raise ValueError(f"{value!r} is not a URL")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is not an http or https URL")
    return value.rstrip("/")


def plain_url(value: str) -> str:
    """An address that is shown and that links begin with: a secret in it would be everywhere."""
    if "@" in value or "?" in value or "#" in value:
        raise ValueError("an address holds no user, password, query or fragment; credentials have keys of their own")
    return value


def proxy_url(value: str) -> str:
    """A user and password may stand before the host: encoded, or a part of them is taken for the address."""
    if "@" in value.rpartition("@")[0] or "@" in urlsplit(value).path:
        raise ValueError("write / and @ in the proxy's password as %2F and %40")
    return value


def _header_value(value: str) -> str:
    value = value.strip()
    if not value.isprintable():
        raise ValueError("holds characters that no HTTP header can carry")
    return value


def _listen(value: str) -> str:
    found = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\[\]]*):([0-9]{1,5})", value)
    if found is None or int(found[2]) > 65_535:
        raise ValueError(f"{value!r} is not HOST:PORT")
    return value


def not_empty(value: tuple[T, ...]) -> tuple[T, ...]:
    """Checked after the items, so that a bad item is told as such and not as a missing one."""
    if not value:
        raise ValueError("must not be empty")
    return value


_DURATION_SCHEMA = {"type": "string", "pattern": r"^([0-9]+(y|w|d|h|m|s|ms))+$", "examples": ["30s", "1h30m", "7d"]}
Duration = Annotated[timedelta, BeforeValidator(_duration), WithJsonSchema(_DURATION_SCHEMA)]
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Rate = Annotated[float, BeforeValidator(_rate), WithJsonSchema({"type": "string", "examples": ["1/s", "30/m"]})]
Matchers = Annotated[
    tuple[Matcher, ...],
    BeforeValidator(_matchers),
    WithJsonSchema({"type": "array", "items": {"type": "string"}, "examples": [['severity="critical"']]}),
]
HttpUrl = Annotated[str, AfterValidator(http_url)]
PlainUrl = Annotated[HttpUrl, AfterValidator(plain_url)]
ProxyUrl = Annotated[HttpUrl, AfterValidator(proxy_url)]
Listen = Annotated[str, AfterValidator(_listen)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Severity = Name
HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", max_length=100)]
Headers = dict[HeaderName, Annotated[str, AfterValidator(_header_value)]]
