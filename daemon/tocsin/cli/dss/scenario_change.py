"""The verbs that act on scenarios, many at once where wanted."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli.dss import remembered
from tocsin.cli.dss.address import scenario_address
from tocsin.cli.dss.bulk import Done, Result, change_all
from tocsin.cli.dss.edit import Settings, edit_all
from tocsin.cli.dss.launch import Launch, parameters, report, start, wait_for
from tocsin.cli.dss.session import Session, Target
from tocsin.cli.exits import USAGE, Failure
from tocsin.cli.verb import (
    Bulk,
    Edit,
    ScenariosArgument,
    ScopeArgument,
    StrictOption,
    TimeoutOption,
    seconds,
    typer_app,
    verb,
)

app = typer_app()
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait for the end.")]


@verb(app, "run")
async def run(
    session: Session,
    addresses: ScenariosArgument,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A parameter of the trigger; repeat it for more.")
    ] = None,
    strict: StrictOption = False,
    *,
    how: Bulk,
) -> int:
    """Start scenarios; with --wait all are started before the first is waited for. Exit 1 if one does not succeed."""
    params, limit = parameters(param or []), seconds(timeout)
    targets = await session.find(addresses, listed=how.dry_run)
    launches = [Launch(target) for target in targets]
    try:
        if not how.dry_run:
            await start(session, launches, params)
        if not how.dry_run and (wait or limit is not None):
            await wait_for(launches, limit, strict=strict)
    finally:
        code = report(launches, how.as_json)
    return code


@verb(app, "abort")
async def abort(
    session: Session,
    addresses: ScenariosArgument,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
    *,
    how: Bulk,
) -> int:
    """Stop the current runs. DSS accepts at once and ends them a little later."""
    limit = seconds(timeout)

    async def stop(target: Target) -> Done:
        run = await target.scenario.get_current_run()
        if run is None:
            return Done(Result.UNCHANGED, "is not running")
        if how.dry_run:
            return Done(Result.WOULD, f"run {run.id}")
        await target.scenario.abort()
        if wait or limit is not None:
            await run.wait_for_completion(no_fail=True, timeout=limit)
            return Done(Result.CHANGED, f"run {run.id} ended with {run.outcome}")
        return Done(Result.CHANGED, f"run {run.id} is asked to end")

    targets = await session.find(addresses)
    return await change_all(session, targets, stop, "aborting", how.as_json)


@verb(app, "enable")
async def enable(
    session: Session,
    addresses: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ADDRESS...]", help="[NODE/]PROJECT/SCENARIO; globs allowed.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Those that `disable --save` remembered there.")
    ] = None,
    *,
    how: Edit,
) -> int:
    """Switch automatic triggers on."""
    if bool(addresses) == (file is not None):
        raise Failure("say either which scenarios, or --from FILE", USAGE)
    targets = await session.find(remembered.recall(file) if file else addresses or [])
    return await _switch(session, targets, True, how)


@verb(app, "disable")
async def disable(
    session: Session,
    addresses: ScenariosArgument,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Remember which were active, for `enable --from FILE`.")
    ] = None,
    *,
    how: Edit,
) -> int:
    """Switch automatic triggers off."""
    targets = await session.find(addresses, listed=True)
    active = [str(target) for target in targets if target.item.get("active")]
    kept = remembered.begin(save, active, session.clock.now()) if save and not how.dry_run else []
    code = await _switch(session, targets, False, how)
    if save and not how.dry_run and code == 0:
        remembered.complete(save, kept, session.clock.now())
    return code


async def _switch(session: Session, targets: list[Target], on: bool, how: Edit) -> int:
    def turn(_: Target, settings: Settings) -> str | None:
        if settings.active == on:
            return None
        settings.active = on
        return "switched on" if on else "switched off"

    def settled(target: Target) -> bool:
        return bool(target.item) and bool(target.item.get("active")) == on

    what = "switching on" if on else "switching off"
    return await edit_all(session, targets, turn, how, what, settled)


@verb(app, "reassign")
async def reassign(
    session: Session,
    addresses: ScopeArgument = None,
    *,
    former: Annotated[str, typer.Option("--from", metavar="USER", help="The login that they run as now.")],
    new: Annotated[str, typer.Option("--to", metavar="USER", help="The login that they shall run as.")],
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
async def delete(
    session: Session,
    addresses: ScenariosArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete what a pattern matches without asking.")] = False,
    *,
    how: Bulk,
) -> int:
    """Delete scenarios with their history. A pattern wants --yes, or a yes on the terminal."""
    targets = await session.find(addresses, listed=how.dry_run)
    if any(scenario_address(text).is_glob for text in addresses) and not (yes or how.dry_run):
        _confirm(targets)

    async def remove(target: Target) -> Done:
        if how.dry_run:
            return Done(Result.WOULD, "deleted")
        await target.scenario.delete()
        return Done(Result.CHANGED, "deleted")

    return await change_all(session, targets, remove, "deleting", how.as_json)


def _confirm(targets: list[Target]) -> None:
    """Ask on the terminal. Raises ``Failure`` for a no, and where nobody can be asked."""
    if not sys.stdin.isatty():
        raise Failure(f"the pattern matches {len(targets)} scenarios: say --yes to delete them", USAGE)
    print(*targets, sep="\n", file=sys.stderr)
    if not typer.confirm(f"Delete these {len(targets)} scenarios?", err=True):
        raise Failure("nothing was deleted")
