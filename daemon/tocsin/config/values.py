"""The kinds of values in the file, with the messages for wrong ones."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError, PydanticUseDefault, core_schema

from tocsin.config.secrets import EnvSecret, FileSecret, InlineSecret, Secret
from tocsin.config.section import http_url, plain_url
from tocsin.kit.clock import parse_duration
from tocsin.model.labels import Matcher, parse_matchers

T = TypeVar("T")
_LONGEST = timedelta(days=36_500)  # so that no moment of the past or future is out of a calendar's range


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if value == 0 and type(value) is int:
        return timedelta(0)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a duration; write it like 30s, 1h30m or 7d")
    if (duration := parse_duration(value)) > _LONGEST:
        raise ValueError(f"{value!r} is longer than a hundred years")
    return duration


def _duration_or_count(value: object) -> object:
    return value if type(value) is int and value > 1 else _duration(value)


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0s")
    return value


def _rate(value: object) -> object:
    """``1/s``, ``30/m``, ``100/h`` as sends a second."""
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)/(s|m|h)", value) if isinstance(value, str) else None
    if match is None or float(match[1]) == 0:
        raise ValueError(f"{value!r} is not a rate; write it like 1/s, 30/m or 100/h")
    return float(match[1]) / {"s": 1, "m": 60, "h": 3600}[match[2]]


def _matchers(value: object) -> object:
    if not isinstance(value, list) or not all(isinstance(item, str | Matcher) for item in value):
        raise ValueError("""must be a list of matchers, as ['severity="critical"', 'project=~"SALES.*"']""")
    return tuple(m for item in value for m in ((item,) if isinstance(item, Matcher) else parse_matchers(item)))


def proxy_url(value: str) -> str:
    """A user and password may stand before the host, percent-encoded: else a part of them is taken for the address."""
    if "@" in value.rpartition("@")[0] or "@" in urlsplit(value).path:
        raise ValueError("write / and @ in the proxy's password as %2F and %40")
    return value


def _header_value(value: str) -> str:
    if not (value := value.strip()).isprintable():
        raise ValueError("holds characters that no HTTP header can carry")
    return value


def _label_name(value: str) -> str:
    if not re.fullmatch(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", value):
        raise ValueError(f"{value!r} is no label name; write letters, digits and underscores, as cost_centre")
    return value


def _listen(value: str) -> str:
    match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\[\]]*):([0-9]{1,5})", value)
    if match is None or int(match[2]) > 65_535:
        raise ValueError(f"{value!r} is not HOST:PORT")
    return value


def _network(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError as error:
        raise ValueError(f"{value!r} is no network; write it like 10.0.0.0/8 or 10.1.2.3 ({error})") from None


def not_empty(value: tuple[T, ...]) -> tuple[T, ...]:
    """Checked after the items, so that a bad item is reported as such and not as a missing one."""
    if not value:
        raise ValueError("must not be empty")
    return value


@dataclass(frozen=True, slots=True)
class Written:
    """Marks a field whose value is written as another type in the file and then converted."""

    kind: object
    convert: Callable[[Any], object] = lambda value: value

    def __get_pydantic_core_schema__(self, _source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.convert, handler.generate_schema(self.kind))


def _beside_file(path: str, info: ValidationInfo) -> str:
    return str((info.context or Path()) / path)


class OrNull:
    """Marks a field whose default may also be written as null."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        def default_for_null(value: object) -> object:
            if value is None:
                raise PydanticUseDefault
            return value

        return core_schema.no_info_before_validator_function(default_for_null, handler(source))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"type": "null"}]}


def _refuse(_value: object) -> object:
    raise PydanticCustomError("unexpected_keyword_argument", "unknown key")


_DURATION_SCHEMA = {"type": "string", "pattern": r"^([0-9]+(y|w|d|h|m|s|ms))+$", "examples": ["30s", "1h30m", "7d"]}
Duration = Annotated[timedelta, BeforeValidator(_duration), WithJsonSchema(_DURATION_SCHEMA)]
DurationOrCount = Annotated[
    timedelta | int,
    PlainValidator(_duration_or_count),
    WithJsonSchema({"anyOf": [_DURATION_SCHEMA, {"type": "integer", "minimum": 2}]}),
]
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Seconds = Annotated[float, Written(PositiveDuration, timedelta.total_seconds)]
Rate = Annotated[float, BeforeValidator(_rate), WithJsonSchema({"type": "string", "examples": ["1/s", "30/m"]})]
Matchers = Annotated[
    tuple[Matcher, ...],
    BeforeValidator(_matchers),
    WithJsonSchema({"type": "array", "items": {"type": "string"}, "examples": [['severity="critical"']]}),
]
HttpUrl = Annotated[str, AfterValidator(http_url)]
PlainUrl = Annotated[HttpUrl, AfterValidator(plain_url)]
ProxyUrl = Annotated[HttpUrl, AfterValidator(proxy_url)]
Network = Annotated[str, AfterValidator(_network)]
Listen = Annotated[str, AfterValidator(_listen)]
LabelName = Annotated[str, AfterValidator(_label_name)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", max_length=100)]
HeaderValue = Annotated[str, AfterValidator(_header_value)]
NoKey = Annotated[T, PlainValidator(_refuse), SkipJsonSchema()]  # a field that is no key of the file
# Relative to the folder of the configuration file, which is the context of the validation.
RelativePath = Annotated[str, AfterValidator(_beside_file)]
InlineText = Annotated[Secret, Written(str, InlineSecret)]
SecretFile = Annotated[Secret, Written(RelativePath, lambda path: FileSecret(Path(path)))] | None
SecretVariable = Annotated[Secret, Written(str, EnvSecret)] | None
# One address or a list; commas may stand in names.
Addresses = Annotated[tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Words = Annotated[tuple[tuple[int, int], ...], Written(tuple[str, ...])]
_NUMBER_AS_TEXT = BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)  # as ``months: [5]``
Numbers = Annotated[tuple[tuple[int, int], ...], Written(tuple[Annotated[str, _NUMBER_AS_TEXT], ...])]
