"""The verbs on the daemon's own state, straight from the store."""

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Connection, insert

from tocsin.cli.commands import app
from tocsin.model.alert import Alert
from tocsin.model.event import Event, EventName, ScenarioFacts, run_event_id
from tocsin.model.notification import EventNotice, Notification, NotificationState
from tocsin.model.run import Outcome, Run, ScenarioKey
from tocsin.store import Store, alerts, events, outbox
from tocsin.store.schema import SCHEMA_REVISION, nodes, runs

NOW = datetime.now(UTC).replace(microsecond=0)
RUN = Run(
    ScenarioKey("prod", "SALES", "NIGHTLY"),
    "2026-03-01-02-00-00-000",
    NOW - timedelta(minutes=9),
    NOW,
    Outcome.FAILED,
    "temporal",
)
Tocsin = Callable[..., Result]


def happened(name: EventName) -> Event:
    time = RUN.start if name is EventName.RUN_STARTED else NOW
    return Event(
        run_event_id(RUN, name), name, "prod", time, NOW, "SALES", ScenarioFacts("NIGHTLY", "Nightly\x1b[31m"), RUN
    )


def fill(connection: Connection) -> None:
    connection.execute(insert(nodes).values(node="prod", watched_since=NOW - timedelta(days=1)))
    connection.execute(
        insert(runs).values(
            node="prod",
            project="SALES",
            scenario="NIGHTLY",
            run_id=RUN.run_id,
            start=RUN.start,
            end=RUN.end,
            outcome="FAILED",
            baseline=False,
            seen_at=NOW,
            seen_by="sweep",
        )
    )
    events.insert_events(connection, [happened(EventName.RUN_STARTED), happened(EventName.RUN_FAILED)])
    events.mark_decided(connection, events.undecided(connection, 10), NOW)
    labels = {
        "alertname": "ScenarioFailed",
        "severity": "warning",
        "dss_node": "prod",
        "project": "SALES",
        "scenario": "NIGHTLY",
    }
    alert = Alert("a" * 32, "f" * 32, labels, NOW, annotations={"summary": "it failed"}, run=RUN.key)
    alerts.put_alerts(connection, [alerts.AlertRow(alert, "ScenarioFailed")], NOW)
    outbox.enqueue(connection, [Notification(
        "d" * 32, "ops", "ops/json", "ordering_key", EventNotice(happened(EventName.RUN_FAILED), "nightly"), NOW, NOW,
        NotificationState.DEAD, reason="refused",
    )])  # fmt: skip


@pytest.fixture
def tocsin(tmp_path: Path) -> Tocsin:
    """The command line on a store with one failed run, one firing alert and one dead letter."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    config = tmp_path / "tocsin.yaml"
    config.write_text(f"""
