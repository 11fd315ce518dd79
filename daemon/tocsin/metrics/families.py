"""The scenario, project and node families: names, help texts, and how a snapshot becomes their lines.

Names and labels are a contract (docs/metrics.md). What is unknown or absent has no sample, never a 0.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import inf

from tocsin.metrics.snapshot import NodeSeries, ProjectSeries, ScenarioSeries, Snapshot
from tocsin.metrics.text import Format, exemplar, header, labels_text
from tocsin.store.series import FORMER, Bucket

Lines = Callable[[Snapshot, Format], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family. The name of a counter is without ``_total``."""

    name: str
    kind: str
    documentation: str
    labels: tuple[str, ...]
    lines: Lines

    def render(self, snapshot: Snapshot, format: Format) -> str:
        """The family's text; empty when it has no sample."""
        lines = "".join(self.lines(snapshot, format))
        return header(self.name, self.kind, self.documentation, format) + lines if lines else ""


_SCENARIO = ("dss_node", "project", "scenario")
_outcome = lru_cache(maxsize=256)(lambda outcome: labels_text({"outcome": outcome}))


def _per_scenario(
    name: str, documentation: str, value: Callable[[ScenarioSeries], float | None], kind: str = "gauge"
) -> Family:
    sample = f"{name}_total" if kind == "counter" else name

    def lines(snapshot: Snapshot, _format: Format) -> Iterable[str]:
        return [
            f"{sample}{{{row.labels}}} {number}\n" for row in snapshot.scenarios if (number := value(row)) is not None
        ]

    return Family(name, kind, documentation, _SCENARIO, lines)


def _per_node(name: str, documentation: str, value: Callable[[NodeSeries], int | None]) -> Family:
    def lines(snapshot: Snapshot, _format: Format) -> Iterable[str]:
        return [f"{name}{{{row.labels}}} {number}\n" for row in snapshot.nodes if (number := value(row)) is not None]

    return Family(name, "gauge", documentation, ("dss_node",), lines)


def _runs_total(snapshot: Snapshot, format: Format) -> Iterator[str]:
    for row in snapshot.scenarios:
        last = row.history.last
        for outcome, runs, _ in row.history.totals:
            end = ""
            if format is Format.OPENMETRICS and last is not None and last.counted and last.outcome == outcome:
                end = exemplar(last.run_id, None, 1, last.end / 1000)
            yield f"dss_scenario_runs_total{{{row.labels},{_outcome(outcome)}}} {runs}{end}\n"


def _last_outcome(snapshot: Snapshot, _format: Format) -> Iterator[str]:
    for row in snapshot.scenarios:
        last = row.history.last
        if last is not None and last.outcome is not None:
            yield f"dss_scenario_last_outcome{{{row.labels},{_outcome(last.outcome)}}} 1\n"


def _durations(snapshot: Snapshot, format: Format) -> Iterator[str]:
    name = "dss_scenario_run_duration_seconds"
    for row in snapshot.projects:
        below, seconds = 0, 0.0
        for bound, bucket in _layout(row, snapshot.bounds):
            end = ""
            if bucket is not None:
                below += bucket.runs
                seconds += bucket.seconds
                end = _exemplar(bucket) if format is Format.OPENMETRICS else ""
            limit = "+Inf" if bound == inf else repr(bound)
            yield f'{name}_bucket{{{row.labels},le="{limit}"}} {below}{end}\n'
        yield f"{name}_count{{{row.labels}}} {below}\n{name}_sum{{{row.labels}}} {seconds}\n"


def _layout(project: ProjectSeries, bounds: tuple[float, ...]) -> list[tuple[float, Bucket | None]]:
    """The configured bounds and all that have rows; +Inf always, and last."""
    rows = {
        inf if bucket.bound_ms is None else bucket.bound_ms / 1000: bucket
        for bucket in project.buckets
        if bucket.bound_ms != FORMER
    }
    return [(float(bound), rows.get(bound)) for bound in sorted({*bounds, *rows, inf})]


def _exemplar(bucket: Bucket) -> str:
    if bucket.exemplar_run is None or bucket.exemplar_seconds is None or bucket.exemplar_at is None:
        return ""
    return exemplar(bucket.exemplar_run, bucket.exemplar_scenario, bucket.exemplar_seconds, bucket.exemplar_at / 1000)


def _project_runs(snapshot: Snapshot, format: Format) -> Iterator[str]:
    for row in snapshot.projects:
        newest = max(row.buckets, key=lambda bucket: bucket.exemplar_at or 0)
        end = _exemplar(newest._replace(exemplar_seconds=1)) if format is Format.OPENMETRICS else ""
        total = sum(bucket.runs for bucket in row.buckets)
        yield f"dss_project_runs_total{{{row.labels}}} {total}{end}\n"


def _seconds(epoch_ms: int | None) -> float | None:
    return None if epoch_ms is None else epoch_ms / 1000


