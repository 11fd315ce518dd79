"""Mistakes in the configuration do not show secrets: not in ``check``, in the log, in the API, nor when starting."""

import asyncio
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tocsin.app.logs import configure_logging
from tocsin.app.reload import ConfigHolder, Source
from tocsin.cli.commands import app
from tocsin.config import BadConfig
from tocsin.kit.clock import SystemClock
from tocsin.web.reads import config_json

KEY = "dkuaps-zQ7xW9kP2mRt4vYb8nLc"
PASSWORD = "Wv3pHj8sXt5m"
TOKEN = "eyJhbGci0i.eyJzdWIi0iIx.sFlKxwRJSMeKKF2QT4fw"
BOT = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
SLACK = "T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
UPPER = "AKIAIOSFODNN7EXAMPLQ"
SECRETS = (KEY.removeprefix("dkuaps-"), PASSWORD, TOKEN, *BOT.split(":"), *SLACK.split("/"), UPPER)

NODE = "nodes: [{name: prod, url: 'https://dss.example.com', api_key: k}]\n"
HOOK = NODE + "receivers: [{name: ops, channels: [%s]}]\n"
MISTAKES = {
    "the key as its file": "nodes: [{name: prod, url: 'https://dss.example.com', api_key_file: '" + KEY + "'}]",
    "a base64 key as its file": f"nodes: [{{name: prod, url: 'https://dss.example.com', bearer_file: 'aGVs/{TOKEN}'}}]",
    "a token as its file that is too long for a name": "nodes: [{name: prod, url: 'https://dss.example.com', bearer_file: '"
    + TOKEN * 10
    + "'}]",
    "the same in a directory, beside another mistake": "nodes: [{name: prod, url: 'https://dss.example.com', bearer_file: '"
    + f"{TOKEN * 10}/{TOKEN}"
    + "', colour: red}]",
    "the key as its variable": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key_env: '{KEY}'}}]",
    "an upper-case key as its variable": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key_env: {UPPER}}}]",
    "a second key": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: {KEY}, bearer: {TOKEN}}}]",
    "an unknown key": f"nodes: [{{name: prod, url: 'https://dss.example.com', apikey: {KEY}}}]",
    "the key as URL": f"nodes: [{{name: prod, url: '{KEY}', api_key: k}}]",
    "no blank after the colon": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key:{KEY}}}]",
    "no blank after the colon, in a block": f"nodes:\n  - name: prod\n    url: https://dss.example.com\n    api_key:{KEY}\n",
    "a key with an anchor": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: *{KEY}}}]",
    "a key that is a tag": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: !{KEY}}}]",
    "a key that is a tag with a handle": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: !a!{KEY}}}]",
    "an unfinished quote": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: '{KEY}}}]",
    "a colon in a plain key": f"nodes:\n  - name: prod\n    url: https://dss.example.com\n    api_key: {KEY}: x\n",
    "a percent sign": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: %{KEY}}}]",
    "an escape": f'nodes: [{{name: prod, url: "https://dss.example.com", api_key: "\\q{KEY}"}}]',
    "the key as list": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: [{KEY}]}}]",
    "the key as mapping": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: {{{KEY}: x}}}}]",
    "the key twice": f"nodes:\n  - name: prod\n    url: https://dss.example.com\n    {KEY}: x\n    {KEY}: y\n    api_key: k\n",
    "the nodes as text": f"nodes: {KEY}",
    "the file is the key": KEY,
    "a password in the node's URL": f"nodes: [{{name: prod, url: 'https://user:{PASSWORD}@dss.example.com', api_key: k}}]",
    "a password in a bad URL": f"nodes: [{{name: prod, url: 'https//user:{PASSWORD}@dss.example.com', api_key: k}}]",
    "a password with a slash": f"nodes: [{{name: prod, url: 'https://user:/{PASSWORD}@dss.example.com', api_key: k}}]",
    "a password as port": f"nodes: [{{name: prod, url: 'https://user:{PASSWORD}', api_key: k}}]",
    "a key in the URL's query": f"nodes: [{{name: prod, url: 'https://dss.example.com?key={KEY}', api_key: k}}]",
    "a proxy's password": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: k, proxy: 'http//u:{PASSWORD}@proxy:1'}}]",
    "a proxy's password with a slash": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: k, proxy: 'http://u:a/{PASSWORD}@proxy:1'}}]",
    "a proxy's password with an at sign": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: k, proxy: 'http://u:a@{PASSWORD}@proxy:1'}}]",
    "a header that is no mapping": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: k, headers: ['X: {KEY}']}}]",
    "a header that is a list": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: k, headers: {{X: [{KEY}]}}}}]",
    "a header without a colon's blank": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: k, headers: {{'X:{KEY}': x}}}}]",
    "the key as certificate": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: k, tls: {{client_key_file: {KEY}, client_cert_file: {KEY}}}}}]",
    "the key as time": f"nodes: [{{name: prod, url: 'https://dss.example.com', api_key: k, watch: {{sweep_interval: {KEY}}}}}]",
    "a webhook without a scheme": HOOK % f"{{webhook: 'hooks.example.com/services/{SLACK}'}}",
    "a webhook with one slash": HOOK % f"{{webhook: 'https:/hooks.example.com/services/{SLACK}'}}",
    "a webhook with a bad port": HOOK % f"{{webhook: 'https://hooks.example.com:x/services/{SLACK}'}}",
    "a webhook with a broken address": HOOK % f"{{webhook: 'https://[hooks/services/{SLACK}'}}",
    "a webhook as its file": HOOK % f"{{webhook_file: 'https://hooks.example.com/services/{SLACK}'}}",
    "a URL as its file": HOOK % f"{{url_file: 'slack://{SLACK}'}}",
    "a URL as its variable": HOOK % f"{{url_env: 'tgram://{BOT}/1'}}",
    "a URL as channel": HOOK % f"'tgram://{BOT}/1'",
    "a URL of a misspelt scheme": HOOK % f"{{url: 'tgrm://{BOT}/1'}}",
    "a URL without a scheme": HOOK % f"{{url: '{BOT}/1'}}",
    "a URL that is a token": HOOK % f"{{url: '{KEY}'}}",
    "a URL that apprise cannot read": HOOK % f"{{url: 'slack://{SLACK.replace('/', '-')}'}}",
    "a Telegram URL without its target": HOOK % f"{{url: 'tgram://{BOT.replace(':', '')}'}}",
    "a mail URL without recipient": HOOK % f"{{url: 'mailto://user:{PASSWORD}@'}}",
    "a secret that is no base64": HOOK % f"{{webhook: 'https://h.example.com', hmac_secret: 'whsec_{KEY}'}}",
    "a secret beside an apprise URL": HOOK % f"{{url: 'slack://{SLACK}', hmac_secret: {KEY}}}",
    "a URL and a webhook": HOOK % f"{{url: 'slack://{SLACK}', webhook: 'https://h.example.com/{KEY}'}}",
    "the secret as template": HOOK % f"{{webhook: 'https://h.example.com/x', template: {KEY}}}",
    "the secret as rate": HOOK % f"{{webhook: 'https://h.example.com/x', rate: {KEY}}}",
    "the secret as number": HOOK % f"{{webhook: 'https://h.example.com/x', workers: {KEY}}}",
    "the secret as yes": HOOK % f"{{webhook: 'https://h.example.com/x', send_resolved: {KEY}}}",
    "a password in external_url": NODE + f"http: {{external_url: 'https://user:{PASSWORD}@x.example.com'}}",
    "a bad external_url": NODE + f"http: {{external_url: 'user:{PASSWORD}@x.example.com'}}",
    "the secret as address to listen on": NODE + f"http: {{listen: {KEY}}}",
    "the hooks' secret as file": NODE + f"http: {{hooks_secret_file: {KEY}}}",
    "the hooks' secret as tokens": NODE + f"http: {{tokens_file: {KEY}}}",
    "a heartbeat without scheme": NODE + f"heartbeat: {{url: 'hc-ping.com/{KEY}'}}",
    "a heartbeat as its file": NODE + f"heartbeat: {{url_file: 'https://hc-ping.com/{KEY}'}}",
    "a store's password": NODE + f"store: {{url: 'postgresq://u:{PASSWORD}@db/x'}}",
    "a store's password with a slash": NODE + f"store: {{url: 'postgresql://u:a/{PASSWORD}@db/x'}}",
    "a store's password in the query": NODE + f"store: {{url: 'postgresql://db/x?user=u&password={PASSWORD}'}}",
    "a store that is no URL": NODE + f"store: {{url: '{PASSWORD}'}}",
    "a secret as level": NODE + f"log: {{level: {KEY}}}",
    "a secret as rule kind": NODE + f"rules: [{{alert: X, kind: {KEY}}}]",
    "a secret as receiver": NODE + f"reporters: [{{name: r, receiver: {KEY}}}]",
    "a secret as template file": NODE + f"templates: ['{KEY}']",
    "a secret at the top": NODE + f"{KEY}: x",
    "a secret in a bad list": NODE + f"receivers: {{{KEY}: x}}",
    "a tab": f"nodes:\n  - name: prod\n\tapi_key: {KEY}\n",
    "what is no text": NODE + f"# {KEY}\x07",
}  # fmt: skip


