"""A scenario: its state, its runs, its definition, its discussions, and how to run and stop it."""

import warnings
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from tocsin.dss import wire
from tocsin.dss.errors import DSSInvalidReply
from tocsin.dss.fields import Field, RawView, get_flag, get_text, get_time, only_objects, only_texts, require_text
from tocsin.dss.run import DSSScenarioRun, DSSScenarioRunWaiter, DSSTriggerFire
from tocsin.dss.settings import PythonScriptBasedScenarioSettings, StepBasedScenarioSettings, read_script
from tocsin.dss.waits import within
from tocsin.dss.wire import APIClient, DSSHandle, Raw

_DEEPEST_SEARCH = 1000  # runs; DSS itself calls more than that unhealthy
_DAY = timedelta(days=1)


class DSSScenario(DSSHandle):
    def __init__(self, client: APIClient, project_key: str, id: str) -> None:
        super().__init__(client, project_key, id)
        self.project_key = project_key
        self.id = id

    def __repr__(self) -> str:
        return f"<DSSScenario {self.project_key}/{self.id}>"

    async def run(self, params: Raw | None = None) -> DSSTriggerFire:
        """Ask for a run; ``params`` become the trigger's. The answer is a trigger fire, not a run."""
        return DSSTriggerFire(self, await self._call(wire.run_scenario, json_body=params or {}))

    async def run_and_wait(
        self, params: Raw | None = None, no_fail: bool = False, *, timeout: float | None = None
    ) -> DSSScenarioRun | None:
        """Ask for a run and wait for its end, ``timeout`` seconds at most for all of it; giving up does not abort it.

        Raises ``DSSWaitTimeout``, ``DSSRunCancelled``, and ``DSSRunFailed`` for any outcome but SUCCESS. With
        ``no_fail`` neither of the last two: then None means that the fire was cancelled.
        """
        async with within(timeout, f"a run of {self.project_key}/{self.id} and its end"):
            fire = await self.run(params)
            if (run := await fire.wait_for_scenario_run(no_fail)) is None:
                return None
            return await DSSScenarioRunWaiter(run, fire).wait(no_fail)

    async def get_trigger_fire(self, trigger_id: str, trigger_run_id: str) -> DSSTriggerFire:
        return DSSTriggerFire(self, await self._call(wire.get_trigger_fire, trigger_id, triggerRunId=trigger_run_id))

    async def abort(self) -> Raw:
        """Ask DSS to stop the current run, if there is one; it ends a little later, as ABORTED."""
        return await self._call(wire.abort_scenario)

    async def delete(self) -> Raw:
        return await self._call(wire.delete_scenario)

    async def get_settings(self) -> StepBasedScenarioSettings | PythonScriptBasedScenarioSettings:
        """The definition, to be read or changed and saved."""
        data = await self._call(wire.get_scenario)
        if data.get("type") == "step_based":
            return StepBasedScenarioSettings(self, data)
        return PythonScriptBasedScenarioSettings(self, data, await read_script(self))

    def get_object_discussions(self) -> "DSSObjectDiscussions":
        return DSSObjectDiscussions(self.client, self.project_key, "SCENARIO", self.id)

    async def get_status(self) -> "DSSScenarioStatus":
        """The light summary: active, running, next run."""
        return DSSScenarioStatus(self, await self._call(wire.get_scenario_status))

    async def get_last_runs_raw(self, limit: int = 10, only_finished_runs: bool = False) -> list[Any]:
        return await self._call(wire.get_last_runs, limit=limit, onlyFinishedRuns=only_finished_runs)

    async def get_last_runs(self, limit: int = 10, only_finished_runs: bool = False) -> list[DSSScenarioRun]:
        """The newest runs first, the running one included unless ``only_finished_runs``."""
        return self._runs(await self.get_last_runs_raw(limit, only_finished_runs))

    async def get_runs_by_date_raw(self, from_day: date | str, to_day: date | str) -> list[Any]:
        """DSS's list for whole days of the server's time zone, ``to_day`` excluded; its order is not documented."""
        return await self._call(wire.get_runs_by_date, fromDate=_day(from_day), toDate=_day(to_day))

    async def get_runs_by_date(self, from_date: date | str, to_date: date | str | None = None) -> list[DSSScenarioRun]:
        """Runs that started in [from, to), the newest first; without ``to_date`` up to now.

        Dates, ``YYYY-MM-DD`` strings and naive datetimes mean days in the server's time zone. Aware datetimes are
        exact: the days around them are read, since the server's zone is not known, and the runs filtered.
        """
        # No zone's clock is further than a day from UTC, so two days ahead include all that has started.
        until = to_date if to_date is not None else self.client.clock.now().date() + 2 * _DAY
        runs = self._runs(await self.get_runs_by_date_raw(_day(from_date, -_DAY), _day(until, 2 * _DAY)))
        if isinstance(from_date, datetime) and from_date.tzinfo:
            runs = [run for run in runs if run.start_time is None or run.start_time >= from_date]
        if isinstance(to_date, datetime) and to_date.tzinfo:
            runs = [run for run in runs if run.start_time is None or run.start_time < to_date]
        return sorted(runs, key=lambda run: run.start_time or self.client.clock.now(), reverse=True)

    async def get_run(self, run_id: str) -> DSSScenarioRun:
        details = await self._call(wire.get_run, run_id)
        if run := self._runs([details.get("scenarioRun") or None]):
            return run[0]
        raise DSSInvalidReply("run details without scenarioRun", operation="get_run", body=str(details)[:200])

    async def get_current_run(self) -> DSSScenarioRun | None:
        return next((run for run in await self.get_last_runs(1) if run.running), None)

    async def get_last_finished_run(self) -> DSSScenarioRun:
        """The last run that ended, whatever its outcome. Raises ``ValueError`` if there is none."""
        return (await self._last_where(1, lambda run: not run.running, "finished"))[0]

    async def get_last_successful_run(self) -> DSSScenarioRun:
        """The last run that ended with SUCCESS or WARNING. Raises ``ValueError`` if there is none."""
        return (await self._last_where(1, lambda run: run.good, "successful"))[0]

    async def get_average_duration(self, limit: int = 3) -> float | None:
        """Seconds, over the last ``limit`` runs that ended with SUCCESS or WARNING; None if there are fewer."""
        try:
            runs = await self._last_where(limit, lambda run: run.good, "successful")
        except ValueError:
            return None
        return sum(run.duration for run in runs) / limit

    async def get_definition(self, with_status: bool = True) -> Raw:
        _deprecated("get_definition", "get_status or get_settings")
        return await self._call(wire.get_scenario_status if with_status else wire.get_scenario)

    async def set_definition(self, definition: Raw, with_status: bool = True) -> Raw:
        _deprecated("set_definition", "get_settings")
        endpoint = wire.save_scenario_status if with_status else wire.save_scenario
        return await self._call(endpoint, json_body=definition)

    async def get_payload(self, extension: str = "py") -> str:
        _deprecated("get_payload", "get_settings")
        return await read_script(self, extension)

    async def set_payload(self, script: str, extension: str = "py") -> Raw:
        _deprecated("set_payload", "get_settings")
        return await self._call(wire.save_scenario_payload, json_body={"script": script, "extension": extension})

    async def _last_where(self, count: int, suits: Callable[[DSSScenarioRun], bool], what: str) -> list[DSSScenarioRun]:
        """The newest ``count`` runs that suit, reading ever further back. Raises ``ValueError`` if there are fewer."""
        limit = max(10, count)
        while True:
            raw = await self.get_last_runs_raw(limit, only_finished_runs=True)
            runs = [run for run in self._runs(raw) if suits(run)][:count]
            if len(runs) == count > 0:
                return runs
            if len(raw) < limit or limit >= _DEEPEST_SEARCH:
                raise ValueError(f"{self.project_key}/{self.id} has no {what} run" + " (or too few)" * (count > 1))
            limit = min(4 * limit, _DEEPEST_SEARCH)

    def _runs(self, raw: list[Any]) -> list[DSSScenarioRun]:
        return [DSSScenarioRun(self.client, item, self.project_key, self.id) for item in only_objects(raw)]


