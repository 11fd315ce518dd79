"""Everything that can be said about a configuration without using it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from tocsin.app.source import Source
from tocsin.config import BadConfig, Problem
from tocsin.config.fields import http_url
from tocsin.config.model import Config, ReporterMail, Secret, Tls
from tocsin.config.problems import Path_, is_place, line_of
from tocsin.config.secrets import FileSecret
from tocsin.decide import dss_reporters as mirroring
from tocsin.deliver.connect import check_channel_url, unreadable_recipients
from tocsin.deliver.mail import addresses
from tocsin.deliver.trial import TemplateProblem, check_templates, unknown_variables
from tocsin.deliver.webhook import BadSecret, PrivateAddress, refuse_private_host, signing_key
from tocsin.kit.mask import mask_tokens
from tocsin.routing.lint import lint
from tocsin.store import StoreRefused
from tocsin.store.engine import check_url
from tocsin.web.access import is_loopback
from tocsin.web.server import split_listen

_PAGE = re.compile(r"/(?:projects|project-list|home|login|admin|dip/publicapi|dip)(?=/|$)")


def _nothing(_value: str) -> None:
    """No trouble with any value."""


@dataclass(frozen=True, slots=True)
class _Outside:
    """Something that stands outside of the configuration: its place there, what it is, how it is read and checked."""

    path: Path_
    what: str
    secret: Secret | None
    trouble: Callable[[str], str | None] = _nothing


def validate(source: Source, now: datetime, *, offline: bool) -> list[Problem]:
    """What is wrong (errors) and what is odd (warnings), in that order."""
    try:
        config = source.load()
    except BadConfig as error:
        return list(error.problems)
    problems = []
    try:
        check_url(config.store.url)
    except StoreRefused as error:
        problems.append(Problem(str(error), config.source, line_of(("store", "url"), config.lines)))
    if not offline:
        problems += list(_absent_secrets(config))
    problems += list(_unsendable(config))
    problems += [
        Problem(f"{found.where}: {found.message}", config.source, found.line, severity=found.severity)
        for found in lint(config, now)
    ]
    problems += [_template_problem(found, config) for found in check_templates(config)]
    odd = [*unknown_variables(config), *_addresses(config)]
    odd += [(words, ("dss_reporters",)) for words in mirroring.warnings(config)]
    problems += [Problem(words, config.source, line_of(at, config.lines), severity="warning") for words, at in odd]
    shown = [replace(one, message=mask_tokens(one.message)) for one in problems]
    return sorted(shown, key=lambda one: one.severity)


def _addresses(config: Config) -> Iterator[tuple[str, Path_]]:
    host = split_listen(config.http.listen)[0]
    if not is_loopback(host) and config.http.tokens_file is None:
        words = (
            f"http.listen {config.http.listen} is open to others, who are shown probes, /metrics and status only, and "
        )
        yield words + "may change nothing; set http.tokens_file to let people in", ("http", "listen")
    for index, node in enumerate(config.nodes):
        path = urlsplit(node.url).path
        if found := _PAGE.search(path):
            base = node.url.partition(path)[0] + path[: found.start()]
            words = f"node {node.name}: the url looks like a page of DSS's user interface; DSS itself is at {base}"
            yield words, ("nodes", index, "url")


def _template_problem(found: TemplateProblem, config: Config) -> Problem:
    """A warning: the built-in message is sent where a template cannot be rendered."""
    words = f"{found}; the built-in message would be sent"
    return Problem(words, config.source, line_of(found.place, config.lines), severity="warning")


def _unsendable(config: Config) -> Iterator[Problem]:
    """What the sends of reporters would be refused for: addresses that cannot be read."""
    for index, reporter in enumerate(config.reporters):
        mail = reporter.mail or ReporterMail()
        for name in ("to", "cc", "bcc", "from"):
            texts = getattr(mail, name) if name != "from" else [mail.sender] if mail.sender else []
            for words in addresses(texts)[1]:
                line = line_of(("reporters", index, "mail", name), config.lines)
                yield Problem(f"reporter {reporter.name}: mail.{name}: {words}", config.source, line)


def _absent_secrets(config: Config) -> Iterator[Problem]:
    for outside in _secrets(config):
        if outside.secret is None:
            continue
        try:
            wrong = outside.trouble(outside.secret.reveal().strip())
            trouble = f": {wrong}" if wrong else None
        except OSError as error:
            place = (
                f": {error.filename}"
                if error.filename and is_place(error.filename, Path(config.source or ".").absolute().parent)
                else ""
            )
            trouble = f" cannot be read{place}: {error.strerror or error}"
        if trouble:
            yield Problem(outside.what + trouble, config.source, line_of(outside.path, config.lines))


def _url_trouble(value: str) -> str | None:
    return check_channel_url(value) or "; ".join(unreadable_recipients(value)) or None


def _http_trouble(value: str) -> str | None:
    """Without the words that are wrong: they are a secret's."""
    try:
        http_url(value)
    except ValueError:
        return "it is not an http or https URL"
    return None


def _private_trouble(value: str) -> str | None:
    if trouble := _http_trouble(value):
        return trouble
    try:
        refuse_private_host(urlsplit(value).hostname or "")
    except PrivateAddress as error:
        return str(error)
    return None


def _signing_trouble(value: str) -> str | None:
    try:
        signing_key(value)
    except BadSecret as error:
        return str(error)
    return None


def _secrets(config: Config) -> Iterator[_Outside]:
    for index, node in enumerate(config.nodes):
        at, owner = ("nodes", index), f"of node {node.name!r}"
        yield _Outside(_at(config, *at, "api_key"), f"the api key {owner}", node.api_key)
        yield _Outside(_at(config, *at, "bearer"), f"the bearer token {owner}", node.bearer)
        yield _Outside(_at(config, *at, "sweep_api_key"), f"the sweep's api key {owner}", node.sweep_api_key)
        yield from _certificates((*at, "tls"), owner, node.tls)
    for index, receiver in enumerate(config.receivers):
        for number, channel in enumerate(receiver.channels):
            place, owner = ("receivers", index, "channels", number), f"of channel {channel.name!r}"
            yield _Outside(_at(config, *place, "url"), f"the url {owner}", channel.url, _url_trouble)
            host = _private_trouble if not channel.allow_private else _http_trouble
            yield _Outside(_at(config, *place, "webhook"), f"the webhook {owner}", channel.webhook, host)
            what = f"the hmac secret {owner}"
            yield _Outside(_at(config, *place, "hmac_secret"), what, channel.hmac_secret, _signing_trouble)
            yield from _certificates((*place, "tls"), owner, channel.tls)
    yield _Outside(_at(config, "heartbeat", "url"), "the heartbeat's url", config.heartbeat.url, _http_trouble)
    where = _at(config, "http", "hooks_secret")
    yield _Outside(where, "the hooks' secret", config.http.hooks_secret, _signing_trouble)
    yield _Outside(("http", "tokens_file"), "the tokens file", _file(config.http.tokens_file))


def _certificates(at: Path_, owner: str, tls: Tls) -> Iterator[_Outside]:
    for name in ("ca_file", "client_cert_file", "client_key_file"):
        yield _Outside((*at, name), f"the tls.{name} {owner}", _file(getattr(tls, name)))


def _file(path: str | None) -> FileSecret | None:
    return None if path is None else FileSecret(Path(path))


def _at(config: Config, *path: str | int) -> Path_:
    """A secret's place, however it is written."""
    *above, name = path
    written = ((*above, f"{name}{end}") for end in ("", "_file", "_env"))
    return next((one for one in written if one in config.lines), path)
