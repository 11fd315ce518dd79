"""What every kind of rule shares: what it sees, what it answers, and how an answer becomes a change of its alert.

An event changes a rule's state (``on_event``); the state is evaluated, then and when time has passed (``evaluate``),
and the result compared with the alert that the rule has open (``apply``). While history is being read back only
``on_event`` is called: what is over by the end makes no alert. Moments in views and states are on the node's clock.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from tocsin.config.model import Rule
from tocsin.kit.clock import isoformat, to_ms
from tocsin.model.alert import Alert, EndReason, alert_id, fingerprint
from tocsin.model.event import Event, EventName, tags_label
from tocsin.model.labels import Labels
from tocsin.model.rule_state import AlertRef, AnyRuleState, RuleState
from tocsin.model.run import RunKey
from tocsin.model.scenario import NodeView, ScenarioView

RECHECK = timedelta(seconds=10)  # how soon a rule that waits for a fresh poll is evaluated again
OFF_RECHECK = timedelta(minutes=30)  # how soon a rule about every scenario looks at a switched-off one again
_NO_LABELS: Labels = {}
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class RuleView:
    now: datetime
    node: NodeView
    scenario: ScenarioView | None = None  # None for rules about nodes, and when the row is gone
    durations: Sequence[timedelta] | None = None  # of the last good runs, the newest first; None: not loaded
    open_run: RunKey | None = None  # loaded with the durations
    base_url: str = ""  # of the node's web interface
    labels: Labels = dataclasses.field(default_factory=dict)  # that the configuration adds

    def unseen(self, state: AnyRuleState) -> "EvaluationResult":
        """The answer of a rule that first has to know what happened since the last poll."""
        return EvaluationResult(state, RuleStatus.UNKNOWN, self.now + RECHECK, unseen=True)

    @property
    def subject(self) -> str:
        """What the alert is about: ``prod: SALES / Nightly``, or the node's name alone."""
        scenario = self.scenario
        return self.node.node if scenario is None else f"{scenario.key.node}: {scenario.key.project} / {scenario.name}"

    def fresh(self, since: datetime) -> bool:
        """Whether a good poll was begun after ``since`` and the node hides nothing."""
        polled_at = self.scenario.polled_at if self.scenario else None
        return self.node.clear and polled_at is not None and polled_at + self.node.clock_offset > since


class RuleStatus(Enum):
    """What a rule says of its state. UNKNOWN: it cannot tell yet, so its alert stays as it is."""

    FIRING = auto()
    INACTIVE = auto()
    UNKNOWN = auto()


class AlertContent(msgspec.Struct, frozen=True):
    """What a firing alert shows. ``evidence`` names what it fires for; a change of it updates the alert."""

    starts_at: datetime
    evidence: str
    summary: str
    description: str
    count: int = 1
    run: RunKey | None = None
    facts: Mapping[str, str] = msgspec.field(default_factory=dict)  # further annotations
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)  # further labels, and part of the identity


class EvaluationResult(msgspec.Struct, frozen=True):
    """A rule's answer. ``due`` is when time alone may change it; ``at`` is when it became inactive, if a fact says so."""

    state: AnyRuleState
    status: RuleStatus
    due: datetime | None = None
    at: datetime | None = None
    content: AlertContent | None = None  # of one that fires
    unseen: bool = False  # it waits for a poll


@dataclass(frozen=True, slots=True)
class Fired:
    alert: Alert


@dataclass(frozen=True, slots=True)
class Updated:
    """A firing alert that now shows something else: a further failure."""

    alert: Alert


@dataclass(frozen=True, slots=True)
class Resolved:
    alert_id: str
    at: datetime
    reason: EndReason


S = TypeVar("S", bound=RuleState)


