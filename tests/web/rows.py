"""Rows as the stages would write them, for tests that read."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from tocsin.config.model import Config, Node, StoreConfig
from tocsin.kit.clock import isoformat
from tocsin.model.alert import Alert, alert_id, fingerprint
from tocsin.model.event import Event, EventName, ScenarioFacts, end_event_name, run_event_id
from tocsin.model.notification import EventNotice, GroupNotice, Notification
from tocsin.model.run import Details, Run, RunError, ScenarioKey
from tocsin.store import schema
from tocsin.store.alerts import AlertRow, end_alert, put_alerts
from tocsin.store.events import insert_events, list_events, mark_decided, undecided
from tocsin.store.outbox import enqueue
from tocsin.store.runs import put_details

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
KEY = ScenarioKey("prod", "SALES", "NIGHTLY")
CONFIG = Config(
    (Node("prod", "https://dss.example.com"),), StoreConfig("sqlite:////unused.db"), rules=(), inhibit_rules=()
)


def ago(**parts: float) -> datetime:
    return NOW - timedelta(**parts)


def a_run(key: ScenarioKey = KEY, minutes_ago: float = 10, seconds: float | None = 60, outcome: str | None = "SUCCESS",
          run_id: str | None = None) -> Run:  # fmt: skip
    start = ago(minutes=minutes_ago)
    end = None if seconds is None else start + timedelta(seconds=seconds)
    return Run(
        key, run_id or isoformat(start), start, end, outcome if end else None, "temporal", "Nightly", None, "ann"
    )


def an_event(run: Run, name: EventName | None = None, **changes: Any) -> Event:
    name = name or (end_event_name(run.outcome) if run.end else EventName.RUN_STARTED)
    key = run.scenario
    event = Event(
        id=run_event_id(run, name), name=name, node=key.node, time=run.end or run.start, detected_at=run.end or run.start,
        project=key.project, scenario=ScenarioFacts(key.scenario, f"{key.scenario} name", ("daily",)), run=run,
        run_url=f"https://dss.example.com/{run.run_id}",
    )  # fmt: skip
    return replace(event, **changes)  # type: ignore[arg-type]


def put_node(connection: Connection, /, node: str = "prod", **changes: Any) -> None:
    row = {"node": node, "watched_since": ago(days=1), "up": True, "last_ok_at": ago(seconds=2),
           "dss_version": "14.1.0", "last_discovery_at": ago(minutes=3)}  # fmt: skip
    connection.execute(schema.nodes.insert(), row | changes)


def put_scenario(connection: Connection, /, key: ScenarioKey = KEY, **changes: Any) -> None:
    row = {
        **key._asdict(), "name": f"{key.scenario} name", "tags": ("daily",), "type": "step_based", "active": True,
        "follows": (), "watched_since": ago(days=1), "watermark": ago(days=1), "polled_at": ago(seconds=30),
        "reporter_failures": 0,
    }  # fmt: skip
    connection.execute(schema.scenarios.insert(), row | changes)


def put_run(connection: Connection, run: Run, *, baseline: bool = False) -> None:
    row = {
        **run.scenario._asdict(), "run_id": run.run_id, "start": run.start, "end": run.end, "outcome": run.outcome,
        "trigger_type": run.trigger_type, "trigger_name": run.trigger_name, "run_as": run.run_as,
        "baseline": baseline, "seen_at": run.start,
    }  # fmt: skip
    connection.execute(schema.runs.insert(), row)


def put_total(connection: Connection, key: ScenarioKey, outcome: str, runs: int, seconds: float) -> None:
    row = {**key._asdict(), "outcome": outcome, "runs": runs, "seconds": seconds}
    connection.execute(schema.outcome_totals.insert(), row)


def put_bucket(connection: Connection, key: ScenarioKey, outcome: str, le_ms: int, runs: int, seconds: float,
               exemplar: Run | None = None) -> None:  # fmt: skip
    row = {"node": key.node, "project": key.project, "outcome": outcome, "le_ms": le_ms, "runs": runs,
           "seconds": seconds}  # fmt: skip
    if exemplar is not None and exemplar.end is not None:
        row |= {"exemplar_scenario": exemplar.scenario.scenario, "exemplar_run": exemplar.run_id,
                "exemplar_seconds": (exemplar.end - exemplar.start).total_seconds(), "exemplar_at": exemplar.end}  # fmt: skip
    connection.execute(schema.duration_buckets.insert(), row)


def put_error(connection: Connection, run: Run, message: str, step: str = "build") -> None:
    put_details(connection, Details(run.key, NOW, RunError(message, "ERR", "Oops", step)))


def put_events(connection: Connection, *events: Event) -> list[Event]:
    insert_events(connection, events)
    placed = mark_decided(connection, undecided(connection, 1_000), NOW)
    return list_events(connection, after=placed.start - 1, limit=len(placed))


def an_alert(name: str = "ScenarioFailed", key: ScenarioKey = KEY, severity: str = "warning", **changes: Any) -> Alert:
    labels = {"alertname": name, "severity": severity, "dss_node": key.node, "project": key.project,
              "scenario": key.scenario, "tags": ",daily,"}  # fmt: skip
    identity = fingerprint(name, severity, key.node, key, {})
    alert = Alert(alert_id(identity, 0), identity, labels, ago(minutes=5), annotations={"summary": f"{name} rings"})
    return replace(alert, **changes)  # type: ignore[arg-type]


def put_alert(connection: Connection, alert: Alert) -> None:
    put_alerts(connection, [AlertRow(replace(alert, ends_at=None, end_reason=None), alert.name)], alert.starts_at)
    if alert.ends_at is not None and alert.end_reason is not None:
        end_alert(connection, alert.id, alert.ends_at, alert.end_reason, alert.ends_at)


def put_notification(connection: Connection, id: str, notice: EventNotice | GroupNotice, **changes: Any) -> None:
    one = Notification(id, "data-ops", "ops-slack", "ordering_key", notice, ago(minutes=1), ago(minutes=1))
    enqueue(connection, [replace(one, **changes)])  # type: ignore[arg-type]
