"""A message as Slack shows it: blocks, the fallback text of lock screens, and what is news for a thread. Pure. Limits are
Block Kit's, from Slack's reference of its blocks."""

import json
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from tocsin.deliver.escape import (
    FORMATTERS,
    Dialect,
    break_mentions,
    clean_text,
    escape_slack,
    format_link,
    to_one_line,
    truncate,
)
from tocsin.deliver.message import MENDED, SIGNS, Item, Link, Message, MessageLine, Tone, fullest
from tocsin.deliver.render import Rendered
from tocsin.deliver.services import truncate_markup
from tocsin.model.errors import shorten_log
from tocsin.model.notification import GroupNotice

Block = dict[str, Any]

_HEADER, _SECTION, _FIELD, _BUTTON = 150, 3_000, 2_000, 75
_FIELDS, _BUTTONS, _BLOCKS = 10, 8, 50
_TOTAL = 12_000  # characters of all blocks; Slack refuses more than about 13 000 with msg_blocks_too_long
_NAMES = 15  # scenarios under one error


def slack_blocks(message: Message, own_text: str | None = None) -> list[Block]:
    """The fullest blocks that Slack takes. ``own_text``: mrkdwn of a template of the operator, in place of lines, errors
    and items."""
    if own_text is not None:
        message = replace(message, lines=(), error=None, sections=(), more=0)
    return fullest(
        message,
        lambda part: _blocks(part, own_text),
        lambda blocks: len(blocks) <= _BLOCKS and len(json.dumps(blocks, ensure_ascii=False)) <= _TOTAL,
    )


def _blocks(message: Message, own_text: str | None) -> list[Block]:
    blocks: list[Block] = [{"type": "header", "text": _plain(f"{SIGNS[message.tone]} {message.headline}", _HEADER)}]
    if own_text is not None:
        blocks.append(_section(own_text))
    for section in message.sections:
        items, more = section.listed(_NAMES)
        error = f": {section.error.message}" if section.error and section.error.message else ""
        if section.size == 1:
            title = f"{section.state.capitalize()}: {items[0].title}{error}"
            names = " ".join(format_link(Dialect.SLACK, *link) for link in items[0].links[:1])
        else:
            title = f"{section.size} {section.state}{error}"
            names = ", ".join(map(_named, items)) + (f" and {more} more" if more else "")
        blocks.append(_section(f"*{escape_slack(to_one_line(title, 400))}*\n{names}"))
    if message.more:
        blocks.append(_section(f"and {message.more} more"))
    lines = list(message.lines)
    parts = (lines[start : start + _FIELDS] for start in range(0, len(lines), _FIELDS))
    blocks += ({"type": "section", "fields": list(map(_field, part))} for part in parts)
    if message.error is not None:
        if message.error.message:
            text = _code(truncate(message.error.message, 1_000))
            blocks.append(_section(f"*{escape_slack(message.error.title)}*\n{text}"))
        if message.error.log_tail:
            blocks.append(_section(_code(shorten_log(clean_text(message.error.log_tail), 15, 1_200))))
    if buttons := list(map(_button, message.links[:_BUTTONS])):
        blocks.append({"type": "actions", "elements": buttons})
    notes = (_mrkdwn(f"Note: {escape_slack(note)}", _FIELD) for note in message.notes)
    blocks += ({"type": "context", "elements": [note]} for note in notes)
    return blocks


def slack_body(rendered: Rendered) -> tuple[Message, dict[str, Any]]:
    """The message, and it as fallback text and blocks. A reporter's own subject and text stand in place of ours."""
    message = replace(rendered.message, headline=rendered.subject)
    blocks = slack_blocks(message, None if rendered.built_in else rendered.text)
    return message, {"text": slack_text(message), "blocks": blocks, "unfurl_links": False}


def slack_text(message: Message) -> str:
    """What a lock screen and a search show: the headline, and the first error."""
    errors = [message.error, *(section.error for section in message.sections)]
    error = next((item.message for item in errors if item is not None and item.message), "")
    first = error.partition("\n")[0]
    text = f"{message.headline}: {first}" if first and first not in message.headline else message.headline
    return escape_slack(f"{SIGNS[message.tone]} {to_one_line(text, 400)}")


def news(group: GroupNotice, message: Message, known: Collection[str]) -> str | None:
    """What a thread is told of a group whose alerts with these fingerprints it knows to fire; None: nothing is new."""
    if not group.firing:
        mended = next((f"\n{line.label} {line.value}" for line in message.lines if line.label in MENDED), "")
        return f"{SIGNS[Tone.GOOD]} {escape_slack(message.headline + mended)}"
    fresh = (alert for alert in group.firing if alert.fingerprint not in known)
    lines = [f"{SIGNS[Tone.BAD]} {alert.annotations.get('summary') or alert.name}" for alert in fresh]
    for alert in group.resolved:
        if alert.fingerprint in known:
            place = (
                alert.labels.get("scenario_name") or alert.labels.get("scenario") or alert.labels.get("dss_node", "")
            )
            lines.append(f"{SIGNS[Tone.GOOD]} {alert.name} of {place} is resolved")
    if not lines:
        return None
    text = "\n".join(escape_slack(to_one_line(line, 300)) for line in lines[:_NAMES])
    return text + (f"\nand {len(lines) - _NAMES} more" if len(lines) > _NAMES else "")


def run_news(message: Message) -> str | None:
    """What the thread of a run is told of its end: the error, and the end of the log."""
    if message.error is None:
        return None
    title = escape_slack(message.error.title)
    text = f"*{title}:* {escape_slack(message.error.message)}\n" if message.error.message else ""
    if message.error.log_tail:
        text += _code(shorten_log(clean_text(message.error.log_tail), 30, 2_500))
    return truncate_markup(text.rstrip("\n"), _SECTION) or None


def _section(text: str) -> Block:
    return {"type": "section", "text": _mrkdwn(text, _SECTION)}


def _field(line: MessageLine) -> dict[str, str]:
    return _mrkdwn(f"*{escape_slack(line.label)}*\n{escape_slack(line.value)}", _FIELD)


def _mrkdwn(text: str, limit: int) -> dict[str, str]:
    return {"type": "mrkdwn", "text": truncate_markup(text.strip() or "-", limit, len)}


def _plain(text: str, limit: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": truncate(break_mentions(to_one_line(text, limit)), limit) or "-"}


def _code(text: str) -> str:
    return FORMATTERS[Dialect.SLACK].fence(text)


def _button(link: Link) -> dict[str, Any]:
    return {"type": "button", "text": _plain(link.label, _BUTTON), "url": link.url}


def _named(item: Item) -> str:
    name = to_one_line(item.name, 60)
    return format_link(Dialect.SLACK, name, item.links[0].url) if item.links else escape_slack(name)
