"""The scenario series at one moment: read from rows on a reader thread, immutable afterwards.

Histories are read again only for scenarios that were polled since the last reading, which is known by
``polled_at``; every hour everything is read anew, so that rows changed by other programs are seen too.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tocsin.config.model import Config
from tocsin.decide.explain import alert_states
from tocsin.metrics.text import labels_text
from tocsin.model.event import EventName, labels_of_tags
from tocsin.model.run import ScenarioKey
from tocsin.store import Connection, alerts, series
from tocsin.store.events import event_totals
from tocsin.store.runs import usual_durations
from tocsin.store.series import Bucket, NodeFacts, ProjectOutcome, RunHistory, ScenarioSample

REREAD_EVERY = timedelta(hours=1)
ALERT_STATES = ("active", "suppressed", "acknowledged")
_NOTHING = RunHistory()


@dataclass(frozen=True, slots=True)
class ScenarioSeries:
    """One scenario; ``labels`` is escaped."""

    labels: str
    info: str  # further labels, of ``dss_scenario_info``
    facts: ScenarioSample
    history: RunHistory
    running_since: int | None  # epoch milliseconds
    usual: timedelta | None


@dataclass(frozen=True, slots=True)
class ProjectSeries:
    """The durations of one project's runs with one outcome."""

    labels: str
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class NodeSeries:
    labels: str
    info: str  # all labels of ``dss_node_info``; empty until the node answered
    up: bool | None
    scenarios: int | None  # None until its scenarios were listed


@dataclass(frozen=True, slots=True)
class Snapshot:
    taken_at: datetime
    scenarios: tuple[ScenarioSeries, ...] = ()
    projects: tuple[ProjectSeries, ...] = ()
    nodes: tuple[NodeSeries, ...] = ()
    alerts: tuple[tuple[str, int], ...] = ()  # labels and number of firing alerts
    silences: Mapping[str, int] = field(default_factory=dict)  # by state
    events: tuple[tuple[str, int], ...] = ()  # name and number of each kind of event
    bounds: tuple[float, ...] = ()  # seconds, of the duration histogram
    dropped: int = 0  # scenarios beyond the budget, without series of their own


