"""The pages for people, as HTML: complete, filtered by their address, escaped, without anything inline."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from urllib.parse import quote, urlencode

import pytest
from aiohttp import ClientSession
from sqlalchemy import Connection

from tests.web.harness import Daemon, Serve
from tests.web.rows import (
    KEY,
    NOW,
    a_run,
    ago,
    an_alert,
    an_event,
    put_alert,
    put_error,
    put_node,
    put_notification,
    put_run,
    put_scenario,
)
from tocsin.config.model import Channel, InhibitRule, Receiver, Route, Rule, build_tree
from tocsin.config.secrets import InlineSecret
from tocsin.model.alert import Acknowledgement, EndReason
from tocsin.model.labels import parse_matchers
from tocsin.model.notification import EventNotice, GroupNotice
from tocsin.model.run import ScenarioKey
from tocsin.store import alerts, schema
from tocsin.web.routes import endpoints

OTHER = ScenarioKey("prod", "FINANCE", "CLOSE")
LISTS = [route.path for route in endpoints() if route.is_page and "{" not in route.path and route.path != "/login"]
PLACE = "/".join(KEY)
HTML = {"Accept": "text/html"}


async def page(client: ClientSession, address: str = "/", status: int = 200) -> str:
    async with client.get(address, headers=HTML) as answer:
        text = await answer.text()
        assert (answer.status, answer.content_type) == (status, "text/html"), text
        return text


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", html))


def rows(html: str) -> Iterator[str]:
    for row in re.findall(r"<tr data-key=.*?</tr>", html, re.DOTALL):
        yield words(row)


async def sent(client: ClientSession, address: str, **fields: object) -> tuple[int, str, str]:
    """What a form's answer says: status, where it leads, and its text."""
    async with client.post(address, data=fields, headers=HTML, allow_redirects=False) as answer:
        return answer.status, answer.headers.get("Location", ""), await answer.text()


def fill(connection: Connection) -> None:
    put_node(connection)
    put_scenario(connection, tags=("daily", "owner:ann"))
    put_scenario(connection, OTHER, name="Monthly close", active=False)
    for minutes in (120, 90, 60):
        put_run(connection, a_run(minutes_ago=minutes, seconds=600))
    failed = a_run(minutes_ago=5, outcome="FAILED", run_id="2026-03-01-11-55-00-000")
    put_run(connection, failed)
    put_error(connection, failed, "disk full", step="build orders")
    put_run(connection, a_run(minutes_ago=2.5, seconds=None))
    put_alert(connection, an_alert())
    put_alert(connection, an_alert("ScenarioMissed", OTHER, "critical"))
    put_alert(connection, an_alert("ScenarioOverlong", ends_at=ago(minutes=1), end_reason=EndReason.RESOLVED))
    put_notification(connection, "d1", EventNotice(an_event(failed), "nightly"))
    put_notification(connection, "d2", GroupNotice("g", "ops", {}, (an_alert(),), "first"), channel="pager")
    kill = schema.outbox.update().where(schema.outbox.c.id == "d2")
    connection.execute(kill.values(state="dead", dead_reason="refused", reason="HTTP 410 Gone", settled_at=NOW))


@pytest.mark.parametrize("address", LISTS)
async def test_every_page_says_what_to_do_when_there_is_nothing(client: ClientSession, address: str) -> None:
    text = await page(client, address)
    assert len(re.findall("<h1", text)) == 1
    assert 'class="empty"' in text or address in ("/status", "/silences/new")


async def test_the_overview_tells_health_what_fires_runs_and_failed(client: ClientSession, daemon: Daemon) -> None:
    await daemon.store.write(fill)
    text = words(await page(client))
    for sentence in (
        "1/1 nodes up", "2 scenarios watched", "1 active", "1 running", "2 firing", "1 dead letter", "ScenarioFailed rings",
        "25 % of 10m", "disk full", "NIGHTLY name prod / SALES / NIGHTLY",
    ):  # fmt: skip
        assert sentence in text
    assert text.index("ScenarioMissed") < text.index("ScenarioFailed"), "the most severe first"
    assert "(2) Overview · Tocsin" in text


