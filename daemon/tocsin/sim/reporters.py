"""Reporters of scenarios, really sent: mails through a channel's SMTP server, webhooks by HTTP; and test reports.

For a reporter of a run, a failure lands in ``reportersStates``, where a watcher can read that DSS failed to notify.
"""

import asyncio
import json
import re
import smtplib
import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from html import escape
from xml.etree import ElementTree

import aiohttp

from tocsin.kit.clock import from_ms, isoformat, to_ms
from tocsin.sim.behaviour import Document, SimError, as_list
from tocsin.sim.entities import SimProject, SimRun, SimScenario
from tocsin.sim.formula import UnreadableFormula, evaluate_formula, fill_template, is_true
from tocsin.sim.world import World

SEND_TIMEOUT_SECONDS = 15.0
MAIL_TYPES = ("smtp", "aws-ses-mail", "microsoft-graph-mail")
_CHATS = ("slack-scenario", "msft-teams-scenario", "google-chat-scenario")
_PHRASES = {"SUCCESS": "ran successfully", "WARNING": "ran with warnings", "FAILED": "failed", "ABORTED": "was aborted"}
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


class MessageNotSent(SimError):
    status = 500
    clazz = "com.dataiku.dip.exceptions.MessagingException"


@dataclass(frozen=True, slots=True)
class SimMail:
    to: tuple[str, ...]
    subject: str
    body: str
    sender: str = ""
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    html: bool = False
    attachments: tuple[tuple[str, bytes], ...] = ()  # (name, content)


