"""Text of DSS through every service that reads it as markup: parsed as the service would, it is the text that it was.

The requests of apprise's plugins are real, but for the host: they go to a server of this test.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from email import message_from_bytes, policy
from html import unescape
from html.parser import HTMLParser
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from aiohttp import web
from apprise import NotifyFormat
from apprise.manager_plugins import NotificationManager
from markdown_it import MarkdownIt

from tests.deliver.builders import NOW, HandClock, Inbox, Plain, config, event, owed
from tocsin.config.model import Channel
from tocsin.deliver.cards import COMPLETIONS
from tocsin.deliver.outgoing import Facts, Outgoing
from tocsin.deliver.services import ALLOWED, SCHEMES, ServiceFormat, Size, in_bytes, in_json, utf16
from tocsin.deliver.transport import connector
from tocsin.model.notification import EventNotice
from tocsin.model.run import Details, RunError

NAME = '<b>&<a href="http://x">bold</a> *x* _y_ **z** [a](http://b) <!channel> @everyone @jane &lt; `q` ~z~'
ERROR = f"<class 'KeyError'> {NAME} (met)all(met) <@U1> <users/all> [CQ:at,qq=all] a*b*c"
LOG = (f"# {NAME}", "- three", "===")
OURS = ("https://dss.example.com/", "https://tocsin.example.com/")
_UNBROKEN = str.maketrans({"\u200b": None, "\u2217": "*", "\u223c": "~", "\u02cd": "_", "\u02cb": "`", "\u00a0": " "})


@dataclass
class Shown:
    """What a person sees of a message: its text, where its links lead, and what became markup that is not ours."""

    text: str = ""
    links: list[str] = field(default_factory=list)
    markup: list[str] = field(default_factory=list)


def plain(text: str) -> Shown:
    return Shown(text)


class _Page(HTMLParser):
    ours = frozenset(
        [
            "b",
            "br",
            "h1",
            "h2",
            "p",
            "ul",
            "ol",
            "li",
            "a",
            "strong",
            "pre",
            "code",
            "hr",
            "html",
            "head",
            "meta",
            "title",
            "body",
            "div",
            "span",
            "table",
            "tr",
            "td",
            "tbody",
            "flockml",
        ]
    )

    def __init__(self) -> None:
        super().__init__()
        self.shown, self.open = Shown(), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        if tag == "a":
            self.shown.links.append(dict(attrs).get("href") or "")
        if tag not in self.ours and tag != "style":
            self.shown.markup.append(tag)
        self.shown.text += " "

    def handle_endtag(self, _tag: str) -> None:
        self.open.append("")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.shown.text += data

    def handle_comment(self, data: str) -> None:
        self.shown.markup.append(f"<!{data}")

    def handle_decl(self, decl: str) -> None:
        if decl.lower() != "doctype html":
            self.shown.markup.append(f"<!{decl}")


def html(text: str) -> Shown:
    page = _Page()
    page.feed(text)
    page.close()
    return page.shown


def page(text: str) -> Shown:
    """A mail's HTML, or the text that is sent beside it."""
    return html(text) if "<!DOCTYPE html>" in text or "<br/>" in text else plain(text)


def telegram(text: str) -> Shown:
    """Telegram refuses a message with a tag that is not closed or not known."""
    assert re.findall(r"<(.*?)>", text) == ["b", "/b"]
    shown = html(text)
    shown.markup += re.findall(r"(?<![\w.])@\w+", text)
    return shown


def markdown(text: str, allowed: str = "strong link list code") -> Shown:
    shown = Shown()
    _calls_nobody(re.sub(r"```.*?```", "", text, flags=re.DOTALL), shown)
    for token in MarkdownIt("commonmark").enable(["strikethrough", "table"]).parse(text):
        if token.type in ("fence", "code_block"):
            shown.text += f"\n{token.content}"
            if "code" not in allowed or token.type == "code_block":
                shown.markup.append(token.type)
        elif token.type not in ("inline", "paragraph_open", "paragraph_close") and not (
            "list" in allowed and "list" in token.type
        ):
            shown.markup.append(token.type)
        for part in token.children or ():
            shown.text += part.content if part.type == "text" else " " if part.type.endswith("break") else ""
            if part.type == "link_open":
                shown.links.append(str(part.attrs["href"]))
            if part.type.split("_")[0] not in ("text", "softbreak", "hardbreak", *allowed.split()):
                shown.markup.append(part.type)
        shown.text += "\n"
    return shown


