"""A server that speaks DSS's wire, as an independent witness for tests: it shares no code with the product.

``FakeDSS`` shows a ``World`` under both prefixes of the public API, counts what it is asked, and lets the rules
of ``faults`` spoil its answers. It only reads: any method but GET is written into ``writes`` and refused.
"""

from __future__ import annotations

import json
import ssl
import time
from base64 import b64decode
from collections import Counter, deque
from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.utils import formatdate
from typing import Any
from zoneinfo import ZoneInfo

from aiohttp import web

from tests.fakedss import faults
from tests.fakedss.answers import Answer, send
from tests.fakedss.api import Api, Call, Dialect, Forbidden, parse
from tests.fakedss.certs import Certificate
from tests.fakedss.faults import Fault, Rule, Rules
from tests.fakedss.ledger import Ledger
from tests.fakedss.world import World


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came: ``at`` in seconds of ``time.monotonic``."""

    at: float
    call: Call
    query: str
    key: str
    user_agent: str


@dataclass(repr=False)
class FakeDSS:
    """``async with FakeDSS() as dss:`` serves on 127.0.0.1; ``port`` 0 picks a free one.

    ``delay`` is seconds before each answer. ``clock_ms`` is the clock of the world, from which ``jump`` sets the
    server's clock apart; run ids are local time of ``zone``. ``api_key`` sees the projects that are not hidden,
    ``admin_key`` all of them and everybody's futures.
    """

    zone: str = "Europe/Paris"
    delay: float = 0.0
    port: int = 0
    node_name: str = "fake"
    api_key: str = "project-key"
    admin_key: str = "admin-key"
    tls: Certificate | None = None
    clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    dialect: Dialect = field(default_factory=Dialect)
    world: World = field(init=False)
    rules: Rules = field(default_factory=Rules, init=False)
    counts: Counter[str] = field(default_factory=Counter, init=False)
    """Requests by operation."""
    per_second: Counter[int] = field(default_factory=Counter, init=False)
    """Requests by second of ``time.monotonic``."""
    requests: deque[Seen] = field(default_factory=lambda: deque(maxlen=20_000), init=False)
    writes: list[str] = field(default_factory=list, init=False)
    in_flight: int = field(default=0, init=False)
    peak_in_flight: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.world = World(self.clock_ms, ZoneInfo(self.zone))
        self._api = Api(self.world, self.dialect, self.node_name, absent=set(), closed=set())
        self._revoked: set[str] = set()
        self._runner: web.AppRunner | None = None
        self._ssl: ssl.SSLContext | None = self.tls.server_context() if self.tls else None

    # Life

    async def __aenter__(self) -> FakeDSS:
        await self.go_up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.go_down()

    async def go_up(self) -> None:
        """Listen; after ``go_down`` on the same port again."""
        app = web.Application()
        self.add_routes(app)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.05)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._ssl, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def go_down(self) -> None:
        """Connections are dropped and new ones refused; the world goes on."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def add_routes(self, app: web.Application) -> None:
        """Room for routes beside the API: the remote control of a real process."""

    @property
    def url(self) -> str:
        return f"{'https' if self._ssl else 'http'}://127.0.0.1:{self.port}"

    def show_certificate(self, certificate: Certificate) -> None:
        """New TLS connections see this one, as when a certificate was replaced or ran out."""
        assert self._ssl is not None
        certificate.load_into(self._ssl)

    # The world, for short

    @property
    def ledger(self) -> Ledger:
        return self.world.ledger

    def start_run(self, project: str, scenario: str, at: datetime | None = None, trigger: str = "temporal") -> str:
        return self.world.start_run(project, scenario, at, trigger)

    def end_run(
        self,
        project: str,
        scenario: str,
        outcome: str = "SUCCESS",
        at: datetime | None = None,
        error: str | None = None,
    ) -> str:
        return self.world.end_run(project, scenario, outcome, at, error)

    def jump(self, by: timedelta) -> None:
        self.world.jump(by)

    # Faults

    def fail(
        self,
        fault: Fault,
        operation: str = "*",
        project: str = "*",
        scenario: str = "*",
        nth: Container[int] | None = None,
        **when: Any,
    ) -> Rule:
        """Add a rule; ``when`` takes ``probability``, ``seed``, ``after`` and ``until`` of ``faults.Rule``."""
        return self.rules.add(Rule(fault, operation, project, scenario, nth, **when))

    def revoke_key(self, key: str) -> None:
        """401 for this key until ``restore_key``."""
        self._revoked.add(key)

    def restore_key(self, key: str) -> None:
        self._revoked.discard(key)

    def hide_project(self, project: str, how: str = "both") -> None:
        """The project key loses a project: ``absent`` from the list, ``forbidden`` (403) when asked, or both."""
        if how != "forbidden":
            self._api.absent.add(project)
        if how != "absent":
            self._api.closed.add(project)

    def show_project(self, project: str) -> None:
        self._api.absent.discard(project)
        self._api.closed.discard(project)

    # HTTP

    def asked(self, operation: str, project: str = "*", scenario: str = "*") -> int:
        """How many of the last 20 000 requests match these globs."""
        rule = Rule(lambda answer: answer, operation, project, scenario)
        return sum(rule.matches(seen.call.operation, seen.call.project, seen.call.scenario) for seen in self.requests)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        call, key = parse(request.raw_path), _key_of(request)
        self._count(request, call, key)
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            answer = replace(self._answer(request, call, key), delay=self.delay)
            answer = self.rules.applied_to(answer, call.operation, call.project, call.scenario)
            return await send(request, replace(answer, headers=self._headers() | dict(answer.headers)))
        finally:
            self.in_flight -= 1

    def _count(self, request: web.Request, call: Call, key: str) -> None:
        now = time.monotonic()
        self.counts[call.operation] += 1
        self.per_second[int(now)] += 1
        agent = request.headers.get("User-Agent", "")
        self.requests.append(Seen(now, call, request.query_string, key, agent))
        if request.method != "GET":
            self.writes.append(f"{request.method} {request.raw_path}")

    def _headers(self) -> dict[str, str]:
        date = formatdate(self.world.now_ms() / 1000, usegmt=True)
        return {"Date": date, "DSS-Version": self.dialect.version, "DSS-API-Version": self.dialect.version}

    def _answer(self, request: web.Request, call: Call, key: str) -> Answer:
        """The truth, or why it is refused."""
        if key not in (self.api_key, self.admin_key) or key in self._revoked:
            return faults.unauthorized()(Answer())
        if request.method != "GET":
            return faults.status(405, "This server only reads")(Answer())
        try:
            value = self._api.truth(call, request.query, admin=key == self.admin_key)
        except Forbidden:
            return faults.forbidden()(Answer())
        except KeyError as missing:
            if self.dialect.missing_is_500:
                message = f"{call.operation} does not exist: {missing}"
                return faults.status(500, message, "java.lang.IllegalArgumentException")(Answer())
            return faults.not_found(f"{call.operation} {missing}")(Answer())
        except ValueError as invalid:
            return faults.status(500, str(invalid), "java.lang.IllegalArgumentException")(Answer())
        if isinstance(value, str):
            return Answer(body=value.encode(), content_type="text/plain; charset=utf-8")
        return Answer(body=json.dumps(value).encode())


def _key_of(request: web.Request) -> str:
    """The key in any of the places where DSS accepts one, or an empty string."""
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    match kind.lower():
        case "bearer":
            return value
        case "basic":
            user, _, password = b64decode(value).decode("latin-1").partition(":")
            return user or password
    return request.headers.get("X-DKU-APITicket", "")
