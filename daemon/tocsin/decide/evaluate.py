"""Rules at work inside one transaction: states in, judgements, alerts and groups out.

``RuleEvaluation`` holds what one transaction knows; ``write`` puts it down in bulk. A rule that raises for one scenario keeps
its old state there, is reported, and stops nobody else.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from tocsin.decide.compiled import CompiledConfig
from tocsin.model.alert import Alert, EndReason, Group
from tocsin.model.decision import Decision, DecisionReason, Stage
from tocsin.model.event import Event
from tocsin.model.labels import Labels
from tocsin.model.rule_state import AnyRuleState
from tocsin.model.run import ScenarioKey
from tocsin.model.scenario import NodeView, ScenarioView
from tocsin.rules import rules as judge
from tocsin.rules.rules import CompiledRule, Fired, Resolved, Updated
from tocsin.rules.view import EvaluationResult, View
from tocsin.store import alerts, decisions, groups, rule_states
from tocsin.store.alerts import AlertRow, End, Standing
from tocsin.store.groups import GroupMembership
from tocsin.store.rule_states import RuleStateRow, StateKey

Place = tuple[str, str, str]  # node, project, scenario; the last two are empty for a node itself

_AFTER_ERROR = timedelta(minutes=1)  # how soon a rule that raised on a tick is asked again


@dataclass(slots=True)
class RuleEvaluation:
    """One transaction's working memory. ``now`` is on Tocsin's clock."""

    connection: Connection
    compiled: CompiledConfig
    now: datetime
    nodes: dict[str, NodeView]
    scenarios: dict[ScenarioKey, ScenarioView]
    states: dict[StateKey, RuleStateRow]
    made: list[Decision] = field(default_factory=list)
    changed: int = 0  # alerts
    errors: list[tuple[str, str, Exception]] = field(default_factory=list)  # rule, place, what it raised
    _dirty: set[StateKey] = field(default_factory=set)
    _views: dict[Place, View] = field(default_factory=dict)
    _fresh: set[StateKey] = field(default_factory=set)  # those without a row before this transaction
    _filed: dict[str, AlertRow] = field(default_factory=dict)  # to be written, by alert id
    _firing: dict[str, str] | None = None  # fingerprint → alert id, read when something first rings
    _entering: dict[str, Alert] = field(default_factory=dict)  # alerts to be routed
    _new: set[str] = field(default_factory=set)  # ids of alerts that first ring in this transaction
    _ends: dict[str, End] = field(default_factory=dict)  # of alerts that have rows already
    _standing: dict[str, Standing | None] = field(default_factory=dict)  # what was looked up; None: it does not fire

    # --- facts and time ----------------------------------------------------------------------------------------------

    def on_event(self, event: Event, place: Place, labels: Labels, *, withhold: bool) -> None:
        """Tell every rule an event. With ``withhold`` states go on, and alerts wait for ``catch_up``."""
        for live in self.compiled.rules_for(labels):
            key = StateKey(live.id, *place)
            if live.about_nodes is not bool(place[2]) and (key in self.states or event.name in live.begins):
                self._hear(live, key, event, withhold)

    def _hear(self, live: CompiledRule, key: StateKey, event: Event, withhold: bool) -> None:
        known = self.states.get(key)
        old = known.state if known else None
        try:
            new = judge.on_event(live.rule, old, event)
            if new is None or new is old:
                return
            if withhold:
                self.put(key, new, self.now)
            else:
                self._settle(live, key, judge.evaluate(live.rule, new, self.view(key)), event)
        except Exception as error:  # noqa: BLE001 - one rule on one scenario; it is reported and the others go on
            self.failed(live, key, error, event)

    def tick(self, key: StateKey, state: AnyRuleState, live: CompiledRule, view: View | None = None) -> None:
        """Ask a rule again, because time has passed or because what was withheld may be told now."""
        try:
            self._settle(live, key, judge.evaluate(live.rule, state, view or self.view(key)), None)
        except Exception as error:  # noqa: BLE001 - one rule on one scenario; asked again in a while
            self.failed(live, key, error, None)
            self.put(key, state, self.now + _AFTER_ERROR)

    def catch_up(self, scenario: ScenarioKey) -> None:
        """Tell the net change of a scenario whose history has been read back."""
        for key in sorted(key for key in self._dirty if key[1:] == scenario):
            state, live = self.states[key].state, self.compiled.rules.get(key.rule)
            if state is not None and live is not None:
                self.tick(key, state, live)

    def view(self, key: StateKey) -> View:
        place = key[1:]
        known = self._views.get(place)
        if known is None or known.scenario is None:
            scenario = self.scenarios.get(ScenarioKey(*place)) if key.scenario else None
            node = self.nodes.get(key.node) or NodeView(key.node)
            known = self._views[place] = self.compiled.view(node, scenario, self.now)
        return known

    def put(self, key: StateKey, state: AnyRuleState | None, due_at: datetime | None) -> None:
        """Remember a state; one that says nothing beyond a fresh one is forgotten."""
        blank = state is not None and due_at is None and state == type(state)()
        new = RuleStateRow(key, None if blank else state, due_at)
        if self.states.get(key) == new:
            return
        if key not in self.states:
            self._fresh.add(key)
        self.states[key] = new
        if new.state is None and key in self._fresh:
            self._dirty.discard(key)
        else:
            self._dirty.add(key)

    def failed(self, live: CompiledRule, key: StateKey, error: Exception, event: Event | None) -> None:
        self.errors.append((live.id, "/".join(part for part in key[1:] if part), error))
        note = f"{'/'.join(part for part in key[1:] if part)}: {type(error).__name__}: {error}"
        self.decide(live, DecisionReason.ERROR, note, event)

    # --- what follows from a judgement -------------------------------------------------------------------------------

    def _settle(self, live: CompiledRule, key: StateKey, judgement: EvaluationResult, event: Event | None) -> None:
        view = self.view(key)
        if key.scenario and (view.scenario is None or view.scenario.gone):
            return  # what rings is ended with the scenario
        state, change = judge.settle(live.rule, judgement, view, self.now)
        due_at = None if judgement.due is None else judgement.due - view.node.clock_offset
        match change:
            case Fired(alert):
                state = self.ring(live, key, state, alert, event)
            case Updated(alert):
                self.file(alert, key)
                self.decide(live, DecisionReason.UPDATED, f"count {alert.count}", event, alert)
            case Resolved(alert_id, at, reason):
                self.end(live.id, alert_id, at, reason, event)
            case None:
                pass
        self.put(key, state, due_at)

    def ring(
        self, live: CompiledRule, key: StateKey, state: AnyRuleState, alert: Alert, event: Event | None
    ) -> AnyRuleState:
        """A new alert; where another rule already holds one of this identity, that one is shared."""
        if self._firing is None:
            firing = alerts.firing_ids(self.connection).items()
            self._firing = {identity: id_ for identity, id_ in firing if id_ not in self._ends}
        shared = self._firing.get(alert.fingerprint)
        if shared is not None:
            self.decide(live, DecisionReason.WITHHELD, "another rule's alert already says it", event, alert)
            return _holding(state, shared)
        self._firing[alert.fingerprint] = alert.id
        self._new.add(alert.id)
        self.file(alert, key)
        self.decide(live, DecisionReason.FIRING, alert.annotations.get("summary"), event, alert)
        return _holding(state, alert.id)

    def file(self, alert: Alert, key: StateKey) -> None:
        """Write an alert and put it where the tree wants it. An overlong run outlives its scenario's switch."""
        scenario, live = self.view(key).scenario, self.compiled.rules.get(key.rule)
        active = scenario is not None and scenario.active is True
        overlong = live is not None and live.rule.kind == "overlong"
        self.put_in(AlertRow(alert, key.rule, active and not overlong))

    def put_in(self, filed: AlertRow) -> None:
        """Write an alert, and put it where the tree wants it."""
        self._filed[filed.alert.id] = filed
        self._entering[filed.alert.id] = filed.alert

    def route_again(self, standing: Iterable[Alert]) -> None:
        """Put alerts that are written already where the tree wants them now."""
        self._entering |= {alert.id: alert for alert in standing}

    def end(self, rule_id: str, alert_id: str, at: datetime, reason: EndReason, event: Event | None = None) -> None:
        """End an alert, one of this transaction or an older one."""
        self._entering.pop(alert_id, None)
        filed = self._filed.get(alert_id)
        if filed is not None and alert_id in self._new:
            self._filed[alert_id] = replace(filed, alert=replace(filed.alert, ends_at=at, end_reason=reason))
            self._new.remove(alert_id)
            ended = Standing(filed.alert.fingerprint, filed.alert.name)
        else:
            found = None if alert_id in self._ends else self._stands(alert_id)
            if found is None:  # it had ended before, by hand or by another rule
                self._filed.pop(alert_id, None)
                return
            self._ends[alert_id] = End(alert_id, at, reason)
            ended = found
        if self._firing is not None:
            self._firing.pop(ended.fingerprint, None)
        self.changed += 1
        rule = self.compiled.rules.get(rule_id)
        name = rule.rule.alert if rule else ended.name
        about = event.id if event else None, ended.fingerprint, alert_id
        self.made.append(Decision(self.now, Stage.RULE, name, DecisionReason.RESOLVED, reason.value, *about))

    def _stands(self, alert_id: str) -> Standing | None:
        """A firing alert by its id. All that the loaded states hold open are looked up at once."""
        if alert_id not in self._standing:
            ringing = {known.state.ringing.alert_id for known in self.states.values()
                       if known.state is not None and known.state.ringing is not None}  # fmt: skip
            wanted = (ringing | {alert_id}) - self._standing.keys()
            self._standing |= dict.fromkeys(wanted) | alerts.standing(self.connection, wanted)
        return self._standing[alert_id]

    def decide(
        self,
        live: CompiledRule,
        reason: DecisionReason,
        note: str | None,
        event: Event | None,
        alert: Alert | None = None,
    ) -> None:
        self.note(live.rule.alert, reason, note, event, alert)

    def note(
        self, name: str, reason: DecisionReason, note: str | None, event: Event | None, alert: Alert | None
    ) -> None:
        about = (alert.fingerprint, alert.id) if alert else ()
        self.made.append(Decision(self.now, Stage.RULE, name, reason, note, event.id if event else None, *about))

    # --- rows --------------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Put down states, alerts, group membership and decisions."""
        if self._dirty:
            rule_states.save(self.connection, [self.states[key] for key in sorted(self._dirty)])
        # First what ends: two of one fingerprint never fire at once. What an alert showed last is part of its history.
        alerts.put_alerts(self.connection, [self._filed.pop(id_) for id_ in self._ends if id_ in self._filed], self.now)
        alerts.end_alerts(self.connection, [*self._ends.values()], self.now)
        alerts.put_alerts(self.connection, list(self._filed.values()), self.now)
        self.changed += sum(filed.alert.firing for filed in self._filed.values())
        joining, routed = enter_groups(self.compiled, self._entering.values(), self.now)
        groups.join(self.connection, joining)
        self.made += routed
        decisions.record(self.connection, self.made)


