"""Writes the Grafana dashboards into the chart: ``python deploy/grafana/dashboards.py``.

A dashboard's JSON is long and says everything again in each panel; here a panel is one line of what differs. The files
it writes are committed, so that they can also be imported by hand; a test holds them against this program.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "helm" / "tocsin" / "files" / "dashboards"

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
OUTCOME_COLORS = {"SUCCESS": "green", "WARNING": "yellow", "FAILED": "red", "UNKNOWN": "red", "ABORTED": "purple"}

# Only the leader has scenario series; `max by` joins two leaders' series where Prometheus keeps both for a moment.
SCENARIO = "dss_node, project, scenario"

# Of panels that say nothing of themselves where they are made, by title.
DESCRIPTIONS = {
    "Nodes down": "DSS nodes that do not answer, or do not let Tocsin in.",
    "Alerts firing": "Alerts of Tocsin that fire and are not suppressed.",
    "Scenarios failing": "Scenarios whose last counted run failed.",
    "Runs in progress": "Runs that go on now, in the chosen nodes and projects.",
    "Scenarios watched": "Scenarios in scope on the chosen nodes.",
    "Success over the span": "Share of SUCCESS and WARNING among all runs but ABORTED, over the time range.",
    "Running": "Runs that go on, by how long they have.",
    "Runs ended": "Ended runs in each interval, by outcome.",
    "Failures by project": "FAILED and lost runs in each interval, the ten worst projects.",
    "Duration of runs": "Percentiles of the durations, from the histogram; its exemplars lead to single runs.",
    "Slowest last runs": "The longest last runs.",
    "Reporters that failed in DSS": "DSS's own reporters that could not send, over the time range.",
    "Runs of the busiest projects": "Ended runs over the time range, the ten busiest projects.",
    "Nodes": "When each node answered.",
    "Last outcome": "How the last ended run ended.",
    "Failures in a row": "FAILED and lost runs since the last good one.",
    "Last success, ago": "Time since a run last ended with SUCCESS or WARNING.",
    "Last end, ago": "Time since a run last ended.",
    "Next start, in": "Time until DSS starts it by itself; absent without a schedule.",
    "Active": "Whether its automatic triggers are switched on in DSS.",
    "Last duration": "How long the last ended run took.",
    "Mean duration": "Of all counted runs.",
    "Running for": "How long the run in progress has taken.",
    "Name": "The scenario's name in DSS.",
    "Runs over the span": "Ended runs over the time range.",
    "Reporters failed in DSS": "DSS's own reporters of this scenario that could not send, over the time range.",
    "Outcome of the last run": "The outcome of the last ended run, over time.",
    "Duration of the last run": "Each step is a run that ended; beside it the usual duration.",
    "Durations in the whole project": "Percentiles over all scenarios of the project, from the histogram.",
    "Replicas": "Processes of Tocsin that Prometheus scrapes.",
    "Leaders": "There is one: none watches nothing, two are a mistake.",
    "Configuration": "Whether the last reload was taken.",
    "Since the last reload": "Time since a configuration was taken.",
    "Dead letters": "Notifications that were given up; tocsin deliveries list shows them.",
    "Oldest pending notification": "How long the notification that waits longest has waited.",
    "From a run's start or end until it is seen": "Percentiles of the detection delay.",
    "Requests to DSS": "By operation, with the limit that holds now.",
    "Answers of DSS other than 2xx": "Errors, timeouts and throttling, by code.",
    "Mean time of a request": "How long DSS takes to answer.",
    "Polls by reason": "Why scenarios were polled.",
    "Sweep": "Whether one request is trusted to show all that runs.",
    "Events": "Events by name.",
    "Alerts": "Firing alerts by name and state.",
    "Notifications": "Notifications by what became of them.",
    "Not sent, by reason": "Notifications that were decided against: silenced, inhibited, muted, unchanged.",
    "Decisions": "Decisions of rules, reporters, routes and groups.",
    "Outbox": "Notifications that wait, and those that were given up.",
    "Dead letters by reason": "Refused, too old, channel gone, unreadable.",
    "Lag of the event loop": "The longest delay of the loop; above a second something blocks it.",
    "Scenarios without series": "Scenarios beyond metrics.max_scenarios.",
    "What made no sense": "Items of DSS's replies and rules that could not be evaluated.",
    "Set aside and dropped": "Rows that this version cannot read, and log lines that nobody took.",
    "Store": "Whether the last transaction could use the database.",
}


@dataclass(frozen=True)
class Query:
    expr: str
    legend: str = ""
    table: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel. ``width`` and ``height`` are in Grafana's grid of 24 columns."""

    title: str
    kind: str
    queries: tuple[Query, ...]
    width: int
    height: int = 8
    unit: str = "short"
    description: str = ""
    stacked: bool = False
    bars: bool = False
    outcomes: bool = False
    steps: tuple[tuple[str, float | None], ...] = ()
    mappings: tuple[tuple[str, str, str], ...] = ()
    text: str = "value"
    link: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    every: str = ""  # the shortest interval between two points, for bars that count

    def json(self, number: int, x: int, y: int) -> dict[str, object]:
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description or DESCRIPTIONS[self.title],
            "datasource": DATASOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "targets": list(self._targets()),
            "fieldConfig": {"defaults": self._defaults(), "overrides": list(self._overrides())},
            "options": self._options(),
            "transformations": self._transformations(),
        }

    def _targets(self) -> Iterator[dict[str, object]]:
        for letter, query in zip("ABCDEFGH", self.queries, strict=False):
            instant = query.table or self.kind in ("stat", "table", "bargauge")
            yield {
                "refId": letter,
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "instant": instant,
                "range": not instant,
                "format": "table" if self.kind == "table" else "time_series",
                **({"interval": self.every} if self.every else {}),
                **({"exemplar": True} if "histogram_quantile" in query.expr else {}),
            }

    def _defaults(self) -> dict[str, object]:
        defaults: dict[str, object] = {"unit": self.unit, "min": 0, "color": {"mode": "palette-classic"}}
        if self.steps:
            defaults["thresholds"] = {
                "mode": "absolute",
                "steps": [{"color": color, "value": value} for color, value in self.steps],
            }
            defaults["color"] = {"mode": "thresholds"}
        if self.mappings:
            defaults["mappings"] = [
                {
                    "type": "value",
                    "options": {
                        value: {"text": text, "color": color, "index": index}
                        for index, (value, text, color) in enumerate(self.mappings)
                    },
                }
            ]
        if self.kind == "timeseries":
            defaults["custom"] = {
                "drawStyle": "bars" if self.bars else "line",
                "fillOpacity": 60 if self.bars else 10,
                "lineWidth": 1,
                "showPoints": "auto",
                "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
            }
        if self.kind == "state-timeline":
            defaults["custom"] = {"fillOpacity": 80, "lineWidth": 0}
        if self.link:
            place = "${__data.fields.dss_node}/${__data.fields.project}/${__data.fields.scenario}"
            defaults["links"] = [
                {"title": "Scenario", "url": self.link},
                {"title": "In Tocsin", "url": f"${{tocsin_url}}/scenarios/{place}", "targetBlank": True},
            ]
        return defaults

    def _overrides(self) -> Iterator[dict[str, object]]:
        if self.outcomes:
            for outcome, color in OUTCOME_COLORS.items():
                yield {
                    "matcher": {"id": "byName", "options": outcome},
                    "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
                }
        if self.kind == "table":
            for name in self.columns:
                yield {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": "string"}]}

    def _options(self) -> dict[str, object]:
        match self.kind:
            case "stat":
                return {
                    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                    "colorMode": "background" if self.steps or self.mappings or self.outcomes else "value",
                    "graphMode": "none",
                    "textMode": self.text,
                }
            case "table":
                return {"showHeader": True, "sortBy": [{"displayName": "Value", "desc": True}]}
            case "bargauge":
                return {
                    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                    "orientation": "horizontal",
                    "displayMode": "basic",
                }
            case "state-timeline":
                return {"mergeValues": True, "showValue": "never", "legend": {"showLegend": False}}
            case _:
                return {
                    "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                    "tooltip": {"mode": "multi", "sort": "desc"},
                }

    def _transformations(self) -> list[dict[str, object]]:
        if self.kind != "table":
            return []
        order = {name: index for index, name in enumerate((*self.columns, "Value"))}
        return [
            {"id": "organize", "options": {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": {}}}
        ]


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    name: str
    query: str
    several: bool

    def json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "label": self.name.removeprefix("dss_"),
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": self.query, "refId": self.name},
            "definition": self.query,
            "refresh": 2,
            "sort": 1,
            "multi": self.several,
            "includeAll": self.several,
            "allValue": ".*" if self.several else None,
            "current": {"text": "All", "value": "$__all"} if self.several else {},
        }


def _annotations() -> Iterator[dict[str, object]]:
    """What explains a change of a graph: nodes that went away, and other configurations."""
    for name, color, expr, text in (
        ("Nodes down", "red", "max by (dss_node) (dss_node_up) == 0", "{{dss_node}} does not answer"),
        (
            "Reloads",
            "blue",
            "max(changes(tocsin_config_last_reload_success_timestamp_seconds[$__rate_interval])) > 0",
            "another configuration",
        ),
    ):
        yield {
            "name": name,
            "datasource": DATASOURCE,
            "enable": True,
            "iconColor": color,
            "expr": expr,
            "step": "1m",
            "titleFormat": name,
            "textFormat": text,
        }


def dashboard(
    uid: str, title: str, description: str, variables: Iterable[Variable], rows: Iterable[Row], span: str
) -> dict[str, object]:
    """The whole document; panels are numbered and laid out in the order they are given."""
    panels: list[dict[str, object]] = []
    y = 0
    for row in rows:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
                "panels": [],
            }
        )
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > 24:
                x, y, height = 0, y + height, 0
            panels.append(panel.json(len(panels) + 1, x, y))
            x, height = x + panel.width, max(height, panel.height)
        y += height
    # Where people reach Tocsin: dashboards cannot know it.
    address = {"name": "tocsin_url", "label": "Tocsin", "type": "textbox", "query": "http://localhost:8080"}
    texts = [address] if any(panel.link for row in rows for panel in row.panels) else []
    source = {"name": "datasource", "label": "data source", "type": "datasource", "query": "prometheus"}
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["tocsin", "dataiku"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": f"now-{span}", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "title": "Tocsin",
                "type": "dashboards",
                "tags": ["tocsin"],
                "asDropdown": True,
                "keepTime": True,
                "includeVars": True,
            }
        ],
        "templating": {"list": [source, *(variable.json() for variable in variables), *texts]},
        "annotations": {"list": list(_annotations())},
        "panels": panels,
    }