def card(text: str) -> Shown:
    """Clients of Teams differ in how they read a backslash, so there must be none; nor are there fences."""
    shown = markdown(text, "strong link list")
    shown.markup += re.findall(r"\\[^\w\s]", text)
    return shown


def chat(text: str) -> Shown:
    """No construct of any chat: neither Markdown nor HTML, entities, ``<url|text>``, ``[CQ:…]``, nor pairs of signs."""
    shown = markdown(text, "list")
    shown.text = text
    shown.markup += re.findall(r"<[^\s\u200b]|\[CQ|\]\(|&\w+;|\*\S|\S\*|~\S|(?<!\w)_\S|`", text)
    return shown


def bridged(text: str) -> Shown:
    """A bridge of Matrix gets text, which it may read as Markdown, and HTML beside it."""
    return html(text) if "<br/>" in text else chat(text)


def slack(text: str) -> Shown:
    found = re.findall(r"<([^<>|]*)\|([^<>]*)>", text)
    rest = re.sub(r"<[^<>|]*\|([^<>]*)>", r"\1", text)
    shown = Shown(unescape(rest), [link for link, _label in found], re.findall(r"<|>", rest))
    _calls_nobody(rest, shown)
    return shown


def _calls_nobody(text: str, shown: Shown) -> None:
    shown.markup += re.findall(r"@everyone|@channel|@here|(?<![\w.])@jane|(?<!\\)<[!@]\w|(?<!\\)<users/", text)


Read = Callable[[str], Shown]

