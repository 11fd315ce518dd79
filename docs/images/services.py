"""Messages as the services show them, drawn as HTML from what Tocsin's channels really send."""

import html
import json
import re
from collections.abc import Callable
from typing import Any

from cases import CASES, CONFIG, Case, failed_alert

from tocsin.cli.inboxes import _block, _mrkdwn
from tocsin.config.model import Channel, OpsgenieConfig, PagerDutyConfig, SlackConfig
from tocsin.config.secrets import InlineSecret
from tocsin.deliver.check import Preview, preview
from tocsin.kit.clock import SystemClock

Json = Any
GOOD = "\u2705"
_KEY = "k" * 32
_SIGNS = {"\U0001f534": "#d92d20", "\U0001f7e0": "#e8830c", "\u2705": "#1a7f37", "\U0001f535": "#2f6fdb"}
_ESCAPED = re.compile(r"\\(&\w+;|&#\d+;|.)")


def secret(text: str) -> Any:
    return InlineSecret(text)


SERVICES: dict[str, dict[str, Any]] = {
    "slack": {"slack": SlackConfig("C0ALERTS", secret("x"))},
    "slack-webhook": {"url": secret("slack://TK14FKMLT/BK14FKMLT/K14FKMLTK14FKMLTK14FKMLT")},
    "teams": {"url": secret("workflows://host/" + "w" * 32 + "/s" + "g" * 30)},
    "discord": {"url": secret("discord://" + "1" * 18 + "/" + "t" * 60)},
    "telegram": {"url": secret("tgram://110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1/123")},
    "google-chat": {"url": secret("gchat://space/key/token")},
    "mattermost": {"url": secret("mmosts://host/" + "k" * 26)},
    "ntfy": {"url": secret("ntfys://host/topic")},
    "pagerduty": {"pagerduty": PagerDutyConfig(secret(_KEY))},
    "opsgenie": {"opsgenie": OpsgenieConfig(secret(_KEY))},
    "mail": {"url": secret("mailtos://smtp.example.com?from=tocsin@example.com&to=ops@example.com")},
}  # fmt: skip


def page(service: str) -> str:
    """The five cases as this service shows them."""
    articles = []
    for title, case in CASES.items():
        if service in ("pagerduty", "opsgenie") and title == "A failed run":
            case = failed_alert
        shown = _sent(service, case())
        drawn = _DRAW[service](shown, title)
        articles.append(f"<article><h6>{html.escape(title)}</h6><div class='{service} shown'>{drawn}</div></article>")
    return f"<!doctype html><meta charset=utf-8><style>{_STYLE}</style><main>{''.join(articles)}</main>"


def _sent(service: str, case: Case) -> Preview:
    channel = Channel("ops/x", "ops", **SERVICES[service])
    found = preview(channel, *case, CONFIG, SystemClock())
    assert found.problem is None, found.problem
    return found


def _signs(text: str) -> str:
    """Signs in colours, whatever fonts there are; breaks without width are not seen."""
    for sign, colour in _SIGNS.items():
        text = text.replace(sign, f"<b style='color:{colour}'>{'✔' if sign == GOOD else '●'}</b>")
    return text.replace("\u200b", "")


def _text(text: str) -> str:
    return _signs(html.escape(text)).replace("\n", "<br>")


def _markdown(text: str) -> str:
    """CommonMark as far as our messages use it."""
    parts = text.split("```")
    for number, part in enumerate(parts):
        if number % 2:
            parts[number] = f"<pre>{html.escape(part.strip())}</pre>"
            continue
        part = re.sub(r"\\(.)", lambda match: chr(0xE000 + ord(match[1])), part)
        part = html.escape(part)
        part = re.sub(r"\[([^\]\n]*)\]\(&lt;(.*?)&gt;\)", r"<a>\1</a>", part)
        part = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", part)
        part = re.sub(r"(?<!\*)\*([^*\n]+)\*", r"<i>\1</i>", part)
        part = re.sub(r"^- ", "• ", part, flags=re.MULTILINE)
        part = re.sub("[\ue000-\ue0ff]", lambda match: html.escape(chr(ord(match[0]) - 0xE000)), part)
        parts[number] = _signs(re.sub(r"\n{2,}", "\n", part.strip("\n"))).replace("\n", "<br>")
    return "".join(parts)


