"""Who may do what: every rule of the contract, over a real socket."""

import base64
import os
from pathlib import Path

import pytest
from aiohttp import ClientSession
from multidict import CIMultiDict

from tests.web.harness import Daemon, Serve
from tocsin.config.tokens import Role, make_token, parse_tokens
from tocsin.kit.proxy import is_loopback
from tocsin.web.access import TokenFile

OPEN = ["/-/healthy", "/-/ready", "/static/tocsin.css"]
SHOWN_TO_ALL = ["/metrics", "/api/v1/status"]
READING = ["/", "/api/v1/runs", "/api/v1/config", "/api/v1/openapi.json", "/api/v1/events"]
CHANGING = [
    ("POST", "/-/reload"), ("POST", "/api/v1/silences"), ("DELETE", "/api/v1/silences/x"),
    ("POST", "/api/v1/alerts/x/resolve"), ("POST", "/api/v1/alerts/x/ack"),
    ("POST", "/api/v1/alerts/x/unack"), ("POST", "/api/v1/deliveries/x/retry"),
]  # fmt: skip


async def status(client: ClientSession, method: str, path: str, **more: object) -> int:
    async with client.request(method, path, allow_redirects=False, **more) as answer:  # type: ignore[arg-type]
        return answer.status


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_on_loopback_without_tokens_everything_can_be_read_and_changed(client: ClientSession) -> None:
    for path in (*OPEN, *SHOWN_TO_ALL, *READING):
        assert (path, await status(client, "GET", path)) == (path, 200)
    for method, path in CHANGING:
        assert (path, await status(client, method, path)) not in [(path, 401), (path, 403)]


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "[::]:8080", ":8080", "10.1.2.3:8080", "tocsin.example.com:80"])
async def test_without_tokens_others_see_probes_metrics_and_status_only(
    daemon: Daemon, serve: Serve, listen: str
) -> None:
    daemon.http(listen=listen)
    client = await serve()
    for path in (*OPEN, *SHOWN_TO_ALL):
        assert (path, await status(client, "GET", path)) == (path, 200)
    for path in READING:
        assert (path, await status(client, "GET", path)) == (path, 403)
    for method, path in CHANGING:
        assert (path, await status(client, method, path)) == (path, 403)


async def test_a_reload_that_names_another_address_does_not_open_the_listener(daemon: Daemon, serve: Serve) -> None:
    daemon.http(listen="0.0.0.0:8080")
    client = await serve()
    daemon.http(listen="127.0.0.1:8080")
    assert await status(client, "GET", "/api/v1/runs") == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "10.0.0.1"}, {"Forwarded": "for=10.0.0.1"}, {"X-Real-IP": "10.0.0.1"}, {"Via": "1.1 proxy"},
        {"X-Forwarded-Host": "localhost"}, {"Origin": "https://evil.example.com"}, {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    ],
)  # fmt: skip
async def test_a_change_that_may_come_from_elsewhere_is_refused(client: ClientSession, headers: dict[str, str]) -> None:
    for method, path in CHANGING:
        assert await status(client, method, path, headers=headers) == 403
    assert await status(client, "GET", "/api/v1/runs", headers=headers) in (200, 400)


@pytest.mark.parametrize(
    "host", ["tocsin.example.com", "127.0.0.1.example.com", "evil.localhost.com:8080", "10.0.0.1", "0.0.0.0", ""]
)
async def test_a_name_that_was_rebound_to_loopback_reads_and_changes_nothing(
    client: ClientSession, daemon: Daemon, host: str
) -> None:
    for path in (*SHOWN_TO_ALL, *READING, "/api/v1/events/stream"):
        assert (path, await status(client, "GET", path, headers={"Host": host})) == (path, 403)
    for method, path in CHANGING:
        assert (path, await status(client, method, path, headers={"Host": host})) == (path, 403)
    assert await status(client, "GET", "/-/healthy", headers={"Host": host}) == 200


async def test_the_external_host_is_served_on_loopback_but_changes_nothing(
    client: ClientSession, daemon: Daemon
) -> None:
    daemon.http(external_url="https://Tocsin.example.com/x")
    headers = {"Host": "tocsin.example.com"}
    assert await status(client, "GET", "/api/v1/runs", headers=headers) == 200
    assert await status(client, "POST", "/-/reload", headers=headers) == 403


@pytest.mark.parametrize(
    "host",
    ["[::1].evil.com", "evil@127.0.0.1", "127.0.0.1/", "127.0.0.1:80:80", "127.0.0.1#x", "127.0.0.1 evil.com",
     "localhost:", "[::1", "127.0.0.1?", "http://127.0.0.1", "localhost,evil.com", "127.0.0.1:8080x"],
)  # fmt: skip
async def test_a_host_that_is_none_is_refused_and_not_guessed(client: ClientSession, host: str) -> None:
    for path in (*OPEN, *SHOWN_TO_ALL, *READING):
        assert (path, await status(client, "GET", path, headers={"Host": host})) == (path, 400)
    assert await status(client, "POST", "/-/reload", headers={"Host": host}) == 400


