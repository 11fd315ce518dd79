"""The emulated DSS as a whole: a world, its engine and the HTTP server before it."""

from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web

from tocsin.sim.archive import SqliteArchive
from tocsin.sim.clock import WorldClock
from tocsin.sim.endpoints import ROUTES
from tocsin.sim.engine import Engine
from tocsin.sim.executors import Limits, StepExecutors
from tocsin.sim.http import MAX_BODY_BYTES, ApiKey, SimApi
from tocsin.sim.reporters import Reporters
from tocsin.sim.world import World

DEFAULT_KEY = "tocsin-sim-admin-key"

Intercept = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


class Sim:
    """One emulated instance. ``start`` it on a loop, ``stop`` it on the same one.

    ``api_keys``: each an ``ApiKey``, or a text, which is an admin's key. ``clock``: the world's time, real by default.
    ``archive``: where the world is kept; one that holds a world already takes the place of ``world``'s projects.
    ``intercept`` may be set to a coroutine function that sees each request first: it can wait, or answer in DSS's place.
    The server executes the Python and SQL that scenarios hold: keep it on a loopback address.
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
        self.api_keys = [ApiKey(key) if isinstance(key, str) else key for key in api_keys]
        self.url = ""  # known once it listens
        self.intercept: Intercept | None = None
        self.reporters = Reporters(world, self.clock.now)
        self.engine = Engine(world, self.clock, self.archive, self.reporters.report)
        admins = sorted(self.api_keys, key=lambda key: not key.admin)
        script_key = admins[0].secret if admins else ""
        executors = StepExecutors(self.engine, self.reporters, lambda: (self.url, script_key), limits or Limits())
        self.engine.executors = executors.table()
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Start the world and listen; returns the base address, as ``http://127.0.0.1:40123``. Raises ``OSError``."""
        kept_until = self.archive.load(self.world)
        if kept_until is not None:
            self.clock.no_earlier_than(kept_until)
        await self.engine.start()
        if kept_until is None:
            self.archive.keep_world(self.world)
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._api = SimApi(self.engine, self.reporters, ROUTES, self.api_keys)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError:
            await self.stop()
            raise
        name, number = runner.addresses[0][:2]
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
        intercepted = None if self.intercept is None else await self.intercept(request)
        return await self._api.answer(request) if intercepted is None else intercepted
