"""Everything that can be said about a configuration without using it."""

from collections.abc import Iterator
from datetime import datetime

from tocsin.app import mirroring
from tocsin.app.settings import BadConfig, Problem
from tocsin.app.source import Source
from tocsin.deliver.connect import check_channel_url
from tocsin.deliver.trial import check_templates
from tocsin.model.config import Config, Secret
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
    return sorted(problems, key=lambda one: one.severity)


def _line(config: Config, words: str) -> int | None:
    """Where the reporter stands that these words are about."""
    about = (index for index, one in enumerate(config.reporters) if words.startswith(f"reporter {one.name}: "))
    return next((config.lines.get(("reporters", index)) for index in about), None)


def _absent_secrets(config: Config) -> Iterator[Problem]:
    for what, secret in _secrets(config):
        if secret is None:
            continue
        try:
            value = secret.reveal().strip()
        except OSError as error:
            reason = error.strerror or str(error)
            place = f": {error.filename}" if error.filename else ""
            yield Problem(f"{what} cannot be read{place}: {reason}", config.source)
            continue
        if what.startswith("the url of channel ") and (trouble := check_channel_url(value)):
            yield Problem(f"{what}: {trouble}", config.source)


def _secrets(config: Config) -> Iterator[tuple[str, Secret | None]]:
    for node in config.nodes:
        yield f"the api key of node {node.name!r}", node.api_key
        yield f"the bearer token of node {node.name!r}", node.bearer
        yield f"the sweep's api key of node {node.name!r}", node.sweep_api_key
    for channel in config.channels().values():
        yield f"the url of channel {channel.name!r}", channel.url
        yield f"the webhook of channel {channel.name!r}", channel.webhook
        yield f"the hmac secret of channel {channel.name!r}", channel.hmac_secret
        yield from ((f"the header {name} of channel {channel.name!r}", one) for name, one in channel.headers.items())
    yield "the heartbeat's url", config.heartbeat.url
    yield "the hooks' secret", config.http.hooks_secret