def stat(title: str, expr: str, width: int = 4, **how: object) -> Panel:
    legend = str(how.pop("legend", ""))
    return Panel(title, "stat", (Query(expr, legend),), width, 4, **how)  # type: ignore[arg-type]


def graph(title: str, *queries: tuple[str, str], width: int = 12, **how: object) -> Panel:
    return Panel(title, "timeseries", tuple(Query(*query) for query in queries), width, **how)  # type: ignore[arg-type]


# The names and owners of scenarios; ``owner`` is empty unless it is one of Tocsin's tag_labels.
INFO = f"max by ({SCENARIO}, scenario_name, owner) (dss_scenario_info)"


def table(title: str, expr: str, width: int = 12, **how: object) -> Panel:
    """A row for each scenario of ``expr``, with its name and owner."""
    named = f"({expr}) * on ({SCENARIO}) group_left (scenario_name, owner) {INFO}"
    columns = {name: name for name in (*SCENARIO.split(", "), "scenario_name", "owner")}
    return Panel(title, "table", (Query(named, table=True),), width, columns=columns, **how)  # type: ignore[arg-type]


NODE = Variable("dss_node", "label_values(dss_node_up, dss_node)", several=True)
PROJECT = Variable("project", 'label_values(dss_scenario_active{dss_node=~"$dss_node"}, project)', several=True)
BAD_IF_ANY = (("green", None), ("red", 1))
IN_SCOPE = '{dss_node=~"$dss_node", project=~"$project"}'
TO_SCENARIO = (
    "/d/tocsin-scenario?var-datasource=${datasource}&var-dss_node=${__data.fields.dss_node}"
    "&var-project=${__data.fields.project}&var-scenario=${__data.fields.scenario}"
)


