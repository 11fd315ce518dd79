"""Channels that are apprise URLs: the blocking half, and the only module that imports apprise.

What apprise does by itself and a daemon must not suffer is off: its process-wide thread pool and its timeouts (every
channel has threads of its own), its sleep between sends and its retries, redirects, schemes that act on this machine,
pictures from the web, and its log, which shows payloads and secrets: what it says about a failure is masked and kept
as the attempt's note. Attachments are texts in memory; no file or address can be named.
"""

import logging
import re
import smtplib
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from email.utils import formataddr
from functools import lru_cache
from importlib.resources import files
from typing import Any
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
from tocsin.deliver import bounded
from tocsin.deliver.context import Tone
from tocsin.deliver.escape import cut, one_line
from tocsin.deliver.mail import BadAddress, Envelope, address, addresses, attached
from tocsin.deliver.render import Rendered, Renderer
from tocsin.deliver.services import Reads, Service, listed, reads, service, shape
from tocsin.deliver.smtp import Account, Mailbox, log_in
from tocsin.deliver.transport import Parcel
from tocsin.deliver.verdict import Cause, SendResult, delivered, failed, of_answer, refused
from tocsin.deliver.webhook import ssl_context
from tocsin.kit.clock import Clock
from tocsin.kit.mask import mask, secrets_of
from tocsin.kit.strings import did_you_mean

log = structlog.get_logger(__name__)

# Schemes that reach other machines. Left out: those that act on this one (dbus, gnome, macosx, windows, syslog…), and
# xmpp, which answers "sent" and delivers nothing.
ALLOWED = frozenset(files("tocsin.deliver").joinpath("schemes.txt").read_text("ascii").split())
_LONGEST_WAIT = timedelta(hours=1)
_MOMENT_SECONDS = 3.0
_TONES = {
    Tone.BAD: NotifyType.FAILURE,
    Tone.WARN: NotifyType.WARNING,
    Tone.GOOD: NotifyType.SUCCESS,
    Tone.INFO: NotifyType.INFO,
}


