"""Why a run or an alert fired and who was notified, or why not.

Rows say what was seen, decided and sent (``store.explanation``). The rules and reporters that a run did not concern, and
why, are worked out from the present configuration.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import groupby

from tocsin.config.model import Config, Reporter, Rule
from tocsin.decide.evaluate import CompiledConfig
from tocsin.kit.clock import human_duration, isoformat
from tocsin.model.decision import FLUSHES, SUPPRESSIONS, Decision, DecisionReason, Stage
from tocsin.model.event import Event, is_good, receivers_of_tags
from tocsin.model.labels import Labels, Matcher
from tocsin.model.rule_state import FailedState
from tocsin.model.run import ScenarioKey
from tocsin.routing.stages import Suppressor
from tocsin.store import Connection, alerts, events, failures, groups, rule_states, scenarios
from tocsin.store.alerts import FiringAlert
from tocsin.store.explanation import (
    AlertExplanation,
    EventRecord,
    NotFired,
    NotifyOutcome,
    RunExplanation,
    load_alert_explanation,
    load_run_explanation,
)
from tocsin.store.query import AlertRecord, DeliveryRecord, as_of, find_ids
from tocsin.store.rule_states import StateKey
from tocsin.store.runs import newest_run_id

_NOW = {DecisionReason.INHIBITED: "inhibited", DecisionReason.SILENCED: "silenced"}
_CHANGES = {DecisionReason.FIRING: "firing", DecisionReason.UPDATED: "updated", DecisionReason.RESOLVED: "resolved"}


def explain_run(
    connection: Connection, scenario: ScenarioKey, run_id: str | None, config: Config
) -> RunExplanation | None:
    """What came of a run, of the scenario's newest one without ``run_id``; None when it is not known."""
    run_id = run_id if run_id is not None else newest_run_id(connection, scenario)
    channels = sorted(config.channels())
    explanation = None if run_id is None else load_run_explanation(connection, scenario, run_id, channels)
    if explanation is None:
        return None
    not_fired = tuple(_not_fired(connection, CompiledConfig(config), scenario, explanation))
    summary = "; ".join((_changes(explanation), *channel_lines(explanation.outcomes)))
    return replace(explanation, summary=summary, not_fired=not_fired)


def explain_firing(connection: Connection, prefix: str, config: Config, now: datetime) -> AlertExplanation | None:
    """What came of the alert whose id begins so; None when none or several do."""
    ids = find_ids(connection, "alerts", prefix)
    explanation = load_alert_explanation(connection, ids[0], sorted(config.channels())) if len(ids) == 1 else None
    if explanation is None:
        return None
    alert = explanation.alert
    suppressed: tuple[str, ...] = ()
    if alert.ends_at is None:
        parts = [f"fires since {isoformat(alert.starts_at)}"]
        suppressor = load_suppressor(connection, config, [alert.labels], now)
        alert = as_of(replace(alert, suppressed_by=suppressor.suppressed_by(alert.labels)), now)
        others = [f"{_NOW[other.reason]} now {other.note}" for other in suppressor.others(alert.labels)]
        muted = [f"{name} muted now {mute.note}" for name, mute in suppressor.muted_routes(alert.labels) if mute]
        suppressed = (*others, *_tags_not_allowed(alert, config), *muted)
    else:
        parts = [f"fired {isoformat(alert.starts_at)}, {alert.end_reason} {isoformat(alert.ends_at)}"]
    if not explanation.outcomes:
        parts.append("no route takes it")
    summary = "; ".join((*parts, *suppressed, *channel_lines(explanation.outcomes)))
    return replace(explanation, alert=alert, summary=summary, suppressed=suppressed)


def _tags_not_allowed(alert: AlertRecord, config: Config) -> list[str]:
    tags = config.tag_receivers
    if tags is None or "tags" not in alert.labels:
        return []
    named = [name for name in receivers_of_tags(alert.labels["tags"].split(","), tags.tag) if name not in tags.allow]
    return [f"its tag {tags.tag}:{name} names a receiver that tag_receivers does not allow" for name in named]