async def test_a_node_that_is_down_and_scenarios_that_are_all_off_do_not_look_like_quiet(
    client: ClientSession, daemon: Daemon
) -> None:
    def off(connection: Connection) -> None:
        put_node(connection, up=False, down_reason="unreachable", down_since=ago(minutes=3), problem="no route")
        put_scenario(connection, active=False)

    await daemon.store.write(off)
    text = words(await page(client))
    assert "prod is down since" in text
    assert "unreachable. no route" in text
    assert "None of the 1 watched scenarios is active" in text


async def test_of_forty_firing_alerts_every_one_can_be_reached(client: ClientSession, daemon: Daemon) -> None:
    keys = [ScenarioKey("prod", "SALES", f"S{number}") for number in range(140)]
    await daemon.store.write(lambda connection: [put_alert(connection, an_alert(key=key)) for key in keys])
    assert "128 more that fire" in words(await page(client))
    first, second = await page(client, "/alerts"), await page(client, "/alerts?page=2")
    assert "1–100 of 140" in words(first)
    assert 'href="?page=2"' in first
    found = re.findall(r'alerts/([0-9a-f]{32})"', first + second)
    assert len(set(found)) == 140


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["ScenarioMissed", "ScenarioFailed"]),
        ("severity=critical", ["ScenarioMissed"]),
        ("matcher=" + quote('project=~"SAL.*"'), ["ScenarioFailed"]),
        ("q=close", ["ScenarioMissed"]),
        ("state=resolved", ["ScenarioOverlong"]),
        ("state=all&group=project", ["ScenarioMissed", "ScenarioFailed", "ScenarioOverlong"]),
        ("state=acknowledged", []),
    ],
)
async def test_alerts_are_filtered_by_their_address(
    client: ClientSession, daemon: Daemon, query: str, expected: list[str]
) -> None:
    await daemon.store.write(fill)
    text = await page(client, f"/alerts?{query}")
    assert re.findall(r'alerts/[0-9a-f]{32}">(\w+)<', text) == expected


async def test_what_keeps_an_alert_quiet_is_seen_everywhere(client: ClientSession, daemon: Daemon) -> None:
    daemon.config = replace(daemon.config, inhibit_rules=(
        InhibitRule(parse_matchers('severity="critical"'), parse_matchers('severity="warning"'), ("dss_node",)),
    ))  # fmt: skip

    def quiet(connection: Connection) -> None:
        fill(connection)
        alerts.insert_silence(
            connection, parse_matchers('project="FINANCE"'), NOW, NOW + timedelta(hours=1), "ann", "close", NOW
        )

    await daemon.store.write(quiet)
    overview, suppressed = words(await page(client)), words(await page(client, "/alerts?state=suppressed"))
    assert "2 suppressed" in overview
    assert "silenced by silence" in suppressed
    assert "inhibited by ScenarioMissed" in suppressed
    silences = words(await page(client, "/silences"))
    assert 'project="FINANCE"' in silences.replace("&#34;", '"')
    assert "1 alert" in silences


async def test_the_page_of_an_alert_says_who_has_it_and_changes_nothing(client: ClientSession, daemon: Daemon) -> None:
    await daemon.store.write(fill)
    alert = an_alert()
    held = replace(alert, acknowledged=Acknowledgement("ann", NOW, None, "on it"))
    await daemon.store.write(alerts.set_acknowledged, alert.id, held.acknowledged)
    text = words(await page(client, f"/alerts/{alert.id}"))
    for sentence in ("ScenarioFailed rings", "ann has it", "on it", "dss_node=prod", "Nobody."):
        assert sentence in text
    assert daemon.acknowledged == []
    await page(client, "/alerts/nothing", 404)