def scoped(metric: str, more: str = "") -> str:
    """The newest value of a scenario series in scope, whoever leads."""
    selector = IN_SCOPE[:-1] + (f", {more}" if more else "") + "}"
    return f"max by ({SCENARIO}) ({metric}{selector})"


def fleet() -> dict[str, object]:
    runs = f"dss_project_runs_total{IN_SCOPE}"
    failing = f"{scoped('dss_scenario_consecutive_failures')} > 0"
    rows = (
        Row(
            "Now",
            (
                stat(
                    "Nodes down",
                    'count(max by (dss_node) (dss_node_up{dss_node=~"$dss_node"}) == 0) or vector(0)',
                    steps=BAD_IF_ANY,
                ),
                stat(
                    "Alerts firing",
                    'sum(max by (alertname) (tocsin_alerts{state!="suppressed"})) or vector(0)',
                    steps=BAD_IF_ANY,
                ),
                stat("Scenarios failing", f"count({failing}) or vector(0)", steps=BAD_IF_ANY),
                stat("Runs in progress", f"sum({scoped('dss_scenario_running')}) or vector(0)"),
                stat("Scenarios watched", 'sum(max by (dss_node) (dss_node_scenarios{dss_node=~"$dss_node"}))'),
                stat(
                    "Success over the span",
                    f'sum(increase(dss_project_runs_total{IN_SCOPE[:-1]}, outcome=~"SUCCESS|WARNING"}}[$__range]))'
                    f' / sum(increase(dss_project_runs_total{IN_SCOPE[:-1]}, outcome!="ABORTED"}}[$__range]))',
                    unit="percentunit",
                    steps=(("red", None), ("yellow", 0.95), ("green", 0.99)),
                ),
                table("Failing scenarios", failing, description="Failures in a row.", link=TO_SCENARIO),
                table(
                    "Overdue",
                    f"time() - {scoped('dss_scenario_next_run_timestamp_seconds')} > 120"
                    f" and {scoped('dss_scenario_active')} == 1",
                    unit="s",
                    description="Time since the planned start, of active scenarios that have not started.",
                    link=TO_SCENARIO,
                ),
                table(
                    "Running",
                    f"time() - {scoped('dss_scenario_running_start_timestamp_seconds')}",
                    unit="s",
                    link=TO_SCENARIO,
                ),
                table(
                    "Longest without success",
                    f"topk(20, time() - {scoped('dss_scenario_last_success_timestamp_seconds')}"
                    f" and {scoped('dss_scenario_active')} == 1)",
                    unit="s",
                    description="Active scenarios only.",
                    link=TO_SCENARIO,
                ),
            ),
        ),
        Row(
            "Runs",
            (
                graph(
                    "Runs ended",
                    (f"round(sum by (outcome) (increase({runs}[$__interval])))", "{{outcome}}"),
                    bars=True,
                    stacked=True,
                    outcomes=True,
                    every="5m",
                ),
                graph(
                    "Failures by project",
                    (
                        "topk(10, round(sum by (dss_node, project) (increase("
                        f'dss_project_runs_total{IN_SCOPE[:-1]}, outcome=~"FAILED|UNKNOWN"}}[$__interval]))) > 0)',
                        "{{dss_node}} {{project}}",
                    ),
                    bars=True,
                    stacked=True,
                    every="5m",
                ),
                graph(
                    "Duration of runs",
                    *(
                        (
                            f"histogram_quantile({q}, sum by (le) (rate("
                            f"dss_scenario_run_duration_seconds_bucket{IN_SCOPE}[$__rate_interval])))",
                            f"p{q * 100:.0f}",
                        )
                        for q in (0.5, 0.9, 0.99)
                    ),
                    unit="s",
                ),
                graph(
                    "Runs in progress",
                    (f"sum by (dss_node) ({scoped('dss_scenario_running')})", "{{dss_node}}"),
                    stacked=True,
                ),
                table(
                    "Slowest last runs",
                    f"topk(20, {scoped('dss_scenario_last_run_duration_seconds')})",
                    unit="s",
                    link=TO_SCENARIO,
                ),
                table(
                    "Next starts",
                    f"bottomk(20, {scoped('dss_scenario_next_run_timestamp_seconds')} - time() > 0)",
                    unit="s",
                    description="Time until the planned start.",
                    link=TO_SCENARIO,
                ),
                table(
                    "Reporters that failed in DSS",
                    f"sum by ({SCENARIO}) (increase(dss_scenario_reporter_failures_total{IN_SCOPE}[$__range])) > 0",
                    link=TO_SCENARIO,
                ),
                Panel(
                    "Runs of the busiest projects",
                    "bargauge",
                    (
                        Query(
                            f"topk(10, sum by (dss_node, project) (increase({runs}[$__range])))",
                            "{{dss_node}} {{project}}",
                        ),
                    ),
                    12,
                ),
            ),
        ),
        Row(
            "Nodes",
            (
                Panel(
                    "Nodes",
                    "state-timeline",
                    (Query('max by (dss_node) (dss_node_up{dss_node=~"$dss_node"})', "{{dss_node}}"),),
                    12,
                    6,
                    mappings=(("0", "down", "red"), ("1", "up", "green")),
                ),
                Panel(
                    "Versions",
                    "table",
                    (
                        Query(
                            'max by (dss_node, version, node_type) (dss_node_info{dss_node=~"$dss_node"})', table=True
                        ),
                    ),
                    12,
                    6,
                    description="Each node with its type and the version of DSS that answered last.",
                    columns={name: name for name in ("dss_node", "version", "node_type")},
                ),
            ),
        ),
        Row(
            "Alerts and notifications",
            (
                Panel(
                    "Firing alerts",
                    "table",
                    (Query("max by (alertname, state) (tocsin_alerts) > 0", table=True),),
                    12,
                    description="Alerts that fire now, by name: active, suppressed (silenced, inhibited, muted) or acknowledged.",
                    columns={name: name for name in ("alertname", "state")},
                ),
                graph(
                    "Notifications",
                    (
                        "round(sum by (receiver, outcome) (increase(tocsin_notifications_total[$__interval])))",
                        "{{receiver}} {{outcome}}",
                    ),
                    bars=True,
                    stacked=True,
                    every="5m",
                    description="Notifications of all receivers in each interval, by what became of them.",
                ),
                stat(
                    "Dead letters",
                    "sum(max by (reason) (tocsin_dead_letters)) or vector(0)",
                    steps=BAD_IF_ANY,
                    description="Notifications that were given up; tocsin deliveries list shows them.",
                ),
                stat(
                    "Oldest pending notification",
                    "max(tocsin_outbox_oldest_age_seconds) or vector(0)",
                    unit="s",
                    steps=(("green", None), ("yellow", 120), ("red", 900)),
                    description="How long the notification that waits longest has waited.",
                ),
            ),
        ),
    )
    return dashboard(
        "tocsin-fleet",
        "Dataiku scenarios: fleet",
        "Every scenario of every DSS node at once: what fails, what is late, what runs.",
        (NODE, PROJECT),
        rows,
        "24h",
    )


