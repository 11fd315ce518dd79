"""Events: immutable facts about runs, nodes and reporters. Their ids are derived from the facts, so that observing the
same thing again makes the same event."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tocsin.kit.clock import to_ms
from tocsin.kit.mask import mask_tokens
from tocsin.kit.strings import derived_id
from tocsin.model.labels import Labels
from tocsin.model.run import GOOD_OUTCOMES, Outcome, Run, ScenarioKey

_NO_LABELS: Labels = {}


class EventName(StrEnum):
    RUN_STARTED = "run.started"
    RUN_FINISHED = "run.finished"
    RUN_FAILED = "run.failed"
    RUN_ABORTED = "run.aborted"
    NODE_DOWN = "node.down"
    NODE_UP = "node.up"
    REPORTER_FAILED = "reporter.failed"


END_EVENTS = frozenset({EventName.RUN_FINISHED, EventName.RUN_FAILED, EventName.RUN_ABORTED})
_END_EVENT_NAMES = {Outcome.FAILED.value: EventName.RUN_FAILED, Outcome.ABORTED.value: EventName.RUN_ABORTED}


class DownReason(StrEnum):
    UNREACHABLE = "unreachable"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    INVALID_REPLY = "invalid_reply"


@dataclass(frozen=True, slots=True)
class ScenarioFacts:
    """As they were when the event happened."""

    id: str
    name: str
    tags: tuple[str, ...] = ()
    type: str | None = None


@dataclass(frozen=True, slots=True)
class FailedReporter:
    """One of DSS's own reporters that could not send."""

    name: str
    type: str | None
    error: str


@dataclass(frozen=True, slots=True)
class Event:
    """One fact. Fields that do not apply are None; ``seq`` is None until the event has its place in the public order."""

    id: str
    name: EventName
    node: str
    time: datetime  # when it happened, on DSS's clock
    detected_at: datetime  # when Tocsin knew, on Tocsin's clock
    project: str | None = None
    scenario: ScenarioFacts | None = None
    run: Run | None = None
    run_url: str | None = None
    previous_outcome: str | None = None
    late: bool = False  # seen by reading back after a downtime
    reason: DownReason | None = None
    reporter: FailedReporter | None = None
    seq: int | None = None

    @property
    def key(self) -> ScenarioKey | None:
        if self.project is None or self.scenario is None:
            return None
        return ScenarioKey(self.node, self.project, self.scenario.id)


def run_event_id(run: Run, name: EventName, part: str = "") -> str:
    """``part`` distinguishes several events of the same name about a run, as of failed reporters."""
    scenario = run.scenario
    return derived_id(scenario.node, scenario.project, scenario.scenario, run.run_id, to_ms(run.start), name, part)


def node_event_id(node: str, name: EventName, time: datetime) -> str:
    return derived_id(node, to_ms(time), name)


def end_event_name(outcome: str | None) -> EventName:
    """Unknown outcomes are ``run.finished``."""
    return _END_EVENT_NAMES.get(outcome or "", EventName.RUN_FINISHED)


def tags_label(tags: Iterable[str]) -> str:
    """Tags as one label value: sorted and comma-wrapped, ``,daily,finance,``; empty without tags."""
    ordered = sorted(set(tags))
    return f",{','.join(ordered)}," if ordered else ""


def labels_of_tags(tags: Iterable[str], keys: Collection[str]) -> dict[str, str]:
    """The tags written ``key: value`` with one of these keys, as labels. The first colon ends the key, blanks around key
    and value do not count, and of several tags with one key the first in the order of the alphabet does."""
    found: dict[str, str] = {}
    for tag in sorted(tags):
        key, _, value = (part.strip() for part in tag.partition(":"))
        if value and key in keys:
            found.setdefault(key, value)
    return found


def receivers_of_tags(tags: Iterable[str], key: str) -> list[str]:
    """What the tags with this key name; several may."""
    return [value for tag in tags for value in labels_of_tags([tag], [key]).values()]


def event_labels(event: Event, extra: Labels = _NO_LABELS) -> dict[str, str]:
    """The labels that ``match`` of reporters and rules sees; unknown ones are empty, as Prometheus reads absent.
    ``extra``: what the configuration adds, of the event's node and made of its tags."""
    scenario, run = event.scenario, event.run
    return {
        **extra,
        "event": event.name.value,
        "dss_node": event.node,
        "project": event.project or "",
        "scenario": scenario.id if scenario else "",
        "scenario_name": scenario.name if scenario else "",
        "outcome": (run.outcome or "") if run else "",
        "trigger_type": (run.trigger_type or "") if run else "",
        "run_as": (run.run_as or "") if run else "",
        "tags": tags_label(scenario.tags) if scenario else "",
    }


def place_of_event(event: Event) -> dict[str, object]:
    """What an event is about, for lines of the log; ids follow names."""
    facts: dict[str, object] = {"dss_node": event.node}
    if event.scenario is not None:
        facts |= {"project": event.project, "scenario": event.scenario.id}
    if event.run is not None:
        facts["run"] = event.run.run_id
    return facts


def event_line(event: Event) -> dict[str, object]:
    """The line of the log for an event of a run; ``seconds`` is the run's duration."""
    line: dict[str, object] = {"event": event.name.value.replace(".", "_"), **place_of_event(event)}
    run = event.run
    if run is not None and run.outcome is not None and event.name in END_EVENTS:
        line["outcome"] = run.outcome
        if run.duration is not None:
            line["seconds"] = round(run.duration.total_seconds(), 3)
    if event.reporter is not None:
        line |= {"reporter": event.reporter.name, "error": mask_tokens(" ".join(event.reporter.error.split()))[:300]}
    if event.late:
        line["late"] = True
    return line


def is_good(outcome: str | None) -> bool:
    return outcome in GOOD_OUTCOMES


DSS_VARIABLES = frozenset(
    ("projectKey", "scenarioProjectKey", "scenarioId", "scenarioName", "outcome", "triggerName", "triggerType",
     "scenarioTriggerRunId", "scenarioRunURL", "dssURL")
)  # fmt: skip


def dss_variables(event: Event) -> dict[str, str]:
    """The variables of DSS's conditions and texts by DSS's own names; those that the event does not know are absent."""
    run, scenario = event.run, event.scenario
    variables = {
        "projectKey": event.project or "",
        "scenarioProjectKey": event.project or "",
        "scenarioId": scenario.id if scenario else "",
        "scenarioName": scenario.name if scenario else "",
        "outcome": (run.outcome or "") if run and event.name is not EventName.RUN_STARTED else "",
        "triggerName": (run.trigger_name or "") if run else "",
        "triggerType": (run.trigger_type or "") if run else "",
    }
    if run and run.fire_id:
        variables["scenarioTriggerRunId"] = run.fire_id
    if event.run_url:
        variables["scenarioRunURL"] = event.run_url
        base, separator, _ = event.run_url.partition("/projects/")
        if separator:
            variables["dssURL"] = base
    return variables
