"""Definitions: read, change, write back, and notice who else did."""

import copy
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from tocsin.dss import DSSConflict, PythonScriptBasedScenarioSettings, StepBasedScenarioSettings

NEW_YEAR = datetime(2026, 1, 31, 23, 30, tzinfo=UTC)


class Clock:
    def now(self) -> datetime:
        return NEW_YEAR

    def monotonic(self) -> float:
        return 0.0


class Shelf:
    """One scenario as DSS keeps it: each save makes a new version."""

    def __init__(self, type: str = "step_based", **more: Any) -> None:
        self.definition: dict[str, Any] = {
            "id": "S",
            "type": type,
            "active": True,
            "triggers": [],
            "reporters": [],
            "params": {"steps": [{"id": "s1"}]},
            "unknownToUs": {"deep": [1, None, "é"]},
        } | more
        self.script = "print(1)"
        self.save_as("ann")

    def save_as(self, login: str) -> None:
        number = self.definition.get("versionTag", {}).get("versionNumber", 0) + 1
        self.definition["versionTag"] = {"versionNumber": number, "lastModifiedBy": {"login": login}}

    async def __call__(self, request: web.BaseRequest) -> Any:
        match request.method, request.path.rsplit("/", 1)[1]:
            case "GET", "payload":
                return {"script": self.script}
            case "PUT", "payload":
                self.script = (await request.json())["script"]
                return {"msg": "ok"}
            case "GET", "S":
                return self.definition
            case "PUT", "S":
                tag = self.definition["versionTag"]
                self.definition = await request.json() | {"versionTag": tag}
                self.save_as("tocsin")
                return {"msg": "ok"}
        return web.Response(status=404)


async def settings_of(serve: Any, connect: Any, shelf: Shelf) -> Any:
    client = connect(await serve(shelf), clock=Clock())
    return await client.get_project("P").get_scenario("S").get_settings()


async def test_the_type_of_a_scenario_decides_the_class_of_its_settings(serve: Any, connect: Any) -> None:
    steps = await settings_of(serve, connect, Shelf())
    script = await settings_of(serve, connect, Shelf("custom_python"))
    assert (type(steps), steps.raw_steps) == (StepBasedScenarioSettings, [{"id": "s1"}])
    assert (type(script), script.code) == (PythonScriptBasedScenarioSettings, "print(1)")


async def test_what_is_changed_is_saved_and_what_is_unknown_survives(serve: Any, connect: Any) -> None:
    shelf = Shelf()
    settings = await settings_of(serve, connect, shelf)
    unknown = copy.deepcopy(shelf.definition["unknownToUs"])
    settings.active = False
    settings.raw_steps.append({"id": "s2"})
    settings.raw_reporters.append({"name": "r"})
    settings.get_raw()["shortDesc"] = "short"
    await settings.save()
    assert shelf.definition["active"] is settings.active is False
    assert [step["id"] for step in shelf.definition["params"]["steps"]] == ["s1", "s2"]
    assert shelf.definition["reporters"] == [{"name": "r"}]
    assert shelf.definition["shortDesc"] == "short"
    assert shelf.definition["unknownToUs"] == unknown


async def test_a_save_by_somebody_else_is_a_conflict_and_nothing_is_written(serve: Any, connect: Any) -> None:
    shelf = Shelf()
    settings = await settings_of(serve, connect, shelf)
    shelf.definition["name"] = "theirs"
    shelf.save_as("bob")
    settings.active = False
    with pytest.raises(DSSConflict, match="P/S was saved by bob") as caught:
        await settings.save()
    assert caught.value.changed_by == "bob"
    assert shelf.definition["active"] is True
    await settings.save(force=True)
    assert shelf.definition["active"] is False


async def test_one_object_can_be_saved_again_and_again(serve: Any, connect: Any) -> None:
    shelf = Shelf()
    settings = await settings_of(serve, connect, shelf)
    for active in (False, True, False):
        settings.active = active
        await settings.save()
        assert shelf.definition["active"] is active
    assert settings.get_raw()["versionTag"]["versionNumber"] == 4
    shelf.save_as("bob")
    with pytest.raises(DSSConflict):
        await settings.save()


async def test_without_a_version_tag_the_definition_itself_is_compared(serve: Any, connect: Any) -> None:
    dss = await serve({"id": "S", "type": "step_based", "name": "a"})
    settings = await connect(dss).get_project("P").get_scenario("S").get_settings()
    settings.active = True
    await settings.save()
    dss.answer = {"id": "S", "type": "step_based", "name": "b"}
    with pytest.raises(DSSConflict, match="an unknown user"):
        await settings.save()


