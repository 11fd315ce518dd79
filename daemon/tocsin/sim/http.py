"""The wire: paths, credentials, errors and bodies as DSS has them.

Both prefixes lead to the same API. Paths are matched segment by segment after decoding, literal names before ids, so
that ``//`` and trailing slashes do not matter and ids may hold anything. Bodies are JSON whatever their type says.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web

from tocsin.sim.behaviour import Document

READ, RUN, WRITE, ADMIN = "READ_CONF", "RUN_SCENARIOS", "WRITE_CONF", "ADMIN"
BAD_REQUEST = "java.lang.IllegalArgumentException"


class RequestRefused(Exception):
    """A request that is answered by an error; carries its status and DSS's class name for it."""

    def __init__(self, status: int, error_type: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type

    def response(self) -> web.Response:
        message = str(self)
        body = {
            "errorType": self.error_type,
            **dict.fromkeys(("message", "detailedMessage"), message),
            "detailedMessageHTML": message.replace("&", "&amp;").replace("<", "&lt;"),
            "stackTraceStr": "",
        }
        return web.json_response(body, status=self.status)


bad_request = partial(RequestRefused, 400, BAD_REQUEST)
forbidden = partial(RequestRefused, 403, "com.dataiku.dip.exceptions.UnauthorizedException")
not_found = partial(RequestRefused, 404, "com.dataiku.dip.server.controllers.NotFoundException")


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
    """One request, with who asks and the ids found in its path."""

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
            raise bad_request(f"{name} must be a whole number, not {value!r}") from None

    async def json(self) -> object:
        """The JSON of the body; an empty body is an empty object."""
        raw = await self.request.read()
        try:
            return json.loads(raw) if raw.strip() else {}
        except (ValueError, RecursionError) as error:
            raise bad_request(f"Could not parse the request body as JSON: {error}") from None

    async def body(self) -> Document:
        parsed = await self.json()
        if not isinstance(parsed, dict):
            raise bad_request("The request body must be a JSON object")
        return parsed


SimRoute = tuple[str, str, str, Callable[[Any], object]]
"""Method, path, right and handler. ``*`` in the path is an id; a first ``projects/*`` is checked against the key's
projects. The handler gets an ``ApiRequest`` and returns JSON or a response, or an awaitable of one."""


def find_route(routes: Iterable[SimRoute], method: str, segments: tuple[str, ...]) -> tuple[SimRoute, tuple[str, ...]]:
    """The first route that matches, and the ids in the path. Raises ``RequestRefused``."""
    method = "GET" if method == "HEAD" else method  # the server leaves the body out
    for route in routes:
        pattern = route[1].split("/")
        if route[0] == method and len(pattern) == len(segments):
            pairs = list(zip(pattern, segments, strict=True))
            if all(part in ("*", segment) for part, segment in pairs):
                return route, tuple(segment for part, segment in pairs if part == "*")
    raise not_found(f"No such endpoint: {method} /{'/'.join(segments)}")


def read_credentials(headers: Mapping[str, str]) -> Iterable[str]:
    """Whatever a client may have put its key into."""
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
