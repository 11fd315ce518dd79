"""Text of strangers and secrets of the house, through the whole as a real process: the one stays text, the other stays in."""

import asyncio
import hashlib
import json
import re
import sqlite3
import sys
from html.parser import HTMLParser

import aiohttp
import pytest

from tests.fakedss import DaemonProcess, SlackSink, SmtpSink, config_for, eventually, faults, node
from tests.fakedss.answers import Answer
from tests.fakedss.process import ROOT, free_port

NAMES = {
    "CRLF": "Nightly\r\nBcc: victim@example.com\r\nX-Forged: yes\r\n\r\nforged body",
    "HTML": "<img src=x onerror=alert(1)><script>alert(1)</script></pre></table><!-- &amp; \"quoted\"",
    "SLACK": "<!channel> <!here> <@U123> <https://evil.example.com|your bank> *bold* `code` &lt;!everyone&gt;",
    "MARKS": "invoice\u202efdp.exe \u2066\u200b\u0000\u0007 re\u0301sume\u0301",
    "EMOJI": "🔥 日本語 ﷽ Zürich 👩‍👩‍👧‍👦 \U0001f1eb\U0001f1f7",
    "LONG": "ten thousand " + "x" * 10_000,
    "JINJA": "{{ 7919*7907 }} {% for x in range(9) %} ${dssURL} #{7919*7907}",
}  # fmt: skip
EVALUATED = str(7919 * 7907)
SLACK_TOKENS = "T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\u200b\u202a-\u202e\u2066-\u2069]")
ALLOWED_HEADERS = {
    *("Subject", "From", "To", "Date", "Message-ID", "References", "In-Reply-To", "List-Id", "Auto-Submitted"),
    *("X-Auto-Response-Suppress", "MIME-Version", "Content-Type"),
}


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


async def test_hostile_names_arrive_as_text_in_mail_slack_and_webhook(tmp_path, dss, sink):
    for id_, name in NAMES.items():
        dss.world.add_scenario("P000", id_, name)
    async with SmtpSink() as smtp, SlackSink() as slack:
        who = "from=Tocsin%20%3Ctocsin@example.com%3E&to=ops@example.com"
        channels = [
            {"name": "hook", "webhook": sink.url},
            {"name": "mail", "url": f"mailto://127.0.0.1:{smtp.port}?{who}"},
            {"name": "slack", "url": f"slack://{SLACK_TOKENS}/"},
        ]
        reporters = [
            {"name": "each", "on": ["run.failed"], "receiver": "ops", "subject": "${scenarioName}: {{ headline }}"}
        ]
        config = config_for(
            tmp_path, {"prod": dss}, sink, reporters=reporters, receivers=[{"name": "ops", "channels": channels}],
            route={"receiver": "ops", "group_by": ["..."], "group_wait": "0s"}, log={"level": "debug"},
        )  # fmt: skip
        daemon = DaemonProcess(config)
        daemon.module = ("tests.e2e.slack_at", slack.url)
        async with daemon:
            await daemon.watching(6 + len(NAMES))
            for id_, name in NAMES.items():
                dss.world.instant_run("P000", id_, "FAILED", error=f"{name}\n```\n{name}")
            most = 2 * len(NAMES)  # an event and an alert of each
            await eventually(lambda: min(len(sink.posts), len(smtp.mails), len(slack.posts)) >= most)

            async def settled():
                return {one["state"] for one in await daemon.items("/api/v1/deliveries")} == {"delivered"}

            await eventually(settled)
            page = await daemon.text("/")
            metrics = await daemon.text("/metrics")
            assert [line for line in daemon.stderr + daemon.stdout if not line.startswith("{")] == []
            said = "\n".join(daemon.stderr + daemon.stdout)
    assert not INVISIBLE.search(said.replace("\n", ""))
    assert "<script>alert" not in page
    assert not any(line.startswith("Bcc") for line in metrics.splitlines())

    names = {post.json["data"]["scenario"]["name"] for post in sink.posts if "specversion" in post.json}
    shown = {name.replace("\0", "\ufffd")[:1_000] for name in NAMES.values()}  # no text column takes a NUL
    assert {name[:1_000] for name in names} == shown
    for mail in smtp.mails:
        assert set(mail.message.keys()) <= ALLOWED_HEADERS
        assert mail.recipients == ("ops@example.com",)
        assert len(mail.message["Subject"]) <= 210  # 200, and what folding adds
        bodies = [mail.message.get_body((kind,)) for kind in ("plain", "html")]
        text, page = (body.get_content() for body in bodies if body)
        for said in (mail.message["Subject"], text, page):
            assert not INVISIBLE.search(said.replace("\r", ""))
        read = Tags(page)
        assert not read.tags & {"img", "script", "svg", "iframe", "form"}
        assert len(page) < 60_000
    evaluated = [mail.message.as_string() for mail in smtp.mails if EVALUATED in mail.message.as_string()]
    evaluated += [post.json for post in (*sink.posts, *slack.posts) if EVALUATED in json.dumps(post.json)]
    assert evaluated == []
    subjects = " ".join(mail.message["Subject"] for mail in smtp.mails)
    for visible in (
        "<!channel> <!here>",
        "Bcc: victim@example.com",
        "<script>alert(1)",
        "{{ 7919*7907 }}",
        "${dssURL} #{",
        "🔥 日本語",
    ):
        assert visible in subjects
    for post in slack.posts:
        (attachment,) = post.json["attachments"]
        for block in attachment["blocks"]:
            said = block["text"]["text"]
            assert "<!" not in said
            assert "<@" not in said
            assert not re.search(r"<https?://evil", said)
            assert len(said) <= (150 if block["type"] == "header" else 3_000)
            assert not INVISIBLE.search(said.replace("\u200b", ""))  # which we put around signs that Slack would read