def load_suppressor(connection: Connection, config: Config, targets: Sequence[Labels], now: datetime) -> Suppressor:
    """What may suppress these firing alerts at this moment."""
    sources = groups.inhibition_sources(connection, config.inhibit_rules, targets)
    related = failures.related_alerts(connection, config, targets)
    return Suppressor(config, alerts.active_silences(connection, now), sources, now, related)


def alert_states(connection: Connection, config: Config, now: datetime) -> list[tuple[FiringAlert, str]]:
    """Every firing alert with its state: suppressed, else acknowledged, else active."""
    firing = alerts.firing_states(connection)
    sources = {alert.id: alert.labels for alert in firing}
    related = failures.related_alerts(connection, config, sources.values())
    suppressor = Suppressor(config, alerts.active_silences(connection, now), sources, now, related)

    def state(alert: FiringAlert) -> str:
        if suppressor.suppressed_by(alert.labels):
            return "suppressed"
        return "acknowledged" if alert.acknowledged and alert.acknowledged.holds(now) else "active"

    return [(alert, state(alert)) for alert in firing]


def _changes(explanation: RunExplanation) -> str:
    by_rules = [item for item in explanation.decisions if item.stage is Stage.RULE and item.reason in _CHANGES]
    parts = dict.fromkeys(f"{decision.subject} {_CHANGES[decision.reason]}" for decision in by_rules)
    routed = {outcome.name for outcome in explanation.outcomes if outcome.change is not None}
    if any(item.reason is DecisionReason.FIRING and item.subject not in routed for item in by_rules):
        parts["no route takes it"] = None
    undecided = any(event.seq is None for event in explanation.events)
    return "; ".join(parts) or ("not decided yet" if undecided else "nothing fired")


def channel_lines(outcomes: Sequence[NotifyOutcome]) -> list[str]:
    """What became of the changes, a line a channel; a channel of which there is more to say has it all in its line."""
    by_channel: dict[str, list[tuple[str, str]]] = {}
    for item in outcomes:
        change = "" if item.change is None else f" {_CHANGES[item.change]}"
        if item.state is not None:
            fate = f"{item.state}{_because(item.state_reason)}"
        elif item.reason is not None:
            fate = f"not notified, {item.reason}{_because(item.note)}"
        else:
            fate = f"its group is flushed at {isoformat(item.at)}" if item.at else "its group is not flushed yet"
        by_channel.setdefault(item.channel or "", []).append((f"{item.name}{change}", fate))
    lines: list[str] = []
    for channel, fates in by_channel.items():
        if not channel:
            lines += dict.fromkeys(fate if fate.startswith("its group") else f"{what}: {fate}" for what, fate in fates)
        elif len({fate for _, fate in fates}) == 1:
            lines.append(f"{channel}: {fates[0][1]}")
        else:
            each = dict.fromkeys(f"{what}: {fate}" for what, fate in fates)
            lines.append(f"{channel}: {', '.join(each)}")
    return lines


def _not_fired(
    connection: Connection, compiled: CompiledConfig, scenario: ScenarioKey, explanation: RunExplanation
) -> Iterator[NotFired]:
    decided = {(decision.stage, decision.subject) for decision in explanation.decisions}
    by_id = events.events_by_id(connection, [event.id for event in explanation.events])
    happened = [by_id[event.id] for event in explanation.events if event.id in by_id]
    no_event = None if happened else "its events were pruned"
    if explanation.run.baseline and not happened:
        no_event = "the run ended before the scenario was watched, so it made no event"
    states = rule_states.load_states(connection, [scenario])
    known = scenarios.scenario_views(connection, [scenario])
    complete = scenario not in known or known[scenario].backfilled
    for rule in compiled.rules.values():
        if not rule.about_nodes and (Stage.RULE, rule.alert) not in decided:
            row = states.get(StateKey(rule.id, *scenario))
            state = row.state if row else None
            why = no_event or _rule_why(rule.config, explanation, compiled.event_labels(happened[-1]), state, complete)
            yield NotFired(Stage.RULE, rule.alert, why)
    for reporter in compiled.config.reporters:
        if (Stage.REPORTER, reporter.name) not in decided:
            yield NotFired(Stage.REPORTER, reporter.name, no_event or _reporter_why(reporter, happened, compiled))


