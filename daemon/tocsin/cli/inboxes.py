"""Two inboxes for the demo: a real SMTP server and a Slack webhook, both readable in the browser.

They keep the newest messages in memory. What they show came over the wire as any receiver would get it.
"""

import asyncio
import email
import html
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from email import policy
from typing import Any

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


class Inboxes:
    """Both inboxes and the pages that show them. ``on_message`` gets a line for each message."""

    def __init__(self, clock: Clock, on_message: Callable[[str], None]) -> None:
        self._clock = clock
        self._on_message = on_message
        self._mails: deque[dict[str, Any]] = deque(maxlen=_KEEP)  # as in mail.json
        self._posts: deque[dict[str, str]] = deque(maxlen=_KEEP)  # as in slack.json
        self._smtp: asyncio.Server | None = None
        self._runner: web.AppRunner | None = None
        self.smtp_port = 0
        self.url = ""

    async def start(self) -> None:
        """Listen on two free ports of loopback."""
        loop = asyncio.get_running_loop()
        self._smtp = await loop.create_server(lambda: SMTP(self, hostname="inbox", loop=loop), "127.0.0.1", 0)
        self.smtp_port = self._smtp.sockets[0].getsockname()[1]
        app = web.Application(client_max_size=4 * 2**20)
        pages = {"/": self._show_mails, "/mail": self._show_mails, "/slack": self._show_posts}
        documents = {"/mail.json": self._list_mails, "/slack.json": self._list_posts}
        app.add_routes([web.get(path, handler) for path, handler in (pages | documents).items()])
        app.add_routes([web.post("/services/{rest:.*}", self._take_post)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._smtp is not None:
            self._smtp.close()

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        content = envelope.content or b""
        data = content.encode() if isinstance(content, str) else content
        message = email.message_from_bytes(data, policy=policy.default)
        bodies = {name: message.get_body((kind,)) for name, kind in (("text", "plain"), ("html", "html"))}
        mail = {
            "at": self._clock.now().isoformat(),
            "from": str(envelope.mail_from),
            "to": envelope.rcpt_tos,
            "subject": str(message["subject"] or ""),
            **{name: None if body is None else str(body.get_content()) for name, body in bodies.items()},
        }
        self._mails.appendleft(mail)
        self._on_message(f"mail   {mail['subject']}")
        return "250 OK"

    async def _take_post(self, request: web.Request) -> web.Response:
        """Slack's incoming webhook answers the literal ``ok``."""
        try:
            payload = await request.json()
        except json.JSONDecodeError:
            return web.Response(status=400, text="invalid_payload")
        text = "\n".join(dict.fromkeys(_slack_texts(payload)))
        self._posts.appendleft({"at": self._clock.now().isoformat(), "text": text})
        self._on_message(f"slack  {text.strip().splitlines()[0] if text.strip() else '(empty)'}")
        return web.Response(text="ok")

    async def _show_mails(self, _request: web.Request) -> web.Response:
        return _page("Mail", map(_mail_article, self._mails))

    async def _show_posts(self, _request: web.Request) -> web.Response:
        posts = (f"<small>{_time(post)}</small><pre>{html.escape(post['text'])}</pre>" for post in self._posts)
        return _page("Slack", posts)

    async def _list_mails(self, _request: web.Request) -> web.Response:
        return web.json_response(list(self._mails))

    async def _list_posts(self, _request: web.Request) -> web.Response:
        return web.json_response(list(self._posts))


def _slack_texts(part: object) -> Iterable[str]:
    """The words of a Slack message, wherever they stand in it."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ("text", "title", "pretext", "fallback") and isinstance(value, str):
                yield value
            else:
                yield from _slack_texts(value)
    elif isinstance(part, list):
        for value in part:
            yield from _slack_texts(value)


def _time(message: Mapping[str, Any]) -> str:
    return f"{datetime.fromisoformat(message['at']):%H:%M:%S}"


def _mail_article(mail: Mapping[str, Any]) -> str:
    page, text = mail["html"], mail["text"]
    body = ""
    if page is not None:
        body += f'<iframe sandbox="" srcdoc="{html.escape(page, quote=True)}"></iframe>'
    if text is not None:
        body += f"<details{'' if page else ' open'}><summary>text</summary><pre>{html.escape(text)}</pre></details>"
    path = html.escape(f"{_time(mail)} · {mail['from']} → {', '.join(mail['to'])}")
    return f"<h2>{html.escape(mail['subject'])}</h2><small>{path}</small>{body}"


def _page(title: str, articles: Iterable[str]) -> web.Response:
    body = "".join(f"<article>{article}</article>" for article in articles) or "<p>Nothing yet.</p>"
    return web.Response(
        content_type="text/html",
        text=f"<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<meta http-equiv=refresh content=10><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p><a href='/mail'>Mail</a> · <a href='/slack'>Slack</a></p>{body}",
    )
