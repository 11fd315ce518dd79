"""The wire: paths, credentials, errors and bodies as DSS has them.

Both prefixes lead to the same API. Paths are matched segment by segment after decoding, literal names before ids, so
that ``//`` and trailing slashes do not matter and ids may hold anything. Bodies are JSON whatever their type says.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tocsin.sim.behaviour import Document, SimError
from tocsin.sim.entities import NoSuchObject

READ, RUN, WRITE, ADMIN = "READ_CONF", "RUN_SCENARIOS", "WRITE_CONF", "ADMIN"


class ActionForbidden(SimError):
    status = 403
    clazz = "com.dataiku.dip.exceptions.UnauthorizedException"


class NotAuthenticated(SimError):
    status = 401
    clazz = "com.dataiku.dip.exceptions.NotAuthenticatedException"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A credential. ``projects`` None: all of them; a key of some projects sees no others. Admin keys may do anything."""

    secret: str
    user: str = "admin"
    admin: bool = True
    projects: frozenset[str] | None = None
    rights: frozenset[str] = frozenset({READ, RUN, WRITE})

    def sees(self, project_key: str) -> bool:
        return self.projects is None or project_key in self.projects


@dataclass(frozen=True, slots=True)
class ApiRequest:
    request: web.Request
    key: ApiKey
    ids: tuple[str, ...]

    def text(self, name: str) -> str | None:
        return self.request.query.get(name)

    def flag(self, name: str, default: bool = False) -> bool:
        return self.request.query.get(name, str(default)).lower() in ("true", "1", "yes")

    def number(self, name: str, default: int) -> int:
        value = self.request.query.get(name, str(default))
        try:
            return int(value)
        except ValueError:
            raise SimError(f"{name} must be a whole number, not {value!r}") from None

    async def json(self) -> object:
        """The JSON of the body; an empty body is an empty object."""
        raw = await self.request.read()
        try:
            return json.loads(raw) if raw.strip() else {}
        except (ValueError, RecursionError) as error:
            raise SimError(f"Could not parse the request body as JSON: {error}") from None

    async def body(self) -> Document:
        parsed = await self.json()
        if not isinstance(parsed, dict):
            raise SimError("The request body must be a JSON object")
        return parsed


SimRoute = tuple[str, str, str, Callable[[Any], object]]
"""Method, path, right and handler. ``*`` in the path is an id; a first ``projects/*`` is checked against the key's
projects. The handler gets an ``ApiRequest`` and returns JSON or a response, or an awaitable of one."""


def find_route(routes: Iterable[SimRoute], method: str, segments: tuple[str, ...]) -> tuple[SimRoute, tuple[str, ...]]:
    """The first route that matches, and the ids in the path. Raises ``NoSuchObject``."""
    method = "GET" if method == "HEAD" else method  # the server leaves the body out
    for route in routes:
        pattern = route[1].split("/")
        if route[0] == method and len(pattern) == len(segments):
            pairs = list(zip(pattern, segments, strict=True))
            if all(part in ("*", segment) for part, segment in pairs):
                return route, tuple(segment for part, segment in pairs if part == "*")
    raise NoSuchObject(f"No such endpoint: {method} /{'/'.join(segments)}")


def read_credentials(headers: Mapping[str, str]) -> Iterable[str]:
    if ticket := headers.get("X-DKU-APITicket"):
        yield ticket
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield value.strip()
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return
        yield from (part for part in (user, password) if part)