async def test_a_script_is_saved_and_a_script_saved_by_somebody_else_is_a_conflict(serve: Any, connect: Any) -> None:
    shelf = Shelf("custom_python")
    settings = await settings_of(serve, connect, shelf)
    settings.code = "print(2)"
    await settings.save()
    settings.code = "print(3)"
    await settings.save()
    assert shelf.script == "print(3)"
    shelf.script = "theirs"
    with pytest.raises(DSSConflict):
        await settings.save()
    assert shelf.script == "theirs"


async def test_missing_lists_are_made_when_they_are_first_used(serve: Any, connect: Any) -> None:
    settings = await connect(await serve({"type": "step_based"})).get_project("P").get_scenario("S").get_settings()
    settings.raw_steps.append({"id": "s"})
    assert (settings.raw_triggers, settings.raw_reporters) == ([], [])
    assert settings.get_raw()["params"] == {"steps": [{"id": "s"}]}


@pytest.mark.parametrize(
    ("more", "run_as", "effective"),
    [({"runAsUser": "svc"}, "svc", "svc"), ({}, None, "ann"), ({"runAsUser": None}, None, "ann")],
)
async def test_a_scenario_runs_as_its_user_else_as_its_last_modifier(
    serve: Any, connect: Any, more: dict[str, Any], run_as: str | None, effective: str
) -> None:
    settings = await settings_of(serve, connect, Shelf(**more))
    assert (settings.run_as, settings.effective_run_as) == (run_as, effective)


async def test_the_run_as_user_is_set_by_name_and_removed_by_none(serve: Any, connect: Any) -> None:
    shelf = Shelf()
    settings = await settings_of(serve, connect, shelf)
    settings.run_as = "svc"
    await settings.save()
    assert shelf.definition["runAsUser"] == "svc"
    settings.run_as = None
    await settings.save()
    assert "runAsUser" not in shelf.definition


async def test_without_any_tag_nobody_is_known_to_run_it(serve: Any, connect: Any) -> None:
    for raw, login in (({}, None), ({"creationTag": {"lastModifiedBy": {"login": "eve"}}}, "eve")):
        settings = await connect(await serve(raw)).get_project("P").get_scenario("S").get_settings()
        assert settings.effective_run_as == login


# Triggers


@pytest.fixture
def paris(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Paris")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("paris")
async def test_triggers_are_written_as_dss_writes_them(serve: Any, connect: Any) -> None:
    settings = await settings_of(serve, connect, Shelf())
    settings.add_periodic_trigger(every_minutes=15)
    settings.add_hourly_trigger(minute_of_hour=5, starting_hour=3)
    settings.add_daily_trigger(hour=4, minute=30, days=["Monday"], year=2026, month=7, day=1)
    settings.add_daily_trigger()
    settings.add_monthly_trigger(run_on="LAST_WEEK", timezone="America/New_York", month=7, day=15)
    settings.add_monthly_trigger(day=31)
    assert settings.raw_triggers == [
        {"active": True, "type": "temporal", "params": params}
        for params in (
            {"frequency": "Minutely", "repeatFrequency": 15},
            {
                "frequency": "Hourly",
                "repeatFrequency": 1,
                "hour": 3,
                "minute": 5,
                "startingFrom": "2026-02-01T00:00:00.000+0100",  # already February in Paris
                "timezone": "SERVER",
            },
            {
                "frequency": "Weekly",
                "daysOfWeek": ["Monday"],
                "repeatFrequency": 1,
                "hour": 4,
                "minute": 30,
                "startingFrom": "2026-07-01T00:00:00.000+0200",
                "timezone": "SERVER",
            },
            {
                "frequency": "Daily",
                "repeatFrequency": 1,
                "hour": 2,
                "minute": 0,
                "startingFrom": "2026-02-01T00:00:00.000+0100",
                "timezone": "SERVER",
            },
            {
                "frequency": "Monthly",
                "monthlyRunOn": "LAST_WEEK",
                "repeatFrequency": 1,
                "hour": 2,
                "minute": 0,
                "startingFrom": "2026-07-15T00:00:00.000-0400",
                "timezone": "America/New_York",
            },
            {
                "frequency": "Monthly",
                "monthlyRunOn": "ON_THE_DAY",
                "repeatFrequency": 1,
                "hour": 2,
                "minute": 0,
                "startingFrom": "2026-01-31T00:00:00.000+0100",
                "timezone": "SERVER",
            },
        )
    ]


@pytest.mark.parametrize("wrong", [{"timezone": "Europe/Pari"}, {"month": 13}, {"month": 2, "day": 30}])
async def test_a_day_or_zone_that_does_not_exist_is_refused(serve: Any, connect: Any, wrong: dict[str, Any]) -> None:
    settings = await settings_of(serve, connect, Shelf())
    with pytest.raises(ValueError, match=r"."):
        settings.add_daily_trigger(**wrong)
    assert settings.raw_triggers == []