class Way:
    """The way to one apprise channel's receiver. Threads share it; each has its own plugin."""

    def __init__(self, channel: Channel, clock: Clock, slack_url: str | None = None) -> None:
        _prepare()
        self._channel = channel
        self._slack_url = slack_url
        self._local = threading.local()
        self._renderer: Renderer | None = None
        self._templates: object = None
        self._clock = clock
        self._mailbox = Mailbox(clock)

    def send(self, parcel: Parcel) -> SendResult:
        """Send once; blocks. Every outcome is a verdict."""
        if self._channel.url is None:
            return refused("the channel has no apprise URL", cause=Cause.URL)
        try:
            url = self._channel.url.reveal().strip()
        except OSError as error:
            return failed(f"cannot read the channel's URL: {error.strerror or error}", cause=Cause.URL)
        plugin = self._plugin(url)
        if isinstance(plugin, str):
            return refused(plugin, cause=Cause.URL)
        service: Service = self._local.service
        rendered = self._render(parcel, service)
        if isinstance(plugin, NotifyEmail):
            verdict = self._mail(plugin, rendered, parcel)
        else:
            verdict = self._notify(plugin, service, rendered, parcel)
        for note in rendered.notes:
            log.warning("template_noted", channel=self._channel.name, note=note)
        return verdict if not rendered.notes else _noted(verdict, rendered.notes)

    def _plugin(self, url: str) -> NotifyBase | str:
        """This thread's plugin for the present URL, or why there is none."""
        if getattr(self._local, "url", None) != url:
            plugin = connect(url, self._channel, self._slack_url)
            if not isinstance(plugin, str):
                self._local.service = prepare(plugin, url, self._channel.template)
            # Of most services the place of a host in the URL holds a token.
            named = not isinstance(plugin, str) and "host" in plugin.template_tokens
            proxies = [part for name, proxy in getproxies().items() if name != "no" for part in secrets_of(proxy)]
            self._local.secrets = secrets_of(url, host_is_public=named) + proxies
            self._local.plugin, self._local.url = plugin, url
        kept: NotifyBase | str = self._local.plugin
        return kept

    def _render(self, parcel: Parcel, service: Service) -> Rendered:
        templates = parcel.config.template_texts
        if self._renderer is None or self._templates is not templates:
            self._renderer, self._templates = Renderer(templates), templates
        notice, facts = parcel.notification.notice, parcel.facts
        kind, dialect = service.kind, service.dialect
        return self._renderer.render(notice, facts, parcel.config, kind, self._channel.template, dialect)

    def _mail(self, plugin: NotifyEmail, rendered: Rendered, parcel: Parcel) -> SendResult:
        try:
            account = _account(plugin, self._channel, self._local.url)
        except BadAddress as error:
            return refused(str(error), cause=Cause.MAIL_ADDRESS)
        verdict = self._mailbox.send(account, parcel.notification, _with_text(rendered))
        user, password = plugin.user or "", plugin.password or ""
        logins = [b64encode(text.encode()).decode() for text in (f"\0{user}\0{password}", password)]
        return replace(verdict, note=mask(verdict.note, [password, *logins] if password else []))

    def _notify(self, plugin: NotifyBase, service: Service, rendered: Rendered, parcel: Parcel) -> SendResult:
        title, body, body_format = _shape(service, rendered)
        files = [AttachMemory(text, name) for name, text in attached(parcel.notification.notice, rendered)]
        attachment = None
        if files and plugin.attachment_support:
            attachment = AppriseAttachment(asset=plugin.asset)
            attachment.attachments = files
        with _listening() as lines, bounded.answers_of_this_thread() as answers:
            try:
                done = plugin.notify(
                    body=body,
                    title=title,
                    notify_type=_TONES[rendered.message.tone],
                    body_format=body_format,
                    attach=attachment,
                )
            except AppriseImproperlyConfigured as error:
                return refused(mask(str(error), self._local.secrets))
            except _MustWait as wish:
                return failed(str(wish), wish.wait, cause=Cause.TOO_MANY)
            except Exception as error:  # noqa: BLE001 - a plugin that raises is one try that failed, and is made again
                done = False
                lines.append(f"{type(error).__name__}: {error}")
        if done:
            return delivered()
        self._local.url = None  # some plugins keep a connection: the next try begins afresh
        said = " / ".join(mask(line, self._local.secrets) for line in lines if line.strip())
        return of_answer(answers[-1] if answers else None, said or "apprise gave no reason", self._clock.now())


_CHECKED = Channel(name="check", receiver="check")


def check_channel_url(url: str) -> str | None:
    """Why this cannot be a channel's URL, in one line without secrets; None when it can. Loads apprise: not on the loop."""
    _prepare()
    plugin = connect(url.strip(), _CHECKED, None)
    if isinstance(plugin, NotifyEmail):
        try:
            envelope = _account(plugin, _CHECKED, url.strip()).envelope
        except BadAddress as error:
            return str(error)
        return None if envelope.recipients else "; ".join(envelope.bad) or None
    return plugin if isinstance(plugin, str) else None


def unreadable_recipients(url: str) -> tuple[str, ...]:
    """What is wrong with those recipients of a mail URL that would not get what the others do."""
    _prepare()
    plugin = connect(url.strip(), _CHECKED, None)
    return _account(plugin, _CHECKED, url.strip()).envelope.bad if isinstance(plugin, NotifyEmail) else ()