def _deprecated(method: str, instead: str) -> None:
    message = f"DSSScenario.{method} is deprecated; use {instead}"
    warnings.warn(message, DeprecationWarning, stacklevel=3)


def _day(day: date | str, margin: timedelta = timedelta(0)) -> str:
    """The day as DSS writes it; an aware moment becomes a day of UTC with a margin for the server's zone."""
    if not isinstance(day, datetime):
        return str(day)
    return f"{day.astimezone(UTC) + margin if day.tzinfo else day:%Y-%m-%d}"


class _ScenarioState:
    """What a status and a list item both tell."""

    active = Field(get_flag, "active")
    """Whether its automatic triggers are on."""
    running = Field(get_flag, "running")
    start_time = Field(get_time, "start")
    """Start of the current run; None when idle."""
    next_run = Field(get_time, "nextRun")
    """When the next time trigger fires; None if there is none that is active. DSS launches 60 s later."""


class DSSScenarioStatus(_ScenarioState, RawView):
    def __init__(self, scenario: DSSScenario, data: Raw) -> None:
        super().__init__(data)
        self.scenario = scenario


class DSSScenarioListItem(_ScenarioState, dict[str, Any]):
    id = Field(lambda raw, key: require_text(raw, key, "scenario"), "id")
    tags = Field(lambda raw, key: only_texts(raw.get(key)), "tags")

    def __init__(self, client: APIClient, project_key: str, data: Raw) -> None:
        super().__init__(data)
        self.client = client
        self.project_key = project_key

    def to_scenario(self) -> DSSScenario:
        return DSSScenario(self.client, self.project_key, self.id)

    @property
    def name(self) -> str:
        """For people; the id if there is no name."""
        return get_text(self, "name") or self.id


