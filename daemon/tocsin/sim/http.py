"""The wire: paths, credentials, errors and bodies as DSS has them, around handlers that answer one call each.

Both prefixes lead to the same API. Paths are matched segment by segment after decoding, literal names before ids, so
that ``//`` and trailing slashes do not matter and ids may hold anything. Bodies are JSON whatever their type says.
"""

import base64
import binascii
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from functools import partial
from typing import NamedTuple
from urllib.parse import unquote

import structlog
from aiohttp import web

from tocsin.sim.behaviour import BadWorld, Document
from tocsin.sim.engine import Engine
from tocsin.sim.entities import NoSuchObject, SimProject, SimScenario
from tocsin.sim.reporters import Reporters
from tocsin.sim.world import World

log = structlog.get_logger(__name__)

PREFIXES = (("dip", "publicapi"), ("public", "api"))
READ, RUN, WRITE, ADMIN = "READ_CONF", "RUN_SCENARIOS", "WRITE_CONF", "ADMIN"
MAX_BODY_BYTES = 20_000_000


class RequestRefused(Exception):
    """A request that is answered by an error; carries its status and DSS's class name for it."""

    def __init__(self, status: int, error_type: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type


bad_request = partial(RequestRefused, 400, "java.lang.IllegalArgumentException")
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
class ApiCall:
    """One request, with who asks and the ids found in its path."""

    engine: Engine
    reporters: Reporters
    request: web.Request
    key: ApiKey
    ids: tuple[str, ...]

    @property
    def world(self) -> World:
        return self.engine.world

    @property
    def now(self) -> datetime:
        return self.engine.clock.now()

    @property
    def project(self) -> SimProject:
        return self.world.project(self.ids[0])

    @property
    def scenario(self) -> SimScenario:
        return self.project.scenario(self.ids[1])

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
        """The JSON object of the body."""
        parsed = await self.json()
        if not isinstance(parsed, dict):
            raise bad_request("The request body must be a JSON object")
        return parsed


class SimRoute(NamedTuple):
    """``path`` holds ``*`` where an id stands; a first ``projects/*`` is checked against the key's projects.

    The handler returns the answer or an awaitable of it: JSON, or a response.
    """

    method: str
    path: str
    right: str
    handler: Callable[[ApiCall], object]


class SimApi:
    """Answers every request of the server: finds the route, checks the key, shapes the answer."""

    def __init__(
        self, engine: Engine, reporters: Reporters, routes: Iterable[SimRoute], keys: Iterable[ApiKey]
    ) -> None:
        self._engine = engine
        self._reporters = reporters
        self._keys = {key.secret: key for key in keys}
        self._routes: dict[tuple[str, int], list[tuple[tuple[str, ...], SimRoute]]] = {}
        for route in routes:
            pattern = tuple(route.path.split("/"))
            self._routes.setdefault((route.method, len(pattern)), []).append((pattern, route))
        for candidates in self._routes.values():
            candidates.sort(key=lambda candidate: [part == "*" for part in candidate[0]])

    async def answer(self, request: web.Request) -> web.StreamResponse:
        try:
            answer = await self._respond(request)
        except RequestRefused as refused:
            answer = _refusal(refused)
        except NoSuchObject as error:
            answer = _refusal(not_found(str(error)))
        except BadWorld as error:
            answer = _refusal(bad_request(str(error)))
        except web.HTTPRequestEntityTooLarge:
            message = f"The request body is larger than {MAX_BODY_BYTES} bytes"
            answer = _refusal(RequestRefused(413, "java.lang.IllegalArgumentException", message))
        except Exception as error:  # this request is answered by an error, as DSS does
            log.exception("request_error", method=request.method, path=request.path)
            answer = _refusal(RequestRefused(500, f"java.lang.{type(error).__name__}", str(error)))
        answer.headers["DSS-Version"] = answer.headers["DSS-API-Version"] = self._engine.world.dss_version
        answer.headers["Date"] = format_datetime(self._engine.clock.now(), usegmt=True)
        return answer

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        segments = tuple(unquote(part) for part in request.raw_path.partition("?")[0].split("/") if part)
        if segments[:2] not in PREFIXES:
            raise not_found(f"No such page: {request.path}")
        secrets = list(_credentials(request.headers))
        key = next((self._keys[secret] for secret in secrets if secret in self._keys), None)
        if key is None:
            message = "Unknown API Key" if secrets else "No credentials were given"
            raise RequestRefused(401, "com.dataiku.dip.exceptions.NotAuthenticatedException", message)
        route, ids = self._route(request.method, segments[2:])
        if route.right == ADMIN and not key.admin:
            raise forbidden("Action forbidden, you are not admin")
        if route.path.startswith("projects/*") and not key.admin:
            if not key.sees(ids[0]):
                raise forbidden(f"Action forbidden, you are not allowed on project {ids[0]}")
            if route.right not in key.rights:
                raise forbidden(f"Action forbidden, you do not have {route.right} on project {ids[0]}")
        answer = route.handler(ApiCall(self._engine, self._reporters, request, key, ids))
        if inspect.isawaitable(answer):
            answer = await answer
        return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)

    def _route(self, method: str, segments: tuple[str, ...]) -> tuple[SimRoute, tuple[str, ...]]:
        method = "GET" if method == "HEAD" else method  # the server leaves the body out
        for pattern, route in self._routes.get((method, len(segments)), ()):
            if all(part in ("*", segment) for part, segment in zip(pattern, segments, strict=True)):
                return route, tuple(s for part, s in zip(pattern, segments, strict=True) if part == "*")
        raise not_found(f"No such endpoint: {method} /{'/'.join(segments)}")


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


def _refusal(refused: RequestRefused) -> web.Response:
    message = str(refused)
    body = {
        "errorType": refused.error_type,
        **dict.fromkeys(("message", "detailedMessage"), message),
        "detailedMessageHTML": message.replace("&", "&amp;").replace("<", "&lt;"),
        "stackTraceStr": "",
    }
    return web.json_response(body, status=refused.status)