def connect(url: str, channel: Channel, slack_url: str | None) -> NotifyBase | str:
    """A plugin as a daemon wants it, or one line that says why not."""
    scheme = url.partition(":")[0].strip().lower()
    if scheme not in ALLOWED | {"https"}:
        known = NotificationManager().schemas(include_disabled=True)
        if scheme in known:
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
    with _listening() as lines:
        plugin = Apprise.instantiate(url, asset=asset)
    if plugin is None:
        said = next((line for line in reversed(lines) if "is disabled" in line or "invalid" in line.lower()), "")
        why = f": {mask(said, secrets_of(url))}" if said else ""
        return f"apprise cannot read the {scheme}:// URL{cut(why, 200)}"
    if not isinstance(plugin, NotifyEmail) and len(plugin) == 0:
        return f"the {scheme}:// URL names nobody to notify, or in a way that apprise cannot read"
    untyped: Any = plugin
    plugin.request_rate_per_sec = 0  # despite its name the seconds that it sleeps between sends
    untyped.throttle = _wait_outside
    plugin.retry = 0
    whole = channel.timeout.total_seconds()
    plugin.socket_connect_timeout = min(float(plugin.socket_connect_timeout), 0.45 * whole)
    plugin.socket_read_timeout = min(float(plugin.socket_read_timeout), 0.45 * whole)
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
    """A plugin was told by its service to wait."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__("the service asks for fewer messages")
        self.wait = wait


def _wait_outside(last_io: object = None, wait: float | None = None) -> None:
    """In place of a plugin's own sleep between requests, which would keep its thread for as long as a service likes: a
    moment is waited for here, what takes longer by the channel."""
    if wait is None or wait <= 0:
        return
    if wait <= _MOMENT_SECONDS:
        threading.Event().wait(wait)
    else:
        raise _MustWait(timedelta(seconds=min(wait, _LONGEST_WAIT.total_seconds())))


def prepare(plugin: NotifyBase, url: str, template: str | None) -> Service:
    """The plugin's service; from now on the plugin passes on what it is given, converts nothing and cuts nothing."""
    untyped: Any = plugin
    schemes = set(plugin.schemas())
    own: Any = type(plugin).notify_format  # one, or several
    asked = plugin.resolve_format()
    how = reads(schemes, asked.value)
    if how not in (Reads.MAIL, Reads.SLACK):
        wanted = _FORMATS.get(how, NotifyFormat.TEXT)
        known = wanted in own if isinstance(own, tuple) else wanted is own
        plugin.notify_format = wanted if known or (wanted is asked and listed(schemes) is None) else own
        untyped._format_override = None  # a format that the service has but is not to use
    found = service(
        schemes, how, template, plugin.body_maxlen, plugin.title_maxlen, inside=plugin.overflow_amalgamate_title
    )
    if "overflow=" in url:
        return replace(found, most=None)
    plugin.overflow_mode = OverflowMode.UPSTREAM
    return found


_FORMATS = {Reads.HTML: NotifyFormat.HTML, Reads.MARKDOWN: NotifyFormat.MARKDOWN, Reads.CARD: NotifyFormat.MARKDOWN}


def _shape(service: Service, rendered: Rendered) -> tuple[str, str, NotifyFormat | None]:
    """Title, body, and the format to declare; without one apprise sends both as they are."""
    if service.reads is Reads.MAIL:
        html = rendered.html
        return rendered.subject, html or rendered.text or "", NotifyFormat.HTML if html else NotifyFormat.TEXT
    title, body = shape(service, rendered)
    return title, body or title or " ", None  # undeclared: sent as it is


def _with_text(rendered: Rendered) -> Rendered:
    """A mail whose own template made HTML alone gets the text that apprise reads out of it."""
    if rendered.text is not None or rendered.html is None:
        return rendered
    return replace(rendered, text=str(convert_between(NotifyFormat.HTML, NotifyFormat.TEXT, rendered.html)))


def _noted(verdict: SendResult, notes: Sequence[str]) -> SendResult:
    return replace(verdict, note="; ".join(part for part in (verdict.note, *notes) if part))


# --- mail --------------------------------------------------------------------------------------------------------------


