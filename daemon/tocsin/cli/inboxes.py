"""The inboxes of the demo: a real SMTP server, an emulated Slack and an emulated PagerDuty, readable in the browser.

What they show came over the wire as any receiver would get it.
"""

import asyncio
import email
import html
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from email import policy
from functools import partial
from typing import Any

from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope, Session

from tocsin.kit.clock import Clock
from tocsin.sim.services import EmulatedPagerDuty, EmulatedSlack, SlackMessage, service_routes

SLACK_TOKEN, SLACK_CHANNEL = "xoxb-demo", "C0ALERTS"
ROUTING_KEY = "d" * 32
_KEEP = 200
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "article{border:1px solid #8886;border-radius:8px;padding:.6rem 1rem;margin:1rem 0}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#8881;padding:.3rem .6rem;border-radius:6px}"
    "iframe{width:100%;height:32rem;border:0;background:#fff}h2{font-size:1rem;margin:.2rem 0}small{opacity:.7}"
    ".fields{display:grid;grid-template-columns:1fr 1fr;gap:.3rem 1rem}.reply{margin:.3rem 0 0 1.5rem}"
    ".button{display:inline-block;border:1px solid #8886;border-radius:6px;padding:.1rem .6rem;margin:.3rem .3rem 0 0}"
    ".triggered{color:#b3261e}.acknowledged{color:#8a5a00}.resolved{color:#1a7f37}b.status{text-transform:uppercase}"
)
_LINK = re.compile(r"&lt;(https?://[^|&]*(?:&amp;[^|&]*)*)\|(.*?)&gt;")