async def test_forms_of_alerts_acknowledge_and_resolve_one_or_many(client: ClientSession, daemon: Daemon) -> None:
    await daemon.store.write(fill)
    ids = [an_alert().id, an_alert("ScenarioMissed", OTHER, "critical").id]
    daemon.known = set(ids)
    assert await sent(client, f"/alerts/{ids[0]}/ack", by="ann", duration="1h", comment="on it") == (
        303, f"../../alerts/{ids[0]}?done=ack", "",
    )  # fmt: skip
    assert daemon.acknowledged == [(ids[0], Acknowledgement("ann", NOW, NOW + timedelta(hours=1), "on it"))]
    chosen = await page(client, f"/alerts/act?{urlencode([('do', 'resolve'), *(('id', id_) for id_ in ids)])}")
    assert "Resolve 2 alerts?" in words(chosen)
    assert daemon.resolved == []
    async with client.post(
        "/alerts/act", data=[("do", "resolve"), *(("id", id_) for id_ in ids)], allow_redirects=False
    ) as done:
        assert (done.status, done.headers["Location"]) == (303, "../alerts?done=resolve")
    assert [id_ for id_, _ in daemon.resolved] == ids
    assert (await sent(client, f"/alerts/{'0' * 32}/resolve"))[0] == 404


async def test_a_silence_is_filled_in_from_an_address_or_alerts_and_says_what_it_covers(
    client: ClientSession, daemon: Daemon
) -> None:
    daemon.config = replace(daemon.config, rules=(Rule("ScenarioFailed", "failed"),))
    await daemon.store.write(fill)
    linked = words(await page(client, "/silences/new?" + urlencode({"matcher": 'project="SALES"', "duration": "1h"})))
    assert "project=&#34;SALES&#34;" in linked
    assert "1 firing alert:" in linked
    several = await page(
        client, f"/silences/new?id={an_alert().id}&id={an_alert('ScenarioMissed', OTHER, 'critical').id}"
    )
    assert "scenario=~&#34;CLOSE|NIGHTLY&#34;" in several
    assert "2 firing alerts:" in words(several)
    assert "Maintenance of prod" in await page(client, "/silences/new?node=prod&duration=2h")


async def test_a_broken_silence_is_shown_again_with_its_error_and_everything_typed(
    client: ClientSession, daemon: Daemon
) -> None:
    daemon.config = replace(daemon.config, rules=(Rule("ScenarioFailed", "failed"),))
    for fields, error in (
        ({"matchers": "project=~["}, "cannot be read"),
        ({"matchers": "", "duration": "1h"}, "a silence needs a matcher"),
        ({"matchers": 'project="SALES"', "duration": "soon"}, "is not a duration"),
        ({"matchers": 'project="SALES"', "until": "2001-01-01T00:00"}, "must be in the future"),
        ({"matchers": 'project=~".*"'}, "must not match everything"),
    ):
        status, _, text = await sent(client, "/silences/new", comment="<b>why</b>", by="ann", **fields)
        assert status == 400
        assert error in words(text)
        assert 'aria-invalid="true"' in text
        assert 'value="&lt;b&gt;why&lt;/b&gt;"' in text
    assert words(await page(client, "/silences")).count("expire") == 0


async def test_a_silence_is_created_and_expired_from_pages(client: ClientSession, daemon: Daemon) -> None:
    daemon.config = replace(daemon.config, rules=(Rule("ScenarioFailed", "failed"),))
    status, location, _ = await sent(
        client, "/silences/new", matchers='project="SALES"\r\nseverity="warning"', duration="2h", by="ann"
    )
    assert (status, location) == (303, "../silences?done=silence")
    listed = await page(client, "/silences?done=silence")
    assert "The silence holds." in listed
    id_ = re.findall(r'silences/([^/"]+)/expire', listed)[0]
    assert (await sent(client, f"/silences/{id_}/expire"))[:2] == (303, "../../silences?done=expire")
    assert "Nothing is silenced" in await page(client, "/silences")
    assert id_ in await page(client, "/silences?state=expired")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["d2", "d1"]),
        ("state=dead", ["d2"]),
        ("channel=ops-slack", ["d1"]),
        ("receiver=ops", ["d2"]),
        ("q=run.failed", ["d1"]),
        ("q=410", ["d2"]),
        ("q=d1", ["d1"]),
        ("since=30s", []),
        ("since=1h&until=30s", ["d2", "d1"]),
        ("since=2026-03-01T11:00Z", ["d2", "d1"]),
    ],
)
async def test_deliveries_are_filtered_by_their_address(
    client: ClientSession, daemon: Daemon, query: str, expected: list[str]
) -> None:
    daemon.config = replace(daemon.config, receivers=(Receiver("ops", (Channel("pager", "ops"),)),))
    await daemon.store.write(fill)
    assert re.findall(r'data-key="(d\d)"', await page(client, f"/deliveries?{query}")) == expected


