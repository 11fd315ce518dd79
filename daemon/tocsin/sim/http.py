"""The wire: paths, credentials, errors and bodies as DSS has them, around handlers that know nothing of HTTP.

Both prefixes lead to the same API. Paths are matched segment by segment after decoding, literal names before ids, so
that ``//`` and trailing slashes do not matter and ids may hold anything. Bodies are JSON whatever their type says.
"""

import base64
import binascii
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import format_datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote

import structlog
from aiohttp import web

from tocsin.sim import documents
from tocsin.sim.behaviour import BadWorld, Document
from tocsin.sim.nouns import NoSuchObject, SimProject, SimScenario

if TYPE_CHECKING:
    from tocsin.sim.server import Sim

log = structlog.get_logger(__name__)

PREFIXES = (("dip", "publicapi"), ("public", "api"))
READ, RUN, WRITE, ADMIN = "READ_CONF", "RUN_SCENARIOS", "WRITE_CONF", "ADMIN"
MAX_BODY_BYTES = 20_000_000
_NOT_FOUND = "com.dataiku.dip.server.controllers.NotFoundException"
_BAD = "java.lang.IllegalArgumentException"


class RequestRefused(Exception):
    """A request that is answered by an error; carries its status and DSS's class name for it."""

    def __init__(self, status: int, error_type: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type


def bad_request(message: str) -> RequestRefused:
    return RequestRefused(400, _BAD, message)


def forbidden(message: str) -> RequestRefused:
    return RequestRefused(403, "com.dataiku.dip.exceptions.UnauthorizedException", message)


def not_found(message: str) -> RequestRefused:
    return RequestRefused(404, _NOT_FOUND, message)


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
class ApiCall:
    """One request, with who asks and the ids found in its path."""

    sim: "Sim"
    request: web.Request
    key: ApiKey
    ids: tuple[str, ...]

    @property
    def project(self) -> SimProject:
        return self.sim.world.project(self.ids[0])

    @property
    def scenario(self) -> SimScenario:
        return self.project.scenario(self.ids[1])

    def scenario_at(self, index: int) -> SimScenario:
        """The scenario whose id is the path's id number ``index``."""
        return self.project.scenario(self.ids[index])

    def text(self, name: str) -> str | None:
        return self.request.query.get(name)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.request.query.get(name)
        return default if value is None else documents.truthy(value)

    def number(self, name: str, default: int) -> int:
        value = self.request.query.get(name)
        try:
            return default if value is None else int(value)
        except ValueError:
            raise bad_request(f"{name} must be a whole number, not {value!r}") from None

    async def body(self) -> Document:
        """The JSON object of the body; an empty body is an empty object."""
        raw = await self.request.read()
        try:
            parsed = json.loads(raw) if raw.strip() else {}
        except (ValueError, RecursionError) as error:
            raise bad_request(f"Could not parse the request body as JSON: {error}") from None
        if not isinstance(parsed, dict):
            raise bad_request("The request body must be a JSON object")
        return parsed


Handler = Callable[[ApiCall], object]
"""Gives the answer, or an awaitable of it."""


@dataclass(frozen=True, slots=True)
class SimRoute:
    """``path`` holds ``*`` where an id stands. A first ``projects/*`` is checked against the key's projects."""

    method: str
    path: str
    right: str
    handler: Handler


class SimApi:
    """Answers every request of the server: finds the route, checks the key, shapes the answer."""

    def __init__(self, sim: "Sim", routes: Iterable[SimRoute], keys: Iterable[ApiKey]) -> None:
        self._sim = sim
        self._keys = {key.secret: key for key in keys}
        self._routes: dict[tuple[str, int], list[tuple[tuple[str, ...], SimRoute]]] = {}
        for route in routes:
            pattern = tuple(route.path.split("/"))
            self._routes.setdefault((route.method, len(pattern)), []).append((pattern, route))
        for candidates in self._routes.values():
            candidates.sort(key=lambda candidate: [part == "*" for part in candidate[0]])

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        intercepted = None if self._sim.intercept is None else await self._sim.intercept(request)
        if intercepted is not None:
            return intercepted
        try:
            answer = await self._respond(request)
        except RequestRefused as refused:
            answer = _refusal(refused.status, refused.error_type, str(refused))
        except NoSuchObject as missing:
            answer = _refusal(404, _NOT_FOUND, str(missing))
        except BadWorld as error:
            answer = _refusal(400, _BAD, str(error))
        except web.HTTPRequestEntityTooLarge:
            answer = _refusal(413, _BAD, f"The request body is larger than {MAX_BODY_BYTES} bytes")
        except Exception as error:  # this one request is answered by an error, as DSS does
            log.exception("request_broke", method=request.method, path=request.path)
            answer = _refusal(500, f"java.lang.{type(error).__name__}", str(error))
        answer.headers["DSS-Version"] = self._sim.world.dss_version
        answer.headers["DSS-API-Version"] = self._sim.world.dss_version
        answer.headers["Date"] = format_datetime(self._sim.clock.now(), usegmt=True)
        return answer

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        segments = tuple(unquote(part) for part in request.raw_path.partition("?")[0].split("/") if part)
        if segments[:2] not in PREFIXES:
            raise not_found(f"No such page: {request.path}")
        key = self._authenticated(request)
        route, ids = self._route(request.method, segments[2:])
        if not key.admin:
            self._authorise(key, route, ids)
        found = route.handler(ApiCall(self._sim, request, key, ids))
        if inspect.isawaitable(found):
            found = await found
        return found if isinstance(found, web.StreamResponse) else web.json_response(found)

    def _authenticated(self, request: web.Request) -> ApiKey:
        given = list(_credentials(request.headers))
        for secret in given:
            if secret in self._keys:
                return self._keys[secret]
        message = "Unknown API Key" if given else "No credentials were given"
        raise RequestRefused(401, "com.dataiku.dip.exceptions.NotAuthenticatedException", message)

    def _route(self, method: str, segments: tuple[str, ...]) -> tuple[SimRoute, tuple[str, ...]]:
        method = "GET" if method == "HEAD" else method  # the server leaves the body out
        for pattern, route in self._routes.get((method, len(segments)), ()):
            if all(part in ("*", segment) for part, segment in zip(pattern, segments, strict=True)):
                return route, tuple(s for part, s in zip(pattern, segments, strict=True) if part == "*")
        raise not_found(f"No such endpoint: {method} /{'/'.join(segments)}")

    @staticmethod
    def _authorise(key: ApiKey, route: SimRoute, ids: tuple[str, ...]) -> None:
        if route.right == ADMIN:
            raise forbidden("Action forbidden, you are not admin")
        if route.path.startswith("projects/*"):
            if not key.sees(ids[0]):
                raise forbidden(f"Action forbidden, you are not allowed on project {ids[0]}")
            if route.right not in key.rights:
                raise forbidden(f"Action forbidden, you do not have {route.right} on project {ids[0]}")


def _credentials(headers: Mapping[str, str]) -> Iterable[str]:
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


def _refusal(status: int, error_type: str, message: str) -> web.Response:
    return web.json_response(documents.error_body(error_type, message), status=status)


def done(message: str) -> Document:
    """The answer of a change that has nothing to say; clients insist on an object."""
    return {"msg": message}
