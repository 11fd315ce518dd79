"""The five cases of the pictures: a failed run, a group of 40 with two causes, a recovery, an overlong run, a node down."""

from datetime import UTC, datetime, timedelta

from tocsin.config.model import Config, HttpConfig, Node, StoreConfig
from tocsin.deliver.outgoing import Facts
from tocsin.model.alert import Alert, EndReason
from tocsin.model.event import Event, EventName, ScenarioFacts
from tocsin.model.notification import EventNotice, GroupNotice
from tocsin.model.run import Details, Outcome, Run, RunError, RunKey, ScenarioKey, Step

WHEN = datetime(2026, 3, 2, 5, 0, 12, tzinfo=UTC)
NODE = Node("prod", "https://dss.example.com", labels={"env": "prod"})
CONFIG = Config((NODE,), StoreConfig("sqlite:////unused"), timezone="Europe/Paris", tag_labels=("owner", "team"),
                http=HttpConfig(external_url="https://tocsin.example.com"))  # fmt: skip
DSS = "https://dss.example.com/projects"
LOG = """[2026/03/02-06:04:19.377] [FRT-41] [INFO] [dku.flow.activity]  - Executing activity compute_orders_joined_NP
[2026/03/02-06:04:20.113] [FRT-41] [INFO] [dku.sql.query]  - INSERT INTO "orders_joined" SELECT … FROM "orders" LEFT JOIN "customers"
[2026/03/02-06:04:24.918] [FRT-41] [ERROR] [dku.sql.query]  - SQL state 53100
org.postgresql.util.PSQLException: ERROR: could not extend file "base/16401/24576": No space left on device
  Hint: Check free disk space.
[2026/03/02-06:04:24.926] [FRT-41] [INFO] [dku.flow.activity]  - Activity finished: FAILED"""
DISK = 'could not extend file "base/16401/24576": No space left on device'
OWNED = {"owner": "Orders team, +33 1 23 45 67", "runbook_url": "https://wiki.example.com/dss/orders"}
PLACE = {"dss_node": "prod", "env": "prod", "project": "SALES"}
Case = tuple[EventNotice | GroupNotice, Facts]


def _minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def _run(scenario: str, at: datetime, lasts: float | None, outcome: str | None) -> Run:
    key = ScenarioKey("prod", "SALES", scenario)
    run_id = f"{at + timedelta(hours=1):%Y-%m-%d-%H-%M-%S}-481"
    end = None if lasts is None else at + _minutes(lasts)
    return Run(key, run_id, at, end, outcome, "temporal", "Every night at 6", None, "jane.doe")


def _url(run: RunKey) -> str:
    return f"{DSS}/SALES/scenarios/{run.scenario.scenario}/runs/list/{run.run_id}"


def _steps(last: str | None) -> tuple[Step, ...]:
    done = [("Refresh source tables", 48, Outcome.SUCCESS), ("Check row counts", 2, Outcome.WARNING)]
    steps = [Step(name, name, "sql", outcome, timedelta(seconds=seconds)) for name, seconds, outcome in done]
    lasted = None if last is None else _minutes(3.4)
    return (*steps, Step("b", "Build orders_joined", "build_flowitem", last, lasted))


def _alert(name: str, scenario: str, title: str, severity: str, summary: str, run: RunKey | None = None,
           why: str = "", **more: object) -> Alert:  # fmt: skip
    labels = {"alertname": name, "severity": severity, **PLACE, "scenario": scenario, "scenario_name": title,
              "team": "orders", "tags": ",daily,orders,"}  # fmt: skip
    notes = {"summary": summary, "description": why, "scenario_url": f"{DSS}/SALES/scenarios/{scenario}/", **OWNED}
    if run is not None:
        notes["run_url"] = _url(run)
    values = {"starts_at": WHEN, **more}
    return Alert(f"{scenario.lower():0<32}", scenario, labels, annotations=notes, run=run, **values)  # type: ignore[arg-type]


