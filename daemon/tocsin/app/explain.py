"""Why a run rang, or did not.

The rows tell what was seen, decided and sent (``store.story``); what left no row is worked out anew from the present
configuration: the rules and reporters that a run did not concern, and what is missing for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from pydantic import TypeAdapter
from sqlalchemy import Connection, select

from tocsin.app.plan import Plan, make_plan
from tocsin.judge.rules import LiveRule
from tocsin.kit.clock import isoformat
from tocsin.kit.durations import human_duration
from tocsin.model.config import Config, Reporter, Rule
from tocsin.model.decision import FLUSHES, SUPPRESSIONS, Decision, Stage, Verdict
from tocsin.model.event import Event, event_labels, is_good
from tocsin.model.labels import Labels, Matcher
from tocsin.model.rule_state import FailedState
from tocsin.model.run import ScenarioKey
from tocsin.store import events, groups, rule_states, sight
from tocsin.store.rule_states import StateKey
from tocsin.store.schema import runs
from tocsin.store.story import RunStory, Silent, tell

_RULE_WORDS = {Verdict.RANG: "rang", Verdict.CHANGED: "rings on", Verdict.ENDED: "ended"}


def explain(connection: Connection, scenario: ScenarioKey, run_id: str | None, config: Config) -> RunStory | None:
    """The story of a run, of the scenario's newest one without ``run_id``; None when it is not known."""
    if run_id is None:
        newest = (
            select(runs.c.run_id)
            .where(*(runs.c[name] == value for name, value in scenario._asdict().items()))
            .order_by(runs.c.start.desc())
            .limit(1)
        )
        run_id = connection.execute(newest).scalar_one_or_none()
    story = None if run_id is None else tell(connection, scenario, run_id, sorted(config.channels()))
    if story is None:
        return None
    happened = events.events_by_id(connection, [one.id for one in story.events])
    ordered = [happened[one.id] for one in story.events]
    silent = _silent(connection, make_plan(config), scenario, story, ordered)
    return replace(story, in_short=_in_short(connection, story), silent=tuple(silent))


def _in_short(connection: Connection, story: RunStory) -> str:
    """What rang or ended, and what became of it at each channel, in one line."""
    by_rules = [one for one in story.decisions if one.stage is Stage.RULE and one.verdict in _RULE_WORDS]
    said = dict.fromkeys(f"{one.subject} {_RULE_WORDS[one.verdict]}" for one in by_rules)
    channels = {one.channel: f"{one.state}{_because(one.reason)}" for one in story.deliveries}
    flushes = [one for one in story.decisions if one.stage is Stage.FLUSH]
    for one in (*flushes, *(one for one in story.decisions if one.stage is Stage.REPORTER)):
        if one.verdict in SUPPRESSIONS:
            channels.setdefault(one.subject.rpartition(" → ")[2], _told(one))
    if any(one.verdict is Verdict.RANG for one in by_rules) and not flushes:
        soonest = groups.next_flush_of(connection, {one.fingerprint for one in story.alerts})
        said["no route takes it" if soonest is None else f"its group is told at {isoformat(soonest)}"] = None
    undecided = any(one.seq is None for one in story.events)
    what = "; ".join(said) or ("not decided yet" if undecided else "nothing rang")
    return "; ".join((what, *(f"{name}: {words}" for name, words in channels.items())))


def _silent(
    connection: Connection, plan: Plan, scenario: ScenarioKey, story: RunStory, happened: Sequence[Event]
) -> Iterator[Silent]:
    spoke = {(one.stage, one.subject) for one in story.decisions}
    labels = [event_labels(event) for event in happened]
    states = rule_states.load(connection, [scenario])
    sights = sight.scenario_sights(connection, [scenario])
    complete = scenario not in sights or sights[scenario].backfilled
    for live in plan.rules.values():
        if not live.about_nodes and (Stage.RULE, live.rule.alert) not in spoke:
            known = states.get(StateKey(live.id, *scenario))
            state = known.state if known else None
            yield Silent(Stage.RULE, live.rule.alert, _rule_why(live, story, labels, state, complete))
    for reporter in plan.config.reporters:
        if (Stage.REPORTER, reporter.name) not in spoke:
            yield Silent(Stage.REPORTER, reporter.name, _reporter_why(reporter, story, happened))


def _rule_why(live: LiveRule, story: RunStory, labels: Sequence[Labels], state: object, complete: bool) -> str:
    rule, run = live.rule, story.run
    if not labels:
        return _no_event(story)
    if any(one.seq is None for one in story.events):
        return "the run's events wait for a decision"
    missing = _unmatched(rule.match, labels[-1])
    if missing is not None:
        return missing
    match rule.kind:
        case "failed" if run.outcome is None:
            return "the run has not ended"
        case "failed" if run.outcome in rule.outcomes:
            return _failed_why(rule, story, state, complete)
        case "failed" if is_good(run.outcome):
            return "the run was good, and nothing rang that it could end"
        case "failed":
            return f"{run.outcome} neither counts as a failure nor ends one"
        case "overlong":
            return _overlong_why(rule, story)
        case "stale":
            return "no alert was open that a good run could end" if is_good(run.outcome) else "the run was not good"
        case _:
            return "it is about starts that do not come, and this one came"


