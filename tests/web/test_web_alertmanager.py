"""Alertmanager's API v2: its shapes, its filters, alerts of others, and the requests that its clients make."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import yaml
from aiohttp import ClientSession
from sqlalchemy import Connection

from tests.web.harness import Daemon
from tests.web.rows import NOW, an_alert, put_alert
from tocsin.config.intervals import TimeInterval, TimeRange
from tocsin.config.model import InhibitRule, Receiver, Route, build_tree
from tocsin.decide.evaluate import CompiledConfig
from tocsin.decide.reconcile import reconcile
from tocsin.decide.timers import decide_time
from tocsin.kit.clock import isoformat
from tocsin.model.labels import parse_matchers
from tocsin.model.run import ScenarioKey
from tocsin.store import alerts

Shape = Mapping[str, type]
# The fields that Alertmanager's document requires, with their types.
ALERT: Shape = {"labels": dict, "annotations": dict, "receivers": list, "fingerprint": str, "startsAt": str, "updatedAt": str,
         "endsAt": str, "status": dict}  # fmt: skip
ALERT_STATUS: Shape = {"state": str, "silencedBy": list, "inhibitedBy": list, "mutedBy": list}
GROUP: Shape = {"labels": dict, "receiver": dict, "alerts": list}
SILENCE: Shape = {"id": str, "status": dict, "updatedAt": str, "matchers": list, "startsAt": str, "endsAt": str, "createdBy": str,
           "comment": str}  # fmt: skip
MATCHER: Shape = {"name": str, "value": str, "isRegex": bool, "isEqual": bool}
STATUS: Shape = {"cluster": dict, "versionInfo": dict, "config": dict, "uptime": str}
VERSION: Shape = dict.fromkeys(("version", "revision", "branch", "buildUser", "buildDate", "goVersion"), str)


def check(value: dict[str, Any], shape: Shape) -> None:
    assert {name: type(value.get(name)) for name in shape} == shape


async def ask(client: ClientSession, method: str, path: str, status: int = 200, **more: Any) -> Any:
    async with client.request(method, f"/api/v2/{path}", **more) as answer:
        body = await answer.json() if await answer.read() else None
        assert answer.status == status, body
        if status >= 400:
            assert isinstance(body, str), "refusals are texts"
        return body


def a_route(**changes: Any) -> Route:
    return build_tree(
        Route(
            "ops",
            group_by=("alertname", "dss_node", "project"),
            routes=(Route("crit", matchers=parse_matchers("severity=critical"), **changes),),
        )
    )


@pytest.fixture
async def lively(daemon: Daemon) -> Daemon:
    always = TimeInterval(
        "always", (TimeRange(weekdays=((1, 5), (0, 0), (6, 6)), times=((0, 1440),), location="Europe/Paris"),)
    )
    inhibit = InhibitRule(parse_matchers("alertname=NodeDown"), parse_matchers("project=CRM"), ("dss_node",))
    more: dict[str, Any] = {"receivers": (Receiver("ops"), Receiver("crit")), "route": a_route(), "time_intervals": (always,),
            "inhibit_rules": (inhibit,)}  # fmt: skip
    daemon.config = replace(daemon.config, **more)

    def fill(connection: Connection) -> None:
        put_alert(connection, an_alert())
        put_alert(connection, an_alert(key=ScenarioKey("prod", "CRM", "A")))
        put_alert(connection, an_alert("NodeDown", key=ScenarioKey("prod", "", ""), severity="critical"))

    await daemon.store.write(fill)
    return daemon


def a_silence(*matchers: tuple[str, str], hours: float = 2, **changes: Any) -> dict[str, Any]:
    return {
        "matchers": [{"name": name, "value": value, "isRegex": False} for name, value in matchers],
        "startsAt": isoformat(NOW), "endsAt": isoformat(NOW + timedelta(hours=hours)), "createdBy": "ann", "comment": "",
    } | changes  # fmt: skip


async def test_status_and_receivers_are_as_described(client: ClientSession, lively: Daemon) -> None:
    status = await ask(client, "GET", "status")
    check(status, STATUS)
    check(status["versionInfo"], VERSION)
    assert status["cluster"]["status"] in ("ready", "settling", "disabled")
    shown = yaml.safe_load(status["config"]["original"])
    assert shown["route"]["routes"][0]["receiver"] == "crit"
    assert shown["time_intervals"][0]["time_intervals"] == [
        {"times": [{"start_time": "00:00", "end_time": "24:00"}], "weekdays": ["monday:friday", "sunday", "saturday"],
         "location": "Europe/Paris"}
    ]  # fmt: skip
    assert await ask(client, "GET", "receivers") == [{"name": "ops"}, {"name": "crit"}]


async def test_alerts_and_groups_are_as_described(client: ClientSession, lively: Daemon) -> None:
    await ask(client, "POST", "silences", json=a_silence(("project", "SALES")))
    found = await ask(client, "GET", "alerts")
    for alert in found:
        check(alert, ALERT)
        check(alert["status"], ALERT_STATUS)
        assert alert["status"]["state"] in ("unprocessed", "active", "suppressed")
    by_project = {alert["labels"]["project"]: alert for alert in found}
    assert by_project["SALES"]["status"]["silencedBy"] == [(await ask(client, "GET", "silences"))[0]["id"]]
    assert by_project["CRM"]["status"]["inhibitedBy"] == [by_project[""]["fingerprint"]]
    assert by_project[""]["status"] == {"state": "active", "silencedBy": [], "inhibitedBy": [], "mutedBy": []}
    assert by_project[""]["receivers"] == [{"name": "crit"}]
    groups = await ask(client, "GET", "alerts/groups")
    for group in groups:
        check(group, GROUP)
    assert [(group["receiver"]["name"], len(group["alerts"])) for group in groups] == [
        ("crit", 1),
        ("ops", 1),
        ("ops", 1),
    ]
    assert groups[1]["labels"] == {"alertname": "ScenarioFailed", "dss_node": "prod", "project": "CRM"}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "CRM SALES "), ("filter=project=SALES", "SALES"), ("filter=project%3D~%22S.%2B|C.%2B%22", "CRM SALES"),
        ("filter={project!=%22SALES%22,alertname=%22ScenarioFailed%22}", "CRM"), ("silenced=false", "CRM "),
        ("inhibited=false", "SALES "), ("active=false", "CRM SALES"), ("receiver=crit", ""), ("receiver=o.*", "CRM SALES"),
        ("filter=project=SALES&filter=project=CRM", None), ("silenced=true&active=true&inhibited=true&unprocessed=true&receiver=", "CRM SALES "),
    ],
)  # fmt: skip
async def test_alerts_are_filtered(client: ClientSession, lively: Daemon, query: str, expected: str | None) -> None:
    await ask(client, "POST", "silences", json=a_silence(("project", "SALES")))
    wanted = [] if expected is None else expected.split(" ")
    for path in ("alerts", "alerts/groups"):
        found = await ask(client, "GET", f"{path}?{query}")
        items = found if path == "alerts" else [alert for group in found for alert in group["alerts"]]
        assert sorted(alert["labels"]["project"] for alert in items) == sorted(wanted)


@pytest.mark.parametrize("path", ["alerts", "alerts/groups"])
@pytest.mark.parametrize("query", ["filter=project", "receiver=(", "silenced=maybe"])
async def test_a_filter_that_cannot_be_read_is_refused(client: ClientSession, path: str, query: str) -> None:
    await ask(client, "GET", f"{path}?{query}", 400)


async def test_silences_are_created_changed_and_expired(client: ClientSession, lively: Daemon) -> None:
    created = (await ask(client, "POST", "silences", json=a_silence(("project", "SALES"), ("a", "b"))))["silenceID"]
    silence = await ask(client, "GET", f"silence/{created}")
    check(silence, SILENCE)
    check(silence["matchers"][0], MATCHER)
    assert (len(created), silence["status"]) == (36, {"state": "active"})
    longer = silence | {"endsAt": isoformat(NOW + timedelta(hours=9)), "comment": "longer"}
    lively.clock.time = NOW + timedelta(minutes=1)
    assert (await ask(client, "POST", "silences", json=longer))["silenceID"] == created, "changed in place"
    assert (await ask(client, "GET", f"silence/{created}"))["comment"] == "longer"
    other = longer | {"matchers": [{"name": "project", "value": "C.+", "isRegex": True, "isEqual": True}]}
    second = (await ask(client, "POST", "silences", json=other))["silenceID"]
    assert second != created, "other matchers are another silence"
    states = {item["id"]: item["status"]["state"] for item in await ask(client, "GET", "silences")}
    assert states == {created: "expired", second: "active"}
    assert [item["id"] for item in await ask(client, "GET", "silences?filter=project=C.%2B")] == [second]
    assert (await ask(client, "GET", f"silence/{second}"))["matchers"] == other["matchers"]
    await ask(client, "DELETE", f"silence/{second}")
    assert (await ask(client, "GET", f"silence/{second}"))["status"]["state"] == "expired"
    later = a_silence(("a", "b"), startsAt=isoformat(NOW + timedelta(hours=1)))
    third = (await ask(client, "POST", "silences", json=later))["silenceID"]
    moved = later | {"id": third, "startsAt": isoformat(NOW + timedelta(minutes=90))}
    assert (await ask(client, "POST", "silences", json=moved))["silenceID"] == third


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"matchers": []}, 400), ({"endsAt": isoformat(NOW)}, 400), ({"createdBy": " "}, 400), ({"startsAt": "soon"}, 400),
        ({"matchers": [{"name": "a", "value": "(", "isRegex": True}]}, 400), ({"id": "unknown"}, 404),
        ({"matchers": [{"name": "a", "value": "", "isRegex": False}]}, 400), ({"comment": None}, 400),
        ({"matchers": [{"name": "a", "value": "\0", "isRegex": False}]}, 400),
    ],
)  # fmt: skip
async def test_a_silence_that_makes_no_sense_is_refused(
    client: ClientSession, changes: dict[str, Any], status: int
) -> None:
    await ask(client, "POST", "silences", status, json=a_silence(("project", "SALES")) | changes)
    assert await ask(client, "GET", "silences") == []


async def test_an_unknown_silence_is_not_found(client: ClientSession) -> None:
    for method in ("GET", "DELETE"):
        await ask(client, method, "silence/7a3a6a50-1b6c-4cbd-9a9b-9e2b5ea5f5ac", 404)


async def test_alerts_of_others_are_routed_silenced_renewed_and_end(client: ClientSession, lively: Daemon) -> None:
    posted = {"labels": {"alertname": "DiskFull", "severity": "critical", "empty": "", "scenario": "none of ours"},
              "annotations": {"summary": "full"}, "generatorURL": "http://prometheus/graph"}  # fmt: skip
    compiled = CompiledConfig(lively.config)

    async def post(**times: str) -> dict[str, Any] | None:
        await ask(client, "POST", "alerts", json=[posted | times])
        return await shown()

    async def shown() -> dict[str, Any] | None:
        found = await ask(client, "GET", "alerts?filter=alertname=DiskFull")
        return found[0] if found else None

    async def tick(**passed: float) -> None:
        lively.clock.time = NOW + timedelta(**passed)
        await lively.store.write(reconcile, compiled, lively.clock.time)
        await lively.store.write(decide_time, compiled, lively.clock.time)

    first = await post()
    assert first is not None
    assert first["endsAt"] == isoformat(NOW + timedelta(minutes=5))
    assert (first["receivers"], first["labels"].get("empty")) == ([{"name": "crit"}], None)
    await tick(minutes=4)
    again = await post()
    assert again is not None
    assert (again["startsAt"], again["endsAt"]) == (first["startsAt"], isoformat(NOW + timedelta(minutes=9)))
    await tick(minutes=6)
    assert await shown() is not None, "it was posted again"
    await tick(minutes=9)
    assert await shown() is None, "nobody posted it again"
    assert await post(endsAt=isoformat(NOW + timedelta(hours=1))) is not None
    assert await post(endsAt=isoformat(lively.clock.time)) is None, "it has ended"
    ended = (await lively.store.read(alerts.alerts_of_rule, "external", NOW - timedelta(days=1)))[-1]
    assert (ended.end_reason, ended.labels["alertname"]) == ("resolved", "DiskFull")


@pytest.mark.parametrize(
    "body",
    [b"{", b"{}", b'[{"labels": {}}]', b'[{"labels": {"a": ""}}]', b'[{"labels": {"a": 1}}]', b'[{"annotations": {}}]',
     b'[{"labels": {"a": "\\u0000"}}]', b'[{"labels": {"a": "b"}, "startsAt": "x"}]',
     b'[{"labels": {"a": "b"}, "startsAt": "2026-03-02T00:00:00Z", "endsAt": "2026-03-01T00:00:00Z"}]'],
)  # fmt: skip
async def test_an_alert_that_makes_no_sense_is_refused(client: ClientSession, body: bytes) -> None:
    await ask(client, "POST", "alerts", 400, data=body, headers={"Content-Type": "application/json"})
    assert await ask(client, "GET", "alerts") == []


async def test_grafana_and_karma_are_answered(client: ClientSession, lively: Daemon) -> None:
    """The requests of Grafana's data source and of karma, which looks for the version in the metrics."""
    await ask(client, "GET", "alerts/groups?silenced=true&inhibited=true&active=true")
    await ask(client, "GET", 'alerts?filter=severity%3D"critical"&silenced=false&inhibited=false&active=true')
    for path in ("status", "silences", "alerts", "alerts/groups", "receivers"):
        await ask(client, "GET", path)
    for path in ("/-/healthy", "/-/ready"):
        async with client.get(path) as answer:
            assert answer.status == 200
