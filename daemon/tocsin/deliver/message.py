"""What a message says, before any format: the context of every template, documented in ``docs/messages.md``. Texts from
DSS are kept as they came, but for their length; each dialect escapes them. Pure."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, TypeVar
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from tocsin.config.model import Config
from tocsin.deliver.escape import to_one_line, truncate, web_address
from tocsin.deliver.outgoing import Facts
from tocsin.kit.clock import format_local, human_duration
from tocsin.model.alert import Alert, EndReason
from tocsin.model.errors import error_fingerprint, error_text, shorten_log
from tocsin.model.event import Event, EventName, is_good, place_of_event
from tocsin.model.labels import Labels, Matcher, Op, common_labels
from tocsin.model.notification import EventNotice, GroupNotice, Notice, Notification, SummaryNotice
from tocsin.model.run import BAD_OUTCOMES, LOST, Details, Outcome, Run, RunKey

T = TypeVar("T")
MAX_ITEMS = 50
_NAME = 120
_URL = 3_000  # characters; Slack takes no more
_ERROR_LENGTH = 4_000
_WARNINGS = 5  # that a message lists
_PLACE = ("dss_node", "project", "scenario")
_UTC = re.compile(r"\b(\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d) (?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d) UTC\b")
MENDED = ("Mended by", "Ended with")  # labels of the line about the run that ended an alert
# What a line of its own says already, or what rules write for templates.
_SHOWN_LABELS = frozenset({"alertname", "severity", "dss_node", "project", "scenario", "scenario_name", "tags"})
_SHOWN_ANNOTATIONS = frozenset({
    "summary", "description", "run_url", "scenario_url", "previous_outcome", "expected_start", "usual_duration",
    "last_good", "reason",
})  # fmt: skip


class Tone(StrEnum):
    """How bad it is, the worst last; decides colours."""

    INFO = "info"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


SIGNS = {Tone.BAD: "\U0001f534", Tone.WARN: "\U0001f7e0", Tone.GOOD: "\u2705", Tone.INFO: "\U0001f535"}


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

    @property
    def title(self) -> str:
        return f"Error in step {self.step}" if self.step else "Error"


class Item(NamedTuple):
    """One alert of a group, or one run of a summary. ``state``: firing, or how it ended."""

    name: str  # short: the scenario, with what tells it from others of its group
    title: str
    tone: Tone
    state: str
    lines: tuple[MessageLine, ...] = ()
    error: ErrorText | None = None
    links: tuple[Link, ...] = ()


class MessageSection(NamedTuple):
    """Items of one state with one error, or without one; of ``more`` nothing but their number is listed."""

    error: ErrorText | None
    items: tuple[Item, ...]
    more: int = 0

    @property
    def state(self) -> str:
        return self.items[0].state

    @property
    def size(self) -> int:
        return len(self.items) + self.more

    def listed(self, limit: int) -> tuple[tuple[Item, ...], int]:
        """The first items, at most so many, and how many are not among them."""
        return self.items[:limit], self.size - len(self.items[:limit])


@dataclass(frozen=True, slots=True)
class Message:
    """What templates see. Empty tuples and None are what does not apply."""

    headline: str  # what broke, and where; one line
    tone: Tone
    lines: tuple[MessageLine, ...] = ()  # outcome, start, duration…
    error: ErrorText | None = None
    steps: tuple[StepLine, ...] = ()
    sections: tuple[MessageSection, ...] = ()  # of a group or a summary, the most severe first
    more: int = 0  # items that no section counts
    links: tuple[Link, ...] = ()
    run_id: str | None = None
    log_tail: str | None = None  # of a run, as far as it was read
    notes: tuple[str, ...] = ()  # about the message itself

    @property
    def items(self) -> tuple[Item, ...]:
        """Of all sections."""
        return tuple(item for section in self.sections for item in section.items)


def smaller(message: Message) -> Iterator[Message]:
    """The message, then ever less of it; what matters least goes first. The last has headline, first error and links."""
    yield message
    if message.error is not None and message.error.log_tail:
        error = message.error
        for log_tail in (shorten_log(message.error.log_tail, 5, 400), None):
            message = replace(message, error=error._replace(log_tail=log_tail))
            yield message
    if message.steps:
        message = replace(message, steps=())
        yield message
    for items, length, lines in ((10, 500, 100), (10, 200, 50), (10, 150, 30), (3, 100, 20), (1, 100, 12), (1, 60, 12)):
        message = _with_sections(message, 2 * items, items)
        short = tuple(line._replace(value=truncate(line.value, length)) for line in message.lines[:lines])
        cut = message.error and message.error._replace(message=truncate(message.error.message, 5 * length))
        message = replace(message, lines=short, error=cut)
        yield message
    yield replace(_with_sections(message, 0, 0), lines=(), notes=())


def fullest(message: Message, build: Callable[[Message], T], fits: Callable[[T], bool]) -> T:
    """What ``build`` makes of as much of the message as fits, or of the least of it."""
    parts = smaller(message)
    built = build(next(parts))
    while not fits(built) and (part := next(parts, None)) is not None:
        built = build(part)
    return built


def _with_sections(message: Message, count: int, items: int) -> Message:
    """With the first so many sections, of which each has at most so many items."""
    sections = []
    for section in message.sections[:count]:
        error = section.error and section.error._replace(message=truncate(section.error.message, 60 * items))
        sections.append(MessageSection(error, *section.listed(items)))
    hidden = sum(section.size for section in message.sections[count:])
    return replace(message, sections=tuple(sections), more=message.more + hidden)


def build_message(notice: Notice, facts: Facts, config: Config) -> Message:
    return _MessageBuilder(facts, config).build(notice)


def outcome_tone(outcome: str | None) -> Tone:
    return _OUTCOME_TONES.get(outcome, Tone.WARN)


_OUTCOME_TONES: Mapping[str | None, Tone] = {
    Outcome.SUCCESS: Tone.GOOD,
    Outcome.FAILED: Tone.BAD,
    Outcome.UNKNOWN: Tone.BAD,
    None: Tone.INFO,
}
# What each event says, and how bad it is; None: as its outcome is.
_EVENTS: Mapping[EventName, tuple[Tone | None, str]] = {
    EventName.NODE_DOWN: (Tone.BAD, "DSS node {node} cannot be watched: {reason}"),
    EventName.NODE_UP: (Tone.GOOD, "Recovered: DSS node {node} answers again"),
    EventName.REPORTER_FAILED: (Tone.BAD, "Reporter {reporter} of {name} could not send{where}"),
    EventName.RUN_STARTED: (Tone.INFO, "{name} started{where}"),
    EventName.RUN_FAILED: (Tone.BAD, "{name} FAILED{where}"),
    EventName.RUN_ABORTED: (Tone.WARN, "{name} was ABORTED{where}"),
    EventName.RUN_FINISHED: (None, "{name} ended with {outcome}{where}"),
}


def headline(event: Event) -> str:
    """A recovery begins with another word than the failure, for those who see little of a subject."""
    outcome = event.run.outcome if event.run else None
    lost = event.name is EventName.RUN_FINISHED and outcome == Outcome.UNKNOWN
    node = to_one_line(event.node, _NAME)
    recovered = is_good(outcome) and event.previous_outcome in BAD_OUTCOMES
    text = "{name}: " + LOST + "{where}" if lost else _EVENTS[event.name][1]
    return (f"Recovered: {text}" if recovered else text).format(
        node=node,
        reason=event.reason.value if event.reason else "unreachable",
        reporter=to_one_line(event.reporter.name, _NAME) if event.reporter else "of DSS",
        name=to_one_line(event.scenario.name or event.scenario.id, _NAME) if event.scenario else "",
        outcome=to_one_line(outcome or "no outcome", 40),
        where=f" in {to_one_line(event.project, _NAME)} on {node}" if event.project else f" on {node}",
    )


def _group_title(group: GroupNotice) -> str:
    counts = ((len(group.firing), "firing"), (len(group.resolved), "resolved" if group.firing else "alerts"))
    count = ", ".join(f"{number} {word}" for number, word in counts if number)
    ends = {_END_TEXTS.get(alert.end_reason, _ENDED) for alert in group.resolved}
    end = "" if group.firing else f"{ends.pop() if len(ends) == 1 else _ENDED}: "
    labels = group.group_labels
    places = ((" in ", labels.get("project")), (" on ", labels.get("dss_node")))
    where = "".join(f"{preposition}{place}" for preposition, place in places if place)
    digest = "Digest: " if group.reason == "digest" else ""
    return f"{digest}{end}{labels.get('alertname') or 'Alerts'}{where}: {count}"


def _summary_title(notice: SummaryNotice) -> str:
    counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(notice.runs_by_outcome.items()))
    total = sum(notice.runs_by_outcome.values())
    if notice.digest is not None:
        where = f" on {notice.node}" if notice.node else ""
        return to_one_line(f"Digest {notice.digest}: {total} runs{where}: {counts or 'none ended'}", 300)
    return to_one_line(f"{total} runs on {notice.node} were seen late: {counts or 'none ended'}", 300)


def notification_line(notification: Notification) -> dict[str, object]:
    """What the log says of a notification: who is notified, of what, and the place that it is about."""
    notice = notification.notice
    line: dict[str, object] = {"receiver": notification.receiver, "channel": notification.channel}
    match notice:
        case EventNotice(event=event):
            return {**line, "subject": headline(event), **place_of_event(event)}
        case GroupNotice(alerts=(alert,)):
            summary = to_one_line(alert.annotations.get("summary") or alert.name, 300)
            line["subject"] = summary if alert.firing else f"Resolved: {summary}"
        case GroupNotice():
            line["subject"] = _group_title(notice)
        case SummaryNotice():
            return {**line, "subject": _summary_title(notice), "dss_node": notice.node}
    labels = common_labels([alert.labels for alert in notice.alerts])
    return line | {name: labels[name] for name in ("alertname", "dss_node", "project", "scenario") if name in labels}


def _event_tone(event: Event) -> Tone:
    return _EVENTS[event.name][0] or outcome_tone(event.run.outcome if event.run else None)


class _MessageBuilder:
    def __init__(self, facts: Facts, config: Config) -> None:
        self.facts = facts
        self.config = config
        self.zone = ZoneInfo(config.timezone)
        self.base = (config.http.external_url or "").rstrip("/")

    def build(self, notice: Notice) -> Message:
        match notice:
            case EventNotice(event=event):
                return self.event(event)
            case GroupNotice():
                return self.group(notice)
            case SummaryNotice():
                return self.summary(notice)

    def at(self, moment: datetime) -> str:
        return format_local(moment, self.zone)

    def local_times(self, text: str) -> str:
        """With the times that rules write in UTC as the message writes its own."""
        return _UTC.sub(lambda match: self.at(datetime.fromisoformat(f"{match[1]}+00:00")), text)

    def page(self, label: str, *path: str, **query: str | Sequence[str]) -> tuple[Link, ...]:
        """The link to a page of Tocsin; none where its own address is not known."""
        if not self.base:
            return ()
        address = "/".join(quote(part, safe="", errors="replace") for part in path)
        question = f"?{urlencode(query, doseq=True, errors='replace')}" if query else ""
        return _web_links([(label, f"{self.base}/{address}{question}")])

    # --- events ---

    def event(self, event: Event) -> Message:
        run = event.run
        details = self.facts.details.get(run.key) if run else None
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
        lines = list(self.run_lines(run, self.facts.usual.get(run.scenario))) if run else []
        lines += [MessageLine("Failed step", line.name) for line in failed[:1]]
        lines += _warning_lines(details)
        if event.previous_outcome:
            lines.append(MessageLine("Previous outcome", to_one_line(event.previous_outcome, 40)))
        if event.reporter is not None:
            lines.append(MessageLine("Reporter's error", to_one_line(event.reporter.error, 500)))
        if run is None:
            lines.append(MessageLine("Since" if event.name is EventName.NODE_DOWN else "At", self.at(event.time)))
        if event.name is EventName.NODE_DOWN and event.node in self.facts.problems:
            lines.append(MessageLine("Why", to_one_line(self.facts.problems[event.node], 500)))
        tags = event.scenario.tags if event.scenario is not None else ()
        lines += self.label_lines(self.config.extra_labels(event.node, tags))
        if event.scenario is not None and event.scenario.tags:
            lines.append(MessageLine("Tags", to_one_line(", ".join(event.scenario.tags), _NAME)))
        if event.late:
            lines.append(MessageLine("Seen late", f"at {self.at(event.detected_at)}, after a downtime"))
        if details is not None and details.problem:
            lines.append(MessageLine("Details", to_one_line(details.problem, 200)))
        return Message(
            headline(event),
            tone,
            tuple(lines),
            _error(details) if tone is not Tone.GOOD else None,
            tuple(steps),
            links=(*_run_links(event), *(self.run_pages(run.key) if run else self.page("Tocsin", ""))),
            run_id=run.run_id if run else None,
            log_tail=details.log_tail if details else None,
        )

    def run_lines(self, run: Run, usual: timedelta | None) -> Iterable[MessageLine]:
        if run.outcome:
            yield MessageLine("Outcome", to_one_line(run.outcome, 40))
        yield MessageLine("Started", self.at(run.start))
        if run.end is not None and run.duration is not None:
            yield MessageLine("Ended", self.at(run.end))
            usually = "" if usual is None else f" (usually {human_duration(usual)})"
            yield MessageLine("Duration", human_duration(run.duration) + usually)
        elif usual is not None:
            yield MessageLine("Usual duration", human_duration(usual))
        if trigger := run.trigger_name or run.trigger_type:
            yield MessageLine("Trigger", to_one_line(trigger, _NAME))
        if run.run_as:
            yield MessageLine("Runs as", to_one_line(run.run_as, _NAME))

    def run_words(self, run: Run) -> str:
        lasted = f" after {human_duration(run.duration)}" if run.duration is not None else ""
        return to_one_line(
            f"run {run.run_id}, started {self.at(run.start)}, {run.outcome or 'no outcome'}{lasted}", 300
        )

    def run_pages(self, run: RunKey) -> tuple[Link, ...]:
        return (
            *self.page("Tocsin", "runs", *run.scenario, run.run_id),
            *self.page("History", "scenarios", *run.scenario),
        )

    def summary(self, notice: SummaryNotice) -> Message:
        items = tuple(
            Item(
                to_one_line(event.scenario.name or event.scenario.id if event.scenario else event.node, _NAME),
                headline(event) + (", and was good later" if event.id in notice.recovered else ""),
                Tone.GOOD if event.id in notice.recovered else _event_tone(event),
                event.name.value,
                tuple(self.run_lines(event.run, None)) if event.run else (),
                _error(self.facts.details.get(event.run.key) if event.run else None),
                _run_links(event),
            )
            for event in notice.worst[:MAX_ITEMS]
        )
        return Message(
            _summary_title(notice),
            max(map(outcome_tone, notice.runs_by_outcome), key=list(Tone).index, default=Tone.INFO),
            (MessageLine("From", self.at(notice.since)), MessageLine("Until", self.at(notice.until))),
            sections=tuple(MessageSection(item.error, (item,)) for item in items),
            more=max(len(notice.worst) - MAX_ITEMS, 0),
            links=self.page("Tocsin", "scenarios"),
        )

    # --- groups of alerts ---

    def group(self, group: GroupNotice) -> Message:
        alerts = (*group.firing, *group.resolved)
        if len(alerts) == 1 and not group.truncated:
            (alert,) = alerts
            item = self.alert_item(alert, alert.labels)
            title = item.title if alert.firing else f"{item.state}: {item.title}"
            all_links = (*item.links, *self.alert_links(alert))
            return Message(title, item.tone, item.lines, item.error, links=all_links)
        shared = self.label_lines(common_labels([alert.labels for alert in group.firing or group.resolved]))
        lines, links = _annotation_lines(common_labels([alert.annotations for alert in group.firing or group.resolved]))
        shared += lines
        sections = self.sections(alerts, shared)
        if group.firing:
            worst_first = sorted(group.firing, key=_urgency, reverse=True)
            severities = Counter(alert.labels.get("severity", "no severity") for alert in worst_first)
            counts = ", ".join(f"{number} {severity}" for severity, number in severities.items())
            since = MessageLine("Since", self.at(min(alert.starts_at for alert in group.firing)))
            shared = [MessageLine("Severity", to_one_line(counts, _NAME)), since, *shared]
        labels = group.group_labels
        silence = self.silence_link(labels) if group.firing else ()
        errors = [section.error for section in sections if section.error is not None]
        # The one cause of all that fires is what the reader of a lock screen needs.
        cause = f": {errors[0].message.partition(chr(10))[0]}" if group.firing and len(errors) == 1 else ""
        return Message(
            to_one_line(f"{_group_title(group)}{cause}", 300),
            max(map(_severity_tone, group.firing), key=list(Tone).index, default=Tone.GOOD),
            tuple(shared),
            sections=sections,
            more=group.truncated + len(alerts) - sum(section.size for section in sections),
            links=(
                *links,
                *self.page("Tocsin", "alerts", **({"matcher": _matchers(labels)} if labels else {})),
                *silence,
            ),
        )

    def sections(self, alerts: Sequence[Alert], shared: Sequence[MessageLine]) -> tuple[MessageSection, ...]:
        """Firing alerts by their error, the most severe first, then resolved ones; of each the first so many.

        ``shared`` lines are left out, since the message says them once.
        """
        clusters: dict[str, list[Alert]] = {}
        for alert in alerts:
            details = self.facts.details.get(alert.run) if alert.run and alert.firing else None
            key = error_fingerprint(details.error) if details and details.error else ""
            clusters.setdefault(f"firing {key}" if alert.firing else f"{alert.end_reason}", []).append(alert)
        for cluster in clusters.values():
            cluster.sort(key=_urgency, reverse=True)
        ordered = sorted(clusters.values(), key=lambda cluster: (*_urgency(cluster[0]), len(cluster)), reverse=True)
        alike = common_labels([alert.labels for alert in alerts])
        room = MAX_ITEMS
        share = max(MAX_ITEMS // max(len(ordered), 1), 3)
        sections = []
        for cluster in ordered:
            listed = cluster[: min(share, room)]
            room -= len(listed)
            items = [self.alert_item(alert, alike) for alert in listed]
            items = [item._replace(lines=tuple(line for line in item.lines if line not in shared)) for item in items]
            if items:
                sections.append(MessageSection(items[0].error, tuple(items), len(cluster) - len(listed)))
        return tuple(sections)

    def alert_item(self, alert: Alert, alike: Labels) -> Item:
        """``alike``: the labels that all alerts of the message share, which its name need not say."""
        annotations, labels = alert.annotations, alert.labels
        scenario = labels.get("scenario_name") or labels.get("scenario")
        places = (("", scenario), (" in ", labels.get("project")), (" on ", labels.get("dss_node")))
        where = "".join(f"{preposition}{place}" for preposition, place in places if place).strip()
        lines = [MessageLine("Alert", f"{alert.name} ({labels.get('severity', 'no severity')})")]
        if where:
            lines.append(MessageLine("Where", to_one_line(where.removeprefix("on "), 300)))
        lines.append(MessageLine("Since", self.at(alert.starts_at)))
        lasted = ""
        mended = self.facts.mended.get(alert.id)
        if alert.ends_at is not None:
            times = f", {alert.count} {'runs failed' if alert.run else 'times'}" if alert.count > 1 else ""
            lasted = human_duration(max(alert.ends_at - alert.starts_at, timedelta(0)))
            lines.append(MessageLine("Lasted", f"{lasted}{times}"))
        if mended is not None:
            lines.append(MessageLine(MENDED[not is_good(mended.outcome)], self.run_words(mended)))
        if alert.firing and (who := alert.acknowledged) is not None:
            until = f" until {self.at(who.until)}" if who.until else ""
            comment = f": {who.comment}" if who.comment else ""
            lines.append(MessageLine("Acknowledged", to_one_line(f"by {who.by}{until}{comment}", 300)))
        if alert.firing and annotations.get("description"):
            lines.append(MessageLine("Why", to_one_line(self.local_times(annotations["description"][:2_000]), 500)))
        details = self.facts.details.get(alert.run) if alert.firing and alert.run else None
        if details and details.error and details.error.step:
            lines.append(MessageLine("Failed step", to_one_line(details.error.step, _NAME)))
        running = [step for step in (details.steps if details else ()) if step.outcome is None]
        lines += [
            MessageLine("Running step", to_one_line(step.name or step.id or "unnamed", _NAME)) for step in running[-1:]
        ]
        lines += _warning_lines(details)
        lines += self.label_lines(labels)
        own, own_links = _annotation_lines(annotations)
        title = annotations.get("summary") or f"{alert.name}: {where}"
        if not alert.firing:  # what it said while it fired would read like another failure
            title = f"{alert.name} of {where or 'Tocsin'}, after {lasted}"
        scenario_url = annotations.get("scenario_url", "")
        run_url = annotations.get("run_url")
        if mended is not None and (base := scenario_url.rstrip("/") or (run_url or "").rpartition("/runs/list/")[0]):
            run_url = f"{base}/runs/list/{quote(mended.run_id, safe='')}"
        name = scenario or labels.get("dss_node") or alert.name
        for label, form in (("project", "{} / {}"), ("alertname", "{}: {}")):
            if labels.get(label) and label not in alike:
                name = form.format(labels[label], name)
        return Item(
            to_one_line(name, _NAME),
            to_one_line(title, 300),
            _severity_tone(alert) if alert.firing else Tone.GOOD,
            "firing" if alert.firing else _END_TEXTS.get(alert.end_reason, _ENDED),
            (*lines, *own),
            _error(details),
            (*_web_links([("Run in DSS", run_url) if run_url else ("Scenario in DSS", scenario_url)]), *own_links),
        )

    def label_lines(self, labels: Labels) -> list[MessageLine]:
        """Of the labels that no other line shows: those of the node, of tags, and the rule's own."""
        lines = [
            MessageLine(_label(name), to_one_line(value, _NAME))
            for name, value in sorted(labels.items())
            if name not in _SHOWN_LABELS and value
        ]
        if tags := labels.get("tags", "").strip(","):
            lines.append(MessageLine("Tags", to_one_line(tags.replace(",", ", "), _NAME)))
        return lines

    def alert_links(self, alert: Alert) -> tuple[Link, ...]:
        """To the run that ended it, or to the alert and what can be done about it."""
        if (mended := self.facts.mended.get(alert.id)) is not None:
            return self.run_pages(mended.key)
        links = self.page("Tocsin", "alerts", alert.id)
        place = {name: alert.labels[name] for name in ("alertname", *_PLACE) if alert.labels.get(name)}
        if alert.firing:
            links += self.silence_link(place)
            if alert.acknowledged is None:
                links += tuple(
                    link._replace(url=f"{link.url}#ack") for link in self.page("Acknowledge", "alerts", alert.id)
                )
        if alert.labels.get("scenario"):
            links += self.page("History", "scenarios", *(alert.labels.get(name, "") for name in _PLACE))
        return links

    def silence_link(self, labels: Labels) -> tuple[Link, ...]:
        """The form for a silence, filled in with these labels."""
        return self.page("Silence 1 h", "silences", "new", matcher=_matchers(labels), duration="1h") if labels else ()