def enter_groups(
    compiled: CompiledConfig, entering: Iterable[Alert], now: datetime
) -> tuple[list[GroupMembership], list[Decision]]:
    """Where the tree puts alerts, with one decision for each group.

    Of channels that do not deliver all alerts enter together, so that each comes where a channel that does hears it.
    """
    joining: list[GroupMembership] = []
    made: list[Decision] = []
    if compiled.router is None:
        return joining, made
    entering = list(entering)
    # Of those that ended too, as long as they stand in a group: who heard the start is to hear the end.
    deaf = {alert.failing_channel for alert in entering}
    hears = {name for name, channels in compiled.channels.items() if any(one.name not in deaf for one in channels)}
    for alert in entering:
        for match in compiled.router.match(alert.labels, hears if alert.failing_channel else None):
            group = Group(
                match.group_key,
                match.route.receiver,
                match.route.path,
                match.group_labels,
                now + match.route.group_wait,
            )
            joining.append(GroupMembership(group, alert.fingerprint, alert.id))
            made.append(
                Decision(
                    now, Stage.ROUTE, match.group_key, DecisionReason.ROUTED, f"to {match.route.receiver}",
                    None, alert.fingerprint, alert.id,
                )
            )  # fmt: skip
    return joining, made


def _holding(state: AnyRuleState, alert_id: str) -> AnyRuleState:
    assert state.ringing is not None
    return replace(state, ringing=replace(state.ringing, alert_id=alert_id))


def place_of(alert: Alert) -> Place:
    """What an alert is about, as rules remember it."""
    return alert.labels["dss_node"], alert.labels.get("project", ""), alert.labels.get("scenario", "")
