"""What no page of ours sends, and others do: forms in disguise, broken headers, values out of bounds."""

import asyncio
import base64
import re
from dataclasses import replace
from html import unescape
from itertools import product

import pytest
from aiohttp import ClientSession
from sqlalchemy import select

from tests.web.harness import Daemon
from tests.web.rows import NOW, a_run, ago, an_alert, an_event, put_alert, put_notification, put_scenario
from tests.web.test_web_pages import page, sent, words
from tocsin.config.model import Rule
from tocsin.config.problems import ReloadResult
from tocsin.decide.decide import acknowledge
from tocsin.model.alert import Acknowledgement, EndReason
from tocsin.model.labels import Matcher, Op, parse_matcher
from tocsin.model.notification import EventNotice
from tocsin.model.run import ScenarioKey
from tocsin.store import Connection, console, schema
from tocsin.web import stream
from tocsin.web.access import COOKIE


async def head(client: ClientSession, request: str, *headers: str, body: str = "") -> int:
    """The status that answers this request, byte for byte."""
    host, port = client._base_url.host, client._base_url.port  # type: ignore[union-attr]
    reader, writer = await asyncio.open_connection(host, port)
    lines = (
        f"{request} HTTP/1.1",
        f"Host: {host}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
        "",
        body,
    )
    writer.write("\r\n".join(lines).encode("latin-1"))
    async with asyncio.timeout(10):
        status = int((await reader.readuntil(b"\r\n")).split()[1])
    writer.close()
    return status


async def test_requests_that_cannot_be_read_are_refused_and_are_no_error_of_tocsin(
    client: ClientSession, daemon: Daemon, tokens: dict[str, str]
) -> None:
    cookie = f"Cookie: {COOKIE}=" + "61.99999999999.\xff"
    for target in ("OPTIONS *", "GET http://localhost", "CONNECT host:80", "GET /nothing"):
        assert await head(client, target, "Accept: text/html") < 500, target
    assert await head(client, "GET /api/v1/runs", f"{cookie}", "Accept: text/html") == 401
    name = b"viewer-token".hex()
    assert await head(client, "GET /api/v1/runs", f"Cookie: {COOKIE}={name}.99999999999.\xff") == 401
    basic = "Authorization: Basic " + base64.b64encode(f":{tokens['operator']}".encode()).decode()
    broken = (
        "multipart/form-data",
        "application/x-www-form-urlencoded; charset=nope",
        "multipart/form-data; boundary=x",
    )
    for place, kind in product(("/login", "/-/reload", "/silences/new"), broken):
        assert await head(client, f"POST {place}", f"Content-Type: {kind}", basic, body="a=%ff") == 400, (place, kind)


async def test_a_post_without_a_content_type_counts_as_a_form_where_a_browser_knows_the_password(
    client: ClientSession, daemon: Daemon, tokens: dict[str, str]
) -> None:
    basic = "Authorization: Basic " + base64.b64encode(f":{tokens['operator']}".encode()).decode()
    assert await head(client, "POST /-/reload", basic) == 403
    assert await head(client, "POST /-/reload", basic, "Content-Type: application/json") == 200
    assert await head(client, "POST /-/reload", f"Authorization: Bearer {tokens['operator']}") == 200
    assert await head(client, "DELETE /api/v1/silences/x", basic) == 404, "no form can send it"


async def silences(client: ClientSession) -> list[list[str]]:
    async with client.get("/api/v1/silences") as answer:
        return [silence["matchers"] for silence in (await answer.json())["items"]]


async def test_forms_have_the_limits_of_the_api(client: ClientSession, daemon: Daemon) -> None:
    daemon.known = {an_alert().id}
    await daemon.store.write(put_alert, an_alert())
    many, ack = "\n".join(f'project=~"{n}.*"' for n in range(60)), f"/alerts/{an_alert().id}/ack"
    for fields in ({"matchers": many}, {"matchers": 'a="b"', "by": "x" * 201}, {"matchers": 'a="b"', "comment": "x" * 2001},
                   {"matchers": f'a="{"b" * 2000}"'}, {"matchers": 'a="b"', "duration": "0s"}):  # fmt: skip
        assert (await sent(client, "/silences/new", **fields))[0] == 400, fields
    for fields in ({"by": "x" * 201}, {"comment": "x" * 2001}, {"duration": "0s"}, {"duration": "9" * 60 + "d"}):
        assert (await sent(client, ack, **fields))[0] == 400, fields
    assert (await silences(client), daemon.acknowledged) == ([], [])


