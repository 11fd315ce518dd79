"""Changes of many scenarios at once: bounded, told one by one, and such that a second try does only what is left.

A change looks whether there is anything to do before it does it. What fails for one scenario stops no other, unless
nothing can succeed any more: DSS cannot be reached, or does not know the credentials. Then, and when the user
interrupts, the rest is told as not tried.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from tocsin.cli import show
from tocsin.cli.exits import DONE
from tocsin.cli.session import Session, Target
from tocsin.cli.trouble import Failure, exit_code, told
from tocsin.dss import DSSConflict, DSSError, DSSUnauthorized, DSSUnreachable

if TYPE_CHECKING:
    pass


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


Change = Callable[[Target], Awaitable[Done]]


async def change_all(session: Session, targets: Sequence[Target], change: Change, *, what: str, as_json: bool) -> int:
    """Apply ``change`` to each target, print what became of each, and answer the exit code."""
    done: dict[str, Done] = {}
    begun: set[str] = set()
    slots = {name: asyncio.Semaphore(node.watch.max_concurrency) for name, node in session.nodes.items()}
    hopeless: set[str] = set()  # nodes on which nothing can succeed any more

    async def one(target: Target) -> None:
        async with slots[target.node]:
            if target.node in hopeless:
                return
            begun.add(target.address)
            try:
                done[target.address] = await change(target)
            except (DSSError, Failure) as error:
                done[target.address] = _failed(error)
                if isinstance(error, DSSUnreachable | DSSUnauthorized):
                    hopeless.add(target.node)
            step()

    try:
        with show.progress(what, len(targets)) as step:
            await asyncio.gather(*map(one, targets))
    finally:
        for target in targets:
            cut_off = Result.CUT_OFF if target.address in begun else Result.NOT_TRIED
            done.setdefault(target.address, Done(cut_off))
        _print(targets, done, as_json)
    return max((outcome.code for outcome in done.values()), default=DONE)


def _failed(error: DSSError | Failure) -> Done:
    if isinstance(error, Failure):
        return Done(Result.FAILED, str(error), error.code)
    unsure = "; it may have been done all the same" if isinstance(error, DSSUnreachable) and error.timed_out else ""
    again = "; run this again" if isinstance(error, DSSConflict) else ""
    return Done(Result.FAILED, told(error) + unsure + again, exit_code(error))


def _print(targets: Sequence[Target], done: Mapping[str, Done], as_json: bool) -> None:
    """Rows of what was or would be changed; what failed is told on standard error, and what needed nothing counted."""
    results = [(target, done[target.address]) for target in targets]
    if as_json:
        show.print_json([{**t.place, "result": d.result, "detail": d.detail or None} for t, d in results])
    elif told := [(t, d) for t, d in results if d.result in (Result.CHANGED, Result.WOULD)]:
        rows = [{"address": t.address, "result": d.result, "detail": d.detail} for t, d in told]
        show.rows(rows, ("scenario=address", "result", "detail"), as_json=False)
    for target, outcome in results:
        if outcome.result is Result.FAILED:
            print(f"tocsin: {target.address}: {outcome.detail}", file=sys.stderr)
    counts = [(sum(d.result is result for _, d in results), result) for result in Result]
    alone = len(results) == 1 and results[0][1].result is not Result.UNCHANGED
    if not (as_json or alone):
        print(f"tocsin: {', '.join(f'{count} {result}' for count, result in counts if count)}", file=sys.stderr)