SENT: list[tuple[str, Read]] = [
    ("tgram://110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/123/", telegram),
    ("tgram://110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/123/?format=markdown", telegram),
    ("tgram://110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/123/?format=markdown&mdv=2", telegram),
    ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", markdown),
    ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js?format=markdown", markdown),
    ("https://discord.com/api/webhooks/4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", markdown),
    ("guilded://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", markdown),
    ("fluxer://0000000000/BBBBBBBBBBBBBBBBBBBBBBBBBBBB", markdown),
    ("fluxer://0000000000/BBBBBBBBBBBBBBBBBBBBBBBBBBBB?format=markdown", markdown),
    ("revolt://bottoken/1234", markdown),
    ("mmost://127.0.0.1/3ccdd113474722377935511fc85d3dd4", markdown),
    ("matrix://token@127.0.0.1/?mode=matrix", chat),
    ("matrix://token@127.0.0.1/?mode=hookshot&format=markdown", bridged),
    ("webex://" + "ZTg4MjI2ZjEtMGZhOC00YTVlLTkwNzYtNDE5MTQyOTM3Njc4ZTg4MjI2ZjEtMGZhOC00YTVlLTkwNzYt", markdown),
    ("workflow://prod-1.logic.azure.com:443/643e69f83c8944/iXvl", card),
    ("kook://tokentokentoken/1234", markdown),
    ("twist://pass:a@example.com/123:456", markdown),
    ("github://ghp_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@owner/repo", markdown),
    ("reddit://user:pass@appid12345/secret12345/sub", markdown),
    ("ilert://abcdef", markdown),
    ("squadcast://abcdef", markdown),
    ("incidentio://ABCDEF/token", markdown),
    ("goalert://127.0.0.1/0123abcd-0123-0123-0123-0123456789ab", markdown),
    ("simplepush://token123", markdown),
    ("nctalk://user:pass@127.0.0.1/room1", markdown),
    ("humhub://token@127.0.0.1/1", markdown),
    ("hassio://127.0.0.1/accesstoken", markdown),
    ("schan://tokentoken", markdown),
    ("ryver://org/aaaaaaaaaaaaaaa", markdown),
    ("json://127.0.0.1/?format=markdown", markdown),
    ("gotify://127.0.0.1/tokentokentoken?format=markdown", markdown),
    ("ntfy://127.0.0.1/topic?format=markdown", markdown),
    ("bark://127.0.0.1/key?format=markdown", markdown),
    ("wxpusher://AT_abcdef/UID_abc?format=markdown", markdown),
    ("rocket://abc/def@127.0.0.1/%23ops", chat),
    ("zulip://bot@org/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/ops", chat),
    ("gchat://workspace/key/token", chat),
    ("cliq://1000.abcdefabcdefabcdefabcdefabcdefab.zzz/channel", chat),
    ("whapi://abcdef/+15551234567", chat),
    ("evolution://apikey@127.0.0.1/inst/15551234567", chat),
    ("lark://abcd-1234-efgh", chat),
    ("lark://abcd-1234-efgh?format=markdown", chat),
    ("feishu://abcd-1234-efgh", chat),
    ("dingtalk://abcdef12/", chat),
    ("zalo://1234:abcdef/5678", chat),
    ("wecombot://693axxx6-7aoc-4bc4-97a0-0ec2sifa5aaa", chat),
    ("signal://127.0.0.1:8080/+15551234567/+15559876543", chat),
    ("signal://127.0.0.1:8080/+15551234567/+15559876543?format=markdown", chat),
    ("synology://127.0.0.1/token", chat),
    ("onebot://127.0.0.1/@1234", chat),
    ("stackfield://abcdef01-abcd-abcd-abcd-abcdef012345", chat),
    ("apprise://127.0.0.1/token123", chat),
    ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/", slack),
    ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/?format=text", slack),
    ("sendgrid://apikeyapikey:from@example.com/to@example.com", page),
    ("mailgun://user@localhost.localdomain/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbb-cccccccc/to@example.com", page),
    ("postmark://apikeyapikey:from@example.com/to@example.com", page),
    ("resend://apikey:from@example.com/to@example.com", page),
    ("brevo://apikeyapikey:from@example.com/to@example.com", page),
    ("mailersend://apikeyapikey:from@example.com/to@example.com", page),
    ("groundmail://apikeyapikey:from@example.com/to@example.com", page),
    ("sparkpost://user@localhost.localdomain/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/to@example.com", page),
    ("smtp2go://user@localhost.localdomain/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/to@example.com", page),
    ("sendpulse://user@example.com/clientid/clientsecret/to@example.com", page),
    ("o365://from@example.com/tenant1/abcdef12-1234-1234-1234-abcdef123456/secretsecret/to@example.com", page),
    ("ses://from@example.com/AHIAJGNT76XIMXDBIJYA/bu1dHSdO22pfaaVy+wmNsdljF4C07D3bndi9PQJ9/us-east-2/to@x.org", page),
    ("pingram://pingram_sk_abcdefabcdef/to@example.com", page),
    ("pushplus://abcdef0123456789abcdef0123456789", page),
    ("json://127.0.0.1/?format=html", page),
    ("xml://127.0.0.1/?format=html", page),
    ("form://127.0.0.1/?format=html", page),
    ("flock://aaaaaaaaaaaaaaaaaaaaaaaa?format=html", html),
    ("flock://aaaaaaaaaaaaaaaaaaaaaaaa", html),
    ("wxpusher://AT_abcdef/UID_abc?format=html", html),
    ("pover://uuuuuuuuuuuuuuuuuuuuuuuuuuuuuu@aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa?format=html", plain),
    ("pover://uuuuuuuuuuuuuuuuuuuuuuuuuuuuuu@aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa?format=markdown", markdown),
    ("pover://uuuuuuuuuuuuuuuuuuuuuuuuuuuuuu@aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", plain),
    ("ntfy://127.0.0.1/topic?format=html", plain),
    ("ntfy://127.0.0.1/topic", plain),
    ("json://127.0.0.1/", plain),
]  # fmt: skip
# Declared by apprise to read markup, and not over HTTP: their connection, or a login of its own kind, is tried elsewhere.
ELSEWHERE = frozenset({"mailto", "mailtos", "amqp", "amqps", "azure", "acs", "deltachat", "deltachats"})


