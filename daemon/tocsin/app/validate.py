"""Everything that can be said about a configuration without using it."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tocsin.app.reload import Source
from tocsin.config import BadConfig, Problem
from tocsin.config.files import expand_glob
from tocsin.config.model import Config, ReporterMail, Tls
from tocsin.config.problems import Path_, is_place, line_of
from tocsin.config.secrets import FileSecret, InlineSecret, Secret
from tocsin.config.section import http_url
from tocsin.config.tokens import parse_tokens
from tocsin.deliver.check import check_templates, unknown_variables
from tocsin.deliver.mail import parse_addresses
from tocsin.deliver.services import INCIDENT_SERVICES
from tocsin.deliver.transport import check_channel_url, unreadable_recipients
from tocsin.deliver.webhook import BadSecret, PrivateAddress, refuse_private_host, signing_key
from tocsin.kit.mask import mask_tokens
from tocsin.kit.proxy import is_loopback, split_listen
from tocsin.routing.dss_reporters import dss_reporter_warnings
from tocsin.routing.lint import lint

_PAGE = re.compile(r"/(?:projects|project-list|home|login|admin|dip/publicapi|dip)(?=/|$)")

_SQLITE_FILE = re.compile(r"sqlite:///+[\w./-]*\w")  # what needs no closer look
Finding = tuple[Path_, str]
CheckValue = Callable[[str], str | None]  # what is wrong with a secret's value, without a word of it
SecretAt = tuple[Path_, str, Secret | None, tuple[CheckValue, ...]]  # its place, what it is, how it is read and checked


def _problem(check: Callable[[str], object], error: type[Exception], message: str, value: str) -> str | None:
    """``message``, or the words of the ``error`` that ``check`` raises; None when it raises nothing."""
    try:
        check(value)
    except error as raised:
        return message or str(raised)
    return None


_check_http = partial(_problem, http_url, ValueError, "it is not an http or https URL")
_check_host = partial(_problem, lambda url: refuse_private_host(urlsplit(url).hostname or ""), PrivateAddress, "")
_check_signing_key = partial(_problem, signing_key, BadSecret, "")


def _check_recipients(url: str) -> str | None:
    return "; ".join(unreadable_recipients(url)) or None


def _store_problem(url: str) -> str | None:
    if _SQLITE_FILE.fullmatch(url):
        return None
    from tocsin.store.engine import StoreRefused, check_store_url  # noqa: PLC0415 - takes half a second to load

    return _problem(check_store_url, StoreRefused, "", url)


def validate(source: Source, now: datetime, *, offline: bool) -> list[Problem]:
    """The problems of a configuration, errors first. ``offline``: do not read secrets and certificates."""
    try:
        config = source.load()
    except BadConfig as error:
        return list(error.problems)
    errors: list[Finding] = []
    if problem := _store_problem(config.store.url):
        errors.append((("store", "url"), problem))
    if not offline:
        errors += _unreadable_secrets(config)
    errors += _unreadable_addresses(config)
    warnings = [(found.place, f"{found}; the built-in message would be sent") for found in check_templates(config)]
    warnings += [(path, message) for message, path in unknown_variables(config)]
    warnings += _doubtful_addresses(config)
    folder = Path(config.source or "").absolute().parent
    for index, pattern in enumerate(config.include if config.source else ()):
        if not expand_glob(folder / pattern):
            warnings.append((("include", index), f"no file matches {pattern!r}, so nothing is included"))
    warnings += [(("dss_reporters",), message) for message in dss_reporter_warnings(config)]
    findings: list[tuple[str, int | None, Literal["error", "warning"]]]
    findings = [(message, line_of(path, config.lines), "error") for path, message in errors]
    findings += [(f"{found.where}: {found.message}", found.line, found.severity) for found in lint(config, now)]
    findings += [(message, line_of(path, config.lines), "warning") for path, message in warnings]
    problems = [Problem(mask_tokens(text), config.source, line, severity=severity) for text, line, severity in findings]
    return sorted(problems, key=lambda problem: problem.severity)


def address_before_page(url: str) -> str | None:
    """Where DSS is when ``url`` is that of a page of its user interface, or of its API; None when it is not."""
    path = urlsplit(url).path
    page = _PAGE.search(path)
    return url.partition(path)[0] + path[: page.start()] if page else None


def _doubtful_addresses(config: Config) -> Iterator[Finding]:
    host = split_listen(config.http.listen)[0]
    proxy = config.http.auth_proxy
    if proxy and not proxy.operator_groups and config.http.tokens_file is None:
        message = "who comes through http.auth_proxy only reads, and nobody may change anything"
        yield ("http", "auth_proxy"), f"{message}; set operator_groups, or http.tokens_file"
    if not is_loopback(host) and config.http.tokens_file is None and proxy is None:
        message = f"http.listen {config.http.listen} is open to others, who are shown probes, /metrics and status only"
        yield ("http", "listen"), f"{message}, and may change nothing; set http.tokens_file to let people in"
    for index, receiver in enumerate(config.receivers):
        for number, channel in enumerate(receiver.channels):
            scheme = channel.url.value.partition(":")[0].lower() if isinstance(channel.url, InlineSecret) else ""
            if (service := INCIDENT_SERVICES.get(scheme)) is not None:
                message = f"channel {channel.name}: {scheme}:// opens incidents in {service.name} that never close"
                yield ("receivers", index, "channels", number, "url"), f"{message}; {service.way}"
    for index, node in enumerate(config.nodes):
        if base := address_before_page(node.url):
            message = f"node {node.name}: the url looks like a page of DSS's user interface; DSS itself is at {base}"
            yield ("nodes", index, "url"), message


def _unreadable_addresses(config: Config) -> Iterator[Finding]:
    for index, reporter in enumerate(config.reporters):
        mail = reporter.mail or ReporterMail()
        senders = [mail.sender] if mail.sender else []
        for name, texts in (("to", mail.to), ("cc", mail.cc), ("bcc", mail.bcc), ("from", senders)):
            for message in parse_addresses(texts)[1]:
                yield ("reporters", index, "mail", name), f"reporter {reporter.name}: mail.{name}: {message}"


def _unreadable_secrets(config: Config) -> Iterator[Finding]:
    base = Path(config.source or ".").absolute().parent
    for path, what, secret, checks in _secrets(config):
        if secret is None:
            continue
        try:
            value = secret.reveal().strip()
            if problem := next(filter(None, (check(value) for check in checks)), None):
                yield path, f"{what}: {problem}"
        except OSError as error:
            # A file that looks like no file may be the secret itself.
            file = f": {error.filename}" if error.filename and is_place(error.filename, base) else ""
            yield path, f"{what} cannot be read{file}: {error.strerror or error}"


def _secrets(config: Config) -> Iterator[SecretAt]:
    def at(*path: str | int) -> Path_:
        """A secret's place, however it is written."""
        *above, name = path
        written: list[Path_] = [(*above, f"{name}{suffix}") for suffix in ("", "_file", "_env")]
        return next((place for place in written if place in config.lines), path)

    for index, node in enumerate(config.nodes):
        place, owner = ("nodes", index), f"of node {node.name!r}"
        yield at(*place, "api_key"), f"the api key {owner}", node.api_key, ()
        yield at(*place, "bearer"), f"the bearer token {owner}", node.bearer, ()
        yield at(*place, "sweep_api_key"), f"the sweep's api key {owner}", node.sweep_api_key, ()
        yield from _certificates(place, owner, node.tls)
    for index, receiver in enumerate(config.receivers):
        for number, channel in enumerate(receiver.channels):
            within, owner = ("receivers", index, "channels", number), f"of channel {channel.name!r}"
            yield at(*within, "url"), f"the url {owner}", channel.url, (check_channel_url, _check_recipients)
            checks = (_check_http,) if channel.allow_private else (_check_http, _check_host)
            yield at(*within, "webhook"), f"the webhook {owner}", channel.webhook, checks
            for kind, name in (("slack", "token"), ("pagerduty", "routing_key"), ("opsgenie", "api_key")):
                secret = getattr(getattr(channel, kind), name, None)
                yield at(*within, kind, name), f"the {name} {owner}", secret, ()
            yield at(*within, "hmac_secret"), f"the hmac secret {owner}", channel.hmac_secret, (_check_signing_key,)
            yield from _certificates(within, owner, channel.tls)
    for index, peer in enumerate(config.alerting.alertmanagers):
        inside, owner = ("alerting", "alertmanagers", index), f"of the Alertmanager {peer.url}"
        yield at(*inside, "bearer"), f"the bearer token {owner}", peer.bearer, ()
        yield from _certificates(inside, owner, peer.tls)
    yield at("heartbeat", "url"), "the heartbeat's url", config.heartbeat.url, (_check_http,)
    yield at("http", "hooks_secret"), "the hooks' secret", config.http.hooks_secret, (_check_signing_key,)
    if config.http.tokens_file is not None:
        yield ("http", "tokens_file"), "the tokens file", FileSecret(Path(config.http.tokens_file)), (_check_tokens,)


def _check_tokens(text: str) -> str | None:
    problems = parse_tokens(text)[1]
    return f"{problems[0]}; `tocsin token new` writes such lines" if problems else None


def _certificates(place: Path_, owner: str, tls: Tls) -> Iterator[SecretAt]:
    for name in ("ca_file", "client_cert_file", "client_key_file"):
        if (path := getattr(tls, name)) is not None:
            yield (*place, "tls", name), f"the tls.{name} {owner}", FileSecret(Path(path)), ()