# --- secrets -------------------------------------------------------------------------------------------------------------

PLANTED = {
    "api key": "dku-PLANTED-api-key",
    "admin key": "dku-PLANTED-admin-key",
    "gateway header": "PLANTED-gateway-header",
    "user of json": "PLANTED-json-user",
    "password of json": "PLANTED-json-password",
    "header of json": "PLANTED-json-header",
    "token of slack": "TIiajkdnlazkcPLANTEDdevi",
    "password of mail": "PLANTED-mail-password",
    "hook address": "PLANTED-webhook-path",
    "hook header": "PLANTED-webhook-header",
    "hmac secret": "PLANTED-hmac-secret",
    "hooks secret": "PLANTED-hooks-secret",
    "heartbeat": "PLANTED-heartbeat-path",
    "viewer token": "PLANTED-viewer-token",
}
ADDRESSES = [
    *(f"/api/v1/{what}" for what in ("nodes", "scenarios", "runs", "events", "alerts", "silences", "deliveries")),
    *("/api/v1/status", "/api/v1/config", "/api/v1/openapi.json", "/metrics", "/", "/-/ready", "/api/v1/nothing"),
]


def echo(post):
    """What a careless receiver says: all that it was sent, headers and address too."""
    return Answer(400, json.dumps([post.path, *map(list, post.headers.items())]).encode())


@pytest.fixture
async def careless(tmp_path, dss, sink):
    """A configuration full of planted secrets, whose receivers refuse all and repeat what they were sent."""
    dss.revoke_key(dss.api_key)
    dss.revoke_key(dss.admin_key)
    dss.api_key, dss.admin_key = PLANTED["api key"], PLANTED["admin key"]
    dss.restore_key(dss.api_key)
    dss.restore_key(dss.admin_key)
    sink.good_answer = echo
    tokens = tmp_path / "tokens"
    tokens.write_text(f"me operator {hashlib.sha256(PLANTED['viewer token'].encode()).hexdigest()}\n")
    async with SmtpSink(user="tocsin", password="another") as smtp, SlackSink() as slack:
        slack.default = faults.status(403, PLANTED["token of slack"])
        port, p = sink.port, PLANTED
        channels = [
            {
                "name": "hook",
                "webhook": f"http://127.0.0.1:{port}/{p['hook address']}",
                "hmac_secret": p["hmac secret"], "headers": {"X-Key": p["hook header"]},
            },
            {"name": "json", "url": f"json://{p['user of json']}:{p['password of json']}@127.0.0.1:{port}/"
                                    f"?+X-Key={p['header of json']}"},
            {"name": "slack", "url": f"slack://T1JJ3T3L2/A1BRTD4JD/{p['token of slack']}/"},
            {"name": "mail", "url": f"mailto://tocsin:{p['password of mail']}@127.0.0.1:{smtp.port}?"
                                    "from=a@example.com&to=ops@example.com"},
            {"name": "nobody", "url": f"json://{p['user of json']}:{p['password of json']}@127.0.0.1:1/"},
        ]  # fmt: skip
        place = node("prod", dss) | {"headers": {"X-Gateway": p["gateway header"]}}

        def write(form: str, **more: object):
            return config_for(
                tmp_path, [place], sink, receivers=[{"name": "hook", "channels": channels}],
                route={"receiver": "hook", "group_wait": "0s"}, log={"level": "debug", "format": form},
                heartbeat={"url": f"http://127.0.0.1:1/{p['heartbeat']}", "interval": "1s"},
                http={"listen": "127.0.0.1:0", "tokens_file": str(tokens), "hooks_secret": p["hooks secret"]} | more,
            )  # fmt: skip

        yield write, slack


