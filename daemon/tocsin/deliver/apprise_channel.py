"""Channels that are apprise URLs: the blocking half, and the only module that imports apprise. What does not suit a
daemon is off: its thread pool, timeouts, sleeps, retries, redirects, pictures from the web, schemes that act on this
machine, and its log, which shows secrets: what it says about a failure becomes a masked note."""

import json
import logging
import re
import smtplib
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from email.utils import formataddr
from functools import lru_cache, partial
from math import inf
from typing import Any, Literal
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

import structlog
from apprise import Apprise, AppriseAsset, AppriseAttachment, NotifyFormat, NotifyType, OverflowMode
from apprise.attachment.memory import AttachMemory
from apprise.conversion import convert_between
from apprise.exception import AppriseImproperlyConfigured
from apprise.manager_plugins import NotificationManager
from apprise.plugins import NotifyBase
from apprise.plugins.email.base import NotifyEmail
from apprise.plugins.email.smtp import SMTPSecureMode
from apprise.plugins.irc import client as irc
from apprise.plugins.slack import NotifySlack
from apprise.utils.socket import AppriseSocketError, SocketTransport

from tocsin.config.model import Channel
from tocsin.deliver import bounded, mail, services
from tocsin.deliver.cards import COMPLETIONS, Completion
from tocsin.deliver.escape import to_one_line, truncate
from tocsin.deliver.message import Message, Tone
from tocsin.deliver.outgoing import Outgoing
from tocsin.deliver.reach import Server
from tocsin.deliver.render import Rendered, Renderer
from tocsin.deliver.result import Cause, SendResult, delivered, failed, refused, result_of_answer
from tocsin.deliver.services import ALLOWED, Service, ServiceFormat
from tocsin.deliver.webhook import ssl_context
from tocsin.kit.clock import Clock
from tocsin.kit.mask import mask, secrets_of
from tocsin.kit.strings import did_you_mean

log = structlog.get_logger(__name__)

_LONGEST_WAIT = timedelta(hours=1)
_SHORT_WAIT_SECONDS = 3.0
_LOG_LINES: bounded.ThreadLog[str] = bounded.ThreadLog(20)
_LOGGED_CAUSES = ("Response Details", "Socket Exception", "I/O Exception")  # that apprise logs at DEBUG
_PORTS = {"mqtt": 1883, "mqtts": 8883, "irc": 6667, "ircs": 6697, "amqp": 5672, "amqps": 5671, "smpp": 2775}
_OTHER_URLS = frozenset({"app_url", "request_url", "service_url", "setup_url"})  # of a plugin, for people
_NOTIFY_TYPES = dict(
    zip(Tone, (NotifyType.INFO, NotifyType.SUCCESS, NotifyType.WARNING, NotifyType.FAILURE), strict=True)
)
_NOTIFY_FORMATS = dict.fromkeys((ServiceFormat.MARKDOWN, ServiceFormat.CARD), NotifyFormat.MARKDOWN)
_NOTIFY_FORMATS[ServiceFormat.HTML] = NotifyFormat.HTML