def _account(plugin: NotifyEmail, channel: Channel, url: str) -> Account:
    """What a mail URL says; apprise leaves out what it cannot read, and what stands behind a semicolon. Raises
    ``BadAddress`` for the sender and the server."""
    written = _written(url)
    if not plugin.smtp_host:
        raise BadAddress("the URL names no mail server, or in a way that apprise cannot read")
    name, spec = plugin.from_addr
    named = formataddr((str(name or ""), str(spec)), "utf-8")
    path = [unquote(part) for part in urlsplit(url).path.split("/") if part]
    in_path, odd = addresses(path)
    to, bad = addresses(written.get("to", ()))
    to = (*in_path, *to)
    if odd:  # perhaps part of a password, so it is not shown
        bad = ("what stands behind the server's name is not a mail address", *bad)
    if not path and "to" not in written:
        to, bad = addresses(formataddr((str(name or ""), str(spec)), "utf-8") for name, spec in plugin.targets)
    cc, bad_cc = addresses(written.get("cc", ()))
    bcc, bad_bcc = addresses(written.get("bcc", ()))
    reply_to, bad_reply_to = addresses(written.get("reply", ()))
    own = next((text for text in written.get("from", ()) if "@" in text), named)
    return Account(
        Envelope(address(own), to, cc, bcc, reply_to, (*bad, *bad_cc, *bad_bcc, *bad_reply_to)),
        connect=lambda: _connected(plugin, channel),
        headers=plugin.headers,
    )


def _written(url: str) -> dict[str, list[str]]:
    """The parameters of a URL, as they were before apprise read them."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"&|;(?=\s*[-+:]?[A-Za-z]+=)", url.partition("?")[2]):
        name, equals, value = part.partition("=")
        if equals:
            found.setdefault(unquote(name).strip().lower(), []).append(unquote(value))
    return found


@contextmanager
def _connected(plugin: NotifyEmail, channel: Channel) -> Iterator[smtplib.SMTP]:
    """A connection encrypted and logged in as the URL says, which lasts as long as the channel waits for a send."""
    context = ssl_context(channel.tls)
    if not plugin.verify_certificate:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
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
            log_in(server, plugin.user, plugin.password)
        yield server
    finally:
        with suppress(OSError, smtplib.SMTPException):
            server.quit()


# --- apprise itself ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _prepare() -> None:
    """Once a process: allow schemes, and listen to apprise's log instead of letting it out."""
    logger = logging.getLogger("apprise")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.handlers = [_LISTENER]
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # below, it logs addresses with their tokens
    NotificationManager().enable_only(*ALLOWED)
    bounded.install()
    irc.SocketTransport = _BoundedTransport  # type: ignore[attr-defined]


class _BoundedTransport(SocketTransport):
    """apprise's own socket, for IRC; a server may say so much and no more."""

    _said = 0

    def read(self, *args: Any, **more: Any) -> bytes:
        data = super().read(*args, **more)
        self._said += len(data)
        if self._said > bounded.MOST:
            raise AppriseSocketError("the server says too much")
        return data


def _bounded_recv(recv: Callable[[int], bytes]) -> Callable[[int], bytes]:
    said = 0

    def bounded_recv(size: int) -> bytes:
        nonlocal said
        data = recv(min(size, 65_536))
        said += len(data)
        return data if said <= bounded.MOST else b""  # as if the server had closed the connection

    return bounded_recv


class _Listener(logging.Handler):
    """Keeps what apprise logs on a thread that asks for it: warnings, and the causes that it tells at DEBUG alone."""

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        lines: list[str] = []
        self._local.lines = lines
        try:
            yield lines
        finally:
            self._local.lines = None

    def emit(self, record: logging.LogRecord) -> None:
        lines: list[str] | None = getattr(self._local, "lines", None)
        if lines is None or len(lines) >= _LINES:
            return
        if record.levelno >= logging.WARNING or str(record.msg).startswith(_CAUSES):
            lines.append(one_line(record.getMessage(), 400))


_LINES = 20
_CAUSES = ("Response Details", "Socket Exception", "I/O Exception")
_LISTENER = _Listener()
_listening = _LISTENER.listening