async def test_a_preview_creates_nothing_and_puts_no_token_into_the_address(
    client: ClientSession, daemon: Daemon
) -> None:
    assert "formmethod" not in await page(client, "/silences/new")
    status, _, text = await sent(client, "/silences/new", matchers='project="SALES"', comment="why", preview="1")
    assert (status, 'value="why"' in text, await silences(client)) == (200, True, [])


async def test_a_silence_of_an_alert_covers_that_alert_alone_and_may_name_labels_of_others(
    client: ClientSession, daemon: Daemon
) -> None:
    daemon.config = replace(daemon.config, rules=(Rule("ScenarioFailed", "failed"),))
    strange = "a\r\u0085\u2028b"
    labels = {
        "alertname": "ChannelFailing",
        "severity": "critical",
        "channel": "pager",
        "receiver": "ops",
        "team": strange,
    }
    alerts = [
        an_alert(id="a" * 32, fingerprint="a" * 32, labels=labels),
        an_alert(id="b" * 32, fingerprint="b" * 32, labels=labels | {"channel": "mail"}),
    ]
    for alert in alerts:
        await daemon.store.write(put_alert, alert)

    async def filled(query: str) -> str:
        return unescape(
            re.findall(r"<textarea[^>]*>(.*?)</textarea>", await page(client, f"/silences/new?{query}"), re.S)[0]
        )

    alone = await filled(f"id={alerts[0].id}")
    assert {parse_matcher(line) for line in alone.split("\n")} == {Matcher(*pair) for pair in (
        (name, Op.EQUAL, value) for name, value in labels.items()
    )}  # fmt: skip
    assert 'channel=~"mail|pager"' in await filled(f"id={alerts[0].id}&id={alerts[1].id}")
    _, _, shown = await sent(client, "/silences/new", matchers=alone.replace("\n", "\r\n"), preview="1")
    assert "no alert has the label" in words(shown)
    assert "1 firing alert:" in words(shown)
    assert (await sent(client, "/silences/new", matchers=alone.replace("\n", "\r\n")))[0] == 303


async def test_lists_answer_what_their_links_ask_and_the_last_page_stands_for_those_beyond_it(
    client: ClientSession, daemon: Daemon
) -> None:
    tag = 'a"b\\c'

    def fill(connection: Connection) -> None:
        put_alert(connection, an_alert())
        put_scenario(connection, tags=(tag,))
        put_scenario(connection, ScenarioKey("prod", "OTHER", "NIGHTLY"), name="Nightly run", tags=())

    await daemon.store.write(fill)
    assert "ScenarioFailed" in await page(client, "/alerts?page=7")
    assert "NIGHTLY name" in await page(client, "/scenarios?page=7")
    for sort in ("state", "-state", "project", "-project"):
        await page(client, f"/scenarios?sort={sort}")
    listed = await page(client, "/scenarios?sort=-project")
    assert listed.index("SALES") < listed.index("OTHER")
    (link,) = re.findall(r'<a class="tag small" href="([^"]*)"', listed)
    found = words(await page(client, "/scenarios" + unescape(link)))
    assert ("NIGHTLY name" in found, "Nightly run" in found) == (True, False)
    daemon.config = replace(daemon.config, rules=(Rule("ScenarioFailed", "failed"),))
    for place, sentence in (("prod/OTHER/NONE", "no scenario"), ("GHTLY", "no scenario"), ("NIGHTLY", "several scenarios"),
                            ("prod/OTHER/NIGHTLY", "ScenarioFailed"), ("Nightly run", "ScenarioFailed")):  # fmt: skip
        assert sentence in words(await page(client, f"/routes?scenario={place}")), place


