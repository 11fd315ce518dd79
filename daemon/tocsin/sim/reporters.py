"""Reporters of scenarios, really sent: mails through a channel's SMTP server, webhooks by HTTP.

What cannot be sent raises ``NotSent``; for a reporter of a run its words land in ``reportersStates``, where a watcher
can read that DSS itself failed to tell.
"""

import asyncio
import json
import smtplib
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid

import aiohttp

from tocsin.kit.clock import from_ms, isoformat, to_ms
from tocsin.sim.behaviour import Document, as_list
from tocsin.sim.formula import UnreadableFormula, evaluate_formula, fill_template, is_true
from tocsin.sim.nouns import SimRun, SimScenario
from tocsin.sim.variables import run_variables
from tocsin.sim.world import World

SEND_TIMEOUT_SECONDS = 15.0
_CLAZZ = "com.dataiku.dip.exceptions.MessagingException"
MAIL_TYPES = ("smtp", "aws-ses-mail", "microsoft-graph-mail")


class MessageNotSent(Exception):
    """A message that could not be sent; the text says why, in the words of what refused it."""


@dataclass(frozen=True, slots=True)
class SimMail:
    """One message. ``attachments`` are (name, content)."""

    to: tuple[str, ...]
    subject: str
    body: str
    sender: str = ""
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    html: bool = False
    attachments: tuple[tuple[str, bytes], ...] = ()


class Reporters:
    """Sends what reporters say."""

    def __init__(self, world: World, now: Callable[[], datetime]) -> None:
        self._world = world
        self._now = now

    async def report(self, scenario: SimScenario, run: SimRun, reporter: Document, outcome: str) -> None:
        """Let one reporter of a run send, if its condition holds; keep how that went in the run's document."""
        variables = run_variables(self._world, scenario, run, outcome)
        state: Document = {
            "reporterName": reporter["name"],
            "messagingType": reporter["messaging"].get("type"),
            "activated": _holds(reporter, variables),
            "messages": {"messages": []},
            "started": to_ms(self._now()),
        }
        if state["activated"]:
            try:
                await self.send(run, reporter["messaging"], variables)
            except MessageNotSent as error:
                state["error"] = {"clazz": _CLAZZ, "title": "Failed to send", "message": str(error), "stack": ""}
        state["ended"] = to_ms(self._now())
        run.document["reportersStates"].append(state)

    async def send(self, run: SimRun, messaging: Document, variables: Document) -> None:
        """Send one message. Raises ``NotSent``."""
        kind, configuration = str(messaging.get("type")), messaging.get("configuration") or {}
        try:
            if kind == "mail-scenario":
                for mail in self._mails(run, configuration, variables):
                    await self.send_mail(str(configuration.get("channelId") or ""), mail)
            elif kind == "webhook-scenario":
                await _call(configuration, variables)
            elif kind in ("slack-scenario", "msft-teams-scenario", "google-chat-scenario"):
                await self._chat(configuration, variables)
            else:
                raise MessageNotSent(f"{kind} is not emulated")
        except UnreadableFormula as error:
            raise MessageNotSent(f"freemarker.core.InvalidReferenceException: {error}") from None

    async def send_mail(self, channel_id: str, mail: SimMail, login: str = "") -> None:
        """Hand one mail to the SMTP server of a channel. Raises ``NotSent``."""
        channel = self._world.channels.get(channel_id)
        if channel is None or channel["type"] not in MAIL_TYPES:
            raise MessageNotSent(f"Messaging channel does not exist: {channel_id}")
        if channel["type"] != "smtp":
            raise MessageNotSent(f"Channels of type {channel['type']} are not emulated")
        configuration = channel["configuration"]
        sender = mail.sender or str(configuration.get("sender") or "")
        if configuration.get("useCurrentUserAsSender") and login:
            sender = login if "@" in login else f"{login}@example.com"
        domains = tuple(f"@{domain}" for domain in _addresses(str(configuration.get("authorizedDomain") or "")))
        everyone = (*mail.to, *mail.cc, *mail.bcc)
        if domains and (others := [address for address in everyone if not address.endswith(domains)]):
            raise MessageNotSent(f"Recipients outside of the authorized domains: {', '.join(others)}")
        if not everyone:
            raise MessageNotSent("The mail has no recipient")
        try:
            message = _message(mail, sender, self._now())
            await asyncio.to_thread(_deliver, configuration, sender, list(everyone), message)
        except (OSError, smtplib.SMTPException, ValueError) as error:
            raise MessageNotSent(f"{type(error).__name__}: {error}") from None

    def _mails(self, run: SimRun, configuration: Document, variables: Document) -> Iterable[SimMail]:
        subject = str(configuration.get("subject") or "DSS scenario ${scenarioName}: ${outcome}")
        stock = configuration.get("messageSource") == "TEMPLATE_FILE"
        attached = [a for a in as_list(configuration.get("attachments")) if a.get("type") == "LOG"]
        files = tuple(("scenario-run.log", run.log.text(self._world.zone).encode()) for _ in attached)
        strict = configuration.get("templateFormat") == "FREEMARKER"
        for to, more in _recipients(fill_template(str(configuration.get("recipient") or ""), variables)):
            known = {**variables, **more}
            sender, cc, bcc, message = (
                fill_template(
                    str(configuration.get(key) or ""), known, strict=strict and key == "message" and not stock
                )
                for key in ("sender", "ccRecipient", "bccRecipient", "message")
            )
            yield SimMail(
                to=to,
                subject=fill_template(subject, known),
                body=_stock_body(run, variables) if stock else message,
                sender=sender,
                cc=_addresses(cc),
                bcc=_addresses(bcc),
                html=bool(configuration.get("sendAsHTML")) and not stock,
                attachments=files,
            )

    async def _chat(self, configuration: Document, variables: Document) -> None:
        """A message to a webhook of a chat service."""
        channel = self._world.channels.get(str(configuration.get("channelId") or ""), {})
        url = configuration.get("webhookUrl") or channel.get("configuration", {}).get("webhookUrl")
        if not url:
            raise MessageNotSent("No webhook address; other ways to reach a chat service are not emulated")
        text = fill_template(str(configuration.get("message") or ""), variables)
        payload = {"text": text}
        if configuration.get("messageMode") == "BLOCK_KIT_API":
            payload = {"blocks": fill_template(str(configuration.get("blocks") or "[]"), variables)}
        await _post("POST", str(url), {"json": payload})


