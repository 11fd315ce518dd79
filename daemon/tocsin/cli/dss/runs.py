"""``tocsin runs``: what people do with single runs."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from tocsin.cli import show
from tocsin.cli.dss.session import Item, Session, Target
from tocsin.cli.exits import DONE, NO, Failure, write_text
from tocsin.cli.verb import (
    JsonOption,
    Option,
    RunArgument,
    StrictOption,
    TimeoutOption,
    group,
    list_verb,
    seconds,
    verb,
)
from tocsin.dss import DSSScenarioRun, DSSScenarioRunDetails, DSSStepRunDetails
from tocsin.dss.fields import get_object, get_text, only_objects

app = group()
StepOption = Annotated[str | None, Option(help="Only that of the step with this id or name.")]
_STEPS = ("name", "type", "outcome", "duration_seconds", "job_ids")
_RUN = ("run=address", "outcome", "start", "duration_seconds")


@verb(app, "show")
async def show_run(session: Session, address: RunArgument, as_json: JsonOption = False) -> None:
    """Show one run: how it went, its steps and its first error."""
    target, run, details = await _read(session, address)
    steps, errors = list(map(_step_row, details.steps)), _errors(details)
    row: Item = {**target.run_row(run), "running": run.running, "steps": steps}
    row["first_error"] = errors[0] if errors else None
    show.item(row, hide=("steps", "first_error"), as_json=as_json)
    if as_json:
        return
    print()
    show.rows(steps, _STEPS)
    if errors:
        print()
        show.item(errors[0], hide=("stack",))


@verb(app, "wait")
async def wait_for_run(
    session: Session,
    address: RunArgument,
    timeout: TimeoutOption = None,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> int:
    """Wait for the end of a run. Exit 1 if it did not succeed, or not in time."""
    limit = seconds(timeout)
    target, run = await session.run(address)
    with show.spinner(f"waiting for {target}"):
        await run.wait_for_completion(no_fail=True, timeout=limit)
    show.rows([target.run_row(run)], _RUN, as_json=as_json)
    return DONE if run.outcome == "SUCCESS" or (run.good and not strict) else NO


@verb(app, "abort")
async def abort_run(
    session: Session, address: RunArgument, timeout: TimeoutOption = None, as_json: JsonOption = False
) -> None:
    """Stop a run, and no other one; with --timeout wait for its end. Exit 1 if it has ended already."""
    limit = seconds(timeout)
    target, run = await session.run(address)
    current = await target.scenario.get_current_run()
    if current is None or current.id != run.id:
        raise Failure(f"run {run.id} of {target} has ended already")
    await target.scenario.abort()
    if limit is not None:
        await run.wait_for_completion(no_fail=True, timeout=limit)
    show.rows([target.run_row(run)], _RUN, as_json=as_json)


@list_verb(app, "jobs", "job", "project", "step", "state")
async def list_run_jobs(session: Session, address: RunArgument) -> list[Item]:
    """List the jobs that a run started, with their states."""
    target, _, details = await _read(session, address)
    client = session.client(target.node)

    async def read(job: tuple[str | None, str, str]) -> Item:
        step, key, id = job
        status = get_object(await client.get_project(key).get_job(id).get_status(), "baseStatus")
        return {"job": id, "project": key, "step": step, "state": get_text(status, "state")}

    started = [
        (step.name or step.id, get_text(item, "jobProjectKey") or target.project, item["jobId"])
        for step in details.steps
        for item in only_objects(step.get("additionalReportItems"))
        if item.get("type") == "JOB_EXECUTED" and get_text(item, "jobId")
    ]
    return [row for _, row in await session.read_each("reading jobs", started, read, lambda job: f"job {job[2]}")]


@verb(app, "errors")
async def show_run_errors(session: Session, address: RunArgument, as_json: JsonOption = False) -> None:
    """Show the errors of a run, the first one first, then its warnings; nothing if there are none."""
    _, _, details = await _read(session, address)
    errors = [*_errors(details), *_warnings(details)]
    if as_json:
        return show.print_json(errors)
    for number, error in enumerate(errors):
        print("\n" if number else "", end="")
        show.item(error, hide=("stack",))
        if error.get("stack"):
            print(*map(show.cell, str(error["stack"]).splitlines()), sep="\n")
    return None


@list_verb(app, "steps", *_STEPS)
async def list_run_steps(session: Session, address: RunArgument) -> list[Item]:
    """List the steps that a run went through; one that was retried stands once for each try."""
    _, _, details = await _read(session, address)
    return list(map(_step_row, details.steps))


@verb(app, "log")
async def print_run_log(
    session: Session,
    address: RunArgument,
    step: StepOption = None,
    tail: Annotated[int | None, Option(metavar="BYTES", min=1, help="Only the end.")] = None,
) -> None:
    """Print the log of a run."""
    target, run = await session.run(address)
    step_id = None if step is None else await _step_id(target, run, step)
    text = await run.get_log(step_id, tail_bytes=tail)
    print(text, end="" if text.endswith("\n") else "\n")


@verb(app, "report")
async def print_run_report(
    session: Session,
    address: RunArgument,
    step: StepOption = None,
    output: Annotated[Path | None, Option("--output", "-o", metavar="FILE", help="Write it there.")] = None,
) -> None:
    """Print the JUnit report of a run; only test scenarios have one."""
    target, run = await session.run(address)
    try:
        xml = await (run.get_report() if step is None else run.get_step_run_report(await _step_id(target, run, step)))
    except ValueError as error:  # of a scenario that is no test
        raise Failure(str(error)) from None
    text = xml.decode("utf-8", "replace")
    print(text) if output is None else write_text(output, text)


async def _read(session: Session, address: str) -> tuple[Target, DSSScenarioRun, DSSScenarioRunDetails]:
    """A run with its details; the run itself as it stands in them."""
    target, run = await session.run(address)
    details = await run.get_details()
    run.run = details.scenario_run or run.run
    return target, run, details


def _step_row(step: DSSStepRunDetails) -> Item:
    return {
        **{key: getattr(step, key) for key in ("id", "name", "type", "outcome")},
        "start": step.start_time,
        "end": step.end_time,
        "duration_seconds": None if step.duration is None else timedelta(seconds=step.duration),
        "job_ids": step.job_ids,
    }


def _errors(details: DSSScenarioRunDetails) -> list[Item]:
    return [
        {
            "step": step.name or step.id,
            **{key: get_text(thrown, key) for key in ("code", "title", "message")},
            "class": get_text(thrown, "clazz"),
            "stack": get_text(thrown, "stack") or None,
        }
        for step in details.steps
        if (thrown := step.first_error_details) is not None
    ]


def _warnings(details: DSSScenarioRunDetails) -> list[Item]:
    return [
        {"step": step.name or step.id, "title": "warning", "message": message, "count": count}
        for step in details.steps
        for message, count in step.warnings
    ]


async def _step_id(target: Target, run: DSSScenarioRun, wanted: str) -> str:
    steps = (await run.get_details()).steps
    for step in steps:
        if step.id is not None and wanted in (step.id, step.name):
            return step.id
    known = ", ".join(step.id for step in steps if step.id)
    raise Failure(f"run {run.id} of {target} has no step {wanted!r}; it has {known or 'none'}")
