"""The story of a run: what happened, what was decided, what was sent; over the API and on its page."""

import re
from typing import Any

from aiohttp import ClientSession
from sqlalchemy import Connection

from tests.web.harness import Daemon
from tests.web.rows import a_run, ago, an_alert, an_event, put_alert, put_error, put_events, put_notification, put_run
from tocsin.config.model import Channel, Receiver
from tocsin.model.decision import Decision, DecisionReason, Stage
from tocsin.model.notification import EventNotice, GroupNotice
from tocsin.model.run import ScenarioKey
from tocsin.store.alerts import record_decisions
from tocsin.store.explanation import NotFired

FAILED = a_run(outcome="FAILED", run_id="2026-03-01-11-50-00-000")
OTHER = a_run(minutes_ago=90, outcome="FAILED", run_id="2026-03-01-10-30-00-000")
ADDRESS = f"prod/SALES/NIGHTLY/{FAILED.run_id}"


def fill(connection: Connection) -> None:
    """A failed run that a reporter told of and that made an alert ring, whose group told two channels or not."""
    alert, event = an_alert(starts_at=ago(minutes=9)), an_event(FAILED)
    put_run(connection, OTHER)
    put_run(connection, FAILED)
    put_error(connection, FAILED, "disk full")
    put_events(connection, an_event(OTHER), event)
    put_alert(connection, alert)
    put_notification(connection, "d-event", EventNotice(event, "nightly"))
    put_notification(connection, "d-group", GroupNotice("g1", "ops", {}, (alert,), "first"), channel="pager")
    put_notification(connection, "d-other", GroupNotice("g2", "ops", {}, (alert,), "first"), channel="pager")
    record_decisions(
        connection,
        [
            Decision(ago(minutes=9), Stage.REPORTER, "nightly", DecisionReason.ENQUEUED, None, event.id, notification_id="d-event"),
            Decision(ago(minutes=9), Stage.RULE, "ScenarioFailed", DecisionReason.FIRING, None, event.id, alert.fingerprint,
                     alert.id),
            Decision(ago(minutes=8.9), Stage.ROUTE, "g1", DecisionReason.ROUTED, "to ops", None, alert.fingerprint, alert.id),
            Decision(ago(minutes=8), Stage.FLUSH, "g1 → pager", DecisionReason.FIRST, notification_id="d-group"),
            Decision(ago(minutes=8), Stage.FLUSH, "g1 → mail", DecisionReason.SILENCED, "by ann"),
            Decision(ago(minutes=8), Stage.FLUSH, "g2 → pager", DecisionReason.FIRST, notification_id="d-other"),
            Decision(ago(minutes=50), Stage.FLUSH, "g1 → pager", DecisionReason.FIRST, notification_id="d-older"),
        ],
    )  # fmt: skip


def with_channels(daemon: Daemon) -> None:
    """Two channels that may have heard, and a reporter that did not speak."""
    daemon.silent = (NotFired(Stage.REPORTER, "weekly", "it hears of run.aborted only"),)
    from dataclasses import replace

    daemon.config = replace(
        daemon.config, receivers=(Receiver("ops", (Channel("pager", "ops"), Channel("mail", "ops"))),)
    )


async def explain(client: ClientSession, address: str) -> Any:
    async with client.get(f"/api/v1/explain/{address}") as answer:
        return answer.status, await answer.json()


async def test_a_story_holds_every_decision_on_the_run_its_alerts_and_their_groups(
    client: ClientSession, daemon: Daemon
) -> None:
    with_channels(daemon)
    await daemon.store.write(fill)
    status, story = await explain(client, ADDRESS)
    assert status == 200
    assert story["not_fired"] == [{"stage": "reporter", "name": "weekly", "why": "it hears of run.aborted only"}]
    assert [(one["stage"], one["reason"], one["note"]) for one in story["decisions"]] == [
        ("reporter", "enqueued", None), ("rule", "firing", None), ("route", "routed", "to ops"), ("flush", "first", None),
        ("flush", "silenced", "by ann"),
    ]  # fmt: skip
    assert [one["event"] for one in story["events"]] == ["run.failed"]
    assert [one["labels"]["alertname"] for one in story["alerts"]] == ["ScenarioFailed"]
    assert [one["id"] for one in story["deliveries"]] == ["d-event", "d-group"]
    assert story["run"]["error"]["message"] == "disk full"
    assert story["url"] == f"https://dss.example.com/{FAILED.run_id}"


async def test_an_unknown_run_has_no_story(client: ClientSession) -> None:
    assert (await explain(client, "prod/SALES/NIGHTLY/x"))[0] == 404
    async with client.get("/runs/prod/SALES/NIGHTLY/x") as answer:
        assert answer.status == 404


async def test_a_run_is_found_whatever_its_names_hold(client: ClientSession, daemon: Daemon) -> None:
    odd = ScenarioKey("prod", "SALES", "a/b {c}%?#é")
    await daemon.store.write(lambda connection: put_run(connection, a_run(odd, run_id="r")))
    address = "prod/SALES/a%2Fb%20%7Bc%7D%25%3F%23%C3%A9/r"
    assert (await explain(client, address))[1]["run"]["scenario"] == odd.scenario
    async with client.get("/") as answer:
        assert answer.status == 200
    async with client.get(f"/runs/{address}") as answer:
        assert answer.status == 200


async def test_the_page_of_a_run_tells_its_story(client: ClientSession, daemon: Daemon) -> None:
    with_channels(daemon)
    await daemon.store.write(fill)
    async with client.get(f"/runs/{ADDRESS}") as answer:
        text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", await answer.text()))
    for sentence in ("prod / SALES / NIGHTLY", "disk full", "nothing rang", "silenced by ann", "it hears of run.aborted only", "g1 → mail", "ScenarioFailed",
                     "pager", "failed"):  # fmt: skip
        assert sentence in text


async def test_the_page_of_a_run_from_before_says_that_it_made_no_event(client: ClientSession, daemon: Daemon) -> None:
    await daemon.store.write(lambda connection: put_run(connection, FAILED, baseline=True))
    async with client.get(f"/runs/{ADDRESS}") as answer:
        assert "It ended before it was watched" in await answer.text()


async def test_hostile_texts_stay_text_on_the_page_of_a_run(client: ClientSession, daemon: Daemon) -> None:
    evil = "</pre><script>alert(1)</script>"
    key = ScenarioKey("prod", "SALES", evil)
    run = a_run(key, outcome="FAILED", run_id="r")

    def put(connection: Connection) -> None:
        put_run(connection, run)
        put_error(connection, run, evil, evil)
        put_events(connection, an_event(run, run_url="javascript:alert(1)"))

    await daemon.store.write(put)
    async with client.get("/runs/prod/SALES/%3C%2Fpre%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E/r") as answer:
        text = await answer.text()
    assert answer.status == 200
    assert evil not in text
    assert "javascript:" not in text


async def test_links_of_the_front_page_lead_to_the_pages_of_runs(client: ClientSession, daemon: Daemon) -> None:
    odd = ScenarioKey("prod", "SALES", "a/b ?#%")
    await daemon.store.write(lambda connection: put_run(connection, a_run(odd, outcome="FAILED", run_id="r 1")))
    async with client.get("/") as answer:
        links = re.findall(r'href="./(runs/[^"]*)"', await answer.text())
    assert links
    from yarl import URL

    async with client.get(URL(f"/{links[0]}", encoded=True)) as answer:
        assert answer.status == 200
