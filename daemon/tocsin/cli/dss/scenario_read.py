"""The verbs that look at scenarios and change nothing."""

from datetime import date, datetime
from typing import Annotated

import typer

from tocsin.cli import show
from tocsin.cli.dss.rows import Item, definition_steps, run_row, scenario_row
from tocsin.cli.dss.session import Session, Target
from tocsin.cli.dss.statistics import summary
from tocsin.cli.exits import USAGE, Failure
from tocsin.cli.verb import JsonOption, ScenarioArgument, ScenariosArgument, ScopeArgument, typer_app, verb
from tocsin.dss import DSSScenarioRun
from tocsin.dss.fields import get_text, get_time, only_objects, only_texts
from tocsin.kit.clock import BadDuration, parse_duration

app = typer_app()


@verb(app, "list")
async def list_scenarios(
    session: Session,
    addresses: ScopeArgument = None,
    active: Annotated[
        bool | None, typer.Option("--active/--inactive", help="Only those that are switched on, or off.")
    ] = None,
    running: Annotated[bool, typer.Option("--running", help="Only those that run now.")] = False,
    tag: Annotated[list[str] | None, typer.Option(help="Only those with one of these tags.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List scenarios with their state."""
    targets = [
        target
        for target in await session.find_or_all(addresses)
        if active in (None, bool(target.item.get("active")))
        and (not running or target.item.get("running"))
        and (not tag or not set(tag).isdisjoint(only_texts(target.item.get("tags"))))
    ]
    rows = [scenario_row(target, target.item) for target in targets]
    show.rows(rows, ("scenario=address", "name", "active", "running", "next_run", "triggers", "tags"), as_json=as_json)


@verb(app, "show")
async def show_scenario(session: Session, address: ScenarioArgument, as_json: JsonOption = False) -> None:
    """Show one scenario: its state, its settings in short and its last run."""
    target = session.one(address)
    status = await target.scenario.get_status()
    settings = await target.scenario.get_settings()
    last = next(iter(await target.scenario.get_last_runs(1)), None)
    raw = settings.get_raw()
    row: Item = {
        **scenario_row(target, {**raw, **status.get_raw()}),
        "description": get_text(raw, "description") or get_text(raw, "shortDesc") or None,
        "run_as": settings.run_as,
        "effective_run_as": settings.effective_run_as,
        "steps": len(definition_steps(raw)),
        "reporters": [get_text(reporter, "name") or "" for reporter in only_objects(raw.get("reporters"))],
        "last_run": run_row(target, last) if last else None,
    }
    if not as_json and last is not None:
        row["last_run"] = f"{last.id}, {'running' if last.running else last.outcome}"
    show.one(row, as_json=as_json)


@verb(app, "runs")
async def list_runs(
    session: Session,
    addresses: ScenariosArgument,
    since: Annotated[
        str | None, typer.Option("--from", help="A day of the server's (2026-03-01), a time, or how long ago (7d).")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="As --from; that moment or day left out.")] = None,
    finished: Annotated[bool, typer.Option("--finished", help="Leave out what still runs.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many of each scenario; 10 without --from and --to.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List runs, the newest first."""
    first, last = (None if text is None else _moment(text, session.clock.now()) for text in (since, until))
    targets = await session.find(addresses)

    async def read(target: Target) -> list[DSSScenarioRun]:
        if first is None and last is None:
            return await target.scenario.get_last_runs(limit or 10, finished)
        runs = await target.scenario.get_runs_by_date(first or date(1970, 1, 1), last)
        return [run for run in runs if not (finished and run.running)][:limit]

    found = await session.each("reading runs", targets, read)
    rows = [run_row(target, run) for target, runs in found for run in runs]
    if not as_json:
        named = [run.trigger.get("name") or run.trigger.get("type") for _, runs in found for run in runs]
        rows = [r | {"outcome": r["outcome"] or "running", "trigger": t} for r, t in zip(rows, named, strict=True)]
    show.rows(rows, ("run=address", "outcome", "start", "duration_seconds", "trigger", "run_as"), as_json=as_json)


@verb(app, "next-run")
async def next_run(session: Session, addresses: ScopeArgument = None, as_json: JsonOption = False) -> None:
    """Tell when time triggers fire next, the soonest first; scenarios without such a time come last."""
    rows: list[Item] = [
        {
            **target.place,
            "next_run": get_time(target.item, "nextRun"),
            "active": bool(target.item.get("active")),
            "triggers": get_text(target.item, "triggerDigest") or None,
        }
        for target in await session.find_or_all(addresses)
    ]
    rows.sort(key=lambda row: (row["next_run"] is None, str(row["next_run"])))
    show.rows(rows, ("scenario=address", "next_run", "active", "triggers"), as_json=as_json)


@verb(app, "stats")
async def stats(
    session: Session,
    addresses: ScenariosArgument,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Over the last so many finished runs.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Tell how often the last runs succeeded and how long they took; durations are those of SUCCESS and WARNING."""
    targets = await session.find(addresses)
    found = await session.each("reading runs", targets, lambda target: target.scenario.get_last_runs(limit, True))
    rows: list[Item] = [{**target.place, **summary(runs)} for target, runs in found]
    if len(rows) == 1 and not as_json:
        show.one(rows[0])
    else:
        keys = ("runs", "success_rate", "median_seconds", "p95_seconds", "max_seconds", "last_success")
        show.rows(rows, ("scenario=address", *keys), as_json=as_json)


def _moment(text: str, now: datetime) -> date | datetime:
    """A day stays a day, for it means one of the server's zone; a time without a zone is of this machine's."""
    for read in (date.fromisoformat, lambda text: datetime.fromisoformat(text).astimezone()):
        try:
            return read(text)
        except ValueError:
            pass
    try:
        return now - parse_duration(text)
    except (BadDuration, OverflowError):
        known = "a day (2026-03-01), a time (2026-03-01T06:00) nor how long ago (7d)"
        raise Failure(f"{text!r} is neither {known}", USAGE) from None
