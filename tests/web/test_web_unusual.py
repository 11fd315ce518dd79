"""What no page of ours sends, and others do: forms in disguise, broken headers, values out of bounds."""

import asyncio
import base64
from itertools import product

from aiohttp import ClientSession

from tests.web.harness import Daemon
from tocsin.web.access import COOKIE


async def head(client: ClientSession, request: str, *headers: str, body: str = "") -> int:
    """The status that answers this request, byte for byte."""
    host, port = client._base_url.host, client._base_url.port  # type: ignore[union-attr]
    reader, writer = await asyncio.open_connection(host, port)
    lines = (
        f"{request} HTTP/1.1",
        f"Host: {host}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
        "",
        body,
    )
    writer.write("\r\n".join(lines).encode("latin-1"))
    async with asyncio.timeout(10):
        status = int((await reader.readuntil(b"\r\n")).split()[1])
    writer.close()
    return status


async def test_requests_that_cannot_be_read_are_refused_and_are_no_error_of_tocsin(
    client: ClientSession, daemon: Daemon, tokens: dict[str, str]
) -> None:
    cookie = f"Cookie: {COOKIE}=" + "61.99999999999.\xff"
    for target in ("OPTIONS *", "GET http://localhost", "CONNECT host:80", "GET /nothing"):
        assert await head(client, target, "Accept: text/html") < 500, target
    assert await head(client, "GET /api/v1/runs", f"{cookie}", "Accept: text/html") == 401
    name = b"viewer-token".hex()
    assert await head(client, "GET /api/v1/runs", f"Cookie: {COOKIE}={name}.99999999999.\xff") == 401
    basic = "Authorization: Basic " + base64.b64encode(f":{tokens['operator']}".encode()).decode()
    broken = (
        "multipart/form-data",
        "application/x-www-form-urlencoded; charset=nope",
        "multipart/form-data; boundary=x",
    )
    for place, kind in product(("/login", "/-/reload", "/silences/new"), broken):
        assert await head(client, f"POST {place}", f"Content-Type: {kind}", basic, body="a=%ff") == 400, (place, kind)


async def test_a_post_without_a_content_type_counts_as_a_form_where_a_browser_knows_the_password(
    client: ClientSession, daemon: Daemon, tokens: dict[str, str]
) -> None:
    basic = "Authorization: Basic " + base64.b64encode(f":{tokens['operator']}".encode()).decode()
    assert await head(client, "POST /-/reload", basic) == 403
    assert await head(client, "POST /-/reload", basic, "Content-Type: application/json") == 200
    assert await head(client, "POST /-/reload", f"Authorization: Bearer {tokens['operator']}") == 200
    assert await head(client, "DELETE /api/v1/silences/x", basic) == 404, "no form can send it"
