"""``tocsin project`` and ``tocsin scenario``: look at scenarios, run and stop them, switch them off and on."""

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from math import ceil
from pathlib import Path
from typing import Annotated

import click

from tocsin.cli import show
from tocsin.cli.dss import definition
from tocsin.cli.dss.address import format_address, scenario_address
from tocsin.cli.dss.changes import ChangeOutcome, Result, Settings, change_all, edit_all, load_disabled, save_disabled
from tocsin.cli.dss.session import Item, Session, Target, describe_error, exit_code
from tocsin.cli.exits import DONE, NO, USAGE, Failure, print_stderr
from tocsin.cli.verb import (
    Argument,
    Bulk,
    Edit,
    JsonOption,
    Option,
    ScenarioArgument,
    ScenariosArgument,
    ScopeArgument,
    StrictOption,
    TimeoutOption,
    file_option,
    group,
    list_verb,
    seconds,
    verb,
)
from tocsin.dss import DSSError, DSSRunCancelled, DSSScenarioRun, DSSTriggerFire, DSSWaitTimeout
from tocsin.dss.fields import get_object, get_text, get_time, only_objects, only_texts
from tocsin.dss.waits import within
from tocsin.dss.wire import Raw
from tocsin.kit.clock import BadDuration, parse_duration

projects = group()
app = group()
WaitOption = Annotated[bool, Option("--wait", help="Wait for the end.")]
_CANCELLED = "DSS cancelled the start; is it running already?"


@list_verb(projects, "list", "address", "name", "owner", "status", "tags")
async def list_visible_projects(session: Session) -> list[Item]:
    """List the projects that the credentials may see."""
    return [
        {
            "address": format_address(node, project["projectKey"]),
            "node": node,
            "project": project["projectKey"],
            "name": get_text(project, "name"),
            "owner": get_text(project, "ownerLogin"),
            "status": get_text(project, "projectStatus"),
            "tags": only_texts(project.get("tags")),
        }
        for node in session.nodes
        for project in await session.client(node).list_projects()
    ]


@list_verb(app, "list", "scenario=address", "name", "active", "running", "next_run", "triggers", "tags")
async def list_matching_scenarios(
    session: Session,
    addresses: ScopeArgument = None,
    active: Annotated[
        bool | None, Option("--active/--inactive", help="Only those that are switched on, or off.")
    ] = None,
    running: Annotated[bool, Option("--running", help="Only those that run now.")] = False,
    tag: Annotated[list[str] | None, Option(help="Only those with one of these tags.")] = None,
) -> list[Item]:
    """List scenarios with their state."""
    return [
        _scenario_row(target, target.item)
        for target in await session.find_or_all(addresses)
        if active in (None, bool(target.item.get("active")))
        and (not running or target.item.get("running"))
        and (not tag or not set(tag).isdisjoint(only_texts(target.item.get("tags"))))
    ]


@verb(app, "show")
async def show_scenario(session: Session, address: ScenarioArgument, as_json: JsonOption = False) -> None:
    """Show one scenario: its state, its settings in short and its last run."""
    target = session.target(address)
    status = await target.scenario.get_status()
    settings = await target.scenario.get_settings()
    last = next(iter(await target.scenario.get_last_runs(1)), None)
    raw = settings.get_raw()
    row: Item = {
        **_scenario_row(target, {**raw, **status.get_raw()}),
        "description": get_text(raw, "description") or get_text(raw, "shortDesc") or None,
        "run_as": settings.run_as,
        "effective_run_as": settings.effective_run_as,
        "steps": len(only_objects(get_object(raw, "params").get("steps"))),
        "reporters": [get_text(reporter, "name") or "" for reporter in only_objects(raw.get("reporters"))],
        "last_run": target.run_row(last) if last else None,
    }
    if not as_json and last is not None:
        row["last_run"] = f"{last.id}, {'running' if last.running else last.outcome}"
    show.item(row, as_json=as_json)


def _scenario_row(target: Target, item: Raw) -> Item:
    return {
        **target.place,
        "name": get_text(item, "name") or target.id,
        "type": get_text(item, "type"),
        "active": bool(item.get("active")),
        "running": bool(item.get("running")),
        "start": get_time(item, "start"),
        "next_run": get_time(item, "nextRun"),
        "triggers": get_text(item, "triggerDigest") or None,
        "tags": only_texts(item.get("tags")),
        "test": bool(item.get("markedAsTest")),
    }


