"""``doctor`` names the cause and the remedy of what commonly stands between Tocsin and the parts it needs."""

from datetime import UTC, datetime, timedelta

import pytest
import yaml
from aiohttp import web

from tests.fakedss import faults
from tests.fakedss.certs import make_certificate
from tests.fakedss.server import FakeDSS
from tests.fakedss.sinks import WebhookSink
from tocsin.cli.doctor import examine_parts
from tocsin.config import load_file
from tocsin.sim.services import EmulatedSlack, service_routes


@pytest.fixture
async def dss():
    async with FakeDSS() as dss:
        for project in ("SALES", "FIN"):
            dss.world.add_project(project)
            dss.world.add_scenario(project, "NIGHTLY")
        yield dss


@pytest.fixture
def examine(tmp_path, monkeypatch):
    """The results by part and check for a node with these settings, and for further sections."""

    async def examine(node, key="project-key", **sections):
        monkeypatch.setenv("NO_PROXY", "*")
        (tmp_path / "key").write_text(key)
        store = {"url": f"sqlite:///{tmp_path}/t.db"}
        nodes = [{"name": "prod", "api_key_file": "key", **node}]
        (tmp_path / "t.yaml").write_text(yaml.safe_dump({"nodes": nodes, "store": store, **sections}))
        found = await examine_parts(load_file(tmp_path / "t.yaml"))
        return {(part.partition(" ")[0], result.check): result for part, result in found}

    return examine


def failed(results):
    return {place for place, result in results.items() if result.result == "failed"}


async def test_all_that_works_is_said_to(dss, examine):
    async with WebhookSink() as sink:
        hook = {"name": "ops", "channels": [{"webhook": sink.url}]}
        results = await examine({"url": dss.url}, key="admin-key", receivers=[hook])
        assert sink.posts == []
    assert {result.result for result in results.values()} == {"ok"}
    assert "sees 2, 2 of them in scope" in results["node", "projects"].note
    assert "2 scenarios in scope" in results["node", "scenarios"].note
    assert dss.writes == []
    for place in (
        ("node", "version"),
        ("node", "clock"),
        ("node", "sweep"),
        ("store", "revision"),
        ("channel", "port"),
    ):
        assert place in results


@pytest.mark.parametrize("path", ["/projects/SALES/scenarios/", "/dip/publicapi", "/somewhere"])
async def test_an_address_with_a_path_too_much_gets_the_right_one(dss, examine, path):
    results = await examine({"url": dss.url + path})
    assert failed(results) == {("node", "api")}
    assert f"write url: {dss.url}," in results["node", "api"].remedy


@pytest.mark.parametrize(("secure", "check"), [(True, "api"), (False, "tls")])
async def test_the_other_scheme_is_found(tmp_path, examine, secure, check):
    async with FakeDSS(tls=make_certificate(tmp_path) if secure else None) as dss:
        schemes = ("https:", "http:") if secure else ("http:", "https:")
        results = await examine({"url": dss.url.replace(*schemes)})
        assert failed(results) == {("node", check)}
        assert f"write url: {dss.url}," in results["node", check].remedy


@pytest.mark.parametrize(
    ("fault", "note", "remedy"),
    [
        (faults.html(200), "HTML page", "log-in page"),
        (faults.redirect("https://sso.example.com/login?x=1"), "https://sso.example.com/login that", "single sign-on"),
        (faults.html(502), "DSS failed", "the proxy before it"),
    ],
)
async def test_what_answers_in_place_of_dss_is_told(dss, examine, fault, note, remedy):
    dss.fail(fault)
    results = await examine({"url": dss.url})
    assert failed(results) == {("node", "api")}
    assert note in results["node", "api"].note
    assert remedy in results["node", "api"].remedy


async def test_a_gateway_that_wants_credentials_is_no_wrong_key(dss, examine):
    dss.fail(faults.html(401))
    dss.fail(faults.with_headers(DSS_Version=""))
    results = await examine({"url": dss.url})
    assert "headers" in results["node", "key"].remedy


async def test_a_key_is_told_apart_by_what_it_may(dss, examine):
    wrong = await examine({"url": dss.url}, key="wrong")
    empty = await examine({"url": dss.url}, key="\n")
    with dss.fail(faults.forbidden(), operation="projects"):
        no_projects = await examine({"url": dss.url})
    dss.hide_project("FIN")
    fewer = await examine({"url": dss.url, "projects": {"include": ["SALES", "FIN", "HR_*"]}})
    assert (failed(wrong), failed(empty)) == ({("node", "key")}, {("node", "key")})
    assert "make a key" in wrong["node", "key"].remedy
    assert "api_key_file" in empty["node", "key"].remedy
    assert failed(no_projects) == {("node", "projects")}
    assert failed(fewer) == {("node", "projects")}
    assert "none of FIN, HR_*" in fewer["node", "projects"].note
    assert fewer["node", "sweep"].result == "warning"
    assert "sweep_api_key_file" in fewer["node", "sweep"].remedy