def _buttons(labels: list[str]) -> str:
    return "<div>" + "".join(f"<span class=button>{html.escape(label)}</span>" for label in labels) + "</div>"


def _facts(rows: list[tuple[str, str]]) -> str:
    lines = (f"<div class=fact><b>{_text(name)}</b><span>{value}</span></div>" for name, value in rows)
    return "".join(lines)


def _slack(shown: Preview, _title: str) -> str:
    return _signs("".join(map(_block, json.loads(shown.body)["blocks"])))


def _slack_webhook(shown: Preview, _title: str) -> str:
    return f"<h2>{_text(shown.title)}</h2>{_signs(_mrkdwn(shown.body))}"


def _teams(shown: Preview, _title: str) -> str:
    card = json.loads(shown.body)["attachments"][0]["content"]
    parts = []
    for block in card["body"]:
        if block["type"] == "FactSet":
            parts.append(_facts([(fact["title"], _text(fact["value"])) for fact in block["facts"]]))
            continue
        style = "font-weight:700;" if block.get("weight") else ""
        style += "font-size:1.15em;" if block.get("size") == "Large" else ""
        style += "font:12px monospace;" if block.get("fontType") else ""
        text = block["text"].replace("\n\n", "\n")
        parts.append(f"<p style='{style}'>{_text(text)}</p>")
    return "".join(parts) + _buttons([action["title"] for action in card["actions"]])


def _embed(colour: str, *parts: str) -> str:
    return f"<div class=embed style='border-color:{colour}'>{''.join(parts)}</div>"


def _discord(shown: Preview, _title: str) -> str:
    document = json.loads(shown.body)
    embed = document["embeds"][0]
    fields = "".join(
        f"<div><b>{_markdown(field['name'])}</b><br>{_markdown(field['value'])}</div>" for field in embed["fields"]
    )
    body = f"<b>{_markdown(embed['title'])}</b><br>{_markdown(embed['description'])}<div class=grid>{fields}</div>"
    return _markdown(document["content"]) + _embed(f"#{embed['color']:06x}", body)


def _mattermost(shown: Preview, _title: str) -> str:
    attachment = json.loads(shown.body)["attachments"][0]
    fields = "".join(
        f"<div><b>{_markdown(field['title'])}</b><br>{_markdown(field['value'])}</div>"
        for field in attachment["fields"]
    )
    body = f"<a><b>{_markdown(attachment['title'])}</b></a><br>{_markdown(attachment['text'])}<div class=grid>{fields}</div>"
    return _embed(attachment["color"], body)


def _google_chat(shown: Preview, _title: str) -> str:
    card = json.loads(shown.body)["cardsV2"][0]["card"]
    parts = [f"<h2>{_text(card['header']['title'])}</h2>"]
    for widget in (widget for section in card.get("sections", ()) for widget in section["widgets"]):
        if "textParagraph" in widget:
            parts.append(f"<p>{_signs(widget['textParagraph']['text'])}</p>")
        elif "decoratedText" in widget:
            parts.append(_facts([(widget["decoratedText"]["topLabel"], widget["decoratedText"]["text"])]))
        else:
            parts.append(_buttons([button["text"] for button in widget["buttonList"]["buttons"]]))
    return "".join(parts)


