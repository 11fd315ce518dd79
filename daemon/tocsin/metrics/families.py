"""The scenario, project and node families: their names, their words, and how a snapshot becomes their lines.

Names and labels are a contract (docs/metrics.md). What is unknown or absent has no sample, never a 0.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import inf

from tocsin.metrics.snapshot import NodeSeries, ProjectSeries, ScenarioSeries, Snapshot
from tocsin.metrics.text import Format, exemplar, header, labels_text
from tocsin.store.series import Bucket
from tocsin.store.totals import FORMER

Lines = Callable[[Snapshot, Format], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family; a counter's name is without ``_total``."""

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


@lru_cache(maxsize=256)
def _outcome(outcome: str) -> str:
    return labels_text({"outcome": outcome})


def _seconds(epoch_ms: int | None) -> float | None:
    return None if epoch_ms is None else epoch_ms / 1000


def _scenario_gauge(
    name: str, documentation: str, value: Callable[[ScenarioSeries], float | None], kind: str = "gauge"
) -> Family:
    sample = f"{name}_total" if kind == "counter" else name

    def lines(snapshot: Snapshot, _format: Format) -> Iterable[str]:
        return [
            f"{sample}{{{one.labels}}} {known}\n" for one in snapshot.scenarios if (known := value(one)) is not None
        ]

    return Family(name, kind, documentation, _SCENARIO, lines)


def _runs_total(snapshot: Snapshot, format: Format) -> Iterator[str]:
    for one in snapshot.scenarios:
        for outcome, runs, _ in one.history.totals:
            end = _last_counted(one, outcome) if format is Format.OPENMETRICS else ""
            yield f"dss_scenario_runs_total{{{one.labels},{_outcome(outcome)}}} {runs}{end}\n"


def _last_counted(one: ScenarioSeries, outcome: str) -> str:
    last = one.history.last
    if last is None or not last.counted or last.outcome != outcome:
        return ""
    return exemplar(last.run_id, None, 1, last.end / 1000)


def _last_outcome(snapshot: Snapshot, _format: Format) -> Iterator[str]:
    for one in snapshot.scenarios:
        last = one.history.last
        if last is not None and last.outcome is not None:
            yield f"dss_scenario_last_outcome{{{one.labels},{_outcome(last.outcome)}}} 1\n"


def _durations(snapshot: Snapshot, format: Format) -> Iterator[str]:
    name = "dss_scenario_run_duration_seconds"
    for one in snapshot.projects:
        below, seconds = 0, 0.0
        for bound, bucket in _layout(one, snapshot.bounds):
            end = ""
            if bucket is not None:
                below += bucket.runs
                seconds += bucket.seconds
                end = _exemplar(bucket) if format is Format.OPENMETRICS else ""
            limit = "+Inf" if bound == inf else repr(bound)
            yield f'{name}_bucket{{{one.labels},le="{limit}"}} {below}{end}\n'
        yield f"{name}_count{{{one.labels}}} {below}\n{name}_sum{{{one.labels}}} {seconds}\n"


def _layout(one: ProjectSeries, bounds: tuple[float, ...]) -> list[tuple[float, Bucket | None]]:
    """The configured bounds and all that have rows; +Inf always, and last."""
    rows = {inf if row.bound_ms is None else row.bound_ms / 1000: row for row in one.buckets if row.bound_ms != FORMER}
    return [(float(bound), rows.get(bound)) for bound in sorted({*bounds, *rows, inf})]


def _exemplar(bucket: Bucket) -> str:
    if bucket.exemplar_run is None or bucket.exemplar_seconds is None or bucket.exemplar_at is None:
        return ""
    return exemplar(bucket.exemplar_run, bucket.exemplar_scenario, bucket.exemplar_seconds, bucket.exemplar_at / 1000)


def _project_runs(snapshot: Snapshot, format: Format) -> Iterator[str]:
    for one in snapshot.projects:
        newest = max(one.buckets, key=lambda bucket: bucket.exemplar_at or 0)
        end = _exemplar(newest._replace(exemplar_seconds=1)) if format is Format.OPENMETRICS else ""
        total = sum(bucket.runs for bucket in one.buckets)
        yield f"dss_project_runs_total{{{one.labels}}} {total}{end}\n"


def _node_gauge(name: str, documentation: str, value: Callable[[NodeSeries], int | None]) -> Family:
    def lines(snapshot: Snapshot, _format: Format) -> Iterable[str]:
        return [f"{name}{{{one.labels}}} {known}\n" for one in snapshot.nodes if (known := value(one)) is not None]

    return Family(name, "gauge", documentation, ("dss_node",), lines)