async def test_dead_letters_are_sent_again_alone_or_all_that_match(client: ClientSession, daemon: Daemon) -> None:
    await daemon.store.write(fill)
    daemon.known = {"d2"}
    assert (await sent(client, "/deliveries/retry", id="d2"))[:2] == (303, "../deliveries?done=retry")
    assert (await sent(client, "/deliveries/retry", all="1", channel="pager"))[0] == 303
    assert daemon.retried == ["d2", "d2"]
    assert (await sent(client, "/deliveries/retry", all="1", channel="other"))[0] == 404


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["NIGHTLY", "CLOSE"]),
        ("sort=name", ["CLOSE", "NIGHTLY"]),
        ("sort=-last", ["CLOSE", "NIGHTLY"]),
        ("q=nightly", ["NIGHTLY"]),
        ("state=inactive", ["CLOSE"]),
        ("state=running", ["NIGHTLY"]),
        ("state=firing", ["NIGHTLY", "CLOSE"]),
        ("project=FINANCE", ["CLOSE"]),
        ("matcher=" + quote('tags=~".*,owner:ann,.*"'), ["NIGHTLY"]),
        ("matcher=" + quote('owner="ann"'), ["NIGHTLY"]),
        ("q=nothing", []),
    ],
)
async def test_scenarios_are_filtered_and_sorted_by_their_address(
    client: ClientSession, daemon: Daemon, query: str, expected: list[str]
) -> None:
    daemon.config = replace(daemon.config, tag_labels=("owner",))
    await daemon.store.write(fill)
    if query == "":
        await daemon.store.write(lambda connection: connection.execute(
            schema.scenarios.update().where(schema.scenarios.c.scenario == "NIGHTLY").values(last_outcome="FAILED")
        ))  # fmt: skip
    found = re.findall(r'data-key="prod/\w+/(\w+)"', await page(client, f"/scenarios?{query}"))
    assert (sorted(found) if query.startswith("sort=-last") else found) == expected


async def test_the_page_of_a_scenario_shows_its_history_and_who_would_be_told(
    client: ClientSession, daemon: Daemon
) -> None:
    root = Route("ops", routes=(Route("sales", parse_matchers('project="SALES"')),))
    daemon.config = replace(
        daemon.config, tag_labels=("owner",), rules=(Rule("ScenarioFailed", "failed"),), route=build_tree(root),
        receivers=(Receiver("ops"), Receiver("sales")),
    )  # fmt: skip
    await daemon.store.write(fill)
    text = await page(client, f"/scenarios/{PLACE}")
    for sentence in ("NIGHTLY name", "75 % good of 5 runs", "usually 10m", "owner ann", "disk full", "sales"):
        assert sentence in words(text)
    assert text.count('class="stem ') == 5
    assert 'class="cross"' in text, "failures have a shape of their own"
    await page(client, "/scenarios/prod/SALES/NONE", 404)
    tried = words(await page(client, f"/routes?scenario={PLACE}"))
    assert "sales" in tried
    assert "ops" in words(await page(client, "/routes?label=" + quote('project="OTHER"')))
    assert "is no label" in words(await page(client, "/routes?label=" + quote('project!="OTHER"')))


