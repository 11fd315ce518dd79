"""Builders for what polls see."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, select

from tocsin.config.model import Config, Node, StoreConfig
from tocsin.model.event import END_EVENTS, Event, ScenarioFacts
from tocsin.model.run import DetailsLevel, Run, ScenarioKey
from tocsin.model.scenario import MailReporter
from tocsin.routing.details import DetailsNeed, DetailsReason, WantsDetails, details_needed
from tocsin.store import schema
from tocsin.watch.diff import Poll
from tocsin.watch.read import ListedRun

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = ScenarioKey("prod", "SALES", "NIGHTLY")
EARLY = T0 - timedelta(days=365)
_ALWAYS_NEEDED = details_needed(Config((Node("prod", "https://dss"),), StoreConfig("sqlite://")))


def wants(level: DetailsLevel) -> WantsDetails:
    """What every watch needs of runs that failed, and ``level`` of all others."""
    shown = [DetailsNeed(level, DetailsReason.STEPS_SHOWN)] if level else []

    def wanted(event: Event, mail_reporters: Sequence[MailReporter]) -> DetailsNeed | None:
        needs = [_ALWAYS_NEEDED(event, mail_reporters), *(shown if event.name in END_EVENTS else ())]
        return max(filter(None, needs), key=lambda need: need.level, default=None)

    return wanted


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def ran(
    start: float, end: float | None = None, outcome: str = "SUCCESS", *, key: ScenarioKey = KEY, **more: object
) -> Run:
    """A run from ``start`` to ``end``, in seconds from ``T0``."""
    run_id = str(more.pop("run_id", f"run-{start:g}"))
    trigger = str(more.pop("trigger", "temporal"))
    assert not more
    return Run(key, run_id, at(start), None if end is None else at(end), None if end is None else outcome, trigger)


def poll_result(
    runs: Sequence[Run | ListedRun],
    now: float,
    *,
    key: ScenarioKey = KEY,
    all_history: bool = True,
    whole: bool = True,
    late_before: float | None = None,
    max_age: float = 7 * 86_400,
    fresh_from: float = -365 * 86_400,
) -> Poll:
    """A poll of ``now`` that shows these runs, in any order; ``all_history``: DSS has no others."""
    seen = sorted(
        (run if isinstance(run, ListedRun) else ListedRun(run) for run in runs),
        key=lambda one: (one.run.start, one.run.run_id),
        reverse=True,
    )
    return Poll(
        key,
        ScenarioFacts(key.scenario, "Nightly", ("daily",)),
        tuple(seen),
        reason="max_interval",
        begun_at=at(now),
        wants_details=wants(DetailsLevel.NOTHING),
        bounds=(1.0, 60.0, 3600.0),
        reaches=None if all_history or not seen else seen[-1].run.start,
        whole=whole,
        advances=whole,
        now=at(now),
        earliest=at(now),
        detected_at=at(now),
        horizon=at(now - max_age),
        late_before=None if late_before is None else at(late_before),
        fresh_from=at(fresh_from),
        scenario_url="https://dss/projects/SALES/scenarios/NIGHTLY",
    )


def poll(seen: Poll, pending: Sequence[datetime] = (), reason: str = "max_interval") -> Poll:
    return replace(seen, pending=tuple(pending), reason=reason)


def told(events: Sequence[Event]) -> list[tuple[str, str]]:
    """Event name and run id, in order."""
    return [(event.name.value, event.run.run_id if event.run else "") for event in events]


def runs_of(connection: Connection, key: ScenarioKey) -> list[tuple[Run, bool]]:
    """A scenario's runs as the store has them and whether each is baseline, the newest first."""
    names = ("run_id", "start", "end", "outcome", "trigger_type")
    table = schema.runs.c
    query = select(*(table[name] for name in names), table.baseline).where(
        table.node == key.node, table.project == key.project, table.scenario == key.scenario
    )
    rows = connection.execute(query.order_by(table.start.desc()))
    return [(Run(key, *values), baseline) for *values, baseline in rows]


def totals_of(connection: Connection) -> dict[tuple[str, str, str], tuple[int, float]]:
    """Runs and seconds by project, scenario and outcome."""
    table = schema.outcome_totals.c
    query = select(table.project, table.scenario, table.outcome, table.runs, table.seconds)
    return {(p, s, outcome): (count, seconds) for p, s, outcome, count, seconds in connection.execute(query)}


def buckets_of(connection: Connection) -> dict[tuple[str, str, int], int]:
    """Runs by project, outcome and the bucket's upper bound."""
    table = schema.duration_buckets.c
    query = select(table.project, table.outcome, table.le_ms, table.runs)
    return {(project, outcome, le_ms): count for project, outcome, le_ms, count in connection.execute(query)}