@dataclass(eq=False)
class AppriseSender:
    """Sends to one apprise channel's receiver. Threads share it; each has its own plugin."""

    channel: Channel
    clock: Clock
    slack_url: str | None = None

    def __post_init__(self) -> None:
        _prepare_apprise()
        self._local = threading.local()
        self._renderer: Renderer | None = None
        self._mailbox = mail.Mailbox(self.clock)

    def send(self, outgoing: Outgoing) -> SendResult:
        problem = self._connect()
        if problem is not None:
            return problem
        plugin, service, rendered = self._render(outgoing)
        if isinstance(plugin, NotifyEmail):
            result = self._mail(plugin, rendered, outgoing)
        else:
            result = self._notify(plugin, service, rendered, outgoing)
        for note in rendered.notes:
            log.warning("template_problem", channel=self.channel.name, note=note)
        return replace(result, note="; ".join(part for part in (result.note, *rendered.notes) if part))

    def preview(self, outgoing: Outgoing) -> tuple[str, str, str | None]:
        """Title, text and, of mails, HTML of what would be sent. Raises ``ValueError`` with the reason why nothing can."""
        problem = self._connect()
        if problem is not None:
            raise ValueError(problem.note)
        plugin, service, rendered = self._render(outgoing)
        if isinstance(plugin, NotifyEmail):
            return rendered.subject, rendered.text or "", rendered.html
        title, body = services.format_message(service, rendered)
        complete = self._completion(plugin, rendered)
        if complete is not None:
            body = json.dumps(complete({"title": title, "message": body}), indent=2, ensure_ascii=False)
        return title, body, None

    def _connect(self) -> SendResult | None:
        """Why there is no plugin of this thread, or None."""
        if self.channel.url is None:
            return refused("the channel has no apprise URL", cause=Cause.URL)
        try:
            url = self.channel.url.reveal().strip()
        except OSError as error:
            return failed(f"cannot read the channel's URL: {error.strerror or error}", cause=Cause.URL)
        if getattr(self._local, "url", None) != url:
            self._renew_plugin(url)
        plugin: NotifyBase | str = self._local.plugin
        return refused(plugin, cause=Cause.URL) if isinstance(plugin, str) else None

    def _render(self, outgoing: Outgoing) -> tuple[NotifyBase, Service, Rendered]:
        service: Service = self._local.service
        templates, template = outgoing.config.template_texts, self.channel.template
        renderer = self._renderer
        if renderer is None or renderer.templates is not templates:
            renderer = self._renderer = Renderer(templates)
        notice, kind = outgoing.notification.notice, service.kind
        fits = partial(services.message_fits, service)
        rendered = renderer.render(notice, outgoing.facts, outgoing.config, kind, template, service.dialect, fits)
        return self._local.plugin, service, rendered

    def _completion(
        self, plugin: NotifyBase, rendered: Rendered
    ) -> Callable[[Mapping[str, Any]], Mapping[str, Any]] | None:
        """How the service's best form is made of what the plugin sends; not where the operator chose another."""
        complete = next((COMPLETIONS[name] for name in plugin.schemas() if name in COMPLETIONS), None)
        if complete is None or not rendered.built_in or "format=" in self._local.url:
            return None
        return partial(_complete, complete, replace(rendered.message, headline=rendered.subject))

    def _renew_plugin(self, url: str) -> None:
        plugin = _connect(url, self.channel, self.slack_url)
        host_is_public = False  # in the URLs of most services the place of a host holds a token
        if not isinstance(plugin, str):
            host_is_public = "host" in plugin.template_tokens
            self._local.service = _prepare_plugin(plugin, url, self.channel.template)
        proxies = [part for name, proxy in getproxies().items() if name != "no" for part in secrets_of(proxy)]
        self._local.secrets = secrets_of(url, host_is_public=host_is_public) + proxies
        self._local.plugin, self._local.url = plugin, url
        self._local.session = bounded.KeptSession()

    def _mail(self, plugin: NotifyEmail, rendered: Rendered, outgoing: Outgoing) -> SendResult:
        try:
            envelope = _envelope(plugin, self._local.url)
        except mail.BadMailAddress as error:
            return refused(str(error), cause=Cause.MAIL_ADDRESS)
        if rendered.text is None and rendered.html is not None:  # of an own template that made HTML alone
            text = convert_between(NotifyFormat.HTML, NotifyFormat.TEXT, rendered.html)
            rendered = replace(rendered, text=str(text))
        connect = partial(_connect_smtp, plugin, self.channel)
        result = self._mailbox.send(envelope, connect, plugin.headers, outgoing.notification, rendered)
        user, password = plugin.user or "", plugin.password or ""
        logins = [b64encode(text.encode()).decode() for text in (f"\0{user}\0{password}", password)]
        return replace(result, note=mask(result.note, [password, *logins] if password else []))

    def _notify(self, plugin: NotifyBase, service: Service, rendered: Rendered, outgoing: Outgoing) -> SendResult:
        body_format: NotifyFormat | None = None  # undeclared: sent as it is
        if service.format is ServiceFormat.MAIL:
            title, body = rendered.subject, rendered.html or rendered.text or ""
            body_format = NotifyFormat.HTML if rendered.html else NotifyFormat.TEXT
        else:
            title, body = services.format_message(service, rendered)
            body = body or title or " "
        attachment = None
        if plugin.attachment_support and (texts := mail.attachments(outgoing.notification.notice, rendered)):
            attachment = AppriseAttachment(asset=plugin.asset)
            attachment.attachments = [AttachMemory(text, name) for name, text in texts]
        notify_type = _NOTIFY_TYPES[rendered.message.tone]
        asked = bounded.completed(self._completion(plugin, rendered))
        with _LOG_LINES.collect() as lines, bounded.ANSWERS.collect() as answers, self._local.session.lent(), asked:
            try:
                sent = plugin.notify(
                    body=body, title=title, notify_type=notify_type, body_format=body_format, attach=attachment
                )
            except AppriseImproperlyConfigured as error:
                return refused(mask(str(error), self._local.secrets))
            except _MustWait as error:
                return failed(str(error), error.wait, cause=Cause.RATE_LIMITED)
            except Exception as error:  # noqa: BLE001 - a plugin that raises is one failed attempt, and is retried
                sent = False
                lines.append(f"{type(error).__name__}: {error}")
        if sent:
            return delivered()
        self._local.url = None  # some plugins keep a connection: the next attempt gets a new one
        note = " / ".join(mask(line, self._local.secrets) for line in lines if line.strip())
        answer = answers[-1] if answers else None
        return result_of_answer(answer, note or "apprise gave no reason", self.clock.now())


