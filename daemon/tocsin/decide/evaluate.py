"""What one transaction of the decide stage knows and decides, and rules at work in it: states → alerts → groups.

A rule that raises for one scenario keeps its old state there and is reported; the others go on.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import ClassVar

import msgspec
import structlog

from tocsin.config.model import Channel, Config, Reporter, WatchConfig
from tocsin.kit.lines import Line
from tocsin.model.alert import Alert, EndReason, Group
from tocsin.model.decision import ALERT_OPENS, Decision, DecisionReason, Stage
from tocsin.model.event import Event, EventName, event_labels
from tocsin.model.labels import Labels
from tocsin.model.matcher_index import MatcherIndex, set_bits
from tocsin.model.notification import Notification
from tocsin.model.rule_state import AnyRuleState
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.model.scenario import NodeView, ScenarioView, scenario_labels
from tocsin.routing.tree import Router
from tocsin.rules import compile_rule
from tocsin.rules.causes import CommonCauseRule
from tocsin.rules.rule import AnyRule, Fired, Resolved, RuleView, Updated
from tocsin.rules.runs import OverlongRule
from tocsin.rules.starts import MissedRule
from tocsin.store import Connection, SQLAlchemyError, alerts, groups, outbox, rule_states, runs
from tocsin.store.alerts import AlertBrief, AlertEnd, AlertRow
from tocsin.store.groups import GroupMembership
from tocsin.store.rule_states import RuleStateRow, StateKey
from tocsin.store.scenarios import node_views, scenario_views

log = structlog.get_logger(__name__)

Place = tuple[str, str, str]  # node, project, scenario; the last two are empty for a node itself

_AFTER_ERROR = timedelta(minutes=1)  # how soon a rule that raised on a tick is evaluated again
_DEFAULT_WATCH = WatchConfig()
_CACHE_SIZE = 20_000  # sets of rules that hold together


class CompiledConfig:
    """A configuration as the decide stage uses it. Of several rules with one identity the first counts."""

    def __init__(self, config: Config) -> None:
        self.config = config
        matched: dict[str, AnyRule] = {}
        for rule in (compile_rule(rule, config.timezone) for rule in config.rules):
            matched.setdefault(rule.id, rule)
        missed = [rule for rule in matched.values() if isinstance(rule, MissedRule) and rule.config.about_nodes]
        stalled = [rule.stalled for rule in missed]
        self.stalled = stalled[0] if stalled else None  # the first ``missed`` rule holds the alerts about whole nodes
        self.rules: Mapping[str, AnyRule] = matched | {rule.id: rule for rule in stalled}
        self.causes = [rule for rule in matched.values() if isinstance(rule, CommonCauseRule)]
        rules = tuple(rule for rule in matched.values() if not isinstance(rule, CommonCauseRule))
        self._index = MatcherIndex(rule.config.match for rule in rules)
        self._of_bits = lru_cache(_CACHE_SIZE)(lambda holding: [rules[place] for place in set_bits(holding)])
        reporters = config.reporters
        self._reporters = MatcherIndex(reporter.match for reporter in reporters)
        self._on = {
            name: sum(1 << place for place, reporter in enumerate(reporters) if name in reporter.on)
            for name in EventName
        }
        self._reporters_of_bits = lru_cache(_CACHE_SIZE)(
            lambda holding: [reporters[place] for place in set_bits(holding)]
        )
        self.channels = {receiver.name: receiver.channels for receiver in config.receivers}
        self.fails_over = any(receiver.failover for receiver in config.receivers)
        self.intervals = {interval.name: interval for interval in config.time_intervals}
        self.router = None if config.route is None else Router(config.route)
        self.nodes = {node.name: node for node in config.nodes}
        self.extra_labels = lru_cache(_CACHE_SIZE)(config.extra_labels)
        self.base_urls = {node.name: node.url.rstrip("/") for node in config.nodes}

    def event_labels(self, event: Event) -> Labels:
        tags = event.scenario.tags if event.scenario else ()
        return event_labels(event, self.extra_labels(event.node, tags))

    def scenario_labels(self, scenario: ScenarioView) -> Labels:
        return scenario_labels(scenario, self.extra_labels(scenario.key.node, scenario.tags))

    def rules_for(self, labels: Labels) -> Sequence[AnyRule]:
        """The rules whose matchers all hold."""
        return self._of_bits(self._index.matching(labels))

    def reporters_for(self, name: EventName, labels: Labels) -> Sequence[Reporter]:
        """The reporters on this event whose matchers all hold."""
        on = self._on[name]
        return self._reporters_of_bits(on & self._reporters.matching(labels)) if on else ()

    def stand_ins(self, receiver: str) -> Sequence[Channel]:
        """The channels that are notified in place of a receiver that does not deliver."""
        configured = self.config.receiver(receiver) if self.fails_over else None
        failover = configured.failover if configured else None
        return self.channels.get(failover.receiver, ()) if failover else ()

    def watch(self, node: str) -> WatchConfig:
        configured = self.nodes.get(node)
        return configured.watch if configured else _DEFAULT_WATCH


@dataclass(slots=True)
class StepResult:
    """What one transaction did, for the log, the counters and the next wake-up, once it has committed."""

    full: bool = False  # more of the same waits
    events: list[Event] = field(default_factory=list)  # that were decided
    changes: list[Line] = field(default_factory=list)  # of alerts, for the log
    notifications: list[Notification] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    implied: list[Decision] = field(default_factory=list)  # further ones, which other rows say already
    counts: Counter[tuple[Stage, DecisionReason]] = field(default_factory=Counter)  # of others, which are not news
    verbose: bool = field(default_factory=lambda: log.bind().is_enabled_for(logging.DEBUG))
    errors: list[tuple[str, str, Exception]] = field(default_factory=list)  # rule or reporter, subject, what it raised
    next_due: datetime | None = None
    unseen: list[ScenarioKey] = field(default_factory=list)  # scenarios for whose poll a rule waits


@dataclass(slots=True)
class Evaluation:
    """The base of what is evaluated in one transaction. ``now`` is on Tocsin's clock."""

    connection: Connection
    compiled: CompiledConfig
    now: datetime
    result: StepResult = field(default_factory=StepResult, kw_only=True)
    stage: ClassVar[Stage]

    def note(
        self,
        subject: str,
        reason: DecisionReason,
        note: str | None = None,
        *,
        event_id: str | None = None,
        alert: tuple[str | None, str | None] = (None, None),  # fingerprint, id
        notification_id: str | None = None,
        stage: Stage | None = None,
        implied: bool = False,
    ) -> None:
        (self.result.implied if implied else self.result.decisions).append(
            Decision(self.now, stage or self.stage, subject, reason, note, event_id, *alert, notification_id)
        )

    def enqueue(
        self, notifications: Sequence[Notification], waits: Mapping[str, Sequence[RunKey]] | None = None
    ) -> None:
        """Write notifications to the outbox. Those with runs in ``waits``, by id, wait a little for their details."""
        timed = list(notifications)
        for place, item in enumerate(timed if waits else ()):
            if keys := (waits or {}).get(item.id):
                longest = max(self.compiled.watch(run.scenario.node).details_wait for run in keys)
                timed[place] = replace(item, due_at=self.now + longest)
        self.result.notifications += outbox.enqueue(self.connection, timed, waits)


