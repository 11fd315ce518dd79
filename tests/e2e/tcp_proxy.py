"""A TCP proxy before a server, which fails as networks do: it cuts, goes silent, swallows new connections, refuses.

Silent means that nothing passes in either direction while both ends still see an open connection; ``heal`` lets pass
what was held back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Ends]]


class TcpProxy:
    """Listens on a port of its own while it is entered. ``connect`` opens a connection to the server behind."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._swallow = self._refuse = False
        self.accepted = 0
        self.port = 0

    async def __aenter__(self) -> TcpProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        while self._links:
            await asyncio.sleep(0.01)

    def cut(self) -> None:
        """Reset every connection."""
        for link in self._links:
            link.abort()

    def silence(self) -> None:
        """Let nothing more pass on the connections of now; new ones work."""
        for link in self._links:
            link.passing.clear()

    def vanish(self) -> None:
        """Be gone without a word: the connections of now go silent, new ones are swallowed."""
        self._swallow = True
        self.silence()

    def refuse(self) -> None:
        """Reset every connection, and every new one at once."""
        self._refuse = True
        self.cut()

    def heal(self) -> None:
        """Work again; what was held back passes."""
        self._swallow = self._refuse = False
        for link in self._links:
            link.passing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = _Link(writer)
        self._links.add(link)
        if self._swallow:
            link.passing.clear()
        try:
            if not self._refuse:
                await link.carry((reader, writer), self._connect)
        except OSError:
            pass  # the server is away, or one end has gone
        finally:
            link.abort()
            self._links.discard(link)


class _Link:
    """One client's connection and ours to the server."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self._writers = [client]
        self.passing = asyncio.Event()
        self.passing.set()

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self.passing.set()

    async def carry(self, client: Ends, connect: Connect) -> None:
        await self.passing.wait()
        server = await connect()
        self._writers.append(server[1])
        pumps = [asyncio.create_task(self._pump(*way)) for way in ((client[0], server[1]), (server[0], client[1]))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                await self.passing.wait()
                writer.write(data)
                await writer.drain()
            await self.passing.wait()  # the end of a connection does not pass either


def before_postgres(url: str) -> TcpProxy:
    """A proxy before the server of ``url``, which listens on a UNIX socket; see ``address``."""
    folder = parse_qs(urlsplit(url).query)["host"][0]
    return TcpProxy(lambda: asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432"))


def address(*proxies: TcpProxy) -> str:
    """The database as a client sees it that may try these proxies in order."""
    hosts = "&".join(f"host=127.0.0.1:{proxy.port}" for proxy in proxies)
    return f"postgresql://postgres@/postgres?{hosts}"