@dataclass(slots=True)
class SnapshotReader:
    """Reads snapshots and caches what need not be read or built again. Used by one thread at a time."""

    _facts: dict[ScenarioKey, ScenarioSample] = field(default_factory=dict)
    _histories: dict[ScenarioKey, RunHistory] = field(default_factory=dict)
    _buckets: dict[ProjectOutcome, tuple[Bucket, ...]] = field(default_factory=dict)
    _series: dict[ScenarioKey, ScenarioSeries] = field(default_factory=dict)
    _usual: dict[ScenarioKey, timedelta] = field(default_factory=dict)
    _tag_labels: tuple[str, ...] = ()
    _reread_at: datetime | None = None
    _layout: int | None = None
    rebuilt: int = 0  # series that the last reading had to build anew

    def read(self, connection: Connection, now: datetime, config: Config) -> Snapshot:
        """The present state of the rows of the nodes that ``config`` names."""
        facts = series.scenario_samples(connection, self._facts)
        self._read_changes(connection, now, facts)
        watched = {node.name for node in config.nodes}
        present = [scenario for scenario in facts.values() if scenario.key.node in watched]
        running = series.running_since(connection)
        self.rebuilt = 0
        if self._tag_labels != config.tag_labels:
            self._tag_labels, self._series = config.tag_labels, {}
        self._series = {
            scenario.key: self._scenario(scenario, running.get(scenario.key))
            for scenario in present[: config.metrics.max_scenarios]
        }
        gone = series.gone_projects(connection)
        event_counts = event_totals(connection)
        return Snapshot(
            taken_at=now,
            scenarios=tuple(self._series.values()),
            projects=tuple(
                ProjectSeries(
                    labels_text({"dss_node": key.node, "project": key.project, "outcome": key.outcome}), buckets
                )
                for key, buckets in sorted(self._buckets.items())
                if key.node in watched and (key.node, key.project) not in gone
            ),
            nodes=_nodes(series.node_facts(connection), present, config),
            events=tuple((name.value, event_counts.get(name.value, 0)) for name in EventName),
            alerts=_alerts(connection, now, config),
            silences=alerts.count_silences(connection, now),
            bounds=config.metrics.duration_bounds,
            dropped=len(present) - len(self._series),
        )

    def _read_changes(self, connection: Connection, now: datetime, facts: dict[ScenarioKey, ScenarioSample]) -> None:
        before, self._facts = self._facts, facts
        former, self._layout = self._layout, series.bucket_layout(connection)
        if self._reread_at is None or now >= self._reread_at or former != self._layout:
            self._put_histories(connection, series.histories(connection, 0))
            self._buckets = series.project_buckets(connection)
            self._reread_at = now + REREAD_EVERY
            return
        polled_at = {
            key: scenario.polled_at
            for key, scenario in facts.items()
            if scenario.polled_at is not None and (key not in before or before[key].polled_at != scenario.polled_at)
        }
        if polled_at:
            changed = series.histories(connection, min(polled_at.values()))
            self._put_histories(connection, self._histories | changed)
            touched = sorted({(key.node, key.project) for key in polled_at})
            self._buckets.update(series.project_buckets(connection, touched))
        for key in self._histories.keys() - facts.keys():
            del self._histories[key]
            self._usual.pop(key, None)

    def _put_histories(self, connection: Connection, histories: dict[ScenarioKey, RunHistory]) -> None:
        """Take these, and the usual durations of those scenarios of which another run is the last."""
        before, self._histories = self._histories, histories
        other = [key for key, history in histories.items() if before.get(key, _NOTHING).last != history.last]
        for key in other:
            self._usual.pop(key, None)
        self._usual |= usual_durations(connection, other)

    def _scenario(self, facts: ScenarioSample, running_since: int | None) -> ScenarioSeries:
        key, history = facts.key, self._histories.get(facts.key, _NOTHING)
        usual, before = self._usual.get(key), self._series.get(key)
        if before is None:
            labels = labels_text({"dss_node": key.node, "project": key.project, "scenario": key.scenario})
        elif (
            before.facts is facts
            and before.history is history
            and (before.running_since, before.usual) == (running_since, usual)
        ):
            return before
        else:
            labels = before.labels
        self.rebuilt += 1
        info = before.info if before is not None and before.facts is facts else self._info(facts)
        return ScenarioSeries(labels, info, facts, history, running_since, usual)

    def _info(self, facts: ScenarioSample) -> str:
        of_tags = labels_of_tags(facts.read_tags(), self._tag_labels) if self._tag_labels else {}
        return labels_text({**of_tags, "scenario_name": facts.name, "type": facts.type or ""})


def _nodes(nodes: Iterable[NodeFacts], scenarios: Iterable[ScenarioSample], config: Config) -> tuple[NodeSeries, ...]:
    counts = Counter(facts.key.node for facts in scenarios)
    found = []
    for node in nodes:
        if (configured := config.node(node.node)) is not None:
            of_dss = {"dss_node": node.node, "version": node.version or "", "node_type": node.type or ""}
            info = labels_text({**configured.labels, **of_dss}) if node.version or node.type else ""
            count = counts[node.node] if node.discovered else None
            found.append(NodeSeries(labels_text({"dss_node": node.node}), info, node.up, count))
    return tuple(found)


def _alerts(connection: Connection, now: datetime, config: Config) -> tuple[tuple[str, int], ...]:
    counts = Counter({(rule.alert, state): 0 for rule in config.rules for state in ALERT_STATES})
    counts.update((alert.labels.get("alertname", ""), state) for alert, state in alert_states(connection, config, now))
    return tuple(
        (labels_text({"alertname": name, "state": state}), count) for (name, state), count in sorted(counts.items())
    )