nodes: [{{name: prod, url: 'http://127.0.0.1:1', api_key: k}}]
store: {{url: '{url}'}}
receivers: [{{name: ops, channels: [{{url: 'json://127.0.0.1:1'}}]}}]
route: {{receiver: ops}}
""")

    async def prepare() -> None:
        store = Store(url)
        await store.open()
        await store.write(fill)
        await store.close()

    asyncio.run(prepare())
    return lambda *words: CliRunner().invoke(app, [*words, "--config", str(config)])


def test_tail_says_when_the_daemon_is_gone() -> None:
    class Daemon(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"data: {}\n\n")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Daemon) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        told = CliRunner().invoke(app, ["events", "tail", "--json", "--url", url])
        server.shutdown()
    assert (told.exit_code, told.stdout) == (3, "{}\n")
    assert told.stderr == f"tocsin: cannot reach the daemon at {url}: it has ended the stream\n"


def test_events_are_listed_in_their_public_order(tocsin: Tocsin) -> None:
    found = json.loads(tocsin("events", "list", "--json").stdout)
    assert [(one["seq"], one["type"]) for one in found] == [(1, "tocsin.run.started"), (2, "tocsin.run.failed")]
    assert [one["seq"] for one in json.loads(tocsin("events", "list", "--json", "--after", "1").stdout)] == [2]
    table = tocsin("events", "list", "--event", "run.failed").stdout.splitlines()
    assert len(table) == 2
    assert "prod/SALES/NIGHTLY" in table[1]


def test_a_table_carries_no_control_characters(tocsin: Tocsin) -> None:
    assert "\x1b" not in tocsin("events", "list").stdout + tocsin("deliveries", "list").stdout


def test_tail_begins_where_it_is_told_and_ends_after_its_count(tocsin: Tocsin) -> None:
    told = tocsin("events", "tail", "--after", "1", "--count", "1", "--json")
    assert [json.loads(line)["seq"] for line in told.stdout.splitlines()] == [2]


def test_an_alert_is_resolved_by_hand_once(tocsin: Tocsin) -> None:
    assert [one["state"] for one in json.loads(tocsin("alerts", "list", "--json").stdout)] == ["firing"]
    assert tocsin("alerts", "resolve", "a" * 32).exit_code == 0
    assert json.loads(tocsin("alerts", "list", "--json").stdout) == []
    assert [one["end_reason"] for one in json.loads(tocsin("alerts", "list", "--state", "all", "--json").stdout)] == [
        "by_hand"
    ]
    again = tocsin("alerts", "resolve", "a" * 32)
    assert (again.exit_code, "no firing alert" in again.stderr) == (1, True)


def test_a_silence_is_added_listed_and_expired(tocsin: Tocsin) -> None:
    made = tocsin(
        "silence",
        "add",
        "project=SALES",
        "scenario=~N.*",
        "--duration",
        "2h",
        "--author",
        "ann",
        "--comment",
        "moving house",
    )
    assert made.exit_code == 0
    (listed,) = json.loads(tocsin("silence", "list", "--json").stdout)
    assert (listed["id"], listed["state"], listed["created_by"], listed["comment"]) == (
        made.stdout.strip(),
        "active",
        "ann",
        "moving house",
    )
    assert tocsin("silence", "expire", listed["id"]).exit_code == 0
    assert json.loads(tocsin("silence", "list", "--json").stdout) == []
    assert [one["state"] for one in json.loads(tocsin("silence", "list", "--state", "expired", "--json").stdout)] == [
        "expired"
    ]


@pytest.mark.parametrize(("words", "told"), [
    (["silence", "add", "project=~(", "--duration", "2h"], "regular expression"),
    (["silence", "add", "nonsense", "--duration", "2h"], "not a matcher"),
    (["silence", "add", "project=SALES", "--duration", "soon"], "'soon' is not a duration"),
    (["deliveries", "list", "--state", "deda"], "'deda' is not a state of this list"),
    (["deliveries", "list", "--state", "all"], "'all' is not a state of this list"),
    (["silence", "list", "--state", "all"], "'all' is not a state of this list"),
])  # fmt: skip
def test_what_the_daemon_cannot_read_is_a_usage_error_in_one_line(tocsin: Tocsin, words: list[str], told: str) -> None:
    refused = tocsin(*words)
    assert (refused.exit_code, len(refused.stderr.splitlines()), told in refused.stderr) == (2, 1, True)


def test_a_silence_without_an_end_is_a_usage_error(tocsin: Tocsin) -> None:
    assert tocsin("silence", "add", "project=SALES").exit_code == 2


def test_a_dead_letter_is_shown_with_its_reason_and_sent_again(tocsin: Tocsin) -> None:
    assert "refused" in tocsin("deliveries", "list", "--state", "dead").stdout
    assert "refused" in tocsin("deliveries", "show", "d" * 32).stdout
    assert tocsin("deliveries", "retry", "d" * 32).exit_code == 0
    assert [one["state"] for one in json.loads(tocsin("deliveries", "list", "--json").stdout)] == ["pending"]
    assert tocsin("deliveries", "show", "e" * 32).exit_code == 1


def test_a_run_is_explained_by_its_address(tocsin: Tocsin) -> None:
    for address in (f"SALES/NIGHTLY/{RUN.run_id}", f"prod/SALES/NIGHTLY/{RUN.run_id}", "SALES/NIGHTLY/last"):
        told = tocsin("explain", address)
        assert told.exit_code == 0
        assert "run.failed" not in told.stdout
        assert "run.failed" in tocsin("explain", address, "--all").stdout
    assert tocsin("explain", "SALES/NIGHTLY").exit_code == 2
    assert tocsin("explain", "SALES/NIGHTLY/none").exit_code == 1


def test_an_alert_is_explained_by_its_id_or_the_beginning_of_it(tocsin: Tocsin) -> None:
    (alert,) = json.loads(tocsin("alerts", "list", "--json").stdout)
    for id_ in (alert["id"], alert["id"][:6]):
        told = tocsin("explain", id_)
        assert (told.exit_code, told.stdout.splitlines()[0].partition(" ")[0]) == (0, "ScenarioFailed")
    assert json.loads(tocsin("explain", alert["id"], "--json").stdout)["alert"]["id"] == alert["id"]
    assert "alertname=ScenarioFailed" in tocsin("explain", alert["id"], "--all").stdout
    assert tocsin("explain", "nothing").exit_code == 1


def test_a_daemon_that_does_not_answer_is_exit_3(tocsin: Tocsin) -> None:
    refused = tocsin("events", "list", "--url", "http://127.0.0.1:1")
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (3, 1)


def test_the_store_can_be_backed_up_pruned_and_asked_for_its_revision(tocsin: Tocsin, tmp_path: Path) -> None:
    assert tocsin("db", "backup", str(tmp_path / "copy.db")).exit_code == 0
    assert (tmp_path / "copy.db").stat().st_size > 0
    (tmp_path / "old.db").write_text("precious")
    refused = tocsin("db", "backup", str(tmp_path / "old.db"))
    assert (refused.exit_code, (tmp_path / "old.db").read_text()) == (1, "precious")
    assert "--force" in refused.stderr
    assert tocsin("db", "backup", str(tmp_path / "old.db"), "--force").exit_code == 0
    assert (tmp_path / "old.db").read_bytes()[:6] == b"SQLite"
    assert tocsin("db", "current").stdout.startswith(f"{SCHEMA_REVISION}; ")
    assert tocsin("db", "upgrade").exit_code == 0
    assert tocsin("db", "prune").stdout == "deleted 0 rows\n"