async def test_the_log_of_a_run_can_be_searched(client: ClientSession, daemon: Daemon) -> None:
    run = a_run(outcome="FAILED", run_id="r")

    def put(connection: Connection) -> None:
        put_run(connection, run)
        put_error(connection, run, "disk full")
        connection.execute(schema.run_details.update().values(log_tail="all good\nDisk <full>"))

    await daemon.store.write(put)
    text = await page(client, f"/runs/{PLACE}/r?find=disk")
    assert "<mark>Disk</mark> &lt;full&gt;" in text
    assert "1 found" in text


@pytest.mark.parametrize("text", ["nightly", "CLOSE", "Monthly", "ScenarioMiss", "2026-03-01-11"])
async def test_scenarios_alerts_and_runs_are_found_by_name_and_id(
    client: ClientSession, daemon: Daemon, text: str
) -> None:
    await daemon.store.write(fill)
    found = await page(client, f"/search?q={text}")
    assert re.search(r'href="\./(scenarios|alerts|runs)/|href="alerts/', found)
    assert "Nothing is called so" not in found
    assert "Nothing is called so" in await page(client, "/search?q=zzz")


async def test_what_is_not_there_is_a_page_for_people_and_a_problem_for_programs(client: ClientSession) -> None:
    assert "overview" in words(await page(client, "/nothing/here", 404))
    assert "it is one of" in words(await page(client, "/alerts?state=runing", 400))
    async with client.get("/nothing/here") as answer:
        assert (answer.status, answer.content_type) == (404, "application/problem+json")
    async with client.get("/api/v1/alerts?limit=x", headers={"Accept": "*/*"}) as answer:
        assert answer.content_type == "application/problem+json"


EVIL = '"><script>alert(1)</script>'


async def test_hostile_names_stay_text_on_every_page(client: ClientSession, daemon: Daemon) -> None:
    key = ScenarioKey("prod", EVIL, EVIL)
    run = a_run(key, outcome="FAILED", run_id="../../" + EVIL)
    alert = an_alert(key=key, annotations={"summary": EVIL, "runbook_url": "javascript:alert(1)", EVIL: EVIL})

    def put(connection: Connection) -> None:
        put_node(connection, dss_version=EVIL, problem=EVIL, up=False, down_reason=EVIL)
        put_scenario(connection, key, name=EVIL, tags=(EVIL,))
        put_run(connection, run)
        put_run(connection, a_run(key, seconds=None))
        put_error(connection, run, EVIL, step=EVIL)
        put_alert(connection, alert)
        put_notification(connection, "d1", EventNotice(an_event(run), EVIL))
        alerts.insert_silence(
            connection, parse_matchers('project=~".+"'), NOW, NOW + timedelta(hours=1), EVIL, EVIL, NOW
        )

    await daemon.store.write(put)
    part = quote(EVIL, safe="")
    places = [
        *LISTS,
        f"/alerts/{alert.id}",
        f"/scenarios/prod/{part}/{part}",
        f"/runs/prod/{part}/{part}/{quote(run.run_id, safe='')}",
    ]
    for place in [*places, *(f"{name}?q={part}&group=project" for name in ("/alerts", "/search", "/deliveries"))]:
        text = await page(client, place)
        assert EVIL not in text, place
        assert not re.search(r"<script>|href=\"javascript:", text), place
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=", text), place


async def test_the_policy_forbids_what_is_inline_and_what_is_from_elsewhere(client: ClientSession) -> None:
    async with client.get("/") as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "form-action 'self'" in policy
    assert "unsafe" not in policy


async def test_style_script_and_icon_are_served_and_nothing_else_is(client: ClientSession) -> None:
    for name, status in (("tocsin.css", 200), ("tocsin.js", 200), ("base.html", 404), ("..%2f__init__.py", 404)):
        async with client.get(f"/static/{name}") as answer:
            assert (name, answer.status) == (name, status)
    async with client.get("/static/icon.svg?firing=7") as answer:
        assert ">7</text>" in await answer.text()
    async with client.get("/static/icon.svg?firing=<x>") as answer:
        assert "<x>" not in await answer.text()