async def test_pages_say_what_became_of_a_reload_and_stay_when_it_is_an_error(
    client: ClientSession, daemon: Daemon
) -> None:
    daemon.reload_result = ReloadResult(NOW, ("broken",))
    _, location, _ = await sent(client, "/status/reload")
    assert "errors" in words(await page(client, "/" + location.removeprefix("../")))
    assert "data-still" in await page(client, "/nothing", 404)


async def test_who_takes_an_acknowledgement_back_is_recorded(daemon: Daemon) -> None:
    def take_back(connection: Connection) -> list[str]:
        put_alert(connection, an_alert())
        for held in (Acknowledgement("ann", NOW), None):
            acknowledge(connection, an_alert().id, held, NOW, "bob")
        return list(connection.execute(select(schema.decisions.c.note)).scalars())

    assert await daemon.store.write(take_back) == ["by ann", "nobody has it, says bob"]


async def test_pages_that_listen_keep_no_tool_from_its_events(
    client: ClientSession, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_STREAMS", 2)
    pages = [await client.get("/live") for _ in range(2)]
    async with client.get("/live") as refused, client.get("/api/v1/events/stream") as answer:
        assert (refused.status, answer.status) == (503, 200)
    for opened in pages:
        opened.close()


async def test_searched_lists_find_what_is_old_by_its_id_and_say_where_they_are_cut(
    client: ClientSession, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(connection: Connection) -> None:
        for number in range(4):
            put_notification(connection, f"d{number}", EventNotice(an_event(a_run()), "nightly"))
            ended = an_alert(id=str(number) * 32, fingerprint=str(number) * 32, ends_at=ago(minutes=number))
            put_alert(connection, replace(ended, end_reason=EndReason.RESOLVED))
        connection.execute(schema.outbox.update().values(state="dead"))

    monkeypatch.setattr(console, "MOST_LISTED", 2)
    monkeypatch.setattr(console, "MOST_ENDED", 3)
    await daemon.store.write(fill)
    for query, expected in (("q=d0", ["d0"]), ("state=dead&q=nightly", ["d3", "d2"]), ("channel=ops-slack&q=nope", [])):
        assert re.findall(r'data-key="(d\d)"', await page(client, f"/deliveries?{query}")) == expected
    assert "Send all 2+ that match" in words(await page(client, "/deliveries?state=dead&q=nightly"))
    assert "1–3 of 3 of the newest" in words(await page(client, "/alerts?state=resolved&q=ScenarioFailed"))


async def test_what_cannot_be_read_stays_in_its_field_and_filters_stay_after_a_change(
    client: ClientSession, daemon: Daemon
) -> None:
    await daemon.store.write(put_alert, an_alert())
    for place in ("/alerts", "/scenarios"):
        text = await page(client, f"{place}?matcher=x%3D~%5B&matcher=severity%3Dwarning")
        (broken,) = re.findall(r'<input name="matcher" value="([^"]*)"', text)
        assert (broken, text.count('type="hidden" name="matcher"')) == ("x=~[", 1)
    text = await page(client, "/deliveries?since=nonsense&state=dead")
    assert "write a time like" in words(text)
    assert 'value="nonsense"' in text
    assert (await sent(client, "/deliveries/retry", id="d", q="a b"))[1] == "../deliveries?q=a+b&done=retry"
    daemon.known = {an_alert().id}
    async with client.post(
        "/alerts/act", data=[("do", "ack"), ("id", an_alert().id), ("id", "f" * 32)], allow_redirects=False
    ) as answer:
        assert answer.headers["Location"] == "../alerts?done=some"


async def test_who_is_asked_for_a_token_by_a_form_comes_back_to_its_page(
    client: ClientSession, daemon: Daemon, tokens: dict[str, str]
) -> None:
    for place, following in (("/alerts/x/ack", "../../login?next=alerts%2Fx"), ("/silences/new", "../login?next=silences%2Fnew"),
                             ("/silences/x/expire", "../../login?next=silences"), ("/logout", "login?next=")):  # fmt: skip
        assert (await sent(client, place))[:2] == (303, following)
