"""``tocsin scenario trigger``: what starts scenarios by itself."""

from datetime import time
from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli import show
from tocsin.cli.dss.edit import Settings, edit_all
from tocsin.cli.dss.files import read_object
from tocsin.cli.dss.rows import trigger_row
from tocsin.cli.dss.session import Session, Target
from tocsin.cli.exits import USAGE, Failure
from tocsin.cli.verb import Edit, JsonOption, ScenarioArgument, typer_app, verb
from tocsin.dss.fields import only_objects

app = typer_app()
_KINDS = ("periodic", "hourly", "daily", "monthly")


@verb(app, "list")
async def list_triggers(session: Session, address: ScenarioArgument, as_json: JsonOption = False) -> None:
    """List the triggers of a scenario."""
    settings = await session.one(address).scenario.get_settings()
    rows = [trigger_row(trigger) for trigger in only_objects(settings.raw_triggers)]
    show.rows(rows, ("id", "name", "type", "active", "params"), as_json=as_json)


@verb(app, "add")
async def add(
    session: Session,
    address: ScenarioArgument,
    kind: Annotated[str | None, typer.Argument(metavar="periodic|hourly|daily|monthly", show_default=False)] = None,
    every: Annotated[
        int, typer.Option(min=1, help="Every so many minutes, hours, days (weeks with --days), months.")
    ] = 1,
    at: Annotated[str, typer.Option(metavar="HH:MM", help="For hourly: the first hour, and the minute.")] = "02:00",
    days: Annotated[str | None, typer.Option(help="For daily: only on these, as Monday,Friday.")] = None,
    day: Annotated[int, typer.Option(min=1, max=31, help="For monthly: the day of the month.")] = 1,
    run_on: Annotated[
        str, typer.Option(help="For monthly: or LAST_DAY_OF_THE_MONTH, FIRST_WEEK … LAST_WEEK.")
    ] = "ON_THE_DAY",
    timezone: Annotated[str, typer.Option(help="SERVER, or a name like Europe/Paris.")] = "SERVER",
    name: Annotated[str | None, typer.Option(help="For people.")] = None,
    definition: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A trigger of any kind as JSON instead; - for standard input.")
    ] = None,
    *,
    how: Edit,
) -> int:
    """Add a time trigger, or any trigger by its definition."""
    if (kind is None) == (definition is None) or kind not in (None, *_KINDS):
        raise Failure(f"say one of {', '.join(_KINDS)}, or --definition FILE", USAGE)
    hour, minute = _time(at)
    weekdays = None if days is None else _weekdays(days)
    ready = read_object(definition) if definition else {}

    def extend(_: Target, settings: Settings) -> str | None:
        try:
            match kind:
                case "periodic":
                    settings.add_periodic_trigger(every)
                case "hourly":
                    settings.add_hourly_trigger(minute, starting_hour=hour, repeat_every=every, timezone=timezone)
                case "daily":
                    settings.add_daily_trigger(hour, minute, weekdays, repeat_every=every, timezone=timezone)
                case "monthly":
                    settings.add_monthly_trigger(
                        day, hour, minute, run_on=run_on, repeat_every=every, timezone=timezone
                    )
                case _:
                    settings.raw_triggers.append({"active": True, **ready})
        except ValueError as error:  # a time zone or a day that does not exist
            raise Failure(str(error), USAGE) from None
        if name is not None:
            settings.raw_triggers[-1]["name"] = name
        return f"trigger added: {kind or ready.get('type')}"

    return await edit_all(session, [session.one(address)], extend, how)


@verb(app, "remove")
async def remove(
    session: Session,
    address: ScenarioArgument,
    trigger: Annotated[str, typer.Argument(metavar="TRIGGER", help="Its id, or its name if only one has it.")],
    *,
    how: Edit,
) -> int:
    """Remove a trigger."""
    target = session.one(address)

    def shrink(target: Target, settings: Settings) -> str | None:
        raw = settings.raw_triggers
        found = [one for one in raw if one.get("id") == trigger] or [one for one in raw if one.get("name") == trigger]
        if len(found) != 1:
            count = "no trigger" if not found else f"{len(found)} triggers"
            raise Failure(f"{target} has {count} with the id or name {trigger!r}")
        raw[:] = [one for one in raw if one is not found[0]]
        return f"trigger removed: {found[0].get('name') or found[0].get('type')}"

    return await edit_all(session, [target], shrink, how)


def _time(text: str) -> tuple[int, int]:
    try:
        at = time.fromisoformat(text if len(text) > 4 else f"0{text}")
    except ValueError:
        raise Failure(f"--at {text!r} is not a time of day, as 02:30", USAGE) from None
    return at.hour, at.minute


def _weekdays(text: str) -> list[str]:
    """Full English names, as DSS wants them, from names or their beginnings."""
    week = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    found = []
    for word in text.split(","):
        begun = [day for day in week if len(word.strip()) > 1 and day.lower().startswith(word.strip().lower())]
        if len(begun) != 1:
            raise Failure(f"--days: {word!r} is no day of the week; write them like Monday,Friday", USAGE)
        found += begun
    return found
