"""Changes of many scenarios at once: bounded, reported one by one, and such that a second try does only what is left.

What fails for one scenario stops no other, unless DSS cannot be reached or does not know the credentials. A scenario
without ``runAsUser`` runs as its last modifier, so an edit sets ``runAsUser`` to the user it ran as until then.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from tocsin.cli import show
from tocsin.cli.dss.address import InvalidAddress, scenario_address
from tocsin.cli.dss.session import Item, Session, Target, describe_error, exit_code
from tocsin.cli.exits import DONE, NOT_ALLOWED, USAGE, Failure, print_stderr, read_object, write_text
from tocsin.cli.verb import Edit
from tocsin.dss import DSSError, PythonScriptBasedScenarioSettings, StepBasedScenarioSettings
from tocsin.dss.errors import DSSConflict, DSSUnauthorized, DSSUnreachable
from tocsin.kit.clock import isoformat
from tocsin.kit.strings import json_text

Settings = StepBasedScenarioSettings | PythonScriptBasedScenarioSettings
Change = Callable[[Target, Settings], str | None]
"""Changes a definition that was read, and says what it did; None if there was nothing to do."""


class Result(StrEnum):
    CHANGED = "changed"
    WOULD = "would change"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    CUT_OFF = "interrupted"  # under way when the user interrupted: perhaps done
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class ChangeOutcome:
    result: Result
    detail: str = ""
    code: int = DONE


async def change_all(
    session: Session,
    targets: Sequence[Target],
    change: Callable[[Target], Awaitable[ChangeOutcome]],
    what: str,
    as_json: bool,
) -> int:
    """Apply ``change`` to each target, print what became of each, and answer the exit code."""
    outcomes = dict.fromkeys(targets, ChangeOutcome(Result.NOT_TRIED))
    slots = {name: asyncio.Semaphore(node.watch.max_concurrency) for name, node in session.nodes.items()}
    hopeless: set[str] = set()  # nodes on which nothing can succeed any more

    async def change_one(target: Target) -> None:
        async with slots[target.node]:
            if target.node in hopeless:
                return
            outcomes[target] = ChangeOutcome(Result.CUT_OFF)
            try:
                outcomes[target] = await change(target)
            except Failure as failure:
                outcomes[target] = ChangeOutcome(Result.FAILED, str(failure), failure.code)
            except DSSError as error:
                detail = describe_error(error)
                if isinstance(error, DSSUnreachable) and error.timed_out:
                    detail += "; it may have been done all the same"
                elif isinstance(error, DSSConflict):
                    detail += "; run this again"
                outcomes[target] = ChangeOutcome(Result.FAILED, detail, exit_code(error))
                if isinstance(error, DSSUnreachable | DSSUnauthorized):
                    hopeless.add(target.node)
            step()

    try:
        with show.progress(what, len(targets)) as step:
            await asyncio.gather(*map(change_one, targets))
    finally:
        _print(outcomes, as_json)
    return max((outcome.code for outcome in outcomes.values()), default=DONE)


def _print(outcomes: dict[Target, ChangeOutcome], as_json: bool) -> None:
    """Rows of what was or would be changed; failures go to standard error, and what needed no change is counted."""
    rows: list[Item] = [
        {**target.place, "result": outcome.result, "detail": outcome.detail or None}
        for target, outcome in outcomes.items()
    ]
    changed = [row for row in rows if row["result"] in (Result.CHANGED, Result.WOULD)]
    if as_json or changed:
        show.rows(rows if as_json else changed, ("scenario=address", "result", "detail"), as_json=as_json)
    for target, outcome in outcomes.items():
        if outcome.result is Result.FAILED:
            print_stderr(f"{target}: {outcome.detail}")
    results = [outcome.result for outcome in outcomes.values()]
    if not as_json and (len(results) != 1 or Result.UNCHANGED in results):
        counts = ((results.count(result), result) for result in Result)
        print_stderr(", ".join(f"{count} {result}" for count, result in counts if count))


async def edit_all(
    session: Session,
    targets: Sequence[Target],
    change: Change,
    how: Edit,
    what: str = "changing",
    settled: Callable[[Target], bool] = lambda _: False,
) -> int:
    """Read, change and save each definition, and report the result; returns the exit code. A target that is ``settled`` is
    known to need nothing, and is not read."""

    async def edit(target: Target) -> ChangeOutcome:
        if settled(target):
            return ChangeOutcome(Result.UNCHANGED)
        settings = await target.scenario.get_settings()
        before = settings.effective_run_as
        detail = change(target, settings)
        if detail is None:
            return ChangeOutcome(Result.UNCHANGED)
        user = await session.user(target.node)
        moves = not settings.run_as and before is not None and before != user
        if moves and how.keep_run_as:
            settings.run_as = before
            detail += f"; runAsUser set to {before}, as whom it runs"
        elif moves:
            detail += f"; runs as {user or 'another user'} from now on, no longer as {before}"
        if how.dry_run:
            return ChangeOutcome(Result.WOULD, detail)
        try:
            await settings.save()
        except DSSError as error:
            if moves and how.keep_run_as and exit_code(error) == NOT_ALLOWED:
                hint = f"it runs as {before}; only an admin key can keep that, --no-keep-run-as lets it change"
                raise Failure(f"{describe_error(error)} ({hint})", NOT_ALLOWED) from None
            raise
        return ChangeOutcome(Result.CHANGED, detail)

    return await change_all(session, targets, edit, what, how.as_json)


def load_disabled(path: Path) -> list[str]:
    """The addresses that a ``disable --save`` has written to a file. Raises ``Failure``."""
    texts = read_object(path).get("scenarios")
    try:
        if not isinstance(texts, list):
            raise InvalidAddress("it holds no scenarios")
        return [str(scenario_address(str(text))) for text in texts]
    except InvalidAddress as error:
        raise Failure(f"{path} was not written by `scenario disable --save`: {error}", USAGE) from None


def save_disabled(path: Path, addresses: Sequence[str], now: datetime, *, complete: bool) -> None:
    """Save these and those of a try that did not complete; ``complete``: all of them are switched off. A file that is
    complete is never written over. Raises ``Failure``."""
    if path.exists():
        if read_object(path).get("complete"):
            raise Failure(f"{path} remembers an earlier disable; name another file, or remove it")
        addresses = [*load_disabled(path), *addresses]
    content = {"saved_at": isoformat(now), "complete": complete, "scenarios": list(dict.fromkeys(addresses))}
    write_text(path, json_text(content) + "\n")