async def test_a_daemon_that_is_not_ready_says_so_on_its_pages(client: ClientSession, daemon: Daemon) -> None:
    daemon.not_ready = f"not yet, says {KEY.node}"
    assert "Not ready: not yet, says prod" in words(await page(client))


async def test_the_live_stream_says_that_something_changed(client: ClientSession, daemon: Daemon) -> None:
    async with client.get("/live") as answer:
        assert answer.content_type == "text/event-stream"
        await answer.content.readuntil(b"\n\n")
        await daemon.store.write(fill)
        await answer.content.readuntil(b"event: change")


async def test_a_receiver_is_tested_from_its_page(client: ClientSession, daemon: Daemon) -> None:
    daemon.config = replace(
        daemon.config,
        receivers=(
            Receiver("ops", (Channel("pager", "ops", webhook=InlineSecret("http://127.0.0.1:1/")),)),
            Receiver("none"),
        ),
    )
    status, _, text = await sent(client, "/routes/ops/test")
    assert status == 200
    assert "Test of ops" in words(text)
    assert re.search(r"pager</td><td[^>]*>firing</td><td[^>]*><span class=\"bad\">failed", text)
    assert "It has no channel" in (await sent(client, "/routes/none/test"))[2]
    assert (await sent(client, "/routes/other/test"))[0] == 404


async def test_forms_are_shown_to_operators_alone_and_carry_the_token_of_their_page(
    daemon: Daemon, tokens: dict[str, str], serve: Serve
) -> None:
    daemon.config = replace(daemon.config, receivers=(Receiver("ops", (Channel("pager", "ops"),)),))
    await daemon.store.write(fill)
    daemon.known = {an_alert().id}
    pages = ["/alerts", f"/alerts/{an_alert().id}", "/silences", "/routes", "/status", "/deliveries?state=dead"]
    for role, shown in (("viewer", False), ("operator", True)):
        client = await serve()
        client.cookie_jar._unsafe = True  # type: ignore[attr-defined] # the jar keeps no cookies of addresses by itself
        async with client.post("/login", data={"token": tokens[role]}) as answer:
            text = await answer.text()
        assert f"{role}-token" in text
        assert "Log out" in text
        for place in pages:
            text = await page(client, place)
            main = text[text.index("<main") :]
            posts = [
                form for form in re.findall(r"<form method=\"post\".*?</form>", main, re.DOTALL) if "<button" in form
            ]
            asks = posts or 'formaction="silences/new"' in main or "silences/new?" in main
            assert bool(asks) is shown, (role, place)
            assert all('name="csrf"' in form for form in posts), place
        csrf = re.findall(r'name="csrf" value="(\w+)"', await page(client, "/status"))[0]
        ack = f"/alerts/{an_alert().id}/ack"
        assert (await sent(client, ack, by="mallory"))[0] == 403, "without the token of its page"
        assert (await sent(client, ack, by="mallory", csrf=csrf))[0] == (303 if shown else 403)
    assert [held.by for _, held in daemon.acknowledged if held] == ["operator-token"], (
        "who is known cannot name another"
    )


async def test_alerts_of_others_need_no_label_of_ours(client: ClientSession, daemon: Daemon) -> None:
    for labels in ({}, {"severity": "page"}, {"scenario": "S"}, {"instance": "db:9100"}):
        alert = an_alert(labels=labels, id=f"{len(str(labels)):032x}", fingerprint=str(labels)[:32])
        insert = schema.alerts.insert().values(
            id=alert.id, fingerprint=alert.fingerprint, rule="", labels=labels, annotations={}, starts_at=NOW, count=1,
            updated_at=NOW, was_active=False, alertname="", node="", project="", scenario=labels.get("scenario", ""),
        )  # fmt: skip
        await daemon.store.write(lambda connection, statement: connection.execute(statement) and None, insert)
        for place in ("/", "/alerts", "/alerts?group=scenario", f"/alerts/{alert.id}", f"/alerts/act?id={alert.id}",
                      f"/silences/new?id={alert.id}", "/search?q=S"):  # fmt: skip
            assert "error of Tocsin" not in words(await page(client, place))
