"""What a message says, before any format: the context of every template, documented in ``docs/messages.md``. Pure.

The first line says what broke and where. Texts that come from DSS are kept as they came, but for their length; each
format escapes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from tocsin.config.model import Config
from tocsin.deliver.escape import cut, one_line
from tocsin.kit.clock import format_utc, human_duration
from tocsin.model.alert import Alert, EndReason
from tocsin.model.event import Event, EventName
from tocsin.model.notification import EventNotice, GroupNotice, Notice, SummaryNotice
from tocsin.model.run import LOST, Details, Outcome, Run, RunError, RunKey, ScenarioKey

MAX_ITEMS = 50
_NAME = 120
_ERROR = 4_000


class Tone(StrEnum):
    """How bad it is; decides colours."""

    BAD = "bad"
    WARN = "warn"
    GOOD = "good"
    INFO = "info"


_RANK = (Tone.INFO, Tone.GOOD, Tone.WARN, Tone.BAD)


@dataclass(frozen=True, slots=True)
class Facts:
    """What rows know beyond the notice: run details, and the median duration of a scenario's last good runs."""

    details: Mapping[RunKey, Details] = field(default_factory=dict)
    usual: Mapping[ScenarioKey, timedelta] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Link:
    label: str
    url: str


@dataclass(frozen=True, slots=True)
class StepLine:
    name: str
    outcome: str
    duration: str
    tone: Tone


