"""The verb ``replay``, and what ``check --replay`` says: what a configuration would have sent for the stored history."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from tocsin.cli import show
from tocsin.cli.exits import USAGE, Failure, fail
from tocsin.cli.verb import ConfigOption, JsonOption, Option, command, load_config
from tocsin.kit.clock import SystemClock, isoformat

if TYPE_CHECKING:
    from tocsin.config.model import Config
    from tocsin.decide.replay import Replay
    from tocsin.model.notification import Notification


@command(None, "replay")
def replay(
    config: ConfigOption = None,
    since: Annotated[str, Option(metavar="TIME", help="From this time on, or for so long.")] = "7d",
    until: Annotated[
        str | None, Option(metavar="TIME", help="Until this time, or so long ago; by default now.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what this configuration would have sent for the stored history, beside what was sent. Sends nothing."""
    result = load_replay(load_config(config), since, until)
    summary = _summary(result)
    if as_json:
        would, sent = (list(map(_item, items)) for items in (result.would_send, result.sent))
        show.print_json({"would_send": would, "sent": sent, "summary": summary})
        return
    for heading, words in _WORDS.items():
        counts = _counts(result, words)
        rows = [{heading: name, "would send": would, "sent": sent} for name, (would, sent) in counts.items()]
        show.rows(rows, (heading, "would send", "sent"))
        print()
    print(f"{summary['events']} events from {show.cell(result.since)} to {show.cell(result.until)}")
    if result.pruned:
        print(f"what was before {show.cell(result.since)} is not stored: the history begins there")


def load_replay(config: "Config", since: str, until: str | None = None) -> "Replay":
    """Exits with one line when there is nothing to replay."""
    from tocsin.app.logs import configure_logging
    from tocsin.decide.replay import replay_history
    from tocsin.decide.reporters import mail_channels
    from tocsin.store import Store, StoreError
    from tocsin.store.engine import sqlite_path

    configure_logging("error", "auto")
    now = SystemClock().now()
    try:
        begin, end = _moment(since, now), _moment(until, now) if until else now
    except Failure as error:
        fail(str(error), error.code)
    if begin >= end:
        fail("--since must be before --until", USAGE)

    async def main() -> "Replay":
        store = Store(config.store.url)
        if store.is_sqlite and not (path := sqlite_path(store.url)).exists():
            fail(f"there is no store at {path}, so there is no history to replay; name the daemon's in store.url")
        await store.open(exclusive=False)
        try:
            return await store.browse(replay_history, config, begin, end, await mail_channels(config))
        finally:
            await store.close()

    try:
        return asyncio.run(main())
    except StoreError as error:
        fail(str(error))


def _moment(text: str, now: datetime) -> datetime:
    """A time, of this machine's zone if it names none, or how long ago. Raises ``Failure``."""
    from tocsin.kit.clock import BadDuration, parse_duration

    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(text).astimezone()
    with suppress(BadDuration, OverflowError):
        return now - parse_duration(text)
    raise Failure(f"{text!r} is neither a time (2026-03-01T06:00) nor how long ago (7d)", USAGE)


def changes_by_receiver(result: "Replay") -> Iterator[str]:
    """A line a receiver on what would change."""
    for receiver, (would, sent) in _counts(result, lambda item: [item.receiver]).items():
        of = [[item for item in items if item.receiver == receiver] for items in (result.would_send, result.sent)]
        rules = (Counter(word for item in items for word in _rules(item)) for items in of)
        more, less = rules
        differences = {name: more[name] - less[name] for name in sorted({*more, *less}) if more[name] != less[name]}
        why = ", ".join(f"{name} {count:+d}" for name, count in differences.items())
        yield (
            f"{receiver}: {would} messages instead of {sent} ({why})"
            if why
            else f"{receiver}: {sent} messages, as sent"
        )


Words = Callable[["Notification"], Sequence[str]]


def _rules(item: "Notification") -> list[str]:
    """The alerts, or the reporter, that a notification is about."""
    from tocsin.model.notification import EventNotice, GroupNotice

    match item.notice:
        case GroupNotice(alerts=alerts):
            return sorted({alert.name for alert in alerts})
        case EventNotice(reporter=reporter):
            return [reporter]
        case _:
            return ["summary"]


_WORDS: dict[str, Words] = {
    "receiver": lambda item: [item.receiver],
    "rule": _rules,
    "day": lambda item: [f"{item.created_at.astimezone():%Y-%m-%d}"],
}


def _counts(result: "Replay", words: Words) -> dict[str, tuple[int, int]]:
    """How many notifications would have been sent, and were, by a word; one about several counts for each."""
    would, sent = (
        Counter(word for item in items for word in words(item)) for items in (result.would_send, result.sent)
    )
    return {name: (would[name], sent[name]) for name in sorted({*would, *sent})}


def _summary(result: "Replay") -> dict[str, object]:
    by = {
        f"by_{heading}": {
            name: {"would_send": would, "sent": sent} for name, (would, sent) in _counts(result, words).items()
        }
        for heading, words in _WORDS.items()
    }
    facts = {"since": result.since, "until": result.until, "pruned": result.pruned, "events": result.events}
    return {**facts, "would_send": len(result.would_send), "sent": len(result.sent), **by}


def _item(item: "Notification") -> dict[str, object]:
    from tocsin.model.notification import GroupNotice
    from tocsin.store.query import notice_subject

    reason = item.notice.reason if isinstance(item.notice, GroupNotice) else None
    facts = {"at": isoformat(item.created_at), "receiver": item.receiver, "channel": item.channel}
    return {**facts, "subject": notice_subject(item.notice), "about": _rules(item), "reason": reason}
