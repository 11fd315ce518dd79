"""What a message says, before any format: the context of every template, documented in ``docs/messages.md``. Texts from
DSS are kept as they came, but for their length; each dialect escapes them. Pure, but for ``load_outgoing``, which reads
claimed rows with what their messages are made of."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from tocsin.config.model import Config
from tocsin.deliver.escape import to_one_line, truncate
from tocsin.kit.clock import format_utc, human_duration
from tocsin.model.alert import Alert, EndReason
from tocsin.model.event import Event, EventName
from tocsin.model.notification import EventNotice, GroupNotice, Notice, Notification, SummaryNotice
from tocsin.model.run import LOST, Details, Outcome, Run, RunError, RunKey, ScenarioKey
from tocsin.store import Connection
from tocsin.store.outbox import ClaimedRow, load_claimed
from tocsin.store.runs import get_details, usual_durations

MAX_ITEMS = 50
_NAME = 120
_CACHED_FOR = timedelta(minutes=5)
_CACHE_SIZE = 20_000
_NO_LEASE = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Facts:
    """What rows know beyond the notice: run details, and the median duration of a scenario's last good runs."""

    details: Mapping[RunKey, Details] = field(default_factory=dict)
    usual: Mapping[ScenarioKey, timedelta] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Outgoing:
    """One notification that is being sent, and the lease on its row ``n``."""

    notification: Notification
    config: Config
    facts: Facts = field(default_factory=Facts)
    n: int = 0
    lease_until: datetime = _NO_LEASE
    started: datetime | None = None  # when its send began
    watch: "asyncio.Task[None] | None" = None  # set once its deadline has passed
    abandoned: bool = False  # its outcome is unknown for good; a result that comes now is late
    concluded: bool = False  # its last receipt is being written


# The usual duration of a scenario changes slowly and is read for every send: until when it is cached, and what it is.
UsualDurations = dict[ScenarioKey, tuple[datetime, timedelta | None]]


def load_outgoing(
    connection: Connection,
    leases: Mapping[ClaimedRow, datetime],
    config: Config,
    with_usual: frozenset[str],
    usual: UsualDurations,
    now: datetime,
) -> list[Outgoing]:
    """Claimed rows that can be read, with the details of their runs; for the channels ``with_usual``, whose receivers
    are people, also with the usual durations."""
    notifications = load_claimed(leases)
    runs: dict[int, set[RunKey]] = {}
    for n, notification in notifications.items():
        match notification.notice:
            case EventNotice(event=event):
                runs[n] = {event.run.key} if event.run else set()
            case GroupNotice(alerts=alerts):
                runs[n] = {alert.run for alert in alerts if alert.run is not None}
            case SummaryNotice(worst=worst):
                runs[n] = {event.run.key for event in worst if event.run is not None}
    details = get_details(connection, {run for part in runs.values() for run in part})
    scenarios = {run.scenario for n, row in notifications.items() if row.channel in with_usual for run in runs[n]}
    if len(usual) > _CACHE_SIZE:
        usual.clear()
    stale = [key for key in scenarios if key not in usual or usual[key][0] <= now]
    fresh = usual_durations(connection, stale)
    usual |= {key: (now + _CACHED_FOR, fresh.get(key)) for key in stale}
    durations = {key: duration for key in scenarios if (duration := usual[key][1]) is not None}
    facts = {n: Facts({run: details[run] for run in keys if run in details}, durations) for n, keys in runs.items()}
    until = {row.n: until for row, until in leases.items()}
    return [Outgoing(notification, config, facts[n], n, until[n]) for n, notification in notifications.items()]


class Tone(StrEnum):
    """How bad it is, the worst last; decides colours."""

    INFO = "info"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


class MessageLine(NamedTuple):
    label: str
    value: str


class Link(NamedTuple):
    label: str
    url: str


class StepLine(NamedTuple):
    name: str
    outcome: str
    duration: str
    tone: Tone


class ErrorText(NamedTuple):  # the first of a run
    message: str
    step: str | None = None
    log_tail: str | None = None


class Item(NamedTuple):
    """One alert of a group, or one run of a summary. ``state``: firing, or how it ended."""

    title: str
    tone: Tone
    state: str
    lines: tuple[MessageLine, ...] = ()
    error: ErrorText | None = None
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """What templates see. Empty tuples and None are what does not apply."""

    headline: str  # what broke, and where; one line
    tone: Tone
    lines: tuple[MessageLine, ...] = ()  # outcome, start, duration…
    error: ErrorText | None = None
    steps: tuple[StepLine, ...] = ()
    items: tuple[Item, ...] = ()  # of a group or a summary
    more: int = 0  # items that are not listed
    links: tuple[Link, ...] = ()
    run_id: str | None = None
    log_tail: str | None = None  # of a run, as far as it was read
    notes: tuple[str, ...] = ()  # about the message itself