@pytest.mark.parametrize("name", ["Origin", "Sec-Fetch-Site", "Authorization"])
async def test_a_header_that_decides_and_stands_twice_is_refused(client: ClientSession, name: str) -> None:
    own = str(client._base_url)
    value = {"Origin": own.rstrip("/"), "Sec-Fetch-Site": "none",
             "Authorization": "Bearer x"}[name]  # fmt: skip
    twice = CIMultiDict([(name, value), (name, value)])
    assert await status(client, "POST", "/-/reload", headers={name: value}) == 200
    assert await status(client, "POST", "/-/reload", headers=twice) == 400
    assert await status(client, "GET", "/api/v1/runs", headers=twice) == 400


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:1", "127.9.9.9", "[::1]:8080"])
async def test_every_name_of_this_machine_is_a_loopback_host(client: ClientSession, host: str) -> None:
    assert await status(client, "POST", "/-/reload", headers={"Host": host}) == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("LOCALHOST.", True), ("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.example.com", False), ("", False)],
)  # fmt: skip
def test_loopback_is_known_by_address_not_by_look(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


async def test_with_tokens_only_probes_are_open(daemon: Daemon, tokens: dict[str, str], serve: Serve) -> None:
    client = await serve()
    for path in OPEN:
        assert (path, await status(client, "GET", path)) == (path, 200)
    for path in (*SHOWN_TO_ALL, *READING):
        assert (path, await status(client, "GET", path)) == (path, 303 if path == "/" else 401)
    for method, path in CHANGING:
        assert (path, await status(client, method, path)) == (path, 401)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0.0.0.0:8080"])
async def test_a_viewer_reads_and_an_operator_changes_too(
    daemon: Daemon, tokens: dict[str, str], serve: Serve, listen: str
) -> None:
    daemon.http(listen=listen)
    client = await serve()
    viewer, operator = bearer(tokens["viewer"]), bearer(tokens["operator"])
    for path in (*SHOWN_TO_ALL, *READING):
        assert (path, await status(client, "GET", path, headers=viewer)) == (path, 200)
        assert (path, await status(client, "GET", path, headers=operator)) == (path, 200)
    for method, path in CHANGING:
        assert (path, await status(client, method, path, headers=viewer)) == (path, 403)
        assert await status(client, method, path, headers=operator) not in (401, 403)


async def test_a_program_may_give_its_token_as_a_password_but_no_browser_for_another_site(
    tokens: dict[str, str], serve: Serve
) -> None:
    client = await serve()
    pair = base64.b64encode(f"anyone:{tokens['operator']}".encode()).decode()
    auth = {"Authorization": f"Basic {pair}"}
    assert await status(client, "GET", "/", headers=auth) == 200
    assert await status(client, "POST", "/-/reload", headers=auth) == 200
    crossing = {"Origin": "https://evil.example.com"}
    assert await status(client, "POST", "/-/reload", headers=auth | crossing) == 403
    assert await status(client, "POST", "/-/reload", headers=auth, data={"a": "form"}) == 403


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic !!!", "Basic d3Jvbmc=", "Digest x"])
async def test_what_is_no_token_does_not_open(tokens: dict[str, str], serve: Serve, value: str) -> None:
    assert await status(await serve(), "GET", "/api/v1/runs", headers={"Authorization": value}) == 401


async def test_the_digest_of_a_token_is_not_a_token(daemon: Daemon, tokens: dict[str, str], serve: Serve) -> None:
    digest = Path(daemon.config.http.tokens_file or "").read_text().split()[-1]
    assert await status(await serve(), "GET", "/api/v1/runs", headers=bearer(digest)) == 401


async def test_a_withdrawn_token_stops_to_open_without_a_restart(
    daemon: Daemon, tokens: dict[str, str], serve: Serve
) -> None:
    client = await serve()
    path = Path(daemon.config.http.tokens_file or "")
    assert await status(client, "GET", "/api/v1/runs", headers=bearer(tokens["viewer"])) == 200
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "viewer" not in line))
    assert await status(client, "GET", "/api/v1/runs", headers=bearer(tokens["viewer"])) == 401
    assert await status(client, "GET", "/api/v1/runs", headers=bearer(tokens["operator"])) == 200
    path.unlink()
    assert await status(client, "GET", "/api/v1/runs", headers=bearer(tokens["operator"])) == 401


def test_lines_that_are_no_tokens_are_named_and_skipped() -> None:
    _, line = make_token("ann", Role.VIEWER)
    text = f"# comment\n\nann viewer\nbob root {'0' * 64}\ncat viewer xyz\n{line}  # trailing\n"
    tokens, problems = parse_tokens(text)
    assert [token.name for token in tokens] == ["ann"]
    assert [problem.split(" is ")[0] for problem in problems] == ["line 3", "line 4", "line 5"]


async def test_a_file_that_cannot_be_read_lets_nobody_in_until_it_can(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    file = TokenFile(str(path))
    token, line = make_token("ann", Role.VIEWER)
    assert await file.find(token) is None
    path.write_bytes(b"\xff\xfe")
    assert await file.find(token) is None
    path.write_text(line)
    found = await file.find(token)
    assert (found.name if found else None) == "ann"


async def test_a_tokens_file_of_equal_size_and_time_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    (kept, kept_line), (withdrawn, withdrawn_line) = make_token("ann", Role.VIEWER), make_token("bob", Role.VIEWER)
    past = 1_700_000_000 * 10**9

    def write(line: str) -> None:
        path.write_text(line)
        os.utime(path, ns=(past, past))

    write(withdrawn_line)
    file = TokenFile(str(path))
    assert await file.find(withdrawn) is not None
    write(kept_line)
    assert (await file.find(withdrawn), await file.find(kept) is not None) == (None, True)
    os.replace(path, tmp_path / "old")
    write(withdrawn_line)
    assert (await file.find(withdrawn) is not None, await file.find(kept)) == (True, None)


async def test_a_tokens_file_that_hangs_lets_nobody_in_and_holds_up_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    os.mkfifo(path)  # opening one that nobody writes to hangs as a dead mount does
    file = TokenFile(str(path), seconds=0.01)
    assert await file.find("anything") is None