@pytest.fixture
async def arrived(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    async def answer(_request: web.Request) -> web.Response:
        body = {
            "ok": True,
            "success": True,
            "code": 0,
            "errcode": 0,
            "access_token": "t",
            "expires_in": 3600,
            "id": "1",
        }
        return web.json_response(body)

    inbox.answer = answer
    send = requests.adapters.HTTPAdapter.send

    def here(self: requests.adapters.HTTPAdapter, request: requests.PreparedRequest, **more: object) -> object:
        parts = urlsplit(request.url or "")
        request.url = f"{inbox.url}{parts.path}?{parts.query}"
        return send(self, request, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", here)
    return inbox


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(one)


def said(kind: str, body: bytes) -> list[str]:
    """The texts of a request's body."""
    if "x-www-form-urlencoded" in kind:
        form = dict(parse_qsl(body.decode()))
        if raw := form.get("RawMessage.Data"):
            mail = message_from_bytes(base64.b64decode(raw + "=="), policy=policy.default)
            return [str(mail["Subject"]), str(mail.get_content())]
        texts = list(form.values())
        return [deep for text in texts for deep in (strings(json.loads(text)) if text.startswith("{") else [text])]
    if "xml" in kind:
        return [unescape(text) for text in re.findall(r">([^<]*)<", body.decode())]
    if "json" in kind or body.startswith(b"{"):
        texts = list(strings(json.loads(body)))
        return [base64.b64decode(text).decode() if text.startswith("PCFET0NUWVBF") else text for text in texts]
    return [body.decode()]


def one_line(text: str) -> str:
    return " ".join(text.translate(_UNBROKEN).split())


CARDS = frozenset(COMPLETIONS) - {"tgram", "ntfy", "ntfys"}


def has_card(url: str, template: str | None) -> bool:
    scheme = "discord" if "discord.com" in url else url.partition(":")[0]
    return template is None and scheme in CARDS and "format=" not in url


_EACH = ("discord", "slack", "rocket", "workflow", "github", "apprise")  # one of each way of reading


def templates(url: str) -> tuple[str | None, ...]:
    """Those that make a difference there."""
    return (None, "text", "markdown") if url.startswith(_EACH) and "format=" not in url else (None,)


CASES = [(url, read, template) for url, read in SENT for template in templates(url)]


@pytest.mark.parametrize(
    ("url", "read", "template"), CASES, ids=[f"{n}-{case[0][:20]}" for n, case in enumerate(CASES)]
)
async def test_text_of_dss_is_shown_as_it_is(arrived: Inbox, url: str, read: Read, template: str | None) -> None:
    if template == "markdown" and read is chat:
        read = card  # with marks of ours
    one = event(name=NAME)
    assert one.run
    error, log = RunError(ERROR, step="s"), "\n".join(LOG)
    facts = Facts({one.run.key: Details(one.run.key, NOW, error, (), log)})
    channel = Channel("ops/x", "ops", Plain(url), timeout=timedelta(seconds=20), template=template)
    transport = connector(HandClock())(channel)
    await transport.send(Outgoing(owed(EventNotice(one, "r")), config(channel), facts))
    await transport.close()
    post = next(post for post in reversed(arrived.received) if b"KeyError" in post.body or b"RawMessage" in post.body)
    texts = said(post.headers.get("Content-Type", ""), post.body)
    carded = has_card(url, template)
    if carded:  # but what is plain text there by definition
        headline = f"{NAME} FAILED in SALES on prod"
        texts = [text for text in texts if text not in (headline, f"\U0001f534 {headline}")]
        if url.startswith("gchat"):
            assert chat(texts[0]).markup == []
            texts, read = texts[1:], html
    bodies = [read(text) for text in texts if "\n" in text or "<br" in text or (carded and not text.startswith("http"))]
    plainly = slack if read is slack else plain
    titles = [
        plainly(text).text for text in texts if "\n" not in text and "<br" not in text and "FAILED in SALES" in text
    ]
    titles = [] if carded else titles
    shown = one_line("\n".join([*titles, *(body.text for body in bodies)]))
    headlines = () if url.startswith("gchat") and carded else (f"{NAME} FAILED in SALES on prod",)
    for told in (*headlines, ERROR, *LOG):
        assert one_line(told) in shown
    assert [link for body in bodies for link in body.links if not link.startswith(OURS)] == []
    assert [odd for body in bodies for odd in body.markup] == []
    if read not in (html, page, plain, telegram):
        assert [title for title in titles if "@everyone" in title or "@jane" in title] == []


LONG = [
    ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", 2_000, utf16),
    ("workflow://prod-1.logic.azure.com:443/643e69f83c8944/iXvl", 28_000, in_json),
    ("tgram://110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/123/", 4_096, utf16),
    ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/", 3_000, len),
    ("rocket://abc/def@127.0.0.1/%23ops", 5_000, utf16),
    ("mmost://127.0.0.1/3ccdd113474722377935511fc85d3dd4", 4_000, utf16),
    ("gchat://workspace/key/token", 4_000, utf16),
    ("ntfy://127.0.0.1/topic", 4_096, in_bytes),
    ("twist://pass:a@example.com/123:456", 1_000, utf16),
    ("pover://uuuuuuuuuuuuuuuuuuuuuuuuuuuuuu@aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 1_024, utf16),
    ("json://127.0.0.1/", 32_768, utf16),
]


@pytest.mark.parametrize(("url", "most", "size"), LONG, ids=[url.partition(":")[0] for url, _, _ in LONG])
@pytest.mark.parametrize("template", [None, "one.j2"])
async def test_what_is_too_long_arrives_with_its_headline_and_its_link(
    arrived: Inbox, url: str, most: int, size: Size, template: str | None
) -> None:
    one = event(name="Nightly load")
    assert one.run
    error = RunError("*disk* <full>\n" * 9_000, step="s")
    facts = Facts({one.run.key: Details(one.run.key, NOW, error, (), "*a log* <b> 🔥\n" * 9_000)})
    template = "markdown" if has_card(url, template) else template  # cards have limits of their own
    channel = Channel("ops/x", "ops", Plain(url), timeout=timedelta(seconds=20), template=template)
    transport = connector(HandClock())(channel)
    settings = config(channel, template_texts={"one.j2": "{{ (error.message * 9)|replace('\\n', ' ') }}"})
    await transport.send(Outgoing(owed(EventNotice(one, "r")), settings, facts))
    await transport.close()
    post = next(post for post in reversed(arrived.received) if b"disk" in post.body)
    texts = said(post.headers.get("Content-Type", ""), post.body)
    (body,) = [text for text in texts if "disk" in text]
    assert 0.8 * most < size(body) <= most or template != "one.j2"
    assert size(body) <= most
    assert "https://dss.example.com/projects/SALES/scenarios/NIGHTLY/runs/list/x" in body
    assert any("Nightly load FAILED in SALES on prod" in text for text in texts)


def test_every_service_that_apprise_says_reads_markup_is_tried() -> None:
    manager = NotificationManager()
    tried = {manager[url.partition(":")[0]] for url, _ in SENT if not url.startswith("https:")}
    missing = []
    for scheme in sorted(ALLOWED):
        plugin = manager[scheme]
        formats = plugin.notify_format if isinstance(plugin.notify_format, tuple) else (plugin.notify_format,)
        marked = any(one in (NotifyFormat.HTML, NotifyFormat.MARKDOWN) for one in formats)
        if marked and plugin not in tried and scheme not in ELSEWHERE:
            missing.append(scheme)
    assert missing == []


def test_every_scheme_with_a_way_of_reading_is_one_that_may_be_used() -> None:
    named = [scheme for names in SCHEMES.values() for scheme in names]
    assert sorted(set(named) - ALLOWED) == []
    assert len(named) == len(set(named))
    assert set(SCHEMES) | {ServiceFormat.PLAIN} == set(ServiceFormat)
