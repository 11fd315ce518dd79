"""Starting scenarios and waiting for their ends."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from tocsin.cli import show
from tocsin.cli.dss.rows import Item, run_row
from tocsin.cli.dss.session import Session, Target
from tocsin.cli.dss.trouble import exit_code, told
from tocsin.cli.exits import DONE, NO, USAGE, Failure, tell
from tocsin.dss import DSSError, DSSRunCancelled, DSSScenarioRun, DSSTriggerFire, DSSWaitTimeout
from tocsin.dss.waits import within
from tocsin.dss.wire import Raw

_CANCELLED = "DSS cancelled the start; is it running already?"


@dataclass(slots=True, eq=False)
class Launch:
    """One scenario on its way: asked for, started, ended, or in trouble."""

    target: Target
    fire: DSSTriggerFire | None = None
    run: DSSScenarioRun | None = None
    note: str | None = None
    code: int = DONE

    def trouble(self, note: str, code: int) -> None:
        self.note, self.code = note, code

    def row(self) -> Item:
        """As ``scenario runs`` shows a run, with the fire; what is not known is null."""
        if self.run is not None:
            row = run_row(self.target, self.run)
        else:
            keys = ("run", "outcome", "start", "end", "duration_seconds", "trigger", "run_as")
            row = {**self.target.place, **dict.fromkeys(keys)}
        return {**row, "fire": self.fire.run_id if self.fire else None, "note": self.note}


def parameters(written: Sequence[str]) -> Raw:
    """``KEY=VALUE`` words as an object. Raises ``Failure``."""
    found = {}
    for word in written:
        key, sign, value = word.partition("=")
        if not key or not sign:
            raise Failure(f"--param {word!r} is not KEY=VALUE", USAGE)
        found[key] = value
    return found


async def start(session: Session, launches: Sequence[Launch], params: Raw) -> None:
    """Ask for a run of each; what goes wrong stands in the launch."""
    slots = asyncio.Semaphore(session.concurrency)

    async def one(launch: Launch) -> None:
        async with slots:
            try:
                launch.fire = await launch.target.scenario.run(params)
            except DSSError as error:
                return launch.trouble(told(error), exit_code(error))
        if await launch.fire.is_cancelled():
            return launch.trouble(_CANCELLED, NO)
        return launch.trouble("started", DONE)

    await asyncio.gather(*map(one, launches))


async def wait_for(launches: Sequence[Launch], seconds: float | None, *, strict: bool) -> None:
    """Wait for the ends of all that were started, ``seconds`` at most; what goes wrong stands in the launch."""

    async def one(launch: Launch) -> None:
        if launch.fire is not None and launch.code == DONE:
            launch.note = "goes on in DSS"
            try:
                async with within(seconds, str(launch.target)):
                    launch.run = await launch.fire.wait_for_scenario_run()
                    if launch.run is not None:
                        await launch.run.wait_for_completion(no_fail=True)
                        good = launch.run.outcome == "SUCCESS" if strict else launch.run.good
                        launch.note, launch.code = None, DONE if good else NO
            except DSSWaitTimeout:
                launch.trouble(f"did not end within {seconds:g} s; goes on in DSS", NO)
            except DSSRunCancelled:
                launch.trouble(_CANCELLED, NO)
            except DSSError as error:
                launch.trouble(told(error), exit_code(error))
        step()

    with show.progress("waiting for runs", len(launches)) as step:
        await asyncio.gather(*map(one, launches))


def report(launches: Sequence[Launch], as_json: bool) -> int:
    """A row for each that was started or would be; what failed before on standard error. The exit code."""
    failed = [launch for launch in launches if launch.fire is None and launch.code != DONE]
    for launch in launches:
        if launch.fire is None and launch.code == DONE:
            launch.note = "would be started"
    if shown := [launch.row() for launch in launches if as_json or launch not in failed]:
        show.rows(shown, ("scenario=address", "outcome", "duration_seconds", "note"), as_json=as_json)
    for launch in failed:
        tell(f"{launch.target}: {launch.note}")
    return max((launch.code for launch in launches), default=DONE)
