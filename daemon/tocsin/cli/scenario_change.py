"""The verbs that act on scenarios, many at once where wanted."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tocsin.cli import remembered
from tocsin.cli.address import scenario_address
from tocsin.cli.exits import NO, USAGE
from tocsin.cli.session import Session, Target
from tocsin.cli.trouble import Failure
from tocsin.cli.verb import (
    DryRunOption,
    JsonOption,
    KeepRunAsOption,
    ScenariosArgument,
    ScopeArgument,
    TimeoutOption,
    seconds,
    verb,
)

if TYPE_CHECKING:
    from tocsin.cli.edit import How, Settings

app = typer.Typer()
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
    strict: Annotated[bool, typer.Option("--strict", help="With --wait: a WARNING is no success.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> int:
    """Start scenarios; with --wait all are started before the first is waited for. Exit 1 if one does not succeed."""
    from tocsin.cli.launch import Launch, parameters, start, tell, wait_for

    params, limit = parameters(param or []), seconds(timeout)
    targets = await session.find(map(scenario_address, addresses), listed=dry_run)
    launches = [Launch(target) for target in targets]
    try:
        if not dry_run:
            await start(session, launches, params)
        if not dry_run and (wait or limit is not None):
            await wait_for(launches, limit, strict=strict)
    finally:
        code = tell(launches, as_json=as_json)
    return code


@verb(app, "abort")
async def abort(
    session: Session,
    addresses: ScenariosArgument,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> int:
    """Stop the current runs. DSS accepts at once and ends them a little later."""
    from tocsin.cli.bulk import Done, Result, change_all

    limit = seconds(timeout)

    async def stop(target: Target) -> Done:
        run = await target.scenario.get_current_run()
        if run is None:
            return Done(Result.UNCHANGED, "is not running")
        if dry_run:
            return Done(Result.WOULD, f"run {run.id}")
        await target.scenario.abort()
        if wait or limit is not None:
            await run.wait_for_completion(no_fail=True, timeout=limit)
            return Done(Result.CHANGED, f"run {run.id} ended with {run.outcome}")
        return Done(Result.CHANGED, f"run {run.id} is asked to end")

    targets = await session.find(map(scenario_address, addresses))
    return await change_all(session, targets, stop, what="aborting", as_json=as_json)


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
    dry_run: DryRunOption = False,
    keep_run_as: KeepRunAsOption = True,
    as_json: JsonOption = False,
) -> int:
    """Switch automatic triggers on."""
    from tocsin.cli.edit import How

    if bool(addresses) == (file is not None):
        raise Failure("say either which scenarios, or --from FILE", USAGE)
    wanted = remembered.recall(file) if file else map(scenario_address, addresses or [])
    targets = await session.find(wanted)
    return await _switch(session, targets, True, How(dry_run, keep_run_as, as_json))


@verb(app, "disable")
async def disable(
    session: Session,
    addresses: ScenariosArgument,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Remember which were active, for `enable --from FILE`.")
    ] = None,
    dry_run: DryRunOption = False,
    keep_run_as: KeepRunAsOption = True,
    as_json: JsonOption = False,
) -> int:
    """Switch automatic triggers off."""
    from tocsin.cli.edit import How

    targets = await session.find(map(scenario_address, addresses), listed=True)
    active = [target.address for target in targets if target.item.get("active")]
    kept = remembered.begin(save, active, session.clock.now()) if save and not dry_run else []
    code = await _switch(session, targets, False, How(dry_run, keep_run_as, as_json))
    if save and not dry_run and code == 0:
        remembered.complete(save, kept, session.clock.now())
    return code


async def _switch(session: Session, targets: list[Target], on: bool, how: "How") -> int:
    from tocsin.cli.edit import edit_all

    def turn(_: Target, settings: "Settings") -> str | None:
        if settings.active == on:
            return None
        settings.active = on
        return "switched on" if on else "switched off"

    def settled(target: Target) -> bool:
        return bool(target.item) and bool(target.item.get("active")) == on

    what = "switching on" if on else "switching off"
    return await edit_all(session, targets, turn, what, how, settled)


@verb(app, "reassign")
async def reassign(
    session: Session,
    addresses: ScopeArgument = None,
    *,
    former: Annotated[str, typer.Option("--from", metavar="USER", help="The login that they run as now.")],
    new: Annotated[str, typer.Option("--to", metavar="USER", help="The login that they shall run as.")],
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> int:
    """Have scenarios that run as one user run as another; needs an admin key."""
    from tocsin.cli.edit import How, edit_all

    def hand_over(_: Target, settings: "Settings") -> str | None:
        if settings.effective_run_as != former or former == new:
            return None
        settings.run_as = new
        return f"runAsUser set to {new}"

    targets = await session.find_or_all(addresses)
    return await edit_all(session, targets, hand_over, "reassigning", How(dry_run, True, as_json))


@verb(app, "delete")
async def delete(
    session: Session,
    addresses: ScenariosArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete what a pattern matches without asking.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> int:
    """Delete scenarios with their history. A pattern wants --yes, or a yes on the terminal."""
    from tocsin.cli.bulk import Done, Result, change_all

    wanted = [scenario_address(text) for text in addresses]
    targets = await session.find(wanted, listed=dry_run)
    if any(address.is_glob for address in wanted) and not (yes or dry_run):
        _confirm(targets)

    async def remove(target: Target) -> Done:
        if dry_run:
            return Done(Result.WOULD, "deleted")
        await target.scenario.delete()
        return Done(Result.CHANGED, "deleted")

    return await change_all(session, targets, remove, what="deleting", as_json=as_json)


def _confirm(targets: list[Target]) -> None:
    """Ask on the terminal. Raises ``Failure`` for a no, and where nobody can be asked."""
    import sys

    if not sys.stdin.isatty():
        raise Failure(f"the pattern matches {len(targets)} scenarios: say --yes to delete them", USAGE)
    print(*(target.address for target in targets), sep="\n", file=sys.stderr)
    if not typer.confirm(f"Delete these {len(targets)} scenarios?", err=True):
        raise Failure("nothing was deleted", NO)
