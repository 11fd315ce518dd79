"""Changes of many scenarios at once: bounded, told one by one, and such that a second try does only what is left.

A change looks whether there is anything to do before it does it. What fails for one scenario stops no other, unless
nothing can succeed any more: DSS cannot be reached, or does not know the credentials. Then, and when the user
interrupts, the rest is told as not tried.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tocsin.cli import show
from tocsin.cli.dss.session import Session, Target
from tocsin.cli.dss.trouble import exit_code, told
from tocsin.cli.exits import DONE, Failure, tell
from tocsin.dss.errors import DSSConflict, DSSError, DSSUnauthorized, DSSUnreachable


class Result(StrEnum):
    """What became of one change."""

    CHANGED = "changed"
    WOULD = "would change"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    CUT_OFF = "interrupted"  # under way when the user interrupted: perhaps done
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Done:
    """What one change came to."""

    result: Result
    detail: str = ""
    code: int = DONE


async def change_all(
    session: Session, targets: Sequence[Target], change: Callable[[Target], Awaitable[Done]], what: str, as_json: bool
) -> int:
    """Apply ``change`` to each target, print what became of each, and answer the exit code."""
    done: dict[Target, Done] = {}
    slots = {name: asyncio.Semaphore(node.watch.max_concurrency) for name, node in session.nodes.items()}
    hopeless: set[str] = set()  # nodes on which nothing can succeed any more

    async def one(target: Target) -> None:
        async with slots[target.node]:
            if target.node in hopeless:
                return
            done[target] = Done(Result.CUT_OFF)
            try:
                done[target] = await change(target)
            except (DSSError, Failure) as error:
                done[target] = _failed(error)
                if isinstance(error, DSSUnreachable | DSSUnauthorized):
                    hopeless.add(target.node)
            step()

    try:
        with show.progress(what, len(targets)) as step:
            await asyncio.gather(*map(one, targets))
    finally:
        _print({target: done.get(target, Done(Result.NOT_TRIED)) for target in targets}, as_json)
    return max((outcome.code for outcome in done.values()), default=DONE)


def _failed(error: DSSError | Failure) -> Done:
    if isinstance(error, Failure):
        return Done(Result.FAILED, str(error), error.code)
    unsure = "; it may have been done all the same" if isinstance(error, DSSUnreachable) and error.timed_out else ""
    again = "; run this again" if isinstance(error, DSSConflict) else ""
    return Done(Result.FAILED, told(error) + unsure + again, exit_code(error))


def _print(done: Mapping[Target, Done], as_json: bool) -> None:
    """Rows of what was or would be changed; what failed is told on standard error, and what needed nothing counted."""
    rows = [{**target.place, "result": one.result, "detail": one.detail or None} for target, one in done.items()]
    changed = [row for row in rows if row["result"] in (Result.CHANGED, Result.WOULD)]
    if as_json or changed:
        show.rows(rows if as_json else changed, ("scenario=address", "result", "detail"), as_json=as_json)
    results = [one.result for one in done.values()]
    for target, one in done.items():
        if one.result is Result.FAILED:
            tell(f"{target}: {one.detail}")
    alone = len(results) == 1 and Result.UNCHANGED not in results
    if not (as_json or alone):
        counts = ((results.count(result), result) for result in Result)
        tell(", ".join(f"{count} {result}" for count, result in counts if count))
