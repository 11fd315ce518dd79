"""Hooks: who knows the secret may nudge, and only nudge."""

import base64
import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from structlog.testing import capture_logs

from tests.web.harness import Daemon, Serve
from tests.web.rows import NOW
from tocsin.config.secrets import FileSecret

SECRET = "a long shared secret"


class Secret:
    def __init__(self, value: str) -> None:
        self.value = value

    def reveal(self) -> str:
        return self.value

    async def read(self) -> str:
        return self.reveal()


@pytest.fixture
def hooked(daemon: Daemon) -> Daemon:
    daemon.http(hooks_secret=Secret(SECRET + "\n"))
    return daemon


async def post(client: ClientSession, path: str = "/hooks/dss/prod", **more: Any) -> int:
    async with client.post(path, **more) as answer:
        assert answer.content_type == ("application/json" if answer.status < 400 else "application/problem+json")
        return answer.status


def signed(body: bytes, key: bytes = SECRET.encode(), at: float = NOW.timestamp(), id_: str = "m1") -> dict[str, str]:
    digest = hmac.digest(key, f"{id_}.{int(at)}.".encode() + body, hashlib.sha256)
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": id_, "webhook-timestamp": str(int(at)), "webhook-signature": f"v1,AAAA {signature}"}


PLAIN = {"X-Tocsin-Secret": SECRET}


async def test_without_a_secret_hooks_are_off(client: ClientSession, daemon: Daemon) -> None:
    assert await post(client, headers=PLAIN) == 403
    assert daemon.nudges == []


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0.0.0.0:8080"])
async def test_who_knows_the_secret_may_nudge_from_anywhere(hooked: Daemon, serve: Serve, listen: str) -> None:
    hooked.http(listen=listen)
    client = await serve()
    assert (
        await post(client, headers=PLAIN | {"Origin": "https://dss.example.com", "X-Forwarded-For": "1.2.3.4"}) == 202
    )
    assert hooked.nudges == [("prod", None, None)]


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b'{"projectKey": "SALES", "scenarioId": "NIGHTLY", "outcome": "x"}', "application/json", ("SALES", "NIGHTLY")),
        (b'{"project": "SALES", "scenario": "NIGHTLY"}', "text/plain", ("SALES", "NIGHTLY")),
        (b"scenarioProjectKey=SALES&scenario_id=NIGHT+LY", "application/x-www-form-urlencoded", ("SALES", "NIGHT LY")),
        (b'{"project": "SALES", "scenario": "A"}', "application/x-www-form-urlencoded", ("SALES", "A")),
        (b'{"project": "SALES"}', "application/json", ("SALES", None)),
        (b'{"scenario": "NIGHTLY"}', "application/json", (None, None)),
        (b'{"project": 5, "scenario": ["x"]}', "application/json", (None, None)),
        (b"scenario NIGHTLY has failed", "text/plain", (None, None)),
        (b'["project"]', "application/json", (None, None)),
        (b"[" * 50_000, "application/json", (None, None)),
        (b"\xff\xfe", "application/json", (None, None)),
        (b"", "application/json", (None, None)),
        (b'{"project": "' + b"x" * 301 + b'"}', "application/json", (None, None)),
    ],
)  # fmt: skip
async def test_a_body_may_name_the_scenario_in_any_writing(
    client: ClientSession, hooked: Daemon, body: bytes, kind: str, expected: tuple[str | None, str | None]
) -> None:
    assert await post(client, data=body, headers=PLAIN | {"Content-Type": kind}) == 202
    assert hooked.nudges == [("prod", *expected)]


async def test_the_query_may_name_the_scenario_too(client: ClientSession, hooked: Daemon) -> None:
    assert await post(client, "/hooks/dss/prod?project=SALES&scenario=NIGHTLY", headers=PLAIN) == 202
    assert hooked.nudges == [("prod", "SALES", "NIGHTLY")]


async def test_a_standard_webhook_signature_is_accepted(client: ClientSession, hooked: Daemon) -> None:
    assert await post(client, data=b"{}", headers=signed(b"{}")) == 202
    key = b"0123456789abcdef01234567"
    hooked.http(hooks_secret=Secret("whsec_" + base64.b64encode(key).decode()))
    assert await post(client, data=b"{}", headers=signed(b"{}", key)) == 202


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"X-Tocsin-Secret": "wrong"}, {"X-Tocsin-Secret": ""}, signed(b"other"), signed(b"{}", b"wrong key"),
        signed(b"{}", at=NOW.timestamp() - 301), signed(b"{}", at=NOW.timestamp() + 301),
        signed(b"{}") | {"webhook-timestamp": "x"}, signed(b"{}") | {"webhook-id": "m2"},
        signed(b"{}") | {"webhook-signature": "v1,é"}, signed(b"{}") | {"webhook-signature": ""},
    ],
)  # fmt: skip
async def test_who_does_not_know_the_secret_is_refused(
    client: ClientSession, hooked: Daemon, headers: dict[str, str]
) -> None:
    assert await post(client, data=b"{}", headers=headers) == 403
    assert hooked.nudges == []


async def test_a_secret_that_is_written_as_its_file_is_not_logged(client: ClientSession, hooked: Daemon) -> None:
    hooked.http(hooks_secret=FileSecret(Path(SECRET)))
    with capture_logs() as logs:
        assert await post(client, headers=PLAIN) == 503
    assert {"event": "hooks_secret_unreadable", "error": "No such file or directory", "log_level": "error"} in logs
    assert SECRET not in str(logs)


async def test_an_empty_secret_opens_nothing(client: ClientSession, hooked: Daemon) -> None:
    hooked.http(hooks_secret=Secret("\n"))
    assert await post(client, headers={"X-Tocsin-Secret": ""}) == 403


async def test_a_node_that_is_not_watched_is_unknown(client: ClientSession, hooked: Daemon) -> None:
    assert await post(client, "/hooks/dss/other", headers=PLAIN) == 404


async def test_a_nudge_over_budget_is_said_to_the_caller(client: ClientSession, hooked: Daemon) -> None:
    hooked.nudge_answer = False
    async with client.post("/hooks/dss/prod", headers=PLAIN) as answer:
        assert (answer.status, await answer.json()) == (202, {"nudged": False})
