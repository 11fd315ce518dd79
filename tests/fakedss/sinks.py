"""Where notifications arrive: a webhook, Slack's incoming webhook, an SMTP server. Each keeps what came and can
be told how to answer the next ones, with the faults of ``faults``."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from fnmatch import fnmatchcase
from typing import Any

from aiohttp import web
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.fakedss.answers import Answer, reset, send
from tests.fakedss.faults import Fault


@dataclass(frozen=True, slots=True)
class Post:
    """One POST that came, ``at`` in epoch seconds; ``headers`` ignores case."""

    at: float
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


@dataclass
class WebhookSink:
    """``async with WebhookSink() as sink:`` records every POST to ``sink.url``, then answers.

    A post stands in ``posts`` before its answer leaves: ``reset()`` and ``never()`` in a script are receipts
    that got lost on the way back.
    """

    posts: list[Post] = field(default_factory=list)
    port: int = 0
    default: Fault | None = None
    """Spoils each answer for which the script has nothing."""

    def __post_init__(self) -> None:
        self._script: deque[Fault | None] = deque()
        self._runner: web.AppRunner | None = None

    def script(self, *answers: Fault | None) -> None:
        """Answer the next posts with these, one each, in order; None is a good answer."""
        self._script.extend(answers)

    async def __aenter__(self) -> WebhookSink:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        post = Post(time.time(), request.path, request.headers.copy(), await request.read())
        self.posts.append(post)
        fault = self._script.popleft() if self._script else self.default
        answer = self.good_answer(post)
        return await send(request, fault(answer) if fault else answer)

    def good_answer(self, post: Post) -> Answer:
        return Answer(body=b"{}")


class SlackSink(WebhookSink):
    """Slack's incoming webhooks: the literal ``ok``, or 400 for what Slack would not take."""

    def good_answer(self, post: Post) -> Answer:
        try:
            message = json.loads(post.body)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            return Answer(400, b"invalid_payload", "text/html")
        if not any(message.get(part) for part in ("text", "blocks", "attachments")):
            return Answer(400, b"no_text", "text/html")
        return Answer(body=b"ok", content_type="text/html")

    def texts(self) -> list[str]:
        return [str(post.json.get("text", "")) for post in self.posts]


@dataclass(frozen=True, slots=True)
class Mail:
    """One message that was taken, parsed, with its envelope."""

    at: float
    sender: str
    recipients: tuple[str, ...]
    message: EmailMessage
    user: str | None
    raw: bytes = b""


@dataclass(slots=True)
class _Refusal:
    phase: str
    reply: str
    address: str
    left: int


@dataclass
class SmtpSink:
    """An SMTP server on 127.0.0.1; with ``tls`` it offers STARTTLS, with ``user`` it demands AUTH.

    ``hang_after_data`` takes a message, keeps it, and never says so.
    """

    tls: ssl.SSLContext | None = None
    user: str | None = None
    password: str = ""
    hang_after_data: bool = False
    utf8: bool = False  # whether it takes addresses beyond ASCII (SMTPUTF8)
    mails: list[Mail] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self._refusals: list[_Refusal] = []
        self._connections: list[SMTP] = []
        self._server: asyncio.Server | None = None

    def refuse(self, phase: str, reply: str, address: str = "*", times: int = 1_000_000) -> None:
        """Answer MAIL, RCPT or DATA with ``reply`` ("550 5.1.1 unknown"); ``address`` is a glob on the sender
        or recipient."""
        self._refusals.append(_Refusal(phase, reply, address, times))

    def accept(self) -> None:
        """No more refusals."""
        self._refusals.clear()

    async def __aenter__(self) -> SmtpSink:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            reset(connection.transport)
        await self._server.wait_closed()

    def _connection(self) -> SMTP:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # aiosmtpd warns of AUTH without TLS, which a test may want
            made = SMTP(
                self,
                hostname="fake.example.com",
                tls_context=self.tls,
                enable_SMTPUTF8=self.utf8,
                authenticator=self._authenticate if self.user else None,
                auth_required=self.user is not None,
                auth_require_tls=self.tls is not None,
                loop=asyncio.get_running_loop(),
            )
        self._connections.append(made)
        return made

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object
    ) -> AuthResult:
        good = (
            isinstance(data, LoginPassword)
            and data.login == (self.user or "").encode()
            and data.password == self.password.encode()
        )
        return AuthResult(success=good, handled=good, auth_data=self.user if good else None)

    def _refusal(self, phase: str, address: str) -> str | None:
        for refusal in self._refusals:
            if refusal.phase == phase and refusal.left > 0 and fnmatchcase(address, refusal.address):
                refusal.left -= 1
                return refusal.reply
        return None

    # Hooks of aiosmtpd

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if reply := self._refusal("MAIL", address):
            return reply
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if reply := self._refusal("RCPT", address):
            return reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        sender = envelope.mail_from or ""
        if reply := self._refusal("DATA", sender):
            return reply
        content = envelope.original_content or b""
        message = message_from_bytes(content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        user = str(session.auth_data) if session.auth_data else None
        self.mails.append(Mail(time.time(), sender, tuple(envelope.rcpt_tos), message, user, content))
        if self.hang_after_data:
            await asyncio.Event().wait()
        return "250 OK: queued"