class CompiledRule(Generic[S]):
    """A configured rule and its identity, by which its states and alerts are found again after a reload."""

    state_type: type[S]
    about_nodes = False
    times_all = False  # every scenario that matches has a state, from ``first_state``, also one that never ran
    begins: frozenset[EventName] = frozenset()  # events that matter without a state; others only change one

    def __init__(self, id_: str, config: Rule) -> None:
        self.id, self.config = id_, config
        self.alert, self.severity = config.alert, config.severity

    def first_state(self, scenario: ScenarioView, last_good: datetime | None, since: datetime) -> S:
        """Of a scenario that is timed from ``since``, and whose last good run ended then."""
        raise NotImplementedError

    def switched_off(self, state: S, now: datetime) -> S:
        """The state after the alert of a scenario ended because somebody switched it off."""
        raise NotImplementedError

    def needs_history(self, state: S) -> bool:
        """Whether a tick has to read the open run and the durations of the last good ones."""
        return False

    def on_event(self, state: S | None, event: Event) -> S | None:
        """The state after an event; the same object when the event says nothing to this rule."""
        return state

    def evaluate(self, state: S, view: RuleView) -> EvaluationResult:
        raise NotImplementedError

    def apply(
        self, result: EvaluationResult, view: RuleView, now: datetime
    ) -> tuple[AnyRuleState, Fired | Updated | Resolved | None]:
        """Compare a result with the open alert: the state to keep, and what changes. ``now`` is on Tocsin's clock."""
        state, content, firing = result.state, result.content, result.state.firing
        if result.status is RuleStatus.INACTIVE:
            if firing is None:
                return (state if state.dismissed is None else replace(state, dismissed=None)), None
            at = max(result.at or view.now, firing.starts_at)
            return replace(state, firing=None, dismissed=None), Resolved(firing.alert_id, at, EndReason.RESOLVED)
        if content is None or content.evidence == (firing.evidence if firing else state.dismissed):
            return state, None
        if firing is not None:
            state = replace(state, firing=replace(firing, evidence=content.evidence))
            return state, Updated(self._build_alert(content, view, now, firing))
        if state.dismissed is not None:
            content = replace(content, starts_at=view.now)  # the earlier part of it was ended by hand
        alert = self._build_alert(content, view, now, None)
        firing = AlertRef(alert.id, alert.starts_at, content.evidence)
        return replace(state, firing=firing, dismissed=None), Fired(alert)

    def _build_alert(self, content: AlertContent, view: RuleView, now: datetime, firing: AlertRef | None) -> Alert:
        labels = {**self.alert_labels(view), **content.labels}
        identity = self._fingerprint(view, content.labels)
        starts_at = firing.starts_at if firing else content.starts_at
        built_in = {"summary": content.summary, "description": content.description, **content.facts}
        if view.scenario is not None and view.base_url:
            built_in["scenario_url"] = f"{view.scenario.key.url(view.base_url)}/"
        values = labels | built_in | {"count": str(content.count), "starts_at": isoformat(content.starts_at)}
        values["scenario_name"] = view.scenario.name if view.scenario else ""
        own = {name: expand_variables(text, values) for name, text in self.config.annotations.items()}
        return Alert(
            id=firing.alert_id if firing else alert_id(identity, to_ms(starts_at), to_ms(now)),
            fingerprint=identity,
            labels=labels,
            starts_at=starts_at,
            annotations={name: text for name, text in (built_in | own).items() if text},
            count=content.count,
            run=content.run,
        )

    def relabel(self, alert: Alert, view: RuleView, now: datetime) -> Alert:
        """A firing alert as the rule labels it now; another alert if that changes its identity."""
        identity = self._fingerprint(view)
        id_ = alert.id if identity == alert.fingerprint else alert_id(identity, to_ms(alert.starts_at), to_ms(now))
        return dataclasses.replace(alert, id=id_, fingerprint=identity, labels=self.alert_labels(view))

    def _fingerprint(self, view: RuleView, more: Labels = _NO_LABELS) -> str:
        key = view.scenario.key if view.scenario else None
        return fingerprint(self.alert, self.severity, view.node.node, key, {**self.config.labels, **more})

    def alert_labels(self, view: RuleView) -> dict[str, str]:
        """The labels of the rule's alert; empty ones are left out, as an absent label is an empty one."""
        labels = {**view.labels, **self.config.labels, "alertname": self.alert, "severity": self.severity}
        labels["dss_node"] = view.node.node
        if view.scenario is not None:
            project, scenario = view.scenario.key[1:]
            labels |= {"project": project, "scenario": scenario, "tags": tags_label(view.scenario.tags)}
            labels["scenario_name"] = view.scenario.name or scenario
        return {label: value for label, value in labels.items() if value}


AnyRule = CompiledRule[Any]


def reset(state: S) -> S:
    """A state that remembers nothing but the open alert."""
    return type(state)(firing=state.firing, dismissed=state.dismissed)


def expand_variables(text: str, values: Labels) -> str:
    """An annotation with ``${name}`` filled in, escaped where it is an address; unknown names stay as they are."""
    address = text.startswith(("http://", "https://"))

    def value(found: re.Match[str]) -> str:
        known = values.get(found[1])
        return found[0] if known is None else quote(known, safe="") if address else known

    return _VARIABLE.sub(value, text)


def times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count} times"
