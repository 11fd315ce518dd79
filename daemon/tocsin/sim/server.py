"""The emulated DSS as a whole: a world, its engine and the HTTP server before it."""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from email.utils import format_datetime
from urllib.parse import unquote

import structlog
from aiohttp import web

from tocsin.sim.archive import SqliteArchive
from tocsin.sim.behaviour import SimError
from tocsin.sim.clock import WorldClock
from tocsin.sim.endpoints import ROUTES, ApiCall
from tocsin.sim.engine import Engine
from tocsin.sim.entities import NoSuchObject
from tocsin.sim.executors import Limits, StepExecutors
from tocsin.sim.http import ADMIN, ActionForbidden, ApiKey, find_route, index_routes, read_credentials
from tocsin.sim.reporters import Reporters
from tocsin.sim.world import World

log = structlog.get_logger(__name__)

DEFAULT_KEY = "tocsin-sim-admin-key"
_PREFIXES = (("dip", "publicapi"), ("public", "api"))
_MAX_BODY_BYTES = 20_000_000
_ROUTES = index_routes(ROUTES)


class Sim:
    """One emulated instance. ``start`` it on a loop, ``stop`` it on the same one.

    ``api_keys``: each an ``ApiKey``, or the text of an admin's key. An ``archive`` that holds a world already takes the
    place of ``world``. It executes the Python and SQL that scenarios hold: keep it on a loopback address.
    """

    def __init__(
        self,
        world: World,
        *,
        api_keys: Iterable[ApiKey | str] = (DEFAULT_KEY,),
        clock: WorldClock | None = None,
        archive: SqliteArchive | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.world = world
        self.clock = clock or WorldClock()
        self.archive = archive or SqliteArchive(None)
        self.url = ""  # known once it listens
        self.intercept: Callable[[web.Request], Awaitable[web.StreamResponse | None]] | None = None
        self.engine = Engine(world, self.clock, self.archive, Reporters(world, self.clock.now))
        keys = [ApiKey(key) if isinstance(key, str) else key for key in api_keys]
        self._keys = {key.secret: key for key in keys}
        script_key = next((key.secret for key in sorted(keys, key=lambda key: not key.admin)), "")
        executors = StepExecutors(self.engine, lambda: (self.url, script_key), limits or Limits())
        self.engine.executors = executors.table()
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Start the world and listen. The base address, as ``http://127.0.0.1:40123``. Raises ``OSError``."""
        kept_until = self.archive.load(self.world)
        if kept_until is not None:
            self.clock.no_earlier_than(kept_until)
        await self.engine.start()
        if kept_until is None:
            self.archive.keep_world(self.world)
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError:
            await self.stop()
            raise
        name, number = self._runner.addresses[0][:2]
        self.url = f"http://[{name}]:{number}" if ":" in name else f"http://{name}:{number}"
        return self.url

    async def stop(self) -> None:
        """Stop listening and the world; runs in progress are cut off. May be called twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        await self.engine.stop()
        self.archive.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.intercept is not None and (intercepted := await self.intercept(request)) is not None:
            return intercepted
        try:
            answer = await self._respond(request)
        except SimError as error:
            answer = _refusal(error)
        except web.HTTPRequestEntityTooLarge:
            answer = _refusal(SimError(f"The request body is larger than {_MAX_BODY_BYTES} bytes", status=413))
        except Exception as error:  # this request is answered by an error, as DSS does
            log.exception("request_error", method=request.method, path=request.path)
            answer = _refusal(SimError(str(error), f"java.lang.{type(error).__name__}", status=500))
        answer.headers["DSS-Version"] = answer.headers["DSS-API-Version"] = self.world.dss_version
        answer.headers["Date"] = format_datetime(self.clock.now(), usegmt=True)
        return answer

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        segments = tuple(unquote(part) for part in request.raw_path.partition("?")[0].split("/") if part)
        if segments[:2] not in _PREFIXES:
            raise NoSuchObject(f"No such page: {request.path}")
        secrets = list(read_credentials(request.headers))
        key = next((self._keys[secret] for secret in secrets if secret in self._keys), None)
        if key is None:
            clazz = "com.dataiku.dip.exceptions.NotAuthenticatedException"
            raise SimError("Unknown API Key" if secrets else "No credentials were given", clazz, status=401)
        (_, path, right, handler), ids = find_route(_ROUTES, request.method, segments[2:])
        if right == ADMIN and not key.admin:
            raise ActionForbidden("Action forbidden, you are not admin")
        if path.startswith("projects/*") and not key.admin:
            if not key.sees(ids[0]):
                raise ActionForbidden(f"Action forbidden, you are not allowed on project {ids[0]}")
            if right not in key.rights:
                raise ActionForbidden(f"Action forbidden, you do not have {right} on project {ids[0]}")
        answer = handler(ApiCall(request, key, ids, self.engine))
        if inspect.isawaitable(answer):
            answer = await answer
        return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)


def _refusal(error: SimError) -> web.Response:
    message = str(error)
    body = {
        "errorType": error.clazz,
        **dict.fromkeys(("message", "detailedMessage"), message),
        "detailedMessageHTML": message.replace("&", "&amp;").replace("<", "&lt;"),
        "stackTraceStr": "",
    }
    return web.json_response(body, status=error.status)