def _flag(value: bool | None) -> int | None:
    return None if value is None else int(value)


def _once_polled(value: Callable[[ScenarioSeries], int]) -> Callable[[ScenarioSeries], int | None]:
    return lambda row: None if row.facts.polled_at is None else value(row)


FAMILIES: tuple[Family, ...] = (
    Family("dss_scenario_info", "gauge", "1, with the scenario's name and type, and a label for each of tag_labels.",
           (*_SCENARIO, "scenario_name", "type"),
           lambda snapshot, _: [f"dss_scenario_info{{{row.labels},{row.info}}} 1\n" for row in snapshot.scenarios]),
    Family("dss_scenario_runs", "counter", "Runs of the scenario that ended while it was watched, by outcome.",
           (*_SCENARIO, "outcome"), _runs_total),
    _per_scenario("dss_scenario_run_seconds", "Seconds that the counted runs of the scenario took in all.",
                  lambda row: sum(seconds for _, _, seconds in row.history.totals) if row.history.totals else None,
                  "counter"),
    _per_scenario("dss_scenario_last_run_duration_seconds", "How long the last ended run took.",
                  lambda row: (last.end - last.start) / 1000 if (last := row.history.last) else None),
    _per_scenario("dss_scenario_last_run_start_timestamp_seconds", "When the last ended run began.",
                  lambda row: _seconds(row.history.last.start) if row.history.last else None),
    _per_scenario("dss_scenario_last_run_end_timestamp_seconds", "When the last ended run ended.",
                  lambda row: _seconds(row.history.last.end) if row.history.last else None),
    _per_scenario("dss_scenario_last_success_timestamp_seconds", "When a run last ended with SUCCESS or WARNING.",
                  lambda row: _seconds(row.history.last_good)),
    _per_scenario("dss_scenario_usual_duration_seconds", "The median duration of the last 20 good runs.",
                  lambda row: row.usual.total_seconds() if row.usual is not None else None),
    Family("dss_scenario_last_outcome", "gauge", "1 for the outcome of the last ended run; other outcomes are absent.",
           (*_SCENARIO, "outcome"), _last_outcome),
    _per_scenario("dss_scenario_running", "Whether a run of the scenario goes on.",
                  _once_polled(lambda row: int(row.running_since is not None))),
    _per_scenario("dss_scenario_running_start_timestamp_seconds", "When the run that goes on began.",
                  lambda row: _seconds(row.running_since)),
    _per_scenario("dss_scenario_next_run_timestamp_seconds", "When DSS will next start the scenario by itself.",
                  lambda row: _seconds(row.facts.next_run)),
    _per_scenario("dss_scenario_consecutive_failures", "FAILED and UNKNOWN runs since the last SUCCESS or WARNING.",
                  lambda row: row.history.failures if row.history.last else None),
    _per_scenario("dss_scenario_active", "Whether the scenario's automatic triggers are switched on.",
                  lambda row: _flag(row.facts.active)),
    _per_scenario("dss_scenario_reporter_failures", "Reporters of DSS itself that could not send.",
                  _once_polled(lambda row: row.facts.reporter_failures), "counter"),
    Family("dss_scenario_run_duration_seconds", "histogram", "Durations of the counted runs of a project.",
           ("dss_node", "project", "outcome"), _durations),
    Family("dss_project_runs", "counter", "Runs of the project's scenarios that ended while they were watched.",
           ("dss_node", "project", "outcome"), _project_runs),
    _per_node("dss_node_up", "Whether the DSS node answers.", lambda row: _flag(row.up)),
    Family("dss_node_info", "gauge", "1, with the node's version and type, and its labels of the configuration.",
           ("dss_node", "version", "node_type"),
           lambda snapshot, _: [f"dss_node_info{{{row.info}}} 1\n" for row in snapshot.nodes if row.info]),
    _per_node("dss_node_scenarios", "Scenarios that are watched on the node.", lambda row: row.scenarios),
    Family("tocsin_events", "counter", "Events that were processed, late ones too.", ("event",),
           lambda snapshot, _: [f'tocsin_events_total{{event="{name}"}} {n}\n' for name, n in snapshot.events]),
    Family("tocsin_alerts", "gauge", "Firing alerts: suppressed (silenced, inhibited or muted), else acknowledged, else active.",
           ("alertname", "state"),
           lambda snapshot, _: [f"tocsin_alerts{{{labels}}} {n}\n" for labels, n in snapshot.alerts]),
    Family("tocsin_silences", "gauge", "Silences by state: pending, active, expired.", ("state",),
           lambda snapshot, _: [f'tocsin_silences{{state="{name}"}} {n}\n' for name, n in snapshot.silences.items()]),
    Family("tocsin_metrics_scenarios_dropped", "gauge",
           "Scenarios beyond metrics.max_scenarios, which have no series of their own.", (),
           lambda snapshot, _: [f"tocsin_metrics_scenarios_dropped {snapshot.dropped}\n"]),
)  # fmt: skip
