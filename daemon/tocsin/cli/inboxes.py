"""Two inboxes for the demo: a real SMTP server and a Slack webhook, both readable in the browser.

They keep the newest messages in memory. What they show came over the wire as any receiver would get it.
"""

import asyncio
import email
import html
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email import policy
from email.message import EmailMessage

from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope, Session

from tocsin.kit.clock import Clock

_KEEP = 200
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "article{border:1px solid #8886;border-radius:8px;padding:.6rem 1rem;margin:1rem 0}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere}iframe{width:100%;height:32rem;border:0;background:#fff}"
    "h2{font-size:1rem;margin:.2rem 0}small{opacity:.7}"
)


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail as it arrived."""

    at: datetime
    sender: str
    recipients: tuple[str, ...]
    message: EmailMessage

    @property
    def subject(self) -> str:
        return str(self.message["subject"] or "")

    def part(self, kind: str) -> str | None:
        found = self.message.get_body((kind,))
        return None if found is None else str(found.get_content())


@dataclass(frozen=True, slots=True)
class Post:
    """One message to the Slack webhook."""

    at: datetime
    text: str


class MailInbox:
    """A real SMTP server on loopback that accepts everything."""

    def __init__(self, clock: Clock, heard: Callable[[Mail], None]) -> None:
        self._clock = clock
        self._heard = heard
        self._server: asyncio.Server | None = None
        self.mails: deque[Mail] = deque(maxlen=_KEEP)
        self.port = 0

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: SMTP(self, hostname="inbox", loop=loop), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        content = envelope.content or b""
        raw = content.encode() if isinstance(content, str) else content
        mail = Mail(
            self._clock.now(),
            str(envelope.mail_from),
            tuple(envelope.rcpt_tos),
            email.message_from_bytes(raw, policy=policy.default),
        )
        self.mails.appendleft(mail)
        self._heard(mail)
        return "250 OK"


class Inboxes:
    """Both inboxes and the pages that show them."""

    def __init__(self, clock: Clock, heard: Callable[[str], None]) -> None:
        self._clock = clock
        self._heard = heard
        self.mail = MailInbox(clock, lambda mail: heard(f"mail   {mail.subject}"))
        self.posts: deque[Post] = deque(maxlen=_KEEP)
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen on two free ports of loopback."""
        await self.mail.start()
        app = web.Application(client_max_size=4 * 2**20)
        app.add_routes(
            [
                web.post("/services/{rest:.*}", self._slack),
                web.get("/", self._index),
                web.get("/mail", self._mails),
                web.get("/slack", self._posts),
                web.get("/mail.json", self._mails_json),
                web.get("/slack.json", self._posts_json),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        await self.mail.stop()

    async def _slack(self, request: web.Request) -> web.Response:
        """Slack's incoming webhook answers the literal ``ok``."""
        try:
            payload = await request.json()
        except json.JSONDecodeError:
            return web.Response(status=400, text="invalid_payload")
        text = _slack_text(payload)
        self.posts.appendleft(Post(self._clock.now(), text))
        self._heard(f"slack  {text.strip().splitlines()[0] if text.strip() else '(empty)'}")
        return web.Response(text="ok")

    async def _index(self, _request: web.Request) -> web.Response:
        return _page("Inboxes", '<p><a href="/mail">Mail</a> · <a href="/slack">Slack</a></p>')

    async def _mails(self, _request: web.Request) -> web.Response:
        return _page("Mail", "".join(map(_mail_article, list(self.mail.mails))) or "<p>Nothing yet.</p>")

    async def _posts(self, _request: web.Request) -> web.Response:
        articles = (
            f"<article><small>{post.at:%H:%M:%S}</small><pre>{html.escape(post.text)}</pre></article>"
            for post in list(self.posts)
        )
        return _page("Slack", "".join(articles) or "<p>Nothing yet.</p>")

    async def _mails_json(self, _request: web.Request) -> web.Response:
        return web.json_response(
            [
                {"at": m.at.isoformat(), "from": m.sender, "to": m.recipients, "subject": m.subject,
                 "text": m.part("plain"), "html": m.part("html")}
                for m in list(self.mail.mails)
            ]
        )  # fmt: skip

    async def _posts_json(self, _request: web.Request) -> web.Response:
        return web.json_response([{"at": post.at.isoformat(), "text": post.text} for post in list(self.posts)])


def _slack_text(payload: object) -> str:
    """The words of a Slack message, wherever they stand in it."""
    words: list[str] = []

    def walk(part: object) -> None:
        if isinstance(part, dict):
            for key, value in part.items():
                if key in ("text", "title", "pretext", "fallback") and isinstance(value, str):
                    if value not in words:
                        words.append(value)
                else:
                    walk(value)
        elif isinstance(part, list):
            for value in part:
                walk(value)

    walk(payload)
    return "\n".join(words)


def _mail_article(mail: Mail) -> str:
    page, text = mail.part("html"), mail.part("plain")
    body = ""
    if page is not None:
        body += f'<iframe sandbox="" srcdoc="{html.escape(page, quote=True)}"></iframe>'
    if text is not None:
        body += f"<details{'' if page else ' open'}><summary>text</summary><pre>{html.escape(text)}</pre></details>"
    return (
        f"<article><h2>{html.escape(mail.subject)}</h2><small>{mail.at:%H:%M:%S} · {html.escape(mail.sender)} → "
        f"{html.escape(', '.join(mail.recipients))}</small>{body}</article>"
    )


def _page(title: str, body: str) -> web.Response:
    return web.Response(
        content_type="text/html",
        text=f"<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<meta http-equiv=refresh content=10><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p><a href='/mail'>Mail</a> · <a href='/slack'>Slack</a></p>{body}",
    )