def what_is_said(folder: Path, text: str) -> str:
    """All that people see of a configuration: from ``check``, a start, a reload and the API."""
    file = folder / "tocsin.yaml"
    file.write_text(text, "utf-8")
    words = ["--config", str(file)]
    said = [
        CliRunner().invoke(app, ["check", *form, *words], catch_exceptions=False).output  # a traceback shows them too
        for form in ((), ("--json",))
    ]
    source, log = Source(file), io.StringIO()
    configure_logging("debug", "json", log)
    try:
        config = source.load()
    except BadConfig as error:
        said += [str(error), repr(error)]
    else:
        said.append(json.dumps(config_json(config)))
    file.write_text(NODE, "utf-8")
    live = ConfigHolder(source, source.load(), SystemClock())
    file.write_text(text, "utf-8")
    asyncio.run(live.reload())
    said += [log.getvalue(), *live.last.problems]
    if live.last.ok:
        said.append(json.dumps(config_json(live())))
    return "\n".join(said)


@pytest.mark.parametrize("text", MISTAKES.values(), ids=MISTAKES)
def test_no_part_of_a_secret_is_shown(tmp_path: Path, text: str) -> None:
    said = what_is_said(tmp_path, text)
    assert "tocsin.yaml" in said
    parts = {secret[i : i + 5] for secret in SECRETS for i in range(len(secret) - 4)}
    shown = sorted(part for part in parts if part in said)
    assert not shown, "\n".join(line for line in said.splitlines() if shown[0] in line)
