"""The dead man's switch: a GET after each healthy cycle. A monitor that receives it alerts when it stops."""

from datetime import datetime

import aiohttp
import structlog
from yarl import URL

from tocsin import __version__
from tocsin.config.model import Config
from tocsin.kit.proxy import environment_proxy

log = structlog.get_logger(__name__)

_TIMEOUT = aiohttp.ClientTimeout(total=10)


class HeartbeatSender:
    """Sends at most one heartbeat an interval. A failure is logged once, until one succeeds again."""

    def __init__(self) -> None:
        self._due_at: datetime | None = None
        self._failing = False

    async def step(self, now: datetime, config: Config, healthy: bool) -> datetime | None:
        """Send if it is due and all is ``healthy``; returns when the next is due, None without a heartbeat URL."""
        if config.heartbeat.url is None:
            return None
        if self._due_at is not None and now < self._due_at:
            return self._due_at
        self._due_at = now + config.heartbeat.interval
        if healthy:
            problem = None  # never with the address, which is a secret
            try:
                url = URL((await config.heartbeat.url.read()).strip())
                proxy = environment_proxy(url.scheme, url.host or "", url.port)
                async with (
                    aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                    session.get(url, headers={"User-Agent": f"tocsin/{__version__}"}, proxy=proxy) as reply,
                ):
                    if reply.status >= 400:
                        problem = f"HTTP {reply.status}"
            except (aiohttp.ClientError, OSError, ValueError) as error:  # a timeout is an OSError
                problem = type(error).__name__
            if problem is not None and not self._failing:
                log.warning("heartbeat_failed", reason=problem)
            elif problem is None and self._failing:
                log.info("heartbeat_recovered")
            self._failing = problem is not None
        return self._due_at
