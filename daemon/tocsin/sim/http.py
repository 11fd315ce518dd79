"""Keys and their rights, and how a request is matched to a route.

Paths are matched segment by segment after decoding: extra slashes do not matter, and ids may hold anything.
"""

import base64
import binascii
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tocsin.sim.behaviour import SimError
from tocsin.sim.entities import NoSuchObject

READ, RUN, WRITE, ADMIN = "READ_CONF", "RUN_SCENARIOS", "WRITE_CONF", "ADMIN"


class ActionForbidden(SimError):
    status = 403
    clazz = "com.dataiku.dip.exceptions.UnauthorizedException"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A credential. ``projects`` None: all of them; a key of some projects sees no others. Admin keys may do anything."""

    secret: str
    user: str = "admin"
    admin: bool = True
    projects: frozenset[str] | None = None
    rights: frozenset[str] = frozenset({READ, RUN, WRITE})

    def sees(self, project_key: str) -> bool:
        return self.admin or self.projects is None or project_key in self.projects


SimRoute = tuple[str, str, str, Callable[[Any], object]]
"""Method, path, right and handler. ``*`` in the path is an id; a first ``projects/*`` is checked against the key's
projects. The handler gets an ``ApiCall`` and returns JSON or a response, or an awaitable of one."""

RouteIndex = dict[tuple[str, int], list[tuple[list[str], SimRoute]]]
"""Routes and their segments, by method and number of segments."""


def index_routes(routes: Iterable[SimRoute]) -> RouteIndex:
    index: RouteIndex = {}
    for route in sorted(routes, key=lambda route: [part == "*" for part in route[1].split("/")]):  # literals first
        pattern = route[1].split("/")
        index.setdefault((route[0], len(pattern)), []).append((pattern, route))
    return index


def find_route(index: RouteIndex, method: str, segments: tuple[str, ...]) -> tuple[SimRoute, tuple[str, ...]]:
    """The first route that matches, and the ids in the path. Raises ``NoSuchObject``."""
    method = "GET" if method == "HEAD" else method  # the server leaves the body out
    for pattern, route in index.get((method, len(segments)), ()):
        if all(part in ("*", segment) for part, segment in zip(pattern, segments, strict=True)):
            return route, tuple(s for part, s in zip(pattern, segments, strict=True) if part == "*")
    raise NoSuchObject(f"No such endpoint: {method} /{'/'.join(segments)}")


def read_credentials(headers: Mapping[str, str]) -> Iterable[str]:
    if ticket := headers.get("X-DKU-APITicket"):
        yield ticket
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield value.strip()
    elif scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
            yield from filter(None, (user, password))
