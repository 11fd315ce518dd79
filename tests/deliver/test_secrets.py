"""No part of a channel's URL comes back: every service of apprise, with a receiver that repeats all that it was sent.

The URLs are made of each plugin's own templates, their tokens at random. What a service answers, what its plugin logs
and what is said of a URL that cannot be used must hold no five characters of a token.
"""

import json
import re
import string
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import requests
from apprise.manager_plugins import NotificationManager

from tests.deliver.builders import NOW, HandClock, config, owed
from tocsin.config.model import Channel
from tocsin.deliver import apprise_channel
from tocsin.deliver.apprise_channel import AppriseSender
from tocsin.deliver.outgoing import Outgoing
from tocsin.deliver.services import ALLOWED
from tocsin.deliver.transport import check_channel_url

LETTERS, DIGITS, HEX = string.ascii_letters, string.digits, "0123456789abcdef"
ALPHABETS = (LETTERS + DIGITS, HEX, string.ascii_uppercase + DIGITS, DIGITS, string.ascii_lowercase)
LENGTHS = (24, 32, 40, 64, 20, 16, 12, 10, 9, 8, 36, 48, 27, 22, 26, 11, 30, 128)
SHAPES = ("xoxb-{0}-{1}", "SG.{0}.{1}", "key-{0}", "re_{0}", "o.{0}", "{0}:{1}", "AC{0}", "+1{2}", "1{2}")
# They use sockets of their own, and would really ask for the host.
NO_HTTP = {"aprs", "irc", "ircs", "mailto", "mailtos", "mqtt", "mqtts", "rsyslog"}


def _prepared() -> NotificationManager:
    apprise_channel._prepare_apprise()
    return NotificationManager()


def words(random: Random) -> Iterator[str]:
    def word(alphabet: str, length: int) -> str:
        return "".join(random.choices(alphabet, k=length))

    for length in LENGTHS:
        for alphabet in ALPHABETS:
            yield word(alphabet, length)
    yield from (shape.format(word(HEX, 32), word(LETTERS, 32), word(DIGITS, 10)) for shape in SHAPES)


def token(spec: dict[str, Any], tokens: dict[str, Any], random: Random) -> str:
    specs = [spec, *(tokens[name] for name in spec.get("group", ()))]
    patterns = [pattern for one in specs for pattern in one.get("regex", ())[:1]]
    fitting = (word for word in words(random) if not patterns or re.match(patterns[0], word, re.IGNORECASE))
    return next(fitting, "".join(random.choices(LETTERS, k=24)))


def urls(scheme: str) -> Iterator[tuple[str, list[str]]]:
    """A URL of a plugin's shortest template and one of its longest, with their tokens."""
    plugin, random = NotificationManager()[scheme], Random(scheme)
    templates = sorted((template for template in plugin.templates if "}{" not in template), key=len)
    for template in dict.fromkeys((*templates[:1], *templates[-1:])):
        made: dict[str, str] = {"schema": scheme, "host": "host.example.com", "port": "8443"}
        secrets = []
        for name in re.findall(r"{(\w+)}", template):
            spec = plugin.template_tokens.get(name, {})
            if "values" in spec:
                made[name] = str(min(spec["values"]))
            elif name not in made:
                made[name] = token(spec, plugin.template_tokens, random)
                secrets.append(made[name])
        yield template.format(**made), secrets
    if scheme == "tgram":
        halves = ["110201543", "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"]
        yield f"tgram://{':'.join(halves)}/123456789/", halves


class Echo(requests.adapters.BaseAdapter):
    """A network in which every server repeats the request, or the way to it fails with the address in its words."""

    breaks = False

    def send(self, request: requests.PreparedRequest, *_args: Any, **_more: Any) -> requests.Response:
        body = request.body if isinstance(request.body, str) else repr(request.body)
        said = f"{request.url} {dict(request.headers)} {body[:2_000]}"
        if self.breaks:
            raise requests.ConnectionError(said)
        response = requests.Response()
        response.status_code, response.url, response.request = 500, request.url or "", request
        response._content = json.dumps({"error": said, "cut": said[11:-7], "message": said.upper()}).encode()
        return response

    def close(self) -> None: ...


class Present:
    """The secret of one channel, which has another URL for each test."""

    url = ""

    def reveal(self) -> str:
        return self.url

    async def read(self) -> str:
        return self.reveal()


PRESENT = Present()
CHANNEL = Channel("ops/x", "ops", url=PRESENT)
OUTGOING = Outgoing(owed(), config(CHANNEL))


@pytest.fixture(scope="module")
def sender() -> AppriseSender:
    return AppriseSender(CHANNEL, HandClock(NOW))


def shown(said: str, secrets: list[str]) -> list[str]:
    """Parts of the secrets that are left in a text."""
    return [part for one in secrets for i in range(len(one) - 4) if (part := one[i : i + 5].lower()) in said.lower()]


@pytest.mark.parametrize("scheme", sorted(name for name in ALLOWED if _prepared()[name].enabled))
def test_no_part_of_a_url_is_told(scheme: str, sender: AppriseSender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests.sessions, "HTTPAdapter", Echo)
    good: tuple[str, list[str]] | None = None
    for url, secrets in urls(scheme):
        told = check_channel_url(url)
        assert not shown(told or "", secrets), told
        good = (url, secrets) if told is None else good
    if good is not None and scheme not in NO_HTTP:
        url, secrets = good
        monkeypatch.setattr(PRESENT, "url", url)
        for breaks in (False, True):
            monkeypatch.setattr(Echo, "breaks", breaks)
            result = sender.send(OUTGOING)
            assert not shown(result.note, secrets), result.note


def test_most_services_are_really_tried() -> None:
    tried = [scheme for scheme in ALLOWED if any(check_channel_url(url) is None for url, _ in urls(scheme))]
    assert len(tried) > 150
