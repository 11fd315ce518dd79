"""Two inboxes for the demo: a real SMTP server and a Slack webhook, both readable in the browser.

What they show came over the wire as any receiver would get it.
"""

import asyncio
import email
import html
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
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
        # As in mail.json and slack.json.
        self._messages: dict[str, deque[dict[str, Any]]] = {name: deque(maxlen=_KEEP) for name in ("mail", "slack")}
        self.smtp_port = 0
        self.url = ""

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[None]:
        """On two free ports of loopback."""
        loop = asyncio.get_running_loop()
        app = web.Application(client_max_size=4 * 2**20)
        app.add_routes([web.get(path, self._show) for path in ("/", "/mail", "/slack", "/mail.json", "/slack.json")])
        app.add_routes([web.post("/services/{rest:.*}", self._take_post)])
        runner = web.AppRunner(app, access_log=None)
        smtp = await loop.create_server(lambda: SMTP(self, hostname="inbox", loop=loop), "127.0.0.1", 0)
        self.smtp_port = smtp.sockets[0].getsockname()[1]
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield
        finally:
            await runner.cleanup()
            smtp.close()

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
        self._messages["mail"].appendleft(mail)
        self._on_message(f"mail   {mail['subject']}")
        return "250 OK"

    async def _take_post(self, request: web.Request) -> web.Response:
        """Slack's incoming webhook answers the literal ``ok``."""
        try:
            payload = await request.json()
        except json.JSONDecodeError:
            return web.Response(status=400, text="invalid_payload")
        text = "\n".join(dict.fromkeys(_slack_texts(payload)))
        self._messages["slack"].appendleft({"at": self._clock.now().isoformat(), "text": text})
        self._on_message(f"slack  {text.strip().splitlines()[0] if text.strip() else '(empty)'}")
        return web.Response(text="ok")

    async def _show(self, request: web.Request) -> web.Response:
        name, _, form = (request.path.strip("/") or "mail").partition(".")
        messages = self._messages[name]
        if form == "json":
            return web.json_response(list(messages))
        articles = "".join(f"<article>{_article(message)}</article>" for message in messages)
        title = name.title()
        return web.Response(
            content_type="text/html",
            text=f"<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
            f"<meta http-equiv=refresh content=10><title>{title}</title><style>{_STYLE}</style>"
            f"<h1>{title}</h1><p><a href='/mail'>Mail</a> · <a href='/slack'>Slack</a></p>"
            f"{articles or '<p>Nothing yet.</p>'}",
        )


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


def _article(message: Mapping[str, Any]) -> str:
    time, text = f"{datetime.fromisoformat(message['at']):%H:%M:%S}", message["text"]
    if "subject" not in message:  # from Slack's webhook
        return f"<small>{time}</small><pre>{html.escape(text)}</pre>"
    page, body = message["html"], ""
    if page is not None:
        body += f'<iframe sandbox="" srcdoc="{html.escape(page, quote=True)}"></iframe>'
    if text is not None:
        body += f"<details{'' if page else ' open'}><summary>text</summary><pre>{html.escape(text)}</pre></details>"
    path = html.escape(f"{time} · {message['from']} → {', '.join(message['to'])}")
    return f"<h2>{html.escape(message['subject'])}</h2><small>{path}</small>{body}"