async def test_a_rule_about_a_project_that_no_key_sees_is_told(dss, examine):
    rule = {"alert": "Late", "kind": "failed", "match": ['project="HR"']}
    results = await examine({"url": dss.url}, rules=[rule])
    assert failed(results) == {("configuration", "projects")}
    assert "the rule Late names HR" in results["configuration", "projects"].note


async def test_a_clock_ten_minutes_off_is_told(dss, examine):
    dss.jump(timedelta(minutes=-10))
    results = await examine({"url": dss.url})
    assert failed(results) == {("node", "clock")}
    assert "10m" in results["node", "clock"].note
    assert "behind" in results["node", "clock"].note
    assert "NTP" in results["node", "clock"].remedy


async def test_a_proxy_in_between_is_named(dss, examine):
    results = await examine({"url": dss.url, "proxy": "http://u:secret@127.0.0.1:9"})
    assert failed(results) == {("node", "port")}
    assert "through the proxy 127.0.0.1:9" in results["node", "port"].note
    assert "NO_PROXY" in results["node", "port"].remedy
    assert "secret" not in repr(results)


async def test_certificates_that_do_not_hold_are_told_apart(tmp_path, examine):
    expired, good = make_certificate(tmp_path / "old", expired=True), make_certificate(tmp_path / "new")
    async with FakeDSS(tls=expired) as dss:
        ended = await examine({"url": dss.url, "tls": {"ca_file": str(expired.cert_file)}})
        dss.show_certificate(good)
        unknown = await examine({"url": dss.url})
        trusted = await examine({"url": dss.url, "tls": {"ca_file": str(good.cert_file)}})
        unchecked = await examine({"url": dss.url, "tls": {"verify": False}})
    assert "renew the certificate" in ended["node", "tls"].remedy
    assert "tls.ca_file" in unknown["node", "tls"].remedy
    assert trusted["node", "tls"].result == "ok"
    assert unchecked["node", "tls"].result == "warning"


async def test_a_slack_token_without_scopes_is_told_by_slack_alone(dss, examine, tmp_path):
    slack = EmulatedSlack(lambda: datetime.now(UTC), "xoxb-1")
    app = web.Application()
    app.add_routes(service_routes(slack))
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    (tmp_path / "slack").write_text("xoxb-1")

    async def token():
        url = f"http://127.0.0.1:{port}/slack/api"
        channel = {"slack": {"token_file": "slack", "channel": "#dss-alerts", "api_url": url}}
        results = await examine({"url": dss.url}, receivers=[{"name": "ops", "channels": [channel]}])
        return results["channel", "token"]

    port = runner.addresses[0][1]
    good = await token()
    slack.scopes = frozenset({"users:read"})
    lacking = await token()
    slack.secret = "another"
    wrong = await token()
    await runner.cleanup()
    offline = await token()
    assert (good.result, lacking.result, wrong.result, offline.result) == ("ok", "failed", "failed", "skipped")
    assert "chat:write" in lacking.remedy
    assert "only Slack can tell" in offline.note
    assert slack.messages == {}


async def test_channels_are_reached_without_sending(dss, examine, tmp_path):
    urls = ["mailto://127.0.0.1:9?from=a@example.org&to=b@example.org", "json://no.such.host.invalid/x"]
    channels = [{"name": str(number), "url": url} for number, url in enumerate(urls)]
    results = await examine({"url": dss.url}, receivers=[{"name": "ops", "channels": channels}])
    assert failed(results) == {("channel", "port"), ("channel", "name")}


@pytest.mark.e2e
async def test_the_verb_prints_a_table_and_exits_by_its_answer(dss, tmp_path):
    from tests.cli.driven import driven

    async with driven(tmp_path) as cli:
        good = await cli.run("doctor", TOCSIN_STATE=str(tmp_path), XDG_STATE_HOME=str(tmp_path))
        bad = await cli.run("doctor", "--json", key="wrong", XDG_STATE_HOME=str(tmp_path))
    assert (good.code, bad.code) == (0, 1), (good, bad)
    assert good.lines[0].split() == ["PART", "CHECK", "RESULT", "NOTE"]
    assert bad.json["ok"] is False
    (row,) = [row for row in bad.json["checks"] if row["result"] == "failed"]
    assert row.keys() == {"part", "check", "result", "note", "remedy"}
    assert (row["part"], row["check"]) == ("node 127.0.0.1", "key")
