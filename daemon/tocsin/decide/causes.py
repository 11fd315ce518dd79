"""Common causes: what is to change about their alerts, and which alerts of failures wait because they may share one.

Both are found from the rows of errors that were read; nothing is remembered between two checks but when the last was.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tocsin.decide.evaluate import CompiledConfig, RuleEvaluation, StepResult
from tocsin.model.alert import Alert, EndReason, Member
from tocsin.model.decision import DecisionReason
from tocsin.model.errors import error_text
from tocsin.model.labels import all_match
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.model.scenario import FailedRun
from tocsin.rules.causes import MOST_PATIENCE, CommonCauseRule
from tocsin.rules.rule import Fired, Resolved, RuleView, Updated
from tocsin.store import Connection, alerts, failures, runs
from tocsin.store.alerts import AlertRow
from tocsin.store.failures import SLACK, SharedError
from tocsin.store.scenarios import node_views

Change = Fired | Updated | Resolved
_SOON = timedelta(seconds=1)
_PAUSE_EACH = timedelta(milliseconds=1)  # between two checks, for each failure of the largest cause


def find_cause_changes(
    connection: Connection, compiled: CompiledConfig, now: datetime, last_check: datetime | None
) -> tuple[list[tuple[CommonCauseRule, Change]], timedelta]:
    """What is to change, and how soon it is worth looking again, which takes the longer the more scenarios fail. Reads only;
    ``last_check`` is when errors were last looked for."""
    rules = compiled.causes
    longest = max(rule.config.within for rule in rules) + SLACK
    known = {rule.id: alerts.alerts_of_rule(connection, rule.id, now - longest) for rule in rules}
    firing = [alert for of_rule in known.values() for alert in of_rule if alert.firing]
    errors: set[SharedError] = set()
    if failures.any_new_error(connection, now - longest if last_check is None else last_check - SLACK):
        errors = failures.shared_errors(connection, now - longest, min(rule.config.least_scenarios for rule in rules))
    errors |= {(alert.labels["dss_node"], alert.labels["cause"]) for alert in firing}
    if not errors:
        return [], _SOON
    since = min((alert.starts_at for alert in firing), default=now) - longest
    nodes = node_views(connection)
    changes: list[tuple[CommonCauseRule, Change]] = []
    for (node, cause), failed in failures.failures(connection, errors, min(since, now - longest)).items():
        if node not in compiled.nodes or node not in nodes or not nodes[node].clear:
            continue
        view = RuleView(now + nodes[node].clock_offset, nodes[node], labels=compiled.extra_labels(node, ()))
        for rule in rules:
            matching = _matching(compiled, rule, failed)
            change = _evaluate(
                connection, rule, cause, matching, [a for a in known[rule.id] if _is_of(a, node, cause)], view, now
            )
            if change is not None:
                changes.append((rule, change))
    return changes, _SOON + max((alert.count for alert in firing), default=0) * _PAUSE_EACH


def _evaluate(
    connection: Connection, rule: CommonCauseRule, cause: str, failed: Sequence[FailedRun], known: Sequence[Alert],
    view: RuleView, now: datetime,
) -> Change | None:  # fmt: skip
    firing = next((alert for alert in known if alert.firing), None)
    if firing is None and len(failed) < rule.config.least_scenarios:
        return None
    by_hand = (alert.ends_at for alert in known if alert.end_reason is EndReason.BY_HAND)
    dismissed_at = max(filter(None, by_hand), default=None)
    details = runs.get_details(connection, [failed[-1].run]) if failed else {}
    errors = [found.error for found in details.values() if found.error is not None]
    text = error_text(errors[0]) if errors else ""
    return rule.evaluate_cause(cause, failed, text, firing, dismissed_at, view, now)


def _matching(compiled: CompiledConfig, rule: CommonCauseRule, failed: Sequence[FailedRun]) -> Sequence[FailedRun]:
    if not rule.config.match:
        return failed
    return [f for f in failed if all_match(rule.config.match, compiled.scenario_labels(f.scenario))]


def _is_of(alert: Alert, node: str, cause: str) -> bool:
    return (alert.labels.get("dss_node"), alert.labels.get("cause")) == (node, cause)


def apply_cause_changes(
    connection: Connection, compiled: CompiledConfig, now: datetime, changes: Iterable[tuple[CommonCauseRule, Change]]
) -> StepResult:
    """Write what was found."""
    evaluation = RuleEvaluation(connection, compiled, now)
    firing = alerts.firing_ids(connection)
    for rule, change in changes:
        match change:
            case Resolved(alert_id, at, reason):
                evaluation.end(rule.id, alert_id, at, reason)
            case Fired(alert) | Updated(alert):
                if isinstance(change, Fired) is (alert.fingerprint in firing):
                    continue  # it fired or ended meanwhile
                evaluation.put_row(AlertRow(alert, rule.id))
                opens = DecisionReason.FIRING if isinstance(change, Fired) else DecisionReason.UPDATED
                about = (alert.fingerprint, alert.id)
                evaluation.note(alert.name, opens, alert.annotations["summary"], alert=about)
                evaluation.note_change(opens, alert, alert.id, alert.annotations["summary"])
    evaluation.write()
    return evaluation.result


# --- alerts that wait -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class YoungFailures:
    """The alerts of failures that are not notified yet because their error may turn out to be a common cause.

    One waits out ``group_wait`` from when the error of the latest scenario that shares its own was read. Where the errors of so many runs are still to be read that they may be one, all of them wait.
    """

    now: datetime
    names: Collection[str] = ()
    least: int = 0
    within: timedelta = timedelta(0)  # the longest of the rules
    joined: Mapping[SharedError, dict[ScenarioKey, datetime]] = field(default_factory=dict)
    error_of: Mapping[ScenarioKey, str] = field(default_factory=dict)
    awaited: Collection[RunKey] = ()
    awaited_of: Mapping[str, int] = field(default_factory=dict)  # by node

    def until(self, alert: Alert, group_wait: timedelta) -> datetime | None:
        """Until when the alert waits, unless others of its error come; None when it does not."""
        if (
            alert.run is None
            or alert.name not in self.names
            or self.now >= alert.starts_at + min(MOST_PATIENCE * group_wait, self.within)
        ):
            return None
        scenario = alert.run.scenario
        if alert.run in self.awaited:
            most = max((len(by) for (node, _), by in self.joined.items() if node == scenario.node), default=0)
            return self.now + _SOON if self.awaited_of.get(scenario.node, 0) + most >= self.least else None
        sharing = self.joined.get((scenario.node, self.error_of.get(scenario, "")))
        return max(sharing.values()) + group_wait if sharing else None


def young_failures(
    connection: Connection, compiled: CompiledConfig, members: Iterable[Member], now: datetime
) -> YoungFailures:
    names = {rule.alert for rule in compiled.config.rules if rule.kind == "failed"}
    failed = {m.alert.run for m in members if m.alert.firing and m.alert.run and m.alert.name in names}
    if not compiled.causes or not failed:
        return YoungFailures(now)
    joined: dict[SharedError, dict[ScenarioKey, datetime]] = {}
    error_of: dict[ScenarioKey, str] = {}
    longest = max(rule.config.within for rule in compiled.causes)
    for error in failures.recent_errors(connection, now - longest):
        joined.setdefault((error.scenario.node, error.fingerprint), {}).setdefault(error.scenario, error.read_at)
        error_of[error.scenario] = error.fingerprint
    least = min(rule.config.least_scenarios for rule in compiled.causes)
    awaited = runs.awaiting_details(connection, failed)
    awaited_of = runs.awaited_by_node(connection) if awaited else {}
    return YoungFailures(now, names, least, longest, joined, error_of, awaited, awaited_of)