def _failed_why(rule: Rule, story: RunStory, state: object, complete: bool) -> str:
    if not complete:
        return "what happened while nobody watched is still being read back; what is left of it then rings"
    if any(one.late for one in story.events):
        return "the run was read back after a downtime, and what failed was over before anyone could be told"
    count = state.failures if isinstance(state, FailedState) else 0
    if count < rule.after > 1:
        return f"it rings after {rule.after} failures in a row; now there are {count}"
    return "the rule was not there then, or its decision was pruned"


def _overlong_why(rule: Rule, story: RunStory) -> str:
    if story.run.duration_seconds is None:
        return "the run has not been seen to run longer than it may"
    took = f"it took {human_duration(timedelta(seconds=story.run.duration_seconds))}"
    if rule.longer_than is not None:
        return f"{took}, and it may take {human_duration(rule.longer_than)}"
    if story.usual_seconds is None:
        return f"{took}, and nothing is usual yet"
    usual = human_duration(timedelta(seconds=story.usual_seconds))
    least = human_duration(rule.at_least)
    return f"{took}, usually {usual}; it rings after {rule.times_usual:g} times that, and {least} at least"


def _reporter_why(reporter: Reporter, story: RunStory, happened: Sequence[Event]) -> str:
    heard = [event for event in happened if event.name in reporter.on]
    if not happened:
        return _no_event(story)
    if not heard:
        return f"it hears of {', '.join(sorted(reporter.on))} only"
    reasons = [_unmatched(reporter.match, event_labels(event)) for event in heard]
    if all(reasons):
        return reasons[-1] or ""
    undecided = [event for event in heard if event.seq is None]
    return "its event waits for a decision" if undecided else "it was not configured then, or its decision was pruned"


def _no_event(story: RunStory) -> str:
    if story.run.baseline:
        return "the run ended before the scenario was watched, so it made no event"
    return "its events were pruned"


def _unmatched(matchers: Sequence[Matcher], labels: Labels) -> str | None:
    for matcher in matchers:
        if not matcher.matches(labels):
            return f"it wants {matcher}, and {matcher.name} is {labels.get(matcher.name, '')!r}"
    return None


# --- for people and programs ---------------------------------------------------------------------------------------------

_JSON = TypeAdapter(RunStory)


def to_json(story: RunStory) -> str:
    """The story as one JSON document."""
    return _JSON.dump_json(story, indent=2).decode()


def to_text(story: RunStory) -> str:
    """The story as lines for a terminal, in the order of time; nothing in it is markup."""
    run = story.run
    lines = [f"{run.node}/{run.project}/{run.scenario}/{run.run_id}: {run.outcome or 'running'}"]
    trigger = " ".join(filter(None, (run.trigger_type, run.trigger_name)))
    took = "" if run.duration_seconds is None else f", took {human_duration(timedelta(seconds=run.duration_seconds))}"
    lines.append(f"  started {isoformat(run.start)} by {trigger or 'an unknown trigger'}{took}")
    why = f" because of {run.seen_by}" if run.seen_by else ""
    lines.append(f"  first seen {isoformat(run.seen_at)}, when Tocsin looked{why}{_flags(story)}")
    lines.append(f"  in short: {story.in_short}")
    if run.error is not None:
        step = f" in step {run.error.step}" if run.error.step else ""
        lines.append(f"  first error{step}: {run.error.message or run.error.title}")
    lines += _section("Events", [
        f"{isoformat(one.time)}  {one.event}, seen {_after(one.time, one.detected_at)} later"
        f"{', not yet decided' if one.seq is None else f', number {one.seq}'}" for one in story.events
    ])  # fmt: skip
    lines += _section("Decisions", [_decision(one) for one in story.decisions])
    lines += _section("Alerts", [
        f"{one.labels['alertname']} from {isoformat(one.starts_at)}, "
        f"{'firing' if one.ends_at is None else f'{one.end_reason} {isoformat(one.ends_at)}'}"
        for one in story.alerts
    ])  # fmt: skip
    deliveries: list[str] = []
    for sent in story.deliveries:
        again = f"; to send it again: tocsin deliveries retry {sent.id}" if sent.state == "dead" else ""
        deliveries.append(f"{isoformat(sent.owed_at)}  {sent.channel}: {sent.state}{_because(sent.reason)}{again}")
        deliveries += [
            f"    try {one.number} {isoformat(one.started_at)}: {one.outcome}{_because(one.note)}"
            for one in sent.attempts
        ]
    lines += _section("Notifications", deliveries)
    lines += _section("Did not ring", [f"{one.stage.value} {one.name}: {one.why}" for one in story.silent])
    return "\n".join(lines)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title}:", *(f"  {line}" for line in lines)] if lines else []


def _decision(one: Decision) -> str:
    return f"{isoformat(one.at)}  {one.stage.value} {one.subject}: {_told(one)}"


def _told(one: Decision) -> str:
    before = "not told, " if one.verdict in SUPPRESSIONS else "told, " if one.verdict in FLUSHES else ""
    return f"{before}{one.verdict.value}{_because(one.note)}"


def _because(note: str | None) -> str:
    return f" ({note})" if note else ""


def _flags(story: RunStory) -> str:
    run = story.run
    return (", read back after a downtime" if run.late else "") + (", before it was watched" if run.baseline else "")


def _after(first: datetime, second: datetime) -> str:
    return human_duration(max(second - first, timedelta(0)))
