"""The base class of the configuration's sections, and what an address is. Loads no pydantic: only
reading a file needs it."""

import re
from collections.abc import Callable, Mapping
from inspect import get_annotations
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar
from urllib.parse import urlsplit

from tocsin.config.secrets import Secret

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

T = TypeVar("T")


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
    """An address that is displayed and that links begin with: a secret in it would be everywhere."""
    if "@" in value or "?" in value or "#" in value:
        raise ValueError("an address holds no user, password, query or fragment; credentials have keys of their own")
    return value


class Section:
    """The base of the configuration's dataclasses. Pydantic validates what comes from a file, not what code constructs.

    A secret ``x`` is one attribute, though in the file it may be written as ``x_file`` or ``x_env`` too.
    """

    __slots__ = ()
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "hide_input_in_errors": True, "allow_inf_nan": False}

    _secret_keys: ClassVar[tuple[str, ...]] = ()  # ``x_file`` and ``x_env`` of each secret

    def __init_subclass__(cls) -> None:
        kinds = get_annotations(cls).items()
        cls._secret_keys = tuple(name for name, kind in kinds if str(kind).startswith("InitVar["))

    def __post_init__(self, *secrets: Secret | None) -> None:
        for key, secret in zip(self._secret_keys, secrets, strict=True):
            if secret is not None:
                object.__setattr__(self, key.rpartition("_")[0], secret)

    def check(self, written: Mapping[str, object]) -> Self:
        """Check the keys together and complete them. ``written``: the mapping in the file. Raises ``ValueError``."""
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        from pydantic_core import core_schema

        def validate(written: Any, validate_fields: Callable[[object], Self]) -> Self:
            section = validate_fields(written)
            for key in cls._secret_keys:
                if key.endswith("_file") and len(keys := keys_of_secret(written, key.removesuffix("_file"))) > 1:
                    raise ValueError(f"{' and '.join(keys)} are both set; keep one")
            return section.check(written)

        return core_schema.no_info_wrap_validator_function(validate, handler(source))


def need_secret(section: T, written: Mapping[str, object], name: str) -> T:
    """``section``, which has this secret once; raises ``ValueError``."""
    if len(keys := keys_of_secret(written, name)) != 1:
        problem = f"{' and '.join(keys)} are both set; keep one" if keys else f"needs {name}_file ({name}, {name}_env)"
        raise ValueError(problem)
    return section


def keys_of_secret(written: Mapping[str, object], *names: str) -> list[str]:
    """Which of the three keys of these secrets are set."""
    keys = (name + suffix for name in names for suffix in ("", "_file", "_env"))
    return [key for key in keys if written.get(key) is not None]
