"""The listener: its bounds and its end; the security headers and the request log."""

import asyncio

import pytest
from aiohttp import ClientSession
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from tests.web.harness import Daemon, Serve
from tocsin.config.tokens import Role, make_token
from tocsin.kit.proxy import split_listen
from tocsin.metrics.exposition import Exposition, Rendered
from tocsin.web import listen, make_app
from tocsin.web.server import MAX_CONNECTIONS, MAX_UNREAD_BYTES


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:80", ("::1", 80)), (":8080", ("0.0.0.0", 8080)),
     ("localhost:0", ("localhost", 0))],
)  # fmt: skip
def test_an_address_is_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert split_listen(text) == expected


async def test_an_address_in_use_is_an_os_error(daemon: Daemon) -> None:
    first = await listen(make_app(daemon.context()), "127.0.0.1:0")
    with pytest.raises(OSError, match="in use"):
        await listen(make_app(daemon.context()), f"127.0.0.1:{first.port}")
    await first.close()


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
async def test_who_does_not_finish_a_request_head_is_hung_up_on(daemon: Daemon, said: bytes) -> None:
    listener = await listen(make_app(daemon.context()), "127.0.0.1:0", header_seconds=0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(said)
    async with asyncio.timeout(10):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    writer.close()
    await listener.close()


async def test_who_asked_once_may_stay_connected(daemon: Daemon) -> None:
    listener = await listen(make_app(daemon.context()), "127.0.0.1:0", header_seconds=0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    for _ in range(2):
        writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(3)
        assert answer.startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.1)
    writer.close()
    await listener.close()


class Large(Exposition):
    """Answers every scrape with five megabytes."""

    async def render(self, accept: str, accept_encoding: str) -> Rendered:
        return b"x" * 5_000_000, {"Content-Type": "text/plain"}


async def test_clients_that_never_read_hold_little_memory_and_lock_nobody_out(daemon: Daemon) -> None:
    daemon.exposition = Large(CollectorRegistry())
    listener = await listen(make_app(daemon.context()), "127.0.0.1:0")
    answers: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []
    async with asyncio.timeout(30):
        for _ in range(40):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, limit=1024)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answers.append(await reader.readuntil(b"\r\n"))
            writers.append(writer)
        server = listener.runner.server
        assert server is not None
        buffered = sum(c.transport.get_write_buffer_size() for c in server.connections if c.transport)
        assert buffered < 40 * 300_000
        assert {answer.split()[1] for answer in answers} == {b"200", b"503"}
        assert answers.count(answers[0]) * 5_000_000 <= MAX_UNREAD_BYTES
        for writer in writers:
            writer.transport.abort()
        async with ClientSession(f"http://127.0.0.1:{listener.port}") as client:
            while True:
                async with client.get("/metrics") as answer:
                    if answer.status == 200:
                        assert len(await answer.read()) == 5_000_000
                        break
                await asyncio.sleep(0.01)
            async with client.head("/metrics") as answer:
                assert (answer.status, await answer.read()) == (200, b"")
    await listener.close()


async def test_a_request_with_two_hosts_is_refused(daemon: Daemon) -> None:
    listener = await listen(make_app(daemon.context()), "127.0.0.1:0")
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(10):
        assert b" 400 " in await reader.readuntil(b"\r\n")
    writer.close()
    await listener.close()


async def test_connections_are_bounded(daemon: Daemon) -> None:
    listener = await listen(make_app(daemon.context()), "127.0.0.1:0")
    async with asyncio.timeout(30):
        held = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(MAX_CONNECTIONS)]
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        for _, other in (*held, (reader, writer)):
            other.transport.abort()
    await listener.close()


async def test_heads_are_bounded(client: ClientSession) -> None:
    for headers in ({"X-Long": "x" * 9000}, {f"X-{n}": "x" for n in range(200)}):
        async with client.get("/-/healthy", headers=headers) as answer:
            assert answer.status == 400


async def test_every_answer_carries_the_security_headers(client: ClientSession) -> None:
    for path in ("/", "/-/healthy", "/api/v1/runs", "/nowhere"):
        async with client.get(path) as answer:
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


async def test_a_request_is_logged_with_its_subject_and_status_and_without_its_secrets(
    daemon: Daemon, serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> None:
    token, line = make_token("ann", Role.VIEWER)
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(line)
    daemon.http(tokens_file=str(path))
    client = await serve()
    with capture_logs() as logs:
        for headers in ({"Authorization": f"Bearer {token}"}, {}):
            async with client.get("/api/v1/runs?scenario=x", headers=headers):
                pass
    told = [one for one in logs if one["event"] == "http_request"]
    assert [(one["path"], one["status"], one["subject"]) for one in told] == [
        ("/api/v1/runs", 200, "ann"), ("/api/v1/runs", 401, "unknown"),
    ]  # fmt: skip
    assert token not in str(logs)


async def test_head_is_answered_like_get(client: ClientSession) -> None:
    for path in ("/", "/-/healthy", "/metrics", "/api/v1/runs"):
        async with client.head(path) as answer:
            assert (path, answer.status, await answer.read()) == (path, 200, b"")