@dataclass(slots=True)
class RuleEvaluation(Evaluation):
    """Rules in one transaction, with what it has read and will write."""

    scenarios: dict[ScenarioKey, ScenarioView] = field(default_factory=dict)
    states: dict[StateKey, RuleStateRow] = field(default_factory=dict)
    nodes: dict[str, NodeView] = field(init=False)
    _cautious: dict[str, NodeView] = field(init=False)
    _dirty: set[StateKey] = field(default_factory=set)
    _views: dict[Place, RuleView] = field(default_factory=dict)
    _fresh: set[StateKey] = field(default_factory=set)  # those without a row before this transaction
    _rows: dict[str, AlertRow] = field(default_factory=dict)  # to be written, by alert id
    _firing: dict[str, str] | None = None  # fingerprint → alert id, read when the first alert fires
    _to_route: dict[str, Alert] = field(default_factory=dict)
    _new: set[str] = field(default_factory=set)  # ids of alerts that first fire in this transaction
    _ends: dict[str, AlertEnd] = field(default_factory=dict)  # of alerts that have rows already
    _briefs: dict[str, AlertBrief | None] = field(default_factory=dict)  # what was looked up; None: it does not fire
    _asked: list[RunKey] = field(default_factory=list)  # runs that go on, whose details are to be read
    stage: ClassVar[Stage] = Stage.RULE

    def __post_init__(self) -> None:
        self.nodes = node_views(self.connection)
        self._cautious = {name: node.cautious for name, node in self.nodes.items()}

    def load(self, places: Iterable[Place]) -> None:
        """Read these scenarios, and what rules remember of these places and is not known yet."""
        places = set(places)
        self.scenarios |= scenario_views(self.connection, {ScenarioKey(*place) for place in places if place[2]})
        self.states = rule_states.load_states(self.connection, places) | self.states

    def note_change(self, reason: DecisionReason, alert: Alert | AlertBrief, alert_id: str, why: str | None) -> None:
        """A line of the log for a change of an alert, written once it has committed."""
        if isinstance(alert, Alert):
            facts: Mapping[str, str] = alert.place
        else:
            facts = {
                "alertname": alert.name,
                "dss_node": alert.node,
                "project": alert.project,
                "scenario": alert.scenario,
            }
        known = {name: value for name, value in facts.items() if value}
        self.result.changes.append({"event": f"alert_{reason.value}", **known, "why": why, "alert": alert_id})

    def on_event(self, event: Event, place: Place, labels: Labels, *, withhold: bool) -> None:
        """Apply an event to every rule. With ``withhold`` only states change, and alerts wait for ``catch_up``."""
        about_nodes = not place[2]
        for rule in self.compiled.rules_for(labels):
            if rule.about_nodes is not about_nodes:
                continue
            known = self.states.get((rule.id, *place))  # type: ignore[call-overload]
            if known is None and event.name not in rule.begins:
                continue
            key = StateKey(rule.id, *place)
            old = known.state if known else None
            try:
                new = rule.on_event(old if isinstance(old, rule.state_type) else None, event)
                if new is None or new is old:
                    continue
                if withhold:
                    self.put(key, new, self.now)
                else:
                    self._apply(rule, key, new, self.view(key), event.id)
            except SQLAlchemyError:  # not the rule's: the transaction is over
                raise
            except Exception as error:  # noqa: BLE001 - one rule on one scenario; it is reported and the others go on
                self._note_error(rule, key, error, event.id)

    def tick(self, key: StateKey, state: AnyRuleState, rule: AnyRule, view: RuleView | None = None) -> None:
        """Evaluate a rule again, because time has passed or because what was withheld may be notified now."""
        try:
            self._apply(rule, key, state, view or self.view(key), None)
        except SQLAlchemyError:
            raise
        except Exception as error:  # noqa: BLE001 - one rule on one scenario; evaluated again in a while
            self._note_error(rule, key, error, None)
            self.put(key, state, self.now + _AFTER_ERROR)

    def catch_up(self, scenario: ScenarioKey) -> None:
        """Apply the net change of a scenario whose history has been read back."""
        for key in sorted(key for key in self._dirty if key[1:] == scenario):
            state, rule = self.states[key].state, self.compiled.rules.get(key.rule)
            if state is not None and rule is not None:
                self.tick(key, state, rule)

    def view(self, key: StateKey) -> RuleView:
        """What rules see of a place. Scenarios are evaluated by the cautious clock of their node."""
        place = key[1:]
        known = self._views.get(place)
        if known is None or known.scenario is None:
            scenario = self.scenarios.get(ScenarioKey(*place)) if key.scenario else None
            node = (self.nodes if scenario is None else self._cautious).get(key.node) or NodeView(key.node)
            base_url = self.compiled.base_urls.get(key.node, "")
            labels = self.compiled.extra_labels(key.node, scenario.tags if scenario else ())
            known = RuleView(self.now + node.clock_offset, node, scenario, base_url=base_url, labels=labels)
            self._views[place] = known
        return known

    def put(self, key: StateKey, state: AnyRuleState | None, due_at: datetime | None) -> None:
        """Set a state; one that says nothing beyond a fresh one is forgotten."""
        blank = state is not None and due_at is None and state == type(state)()
        new = RuleStateRow(key, None if blank else state, due_at)
        old = self.states.get(key)
        if old is None:
            self._fresh.add(key)
        elif old == new:
            return
        self.states[key] = new
        if new.state is None and key in self._fresh:
            self._dirty.discard(key)
        else:
            self._dirty.add(key)

    def _note_error(self, rule: AnyRule, key: StateKey, error: Exception, event_id: str | None) -> None:
        place = "/".join(part for part in key[1:] if part)
        self.result.errors.append((rule.id, place, error))
        note = f"{place}: {type(error).__name__}: {error}"
        self.note(rule.alert, DecisionReason.ERROR, note, event_id=event_id)

    def _apply(self, rule: AnyRule, key: StateKey, state: AnyRuleState, view: RuleView, event_id: str | None) -> None:
        result = rule.evaluate(state, view)
        if result.unseen and view.scenario is not None and view.node.clear:
            self.result.unseen.append(view.scenario.key)
        if key.scenario and (view.scenario is None or view.scenario.gone):
            return  # its alerts end with the scenario
        state, change = rule.apply(result, view, self.now)
        match change:
            case Fired(alert):
                state = self.fire(rule, key, state, alert, event_id)
            case Updated(alert):
                self.update(key, alert)
                reason, about, why = DecisionReason.UPDATED, (alert.fingerprint, alert.id), f"count {alert.count}"
                self.note(rule.alert, reason, why, event_id=event_id, alert=about)
                self.note_change(reason, alert, alert.id, why)
            case Resolved(alert_id, at, why):
                self.end(rule.id, alert_id, at, why, event_id)
            case None:
                pass
        self.put(key, state, None if result.due is None else result.due - view.node.clock_offset)

    def fire(
        self, rule: AnyRule, key: StateKey, state: AnyRuleState, alert: Alert, event_id: str | None = None
    ) -> AnyRuleState:
        """Open an alert; where another rule already holds one of this identity, that one is shared."""
        if self._firing is None:
            firing = alerts.firing_ids(self.connection).items()
            self._firing = {identity: id_ for identity, id_ in firing if id_ not in self._ends}
        shared = self._firing.get(alert.fingerprint)
        if shared is None:
            self._firing[alert.fingerprint] = alert.id
            self._new.add(alert.id)
            self.update(key, alert)
            if isinstance(rule, OverlongRule) and alert.run is not None:  # its message names the step that goes on
                self._asked.append(alert.run)
            reason, why = DecisionReason.FIRING, alert.annotations.get("summary")
            self.note_change(reason, alert, alert.id, why)
        else:
            reason, why = DecisionReason.WITHHELD, "another rule's alert already covers it"
        self.note(rule.alert, reason, why, event_id=event_id, alert=(alert.fingerprint, alert.id))
        assert state.firing is not None
        reference = msgspec.structs.replace(state.firing, alert_id=shared or alert.id)
        return msgspec.structs.replace(state, firing=reference)

    def update(self, key: StateKey, alert: Alert) -> None:
        """Write an alert and route it. An overlong run outlives the deactivation of its scenario."""
        scenario = self.view(key).scenario
        active = scenario is not None and scenario.active is True
        overlong = isinstance(self.compiled.rules.get(key.rule), OverlongRule)
        self.put_row(AlertRow(alert, key.rule, active and not overlong))

    def put_row(self, row: AlertRow) -> None:
        self._rows[row.alert.id] = row
        self._to_route[row.alert.id] = row.alert

    def route_again(self, firing: Iterable[Alert]) -> None:
        """Route alerts that are written already as the tree says now."""
        self._to_route |= {alert.id: alert for alert in firing}

    def end(self, rule_id: str, alert_id: str, at: datetime, reason: EndReason, event_id: str | None = None) -> None:
        """End an alert, one of this transaction or an older one."""
        self._to_route.pop(alert_id, None)
        row = self._rows.get(alert_id)
        if row is not None and alert_id in self._new:
            self._rows[alert_id] = replace(row, alert=replace(row.alert, ends_at=at, end_reason=reason))
            self._new.remove(alert_id)
            ended: Alert | AlertBrief = row.alert
        else:
            if alert_id not in self._briefs:  # look up at once all that the loaded states hold open
                states = (known.state for known in self.states.values())
                held = {state.firing.alert_id for state in states if state is not None and state.firing is not None}
                unknown = (held | {alert_id}) - self._briefs.keys()
                self._briefs |= dict.fromkeys(unknown) | alerts.firing_by_id(self.connection, unknown)
            brief = None if alert_id in self._ends else self._briefs[alert_id]
            if brief is None:  # it had ended before, by hand or by another rule
                self._rows.pop(alert_id, None)
                return
            self._ends[alert_id] = AlertEnd(alert_id, at, reason)
            ended = brief
        if self._firing is not None:
            self._firing.pop(ended.fingerprint, None)

        rule = self.compiled.rules.get(rule_id)
        about = (ended.fingerprint, alert_id)
        name = rule.alert if rule else ended.name
        self.note(name, DecisionReason.RESOLVED, reason.value, event_id=event_id, alert=about)
        self.note_change(DecisionReason.RESOLVED, ended, alert_id, reason.value)

    def write(self) -> None:
        """Save states and alerts, route the alerts into groups, and record the decisions of the transaction."""
        rule_states.save_states(self.connection, [self.states[key] for key in sorted(self._dirty)])
        # First what ends: two of one fingerprint never fire at once. What an alert showed last is part of its history.
        alerts.put_alerts(self.connection, [self._rows.pop(id_) for id_ in self._ends if id_ in self._rows], self.now)
        alerts.end_alerts(self.connection, [*self._ends.values()], self.now)
        alerts.put_alerts(self.connection, [*self._rows.values()], self.now)
        runs.ask_details(self.connection, self._asked, self.now)

        joining = route_alerts(self.compiled, self._to_route.values(), self.now)
        groups.add_members(self.connection, joining, self.now)
        dues = {*(self.states[key].due_at for key in self._dirty), *(entry.group.flush_at for entry in joining)}
        self.result.next_due = min(filter(None, dues), default=None)
        changed = {item.alert_id for item in self.result.decisions if item.reason in ALERT_OPENS}
        routes: dict[str, list[tuple[str, str]]] = {}
        for entry in joining:
            note, about = f"to {entry.group.receiver}", (entry.fingerprint, entry.alert_id)
            implied = entry.alert_id in changed
            if implied:
                routes.setdefault(entry.alert_id, []).append((entry.group.key, entry.group.receiver))
            self.note(entry.group.key, DecisionReason.ROUTED, note, alert=about, stage=Stage.ROUTE, implied=implied)
        alerts.record_decisions(self.connection, self.result.decisions, routes)


def route_alerts(compiled: CompiledConfig, entering: Iterable[Alert], now: datetime) -> list[GroupMembership]:
    """The groups of alerts. Those about failing channels enter together, so that each reaches a channel that delivers."""
    if compiled.router is None:
        return []
    entering = list(entering)
    # Resolved ones count too while they are in a group: who was notified of the start is to be notified of the end.
    failing = {alert.failing_channel for alert in entering}
    reachable = {
        name for name, channels in compiled.channels.items() if any(channel.name not in failing for channel in channels)
    }
    joining: list[GroupMembership] = []
    for alert in entering:
        for match in compiled.router.match(alert.labels, reachable if alert.failing_channel else None):
            route = match.route
            group = Group(
                match.group_key,
                route.receiver,
                route.path,
                match.group_labels,
                route.first_flush(now, compiled.config.timezone),
            )
            joining.append(GroupMembership(group, alert.fingerprint, alert.id))
    return joining


def place_of(alert: Alert) -> Place:
    """What an alert is about, as rules remember it."""
    return alert.labels["dss_node"], alert.labels.get("project", ""), alert.labels.get("scenario", "")