def _alerts(snapshot: Snapshot, _format: Format) -> Iterable[str]:
    return [f"tocsin_alerts{{{one.labels}}} {one.alerts}\n" for one in snapshot.alerts]


def _events(snapshot: Snapshot, _format: Format) -> Iterable[str]:
    return [f'tocsin_events_total{{event="{name}"}} {count}\n' for name, count in snapshot.events]


def _dropped(snapshot: Snapshot, _format: Format) -> Iterable[str]:
    return [f"tocsin_metrics_scenarios_dropped {snapshot.dropped}\n"]


def _number(flag: bool | None) -> int | None:
    return None if flag is None else int(flag)


def _running(one: ScenarioSeries) -> int | None:
    return None if one.facts.polled_at is None else int(one.running_since is not None)


def _reporter_failures(one: ScenarioSeries) -> int | None:
    return None if one.facts.polled_at is None else one.facts.reporter_failures


def _last_duration(one: ScenarioSeries) -> float | None:
    last = one.history.last
    return None if last is None else (last.end - last.start) / 1000


def _seconds_total(one: ScenarioSeries) -> float | None:
    totals = one.history.totals
    return sum(seconds for _, _, seconds in totals) if totals else None


FAMILIES: tuple[Family, ...] = (
    Family("dss_scenario_runs", "counter", "Runs of the scenario that ended while it was watched, by outcome.",
           (*_SCENARIO, "outcome"), _runs_total),
    _scenario_gauge("dss_scenario_run_seconds", "Seconds that the counted runs of the scenario took in all.",
                    _seconds_total, "counter"),
    _scenario_gauge("dss_scenario_last_run_duration_seconds", "How long the last ended run took.", _last_duration),
    _scenario_gauge("dss_scenario_last_run_start_timestamp_seconds", "When the last ended run began.",
                    lambda one: _seconds(one.history.last.start) if one.history.last else None),
    _scenario_gauge("dss_scenario_last_run_end_timestamp_seconds", "When the last ended run ended.",
                    lambda one: _seconds(one.history.last.end) if one.history.last else None),
    _scenario_gauge("dss_scenario_last_success_timestamp_seconds",
                    "When a run last ended with SUCCESS or WARNING.", lambda one: _seconds(one.history.last_good)),
    Family("dss_scenario_last_outcome", "gauge", "1 for the outcome of the last ended run; other outcomes are absent.",
           (*_SCENARIO, "outcome"), _last_outcome),
    _scenario_gauge("dss_scenario_running", "Whether a run of the scenario goes on.", _running),
    _scenario_gauge("dss_scenario_running_start_timestamp_seconds", "When the run that goes on began.",
                    lambda one: _seconds(one.running_since)),
    _scenario_gauge("dss_scenario_next_run_timestamp_seconds", "When DSS will next start the scenario by itself.",
                    lambda one: _seconds(one.facts.next_run)),
    _scenario_gauge("dss_scenario_consecutive_failures", "FAILED and UNKNOWN runs since the last SUCCESS or WARNING.",
                    lambda one: one.history.failures if one.history.last else None),
    _scenario_gauge("dss_scenario_active", "Whether the scenario's automatic triggers are switched on.",
                    lambda one: _number(one.facts.active)),
    _scenario_gauge("dss_scenario_reporter_failures", "Reporters of DSS itself that could not send.",
                    _reporter_failures, "counter"),
    Family("dss_scenario_run_duration_seconds", "histogram", "Durations of the counted runs of a project.",
           ("dss_node", "project", "outcome"), _durations),
    Family("dss_project_runs", "counter", "Runs of the project's scenarios that ended while they were watched.",
           ("dss_node", "project", "outcome"), _project_runs),
    _node_gauge("dss_node_up", "Whether the DSS node answers.", lambda one: _number(one.up)),
    _node_gauge("dss_node_scenarios", "Scenarios that are watched on the node.", lambda one: one.scenarios),
    Family("tocsin_events", "counter", "Events that were decided, late ones too.", ("event",), _events),
    Family("tocsin_alerts", "gauge", "Alerts that ring now; silenced are those that an active silence mutes.",
           ("alertname", "state"), _alerts),
    Family("tocsin_metrics_scenarios_dropped", "gauge",
           "Scenarios beyond metrics.max_scenarios, which have no series of their own.", (), _dropped),
)  # fmt: skip
