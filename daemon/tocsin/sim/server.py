"""The emulated DSS as a whole: a world, its engine and the HTTP server before it."""

from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web

from tocsin.sim import channels_api, instance_api, scenarios_api
from tocsin.sim.archive import SqliteArchive
from tocsin.sim.clock import WorldClock
from tocsin.sim.engine import Engine
from tocsin.sim.http import ApiKey, SimApi
from tocsin.sim.kinds import StepExecutors
from tocsin.sim.python import Limits
from tocsin.sim.reporters import Reporters
from tocsin.sim.world import World

DEFAULT_KEY = "tocsin-sim-admin-key"
_ROUTES = (*scenarios_api.ROUTES, *instance_api.ROUTES, *channels_api.ROUTES)

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
        self.world: World = world
        self.clock: WorldClock = clock or WorldClock()
        self.archive = archive or SqliteArchive(None)
        self.api_keys = [ApiKey(key) if isinstance(key, str) else key for key in api_keys]
        self.url = ""  # known once it listens
        self.intercept: Intercept | None = None
        self.reporters = Reporters(world, self.clock.now)
        kinds = StepExecutors(self.reporters, self._own_api, limits or Limits())
        self.engine = Engine(world, self.clock, kinds.table(), self.reporters.report, self.archive)
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Begin to live and to listen; the base address, as ``http://127.0.0.1:40123``. Raises ``OSError``."""
        kept = self.archive.load(self.world)
        if kept is not None:
            self.clock.no_earlier_than(kept)
        await self.engine.start()
        if kept is None:
            self.archive.keep_world(self.world)
        runner = web.AppRunner(
            SimApi(self, _ROUTES, self.api_keys).application(), access_log=None, shutdown_timeout=1.0
        )
        await runner.setup()
        self._runner = runner
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError:
            await self.stop()
            raise
        name, number = runner.addresses[0][:2]
        self.url = f"http://[{name}]:{number}" if ":" in name else f"http://{name}:{number}"
        return self.url

    async def stop(self) -> None:
        """Stop listening and living; runs that go on are cut off. May be called twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        await self.engine.stop()
        self.archive.close()

    def _own_api(self) -> tuple[str, str]:
        """Where and with which key scripts reach this instance."""
        admins = [key.secret for key in self.api_keys if key.admin]
        return self.url, (admins or [key.secret for key in self.api_keys] or [""])[0]
