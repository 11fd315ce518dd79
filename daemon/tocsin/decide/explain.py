"""Why a run or an alert rang and who was told, or why not.

The rows tell what was seen, decided and sent (``store.story``); what left no row is worked out anew from the present
configuration: the rules and reporters that a run did not concern, and what is missing for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import groupby

from sqlalchemy import Connection, select

from tocsin.config.model import Config, Reporter, Rule
from tocsin.decide.compiled import CompiledConfig, compile_config
from tocsin.kit.clock import human_duration, isoformat
from tocsin.model.decision import FLUSHES, SUPPRESSIONS, Decision, DecisionReason, Stage
from tocsin.model.event import Event, event_labels, is_good
from tocsin.model.labels import Labels, Matcher
from tocsin.model.rule_state import FailedState
from tocsin.model.run import ScenarioKey
from tocsin.routing.mute import Inhibitor, Silencer, muted_by_time
from tocsin.routing.tree import matching_routes
from tocsin.rules.rules import CompiledRule
from tocsin.store import events, groups, rule_states, scenarios, silences
from tocsin.store.records import AlertRecord, DeliveryRecord
from tocsin.store.rule_states import StateKey
from tocsin.store.schema import runs
from tocsin.store.story import AlertStory, News, RunStory, Silent, find_alerts, tell, tell_alert

_RULE_WORDS = {DecisionReason.FIRING: "rang", DecisionReason.UPDATED: "rings on", DecisionReason.RESOLVED: "ended"}


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
    ordered = [happened[one.id] for one in story.events if one.id in happened]
    silent = _silent(connection, compile_config(config), scenario, story, ordered)
    return replace(story, in_short=_in_short(story), silent=tuple(silent))


def explain_alert(connection: Connection, prefix: str, config: Config, now: datetime) -> AlertStory | None:
    """The story of the alert whose id begins so; None when none or several do."""
    ids = find_alerts(connection, prefix)
    story = tell_alert(connection, ids[0], sorted(config.channels())) if len(ids) == 1 else None
    if story is None:
        return None
    suppressed = tuple(_suppressed(connection, story.alert, config, now)) if story.alert.ends_at is None else ()
    ended = "" if story.alert.ends_at is None else f", {story.alert.end_reason} {isoformat(story.alert.ends_at)}"
    said = [
        f"fires since {isoformat(story.alert.starts_at)}"
        if not ended
        else f"fired {isoformat(story.alert.starts_at)}{ended}"
    ]
    said += [] if story.news else ["no route takes it"]
    return replace(story, in_short="; ".join((*said, *suppressed, *channel_lines(story.news))), suppressed=suppressed)


def _suppressed(connection: Connection, alert: AlertRecord, config: Config, now: datetime) -> Iterator[str]:
    """What keeps a firing alert from being told at this moment."""
    rules = config.inhibit_rules
    inhibitor = Inhibitor(rules, groups.sources(connection, rules, [alert.labels]))
    if (inhibited := inhibitor.inhibits(alert.labels)) is not None:
        yield f"inhibited now {inhibited.note}"
    if (silenced := Silencer(silences.active(connection, now)).silences(alert.labels)) is not None:
        yield f"silenced now {silenced.note}"
    intervals = {interval.name: interval for interval in config.time_intervals}
    for route in matching_routes(config.route, alert.labels) if config.route else ():
        if (muted := muted_by_time(route, intervals, now)) is not None:
            yield f"{route.receiver} muted now {muted.note}"


def _in_short(story: RunStory) -> str:
    """What rang or ended, and what became of it at each channel, in one line."""
    return "; ".join((_what_rang(story), *channel_lines(story.news)))


def _what_rang(story: RunStory) -> str:
    by_rules = [one for one in story.decisions if one.stage is Stage.RULE and one.reason in _RULE_WORDS]
    said = dict.fromkeys(f"{one.subject} {_RULE_WORDS[one.reason]}" for one in by_rules)
    told = {one.what for one in story.news if one.change is not None}
    if any(one.reason is DecisionReason.FIRING and one.subject not in told for one in by_rules):
        said["no route takes it"] = None
    undecided = any(one.seq is None for one in story.events)
    return "; ".join(said) or ("not decided yet" if undecided else "nothing rang")


def channel_lines(news: Sequence[News]) -> list[str]:
    """What became of the news, a line a channel; a channel of which there is more to say has it all in its line."""
    by_channel: dict[str, list[tuple[str, str]]] = {}
    for one in news:
        change = "" if one.change is None else f" {_RULE_WORDS[one.change]}"
        by_channel.setdefault(one.channel or "", []).append((f"{one.what}{change}", _fate(one)))
    lines: list[str] = []
    for channel, said in by_channel.items():
        fates = dict.fromkeys(fate for _, fate in said)
        if not channel:
            lines += list(
                dict.fromkeys(fate if fate.startswith("its group") else f"{what}: {fate}" for what, fate in said)
            )
        elif len(fates) == 1:
            lines.append(f"{channel}: {next(iter(fates))}")
        else:
            lines.append(f"{channel}: " + ", ".join(f"{what}: {fate}" for what, fate in dict.fromkeys(said)))
    return lines


def _fate(one: News) -> str:
    if one.state is not None:
        return f"{one.state}{_because(one.state_reason)}"
    if one.reason is not None:
        return f"not told, {one.reason}{_because(one.note)}"
    return f"its group is told at {isoformat(one.at)}" if one.at else "its group is not told yet"


def _silent(
    connection: Connection, compiled: CompiledConfig, scenario: ScenarioKey, story: RunStory, happened: Sequence[Event]
) -> Iterator[Silent]:
    spoke = {(one.stage, one.subject) for one in story.decisions}
    labels = [event_labels(event) for event in happened]
    states = rule_states.load(connection, [scenario])
    sights = scenarios.scenario_views(connection, [scenario])
    complete = scenario not in sights or sights[scenario].backfilled
    for live in compiled.rules.values():
        if not live.about_nodes and (Stage.RULE, live.rule.alert) not in spoke:
            known = states.get(StateKey(live.id, *scenario))
            state = known.state if known else None
            yield Silent(Stage.RULE, live.rule.alert, _rule_why(live, story, labels, state, complete))
    for reporter in compiled.config.reporters:
        if (Stage.REPORTER, reporter.name) not in spoke:
            yield Silent(Stage.REPORTER, reporter.name, _reporter_why(reporter, story, happened))


def _rule_why(live: CompiledRule, story: RunStory, labels: Sequence[Labels], state: object, complete: bool) -> str:
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


def to_text(story: RunStory, *, everything: bool = False) -> str:
    """The story as lines for a terminal, what happened and a line a channel; or everything, in the order of time.

    Nothing in it is markup.
    """
    run = story.run
    lines = [f"{run.node}/{run.project}/{run.scenario}/{run.run_id}: {run.outcome or 'running'}"]
    trigger = " ".join(filter(None, (run.trigger_type, run.trigger_name)))
    took = "" if run.duration_seconds is None else f", took {human_duration(timedelta(seconds=run.duration_seconds))}"
    lines.append(f"  started {isoformat(run.start)} by {trigger or 'an unknown trigger'}{took}")
    why = f" because of {run.seen_by}" if run.seen_by else ""
    lines.append(f"  first seen {isoformat(run.seen_at)}, when Tocsin looked{why}{_flags(story)}")
    if run.error is not None:
        step = f" in step {run.error.step}" if run.error.step else ""
        lines.append(f"  first error{step}: {run.error.message or run.error.title}")
    lines += [f"  {_what_rang(story)}", *(f"  {line}" for line in channel_lines(story.news))]
    if not everything:
        return "\n".join(lines)
    lines += _section("Events", [
        f"{isoformat(one.time)}  {one.event}, seen {_after(one.time, one.detected_at)} later"
        f"{', not yet decided' if one.seq is None else f', number {one.seq}'}" for one in story.events
    ])  # fmt: skip
    lines += _section("Decisions", [_decision(one) for one in story.decisions])
    lines += _section("Alerts", [f"{_alert(one)}; its story: tocsin explain {one.id}" for one in story.alerts])
    lines += _section("Notifications", list(_deliveries(story.deliveries)))
    lines += _section("Did not ring", [f"{one.stage.value} {one.name}: {one.why}" for one in story.silent])
    return "\n".join(lines)


def alert_text(story: AlertStory, *, everything: bool = False) -> str:
    """The story of an alert as lines for a terminal, as ``to_text``."""
    alert = story.alert
    place = "/".join(
        alert.labels[name] for name in ("dss_node", "project", "scenario", "channel") if name in alert.labels
    )
    lines = [f"{_alert(alert)}, severity {alert.labels.get('severity', 'none')}: {place}"]
    lines += [f"  {text}" for name in ("summary", "description") if (text := alert.annotations.get(name))]
    lines += [f"  {line}" for line in (*story.suppressed, *channel_lines(story.news))]
    if not story.news:
        lines.append("  no route takes it")
    if not everything:
        return "\n".join(lines)
    lines += _section("Labels", [f"{name}={value}" for name, value in sorted(alert.labels.items())])
    lines += _section("Decisions", [_decision(one) for one in story.decisions])
    lines += _section("Notifications", list(_deliveries(story.deliveries)))
    return "\n".join(lines)


def _alert(one: AlertRecord) -> str:
    ended = "firing" if one.ends_at is None else f"{one.end_reason} {isoformat(one.ends_at)}"
    return f"{one.labels['alertname']} from {isoformat(one.starts_at)}, {ended}"


def _deliveries(sent: Sequence[DeliveryRecord]) -> Iterator[str]:
    """Notifications with their tries; tries in a row that went alike are one line."""
    for one in sent:
        again = f"; to send it again: tocsin deliveries retry {one.id}" if one.state == "dead" else ""
        yield f"{isoformat(one.created_at)}  {one.channel}: {one.state}{_because(one.reason)}{again}"
        for (outcome, note), alike in groupby(one.attempts, key=lambda attempt: (attempt.outcome, attempt.note)):
            tries = list(alike)
            number, when = f"try {tries[0].number}", isoformat(tries[0].started_at)
            if len(tries) > 1:
                number = f"tries {tries[0].number} to {tries[-1].number}"
                when = f"{when} to {isoformat(tries[-1].started_at)}"
            yield f"    {number} {when}: {outcome}{_because(note)}"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title}:", *(f"  {line}" for line in lines)] if lines else []


def _decision(one: Decision) -> str:
    return f"{isoformat(one.at)}  {one.stage.value} {one.subject}: {_told(one)}"


def _told(one: Decision) -> str:
    before = "not told, " if one.reason in SUPPRESSIONS else "told, " if one.reason in FLUSHES else ""
    return f"{before}{one.reason.value}{_because(one.note)}"


def _because(note: str | None) -> str:
    return f" ({note})" if note else ""


def _flags(story: RunStory) -> str:
    run = story.run
    return (", read back after a downtime" if run.late else "") + (", before it was watched" if run.baseline else "")


def _after(first: datetime, second: datetime) -> str:
    return human_duration(max(second - first, timedelta(0)))