def _telegram(shown: Preview, _title: str) -> str:
    document = json.loads(shown.body)
    rows = document["reply_markup"].get("inline_keyboard", [])
    text = re.sub(r"(?<!>)\n", "<br>", document["message"]).replace("<br/>\n", "<br>")
    title = f"<b>{_text(document['title'])}</b><br>" if document["title"] else ""
    return f"{title}{_signs(text)}" + "".join(_buttons([button["text"] for button in row]) for row in rows)


def _ntfy(shown: Preview, _title: str) -> str:
    document = json.loads(shown.body)
    sign = f"<small>priority {document['priority']} · {document['tags'][0]}</small><br>"
    return f"{sign}<b>{_text(document['title'])}</b><br>{_text(document['message'])}" + _buttons(
        [action["label"] for action in document["actions"]]
    )


def _pagerduty(shown: Preview, title: str) -> str:
    event = json.loads(shown.body)[0]
    status = "triggered"
    if event["event_action"] == "resolve":  # the words are those of the trigger
        event, status = json.loads(_sent("pagerduty", failed_alert()).body)[0], "resolved"
    payload = event["payload"]
    head = f"<b class={status}>{status.upper()}</b> <small>{payload['severity']} · {_text(payload['source'])} · {payload['timestamp']}</small>"
    details = [(name, _text(value)) for name, value in payload["custom_details"].items()]
    return f"{head}<h2>{_text(payload['summary'])}</h2>{_facts(details)}" + _buttons(
        [link["text"] for link in event["links"]]
    )


def _opsgenie(shown: Preview, _title: str) -> str:
    request = json.loads(shown.body)[0]
    if "alias" not in request:
        return f"<b class=resolved>CLOSED</b><h2>Note</h2>{_text(request['note'])}"
    head = f"<b class=triggered>{request['priority']}</b> <small>{_text(request['entity'])} · {', '.join(request['tags'])}</small>"
    return f"{head}<h2>{_text(request['message'])}</h2>{_text(request['description'])}"


def _mail(shown: Preview, _title: str) -> str:
    body = re.sub(r"^.*<body[^>]*>|</body>.*$", "", shown.html or "", flags=re.DOTALL)
    return f"<p><b>{_text(shown.title)}</b></p>{body}"


_DRAW: dict[str, Callable[[Preview, str], str]] = {
    "slack": _slack, "slack-webhook": _slack_webhook, "teams": _teams, "discord": _discord, "telegram": _telegram,
    "google-chat": _google_chat, "mattermost": _mattermost, "ntfy": _ntfy, "pagerduty": _pagerduty,
    "opsgenie": _opsgenie, "mail": _mail,
}  # fmt: skip
_STYLE = """
body{margin:0;background:#e9ebee;font:14px/1.45 'DejaVu Sans',sans-serif;color:#1f2328}
main{columns:2;column-gap:16px;padding:16px;width:1168px}
article{break-inside:avoid;margin:0 0 16px}
h6{margin:0 0 4px;font-size:13px;color:#57606a}
.shown{background:#fff;border:1px solid #d0d7de;border-radius:8px;padding:12px 14px;overflow-wrap:anywhere}
h2{font-size:16px;margin:2px 0 6px}p{margin:4px 0}pre{background:#f3f4f6;padding:6px 8px;margin:4px 0;font-size:12px;white-space:pre-wrap}
a{color:#0b57d0}small{color:#57606a}
.fields,.grid{display:grid;grid-template-columns:1fr 1fr;gap:6px 12px;margin:6px 0}.grid{font-size:13px}
.fact{display:grid;grid-template-columns:130px 1fr;gap:8px;font-size:13px;margin:2px 0}
.button{display:inline-block;border:1px solid #8c959f;border-radius:6px;padding:3px 10px;margin:6px 6px 0 0;font-size:13px;color:#1f2328;text-decoration:none}
.embed{border-left:4px solid;background:#f6f8fa;padding:8px 10px;margin-top:6px}
.triggered{color:#b3261e}.resolved{color:#1a7f37}.telegram{background:#eef6e8}
"""