def _holds(reporter: Document, variables: Document) -> bool:
    if not reporter["runConditionEnabled"]:
        return True
    try:
        return is_true(evaluate_formula(str(reporter.get("runCondition") or ""), variables))
    except UnreadableFormula:
        return False


def _recipients(text: str) -> list[tuple[tuple[str, ...], Document]]:
    """Who gets a mail each, with the variables of that mail: a comma list, a JSON array, or individual mails."""
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    if isinstance(parsed, dict):
        mails = [(mail.get("to") or "", mail.get("variables") or {}) for mail in as_list(parsed.get("mails"))]
        return [(_addresses(str(to)), {f"mailVariables_{k}": v for k, v in own.items()}) for to, own in mails]
    return [(tuple(str(a) for a in parsed) if isinstance(parsed, list) else _addresses(text), {})]


def _addresses(text: str) -> tuple[str, ...]:
    return tuple(address.strip() for address in text.replace(";", ",").split(",") if address.strip())


def _stock_body(run: SimRun, variables: Document) -> str:
    """What the stock template tells, in plain text."""
    words = {
        "SUCCESS": "ran successfully",
        "WARNING": "ran with warnings",
        "FAILED": "failed",
        "ABORTED": "was aborted",
    }
    outcome = str(variables["outcome"])
    lines = [
        f"Scenario {variables['scenarioName']} in project {variables['projectKey']} {words.get(outcome, 'started')}",
        f"Started: {isoformat(from_ms(run.document['start']))} by {variables['triggerName'] or 'hand'}",
        *(f"- {s['step']['name']}: {s['result']['outcome']}" for s in run.step_runs if "result" in s),
        str(variables.get("scenarioRunURL", "")),
    ]
    return "\n".join(lines) + "\n"


def _message(mail: SimMail, sender: str, now: datetime) -> EmailMessage:
    message = EmailMessage()
    message["From"] = sender or "dss@localhost"
    message["To"] = ", ".join(mail.to)
    if mail.cc:
        message["Cc"] = ", ".join(mail.cc)
    message["Subject"] = " ".join(mail.subject.split())
    message["Date"] = format_datetime(now)
    message["Message-ID"] = make_msgid(domain="dss.localhost")
    message.set_content(mail.body, subtype="html" if mail.html else "plain")
    for name, content in mail.attachments:
        message.add_attachment(content, maintype="text", subtype="plain", filename=name)
    return message


def _deliver(configuration: Document, sender: str, everyone: list[str], message: EmailMessage) -> None:
    """Talk to the SMTP server; blocks."""
    host, port = str(configuration.get("host") or "localhost"), int(configuration.get("port") or 25)
    connect = smtplib.SMTP_SSL if configuration.get("useSSL") else smtplib.SMTP
    with connect(host, port, timeout=SEND_TIMEOUT_SECONDS) as server:
        if configuration.get("useTLS") and not configuration.get("useSSL"):
            server.starttls(context=ssl.create_default_context())
        if configuration.get("login"):
            server.login(str(configuration["login"]), str(configuration.get("password") or ""))
        server.send_message(message, from_addr=sender or "dss@localhost", to_addrs=everyone)


async def _call(configuration: Document, variables: Document) -> None:
    """A webhook reporter: method, address, query, headers and body as configured, templates filled."""

    def filled(key: str) -> dict[str, str]:
        return {
            str(p["key"]): fill_template(str(p.get("value", "")), variables) for p in as_list(configuration.get(key))
        }

    mime = str(configuration.get("mime") or "application/json")
    headers = {"Content-Type": mime, **filled("headers")}
    body: Document = {"data": fill_template(str(configuration.get("payload") or ""), variables).encode()}
    if mime == "application/x-www-form-urlencoded":
        body = {"data": filled("form")}
    method = str(configuration.get("method") or "POST").upper()
    if method == "GET":
        body = {}
    url = fill_template(str(configuration.get("url") or ""), variables)
    await _post(method, url, {"headers": headers, "params": filled("parameters"), **body})


async def _post(method: str, url: str, options: Document) -> None:
    timeout = aiohttp.ClientTimeout(total=SEND_TIMEOUT_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.request(method, url, **options) as reply:
            if reply.status >= 400:
                raise MessageNotSent(f"HTTP {reply.status} from the webhook: {(await reply.text())[:200]}")
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise MessageNotSent(f"{type(error).__name__}: {error}") from None
