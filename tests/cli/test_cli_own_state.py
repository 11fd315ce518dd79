"""The verbs on the daemon's own state, straight from the store."""

import asyncio
import json
import threading
import time
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


def test_events_are_listed_newest_first_or_behind_a_place_in_their_order(tocsin: Tocsin) -> None:
    found = json.loads(tocsin("events", "list", "--json").stdout)
    assert [(one["seq"], one["type"]) for one in found] == [(2, "tocsin.run.failed"), (1, "tocsin.run.started")]
    assert [one["seq"] for one in json.loads(tocsin("events", "list", "--json", "--after", "0").stdout)] == [1, 2]
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


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["events", "list", "--since", "5m"], 1), (["events", "list", "--until", "5m"], 1), (["events", "list", "--since", "1d"], 2),
        (["events", "list", "--matcher", "event=run.failed", "--matcher", "project=~S.*"], 1),
        (["alerts", "list", "--since", "1h"], 1), (["alerts", "list", "--until", "1h"], 0), (["alerts", "list", "--severity", "info"], 0),
        (["alerts", "list", "--matcher", "scenario!=NIGHTLY"], 0), (["deliveries", "list", "--since", "1h", "--node", "prod"], 1),
        (["deliveries", "list", "--until", "2020-01-01"], 0), (["silence", "list", "--matcher", "a=b"], 0),
    ],
)  # fmt: skip
def test_lists_are_narrowed(tocsin: Tocsin, words: list[str], expected: int) -> None:
    assert len(json.loads(tocsin(*words, "--json").stdout)) == expected


def test_times_are_those_of_this_machine(tocsin: Tocsin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        here = NOW + timedelta(hours=5, minutes=30)
        for words in (["alerts", "list"], ["deliveries", "list"], ["events", "list"], ["alerts", "show", "a" * 4]):
            assert f"{here:%Y-%m-%d %H:%M:%S}" in tocsin(*words).stdout
        since, until = f"{here:%Y-%m-%dT%H:%M:%S}", f"{here + timedelta(seconds=1):%Y-%m-%dT%H:%M:%S}"
        found = tocsin("alerts", "list", "--since", since, "--until", until, "--json")
        assert len(json.loads(found.stdout)) == 1
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def test_ids_may_be_cut_where_they_are_unique(tocsin: Tocsin) -> None:
    assert tocsin("alerts", "list").stdout.splitlines()[1].startswith("aaaaaaaaaaaa  firing")
    assert "acknowledged by ann" in tocsin("alerts", "ack", "aaa", "--author", "ann", "--duration", "1h").stdout
    assert "acknowledged  " in tocsin("alerts", "list").stdout
    shown = tocsin("alerts", "show", "aaaa")
    assert "acknowledged by     ann" in shown.stdout, shown.output
    assert json.loads(tocsin("alerts", "show", "aaaa", "--json").stdout)["acknowledged"]["by"] == "ann"
    assert tocsin("alerts", "unack", "aaa").exit_code == 0
    added = tocsin("silence", "add", "project=SALES", "--duration", "1h")
    assert "it covers 1 firing alert now" in added.stderr
    assert "suppressed" in tocsin("alerts", "list").stdout
    assert tocsin("silence", "expire", added.stdout[:12]).exit_code == 0
    assert tocsin("deliveries", "show", "dddd").exit_code == 0
    assert tocsin("deliveries", "retry", "dddd").stdout == f"{'d' * 32} will be sent again\n"


def test_a_silence_on_an_unknown_label_is_warned_of(tocsin: Tocsin) -> None:
    added = tocsin("silence", "add", "projct=SALES", "--duration", "1h")
    assert (added.exit_code, "did you mean 'project'?" in added.stderr, "covers 0" in added.stderr) == (0, True, True)


def test_dead_letters_are_sent_again_by_a_filter(tocsin: Tocsin) -> None:
    assert tocsin("deliveries", "retry").exit_code == 2
    assert tocsin("deliveries", "retry", "ddd", "--all").exit_code == 2
    assert tocsin("deliveries", "retry", "--channel", "other").stdout == "0 will be sent again\n"
    assert tocsin("deliveries", "retry", "--project", "SALES", "--since", "1h").stdout == "1 will be sent again\n"
    assert tocsin("deliveries", "retry", "--all").stdout == "0 will be sent again\n"


def test_status_tells_what_there_is(tocsin: Tocsin) -> None:
    told = tocsin("status")
    assert (told.exit_code, "1 active, 0 suppressed, 0 acknowledged" in told.stdout) == (0, True), told.output
    assert "0 pending, 1 dead" in told.stdout
    assert json.loads(tocsin("status", "--json").stdout)["deliveries"] == {"pending": 0, "dead": 1}


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
