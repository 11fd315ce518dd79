"""The verbs about what a scenario is: create it, read and replace its definition, code and discussions."""

from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli import show
from tocsin.cli.dss.address import shown
from tocsin.cli.dss.edit import Settings, edit_all
from tocsin.cli.dss.files import read_object, read_text
from tocsin.cli.dss.rows import Item, definition_steps
from tocsin.cli.dss.session import Session, Target
from tocsin.cli.dss.trouble import exit_code, told
from tocsin.cli.exits import USAGE, Failure
from tocsin.cli.verb import Edit, JsonOption, ScenarioArgument, typer_app, verb
from tocsin.dss import DSSDiscussion, DSSError, PythonScriptBasedScenarioSettings
from tocsin.dss.fields import get_text, get_time

app = typer_app()
SetOption = Annotated[
    Path | None, typer.Option("--set", metavar="FILE", help="Replace it by this file; - for standard input.")
]


@verb(app, "create")
async def create(
    session: Session,
    address: Annotated[str, typer.Argument(metavar="[NODE/]PROJECT/NAME", show_default=False)],
    kind: Annotated[str, typer.Option("--type", help="step_based or custom_python.")] = "step_based",
    definition: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON of all that it shall hold; - for standard input.")
    ] = None,
    code: Annotated[Path | None, typer.Option(metavar="FILE", help="The script of a custom_python scenario.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Create a scenario. DSS makes its id from the name; the new address is printed."""
    if kind not in ("step_based", "custom_python") or (code and kind != "custom_python"):
        raise Failure("--type is step_based or custom_python, and --code belongs to custom_python", USAGE)
    body = read_object(definition) if definition else {}
    script = read_text(code) if code else None
    target = session.one(address)
    made = await session.client(target.node).get_project(target.project).create_scenario(target.id, kind, body)
    place = shown(target.node, target.project, made.id)
    if script is not None:
        try:
            settings = await made.get_settings()
            if isinstance(settings, PythonScriptBasedScenarioSettings):
                settings.code = script
                await settings.save()
        except DSSError as error:
            raise Failure(f"{place} was created, but without its code: {told(error)}", exit_code(error)) from None
    row: Item = {"address": place, "node": target.node, "project": target.project, "scenario": made.id}
    show.print_json(row) if as_json else print(place)


@verb(app, "settings")
async def settings(
    session: Session,
    address: ScenarioArgument,
    new: SetOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="With --set: also if somebody saved since FILE was read from DSS.")
    ] = False,
    *,
    how: Edit,
) -> int:
    """Print the whole definition, always as JSON, or replace it. One that was printed, edited and set again does not
    write over what others saved meanwhile."""
    target = session.one(address)
    if new is None:
        show.print_json((await target.scenario.get_settings()).get_raw())
        return 0
    definition = read_object(new)

    def replace(_: Target, found: Settings) -> str | None:
        now, read = found.get_raw(), definition.get("versionTag")
        if not force and read is not None and read != now.get("versionTag"):
            raise Failure(f"{target} was saved by somebody since {new} was read; --force writes over that")
        if {**now, "versionTag": None} == {**definition, "versionTag": None}:
            return None
        now.clear()
        now.update(definition)
        return "definition replaced"

    return await edit_all(session, [target], replace, how)


@verb(app, "code")
async def code(session: Session, address: ScenarioArgument, new: SetOption = None, *, how: Edit) -> int:
    """Print the script of a custom_python scenario, or replace it."""
    target = session.one(address)
    no_code = Failure(f"{target} is made of steps and has no code of its own; see `scenario steps`")
    if new is None:
        found = await target.scenario.get_settings()
        if not isinstance(found, PythonScriptBasedScenarioSettings):
            raise no_code
        show.print_json({**target.place, "code": found.code}) if how.as_json else print(found.code, end="")
        return 0
    script = read_text(new)

    def replace(_: Target, found: Settings) -> str | None:
        if not isinstance(found, PythonScriptBasedScenarioSettings):
            raise no_code
        if found.code == script:
            return None
        found.code = script
        return "code replaced"

    return await edit_all(session, [target], replace, how)


@verb(app, "steps")
async def steps(session: Session, address: ScenarioArgument, as_json: JsonOption = False) -> None:
    """List the steps that a scenario is made of."""
    target = session.one(address)
    rows = definition_steps((await target.scenario.get_settings()).get_raw())
    show.rows(rows, ("id", "name", "type", "enabled", "condition"), as_json=as_json)


@verb(app, "discussions")
async def discussions(
    session: Session,
    address: ScenarioArgument,
    topic: Annotated[str | None, typer.Option(help="Begin a discussion of this topic with --message.")] = None,
    reply: Annotated[str | None, typer.Option(metavar="ID", help="Reply to this discussion with --message.")] = None,
    message: Annotated[str | None, typer.Option(help="What is said, in Markdown.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what people say about a scenario, or say something."""
    if (message is not None) != bool(topic or reply) or (topic and reply):
        raise Failure("to say something give --message, and either --topic or --reply ID", USAGE)
    kept = session.one(address).scenario.get_object_discussions()
    if message is not None and topic:
        await kept.create_discussion(topic, message)
    elif message is not None and reply:
        await (await kept.get_discussion(reply)).add_reply(message)
    rows = [await _discussion_row(found) for found in await kept.list_discussions()]
    if as_json:
        return show.print_json(rows)
    for row in rows:
        print(f"{show.cell(row['id'])}  {show.cell(row['topic'])}")
        for said in row["replies"]:  # type: ignore[attr-defined]  # a list of rows
            print(f"    {show.cell(said['time'])}  {show.cell(said['author'])}: {show.cell(said['text'])}")
    return None


async def _discussion_row(discussion: DSSDiscussion) -> Item:
    return {
        "id": discussion.discussion_id,
        "topic": get_text(discussion.get_metadata(), "topic"),
        "replies": [
            {"author": said.get_author(), "time": get_time(said.get_raw_data(), "time"), "text": said.get_text()}
            for said in await discussion.get_replies()
        ],
    }
