"""Everything that can be said about a configuration without using it."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from tocsin.app import mirroring
from tocsin.app.settings import BadConfig, Problem
from tocsin.app.settings.problems import Path_, is_place, line_of
from tocsin.app.settings.secrets import FileSecret
from tocsin.app.source import Source
from tocsin.deliver.connect import check_channel_url
from tocsin.deliver.trial import check_templates
from tocsin.deliver.webhook import BadSecret, signing_key
from tocsin.kit.mask import mask_tokens
from tocsin.model.config import Config, Secret, Tls
from tocsin.route.lint import lint


def validate(source: Source, now: datetime, *, offline: bool) -> list[Problem]:
    """What is wrong (errors) and what is odd (warnings), in that order."""
    try:
        config = source.load()
    except BadConfig as error:
        return list(error.problems)
    problems = []
    if not offline:
        problems += list(_absent_secrets(config))
    problems += [
        Problem(f"{found.where}: {found.message}", config.source, found.line, severity=found.severity)
        for found in lint(config, now)
    ]
    odd = (*check_templates(config), *mirroring.warnings(config))
    problems += [Problem(words, config.source, _line(config, words), severity="warning") for words in odd]
    shown = [replace(one, message=mask_tokens(one.message)) for one in problems]
    return sorted(shown, key=lambda one: one.severity)


def _line(config: Config, words: str) -> int | None:
    """Where the reporter stands that these words are about."""
    about = (index for index, one in enumerate(config.reporters) if words.startswith(f"reporter {one.name}: "))
    return next((config.lines.get(("reporters", index)) for index in about), None)


def _absent_secrets(config: Config) -> Iterator[Problem]:
    for path, what, secret in _secrets(config):
        if secret is None:
            continue
        try:
            trouble = _trouble(what, secret.reveal().strip())
        except OSError as error:
            place = (
                f": {error.filename}"
                if error.filename and is_place(error.filename, Path(config.source or ".").absolute().parent)
                else ""
            )
            trouble = f" cannot be read{place}: {error.strerror or error}"
        if trouble:
            yield Problem(what + trouble, config.source, line_of(path, config.lines))


def _trouble(what: str, value: str) -> str | None:
    """What is wrong with the value of a secret that can be read."""
    if what.startswith("the url of channel ") and (trouble := check_channel_url(value)):
        return f": {trouble}"
    if what.startswith(("the hmac secret", "the hooks' secret")):
        try:
            signing_key(value)
        except BadSecret as error:
            return f": {error}"
    return None


def _secrets(config: Config) -> Iterator[tuple[Path_, str, Secret | None]]:
    """Everything that stands outside of the configuration: its place there, what it is, and how it is read."""
    for index, node in enumerate(config.nodes):
        at, owner = ("nodes", index), f"of node {node.name!r}"
        yield _at(config, *at, "api_key"), f"the api key {owner}", node.api_key
        yield _at(config, *at, "bearer"), f"the bearer token {owner}", node.bearer
        yield _at(config, *at, "sweep_api_key"), f"the sweep's api key {owner}", node.sweep_api_key
        yield from _certificates((*at, "tls"), owner, node.tls)
    for index, receiver in enumerate(config.receivers):
        for number, channel in enumerate(receiver.channels):
            place, owner = ("receivers", index, "channels", number), f"of channel {channel.name!r}"
            yield _at(config, *place, "url"), f"the url {owner}", channel.url
            yield _at(config, *place, "webhook"), f"the webhook {owner}", channel.webhook
            yield _at(config, *place, "hmac_secret"), f"the hmac secret {owner}", channel.hmac_secret
            for name, header in channel.headers.items():
                yield (*place, "headers", name), f"the header {name} {owner}", header
            yield from _certificates((*place, "tls"), owner, channel.tls)
    yield _at(config, "heartbeat", "url"), "the heartbeat's url", config.heartbeat.url
    yield _at(config, "http", "hooks_secret"), "the hooks' secret", config.http.hooks_secret
    yield ("http", "tokens_file"), "the tokens file", _file(config.http.tokens_file)


def _certificates(at: Path_, owner: str, tls: Tls) -> Iterator[tuple[Path_, str, Secret | None]]:
    for name in ("ca_file", "client_cert_file", "client_key_file"):
        yield (*at, name), f"the tls.{name} {owner}", _file(getattr(tls, name))


def _file(path: str | None) -> FileSecret | None:
    return None if path is None else FileSecret(Path(path))


def _at(config: Config, *path: str | int) -> Path_:
    """A secret's place, however it is written."""
    *above, name = path
    written = ((*above, f"{name}{end}") for end in ("", "_file", "_env"))
    return next((one for one in written if one in config.lines), path)