def _complete(complete: Completion, message: Message, document: Mapping[str, Any]) -> Mapping[str, Any]:
    return complete(document, message)


def inspect_url(url: str) -> tuple[str | None, tuple[str, ...]]:
    """Why this cannot be a channel's URL, in one line without secrets, None when it can; and what is wrong with those
    recipients of a mail URL that would not get what the others do."""
    _prepare_apprise()
    plugin = _connect(url.strip(), Channel(name="check", receiver="check"), None)
    if not isinstance(plugin, NotifyEmail):
        return plugin if isinstance(plugin, str) else None, ()
    try:
        envelope = _envelope(plugin, url.strip())
    except mail.BadMailAddress as error:
        return str(error), ()
    return None if envelope.recipients else "; ".join(envelope.bad) or None, envelope.bad


def server_of(url: str, channel: Channel) -> Server:
    """Where a send to this URL connects to. Raises ``ValueError`` with the reason why that is not known."""
    _prepare_apprise()
    plugin = _connect(url.strip(), channel, None)
    if isinstance(plugin, str):
        raise ValueError(plugin)
    untyped: Any = plugin
    if isinstance(plugin, NotifyEmail):
        modes: dict[str, Literal["tls", "starttls"]] = {SMTPSecureMode.SSL: "tls", SMTPSecureMode.STARTTLS: "starttls"}
        return Server(untyped.smtp_host, untyped.port, modes.get(untyped.secure_mode, ""))
    scheme = url.partition(":")[0].strip().lower()
    if "host" in plugin.template_tokens and plugin.host:
        port = plugin.port or _PORTS.get(scheme) or (443 if plugin.secure else 80)
        return Server(plugin.host, port, "tls" if plugin.secure else "")
    names = ["notify_url", "webhook_url", *(name for name in dir(type(plugin)) if name.endswith("_url"))]
    for name in (name for name in names if name not in _OTHER_URLS):
        address = getattr(type(plugin), name, None)
        if isinstance(address, str) and (host := urlsplit(address).hostname) and "{" not in host:
            return Server(host, urlsplit(address).port or 443, "tls")
    raise ValueError(f"where {scheme}:// connects to is known to apprise alone")