def scenario() -> dict[str, object]:
    only = '{dss_node="$dss_node", project="$project", scenario="$scenario"}'

    def one(metric: str) -> str:
        return f"max({metric}{only})"

    mean = f"{one('dss_scenario_run_seconds_total')} / sum(max by (outcome) (dss_scenario_runs_total{only}))"
    usual = one("dss_scenario_usual_duration_seconds")
    variables = (
        Variable("dss_node", "label_values(dss_node_up, dss_node)", several=False),
        Variable("project", 'label_values(dss_scenario_active{dss_node="$dss_node"}, project)', False),
        Variable(
            "scenario", 'label_values(dss_scenario_active{dss_node="$dss_node", project="$project"}, scenario)', False
        ),
    )
    rows = (
        Row(
            "Now",
            (
                stat(
                    "Last outcome",
                    f"max by (outcome) (dss_scenario_last_outcome{only}) == 1",
                    legend="{{outcome}}",
                    text="name",
                    outcomes=True,
                ),
                stat("Failures in a row", one("dss_scenario_consecutive_failures"), steps=BAD_IF_ANY),
                stat("Last success, ago", f"time() - {one('dss_scenario_last_success_timestamp_seconds')}", unit="s"),
                stat("Last end, ago", f"time() - {one('dss_scenario_last_run_end_timestamp_seconds')}", unit="s"),
                stat("Next start, in", f"{one('dss_scenario_next_run_timestamp_seconds')} - time()", unit="s"),
                stat("Active", one("dss_scenario_active"), mappings=(("0", "off", "orange"), ("1", "on", "green"))),
                stat("Last duration", one("dss_scenario_last_run_duration_seconds"), unit="s"),
                stat("Mean duration", mean, unit="s"),
                stat("Usual duration", usual, unit="s", description="The median of the last 20 good runs."),
                stat(
                    "Name", f"max by (scenario_name) (dss_scenario_info{only})", legend="{{scenario_name}}", text="name"
                ),
                stat("Running for", f"time() - {one('dss_scenario_running_start_timestamp_seconds')}", unit="s"),
                stat("Runs over the span", f"sum(increase(dss_scenario_runs_total{only}[$__range]))"),
                stat(
                    "Success over the span",
                    f'sum(increase(dss_scenario_runs_total{only[:-1]}, outcome=~"SUCCESS|WARNING"}}[$__range]))'
                    f' / sum(increase(dss_scenario_runs_total{only[:-1]}, outcome!="ABORTED"}}[$__range]))',
                    unit="percentunit",
                    steps=(("red", None), ("yellow", 0.95), ("green", 0.99)),
                ),
                stat(
                    "Reporters failed in DSS",
                    f"sum(increase(dss_scenario_reporter_failures_total{only}[$__range])) or vector(0)",
                    steps=BAD_IF_ANY,
                ),
            ),
        ),
        Row(
            "Over time",
            (
                Panel(
                    "Outcome of the last run",
                    "state-timeline",
                    (Query(f"max by (outcome) (dss_scenario_last_outcome{only}) == 1", "{{outcome}}"),),
                    24,
                    5,
                    outcomes=True,
                ),
                graph(
                    "Duration of the last run",
                    (one("dss_scenario_last_run_duration_seconds"), "last run"),
                    (usual, "usual"),
                    unit="s",
                ),
                graph(
                    "Runs ended",
                    (f"round(sum by (outcome) (increase(dss_scenario_runs_total{only}[$__interval])))", "{{outcome}}"),
                    bars=True,
                    stacked=True,
                    outcomes=True,
                    every="5m",
                ),
                graph("Failures in a row", (one("dss_scenario_consecutive_failures"), "failures")),
                graph("Running", (one("dss_scenario_running"), "runs in progress")),
                graph(
                    "Durations in the whole project",
                    *(
                        (
                            f"histogram_quantile({q}, sum by (le) (rate(dss_scenario_run_duration_seconds_bucket"
                            '{dss_node="$dss_node", project="$project"}[$__rate_interval])))',
                            f"p{q * 100:.0f}",
                        )
                        for q in (0.5, 0.9)
                    ),
                    width=24,
                    unit="s",
                ),
            ),
        ),
    )
    return dashboard(
        "tocsin-scenario",
        "Dataiku scenarios: one scenario",
        "The runs of one scenario: outcome, duration, what comes next.",
        variables,
        rows,
        "7d",
    )


