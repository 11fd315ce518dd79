"""``tocsin reporter``: DSS's own reporters, seen over all scenarios."""

from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli import show
from tocsin.cli.dss import hooks
from tocsin.cli.dss.edit import Settings, edit_all
from tocsin.cli.dss.files import write_text
from tocsin.cli.dss.rows import reporter_row
from tocsin.cli.dss.session import Session, Target
from tocsin.cli.exits import USAGE, Failure, tell
from tocsin.cli.verb import Edit, JsonOption, ScenariosArgument, ScopeArgument, typer_app, verb
from tocsin.dss import wire
from tocsin.dss.fields import get_object, get_text, only_objects
from tocsin.dss.wire import Raw

app = typer_app()
NameOption = Annotated[str, typer.Option(help="How the hook is called in DSS; one that exists is brought up to date.")]


@verb(app, "list")
async def list_reporters(
    session: Session,
    addresses: ScopeArgument = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="Only of this type: mail, slack, msft-teams, webhook …")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List every reporter of every scenario."""
    rows = [reporter_row(target, reporter) for target, reporter in await _reporters(session, addresses)]
    if kind is not None:
        rows = [row for row in rows if str(row["type"]).removesuffix("-scenario") == kind.removesuffix("-scenario")]
    columns = ("scenario=address", "name", "type", "active", "phase", "condition", "channel", "sender", "recipients")
    show.rows(rows, columns, as_json=as_json)


@verb(app, "set-sender")
async def set_sender(
    session: Session,
    sender: Annotated[str, typer.Argument(metavar="FROM", help="The new From, as 'Data team <data@example.com>'.")],
    addresses: ScopeArgument = None,
    former: Annotated[
        str | None, typer.Option("--only", metavar="FROM", help="Only where the From is this one now.")
    ] = None,
    *,
    how: Edit,
) -> int:
    """Change the From of all mail reporters."""
    if ("@" not in sender and "${" not in sender) or not sender.isprintable():
        raise Failure(f"{sender!r} is no mail address", USAGE)

    def change(_: Target, settings: Settings) -> str | None:
        mails = [get_object(one, "messaging") for one in only_objects(settings.raw_reporters)]
        found = [get_object(mail, "configuration") for mail in mails if mail.get("type") == "mail-scenario"]
        wanted = [mail for mail in found if former is None or get_text(mail, "sender") == former]
        old = sorted({get_text(mail, "sender") or "none" for mail in wanted if mail.get("sender") != sender})
        for mail in wanted:
            mail["sender"] = sender
        return f"From was {', '.join(old)}" if old else None

    targets = await session.find_or_all(addresses)
    return await edit_all(session, targets, change, how, "changing senders")


@verb(app, "install-hook")
async def install_hook(
    session: Session,
    addresses: ScenariosArgument,
    external_url: Annotated[
        str | None, typer.Option(help="Where DSS reaches Tocsin; else the configuration's http.external_url.")
    ] = None,
    secret_file: Annotated[
        Path | None, typer.Option(help="The secret of the hooks; else the configuration's http.hooks_secret_file.")
    ] = None,
    name: NameOption = "tocsin",
    *,
    how: Edit,
) -> int:
    """Have scenarios nudge Tocsin at their start and end, by webhook reporters. The secret stands in the scenario's
    settings, where all who may read them see it."""
    base, secret = hooks.external_url(session, external_url), hooks.hooks_secret(session, secret_file)

    def change(target: Target, settings: Settings) -> str | None:
        return hooks.install(settings, target, name, base, secret)

    targets = await session.find(addresses, listed=True)
    return await edit_all(session, targets, change, how, "installing hooks")


@verb(app, "remove-hook")
async def remove_hook(
    session: Session, addresses: ScopeArgument = None, name: NameOption = "tocsin", *, how: Edit
) -> int:
    """Remove what install-hook has put into scenarios."""
    targets = await session.find_or_all(addresses)
    return await edit_all(session, targets, lambda _, settings: hooks.remove(settings, name), how, "removing hooks")


@verb(app, "import")
async def import_reporters(
    session: Session,
    addresses: ScopeArgument = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write there, and secrets into files beside it."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a configuration whose receivers and reporters do what DSS's own reporters do, and tell on standard error,
    one by one, what could not be carried over and why."""
    from tocsin.cli.dss.imports import Import

    found = await _reporters(session, addresses)
    made = Import(session)
    await made.read_channels()
    for target, reporter in found:
        made.add(target, reporter)
    if output is not None:
        for name, secret in made.secrets.items():
            write_text(output.parent / name, secret + "\n", private=True)
        write_text(output, made.as_yaml(), private=True)
    if output is None or as_json:
        made.hide_secrets()
    if as_json:
        return show.print_json(made.as_json())
    if output is None:
        print(made.as_yaml(), end="")
    for note in made.notes:
        tell(note)
    tell(f"{made.carried} of {len(found)} reporters carried over{f' to {output}' if output else ''}")
    return None


async def _reporters(session: Session, addresses: list[str] | None) -> list[tuple[Target, Raw]]:
    """Every reporter in scope, in the order of the scenarios."""

    async def read(target: Target) -> list[Raw]:
        request = wire.get_scenario(target.project, target.id)
        return only_objects((await session.client(target.node).perform(request)).get("reporters"))

    targets = await session.find_or_all(addresses)
    found = await session.each("reading scenarios", targets, read)
    return [(target, reporter) for target, reporters in found for reporter in reporters]