def build_message(notice: Notice, facts: Facts, config: Config) -> Message:
    url = config.http.external_url
    home = (Link("Tocsin", url.rstrip("/") + "/"),) if url else ()
    match notice:
        case EventNotice(event=event):
            return _event_message(event, facts, home)
        case GroupNotice():
            return _group_message(notice, facts, home)
        case SummaryNotice():
            counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(notice.runs_by_outcome.items()))
            total = sum(notice.runs_by_outcome.values())
            return Message(
                to_one_line(f"{total} runs on {notice.node} were seen late: {counts or 'none ended'}", 300),
                max(map(outcome_tone, notice.runs_by_outcome), key=list(Tone).index, default=Tone.INFO),
                (MessageLine("From", format_utc(notice.since)), MessageLine("Until", format_utc(notice.until))),
                items=tuple(
                    Item(
                        headline(event),
                        _event_tone(event),
                        event.name.value,
                        tuple(_run_lines(event.run, None)) if event.run else (),
                        _error(facts.details.get(event.run.key) if event.run else None),
                        _run_links(event),
                    )
                    for event in notice.worst[:MAX_ITEMS]
                ),
                more=max(len(notice.worst) - MAX_ITEMS, 0),
                links=home,
            )


def outcome_tone(outcome: str | None) -> Tone:
    return _OUTCOME_TONES.get(outcome, Tone.WARN)


_OUTCOME_TONES: Mapping[str | None, Tone] = {
    Outcome.SUCCESS: Tone.GOOD,
    Outcome.FAILED: Tone.BAD,
    Outcome.UNKNOWN: Tone.BAD,
    None: Tone.INFO,
}


def _event_message(event: Event, facts: Facts, home: tuple[Link, ...]) -> Message:
    run = event.run
    details = facts.details.get(run.key) if run else None
    tone = _event_tone(event)
    run_steps = details.steps if details else ()
    steps = [
        StepLine(
            to_one_line(step.name or step.id or "unnamed", _NAME),
            to_one_line(step.outcome or "", 40),
            human_duration(step.duration) if step.duration is not None else "",
            outcome_tone(step.outcome),
        )
        for step in run_steps
    ]
    failed = [line for step, line in zip(run_steps, steps, strict=True) if step.outcome == Outcome.FAILED]
    lines = list(_run_lines(run, facts.usual.get(run.scenario))) if run else []
    lines += [MessageLine("Failed step", line.name) for line in failed[:1]]
    if event.previous_outcome:
        lines.append(MessageLine("Previous outcome", to_one_line(event.previous_outcome, 40)))
    if event.reporter is not None:
        lines.append(MessageLine("Reporter's error", to_one_line(event.reporter.error, 500)))
    if run is None:
        lines.append(MessageLine("Since" if event.name is EventName.NODE_DOWN else "At", format_utc(event.time)))
    if event.late:
        lines.append(MessageLine("Seen late", f"at {format_utc(event.detected_at)}, after a downtime"))
    if details is not None and details.problem:
        lines.append(MessageLine("Details", to_one_line(details.problem, 200)))
    return Message(
        headline(event),
        tone,
        tuple(lines),
        _error(details) if tone is not Tone.GOOD else None,
        tuple(steps),
        links=(*_run_links(event), *home),
        run_id=run.run_id if run else None,
        log_tail=details.log_tail if details else None,
    )


# What each event says, and how bad it is; None: as its outcome is.
_EVENTS: Mapping[EventName, tuple[Tone | None, str]] = {
    EventName.NODE_DOWN: (Tone.BAD, "DSS node {node} cannot be watched: {reason}"),
    EventName.NODE_UP: (Tone.GOOD, "DSS node {node} answers again"),
    EventName.REPORTER_FAILED: (Tone.BAD, "Reporter {reporter} of {name} could not send{where}"),
    EventName.RUN_STARTED: (Tone.INFO, "{name} started{where}"),
    EventName.RUN_FAILED: (Tone.BAD, "{name} FAILED{where}"),
    EventName.RUN_ABORTED: (Tone.WARN, "{name} was ABORTED{where}"),
    EventName.RUN_FINISHED: (None, "{name} ended with {outcome}{where}"),
}


def headline(event: Event) -> str:
    outcome = event.run.outcome if event.run else None
    lost = event.name is EventName.RUN_FINISHED and outcome == Outcome.UNKNOWN
    return ("{name}: " + LOST + "{where}" if lost else _EVENTS[event.name][1]).format(
        node=event.node,
        reason=event.reason.value if event.reason else "unreachable",
        reporter=to_one_line(event.reporter.name, _NAME) if event.reporter else "of DSS",
        name=to_one_line(event.scenario.name or event.scenario.id, _NAME) if event.scenario else "",
        outcome=to_one_line(outcome or "no outcome", 40),
        where=f" in {event.project} on {event.node}" if event.project else f" on {event.node}",
    )