def tocsin() -> dict[str, object]:
    job = Variable("job", "label_values(tocsin_build_info, job)", several=True)
    own = '{job=~"$job"}'
    noded = '{job=~"$job", dss_node=~"$dss_node"}'
    node = Variable("dss_node", 'label_values(dss_node_up{job=~"$job"}, dss_node)', several=True)
    rows = (
        Row(
            "Health",
            (
                stat("Replicas", f"count(tocsin_build_info{own})"),
                stat("Leaders", f"sum(tocsin_leader{own})", steps=(("red", None), ("green", 1), ("red", 2))),
                stat(
                    "Configuration",
                    f"min(tocsin_config_last_reload_successful{own})",
                    mappings=(("0", "refused", "red"), ("1", "loaded", "green")),
                ),
                stat(
                    "Since the last reload",
                    f"time() - max(tocsin_config_last_reload_success_timestamp_seconds{own})",
                    unit="s",
                ),
                stat("Dead letters", f"sum(max by (reason) (tocsin_dead_letters{own}))", steps=BAD_IF_ANY),
                stat(
                    "Oldest pending notification",
                    f"max(tocsin_outbox_oldest_age_seconds{own}) or vector(0)",
                    unit="s",
                    steps=(("green", None), ("yellow", 120), ("red", 900)),
                ),
            ),
        ),
        Row(
            "Seeing",
            (
                graph(
                    "From a run's start or end until it is seen",
                    *(
                        (
                            f"histogram_quantile({q}, sum by (le) "
                            f"(rate(tocsin_detection_delay_seconds_bucket{own}[$__rate_interval])))",
                            f"p{q * 100:.0f}",
                        )
                        for q in (0.5, 0.9, 0.99)
                    ),
                    unit="s",
                ),
                graph(
                    "Worst case that holds now",
                    (f"max by (dss_node) (tocsin_oldest_poll_age_seconds{noded})", "{{dss_node}}"),
                    unit="s",
                    description="The longest time in which a run could go unseen.",
                ),
                graph(
                    "Requests to DSS",
                    (
                        f"sum by (dss_node, operation) (rate(tocsin_dss_requests_total{noded}[$__rate_interval]))",
                        "{{dss_node}} {{operation}}",
                    ),
                    (f"max by (dss_node) (tocsin_dss_requests_per_second_limit{noded})", "{{dss_node}} limit"),
                    unit="reqps",
                ),
                graph(
                    "Answers of DSS other than 2xx",
                    (
                        "sum by (dss_node, code) (rate(tocsin_dss_requests_total"
                        f'{noded[:-1]}, code!~"2.."}}[$__rate_interval])) > 0',
                        "{{dss_node}} {{code}}",
                    ),
                    unit="reqps",
                    bars=True,
                    stacked=True,
                ),
                graph(
                    "Mean time of a request",
                    (
                        "sum by (dss_node, operation) "
                        f"(rate(tocsin_dss_request_duration_seconds_sum{noded}[$__rate_interval]))"
                        " / sum by (dss_node, operation) "
                        f"(rate(tocsin_dss_request_duration_seconds_count{noded}[$__rate_interval]))",
                        "{{dss_node}} {{operation}}",
                    ),
                    unit="s",
                ),
                graph(
                    "Polls by reason",
                    (f"sum by (reason) (rate(tocsin_polls_total{noded}[$__rate_interval]))", "{{reason}}"),
                    unit="ops",
                    stacked=True,
                ),
                Panel(
                    "Sweep",
                    "state-timeline",
                    (Query(f"min by (dss_node) (tocsin_sweep_trusted{noded})", "{{dss_node}}"),),
                    24,
                    5,
                    mappings=(("0", "untrusted", "orange"), ("1", "trusted", "green")),
                ),
            ),
        ),
        Row(
            "Deciding and delivering",
            (
                graph(
                    "Events",
                    (f"sum by (event) (rate(tocsin_events_total{own}[$__rate_interval]))", "{{event}}"),
                    unit="ops",
                    stacked=True,
                ),
                graph(
                    "Alerts",
                    (f"max by (alertname, state) (tocsin_alerts{own})", "{{alertname}} {{state}}"),
                    (f"max by (state) (tocsin_silences{own})", "silences {{state}}"),
                    stacked=True,
                ),
                graph(
                    "Notifications",
                    (
                        f"sum by (channel, outcome) (increase(tocsin_notifications_total{own}[$__rate_interval]))",
                        "{{channel}} {{outcome}}",
                    ),
                    bars=True,
                    stacked=True,
                ),
                graph(
                    "Not sent, by reason",
                    (
                        f"sum by (reason) (increase(tocsin_notifications_suppressed_total{own}[$__rate_interval]))",
                        "{{reason}}",
                    ),
                    bars=True,
                    stacked=True,
                ),
                graph(
                    "Decisions",
                    (
                        f"sum by (stage, reason) (increase(tocsin_decisions_total{own}[$__rate_interval])) > 0",
                        "{{stage}} {{reason}}",
                    ),
                    bars=True,
                    stacked=True,
                ),
                graph(
                    "Outbox",
                    (f"sum(max by (channel) (tocsin_outbox_depth{own}))", "pending"),
                    (f"sum(max by (reason) (tocsin_dead_letters{own}))", "dead letters"),
                ),
                graph("Oldest pending notification", (f"max(tocsin_outbox_oldest_age_seconds{own})", "age"), unit="s"),
                graph("Dead letters by reason", (f"max by (reason) (tocsin_dead_letters{own})", "{{reason}}")),
            ),
        ),
        Row(
            "Process",
            (
                graph(
                    "Answers over HTTP",
                    (
                        f"sum by (route, code) (rate(tocsin_http_requests_total{own}[$__rate_interval]))",
                        "{{route}} {{code}}",
                    ),
                    unit="reqps",
                    description="What the API, the console and /metrics were asked for.",
                ),
                graph(
                    "Alertmanagers",
                    (f"min by (alertmanager) (tocsin_alertmanager_up{own})", "{{alertmanager}} up"),
                    (
                        f"sum by (alertmanager) (rate(tocsin_alertmanager_alerts_sent_total{own}[$__rate_interval]))",
                        "{{alertmanager}} sent",
                    ),
                    (
                        f"sum by (alertmanager) (rate(tocsin_alertmanager_errors_total{own}[$__rate_interval]))",
                        "{{alertmanager}} refused",
                    ),
                    description="The Alertmanagers under alerting.alertmanagers: whether they answer, and what they are sent.",
                ),
                graph(
                    "Lag of the event loop",
                    (f"max by (instance) (tocsin_event_loop_lag_seconds{own})", "{{instance}}"),
                    unit="s",
                ),
                graph(
                    "Scenarios without series",
                    (f"max(tocsin_metrics_scenarios_dropped{own})", "over metrics.max_scenarios"),
                ),
                graph(
                    "What made no sense",
                    (
                        f"sum(rate(tocsin_dss_invalid_items_total{own}[$__rate_interval])) or vector(0)",
                        "items of DSS's replies",
                    ),
                    (f"sum(rate(tocsin_rule_errors_total{own}[$__rate_interval])) or vector(0)", "rules that failed"),
                ),
                graph(
                    "Set aside and dropped",
                    (f"max(tocsin_store_unreadable_rows{own})", "rows that cannot be read"),
                    (
                        f"sum(increase(tocsin_log_lines_dropped_total{own}[$__rate_interval])) or vector(0)",
                        "log lines dropped",
                    ),
                ),
                stat("Store", f"min(tocsin_store_up{own})", mappings=(("0", "away", "red"), ("1", "usable", "green"))),
            ),
        ),
    )
    return dashboard(
        "tocsin-self",
        "Tocsin",
        "Tocsin's own health: does it see everything, and does every notification arrive?",
        (job, node),
        rows,
        "6h",
    )