@dataclass(frozen=True, slots=True)
class Reporters:
    world: World
    now: Callable[[], datetime]

    async def report(self, scenario: SimScenario, run: SimRun, reporter: Document, outcome: str) -> None:
        variables = self.world.run_variables(scenario, run, outcome)
        try:
            condition = str(reporter.get("runCondition") or "")
            activated = not reporter["runConditionEnabled"] or is_true(evaluate_formula(condition, variables))
        except UnreadableFormula:
            activated = False
        state: Document = {
            "reporterName": reporter["name"],
            "messagingType": reporter["messaging"].get("type"),
            "activated": activated,
            "messages": {"messages": []},
            "started": to_ms(self.now()),
        }
        if activated:
            try:
                await self.send(run, reporter["messaging"], variables)
            except MessageNotSent as error:
                state["error"] = {**error.thrown, "title": "Failed to send"}
        state["ended"] = to_ms(self.now())
        run.document["reportersStates"].append(state)

    async def send(self, run: SimRun, messaging: Document, variables: Document) -> None:
        kind, configuration = str(messaging.get("type")), messaging.get("configuration") or {}
        try:
            if kind == "mail-scenario":
                for mail in self._mails(run, configuration, variables):
                    await self.send_mail(str(configuration.get("channelId") or ""), mail)
            elif kind == "webhook-scenario":
                await _send_webhook(configuration, variables)
            elif kind in _CHATS:
                channel = self.world.channels.get(str(configuration.get("channelId") or ""), {})
                url = configuration.get("webhookUrl") or channel.get("configuration", {}).get("webhookUrl")
                if not url:
                    raise MessageNotSent("No webhook address; other ways to reach a chat service are not emulated")
                payload = {"text": _filled(configuration, "message", variables)}
                if configuration.get("messageMode") == "BLOCK_KIT_API":
                    payload = {"blocks": _filled(configuration, "blocks", variables, "[]")}
                await _request("POST", str(url), {"json": payload})
            else:
                raise MessageNotSent(f"{kind} is not emulated")
        except UnreadableFormula as error:
            raise MessageNotSent(f"freemarker.core.InvalidReferenceException: {error}") from None

    async def send_mail(self, channel_id: str, mail: SimMail, login: str = "") -> None:
        """Hand one mail to the SMTP server of a channel. Raises ``MessageNotSent``."""
        channel = self.world.channels.get(channel_id)
        if channel is None or channel["type"] not in MAIL_TYPES:
            raise MessageNotSent(f"Messaging channel does not exist: {channel_id}")
        if channel["type"] != "smtp":
            raise MessageNotSent(f"Channels of type {channel['type']} are not emulated")
        configuration = channel["configuration"]
        sender = mail.sender or str(configuration.get("sender") or "")
        if configuration.get("useCurrentUserAsSender") and login:
            sender = login if "@" in login else f"{login}@example.com"
        domains = tuple(f"@{domain}" for domain in _addresses(str(configuration.get("authorizedDomain") or "")))
        recipients = [*mail.to, *mail.cc, *mail.bcc]
        if domains and (others := [address for address in recipients if not address.endswith(domains)]):
            raise MessageNotSent(f"Recipients outside of the authorized domains: {', '.join(others)}")
        if not recipients:
            raise MessageNotSent("The mail has no recipient")
        try:
            message = EmailMessage()
            message["From"] = sender or "dss@localhost"
            message["To"] = ", ".join(mail.to)
            if mail.cc:
                message["Cc"] = ", ".join(mail.cc)
            message["Subject"] = " ".join(mail.subject.split())
            message["Date"] = format_datetime(self.now())
            message["Message-ID"] = make_msgid(domain="dss.localhost")
            message.set_content(mail.body, subtype="html" if mail.html else "plain")
            for name, content in mail.attachments:
                message.add_attachment(content, maintype="text", subtype="plain", filename=name)
            await asyncio.to_thread(_deliver, configuration, sender, recipients, message)
        except (OSError, smtplib.SMTPException, ValueError) as error:
            raise MessageNotSent(f"{type(error).__name__}: {error}") from None

    def _mails(self, run: SimRun, configuration: Document, variables: Document) -> Iterable[SimMail]:
        stock = configuration.get("messageSource") == "TEMPLATE_FILE"
        strict = configuration.get("templateFormat") == "FREEMARKER"
        logs = [a for a in as_list(configuration.get("attachments")) if a.get("type") == "LOG"]
        files = tuple(("scenario-run.log", run.log.text(self.world.zone).encode()) for _ in logs)
        phrase = _PHRASES.get(str(variables["outcome"]), "started")
        stock_lines = [
            f"Scenario {variables['scenarioName']} in project {variables['projectKey']} {phrase}",
            f"Started: {isoformat(from_ms(run.document['start']))} by {variables['triggerName'] or 'hand'}",
            *(f"- {step['step']['name']}: {step['result']['outcome']}" for step in run.step_runs if "result" in step),
            f"{variables.get('scenarioRunURL', '')}\n",
        ]
        for to, more in _recipients(_filled(configuration, "recipient", variables)):
            known = {**variables, **more}
            yield SimMail(
                to=to,
                subject=_filled(configuration, "subject", known, "DSS scenario ${scenarioName}: ${outcome}"),
                body="\n".join(stock_lines) if stock else _filled(configuration, "message", known, strict=strict),
                sender=_filled(configuration, "sender", known),
                cc=_addresses(_filled(configuration, "ccRecipient", known)),
                bcc=_addresses(_filled(configuration, "bccRecipient", known)),
                html=bool(configuration.get("sendAsHTML")) and not stock,
                attachments=files,
            )


def _filled(configuration: Document, key: str, variables: Document, default: str = "", strict: bool = False) -> str:
    return fill_template(str(configuration.get(key) or default), variables, strict=strict)


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


def _deliver(configuration: Document, sender: str, recipients: list[str], message: EmailMessage) -> None:
    host, port = str(configuration.get("host") or "localhost"), int(configuration.get("port") or 25)
    connect = smtplib.SMTP_SSL if configuration.get("useSSL") else smtplib.SMTP
    with connect(host, port, timeout=SEND_TIMEOUT_SECONDS) as server:
        if configuration.get("useTLS") and not configuration.get("useSSL"):
            server.starttls(context=ssl.create_default_context())
        if configuration.get("login"):
            server.login(str(configuration["login"]), str(configuration.get("password") or ""))
        server.send_message(message, from_addr=sender or "dss@localhost", to_addrs=recipients)


