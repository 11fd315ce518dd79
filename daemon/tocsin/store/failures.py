"""What the rows say of failures together: which scenarios fail with one error, and which alerts inhibit others because of
that, or because one scenario follows another."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, Subquery, and_, exists, func, select

from tocsin.config.model import Config, Rule
from tocsin.model.alert import EndReason, Related
from tocsin.model.labels import Labels, Matcher
from tocsin.model.run import BAD_OUTCOMES, GOOD_OUTCOMES, RunKey, ScenarioKey
from tocsin.model.scenario import FailedRun, ScenarioView
from tocsin.store.schema import alerts, run_details, runs, scenarios
from tocsin.store.sql import RUN, SCENARIO, Keyed, chunks, columns, emptied, is_key, plain, readable, same

SLACK = timedelta(minutes=5)  # at most between a run's end and the reading of its error, and between two clocks
_MOST_UPSTREAM = 2_000  # scenarios that are visited for one flush
_PLACE = columns(run_details, *SCENARIO)
_OUTCOMES = sorted({*GOOD_OUTCOMES, *BAD_OUTCOMES})

SharedError = tuple[str, str]
"""The node, and the fingerprint of the error."""


def any_new_error(connection: Connection, since: datetime) -> bool:
    """Whether the error of a run was read at this moment or later."""
    query = select(1).where(run_details.c.fingerprint.is_not(None), run_details.c.read_at >= since)
    return connection.execute(query.limit(1)).first() is not None


def shared_errors(connection: Connection, since: datetime, least: int) -> set[SharedError]:
    """The errors that were read so often since a moment."""
    pair = (run_details.c.node, run_details.c.fingerprint)
    query = select(*pair).where(run_details.c.fingerprint.is_not(None), run_details.c.read_at >= since)
    return {(row[0], row[1]) for row in connection.execute(query.group_by(*pair).having(func.count() >= least))}


def failures(
    connection: Connection, errors: Collection[SharedError], since: datetime
) -> dict[SharedError, list[FailedRun]]:
    """The scenarios whose runs failed with each of these errors, read since a moment, each with its last such run."""
    latest = runs.alias()
    is_place: list[ColumnElement[bool]] = [latest.c[name] == run_details.c[name] for name in SCENARIO]
    outcome = select(latest.c.outcome).where(*is_place, latest.c.outcome.in_(_OUTCOMES))
    outcome = outcome.order_by(latest.c.start.desc()).limit(1).correlate(run_details)
    deactivated = (alerts.c.end_reason == EndReason.DEACTIVATED, alerts.c.run_start >= run_details.c.start)
    switched_off = exists().where(same(alerts, run_details), *deactivated).correlate(run_details, scenarios)
    query = (
        select(
            run_details.c.fingerprint, *columns(run_details, *RUN), runs.c.end, outcome.scalar_subquery(),
            scenarios.c.gone_at, and_(scenarios.c.active.is_(False), switched_off).label("off"),
            scenarios.c.name, scenarios.c.tags,
        )
        .join_from(run_details, runs, same(run_details, runs, RUN))
        .join(scenarios, same(run_details, scenarios))
        .where(run_details.c.read_at >= since, runs.c.end.is_not(None), runs.c.outcome.in_(BAD_OUTCOMES))
        .order_by(runs.c.end)
    )  # fmt: skip
    found: dict[SharedError, dict[ScenarioKey, FailedRun]] = {error: {} for error in errors}
    for part in chunks(sorted({fingerprint for _, fingerprint in errors})):
        rows = connection.execute(query.where(run_details.c.fingerprint.in_(part))).all()
        for row in emptied(connection, scenarios, rows):
            fingerprint, node, project, scenario, run_id, start, end, last, gone_at, off, name, tags = row
            known = found.get((node, fingerprint))
            if known is not None:
                key = ScenarioKey(node, project, scenario)
                view = ScenarioView(key, name, tags or (), gone=gone_at is not None)
                failing = gone_at is None and not off and last not in GOOD_OUTCOMES
                known[key] = FailedRun(view, RunKey(key, run_id, start), end, failing)
    return {error: list(by_scenario.values()) for error, by_scenario in found.items()}


# --- inhibition -------------------------------------------------------------------------------------------------------


class RecentError(NamedTuple):
    scenario: ScenarioKey
    fingerprint: str
    read_at: datetime


def recent_errors(connection: Connection, since: datetime) -> list[RecentError]:
    """The errors that were read since a moment, the oldest first."""
    query = select(*_PLACE, run_details.c.fingerprint, run_details.c.read_at)
    query = query.where(run_details.c.fingerprint.is_not(None), run_details.c.read_at >= since)
    rows = connection.execute(query.order_by(run_details.c.read_at)).all()
    return [RecentError(ScenarioKey(*row[:3]), row[3], row[4]) for row in rows]


def related_alerts(connection: Connection, config: Config, targets: Iterable[Labels]) -> Related:
    """What may inhibit alerts with these labels beyond the matchers of inhibit rules."""
    keys = {key for labels in targets if (key := scenario_of(labels)) is not None}
    causes = {rule.identity: rule for rule in config.rules if rule.kind == "common_cause"}
    caused = frozenset(rule.alert for rule in config.rules if rule.kind == "failed")
    return Related(
        _upstream(connection, keys) if keys and any(rule.upstream for rule in config.inhibit_rules) else {},
        _causes(connection, keys, causes) if keys and causes else {},
        caused,
    )


def scenario_of(labels: Labels) -> ScenarioKey | None:
    if "scenario" not in labels:
        return None
    return ScenarioKey(labels.get("dss_node", ""), labels.get("project", ""), labels["scenario"])


def _causes(
    connection: Connection, keys: Collection[ScenarioKey], rules: Mapping[str, Rule]
) -> dict[ScenarioKey, list[tuple[str, Labels, Sequence[Matcher]]]]:
    """Of each scenario whose last error is that of firing alerts about a common cause, those alerts."""
    query = select(alerts.c.id, alerts.c.labels, alerts.c.starts_at, alerts.c.rule)
    nodes = sorted({key.node for key in keys})
    query = query.where(alerts.c.ends_at.is_(None), alerts.c.project == "", alerts.c.node.in_(nodes))
    rows = readable(connection, alerts, connection.execute(query), tuple)
    firing: dict[SharedError, list[tuple[datetime, tuple[str, Labels, Sequence[Matcher]]]]] = {}
    for id_, labels, starts_at, rule_id in rows:
        if (rule := rules.get(rule_id)) is not None and "cause" in labels and "dss_node" in labels:
            alert = starts_at - rule.within - SLACK, (id_, labels, rule.match)
            firing.setdefault((labels["dss_node"], labels["cause"]), []).append(alert)
    found = {}
    for node, project, scenario, error, read_at in _LAST_ERROR.rows(connection, keys) if firing else ():
        shared = [alert for since, alert in firing.get((node, error), ()) if read_at >= since]
        if shared:
            found[ScenarioKey(node, project, scenario)] = shared
    return found


def _last_error(keys: Subquery) -> Select[Any]:
    query = select(run_details).where(is_key(run_details, keys), run_details.c.fingerprint.is_not(None))
    last = query.order_by(run_details.c.read_at.desc()).limit(1)
    return select(
        keys.c.k0, keys.c.k1, keys.c.k2,
        last.with_only_columns(run_details.c.fingerprint).scalar_subquery(),
        last.with_only_columns(run_details.c.read_at).scalar_subquery(),
    )  # fmt: skip


_LAST_ERROR = Keyed(_last_error, columns(run_details, *SCENARIO))


_FOLLOWS = Keyed(
    select(*columns(scenarios, *SCENARIO), scenarios.c.follows).where(
        plain(scenarios.c.follows) != "[]", scenarios.c.gone_at.is_(None)
    ),
    columns(scenarios, *SCENARIO),
)
_FIRING_AT = Keyed(
    select(*columns(alerts, *SCENARIO), alerts.c.id, alerts.c.labels)
    .where(and_(alerts.c.ends_at.is_(None), alerts.c.scenario != ""))
    .order_by(alerts.c.starts_at, alerts.c.id),
    columns(alerts, *SCENARIO),
)


def _upstream(connection: Connection, keys: Collection[ScenarioKey]) -> dict[ScenarioKey, tuple[str, Labels]]:
    """Of each scenario the firing alert of the nearest one that it follows. Those that follow each other in a circle do not
    inhibit one another."""
    follows: dict[ScenarioKey, list[ScenarioKey]] = {}
    frontier = set(keys)
    while frontier and len(follows) < _MOST_UPSTREAM:
        follows |= {key: [] for key in frontier}
        for node, project, scenario, pairs in emptied(connection, scenarios, _FOLLOWS.rows(connection, frontier)):
            follows[ScenarioKey(node, project, scenario)] = [ScenarioKey(node, *pair) for pair in pairs or ()]
        frontier = {key for before in frontier for key in follows[before]} - follows.keys()
    above = {key for before in follows.values() for key in before}
    rows = _FIRING_AT.rows(connection, above)
    firing: dict[ScenarioKey, tuple[str, Labels]] = {}
    for key, alert in readable(connection, alerts, rows, lambda row: (ScenarioKey(*row[:3]), (row[3], row[4]))):
        firing.setdefault(key, alert)
    found: dict[ScenarioKey, tuple[str, Labels]] = {}
    for key in keys if firing else ():
        chain = _reach(follows, key)
        source = next((each for each in chain if each in firing and key not in _reach(follows, each)), None)
        if source is not None:
            found[key] = firing[source]
    return found


def _reach(follows: dict[ScenarioKey, list[ScenarioKey]], key: ScenarioKey) -> Sequence[ScenarioKey]:
    """What a scenario follows, directly or through others, the nearest first; itself too where it follows itself."""
    reached: dict[ScenarioKey, None] = {}
    frontier = [key]
    while frontier:
        frontier = [each for before in frontier for each in follows.get(before, ()) if each not in reached]
        reached |= dict.fromkeys(frontier)
    return list(reached)