def _run_links(event: Event) -> tuple[Link, ...]:
    return _web_links([("Run in DSS", event.run_url)])


def _web_links(links: Iterable[tuple[str, str | None]]) -> tuple[Link, ...]:
    """Those that have an address that services take."""
    addresses = ((label, web_address(url)) for label, url in links if url)
    return tuple(Link(label, address) for label, address in addresses if 0 < len(address) <= _URL)


def _error(details: Details | None) -> ErrorText | None:
    if details is None:
        return None
    error = details.error
    if error is None:
        return ErrorText("", None, details.log_tail) if details.log_tail else None
    step = to_one_line(error.step, _NAME) if error.step else None
    return ErrorText(truncate(error_text(error), _ERROR_LENGTH), step, details.log_tail)


def _warning_lines(details: Details | None) -> list[MessageLine]:
    """The first warnings of a run, each with its step."""
    warnings = details.warnings if details is not None else ()
    lines = []
    for warning in warnings[:_WARNINGS]:
        text = f"{warning.step}: {warning.message}" if warning.step else warning.message
        lines.append(
            MessageLine("Warning", to_one_line(text, 300) + (f" ({warning.count}×)" if warning.count > 1 else ""))
        )
    if len(warnings) > _WARNINGS:
        lines.append(MessageLine("Warnings", f"and {len(warnings) - _WARNINGS} more"))
    return lines