class DSSObjectDiscussions(DSSHandle):
    def __init__(self, client: APIClient, project_key: str, object_type: str, object_id: str) -> None:
        super().__init__(client, project_key, object_type, object_id)
        self.path = (project_key, object_type, object_id)

    async def list_discussions(self) -> "list[DSSDiscussion]":
        """All of them, as yet without replies."""
        raw = await self._call(wire.list_discussions)
        return [DSSDiscussion(self, item, complete=False) for item in only_objects(raw) if get_text(item, "id")]

    async def create_discussion(self, topic: str, message: str) -> "DSSDiscussion":
        raw = await self._call(wire.create_discussion, json_body={"topic": topic, "reply": message})
        return DSSDiscussion(self, raw, complete=True)

    async def get_discussion(self, discussion_id: str) -> "DSSDiscussion":
        raw = await self._call(wire.get_discussion, discussion_id)
        return DSSDiscussion(self, {"id": discussion_id, **raw}, complete=True)


class DSSDiscussion(DSSHandle):
    """One discussion; its replies are read when they are first asked for."""

    def __init__(self, of: DSSObjectDiscussions, data: Raw, *, complete: bool) -> None:
        self.discussion_id = require_text(data, "id", "discussion")
        super().__init__(of.client, *of.path, self.discussion_id)
        self.discussion_data = data
        self._complete = complete

    def get_metadata(self) -> Raw:
        """Everything but the replies: ``topic`` and more."""
        return {key: value for key, value in self.discussion_data.items() if key != "replies"}

    async def set_metadata(self, discussion_metadata: Raw) -> None:
        """Write changed metadata back; the replies stay."""
        await self._load()
        body = {**discussion_metadata, "replies": self.discussion_data.get("replies", [])}
        await self._load(wire.save_discussion, body)

    async def get_replies(self) -> "list[DSSDiscussionReply]":
        await self._load()
        return [DSSDiscussionReply(reply) for reply in only_objects(self.discussion_data.get("replies"))]

    async def add_reply(self, text: str) -> None:
        """A reply in Markdown, as the user of the credentials."""
        await self._load(wire.reply_to_discussion, {"reply": text})

    async def _load(self, change: wire.Endpoint[Raw] | None = None, body: Raw | None = None) -> None:
        """Take over what DSS answers to a change; without one read what is missing."""
        if change or not self._complete:
            self.discussion_data = await self._call(change or wire.get_discussion, json_body=body)
            self._complete = True


class DSSDiscussionReply:
    def __init__(self, reply_data: Raw) -> None:
        self.reply_data = reply_data

    def get_raw_data(self) -> Raw:
        return self.reply_data

    def get_text(self) -> str:
        """Markdown."""
        return get_text(self.reply_data, "text") or ""

    def get_author(self) -> str | None:
        """A login."""
        return get_text(self.reply_data, "author")

    def get_timestamp(self) -> int | None:
        """Epoch milliseconds, as DSS has them."""
        return self._get_int("time")

    def get_edited_timestamp(self) -> int | None:
        """Epoch milliseconds of the last edit."""
        return self._get_int("editedOn")

    def _get_int(self, key: str) -> int | None:
        value = self.reply_data.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None
