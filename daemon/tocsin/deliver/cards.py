"""Messages in the best form of the services that have one: Teams' Adaptive Cards, Discord's embeds, Google Chat's cards,
Mattermost's attachments, Telegram's buttons, ntfy's headers. Pure: JSON out of a message, within the service's limits.
Sources: the services' own references of these formats."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tocsin.deliver.escape import FORMATTERS, Dialect, escape_entities, escape_html, format_link, to_one_line, truncate
from tocsin.deliver.message import SIGNS, Link, Message, MessageSection, Tone, fullest
from tocsin.deliver.services import truncate_markup
from tocsin.model.errors import shorten_log

Json = dict[str, Any]

_LINKS = 6  # of Teams; the others take more
_TEAMS = 24_000  # of 28 KB, the frame that Teams adds included
_GOOGLE_CHAT = 28_000  # of 32 kB
_DISCORD = 5_800  # characters of all embeds together, of 6000
_MATTERMOST = 16_000
_TEAMS_COLOURS = {Tone.BAD: "Attention", Tone.WARN: "Warning", Tone.GOOD: "Good", Tone.INFO: "Accent"}
_COLOURS = {Tone.BAD: "#b3261e", Tone.WARN: "#d98e04", Tone.GOOD: "#1a7f37", Tone.INFO: "#3b5b8c"}
_NTFY_TAGS = {
    Tone.BAD: "rotating_light",
    Tone.WARN: "warning",
    Tone.GOOD: "white_check_mark",
    Tone.INFO: "information_source",
}
_NTFY_PRIORITIES = {Tone.BAD: 5, Tone.WARN: 4, Tone.GOOD: 3, Tone.INFO: 2}


def fitting(message: Message, build: Callable[[Message], Json], limit: int) -> Json:
    """The fullest document whose JSON has at most ``limit`` bytes."""
    return fullest(message, build, lambda document: len(json.dumps(document)) <= limit)


def section_lines(section: MessageSection, write: Callable[[str], str], names: int = 10) -> tuple[str, str]:
    """What a section says of itself, and the names of its items; escaped by ``write``."""
    error = f": {section.error.message}" if section.error is not None and section.error.message else ""
    if section.size == 1:
        return write(to_one_line(f"{section.state.capitalize()}: {section.items[0].title}", 400)), write(error[2:])
    items, more = section.listed(names)
    listed = ", ".join(to_one_line(item.name, 60) for item in items) + (f" and {more} more" if more else "")
    return write(to_one_line(f"{section.size} {section.state}{error}", 400)), write(listed)


def _links(message: Message) -> tuple[Link, ...]:
    return message.links[:_LINKS]


def _markdown(message: Message, section: str, more: str, log_length: int) -> str:
    """Sections, error, log, links and notes. ``section`` and ``more`` are the forms of an entry and of the last one."""
    write = FORMATTERS[Dialect.MARKDOWN].escape
    parts = [section.format(*section_lines(item, write)) for item in message.sections]
    if message.more:
        parts.append(more.format(f"and {message.more} more"))
    if message.error is not None and message.error.message:
        parts.append(f"**{write(message.error.title)}:** {write(truncate(message.error.message, 1_000))}")
    if message.error is not None and message.error.log_tail:
        parts.append(FORMATTERS[Dialect.MARKDOWN].fence(shorten_log(message.error.log_tail, 15, log_length)))
    parts.append(" · ".join(format_link(Dialect.MARKDOWN, *link) for link in _links(message)))
    parts += [f"*{write(f'Note: {note}')}*" for note in message.notes]
    return "\n".join(part for part in parts if part)


# --- Microsoft Teams ------------------------------------------------------------------------------------------------------


def teams_card(message: Message) -> Json:
    return fitting(message, _teams_card, _TEAMS)


def _teams_card(message: Message) -> Json:
    write = FORMATTERS[Dialect.CARD].escape

    def text(value: str, **more: object) -> Json:
        return {"type": "TextBlock", "text": value or " ", "wrap": True, **more}

    title = f"{SIGNS[message.tone]} {write(message.headline)}"
    body = [text(title, size="Large", weight="Bolder", color=_TEAMS_COLOURS[message.tone])]
    for section in message.sections:
        head, names = section_lines(section, write)
        body += [text(head, weight="Bolder", separator=True), text(names, spacing="None")]
    if message.more:
        body.append(text(f"and {message.more} more"))
    if message.lines:
        facts = [{"title": write(line.label), "value": write(line.value)} for line in message.lines]
        body.append({"type": "FactSet", "facts": facts})
    if message.error is not None and message.error.message:
        body += [text(write(message.error.title), weight="Bolder"), text(write(truncate(message.error.message, 1_000)))]
    if message.error is not None and message.error.log_tail:
        tail = write(shorten_log(message.error.log_tail, 15, 1_500))
        body.append(text(tail, fontType="Monospace", size="Small"))
    body += [text(write(f"Note: {note}"), isSubtle=True) for note in message.notes]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": body,
        "actions": [{"type": "Action.OpenUrl", "title": link.label, "url": link.url} for link in _links(message)],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


# --- Discord --------------------------------------------------------------------------------------------------------------


def discord_message(message: Message) -> Json:
    return fitting(message, _discord_message, _DISCORD)


def _discord_message(message: Message) -> Json:
    write = FORMATTERS[Dialect.MARKDOWN].escape
    fields = [
        {"name": write(line.label)[:256], "value": truncate_markup(write(line.value), 1_024) or "-", "inline": True}
        for line in message.lines[:25]
    ]
    embed = {
        "title": truncate_markup(write(message.headline), 256),
        "color": int(_COLOURS[message.tone].removeprefix("#"), 16),
        "description": truncate_markup(_markdown(message, "**{}**\n{}", "{}", 1_200), 4_096),
        "fields": fields,
    }
    content = f"{SIGNS[message.tone]} {truncate_markup(write(message.headline), 500)}"
    return {"content": content, "embeds": [embed], "allowed_mentions": {"parse": []}}


# --- Google Chat ----------------------------------------------------------------------------------------------------------


def google_chat_message(message: Message) -> Json:
    return fitting(message, _google_chat_message, _GOOGLE_CHAT)


def _google_chat_message(message: Message) -> Json:
    widgets: list[Json] = []
    for section in message.sections:
        head, names = section_lines(section, escape_html)
        widgets.append({"textParagraph": {"text": f"<b>{head}</b><br>{names}"}})
    if message.more:
        widgets.append({"textParagraph": {"text": f"and {message.more} more"}})
    widgets += [
        {"decoratedText": {"topLabel": line.label, "text": escape_html(line.value), "wrapText": True}}
        for line in message.lines
    ]
    if message.error is not None and message.error.message:
        text = escape_html(truncate(message.error.message, 1_000))
        widgets.append({"textParagraph": {"text": f"<b>{escape_html(message.error.title)}</b><br>{text}"}})
    if message.error is not None and message.error.log_tail:
        tail = escape_html(shorten_log(message.error.log_tail, 15, 1_500)).replace("\n", "<br>")
        widgets.append({"textParagraph": {"text": tail}})
    widgets += [{"textParagraph": {"text": f"<i>{escape_html(f'Note: {note}')}</i>"}} for note in message.notes]
    buttons = [{"text": link.label, "onClick": {"openLink": {"url": link.url}}} for link in _links(message)]
    if buttons:
        widgets.append({"buttonList": {"buttons": buttons}})
    title = f"{SIGNS[message.tone]} {to_one_line(message.headline, 200)}"
    card = {"header": {"title": title}, "sections": [{"widgets": widgets}]} if widgets else {"header": {"title": title}}
    text = FORMATTERS[Dialect.CHAT].escape(to_one_line(message.headline, 300))
    return {"text": f"{SIGNS[message.tone]} {text}", "cardsV2": [{"cardId": "tocsin", "card": card}]}


# --- Mattermost -----------------------------------------------------------------------------------------------------------


def mattermost_message(message: Message) -> Json:
    return fitting(message, _mattermost_message, _MATTERMOST)


def _mattermost_message(message: Message) -> Json:
    write = FORMATTERS[Dialect.MARKDOWN].escape
    links = _links(message)
    attachment: Json = {
        "fallback": to_one_line(message.headline, 300),
        "color": _COLOURS[message.tone],
        "title": write(to_one_line(message.headline, 300)),
        "text": _markdown(message, "- **{}**\n  {}", "- {}", 1_500),
        "fields": [{"short": True, "title": write(line.label), "value": write(line.value)} for line in message.lines],
    }
    if links:
        attachment["title_link"] = links[0].url
    return {"text": "", "attachments": [attachment]}


# --- Telegram and ntfy ----------------------------------------------------------------------------------------------------


def telegram_buttons(message: Message) -> Json:
    """Two a row, under the text."""
    buttons = [{"text": link.label, "url": link.url} for link in _links(message)]
    return {"inline_keyboard": [buttons[start : start + 2] for start in range(0, len(buttons), 2)]} if buttons else {}


def ntfy_fields(message: Message) -> Json:
    """What stands beside title and text: how urgent it is, a sign, and what a tap opens."""
    links = _links(message)
    urgent = [*links[:2], *(link for link in links[2:] if link.label == "Acknowledge"), *links[2:]]
    actions = [{"action": "view", "label": link.label, "url": link.url} for link in dict.fromkeys(urgent[:3])]
    fields: Json = {"priority": _NTFY_PRIORITIES[message.tone], "tags": [_NTFY_TAGS[message.tone]], "actions": actions}
    return fields | ({"click": links[0].url} if links else {})


# How a request that apprise has made for a service is completed: its JSON document, and the message.
Completion = Callable[[Mapping[str, Any], Message], Json]


def _instead(build: Callable[[Message], Json], keep: Sequence[str] = ()) -> Completion:
    def complete(document: Mapping[str, Any], message: Message) -> Json:
        return {name: document[name] for name in keep if name in document} | build(message)

    return complete


def _telegram(document: Mapping[str, Any], message: Message) -> Json:
    texts = {name: document[name] for name in ("text", "caption", "message") if name in document}
    texts = {name: _without(text, _links(message)[1:], escape_entities) for name, text in texts.items()}
    first = next((name for name in ("title", "text", "caption") if document.get(name)), None)
    signed = {first: f"{SIGNS[message.tone]} {texts.get(first) or document[first]}"} if first else {}
    return {**document, **texts, **signed, "reply_markup": telegram_buttons(message)}


def _ntfy(document: Mapping[str, Any], message: Message) -> Json:
    fields = ntfy_fields(message)
    shown = [Link(action["label"], action["url"]) for action in fields["actions"]]
    texts = {"message": _without(document["message"], shown[1:], str)} if "message" in document else {}
    return fields | {**document, **texts}


def _without(text: str, links: Iterable[Link], escape: Callable[[str], str]) -> str:
    """A text without the lines of these links, which are buttons too."""
    for link in links:
        text = text.replace(escape(f"{link.label}: {link.url}") + "\n", "")
        text = text.removesuffix("\n" + escape(f"{link.label}: {link.url}"))
    return text


COMPLETIONS: Mapping[str, Completion] = {
    **dict.fromkeys(("workflow", "workflows"), _instead(teams_card)),
    "discord": _instead(discord_message, ("username", "avatar_url", "tts", "thread_id")),
    "gchat": _instead(google_chat_message, ("thread",)),
    **dict.fromkeys(("mmost", "mmosts"), _instead(mattermost_message, ("username", "channel", "icon_url"))),
    "tgram": _telegram,
    **dict.fromkeys(("ntfy", "ntfys"), _ntfy),
}
"""By the scheme of the channel's URL. ntfy's own parameters in the URL win over ours."""