def slo() -> dict[str, object]:
    """Reliability over weeks: Prometheus must keep as much."""

    def success(metric: str, by: str, span: str) -> str:
        selector = IN_SCOPE[:-1]
        good = f'sum by ({by}) (increase({metric}{selector}, outcome=~"SUCCESS|WARNING"}}[{span}]))'
        return f'{good} / (sum by ({by}) (increase({metric}{selector}, outcome!="ABORTED"}}[{span}])) > 0)'

    goals = (("red", None), ("yellow", 0.95), ("green", 0.99))
    spans = ("7d", "30d", "90d")
    projects = tuple(
        Panel(
            f"Success of projects, {span}",
            "table",
            (Query(success("dss_project_runs_total", "dss_node, project", span), table=True),),
            8,
            unit="percentunit",
            steps=goals,
            description=f"Share of SUCCESS and WARNING among all runs but ABORTED, over {span}.",
            columns={name: name for name in ("dss_node", "project")},
        )
        for span in spans
    )
    scenarios = tuple(
        table(
            f"Least successful scenarios, {span}",
            f"bottomk(20, {success('dss_scenario_runs_total', SCENARIO, span)})",
            8,
            unit="percentunit",
            steps=goals,
            link=TO_SCENARIO,
            description=f"The twenty with the lowest share of good runs over {span}.",
        )
        for span in spans
    )
    failing = f"({scoped('dss_scenario_consecutive_failures')} > bool 0)"
    recovery = tuple(
        table(
            f"Time to recovery, {span}",
            f"topk(20, sum_over_time({failing}[{span}:5m]) * 300 / clamp_min(changes({failing}[{span}:5m]) / 2, 1) > 0)",
            8,
            unit="s",
            link=TO_SCENARIO,
            description=f"Mean time from a failure to the next good run over {span}, to five minutes; the twenty longest.",
        )
        for span in spans[:2]
    )
    fresh = f"time() - {scoped('dss_scenario_last_success_timestamp_seconds')} < bool 93600"
    late = table(
        "Without a good run for 26 hours, 30d",
        f"bottomk(20, avg_over_time(({fresh})[30d:15m]))",
        8,
        unit="percentunit",
        steps=goals,
        link=TO_SCENARIO,
        description="For daily scenarios: share of the time in which the last good run was younger than 26 hours.",
    )
    rows = (Row("Success", (*projects, *scenarios)), Row("Recovery and freshness", (*recovery, late)))
    description = "Success rate, time to recovery and freshness over weeks; the scope keeps the queries small."
    return dashboard("tocsin-slo", "Dataiku scenarios: service levels", description, (NODE, PROJECT), rows, "30d")


DASHBOARDS: dict[str, Callable[[], dict[str, object]]] = {
    "fleet": fleet,
    "scenario": scenario,
    "slo": slo,
    "tocsin": tocsin,
}


def render(name: str) -> str:
    return json.dumps(DASHBOARDS[name](), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(render(name), encoding="utf-8")
