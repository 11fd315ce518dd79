"""Values as JSON: one walker for everything that the API shows, so that a moment looks the same everywhere.

Moments are RFC 3339 in UTC, durations are written as in the configuration, secrets and what may hold one are masked.
"""

import re
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from tocsin.config.model import Config
from tocsin.kit.clock import isoformat
from tocsin.kit.durations import format_duration
from tocsin.model.cloudevent import Json
from tocsin.model.labels import Matcher

MASK = "***"
_USERINFO = re.compile(r"(?<=://)[^\s]*@")


def to_json(value: object) -> Json:
    """``value`` as JSON. Raises ``TypeError`` for what has no place in an answer."""
    match value:
        case Enum():
            return to_json(value.value)
        case None | bool() | int() | float() | str():
            return value
        case datetime():
            return isoformat(value)
        case timedelta():
            return format_duration(value)
        case Matcher():
            return str(value)
        case Mapping():
            return {str(name): to_json(one) for name, one in value.items()}
        case Set():
            return sorted((to_json(one) for one in value), key=str)
        case list() | tuple():
            return [to_json(one) for one in value]
        case _ if hasattr(value, "reveal"):
            return MASK
        case _ if is_dataclass(value):
            return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
        case _:
            raise TypeError(f"{type(value).__name__} has no place in an answer")


def config_json(config: Config) -> Json:
    """The configuration in force without its secrets: passwords in addresses, header values and templates go too."""
    hidden = replace(config, store=replace(config.store, url=_store_url(config.store.url)))
    shown = to_json(hidden)
    if isinstance(shown, dict):
        shown["templates"] = [*sorted(config.templates)]
        del shown["lines"]
    return _masked(shown)


def _store_url(url: str) -> str:
    """A password may stand in many places of a server's address, so that little of it is shown."""
    scheme, separator, _rest = url.partition("://")
    return url if scheme == "sqlite" else f"{scheme}://{MASK}" if separator else MASK


def _masked(value: Json, name: str = "") -> Json:
    match value:
        case dict() if name == "headers":
            return dict.fromkeys(value, MASK)
        case dict():
            return {key: _masked(one, key) for key, one in value.items()}
        case list():
            return [_masked(one, name) for one in value]
        case str() if name.endswith("_file"):
            return MASK  # by mistake it may be the secret itself
        case str():
            return _USERINFO.sub(f"{MASK}@", value)
        case _:
            return value