def _connect(url: str, channel: Channel, slack_url: str | None) -> NotifyBase | str:
    """A plugin that suits a daemon, or one line that says why there is none."""
    scheme = url.partition(":")[0].strip().lower()
    if scheme not in ALLOWED | {"https"}:
        if scheme in NotificationManager().schemas(include_disabled=True):
            return f"{scheme!r} is not allowed"
        if not url or ("://" in url and scheme.isalpha() and len(scheme) <= 20):
            return f"{scheme!r} is not a scheme that apprise knows{did_you_mean(scheme, ALLOWED)}"
        return "its beginning is not a scheme that apprise knows"
    asset = AppriseAsset(
        service_timeout=0,  # 0: in the calling thread, with no deadline of its own
        http_redirects=False,
        app_id="Tocsin",
        app_desc="The alarm bell for Dataiku DSS",
        image_url_mask="",
        image_path_mask="",
        result_log_disk_size=0,
    )
    with _LOG_LINES.collect() as lines:
        plugin = Apprise.instantiate(url, asset=asset)
    if plugin is None:
        line = next((line for line in reversed(lines) if "is disabled" in line or "invalid" in line.lower()), "")
        reason = f": {mask(line, secrets_of(url))}" if line else ""
        return f"apprise cannot read the {scheme}:// URL{truncate(reason, 200)}"
    if not isinstance(plugin, NotifyEmail) and len(plugin) == 0:
        return f"the {scheme}:// URL names nobody to notify, or in a way that apprise cannot read"
    untyped: Any = plugin
    plugin.request_rate_per_sec = 0  # despite its name the seconds that it sleeps between sends
    untyped.throttle = _throttle
    plugin.retry = 0
    longest = 0.45 * channel.timeout.total_seconds()
    plugin.socket_connect_timeout = min(float(plugin.socket_connect_timeout), longest)
    plugin.socket_read_timeout = min(float(plugin.socket_read_timeout), longest)
    if not channel.tls.verify:
        plugin.verify_certificate = False
    elif channel.tls.ca_file:
        untyped.verify_certificate = channel.tls.ca_file  # requests takes a file's name here too
    if set(plugin.schemas()) & {"mqtt", "mqtts"}:
        untyped.qos = max(untyped.qos, 1)  # below it a message counts as sent when it is written to the socket
        untyped.client._sock_recv = _bounded_recv(untyped.client._sock_recv)  # a packet may have 256 MB
    if isinstance(plugin, NotifySlack):
        plugin.use_blocks = True  # the one mode in which text that is already escaped stays as it is
        plugin.include_footer = plugin.include_image = False
        if slack_url is not None:
            plugin.webhook_url = slack_url
    return plugin


class _MustWait(Exception):
    def __init__(self, wait: timedelta) -> None:
        super().__init__("the service asks for fewer messages")
        self.wait = wait


def _throttle(last_io: object = None, wait: float | None = None) -> None:
    """Instead of a plugin's sleep between requests: a short wait is slept, a longer one paused by the channel."""
    if wait is not None and wait > _SHORT_WAIT_SECONDS:
        raise _MustWait(timedelta(seconds=min(wait, _LONGEST_WAIT.total_seconds())))
    if wait is not None and wait > 0:
        threading.Event().wait(wait)


def _prepare_plugin(plugin: NotifyBase, url: str, template: str | None) -> Service:
    """From now on the plugin passes on what it is given, converts nothing and cuts nothing."""
    untyped: Any = plugin
    schemes = set(plugin.schemas())
    supported: Any = type(plugin).notify_format  # one, or several
    requested = plugin.resolve_format()
    format_ = services.service_format(schemes, requested.value)
    if format_ not in (ServiceFormat.MAIL, ServiceFormat.SLACK):
        wanted = _NOTIFY_FORMATS.get(format_, NotifyFormat.TEXT)
        known = wanted in supported if isinstance(supported, tuple) else wanted is supported
        usable = known or (wanted is requested and services.known_format(schemes) is None)
        plugin.notify_format = wanted if usable else supported
        untyped._format_override = None  # a format that the service has but is not to use
    body, title, inside = plugin.body_maxlen, plugin.title_maxlen, plugin.overflow_amalgamate_title
    service = services.describe_service(schemes, format_, template, body, title, inside=inside)
    if "overflow=" in url:
        return replace(service, limit=inf)
    plugin.overflow_mode = OverflowMode.UPSTREAM
    return service


