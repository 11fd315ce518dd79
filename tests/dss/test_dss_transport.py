"""The transport against real sockets: bad replies, bad networks, rotation, proxies, TLS."""

import asyncio
import base64
import gzip
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tocsin.dss import (
    DSSClient,
    DSSError,
    DSSForbidden,
    DSSInvalidReply,
    DSSNotFound,
    DSSRefused,
    DSSServerError,
    DSSThrottled,
    DSSUnauthorized,
    DSSUnreachable,
    RequestReport,
)


@asynccontextmanager
async def raw_server(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> AsyncIterator[str]:
    """Bytes on a socket, for what no HTTP server would say."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client left first
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def head(length: int | None = None, *lines: str) -> bytes:
    size = [] if length is None else [f"Content-Length: {length}"]
    return "\r\n".join(["HTTP/1.1 200 OK", *size, *lines, "", ""]).encode()


# Addresses and secrets


async def test_an_api_key_travels_as_user_name_without_password(serve: Any, connect: Any) -> None:
    dss = await serve()
    await connect(dss, api_key="kéy").get_auth_info()
    assert dss.asked[0].headers["Authorization"] == "Basic " + base64.b64encode("kéy:".encode()).decode()


async def test_a_bearer_token_and_a_ticket_travel_in_their_own_ways(serve: Any, connect: Any) -> None:
    dss = await serve()
    await connect(dss, jwt_bearer_token="jwt").get_auth_info()
    await connect(dss, internal_ticket="tick").get_auth_info()
    assert dss.asked[0].headers["Authorization"] == "Bearer jwt"
    assert dss.asked[1].headers["X-DKU-APITicket"] == "tick"
    assert "Authorization" not in dss.asked[1].headers


async def test_a_rotated_secret_serves_at_once(serve: Any, connect: Any, tmp_path: Path) -> None:
    dss = await serve()
    file = tmp_path / "key"
    file.write_text("old\n")
    client = connect(dss, jwt_bearer_token=file.read_text)
    await client.get_auth_info()
    file.write_text("new\n")
    await client.get_auth_info()
    assert [asked.headers["Authorization"] for asked in dss.asked] == ["Bearer old", "Bearer new"]


@pytest.mark.parametrize("secret", ["", "  \n", "line\nbreak", "naïve"])
async def test_a_secret_that_cannot_travel_is_unauthorized_and_never_shown(
    serve: Any, connect: Any, secret: str
) -> None:
    dss = await serve()
    with pytest.raises(DSSUnauthorized) as caught:
        await connect(dss, jwt_bearer_token=secret).get_auth_info()
    assert dss.asked == []
    assert secret.strip() == "" or secret not in str(caught.value)


async def test_an_error_that_repeats_the_secrets_of_the_request_is_told_without_them(serve: Any, connect: Any) -> None:
    async def repeat(request: web.Request) -> web.Response:
        return web.json_response({"message": f"no: {dict(request.headers)} SECRET-KEY"}, status=401)

    url = await serve(repeat)
    with pytest.raises(DSSUnauthorized) as told:
        await connect(url, api_key="SECRET-KEY", extra_headers={"X-Gateway": "SECRET-HEADER"}).get_auth_info()
    assert "no: " in str(told.value)
    hidden = ("SECRET-KEY", "SECRET-HEADER", base64.b64encode(b"SECRET-KEY:").decode())
    assert [secret for secret in hidden if secret in str(told.value)] == []


async def test_a_secret_file_that_is_gone_is_unauthorized(serve: Any, connect: Any, tmp_path: Path) -> None:
    with pytest.raises(DSSUnauthorized, match="FileNotFoundError"):
        await connect(await serve(), api_key=(tmp_path / "gone").read_text).get_auth_info()


async def test_no_secret_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="credentials"):
        DSSClient("http://dss")


@pytest.mark.parametrize(
    "url",
    ["dss.example.com", "ftp://dss", "http://", "http://u:p@dss", "http://dss?x=1", "http://dss#x", "http://a..b"],
)
def test_a_url_that_cannot_be_a_dss_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="DSS URL"):
        DSSClient(url, "key")


@pytest.mark.parametrize(
    ("path", "base"),
    [("", ""), ("/", ""), ("//", ""), ("/a/b/", "/a/b"), ("/with space", "/with%20space"), ("/a%2Fb", "/a%2Fb")],
)
async def test_a_path_of_a_reverse_proxy_stands_before_the_api(serve: Any, connect: Any, path: str, base: str) -> None:
    dss = await serve()
    await connect(dss.url + path).get_instance_info()
    assert dss.targets == [f"{base}/dip/publicapi/instance-info"]


async def test_odd_identifiers_arrive_as_they_were_quoted(serve: Any, connect: Any) -> None:
    dss = await serve({"scenarioRun": {"runId": "r"}})
    await connect(dss).get_project("P 1").get_scenario("a/b?c#d%2Fé").get_run("r&1")
    assert dss.targets == ["/dip/publicapi/projects/P%201/scenarios/a%2Fb%3Fc%23d%252F%C3%A9/r%261/"]


async def test_own_headers_are_sent_but_never_replace_secret_or_name(serve: Any, connect: Any) -> None:
    dss = await serve()
    extra = {"X-Gateway": "yes", "authorization": "mine", "user-agent": "mine"}
    await connect(dss, extra_headers=extra, user_agent="tocsin/1", jwt_bearer_token="t").get_auth_info()
    headers = {name.lower(): value for name, value in dss.asked[0].headers.items()}
    assert (headers["x-gateway"], headers["authorization"], headers["user-agent"]) == ("yes", "Bearer t", "tocsin/1")


def test_a_header_that_would_break_the_request_is_refused() -> None:
    with pytest.raises(ValueError, match="X-Gateway"):
        DSSClient("http://dss", "key", extra_headers={"X-Gateway": "a\r\nHost: b"})


async def test_a_closed_client_says_so(serve: Any, connect: Any) -> None:
    client = connect(await serve())
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.get_auth_info()


# Replies that are not what was asked for


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, '{"errorType": "x.NotAuthenticatedException", "message": "Unknown API Key"}', DSSUnauthorized),
        (403, "", DSSForbidden),
        (404, '{"errorType": "x.NotFoundException", "message": "no S"}', DSSNotFound),
        (500, '{"errorType": "x.E", "message": "scenario S not found"}', DSSNotFound),
        (502, "<html><h1>Bad Gateway</h1></html>", DSSServerError),
        (400, '{"message": "no"}', DSSRefused),
        (200, '{"id": "S", "na', DSSInvalidReply),
        (200, "null", DSSInvalidReply),
        (200, "[]", DSSInvalidReply),
        (200, "<html>Sign in</html>", DSSInvalidReply),
    ],
)
async def test_a_bad_reply_is_its_error(serve: Any, connect: Any, status: int, body: str, kind: type) -> None:
    dss = await serve(lambda request: web.Response(status=status, text=body))
    with pytest.raises(DSSError) as caught:
        await connect(dss, retries=0).get_project("P").get_scenario("S").get_status()
    assert type(caught.value) is kind
    assert caught.value.body == body[:200]
    assert caught.value.operation == "get_scenario_status"
    assert caught.value.url == f"{dss.url}/dip/publicapi/projects/P/scenarios/S/light"


async def test_a_reply_larger_than_the_cap_is_not_read_to_its_end(serve: Any, connect: Any) -> None:
    sent = 0

    async def flood(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"[" * 65_536)
            sent += 65_536

    with pytest.raises(DSSInvalidReply, match="larger than 100000 bytes") as caught:
        await connect(await serve(flood), max_reply_bytes=100_000).list_projects()
    assert caught.value.body == "[" * 200
    assert sent < 50_000_000


async def test_a_small_reply_that_unpacks_to_a_large_one_meets_the_same_cap(serve: Any, connect: Any) -> None:
    packed = gzip.compress(b"[" * 20_000_000)
    dss = await serve(lambda r: web.Response(body=packed, headers={"Content-Encoding": "gzip"}))
    with pytest.raises(DSSInvalidReply, match="larger than"):
        await connect(dss, max_reply_bytes=1_000_000).list_projects()


async def test_a_packed_reply_is_unpacked(serve: Any, connect: Any) -> None:
    packed = gzip.compress(b'[{"projectKey": "P"}]')
    dss = await serve(lambda r: web.Response(body=packed, headers={"Content-Encoding": "gzip"}))
    assert await connect(dss).list_project_keys() == ["P"]


async def test_a_reply_whose_packing_is_broken_is_an_error_of_ours(connect: Any) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(9, "Content-Encoding: gzip") + b"not gzip!")
        await writer.drain()

    async with raw_server(talk) as url:
        with pytest.raises(DSSError):
            await connect(url, retries=0).list_projects()


async def test_a_drip_that_never_ends_is_a_timeout(connect: Any) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(None, "Transfer-Encoding: chunked"))
        while True:
            writer.write(b"1\r\n[\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with raw_server(drip) as url:
        with pytest.raises(DSSUnreachable) as caught:
            await connect(url, timeout=0.08, retries=0).list_projects()
    assert caught.value.timed_out


async def test_silence_is_a_timeout(connect: Any) -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw_server(silence) as url:
        with pytest.raises(DSSUnreachable, match=r"within 0\.05 s"):
            await connect(url, timeout=0.05, retries=0).list_projects()


async def test_a_reset_in_the_middle_is_unreachable(connect: Any) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(1000) + b'[{"projectKey":')
        await writer.drain()
        writer.transport.abort()

    async with raw_server(reset) as url:
        with pytest.raises(DSSUnreachable) as caught:
            await connect(url, retries=0).list_projects()
    assert not caught.value.timed_out


async def test_an_early_end_is_unreachable_even_if_what_came_is_valid(connect: Any) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(1000) + b"[]")
        await writer.drain()

    async with raw_server(cut) as url:
        with pytest.raises(DSSUnreachable):
            await connect(url, retries=0).list_projects()


async def test_what_is_not_http_is_an_invalid_reply(connect: Any) -> None:
    async def ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        await writer.drain()

    async with raw_server(ssh) as url:
        with pytest.raises(DSSInvalidReply, match="not HTTP"):
            await connect(url, retries=0).list_projects()


async def test_a_closed_port_is_unreachable(connect: Any) -> None:
    async with raw_server(lambda r, w: asyncio.sleep(0)) as url:
        pass
    with pytest.raises(DSSUnreachable, match="ClientConnectorError"):
        await connect(url, retries=0).list_projects()


async def test_a_tail_keeps_only_the_end_of_a_log_larger_than_the_cap(serve: Any, connect: Any) -> None:
    dss = await serve(lambda r: b"x" * 3_000_000 + b"the end")
    job = connect(dss, max_reply_bytes=1_000_000).get_project("P").get_job("J")
    assert await job.get_log(tail_bytes=7) == "the end"
    assert len(await job.get_log(tail_bytes=100_000)) == 100_000
    with pytest.raises(DSSInvalidReply):
        await job.get_log()


# Redirects


def redirecting(location: str, status: int = 302) -> Callable[[web.BaseRequest], Any]:
    def answer(request: web.BaseRequest) -> Any:
        if "moved" in request.path:
            return {"authIdentifier": "me"}
        return web.Response(status=status, headers={"Location": location})

    return answer


async def test_a_read_follows_a_redirect_on_its_own_host(serve: Any, connect: Any) -> None:
    dss = await serve(redirecting("/moved%2Fhere?a=%20", 307))
    assert await connect(dss).get_auth_info() == {"authIdentifier": "me"}
    assert dss.targets[1] == "/moved%2Fhere?a=%20"


async def test_a_redirect_to_another_host_is_not_followed(serve: Any, connect: Any) -> None:
    other = await serve({"authIdentifier": "thief"})
    dss = await serve(redirecting(f"{other.url}/moved"))
    with pytest.raises(DSSInvalidReply, match="redirect"):
        await connect(dss).get_auth_info()
    assert other.asked == []


async def test_a_change_is_never_redirected(serve: Any, connect: Any) -> None:
    dss = await serve(redirecting("/moved", 307))
    with pytest.raises(DSSInvalidReply, match="redirect"):
        await connect(dss).get_project("P").get_job("J").abort()
    assert len(dss.asked) == 1


async def test_endless_redirects_end(serve: Any, connect: Any) -> None:
    dss = await serve(redirecting("/again"))
    with pytest.raises(DSSInvalidReply, match="too many redirects"):
        await connect(dss).get_auth_info()
    assert len(dss.asked) == 5


# Retries and reports


def failing(times: int, response: Callable[[], web.Response]) -> Callable[[web.BaseRequest], Any]:
    left = [times]

    def answer(request: web.BaseRequest) -> Any:
        left[0] -= 1
        return response() if left[0] >= 0 else {}

    return answer


async def test_a_read_that_failed_in_passing_is_tried_again(serve: Any, connect: Any) -> None:
    dss = await serve(failing(2, lambda: web.Response(status=503)))
    assert await connect(dss, retries=2).get_auth_info() == {}
    assert len(dss.asked) == 3


async def test_the_last_error_stands_when_tries_are_used_up(serve: Any, connect: Any) -> None:
    dss = await serve(failing(9, lambda: web.Response(status=503)))
    with pytest.raises(DSSServerError):
        await connect(dss, retries=1).get_auth_info()
    assert len(dss.asked) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_what_will_not_change_is_not_tried_again(serve: Any, connect: Any, status: int) -> None:
    dss = await serve(lambda r: web.Response(status=status))
    with pytest.raises(DSSError):
        await connect(dss).get_auth_info()
    assert len(dss.asked) == 1


async def test_a_change_is_never_tried_again(serve: Any, connect: Any) -> None:
    dss = await serve(lambda r: web.Response(status=503))
    with pytest.raises(DSSServerError):
        await connect(dss).get_project("P").get_job("J").abort()
    assert len(dss.asked) == 1


async def test_retries_can_be_switched_off(serve: Any, connect: Any) -> None:
    dss = await serve(failing(1, lambda: web.Response(status=503)))
    with pytest.raises(DSSServerError):
        await connect(dss, retries=0).get_auth_info()


async def test_a_short_retry_after_is_waited_for_and_a_long_one_is_the_callers_matter(serve: Any, connect: Any) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    short = await serve(failing(1, lambda: web.Response(status=429, headers={"Retry-After": "3"})))
    await connect(short, sleep=sleep).get_auth_info()
    assert [int(seconds) for seconds in slept] == [3]
    long = await serve(failing(1, lambda: web.Response(status=429, headers={"Retry-After": "300"})))
    with pytest.raises(DSSThrottled) as caught:
        await connect(long, sleep=sleep).get_auth_info()
    assert caught.value.retry_after == 300
    assert len(slept) == 1


async def test_each_attempt_is_reported_once(serve: Any, connect: Any) -> None:
    reports: list[RequestReport] = []
    headers = {"Retry-After": "0", "DSS-Version": "14.1.0", "Date": "Sun, 01 Mar 2026 12:00:00 GMT"}
    dss = await serve(failing(1, lambda: web.Response(status=429, headers=headers)))
    await connect(dss, on_request=reports.append).get_auth_info()
    first, second = reports
    assert (first.operation, first.method, first.status, first.code) == ("get_auth_info", "GET", 429, "429")
    assert (first.retry_after, first.dss_version) == (0.0, "14.1.0")
    assert first.server_date == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert isinstance(first.error, DSSThrottled)
    assert first.seconds >= 0
    assert (second.status, second.code, second.error) == (200, "200", None)


async def test_reports_name_what_has_no_status(serve: Any, connect: Any) -> None:
    reports: list[RequestReport] = []
    dss = await serve("<html></html>")
    with pytest.raises(DSSInvalidReply):
        await connect(dss, on_request=reports.append).get_auth_info()

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw_server(silence) as url:
        with pytest.raises(DSSUnreachable):
            await connect(url, on_request=reports.append, retries=0, timeout=0.03).get_auth_info()
    with pytest.raises(DSSUnreachable):
        await connect(url, on_request=reports.append, retries=0).get_auth_info()
    assert [(r.code, r.status) for r in reports] == [("invalid", 200), ("timeout", None), ("unreachable", None)]


async def test_a_cancelled_request_leaves_the_client_usable_and_makes_no_report(serve: Any, connect: Any) -> None:
    reports: list[RequestReport] = []
    arrived, slow = asyncio.Event(), True

    async def answer(request: web.BaseRequest) -> Any:
        if slow:
            arrived.set()
            await asyncio.sleep(10)
        return {}

    client = connect(await serve(answer), on_request=reports.append)
    task = asyncio.create_task(client.get_auth_info())
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    slow = False
    assert await client.get_auth_info() == {}
    assert [report.code for report in reports] == ["200"]


# Proxies


@asynccontextmanager
async def proxy() -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy of a few lines: CONNECT and plain forwarding; remembers the heads of requests."""
    heads: list[str] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = await reader.readuntil(b"\r\n\r\n")
        heads.append(raw.decode())
        method, target = raw.decode().split()[:2]
        address = target if method == "CONNECT" else target.split("/")[2]
        host, port = address.rsplit(":", 1)
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            there_writer.write(raw)
        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heads
    finally:
        server.close()


async def test_a_proxy_forwards_plain_requests_and_gets_its_own_password(serve: Any) -> None:
    dss = await serve({"authIdentifier": "me"})
    async with proxy() as (address, heads), DSSClient(dss.url, "key", proxy=f"http://u:pw@{address}") as client:
        assert await client.get_auth_info() == {"authIdentifier": "me"}
    assert heads[0].startswith(f"GET {dss.url}/dip/publicapi/auth/info?withSecrets=False ")
    assert "Proxy-Authorization: Basic " + base64.b64encode(b"u:pw").decode() in heads[0]


async def test_the_proxy_of_the_environment_is_used_unless_no_proxy_says_so(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dss = await serve()
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with proxy() as (address, heads):
        monkeypatch.setenv("http_proxy", address)
        async with DSSClient(dss.url, "key") as client:
            await client.get_auth_info()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with DSSClient(dss.url, "key") as client:
            await client.get_auth_info()
    assert (len(heads), len(dss.asked)) == (1, 2)


async def test_a_netrc_file_never_replaces_the_secret(
    serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password pw\n")
    monkeypatch.setenv("NETRC", str(netrc))
    dss = await serve()
    async with DSSClient(dss.url, internal_ticket="tick") as client:
        await client.get_auth_info()
    assert "Authorization" not in dss.asked[0].headers


@pytest.mark.parametrize("proxy", ["socks5://u:hushhush@h:1", "http://", "://"])
def test_an_address_that_cannot_be_a_proxy_is_refused_without_its_password(proxy: str) -> None:
    with pytest.raises(ValueError, match="a proxy's address") as caught:
        DSSClient("http://dss", "key", proxy=proxy)
    assert "hushhush" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "user:Wv3pHj8sXt5m@dss.example.com",
        "https://dss.example.com?key=Wv3pHj8sXt5m",
        "https://Wv3pHj8sXt5m\u2488.example.com",
        "https:/user:Wv3pHj8sXt5m@dss.example.com",
        "https://user:Wv3pHj8sXt5m@dss.example.com",
    ],
)
def test_an_address_that_is_no_dss_is_refused_without_what_may_be_a_password(url: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - whatever it says
        DSSClient(url, "key")
    assert "Wv3pHj8sXt5m" not in str(caught.value)


async def test_a_dead_proxy_is_unreachable_and_its_password_is_not_told(serve: Any, connect: Any) -> None:
    dss = await serve()
    async with raw_server(lambda r, w: asyncio.sleep(0)) as url:
        pass
    with pytest.raises(DSSUnreachable) as caught:
        await connect(dss, proxy=url.replace("http://", "http://u:hushhush@"), retries=0).get_auth_info()
    assert "hushhush" not in str(caught.value)


# TLS


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server's certificate for 127.0.0.1 and two clients' ones."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, so no certificates can be made")
    folder = tmp_path_factory.mktemp("pki")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    ca = ("-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "ca.key"))
    for name, extra in {
        "ca": ("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        "server": ("-addext", "subjectAltName=IP:127.0.0.1", *ca),
        "client": ("-addext", "extendedKeyUsage=clientAuth", *ca),
        "second": ("-addext", "extendedKeyUsage=clientAuth", *ca),
    }.items():
        files = ("-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem"))
        openssl("req", "-x509", *new_key, "-days", "2", "-subj", f"/CN={name}", *files, *extra)
    return folder


def server_context(pki: Path, *, ask_client: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    if ask_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(pki / "ca.pem")
    return context


def peer_name(request: web.BaseRequest) -> dict[str, str]:
    assert request.transport is not None
    certificate = request.transport.get_extra_info("peercert")
    return {"authIdentifier": dict(pair for rdn in certificate["subject"] for pair in rdn)["commonName"]}


async def test_an_unknown_authority_is_unreachable(serve: Any, connect: Any, pki: Path) -> None:
    dss = await serve({}, server_context(pki))
    with pytest.raises(DSSUnreachable, match="certificate verify failed"):
        await connect(dss, retries=0).get_auth_info()
    assert dss.asked == []


async def test_an_own_authority_is_trusted(serve: Any, connect: Any, pki: Path) -> None:
    dss = await serve({}, server_context(pki))
    assert await connect(dss, ca_file=str(pki / "ca.pem")).get_auth_info() == {}


async def test_a_certificate_for_another_host_is_not(serve: Any, connect: Any, pki: Path) -> None:
    dss = await serve({}, server_context(pki))
    url = dss.url.replace("127.0.0.1", "localhost")
    with pytest.raises(DSSUnreachable):
        await connect(url, ca_file=str(pki / "ca.pem"), retries=0).get_auth_info()


async def test_checking_can_be_switched_off(serve: Any, connect: Any, pki: Path) -> None:
    dss = await serve({}, server_context(pki))
    assert await connect(dss, no_check_certificate=True).get_auth_info() == {}


async def test_a_client_certificate_is_shown_with_and_without_checking(serve: Any, connect: Any, pki: Path) -> None:
    dss = await serve(peer_name, server_context(pki, ask_client=True))
    pair = (str(pki / "client.pem"), str(pki / "client.key"))
    for trust in ({"ca_file": str(pki / "ca.pem")}, {"no_check_certificate": True}):
        assert await connect(dss, client_certificate=pair, **trust).get_auth_info() == {"authIdentifier": "client"}


async def test_a_rotated_client_certificate_serves_at_once_and_a_torn_pair_changes_nothing(
    serve: Any, connect: Any, pki: Path, tmp_path: Path
) -> None:
    dss = await serve(peer_name, server_context(pki, ask_client=True))
    cert, key = tmp_path / "tls.pem", tmp_path / "tls.key"
    shutil.copy(pki / "client.pem", cert)
    shutil.copy(pki / "client.key", key)
    client = connect(dss, client_certificate=(str(cert), str(key)), ca_file=str(pki / "ca.pem"))
    names = [(await client.get_auth_info())["authIdentifier"]]
    shutil.copy(pki / "second.pem", cert)
    names.append((await client.get_auth_info())["authIdentifier"])
    shutil.copy(pki / "second.key", key)
    names.append((await client.get_auth_info())["authIdentifier"])
    assert names == ["client", "client", "second"]


async def test_tls_files_that_are_missing_are_unreachable_with_their_name(serve: Any, connect: Any, pki: Path) -> None:
    dss = await serve({}, server_context(pki))
    with pytest.raises(DSSUnreachable, match=r"nowhere\.pem"):
        await connect(dss, ca_file="/nowhere.pem", retries=0).get_auth_info()


async def test_https_goes_through_a_proxy_by_connect(serve: Any, pki: Path) -> None:
    dss = await serve({}, server_context(pki))
    async with (
        proxy() as (address, heads),
        DSSClient(dss.url, "key", ca_file=str(pki / "ca.pem"), proxy=f"http://{address}") as client,
    ):
        assert await client.get_auth_info() == {}
    assert heads[0].startswith(f"CONNECT 127.0.0.1:{dss.port} ")
    assert "Authorization" not in heads[0]
