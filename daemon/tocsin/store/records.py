"""What readers get: rows as frozen records, with the names that the API shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from tocsin.model.alert import EndReason, SilenceState
from tocsin.model.labels import Labels
from tocsin.model.notification import AttemptOutcome
from tocsin.model.run import RunKey, ScenarioKey


@dataclass(frozen=True, slots=True)
class NodeRecord:
    node: str
    up: bool | None
    down_reason: str | None
    down_since: datetime | None
    problem: str | None
    last_ok_at: datetime | None
    clock_offset_ms: int
    dss_version: str | None
    node_type: str | None
    sweep_trusted: bool
    last_sweep_at: datetime | None
    last_discovery_at: datetime | None
    backfilling: bool
    watched_since: datetime


@dataclass(frozen=True, slots=True)
class ScenarioRecord:
    node: str
    project: str
    scenario: str
    name: str
    tags: tuple[str, ...]
    type: str | None
    active: bool | None
    run_as: str | None
    next_run: datetime | None
    last_end: datetime | None
    polled_at: datetime | None
    watched_since: datetime
    gone_at: datetime | None


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    code: str | None
    title: str | None
    message: str | None
    step: str | None


@dataclass(frozen=True, slots=True)
class RunRecord:
    node: str
    project: str
    scenario: str
    run_id: str
    start: datetime
    end: datetime | None
    duration_seconds: float | None
    outcome: str | None
    trigger_type: str | None
    trigger_name: str | None
    run_as: str | None
    baseline: bool
    late: bool
    seen_at: datetime
    seen_by: str | None
    error: ErrorRecord | None

    @property
    def scenario_key(self) -> ScenarioKey:
        return ScenarioKey(self.node, self.project, self.scenario)

    @property
    def key(self) -> RunKey:
        return RunKey(self.scenario_key, self.run_id, self.start)


@dataclass(frozen=True, slots=True)
class AlertRecord:
    id: str
    fingerprint: str
    state: str  # firing, ended
    labels: Labels
    annotations: Mapping[str, str]
    starts_at: datetime
    ends_at: datetime | None
    end_reason: EndReason | None
    count: int
    run_id: str | None


@dataclass(frozen=True, slots=True)
class SilenceRecord:
    id: str
    state: SilenceState
    matchers: tuple[str, ...]
    starts_at: datetime
    ends_at: datetime
    created_by: str
    comment: str


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    number: int
    started_at: datetime
    ended_at: datetime
    outcome: AttemptOutcome
    note: str


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """A notification with its tries; ``subject`` says in a few words what it tells."""

    id: str
    receiver: str
    channel: str
    kind: str
    subject: str
    state: str
    reason: str | None
    dead_reason: str | None
    created_at: datetime
    due_at: datetime
    settled_at: datetime | None
    event_id: str | None
    attempts: tuple[AttemptRecord, ...]