def _annotation_lines(annotations: Labels) -> tuple[list[MessageLine], list[Link]]:
    """What a rule's own annotations say, in its order: an address is a link."""
    lines: list[MessageLine] = []
    links: list[Link] = []
    for name, value in annotations.items():
        if name in _SHOWN_ANNOTATIONS or not value:
            continue
        if web_address(value) and not any(map(str.isspace, value)):
            links += _web_links([(_label(name.removesuffix("_url")), value)])
        else:
            lines.append(MessageLine(_label(name), to_one_line(value, 500)))
    return lines, links


def _label(name: str) -> str:
    return to_one_line(name.replace("_", " ").capitalize(), _NAME)


def _matchers(labels: Labels) -> list[str]:
    return [str(Matcher(name, Op.EQUAL, value)) for name, value in sorted(labels.items())]


_SEVERITY_TONES: Mapping[str | None, Tone] = {"info": Tone.INFO, "none": Tone.INFO, "warning": Tone.WARN}
_ENDED = "Resolved"
_END_TEXTS: Mapping[EndReason | None, str] = {
    EndReason.DEACTIVATED: "Switched off",
    EndReason.UNWATCHED: "No longer watched",
    EndReason.BY_HAND: "Closed by hand",
}


def _severity_tone(alert: Alert) -> Tone:
    return _SEVERITY_TONES.get(alert.labels.get("severity"), Tone.BAD)


def _urgency(alert: Alert) -> tuple[bool, int]:
    return alert.firing, list(Tone).index(_severity_tone(alert))