def _rule_why(rule: Rule, explanation: RunExplanation, labels: Labels, state: object, complete: bool) -> str:
    if any(event.seq is None for event in explanation.events):
        return "the run's events wait for a decision"
    unmatched = _unmatched(rule.match, labels)
    if unmatched is not None:
        return unmatched
    match rule.kind:
        case "failed":
            return _failed_why(rule, explanation, state, complete)
        case "overlong":
            if explanation.run.duration_seconds is None:
                return "the run has not been seen to run longer than it may"
            took = f"it took {human_duration(timedelta(seconds=explanation.run.duration_seconds))}"
            if rule.longer_than is not None:
                return f"{took}, and it may take {human_duration(rule.longer_than)}"
            if explanation.usual_seconds is None:
                return f"{took}, and nothing is usual yet"
            usual, least = timedelta(seconds=explanation.usual_seconds), human_duration(rule.least_duration)
            limit = f"it fires after {rule.times_usual:g} times that, and {least} at least"
            return f"{took}, usually {human_duration(usual)}; {limit}"
        case "stale":
            good = is_good(explanation.run.outcome)
            return "no alert was open that a good run could resolve" if good else "the run was not good"
        case "short":
            return "the run was not good, took about as long as usual, or too few runs say what is usual"
        case "deadline":
            return "no deadline was missed that a good run could make up for"
        case _:
            return "it is about starts that do not come, and this one came"


def _failed_why(rule: Rule, explanation: RunExplanation, state: object, complete: bool) -> str:
    outcome = explanation.run.outcome
    if outcome is None:
        return "the run has not ended"
    if outcome not in rule.outcomes:
        if is_good(outcome):
            return "the run was good, and no alert was open that it could resolve"
        return f"{outcome} neither counts as a failure nor ends one"
    if not complete:
        return "what happened while nobody watched is still being read back; what is left of it then fires"
    if any(event.late for event in explanation.events):
        return "the run was read back after a downtime, and its failure was over before anyone could be notified"
    count = state.failures if isinstance(state, FailedState) else 0
    if count < rule.after > 1:
        return f"it fires after {rule.after} failures in a row; now there are {count}"
    return "the rule did not exist then, or its decision was pruned"


def _reporter_why(reporter: Reporter, happened: Sequence[Event], compiled: CompiledConfig) -> str:
    concerned = [event for event in happened if event.name in reporter.on]
    if not concerned:
        return f"it is on {', '.join(sorted(reporter.on))} only"
    unmatched = [_unmatched(reporter.match, compiled.event_labels(event)) for event in concerned]
    if all(unmatched):
        return unmatched[-1] or ""
    undecided = any(event.seq is None for event in concerned)
    return "its event waits for a decision" if undecided else "it was not configured then, or its decision was pruned"


def _unmatched(matchers: Sequence[Matcher], labels: Labels) -> str | None:
    for matcher in matchers:
        if not matcher.matches(labels):
            return f"it needs {matcher}, and {matcher.name} is {labels.get(matcher.name, '')!r}"
    return None


