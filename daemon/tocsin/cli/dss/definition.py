"""The verbs about what a scenario is: create it, read and replace its definition, code, triggers and discussions."""

from datetime import time
from pathlib import Path
from typing import Annotated, Any

from tocsin.cli import show
from tocsin.cli.dss.address import format_address
from tocsin.cli.dss.changes import Settings, edit_all
from tocsin.cli.dss.session import Item, Session, Target, describe_error, exit_code
from tocsin.cli.exits import USAGE, Failure, read_object, read_text
from tocsin.cli.verb import Argument, Edit, JsonOption, Option, ScenarioArgument, file_option, group, list_verb, verb
from tocsin.dss import DSSError, PythonScriptBasedScenarioSettings
from tocsin.dss.fields import get_object, get_text, get_time, only_objects

app = group()
triggers = group("The triggers of a scenario.")
SetOption = Annotated[Path | None, file_option("Replace it by this file; - for standard input.", "--set")]
_KINDS = ("periodic", "hourly", "daily", "monthly")


@verb(app, "create")
async def create_scenario(
    session: Session,
    address: Annotated[str, Argument(metavar="[NODE/]PROJECT/NAME")],
    kind: Annotated[str, Option("--type", help="step_based or custom_python.")] = "step_based",
    definition: Annotated[Path | None, file_option("JSON of all that it shall hold; - for standard input.")] = None,
    code: Annotated[Path | None, file_option("The script of a custom_python scenario.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Create a scenario. DSS makes its id from the name; the new address is printed."""
    if kind not in ("step_based", "custom_python") or (code and kind != "custom_python"):
        raise Failure("--type is step_based or custom_python, and --code belongs to custom_python", USAGE)
    body = read_object(definition) if definition else {}
    script = read_text(code) if code else None
    target = session.target(address)
    scenario = await session.client(target.node).get_project(target.project).create_scenario(target.id, kind, body)
    place = format_address(target.node, target.project, scenario.id)
    if script is not None:
        try:
            settings = await scenario.get_settings()
            if isinstance(settings, PythonScriptBasedScenarioSettings):
                settings.code = script
                await settings.save()
        except DSSError as error:
            without = f"{place} was created, but without its code: {describe_error(error)}"
            raise Failure(without, exit_code(error)) from None
    row = {"address": place, "node": target.node, "project": target.project, "scenario": scenario.id}
    show.print_json(row) if as_json else print(place)


@verb(app, "settings")
async def print_or_set_settings(
    session: Session,
    address: ScenarioArgument,
    new: SetOption = None,
    force: Annotated[
        bool, Option("--force", help="With --set: also if somebody saved since FILE was read from DSS.")
    ] = False,
    *,
    how: Edit,
) -> int:
    """Print the whole definition, always as JSON, or replace it. One that was printed, edited and set again does not
    write over what others saved meanwhile."""
    target = session.target(address)
    if new is None:
        show.print_json((await target.scenario.get_settings()).get_raw())
        return 0
    definition = read_object(new)

    def replace(_: Target, settings: Settings) -> str | None:
        current, read = settings.get_raw(), definition.get("versionTag")
        if not force and read is not None and read != current.get("versionTag"):
            raise Failure(f"{target} was saved by somebody since {new} was read; --force writes over that")
        if {**current, "versionTag": None} == {**definition, "versionTag": None}:
            return None
        current.clear()
        current.update(definition)
        return "definition replaced"

    return await edit_all(session, [target], replace, how)


@verb(app, "code")
async def print_or_set_code(session: Session, address: ScenarioArgument, new: SetOption = None, *, how: Edit) -> int:
    """Print the script of a custom_python scenario, or replace it."""
    target = session.target(address)

    def scripted(settings: Settings) -> PythonScriptBasedScenarioSettings:
        if isinstance(settings, PythonScriptBasedScenarioSettings):
            return settings
        raise Failure(f"{target} is made of steps and has no code of its own; see `scenario steps`")

    if new is None:
        code = scripted(await target.scenario.get_settings()).code
        show.print_json({**target.place, "code": code}) if how.as_json else print(code, end="")
        return 0
    script = read_text(new)

    def replace(_: Target, settings: Settings) -> str | None:
        settings = scripted(settings)
        if settings.code == script:
            return None
        settings.code = script
        return "code replaced"

    return await edit_all(session, [target], replace, how)


@list_verb(app, "steps", "id", "name", "type", "enabled", "condition")
async def list_steps(session: Session, address: ScenarioArgument) -> list[Item]:
    """List the steps that a scenario is made of."""
    raw = (await session.target(address).scenario.get_settings()).get_raw()
    return [
        {
            **{key: get_text(step, key) for key in ("id", "name", "type")},
            "enabled": bool(step.get("enabled", True)),
            "condition": get_text(step, "runConditionType"),
        }
        for step in only_objects(get_object(raw, "params").get("steps"))
    ]


@verb(app, "discussions")
async def show_discussions(
    session: Session,
    address: ScenarioArgument,
    topic: Annotated[str | None, Option(help="Begin a discussion of this topic with --message.")] = None,
    reply: Annotated[str | None, Option(metavar="ID", help="Reply to this discussion with --message.")] = None,
    message: Annotated[str | None, Option(help="What is said, in Markdown.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what people say about a scenario, or say something."""
    if (message is not None) != bool(topic or reply) or (topic and reply):
        raise Failure("to say something give --message, and either --topic or --reply ID", USAGE)
    discussions = session.target(address).scenario.get_object_discussions()
    if message is not None and topic:
        await discussions.create_discussion(topic, message)
    elif message is not None and reply:
        await (await discussions.get_discussion(reply)).add_reply(message)
    rows: list[dict[str, Any]] = [
        {
            "id": discussion.discussion_id,
            "topic": get_text(discussion.get_metadata(), "topic"),
            "replies": [
                {"author": said.get_author(), "time": get_time(said.get_raw_data(), "time"), "text": said.get_text()}
                for said in await discussion.get_replies()
            ],
        }
        for discussion in await discussions.list_discussions()
    ]
    if as_json:
        return show.print_json(rows)
    for row in rows:
        print(f"{show.cell(row['id'])}  {show.cell(row['topic'])}")
        for said in row["replies"]:
            print(f"    {show.cell(said['time'])}  {show.cell(said['author'])}: {show.cell(said['text'])}")
    return None


@list_verb(triggers, "list", "id", "name", "type", "active", "params")
async def list_triggers(session: Session, address: ScenarioArgument) -> list[Item]:
    """List the triggers of a scenario."""
    settings = await session.target(address).scenario.get_settings()
    return [
        {
            "id": get_text(trigger, "id"),
            "name": get_text(trigger, "name") or "",
            "type": get_text(trigger, "type"),
            "active": bool(trigger.get("active", True)),
            "params": get_object(trigger, "params"),
        }
        for trigger in only_objects(settings.raw_triggers)
    ]


@verb(triggers, "add")
async def add_trigger(
    session: Session,
    address: ScenarioArgument,
    kind: Annotated[str | None, Argument(metavar="periodic|hourly|daily|monthly")] = None,
    every: Annotated[int, Option(min=1, help="Every so many minutes, hours, days (weeks with --days), months.")] = 1,
    at: Annotated[str, Option(metavar="HH:MM", help="For hourly: the first hour, and the minute.")] = "02:00",
    days: Annotated[str | None, Option(help="For daily: only on these, as Monday,Friday.")] = None,
    day: Annotated[int, Option(min=1, max=31, help="For monthly: the day of the month.")] = 1,
    run_on: Annotated[
        str, Option(help="For monthly: or LAST_DAY_OF_THE_MONTH, FIRST_WEEK … LAST_WEEK.")
    ] = "ON_THE_DAY",
    timezone: Annotated[str, Option(help="SERVER, or a name like Europe/Paris.")] = "SERVER",
    name: Annotated[str | None, Option(help="For people.")] = None,
    definition: Annotated[
        Path | None, file_option("A trigger of any kind as JSON instead; - for standard input.")
    ] = None,
    *,
    how: Edit,
) -> int:
    """Add a time trigger, or any trigger by its definition."""
    if (kind is None) == (definition is None) or kind not in (None, *_KINDS):
        raise Failure(f"say one of {', '.join(_KINDS)}, or --definition FILE", USAGE)
    try:
        start = time.fromisoformat(at if len(at) > 4 else f"0{at}")
    except ValueError:
        raise Failure(f"--at {at!r} is not a time of day, as 02:30", USAGE) from None
    when: dict[str, Any] = {"repeat_every": every, "timezone": timezone}
    weekdays = None if days is None else _weekdays(days)
    ready = read_object(definition) if definition else {}

    def extend(_: Target, settings: Settings) -> str | None:
        try:
            match kind:
                case "periodic":
                    settings.add_periodic_trigger(every)
                case "hourly":
                    settings.add_hourly_trigger(start.minute, starting_hour=start.hour, **when)
                case "daily":
                    settings.add_daily_trigger(start.hour, start.minute, weekdays, **when)
                case "monthly":
                    settings.add_monthly_trigger(day, start.hour, start.minute, run_on=run_on, **when)
                case _:
                    settings.raw_triggers.append({"active": True, **ready})
        except ValueError as error:  # a time zone or a day that does not exist
            raise Failure(str(error), USAGE) from None
        if name is not None:
            settings.raw_triggers[-1]["name"] = name
        return f"trigger added: {kind or ready.get('type')}"

    return await edit_all(session, [session.target(address)], extend, how)


@verb(triggers, "remove")
async def remove_trigger(
    session: Session,
    address: ScenarioArgument,
    trigger: Annotated[str, Argument(metavar="TRIGGER", help="Its id, or its name if only one has it.")],
    *,
    how: Edit,
) -> int:
    """Remove a trigger."""

    def shrink(target: Target, settings: Settings) -> str | None:
        raw = settings.raw_triggers
        places = [n for n, known in enumerate(raw) if known.get("id") == trigger]
        places = places or [n for n, known in enumerate(raw) if known.get("name") == trigger]
        if len(places) != 1:
            count = f"{len(places)} triggers" if places else "no trigger"
            raise Failure(f"{target} has {count} with the id or name {trigger!r}")
        removed = raw.pop(places[0])
        return f"trigger removed: {removed.get('name') or removed.get('type')}"

    return await edit_all(session, [session.target(address)], shrink, how)


def _weekdays(text: str) -> list[str]:
    """Full English names, as DSS wants them, from names or their beginnings."""
    week = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    names = []
    for word in text.split(","):
        begun = [day for day in week if len(word.strip()) > 1 and day.lower().startswith(word.strip().lower())]
        if len(begun) != 1:
            raise Failure(f"--days: {word!r} is no day of the week; write them like Monday,Friday", USAGE)
        names += begun
    return names
