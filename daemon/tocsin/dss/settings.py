"""A scenario's definition: read, change, write back.

DSS replaces the whole definition on a save and checks nothing: what this module does not know stays untouched, and a
save first looks whether somebody else has saved in between.
"""

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any, NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tocsin.dss import wire
from tocsin.dss.errors import DSSConflict
from tocsin.dss.fields import get_object, get_text
from tocsin.dss.wire import DSSHandle, Raw, ScenarioHandle


class DSSScenarioSettings(DSSHandle):
    """The definition; ``get_raw`` and the ``raw_…`` lists are references: change them, then ``save``."""

    def __init__(self, scenario: ScenarioHandle, data: Raw) -> None:
        super().__init__(scenario.client, scenario.project_key, scenario.id)
        self.scenario = scenario
        self.data = data
        self._version = _version(data)

    def get_raw(self) -> Raw:
        return self.data

    @property
    def active(self) -> bool:
        return bool(self.data.get("active"))

    @active.setter
    def active(self, active: bool) -> None:
        self.data["active"] = active

    @property
    def run_as(self) -> str | None:
        """Login of the user that the scenario runs as; None for its last modifier. Only admins may set another."""
        return get_text(self.data, "runAsUser")

    @run_as.setter
    def run_as(self, login: str | None) -> None:
        if login is None:
            self.data.pop("runAsUser", None)  # DSS takes a null for a user
        else:
            self.data["runAsUser"] = login

    @property
    def effective_run_as(self) -> str | None:
        """``run_as``, else the last modifier: a save by another user changes it. None: it probably cannot run."""
        return self.run_as or _modifier(self.data, "versionTag") or _modifier(self.data, "creationTag")

    @property
    def raw_triggers(self) -> list[Raw]:
        return _list(self.data, "triggers")

    @property
    def raw_reporters(self) -> list[Raw]:
        return _list(self.data, "reporters")

    def add_periodic_trigger(self, every_minutes: int = 5) -> None:
        self._add_time_trigger(frequency="Minutely", repeatFrequency=every_minutes)

    def add_hourly_trigger(
        self,
        minute_of_hour: int = 0,
        year: int | None = None,
        month: int | None = None,
        day: int | None = None,
        starting_hour: int = 0,
        repeat_every: int = 1,
        timezone: str = "SERVER",
    ) -> None:
        """Every ``repeat_every`` hours, from a day on (today unless given)."""
        when = self._from(year, month, day, timezone, repeat_every)
        self._add_time_trigger(frequency="Hourly", hour=starting_hour, minute=minute_of_hour, **when)

    def add_daily_trigger(
        self,
        hour: int = 2,
        minute: int = 0,
        days: list[str] | None = None,
        year: int | None = None,
        month: int | None = None,
        day: int | None = None,
        repeat_every: int = 1,
        timezone: str = "SERVER",
    ) -> None:
        """Every ``repeat_every`` days, or with ``days`` (Monday … Sunday) on those days of every so many weeks."""
        when = self._from(year, month, day, timezone, repeat_every)
        often = {"frequency": "Daily"} if days is None else {"frequency": "Weekly", "daysOfWeek": days}
        self._add_time_trigger(**often, hour=hour, minute=minute, **when)

    def add_monthly_trigger(
        self,
        day: int = 1,
        hour: int = 2,
        minute: int = 0,
        year: int | None = None,
        month: int | None = None,
        run_on: str = "ON_THE_DAY",
        repeat_every: int = 1,
        timezone: str = "SERVER",
    ) -> None:
        """Every ``repeat_every`` months. ``run_on``: ON_THE_DAY, LAST_DAY_OF_THE_MONTH, FIRST_WEEK, SECOND_WEEK,
        THIRD_WEEK, FOURTH_WEEK or LAST_WEEK. Without a month it counts from January."""
        when = self._from(year, month or 1, day, timezone, repeat_every)
        self._add_time_trigger(frequency="Monthly", monthlyRunOn=run_on, hour=hour, minute=minute, **when)

    def _add_time_trigger(self, **params: object) -> None:
        self.raw_triggers.append({"active": True, "type": "temporal", "params": params})

    def _from(self, year: int | None, month: int | None, day: int | None, timezone: str, every: int) -> Raw:
        """From midnight of a day on, as ``2025-10-01T00:00:00.000+0200``, with today's parts for those not given. The
        server's own zone is not known here; this machine's stands in for it."""
        try:
            zone = None if timezone == "SERVER" else ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"{timezone!r} is neither SERVER nor the name of a time zone") from error
        today = self.client.clock.now().astimezone(zone)
        naive = datetime(year or today.year, month or today.month, day or today.day, tzinfo=UTC).replace(tzinfo=None)
        midnight = naive.astimezone() if zone is None else naive.replace(tzinfo=zone)
        start = midnight.strftime("%Y-%m-%dT%H:%M:%S.000%z")
        return {"startingFrom": start, "repeatFrequency": every, "timezone": timezone}

    async def save(self, *, force: bool = False) -> None:
        """Write the definition back. Raises ``DSSConflict``, and writes nothing, if somebody else has saved since it
        was read; ``force`` writes over that."""
        if not force:
            await self._check()
        await self._write()
        # The save made a new version, from which the next save of this object starts.
        saved = await self._call(wire.get_scenario)
        self._version = _version(saved)
        if "versionTag" in saved:
            self.data["versionTag"] = deepcopy(saved["versionTag"])

    async def _check(self) -> None:
        current = await self._call(wire.get_scenario)
        if _version(current) != self._version:
            self._conflict(_modifier(current, "versionTag"))

    async def _write(self) -> None:
        await self._call(wire.save_scenario, json_body=self.data)

    def _conflict(self, by: str | None) -> NoReturn:
        where = f"{self.scenario.project_key}/{self.scenario.id}"
        raise DSSConflict(f"{where} was saved by {by or 'an unknown user'}", changed_by=by, operation="save_scenario")


class StepBasedScenarioSettings(DSSScenarioSettings):
    @property
    def raw_steps(self) -> list[Raw]:
        return _list(self.data.setdefault("params", {}), "steps")


class PythonScriptBasedScenarioSettings(DSSScenarioSettings):
    def __init__(self, scenario: ScenarioHandle, data: Raw, script: str) -> None:
        super().__init__(scenario, data)
        self.script = script
        self._saved_script = script

    @property
    def code(self) -> str:
        return self.script

    @code.setter
    def code(self, script: str) -> None:
        self.script = script

    async def _check(self) -> None:
        await super()._check()
        if await read_script(self.scenario) != self._saved_script:
            self._conflict(None)

    async def _write(self) -> None:
        await super()._write()
        await self._call(wire.save_scenario_payload, json_body={"script": self.script})
        self._saved_script = self.script


async def read_script(scenario: ScenarioHandle, extension: str | None = None) -> str:
    body = {"extension": extension} if extension else None
    request = wire.get_scenario_payload(scenario.project_key, scenario.id, json_body=body)
    return get_text(await scenario.client.perform(request), "script") or ""


def _version(data: Raw) -> object:
    """What changes with every save: the version tag, or without one the definition itself."""
    return deepcopy(data.get("versionTag") or data)


def _modifier(data: Raw, tag: str) -> str | None:
    return get_text(get_object(get_object(data, tag), "lastModifiedBy"), "login")


def _list(data: Raw, key: str) -> list[Any]:
    """The list itself, made if it is missing, so that what is added to it is saved."""
    if not isinstance(data.get(key), list):
        data[key] = []
    values: list[Any] = data[key]
    return values