def run_text(explanation: RunExplanation, *, everything: bool = False) -> str:
    """The explanation as lines without markup: what happened and a line a channel; or everything, in order of time."""
    run = explanation.run
    trigger = " ".join(filter(None, (run.trigger_type, run.trigger_name))) or "an unknown trigger"
    took = "" if run.duration_seconds is None else f", took {human_duration(timedelta(seconds=run.duration_seconds))}"
    why = f" because of {run.seen_by}" if run.seen_by else ""
    late = ", read back after a downtime" if run.late else ""
    baseline = ", before it was watched" if run.baseline else ""
    lines = [
        f"{run.node}/{run.project}/{run.scenario}/{run.run_id}: {run.outcome or 'running'}",
        f"  started {isoformat(run.start)} by {trigger}{took}",
        f"  first seen {isoformat(run.seen_at)}, when Tocsin polled{why}{late}{baseline}",
    ]
    if run.error is not None:
        step = f" in step {run.error.step}" if run.error.step else ""
        lines.append(f"  first error{step}: {run.error.message or run.error.title}")
    lines += [f"  {_changes(explanation)}", *(f"  {line}" for line in channel_lines(explanation.outcomes))]
    if everything:
        lines += _section("Events", map(_event_line, explanation.events))
        lines += _section("Decisions", map(_decision_line, explanation.decisions))
        lines += _section("Alerts", [f"{_alert_line(a)}; its story: tocsin explain {a.id}" for a in explanation.alerts])
        lines += _section("Notifications", _delivery_lines(explanation.deliveries))
        not_fired = [f"{item.stage.value} {item.name}: {item.why}" for item in explanation.not_fired]
        lines += _section("Did not fire", not_fired)
    return "\n".join(lines)


def alert_text(explanation: AlertExplanation, *, everything: bool = False) -> str:
    """An alert's explanation as lines, as ``run_text``."""
    alert, labels = explanation.alert, explanation.alert.labels
    place = "/".join(labels[name] for name in ("dss_node", "project", "scenario", "channel") if name in labels)
    lines = [f"{_alert_line(alert)}, severity {labels.get('severity', 'none')}: {place}"]
    lines += [f"  {text}" for name in ("summary", "description") if (text := alert.annotations.get(name))]
    lines += [f"  {line}" for line in (*explanation.suppressed, *channel_lines(explanation.outcomes))]
    if not explanation.outcomes:
        lines.append("  no route takes it")
    if everything:
        lines += _section("Labels", [f"{name}={value}" for name, value in sorted(labels.items())])
        lines += _section("Decisions", map(_decision_line, explanation.decisions))
        lines += _section("Notifications", _delivery_lines(explanation.deliveries))
    return "\n".join(lines)


def _section(title: str, lines: Iterable[str]) -> list[str]:
    indented = [f"  {line}" for line in lines]
    return [f"{title}:", *indented] if indented else []


def _event_line(event: EventRecord) -> str:
    delay = human_duration(max(event.detected_at - event.time, timedelta(0)))
    number = "not yet decided" if event.seq is None else f"number {event.seq}"
    return f"{isoformat(event.time)}  {event.event}, seen {delay} later, {number}"


def _decision_line(decision: Decision) -> str:
    reason = decision.reason
    before = "not notified, " if reason in SUPPRESSIONS else "notified, " if reason in FLUSHES else ""
    where = f"{isoformat(decision.at)}  {decision.stage.value} {decision.subject}"
    return f"{where}: {before}{reason.value}{_because(decision.note)}"


def _alert_line(alert: AlertRecord) -> str:
    ended = "firing" if alert.ends_at is None else f"{alert.end_reason} {isoformat(alert.ends_at)}"
    return f"{alert.labels['alertname']} from {isoformat(alert.starts_at)}, {ended}"


def _delivery_lines(deliveries: Sequence[DeliveryRecord]) -> Iterator[str]:
    """Notifications with their attempts; attempts in a row that went alike are one line."""
    for sent in deliveries:
        again = f"; to send it again: tocsin deliveries retry {sent.id}" if sent.state == "dead" else ""
        yield f"{isoformat(sent.created_at)}  {sent.channel}: {sent.state}{_because(sent.reason)}{again}"
        for (outcome, note), alike in groupby(sent.attempts, key=lambda attempt: (attempt.outcome, attempt.note)):
            tries = list(alike)
            number, when = f"try {tries[0].number}", isoformat(tries[0].started_at)
            if len(tries) > 1:
                number = f"tries {tries[0].number} to {tries[-1].number}"
                when = f"{when} to {isoformat(tries[-1].started_at)}"
            yield f"    {number} {when}: {outcome}{_because(note)}"


def _because(note: str | None) -> str:
    return f" ({note})" if note else ""