def leaks(text: str) -> list[str]:
    return [name for name, secret in PLANTED.items() if secret in text]


@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_secret_stands_in_a_log_an_answer_a_metric_or_a_crash(tmp_path, dss, careless, form):
    write, slack = careless
    listen = f"127.0.0.1:{free_port()}"
    config = write(form, listen=listen)
    daemon = DaemonProcess(config, url=f"http://{listen}")
    daemon.module = ("tests.e2e.slack_at", slack.url)
    headers = {"Authorization": f"Bearer {PLANTED['viewer token']}"}
    async with daemon, aiohttp.ClientSession(daemon.url, headers=headers) as http:

        async def get(path: str) -> str:
            async with http.get(path) as reply:
                return await reply.text()

        async def known() -> bool:
            return len(json.loads(await get("/api/v1/scenarios"))["items"]) >= 6

        await eventually(known)
        dss.world.instant_run("P000", "S000", "FAILED", error="it broke")
        run = dss.world.scenario("P000", "S000").history[-1].id

        async def tried() -> bool:
            found = json.loads(await get("/api/v1/deliveries"))["items"]
            return {one["channel"] for one in found if one["attempts"]} >= {"hook", "json", "slack", "mail", "nobody"}

        await eventually(tried)
        seen = {path: await get(path) for path in ADDRESSES}
        seen["explain"] = await get(f"/api/v1/explain/prod/P000/S000/{run}")
        async with http.post("/hooks/dss/prod", headers={"Authorization": "Bearer PLANTED-wrong"}) as reply:
            seen["hook"] = await reply.text()
        dss.revoke_key(dss.api_key)  # DSS refuses the keys, and says so at length
        dss.revoke_key(dss.admin_key)
        dss.fail(faults.status(401, f"Unknown API Key {dss.api_key}"))
        dss.fail(faults.status(401, f"Unknown API Key {dss.admin_key}"), "futures")

        async def down() -> bool:
            return "unauthorized" in await get("/api/v1/nodes")

        await eventually(down)
        seen["nodes"] = await get("/api/v1/nodes")
        for one in json.loads(seen["/api/v1/deliveries"])["items"]:
            seen[f"delivery {one['channel']} {one['id']}"] = await get(f"/api/v1/deliveries/{one['id']}")
        with sqlite3.connect(tmp_path / "tocsin.db") as database:  # its ground is taken away, and it falls
            database.execute("DROP TABLE attempts")
            database.execute("DROP TABLE decisions")
        dss.rules.clear()
        await http.post("/-/reload")
        code = await daemon.wait()
    assert code not in (0, -9)
    for verb in (("check", "--json"), ("notify", "test", "hook")) if form == "json" else ():
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.e2e.slack_at", slack.url, *verb, "--config", str(config)),
            cwd=ROOT, env={"PYTHONPATH": f"{ROOT / 'daemon'}", "PATH": "/usr/bin"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        seen[" ".join(verb)] = output.decode()
    if form == "json":
        words = " ".join(seen["notify test hook"].split())
        for told in ("refused firing hook HTTP 400", "refused firing json HTTP 400", "refused firing slack HTTP 403",
                     "refused firing mail SMTP 535", "failed firing nobody", "connection refused", "check the credentials of the channel", "check host and port"):  # fmt: skip
            assert told.lower() in words.lower()
    seen["log and crash"] = "\n".join(daemon.stdout + daemon.stderr)
    assert "Traceback" in seen["log and crash"]
    assert {place: found for place, text in seen.items() if (found := leaks(text))} == {}
