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
from tocsin.model.config import Config, Reporter
from tocsin.model.decision import Decision, Stage
from tocsin.model.event import Event, event_labels, is_good
from tocsin.model.labels import Labels, Matcher
from tocsin.model.rule_state import FailedState
from tocsin.model.run import ScenarioKey
from tocsin.store import events, rule_states
from tocsin.store.rule_states import StateKey
from tocsin.store.schema import runs
from tocsin.store.story import RunStory, Silent, tell


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
    return replace(story, silent=tuple(silent))


def _silent(
    connection: Connection, plan: Plan, scenario: ScenarioKey, story: RunStory, happened: Sequence[Event]
) -> Iterator[Silent]:
    spoke = {(one.stage, one.subject) for one in story.decisions}
    labels = [event_labels(event) for event in happened]
    states = rule_states.load(connection, [scenario])
    for live in plan.rules.values():
        if not live.about_nodes and (Stage.RULE, live.rule.alert) not in spoke:
            known = states.get(StateKey(live.id, *scenario))
            state = known.state if known else None
            yield Silent(Stage.RULE, live.rule.alert, _rule_why(live, story, labels, state))
    for reporter in plan.config.reporters:
        if (Stage.REPORTER, reporter.name) not in spoke:
            yield Silent(Stage.REPORTER, reporter.name, _reporter_why(reporter, story, happened))


def _rule_why(live: LiveRule, story: RunStory, labels: Sequence[Labels], state: object) -> str:
    rule, run = live.rule, story.run
    if not labels:
        return _no_event(story)
    missing = _unmatched(rule.match, labels[-1])
    if missing is not None:
        return missing
    match rule.kind:
        case "failed" if run.outcome is None:
            return "the run has not ended"
        case "failed" if run.outcome in rule.outcomes:
            count = f"; now {state.failures} in a row" if isinstance(state, FailedState) else ""
            return f"it needs {rule.after} failures in a row{count}"
        case "failed" if is_good(run.outcome):
            return "the run was good, and nothing rang that it could end"
        case "failed":
            return f"{run.outcome} neither counts as a failure nor ends one"
        case "overlong":
            return _overlong_why(story)
        case "stale":
            return "no alert was open that a good run could end" if is_good(run.outcome) else "the run was not good"
        case _:
            return "it is about starts that do not come, and this one came"


def _overlong_why(story: RunStory) -> str:
    took = story.run.duration_seconds
    if took is None:
        return "the run has not been seen to run longer than it may"
    usual = story.usual_seconds
    against = "" if usual is None else f", usually {human_duration(timedelta(seconds=usual))}"
    return f"it took {human_duration(timedelta(seconds=took))}{against}"


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
    lines.append(f"  first seen {isoformat(run.seen_at)} by a look for: {run.seen_by or 'unknown'}{_flags(story)}")
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
        deliveries.append(f"{isoformat(sent.owed_at)}  {sent.channel}: {sent.state}{_because(sent.reason)}")
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
    return f"{isoformat(one.at)}  {one.stage.value} {one.subject}: {one.verdict.value}{_because(one.note)}"


def _because(note: str | None) -> str:
    return f" ({note})" if note else ""


def _flags(story: RunStory) -> str:
    run = story.run
    return (", read back after a downtime" if run.late else "") + (", before it was watched" if run.baseline else "")


def _after(first: datetime, second: datetime) -> str:
    return human_duration(max(second - first, timedelta(0)))