class Inboxes:
    """The inboxes and the pages that show them. ``on_message`` gets a line for each thing that happens."""

    def __init__(self, clock: Clock, on_message: Callable[[str], None]) -> None:
        self._clock = clock
        self._on_message = on_message
        self._mails: deque[dict[str, Any]] = deque(maxlen=_KEEP)
        self._slack = EmulatedSlack(clock.now, SLACK_TOKEN)
        self._pagerduty = EmulatedPagerDuty(clock.now, ROUTING_KEY)
        self._slack.on_change = lambda line: on_message(f"slack  {line}")
        self._pagerduty.on_change = lambda line: on_message(f"pager  {line}")
        self.smtp_port = self.port = 0
        self.url = ""

    @asynccontextmanager
    async def listen(self, host: str, port: int) -> AsyncIterator[None]:
        """The pages on ``host``, on ``port`` if it is free; mail on a free port of loopback. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        app = web.Application(client_max_size=4 * 2**20)
        names = ("mail", "slack", "pagerduty")
        app.add_routes([web.get(f"/{name}{form}", self._show) for name in names for form in ("", ".json")])
        app.add_routes([web.get("/", self._show), *service_routes(self._slack, self._pagerduty)])
        runner = web.AppRunner(app, access_log=None)
        smtp = await loop.create_server(lambda: SMTP(self, hostname="inbox", loop=loop), "127.0.0.1", 0)
        self.smtp_port = smtp.sockets[0].getsockname()[1]
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError:
                await web.TCPSite(runner, host, 0).start()
            self.port = runner.addresses[0][1]
            reached = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
            self.url = f"http://{reached}:{self.port}"
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
        self._mails.appendleft(mail)
        self._on_message(f"mail   {mail['subject']}")
        return "250 OK"

    async def _show(self, request: web.Request) -> web.Response:
        name, _, form = (request.path.strip("/") or "mail").partition(".")
        messages = self._slack.messages.get(SLACK_CHANNEL, [])
        if form == "json":
            incidents = [{**asdict(incident), "event": None} for incident in reversed(self._pagerduty.incidents)]
            listed = {"mail": list(self._mails), "slack": list(map(asdict, reversed(messages))), "pagerduty": incidents}
            return web.json_response(listed[name], dumps=partial(json.dumps, default=str))
        articles: Iterable[str] = map(_mail, self._mails)
        if name == "slack":
            roots = [message for message in reversed(messages) if message.thread_ts is None]
            articles = (_slack(root, [item for item in messages if item.thread_ts == root.ts]) for root in roots)
        elif name == "pagerduty":
            articles = (_incident(asdict(incident)) for incident in reversed(self._pagerduty.incidents))
        body = "".join(f"<article>{article}</article>" for article in articles)
        title = {"pagerduty": "PagerDuty"}.get(name, name.title())
        return web.Response(
            content_type="text/html",
            text=f"<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
            f"<meta http-equiv=refresh content=5><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
            "<p><a href='/mail'>Mail</a> · <a href='/slack'>Slack</a> · <a href='/pagerduty'>PagerDuty</a></p>"
            f"{body or '<p>Nothing yet.</p>'}",
        )


def _mail(mail: Mapping[str, Any]) -> str:
    page, body = mail["html"], ""
    if page is not None:
        body += f'<iframe sandbox="" srcdoc="{html.escape(page, quote=True)}"></iframe>'
    if (text := mail["text"]) is not None:
        body += f"<details{'' if page else ' open'}><summary>text</summary><pre>{html.escape(text)}</pre></details>"
    path = html.escape(f"{mail['at'][11:19]} · {mail['from']} → {', '.join(mail['to'])}")
    return f"<h2>{html.escape(mail['subject'])}</h2><small>{path}</small>{body}"


def _slack(root: SlackMessage, replies: list[SlackMessage]) -> str:
    blocks = "".join(map(_block, root.blocks)) or _mrkdwn(root.text)
    edited = f" <small>(edited {root.edits}×)</small>" if root.edits else ""
    return blocks + edited + "".join(f'<div class="reply">{_mrkdwn(reply.text)}</div>' for reply in replies)


def _block(block: Mapping[str, Any]) -> str:
    match block["type"]:
        case "header":
            return f"<h2>{html.escape(block['text']['text'])}</h2>"
        case "section" if "fields" in block:
            fields = "".join(f"<div>{_mrkdwn(field['text'])}</div>" for field in block["fields"])
            return f'<div class="fields">{fields}</div>'
        case "section":
            return f"<div>{_mrkdwn(block['text']['text'])}</div>"
        case "actions":
            buttons = ((html.escape(item["url"], quote=True), item["text"]["text"]) for item in block["elements"])
            return "".join(f'<a class="button" href="{url}">{html.escape(text)}</a>' for url, text in buttons)
        case "context":
            return f"<small>{' '.join(_mrkdwn(item['text']) for item in block['elements'])}</small>"
    return "<hr>"


def _mrkdwn(text: str) -> str:
    """As Slack shows it: entities are decoded, bold and links are, a fence is a block."""
    parts = html.escape(html.unescape(text)).split("```")
    for number, part in enumerate(parts):
        if number % 2:
            parts[number] = f"<pre>{part.strip()}</pre>"
        else:
            linked = _LINK.sub(lambda link: f'<a href="{link[1]}">{link[2]}</a>', part)
            parts[number] = re.sub(r"\*([^*\n]+)\*", r"<b>\1</b>", linked).replace("\n", "<br>")
    return "".join(parts)


def _incident(incident: Mapping[str, Any]) -> str:
    event = incident["event"] or {}
    status, payload = incident["status"], event.get("payload", {})
    details = "\n".join(f"{name}: {value}" for name, value in payload.get("custom_details", {}).items())
    links = "".join(
        f'<a class="button" href="{html.escape(link["href"], quote=True)}">{html.escape(link["text"])}</a>'
        for link in event.get("links", ())
    )
    times = f"opened {incident['opened_at']:%H:%M:%S}"
    if incident["ended_at"]:
        times += f", resolved {incident['ended_at']:%H:%M:%S}"
    what = html.escape(
        f"{incident['severity']} · {payload.get('source', '')} · {times} · {' → '.join(incident['actions'])}"
    )
    return (
        f"<b class='status {status}'>{status}</b><h2>{html.escape(incident['summary'])}</h2><small>{what}</small>"
        f"<details><summary>details</summary><pre>{html.escape(details)}</pre></details>{links}"
    )