def failed_run() -> Case:
    run = _run("NIGHTLY", WHEN, 4.2, Outcome.FAILED)
    event = Event("e" * 32, EventName.RUN_FAILED, "prod", run.end or WHEN, WHEN, "SALES",
                  ScenarioFacts("NIGHTLY", "Nightly load of orders", ("daily", "owner:jane.doe", "team:orders"), "step_based"), run,
                  _url(run.key), "SUCCESS")  # fmt: skip
    details = Details(
        run.key, WHEN, RunError(DISK, title="Job failed", step="Build orders_joined"), _steps("FAILED"), LOG
    )
    return EventNotice(event, "nightly"), Facts({run.key: details}, {run.scenario: _minutes(11.7)})


def failed_alert() -> Case:
    """The same for services that keep incidents, which hear of alerts only."""
    _, facts = failed_run()
    run = next(iter(facts.details))
    own = _alert("ScenarioFailed", "NIGHTLY", "Nightly load of orders", "critical",
                 "prod: SALES / Nightly load of orders ended FAILED", run)  # fmt: skip
    return GroupNotice("{}", "ops", {"alertname": "ScenarioFailed", **PLACE}, (own,), "first"), facts


def two_causes() -> Case:
    alerts, details = [], {}
    for n in range(40):
        title = f"{('Load', 'Export', 'Report', 'Sync')[n % 4]} {('orders', 'stock', 'prices', 'returns')[n // 4 % 4]} {n // 16 + 1}"
        run = _run(f"S{n}", WHEN + _minutes(n / 10), 3, Outcome.FAILED).key
        alerts.append(_alert("ScenarioFailed", f"S{n}", title, "critical" if n % 4 == 0 else "warning",
                             f"prod: SALES / {title} ended FAILED", run=run, starts_at=run.start))  # fmt: skip
        said = DISK if n % 4 == 0 else "Connection to warehouse dwh-prod refused: 10.0.3.17:5432"
        details[run] = Details(run, WHEN, RunError(said, step="Build"))
    group = GroupNotice("{}", "ops", {"alertname": "ScenarioFailed", **PLACE}, tuple(alerts), "first")
    return group, Facts(details)


def recovery() -> Case:
    good = _run("NIGHTLY", WHEN + _minutes(95), 11.3, Outcome.SUCCESS)
    own = _alert("ScenarioFailed", "NIGHTLY", "Nightly load of orders", "critical", "", ends_at=good.end, count=3,
                 end_reason=EndReason.RESOLVED, run=_run("NIGHTLY", WHEN, 4, "FAILED").key)  # fmt: skip
    group = GroupNotice("{}", "ops", {"alertname": "ScenarioFailed", **PLACE}, (own,), "resolved")
    return group, Facts(mended={own.id: good})


def overlong() -> Case:
    run = _run("NIGHTLY", WHEN, None, None)
    about = "prod: SALES / Nightly load of orders has been running for more than 35m"
    why = f"Run {run.run_id} started 2026-03-02 05:00:12 UTC and still runs after 35m; usually it takes 11m 40s."
    own = _alert("ScenarioOverlong", "NIGHTLY", "Nightly load of orders", "warning", about, run.key, why,
                 starts_at=WHEN + _minutes(35))  # fmt: skip
    group = GroupNotice("{}", "ops", {"alertname": "ScenarioOverlong", **PLACE}, (own,), "first")
    return group, Facts({run.key: Details(run.key, WHEN, None, _steps(None))})


def node_down() -> Case:
    labels = {"alertname": "NodeDown", "severity": "critical", "dss_node": "prod", "env": "prod"}
    words = ("Down since 2026-03-02 05:00:12 UTC (unreachable: connect to dss.example.com:443: Connection refused). Its scenarios are not "
             "seen; what ran meanwhile is read back when it answers again.")  # fmt: skip
    annotations = {"summary": "DSS node prod cannot be watched: unreachable", "description": words,
                   "owner": "Platform team, +33 1 23 45 99", "runbook_url": "https://wiki.example.com/dss/down"}  # fmt: skip
    own = Alert("d" * 32, "d", labels, WHEN, annotations=annotations)
    return GroupNotice("{}", "ops", {"alertname": "NodeDown", "dss_node": "prod"}, (own,), "first"), Facts()


CASES = {
    "A failed run": failed_run, "A group of 40 with two causes": two_causes, "A recovery": recovery,
    "An overlong run": overlong, "A node that is down": node_down,
}  # fmt: skip