def _event_tone(event: Event) -> Tone:
    return _EVENTS[event.name][0] or outcome_tone(event.run.outcome if event.run else None)


def _run_lines(run: Run, usual: timedelta | None) -> Iterable[MessageLine]:
    if run.outcome:
        yield MessageLine("Outcome", to_one_line(run.outcome, 40))
    yield MessageLine("Started", format_utc(run.start))
    if run.end is not None and run.duration is not None:
        yield MessageLine("Ended", format_utc(run.end))
        usually = "" if usual is None else f" (usually {human_duration(usual)})"
        yield MessageLine("Duration", human_duration(run.duration) + usually)
    elif usual is not None:
        yield MessageLine("Usual duration", human_duration(usual))
    if trigger := run.trigger_name or run.trigger_type:
        yield MessageLine("Trigger", to_one_line(trigger, _NAME))
    if run.run_as:
        yield MessageLine("Runs as", to_one_line(run.run_as, _NAME))


def _run_links(event: Event) -> tuple[Link, ...]:
    return (Link("Run in DSS", event.run_url),) if event.run_url else ()


def _error(details: Details | None) -> ErrorText | None:
    if details is None:
        return None
    error = details.error
    if error is None:
        return ErrorText("", None, details.log_tail) if details.log_tail else None
    return ErrorText(error_text(error), to_one_line(error.step, _NAME) if error.step else None, details.log_tail)


def error_text(error: RunError) -> str:
    """What an error says, with its title where the message does not repeat it."""
    title = error.title if error.title and error.title not in (error.message or "") else None
    text = ": ".join(part for part in (title, error.message) if part) or error.code or "an error without a message"
    return truncate(text, 4_000)


def _group_message(group: GroupNotice, facts: Facts, home: tuple[Link, ...]) -> Message:
    alerts = (*group.firing, *group.resolved)
    items = tuple(_alert_item(alert, facts) for alert in alerts[:MAX_ITEMS])
    more = len(alerts) - len(items) + group.truncated
    if len(alerts) == 1 and not more:
        (item,) = items
        title = item.title if item.state == "firing" else f"{item.state}: {item.title}"
        return Message(title, item.tone, item.lines, item.error, links=(*item.links, *home))
    counts = ((len(group.firing), "firing"), (len(group.resolved), "ended"))
    count = ", ".join(f"{number} {word}" for number, word in counts if number)
    labels = group.group_labels
    places = ((" in ", labels.get("project")), (" on ", labels.get("dss_node")))
    where = "".join(f"{preposition}{place}" for preposition, place in places if place)
    return Message(
        to_one_line(f"{labels.get('alertname') or 'Alerts'}{where}: {count}", 300),
        max(map(_severity_tone, group.firing), key=list(Tone).index, default=Tone.GOOD),
        items=items,
        more=more,
        links=home,
    )


def _alert_item(alert: Alert, facts: Facts) -> Item:
    annotations, labels = alert.annotations, alert.labels
    place = "/".join(labels[name] for name in ("project", "scenario") if labels.get(name))
    lines = [MessageLine("Alert", f"{alert.name} ({labels.get('severity', 'no severity')})")]
    if place or labels.get("dss_node"):
        lines.append(MessageLine("Where", " on ".join(part for part in (place, labels.get("dss_node", "")) if part)))
    lines.append(MessageLine("Since", format_utc(alert.starts_at)))
    if alert.ends_at is not None:
        runs = f", after {alert.count} runs" if alert.count > 1 else ""
        lasted = human_duration(max(alert.ends_at - alert.starts_at, timedelta(0)))
        lines.append(MessageLine("Lasted", f"{lasted}{runs}"))
    if alert.firing and annotations.get("description"):
        lines.append(MessageLine("Why", to_one_line(annotations["description"], 500)))
    links = (("Run in DSS", "run_url"), ("Scenario in DSS", "scenario_url"))
    return Item(
        to_one_line(annotations.get("summary") or f"{alert.name} {place}".strip(), 300),
        _severity_tone(alert) if alert.firing else Tone.GOOD,
        "firing" if alert.firing else _END_TEXTS.get(alert.end_reason, "Resolved"),
        tuple(lines),
        _error(facts.details.get(alert.run)) if alert.firing and alert.run else None,
        tuple(Link(label, annotations[name]) for label, name in links if annotations.get(name)),
    )


_SEVERITY_TONES: Mapping[str | None, Tone] = {"info": Tone.INFO, "none": Tone.INFO, "warning": Tone.WARN}
_END_TEXTS: Mapping[EndReason | None, str] = {
    EndReason.DEACTIVATED: "Switched off",
    EndReason.UNWATCHED: "No longer watched",
    EndReason.BY_HAND: "Closed by hand",
}


def _severity_tone(alert: Alert) -> Tone:
    return _SEVERITY_TONES.get(alert.labels.get("severity"), Tone.BAD)