@verb(app, "runs")
async def list_scenario_runs(
    session: Session,
    addresses: ScenariosArgument,
    since: Annotated[
        str | None, Option("--from", help="A day of the server's (2026-03-01), a time, or how long ago (7d).")
    ] = None,
    until: Annotated[str | None, Option("--to", help="As --from; that moment or day left out.")] = None,
    finished: Annotated[bool, Option("--finished", help="Leave out what still runs.")] = False,
    limit: Annotated[
        int | None, Option(min=1, help="At most so many of each scenario; 10 without --from and --to.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List runs, the newest first."""
    first, last = (None if text is None else _parse_moment(text, session.clock.now()) for text in (since, until))
    targets = await session.find(addresses)

    async def read(target: Target) -> list[DSSScenarioRun]:
        if first is None and last is None:
            return await target.scenario.get_last_runs(limit or 10, finished)
        runs = await target.scenario.get_runs_by_date(first or date(1970, 1, 1), last)
        return [run for run in runs if not (finished and run.running)][:limit]

    lists = await session.read_each("reading runs", targets, read)
    rows = [target.run_row(run) for target, runs in lists for run in runs]
    if not as_json:
        names = [run.trigger.get("name") or run.trigger.get("type") for _, runs in lists for run in runs]
        rows = [r | {"outcome": r["outcome"] or "running", "trigger": t} for r, t in zip(rows, names, strict=True)]
    show.rows(rows, ("run=address", "outcome", "start", "duration_seconds", "trigger", "run_as"), as_json=as_json)


def _parse_moment(text: str, now: datetime) -> date | datetime:
    """A day stays a day, for it means one of the server's zone; a time without a zone is of this machine's."""
    for parse in (
        date.fromisoformat,
        lambda text: datetime.fromisoformat(text).astimezone(),
        lambda text: now - parse_duration(text),
    ):
        try:
            return parse(text)
        except (ValueError, BadDuration, OverflowError):
            pass
    known = "a day (2026-03-01), a time (2026-03-01T06:00) nor how long ago (7d)"
    raise Failure(f"{text!r} is neither {known}", USAGE)


@list_verb(app, "next-run", "scenario=address", "next_run", "active", "triggers")
async def list_next_runs(session: Session, addresses: ScopeArgument = None) -> list[Item]:
    """Tell when time triggers fire next, the soonest first; scenarios without such a time come last."""
    keys = ("address", "node", "project", "scenario", "next_run", "active", "triggers")
    rows = [_scenario_row(target, target.item) for target in await session.find_or_all(addresses)]
    rows.sort(key=lambda row: (row["next_run"] is None, str(row["next_run"])))
    return [{key: row[key] for key in keys} for row in rows]


@verb(app, "stats")
async def show_statistics(
    session: Session,
    addresses: ScenariosArgument,
    limit: Annotated[int, Option(min=1, max=10_000, help="Over the last so many finished runs.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Tell how often the last runs succeeded and how long they took; durations are those of SUCCESS and WARNING."""
    targets = await session.find(addresses)
    lists = await session.read_each("reading runs", targets, lambda target: target.scenario.get_last_runs(limit, True))
    rows: list[Item] = [{**target.place, **_statistics(runs)} for target, runs in lists]
    if len(rows) == 1 and not as_json:
        show.item(rows[0])
    else:
        keys = ("runs", "success_rate", "median_seconds", "p95_seconds", "max_seconds", "last_success")
        show.rows(rows, ("scenario=address", *keys), as_json=as_json)


def _statistics(runs: Sequence[DSSScenarioRun]) -> Item:
    """Counts, rate and durations of finished runs, the newest first. Durations are those of SUCCESS and WARNING, since
    a run that failed early says nothing about how long a good one takes; None where there are none. ``last_…``: starts."""
    good = [run for run in runs if run.good]
    ascending = sorted(run.duration for run in good)

    def duration(seconds: float) -> timedelta:
        return timedelta(milliseconds=round(seconds * 1000))

    def quantile(share: float) -> timedelta | None:
        """The smallest duration that at least this share of runs stayed within."""
        return duration(ascending[ceil(share * len(ascending)) - 1]) if ascending else None

    return {
        "runs": len(runs),
        "outcomes": dict(Counter(run.outcome for run in runs).most_common()),
        "success_rate": round(len(good) / len(runs), 4) if runs else None,
        "mean_seconds": duration(sum(ascending) / len(ascending)) if ascending else None,
        "median_seconds": quantile(0.5),
        "p95_seconds": quantile(0.95),
        "max_seconds": quantile(1.0),
        "last_success": next((run.start_time for run in good), None),
        "last_failure": next((run.start_time for run in runs if run.outcome in ("FAILED", "UNKNOWN")), None),
    }


@dataclass(slots=True, eq=False)
class Launch:
    target: Target
    fire: DSSTriggerFire | None = None
    run: DSSScenarioRun | None = None
    note: str | None = "would be started"
    code: int = DONE

    async def start(self, params: Raw, slots: asyncio.Semaphore) -> None:
        try:
            async with slots:
                self.fire = await self.target.scenario.run(params)
            cancelled = await self.fire.is_cancelled()
            self.note, self.code = (_CANCELLED, NO) if cancelled else ("started", DONE)
        except DSSError as error:
            self.note, self.code = describe_error(error), exit_code(error)

    async def wait(self, limit: float | None, *, strict: bool) -> None:
        """Wait for the end of what was started, ``limit`` seconds at most; what goes wrong stands in the note."""
        if self.fire is None or self.code != DONE:
            return
        self.note = "goes on in DSS"
        try:
            async with within(limit, str(self.target)):
                self.run = await self.fire.wait_for_scenario_run()
                if self.run is not None:
                    await self.run.wait_for_completion(no_fail=True)
                    good = self.run.outcome == "SUCCESS" if strict else self.run.good
                    self.note, self.code = None, DONE if good else NO
        except DSSWaitTimeout:
            self.note, self.code = f"did not end within {limit:g} s; goes on in DSS", NO
        except DSSRunCancelled:
            self.note, self.code = _CANCELLED, NO
        except DSSError as error:
            self.note, self.code = describe_error(error), exit_code(error)

    def row(self) -> Item:
        """As ``scenario runs`` shows a run, with the fire; what is not known is null."""
        keys = ("run", "outcome", "start", "end", "duration_seconds", "trigger", "run_as")
        row = {**self.target.place, **dict.fromkeys(keys)} if self.run is None else self.target.run_row(self.run)
        return {**row, "fire": self.fire.run_id if self.fire else None, "note": self.note}


@verb(app, "run")
async def run_scenarios(
    session: Session,
    addresses: ScenariosArgument,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
    param: Annotated[
        list[str] | None, Option(metavar="KEY=VALUE", help="A parameter of the trigger; repeat it for more.")
    ] = None,
    strict: StrictOption = False,
    *,
    how: Bulk,
) -> int:
    """Start scenarios; with --wait all are started before the first is waited for. Exit 1 if one does not succeed."""
    params: Raw = {}
    for word in param or []:
        key, sign, value = word.partition("=")
        if not key or not sign:
            raise Failure(f"--param {word!r} is not KEY=VALUE", USAGE)
        params[key] = value
    limit = seconds(timeout)
    launches = [Launch(target) for target in await session.find(addresses, listed=how.dry_run)]
    slots = asyncio.Semaphore(session.concurrency)

    async def wait_for(launch: Launch) -> None:
        await launch.wait(limit, strict=strict)
        step()

    try:
        if not how.dry_run:
            await asyncio.gather(*(launch.start(params, slots) for launch in launches))
        if not how.dry_run and (wait or limit is not None):
            with show.progress("waiting for runs", len(launches)) as step:
                await asyncio.gather(*map(wait_for, launches))
    finally:
        failed = [launch for launch in launches if launch.fire is None and launch.code != DONE]
        if rows := [launch.row() for launch in launches if how.as_json or launch not in failed]:
            show.rows(rows, ("scenario=address", "outcome", "duration_seconds", "note"), as_json=how.as_json)
        for launch in failed:
            print_stderr(f"{launch.target}: {launch.note}")
    return max((launch.code for launch in launches), default=DONE)


@verb(app, "abort")
async def abort_scenarios(
    session: Session,
    addresses: ScenariosArgument,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
    *,
    how: Bulk,
) -> int:
    """Stop the current runs. DSS accepts at once and ends them a little later."""
    limit = seconds(timeout)

    async def stop(target: Target) -> ChangeOutcome:
        run = await target.scenario.get_current_run()
        if run is None:
            return ChangeOutcome(Result.UNCHANGED, "is not running")
        if how.dry_run:
            return ChangeOutcome(Result.WOULD, f"run {run.id}")
        await target.scenario.abort()
        if wait or limit is not None:
            await run.wait_for_completion(no_fail=True, timeout=limit)
            return ChangeOutcome(Result.CHANGED, f"run {run.id} ended with {run.outcome}")
        return ChangeOutcome(Result.CHANGED, f"run {run.id} is asked to end")

    return await change_all(session, await session.find(addresses), stop, "aborting", how.as_json)


@verb(app, "enable")
async def enable_scenarios(
    session: Session,
    addresses: Annotated[
        list[str] | None, Argument(metavar="[ADDRESS...]", help="[NODE/]PROJECT/SCENARIO; globs allowed.")
    ] = None,
    file: Annotated[Path | None, file_option("Those that `disable --save` remembered there.", "--from")] = None,
    *,
    how: Edit,
) -> int:
    """Switch automatic triggers on."""
    if bool(addresses) == (file is not None):
        raise Failure("say either which scenarios, or --from FILE", USAGE)
    targets = await session.find(load_disabled(file) if file else addresses or [])
    return await _switch(session, targets, True, how)


@verb(app, "disable")
async def disable_scenarios(
    session: Session,
    addresses: ScenariosArgument,
    save: Annotated[Path | None, file_option("Remember which were active, for `enable --from FILE`.")] = None,
    *,
    how: Edit,
) -> int:
    """Switch automatic triggers off."""
    targets = await session.find(addresses, listed=True)
    active = [str(target) for target in targets if target.item.get("active")]
    if save and not how.dry_run:
        save_disabled(save, active, session.clock.now(), complete=False)
    code = await _switch(session, targets, False, how)
    if save and not how.dry_run and code == 0:
        save_disabled(save, active, session.clock.now(), complete=True)
    return code


async def _switch(session: Session, targets: list[Target], on: bool, how: Edit) -> int:
    def switch(_: Target, settings: Settings) -> str | None:
        if settings.active == on:
            return None
        settings.active = on
        return "switched on" if on else "switched off"

    def settled(target: Target) -> bool:
        return bool(target.item) and bool(target.item.get("active")) == on

    return await edit_all(session, targets, switch, how, "switching on" if on else "switching off", settled)


@verb(app, "reassign")
async def reassign_scenarios(
    session: Session,
    addresses: ScopeArgument = None,
    *,
    former: Annotated[str, Option("--from", metavar="USER", help="The login that they run as now.")],
    new: Annotated[str, Option("--to", metavar="USER", help="The login that they shall run as.")],
    how: Bulk,
) -> int:
    """Have scenarios that run as one user run as another; needs an admin key."""

    def hand_over(_: Target, settings: Settings) -> str | None:
        if settings.effective_run_as != former or former == new:
            return None
        settings.run_as = new
        return f"runAsUser set to {new}"

    targets = await session.find_or_all(addresses)
    return await edit_all(session, targets, hand_over, Edit(how.dry_run, True, how.as_json), "reassigning")


@verb(app, "delete")
async def delete_scenarios(
    session: Session,
    addresses: ScenariosArgument,
    yes: Annotated[bool, Option("--yes", "-y", help="Delete what a pattern matches without asking.")] = False,
    *,
    how: Bulk,
) -> int:
    """Delete scenarios with their history. A pattern wants --yes, or a yes on the terminal."""
    targets = await session.find(addresses, listed=how.dry_run)
    if any(scenario_address(text).is_glob for text in addresses) and not (yes or how.dry_run):
        if not sys.stdin.isatty():
            raise Failure(f"the pattern matches {len(targets)} scenarios: say --yes to delete them", USAGE)
        print(*targets, sep="\n", file=sys.stderr)
        if not click.confirm(f"Delete these {len(targets)} scenarios?", err=True):
            raise Failure("nothing was deleted")

    async def delete(target: Target) -> ChangeOutcome:
        if how.dry_run:
            return ChangeOutcome(Result.WOULD, "deleted")
        await target.scenario.delete()
        return ChangeOutcome(Result.CHANGED, "deleted")

    return await change_all(session, targets, delete, "deleting", how.as_json)


app.commands.update(definition.app.commands)
app.add_command(definition.triggers, "trigger")
