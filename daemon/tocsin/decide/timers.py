"""What time alone changes: rules that are due, expected starts, what is gone or switched off, and summaries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from tocsin.decide import expected_starts as starts
from tocsin.decide.compiled import Plan
from tocsin.decide.evaluate import Judging, place_of
from tocsin.decide.outcome import Outcome
from tocsin.model.alert import EndReason
from tocsin.model.decision import Decision, Stage, Verdict
from tocsin.model.notification import Notification
from tocsin.model.rule_state import OverlongState, StaleState, StalledState
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.model.sight import ScenarioSight, scenario_labels
from tocsin.routing import reporters as report
from tocsin.rules.rules import LiveRule
from tocsin.rules.stale import OFF_RECHECK
from tocsin.rules.view import RECHECK
from tocsin.store import alerts, events, outbox, rule_states, sight, withheld
from tocsin.store.history import good_durations
from tocsin.store.rule_states import Remembered, StateKey
from tocsin.store.starts import next_start

Durations = Mapping[ScenarioKey, Sequence[timedelta]]
BATCH = 200  # due states of one transaction


@dataclass(frozen=True, slots=True)
class Untimed:
    """A scenario that a ``stale`` rule does not time yet, and when its last good run ended."""

    live: LiveRule
    scenario: ScenarioSight
    good: datetime | None


def decide_time(connection: Connection, plan: Plan, now: datetime, fresh: Sequence[Untimed] = ()) -> Outcome:
    """What time alone changes: due rules, expected starts, alerts whose scenario is gone or switched off.

    ``fresh`` are scenarios that ``stale`` rules begin to time.
    """
    due = rule_states.due(connection, now, BATCH)
    keys = {ScenarioKey(*one.key[1:]) for one in due if one.key.scenario}
    judging = Judging(
        connection,
        plan,
        now,
        sight.node_sights(connection),
        sight.scenario_sights(connection, keys),
        {one.key: one for one in due},
    )
    runs = {one.state.run for one in due if isinstance(one.state, OverlongState) and one.state.run}
    over = sight.ended(connection, runs)
    unlimited = (one.state.run for one in due if isinstance(one.state, OverlongState) and one.state.limit is None)
    usual = good_durations(connection, {run.scenario for run in unlimited if run is not None})
    for one in due:
        _tick(judging, one, over, usual)
    _orphans(judging)
    more = starts.judge_starts(judging)
    _begin_timing(judging, fresh)
    owed = _summaries(judging)
    judging.write()
    dues = (rule_states.next_due(connection, now), next_start(connection, now))
    return Outcome(
        full=more or len(due) >= BATCH,
        alerts=judging.changed,
        owed=owed,
        made=judging.made,
        errors=judging.errors,
        next_due=min(filter(None, dues), default=None),
    )


def _tick(judging: Judging, one: Remembered, over: set[RunKey], usual: Durations) -> None:
    live = judging.plan.rules.get(one.key.rule.removesuffix("/stalled"))
    view = judging.view(one.key)
    if live is None or one.state is None:
        judging.put(one.key, None, None)
    elif view.scenario is not None and not view.scenario.backfilled:
        judging.put(one.key, one.state, judging.now + RECHECK)
    elif isinstance(one.state, StalledState):
        starts.look_for_ends(judging, one.key, one.state, live)
    elif isinstance(one.state, OverlongState):
        _tick_overlong(judging, one.key, one.state, live, over, usual)
    else:
        judging.tick(one.key, one.state, live)


def _tick_overlong(
    judging: Judging, key: StateKey, state: OverlongState, live: LiveRule, over: set[RunKey], usual: Durations
) -> None:
    if state.ended is None and state.run in over:
        judging.put(key, state, judging.now + RECHECK)  # the event of its end is on the way
        return
    durations = usual.get(state.run.scenario, ()) if state.run is not None else ()
    judging.tick(key, state, live, replace(judging.view(key), durations=tuple(durations)))


def _orphans(judging: Judging) -> None:
    """End the alerts of what is gone or was switched off, and forget why they rang."""
    found = alerts.orphans(judging.connection)
    if not found:
        return
    known = rule_states.load(judging.connection, {place_of(filed.alert) for filed, _ in found})
    judging.states = known | judging.states
    for filed, reason in found:
        judging.end(filed.rule, filed.alert.id, judging.now, reason)
        key = StateKey(filed.rule, *place_of(filed.alert))
        state = judging.states[key].state if key in judging.states else None
        if isinstance(state, StaleState) and reason is EndReason.DEACTIVATED:
            judging.put(key, replace(state, ringing=None, off=True), judging.now + OFF_RECHECK)
        else:
            judging.put(key, None, None)


def untimed(connection: Connection, plan: Plan) -> list[Untimed]:
    """The scenarios that a ``stale`` rule does not time yet. Reads only; it may take a moment in a large fleet."""
    rules = {live.id for live in plan.rules.values() if live.rule.kind == "stale"}
    if not rules:
        return []
    known = rule_states.known(connection, rules)
    new = [
        (live, one)
        for one in sight.watched_scenarios(connection)
        for live in plan.rules_for(scenario_labels(one))
        if live.id in rules and StateKey(live.id, *one.key) not in known
    ]
    good = sight.last_good(connection, {one.key for _, one in new})
    return [Untimed(live, one, good.get(one.key)) for live, one in new]


def _begin_timing(judging: Judging, fresh: Sequence[Untimed]) -> None:
    known = rule_states.load(judging.connection, {one.scenario.key for one in fresh})
    for one in fresh:
        key = StateKey(one.live.id, *one.scenario.key)
        if key not in known:
            judging.scenarios[one.scenario.key] = one.scenario
            since = one.good or one.scenario.watched_since
            judging.tick(key, StaleState(since=since, good=one.good is not None), one.live)


def _summaries(judging: Judging) -> list[Notification]:
    """What was withheld while a node's history was read back, in one message a receiver."""
    owed: list[Notification] = []
    for node in withheld.nodes(judging.connection):
        seen = judging.nodes.get(node)
        if seen is not None and seen.backfilling:
            continue
        if any(key.node == node for key in events.late_after(judging.connection, 0)):
            continue
        for receiver, late in withheld.take(judging.connection, node).items():
            channels = judging.plan.channels.get(receiver, ())
            owed += report.summary(node, receiver, late, channels, judging.now)
            verdict = Verdict.SUMMARY if channels else Verdict.NO_CHANNEL
            note = f"{node}: {len(late)} events"
            judging.made.append(Decision(judging.now, Stage.BACKFILL, receiver, verdict, note))
    return outbox.owe(judging.connection, owed)
