"""Changing definitions without changing as whom their scenarios run.

A save makes the credentials' user the last modifier, and a scenario without ``runAsUser`` runs as its last modifier.
So an edit sets ``runAsUser`` to the user it ran as until then, unless that is the same or the caller lets it change.
"""

from collections.abc import Callable, Sequence

from tocsin.cli.dss.bulk import Done, Result, change_all
from tocsin.cli.dss.session import Session, Target
from tocsin.cli.dss.trouble import exit_code, told
from tocsin.cli.exits import NOT_ALLOWED, Failure
from tocsin.cli.verb import Edit
from tocsin.dss import DSSError, PythonScriptBasedScenarioSettings, StepBasedScenarioSettings

Settings = StepBasedScenarioSettings | PythonScriptBasedScenarioSettings
Change = Callable[[Target, Settings], str | None]
"""Changes a definition that was read, and says what it did; None if there was nothing to do."""


async def edit_all(
    session: Session,
    targets: Sequence[Target],
    change: Change,
    how: Edit,
    what: str = "changing",
    settled: Callable[[Target], bool] = lambda _: False,
) -> int:
    """Read, change and save each definition, and tell what became of it; the exit code. A target that is ``settled`` is
    known to need nothing, and is not read."""

    async def one(target: Target) -> Done:
        return Done(Result.UNCHANGED) if settled(target) else await _edit(session, target, change, how)

    return await change_all(session, targets, one, what, how.as_json)


async def _edit(session: Session, target: Target, change: Change, how: Edit) -> Done:
    settings = await target.scenario.get_settings()
    before = settings.effective_run_as
    detail = change(target, settings)
    if detail is None:
        return Done(Result.UNCHANGED)
    me = await session.user(target.node)
    moves = not settings.run_as and before is not None and before != me
    if moves and how.keep_run_as:
        settings.run_as = before
        detail += f"; runAsUser set to {before}, as whom it runs"
    elif moves:
        detail += f"; runs as {me or 'another user'} from now on, no longer as {before}"
    if how.dry_run:
        return Done(Result.WOULD, detail)
    try:
        await settings.save()
    except DSSError as error:
        if moves and how.keep_run_as and exit_code(error) == NOT_ALLOWED:
            hint = f"it runs as {before}; only an admin key can keep that, --no-keep-run-as lets it change"
            raise Failure(f"{told(error)} ({hint})", NOT_ALLOWED) from None
        raise
    return Done(Result.CHANGED, detail)