def _envelope(plugin: NotifyEmail, url: str) -> mail.Envelope:
    """What a mail URL says; apprise leaves out what it cannot read, and what stands behind a semicolon. Raises
    ``BadMailAddress`` for the sender and the server."""
    if not plugin.smtp_host:
        raise mail.BadMailAddress("the URL names no mail server, or in a way that apprise cannot read")
    parameters: dict[str, list[str]] = {}  # as they were before apprise read them
    for part in re.split(r"&|;(?=\s*[-+:]?[A-Za-z]+=)", url.partition("?")[2]):
        name, equals, value = part.partition("=")
        if equals:
            parameters.setdefault(unquote(name).strip().lower(), []).append(unquote(value))
    path = [unquote(part) for part in urlsplit(url).path.split("/") if part]
    in_path, bad_path = mail.parse_addresses(path)
    to, bad = mail.parse_addresses(parameters.get("to", ()))
    to = (*in_path, *to)
    if bad_path:  # perhaps part of a password, so it is not shown
        bad = ("what stands behind the server's name is not a mail address", *bad)
    if not path and "to" not in parameters:
        to, bad = mail.parse_addresses(_format_address(target) for target in plugin.targets)
    (cc, bad_cc), (bcc, bad_bcc), (reply_to, bad_reply_to) = (
        mail.parse_addresses(parameters.get(name, ())) for name in ("cc", "bcc", "reply")
    )
    sender = next((text for text in parameters.get("from", ()) if "@" in text), _format_address(plugin.from_addr))
    bad = (*bad, *bad_cc, *bad_bcc, *bad_reply_to)
    return mail.Envelope(mail.parse_address(sender), to, cc, bcc, reply_to, bad)


def _format_address(address: Sequence[object]) -> str:
    name, spec = address
    return formataddr((str(name or ""), str(spec)), "utf-8")


@contextmanager
def _connect_smtp(plugin: NotifyEmail, channel: Channel) -> Iterator[smtplib.SMTP]:
    """Lasts as long as the channel waits for a send."""
    context = ssl_context(replace(channel.tls, verify=bool(plugin.verify_certificate)))
    host, port, patience = plugin.smtp_host, plugin.port or 0, channel.timeout.total_seconds()
    server: smtplib.SMTP
    if plugin.secure_mode == SMTPSecureMode.SSL:
        server = bounded.BoundedSMTPS(host, port, plugin.socket_connect_timeout, patience, context)
    else:
        server = bounded.BoundedSMTP(host, port, plugin.socket_connect_timeout, patience)
    try:
        if plugin.secure_mode == SMTPSecureMode.STARTTLS:
            server.starttls(context=context)
        if plugin.user and plugin.password:
            mail.log_in(server, plugin.user, plugin.password)
        yield server
    finally:
        with suppress(OSError, smtplib.SMTPException):
            server.quit()


@lru_cache(maxsize=1)
def _prepare_apprise() -> None:
    """Once a process: allow schemes, and listen to apprise's log instead of letting it out."""
    logger = logging.getLogger("apprise")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.handlers = [_LogHandler()]
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # below, it logs addresses with their tokens
    NotificationManager().enable_only(*ALLOWED)
    bounded.install_bounds()
    irc.SocketTransport = _BoundedTransport  # type: ignore[attr-defined]


class _BoundedTransport(SocketTransport):  # for IRC
    _received = 0

    def read(self, *args: Any, **more: Any) -> bytes:
        data = super().read(*args, **more)
        self._received += len(data)
        if self._received > bounded.MAX_BYTES:
            raise AppriseSocketError("the server says too much")
        return data


def _bounded_recv(recv: Callable[[int], bytes]) -> Callable[[int], bytes]:
    received = 0

    def bounded_recv(size: int) -> bytes:
        nonlocal received
        data = recv(min(size, 65_536))
        received += len(data)
        return data if received <= bounded.MAX_BYTES else b""  # as if the server had closed the connection

    return bounded_recv


class _LogHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or str(record.msg).startswith(_LOGGED_CAUSES):
            _LOG_LINES.append(to_one_line(record.getMessage(), 400))