@dataclass(frozen=True, slots=True)
class ErrorText:
    """The first error of a run. ``log_tail`` is None when there is none."""

    message: str
    step: str | None = None
    log_tail: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One alert of a group, or one run of a summary. ``state``: firing, or how it ended."""

    title: str
    tone: Tone
    state: str
    lines: tuple[Line, ...] = ()
    error: ErrorText | None = None
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """What templates see. Empty tuples and None are what does not apply."""

    headline: str  # what broke, and where; one line
    tone: Tone
    lines: tuple[Line, ...] = ()  # outcome, start, duration…
    error: ErrorText | None = None
    steps: tuple[StepLine, ...] = ()
    items: tuple[Item, ...] = ()  # of a group or a summary
    more: int = 0  # items that are not listed
    links: tuple[Link, ...] = ()
    run_id: str | None = None
    log_tail: str | None = None  # of a run, as far as it was read
    notes: tuple[str, ...] = ()  # about the message itself


def message(notice: Notice, facts: Facts, config: Config, notes: Sequence[str] = ()) -> Message:
    """What this notice says with these facts."""
    home = _home(config)
    match notice:
        case EventNotice(event=event):
            return _event(event, facts, home, tuple(notes))
        case GroupNotice() as group:
            return _group(group, facts, home, tuple(notes))
        case SummaryNotice() as summary:
            return _summary(summary, facts, home, tuple(notes))


# --- events ------------------------------------------------------------------------------------------------------------


def _event(event: Event, facts: Facts, home: tuple[Link, ...], notes: tuple[str, ...]) -> Message:
    run = event.run
    details = facts.details.get(run.key) if run else None
    usual = facts.usual.get(run.scenario) if run else None
    links = (*((Link("Run in DSS", event.run_url),) if event.run_url else ()), *home)
    return Message(
        headline=headline(event),
        tone=_tone(event),
        lines=tuple(_event_lines(event, details, usual)),
        error=_error(details) if _tone(event) is not Tone.GOOD else None,
        steps=_steps(details),
        links=links,
        run_id=run.run_id if run else None,
        log_tail=details.log_tail if details else None,
        notes=notes,
    )


def headline(event: Event) -> str:
    """One line: what happened, to what, and where."""
    where = f" in {event.project} on {event.node}" if event.project else f" on {event.node}"
    name = one_line(event.scenario.name or event.scenario.id, _NAME) if event.scenario else ""
    outcome = event.run.outcome if event.run else None
    match event.name:
        case EventName.NODE_DOWN:
            return f"DSS node {event.node} cannot be watched: {event.reason.value if event.reason else 'unreachable'}"
        case EventName.NODE_UP:
            return f"DSS node {event.node} answers again"
        case EventName.REPORTER_FAILED:
            reporter = one_line(event.reporter.name, _NAME) if event.reporter else "of DSS"
            return f"Reporter {reporter} of {name} could not send{where}"
        case EventName.RUN_STARTED:
            return f"{name} started{where}"
        case EventName.RUN_FAILED:
            return f"{name} FAILED{where}"
        case EventName.RUN_ABORTED:
            return f"{name} was ABORTED{where}"
        case EventName.RUN_FINISHED:
            if outcome == Outcome.UNKNOWN:
                return f"{name}: {LOST}{where}"
            return f"{name} ended with {one_line(outcome or 'no outcome', 40)}{where}"


def _event_lines(event: Event, details: Details | None, usual: timedelta | None) -> list[Line]:
    lines: list[Line] = []
    run = event.run
    if run is not None:
        lines += _run_lines(run, usual)
    failed = next((step for step in details.steps if step.outcome == Outcome.FAILED), None) if details else None
    if failed is not None:
        lines.append(Line("Failed step", one_line(failed.name or failed.id or "unnamed", _NAME)))
    if event.previous_outcome:
        lines.append(Line("Previous outcome", one_line(event.previous_outcome, 40)))
    if event.reporter is not None:
        lines.append(Line("Reporter's error", one_line(event.reporter.error, 500)))
    if run is None:
        lines.append(Line("Since" if event.name is EventName.NODE_DOWN else "At", format_utc(event.time)))
    if event.late:
        lines.append(Line("Seen late", f"at {format_utc(event.detected_at)}, after a downtime"))
    if details is not None and details.problem:
        lines.append(Line("Details", one_line(details.problem, 200)))
    return lines


def _run_lines(run: Run, usual: timedelta | None) -> list[Line]:
    lines = [Line("Outcome", one_line(run.outcome, 40))] if run.outcome else []
    lines.append(Line("Started", format_utc(run.start)))
    if run.end is not None and run.duration is not None:
        lines.append(Line("Ended", format_utc(run.end)))
        lines.append(Line("Duration", against_usual(run.duration, usual)))
    elif usual is not None:
        lines.append(Line("Usual duration", human_duration(usual)))
    trigger = run.trigger_name or run.trigger_type
    if trigger:
        lines.append(Line("Trigger", one_line(trigger, _NAME)))
    if run.run_as:
        lines.append(Line("Runs as", one_line(run.run_as, _NAME)))
    return lines


def against_usual(duration: timedelta, usual: timedelta | None) -> str:
    """A duration, and what it usually is."""
    text = human_duration(duration)
    return text if usual is None else f"{text} (usually {human_duration(usual)})"


def _tone(event: Event) -> Tone:
    match event.name:
        case EventName.RUN_FAILED | EventName.NODE_DOWN | EventName.REPORTER_FAILED:
            return Tone.BAD
        case EventName.RUN_ABORTED:
            return Tone.WARN
        case EventName.NODE_UP:
            return Tone.GOOD
        case EventName.RUN_STARTED:
            return Tone.INFO
        case EventName.RUN_FINISHED:
            return outcome_tone(event.run.outcome if event.run else None)


def outcome_tone(outcome: str | None) -> Tone:
    match outcome:
        case Outcome.SUCCESS:
            return Tone.GOOD
        case Outcome.FAILED | Outcome.UNKNOWN:
            return Tone.BAD
        case None:
            return Tone.INFO
        case _:
            return Tone.WARN


def _steps(details: Details | None) -> tuple[StepLine, ...]:
    return tuple(
        StepLine(
            name=one_line(step.name or step.id or "unnamed", _NAME),
            outcome=one_line(step.outcome or "", 40),
            duration=human_duration(step.duration) if step.duration is not None else "",
            tone=outcome_tone(step.outcome),
        )
        for step in (details.steps if details else ())
    )


def _error(details: Details | None) -> ErrorText | None:
    if details is None:
        return None
    said = details.error
    if said is None:
        return ErrorText("", None, details.log_tail) if details.log_tail else None
    step = one_line(said.step, _NAME) if said.step else None
    return ErrorText(error_words(said), step, details.log_tail)


def error_words(said: RunError) -> str:
    """What an error says, with its title where the message does not repeat it."""
    title = said.title if said.title and said.title not in (said.message or "") else None
    text = ": ".join(part for part in (title, said.message) if part) or said.code or "an error without a message"
    return cut(text, _ERROR)


# --- groups ------------------------------------------------------------------------------------------------------------


def _group(group: GroupNotice, facts: Facts, home: tuple[Link, ...], notes: tuple[str, ...]) -> Message:
    ordered = (*group.firing, *group.ended)
    shown = ordered[:MAX_ITEMS]
    more = len(ordered) - len(shown) + group.truncated
    if len(ordered) == 1 and not more:
        only = _alert(ordered[0], facts)
        title = only.title if only.state == "firing" else f"{only.state}: {only.title}"
        return Message(title, only.tone, only.lines, only.error, links=(*only.links, *home), notes=notes)
    tone = max((_severity_tone(alert) for alert in group.firing), key=_RANK.index, default=Tone.GOOD)
    return Message(
        headline=_group_headline(group),
        tone=tone,
        items=tuple(_alert(alert, facts) for alert in shown),
        more=more,
        links=home,
        notes=notes,
    )


def _group_headline(group: GroupNotice) -> str:
    counts = [(len(group.firing), "firing"), (len(group.ended), "ended")]
    count = ", ".join(f"{number} {word}" for number, word in counts if number)
    labels = group.group_labels
    what = labels.get("alertname") or "Alerts"
    project, node = labels.get("project"), labels.get("dss_node")
    where = (f" in {project}" if project else "") + (f" on {node}" if node else "")
    return one_line(f"{what}{where}: {count}", 300)


def _alert(alert: Alert, facts: Facts) -> Item:
    notes = alert.annotations
    labels = alert.labels
    place = "/".join(labels[name] for name in ("project", "scenario") if labels.get(name))
    summary = notes.get("summary") or f"{alert.name} {place}".strip()
    lines = [Line("Alert", f"{alert.name} ({labels.get('severity', 'no severity')})")]
    if place or labels.get("dss_node"):
        lines.append(Line("Where", " on ".join(part for part in (place, labels.get("dss_node", "")) if part)))
    lines.append(Line("Since", format_utc(alert.starts_at)))
    if alert.ends_at is not None:
        runs = f", after {alert.count} runs" if alert.count > 1 else ""
        lasted = human_duration(max(alert.ends_at - alert.starts_at, timedelta(0)))
        lines.append(Line("Lasted", f"{lasted}{runs}"))
    if alert.firing and notes.get("description"):
        lines.append(Line("Why", one_line(notes["description"], 500)))
    details = facts.details.get(alert.run) if alert.run else None
    named = (("Run in DSS", "run_url"), ("Scenario in DSS", "scenario_url"))
    return Item(
        title=one_line(summary, 300),
        tone=_severity_tone(alert) if alert.firing else Tone.GOOD,
        state="firing" if alert.firing else end_words(alert.end_reason),
        lines=tuple(lines),
        error=_error(details) if alert.firing else None,
        links=tuple(Link(label, notes[name]) for label, name in named if notes.get(name)),
    )


def end_words(reason: EndReason | None) -> str:
    """How an alert ended, in words."""
    match reason:
        case EndReason.DEACTIVATED:
            return "Switched off"
        case EndReason.UNWATCHED:
            return "No longer watched"
        case EndReason.BY_HAND:
            return "Closed by hand"
        case EndReason.RESOLVED | None:
            return "Resolved"


def _severity_tone(alert: Alert) -> Tone:
    severity = alert.labels.get("severity")
    if severity in ("info", "none"):
        return Tone.INFO
    return Tone.WARN if severity == "warning" else Tone.BAD


# --- summaries ---------------------------------------------------------------------------------------------------------


def _summary(summary: SummaryNotice, facts: Facts, home: tuple[Link, ...], notes: tuple[str, ...]) -> Message:
    counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(summary.runs_by_outcome.items()))
    total = sum(summary.runs_by_outcome.values())
    tone = max((outcome_tone(outcome) for outcome in summary.runs_by_outcome), key=_RANK.index, default=Tone.INFO)
    return Message(
        headline=one_line(f"{total} runs on {summary.node} were seen late: {counts or 'none ended'}", 300),
        tone=tone,
        lines=(Line("From", format_utc(summary.since)), Line("Until", format_utc(summary.until))),
        items=tuple(_late_run(event, facts) for event in summary.worst[:MAX_ITEMS]),
        more=max(len(summary.worst) - MAX_ITEMS, 0),
        links=home,
        notes=notes,
    )


def _late_run(event: Event, facts: Facts) -> Item:
    details = facts.details.get(event.run.key) if event.run else None
    links = (Link("Run in DSS", event.run_url),) if event.run_url else ()
    lines = tuple(_run_lines(event.run, None)) if event.run else ()
    return Item(headline(event), _tone(event), event.name.value, lines, _error(details), links)


# --- the rest ----------------------------------------------------------------------------------------------------------


def _home(config: Config) -> tuple[Link, ...]:
    url = config.http.external_url
    return (Link("Tocsin", url.rstrip("/") + "/"),) if url else ()