async def _send_webhook(configuration: Document, variables: Document) -> None:
    def filled(key: str) -> dict[str, str]:
        pairs = as_list(configuration.get(key))
        return {str(pair["key"]): fill_template(str(pair.get("value", "")), variables) for pair in pairs}

    mime = str(configuration.get("mime") or "application/json")
    method = str(configuration.get("method") or "POST").upper()
    options: Document = {"headers": {"Content-Type": mime, **filled("headers")}, "params": filled("parameters")}
    if mime == "application/x-www-form-urlencoded" and method != "GET":
        options["data"] = filled("form")
    elif method != "GET":
        options["data"] = _filled(configuration, "payload", variables).encode()
    await _request(method, _filled(configuration, "url", variables), options)


async def _request(method: str, url: str, options: Document) -> None:
    timeout = aiohttp.ClientTimeout(total=SEND_TIMEOUT_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.request(method, url, **options) as reply:
            if reply.status >= 400:
                raise MessageNotSent(f"HTTP {reply.status} from the webhook: {(await reply.text())[:200]}")
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise MessageNotSent(f"{type(error).__name__}: {error}") from None


def junit_run(run: SimRun, step_id: str | None = None) -> str | None:
    """A suite with a case for each step of a run, or for all attempts at one step; ``None`` if that did not run."""
    steps = [step for step in run.step_runs if step_id in (None, step["step"]["id"])]
    return _xml(_suite(run, steps)) if steps or step_id is None else None


def junit_project(project: SimProject) -> str:
    root = ElementTree.Element("testsuites", name=project.key)
    root.extend(_suite(run, run.step_runs) for _, run in _last_test_runs(project))
    return _xml(root)


def html_report(project: SimProject) -> str:
    rows = [(scenario.id, run.id, run.outcome) for scenario, run in _last_test_runs(project)]
    cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in ("<th>Scenario</th><th>Run</th><th>Outcome</th>", *cells))
    title = f"Test scenarios of {escape(project.key)}"
    head = f"<head><title>{title}</title></head>"
    return f"<!DOCTYPE html><html>{head}<body><h1>{title}</h1><table>{body}</table></body></html>"


def testing_status(project: SimProject) -> Document:
    outcomes = Counter(run.outcome for _, run in _last_test_runs(project))
    return {"nbTotalRanScenarios": outcomes.total(), "nbScenariosPerOutcome": dict(outcomes)}


def _last_test_runs(project: SimProject) -> list[tuple[SimScenario, SimRun]]:
    tests = [s for s in project.scenarios.values() if s.definition.get("markedAsTest")]
    return [(s, run) for s in tests if (run := next(s.newest_first(finished_only=True), None)) is not None]


def _suite(run: SimRun, steps: list[Document]) -> ElementTree.Element:
    scenario = run.document["scenario"]
    failed = [step for step in steps if step.get("result", {}).get("outcome") == "FAILED"]
    counts = {"tests": str(len(steps)), "failures": str(len(failed)), "errors": "0", "skipped": "0"}
    suite = ElementTree.Element("testsuite", {"name": f"{scenario['projectKey']}.{scenario['id']}", **counts})
    for step in steps:
        seconds = max(0, step["end"] - step["start"]) / 1000
        case_of = {"name": step["step"]["name"], "classname": scenario["id"], "time": f"{seconds:.3f}"}
        case = ElementTree.SubElement(suite, "testcase", case_of)
        if step in failed:
            items = [step["result"], *step["additionalReportItems"]]
            errors = (item["thrown"] for item in items if item.get("thrown") and item["outcome"] == "FAILED")
            thrown = next(errors, {"message": "failed", "stack": ""})
            ElementTree.SubElement(case, "failure", message=thrown["message"]).text = thrown["stack"]
    return suite


def _xml(root: ElementTree.Element) -> str:
    return _NOT_XML.sub("", ElementTree.tostring(root, encoding="unicode", xml_declaration=True))
