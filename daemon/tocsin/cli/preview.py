"""The verb ``message``: what each channel of a receiver would get, for a run, an alert or a sample."""

from pathlib import Path
from typing import Annotated, Any

from tocsin.cli import show
from tocsin.cli.api import ApiClient, JsonObject
from tocsin.cli.exits import USAGE, Failure, one_line
from tocsin.cli.state import run_path
from tocsin.cli.verb import Argument, JsonOption, Option, group, load_config, verb

message = group()


@verb(message, "preview")
async def preview_message(
    api: ApiClient,
    receiver: Annotated[str, Argument(help="The name of a receiver.")],
    run: Annotated[str | None, Option(metavar="[NODE/]PROJECT/SCENARIO/RUN", help="A run; RUN may be `last`.")] = None,
    alert: Annotated[str | None, Option(metavar="ID", help="An alert.")] = None,
    html: Annotated[Path | None, Option(metavar="FILE", help="Write the HTML of a mail to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Render what each channel of RECEIVER would get, and send nothing. Without a run or an alert: a sample."""
    from tocsin.deliver.check import preview
    from tocsin.kit.clock import SystemClock
    from tocsin.kit.strings import did_you_mean

    config = load_config(api.config)
    found = config.receiver(receiver)
    if found is None:
        raise Failure(
            f"no receiver is named {receiver!r}{did_you_mean(receiver, [item.name for item in config.receivers])}"
        )
    notice, facts = await _notice(api, receiver, run, alert)
    previews = [preview(channel, notice, facts, config, SystemClock()) for channel in found.channels]
    if html is not None:
        page = next((item.html for item in previews if item.html), None)
        if page is None:
            raise Failure(f"{receiver} has no channel that sends HTML")
        html.write_text(page, "utf-8")
    if as_json:
        return show.print_json([{name: getattr(item, name) for name in item.__slots__} for item in previews])
    for number, item in enumerate(previews):
        print("\n" * bool(number) + f"=== {item.channel}")
        print(one_line(f"Nothing is sent: {item.problem}" if item.problem else item.title))
        for line in item.body.splitlines():
            print(" " * (len(line) - len(line.lstrip(" "))) + show.cell(line))
    return None


async def _notice(api: ApiClient, receiver: str, run: str | None, alert: str | None) -> tuple[Any, Any]:
    from tocsin.deliver.check import samples
    from tocsin.model.notification import GroupNotice

    if run is not None and alert is not None:
        raise Failure("--run and --alert exclude each other", USAGE)
    if run is not None:
        return _of_run(await api.request("GET", "explain", *await run_path(api, run)))
    if alert is not None:
        return _of_alert(receiver, await api.request("GET", "explain", "alerts", alert))
    return next((notice, facts) for _, notice, facts in samples() if isinstance(notice, GroupNotice))


def _of_run(story: JsonObject) -> tuple[Any, Any]:
    """The notice of a run's end, or of its start while it runs, from the explanation of the run."""
    from pydantic import TypeAdapter

    from tocsin.deliver.outgoing import Facts
    from tocsin.model.event import Event, EventName, ScenarioFacts, end_event_name
    from tocsin.model.notification import EventNotice
    from tocsin.model.run import Details, Run, RunError, Step
    from tocsin.store.explanation import RunExplanation

    known = TypeAdapter(RunExplanation).validate_python(story)
    record = known.run
    key = record.key
    run = Run(key.scenario, key.run_id, key.start, record.end, record.outcome, record.trigger_type, record.trigger_name,
              None, record.run_as)  # fmt: skip
    name = end_event_name(record.outcome) if record.outcome else EventName.RUN_STARTED
    event = Event("preview", name, key.scenario.node, run.end or run.start, record.seen_at, key.scenario.project,
                  ScenarioFacts(key.scenario.scenario, key.scenario.scenario, ()), run, known.url)  # fmt: skip
    steps = tuple(
        Step(None, step.name, step.type, step.outcome, _seconds(step.duration_seconds), step.job_ids)
        for step in known.steps
    )
    said = record.error
    error = None if said is None else RunError(said.message, said.code, said.title, said.step)
    read_at = known.details_read_at or record.seen_at
    details = Details(key, read_at, error, steps, known.log_tail, known.details_problem, known.warnings)
    usual = _seconds(known.usual_seconds)
    return EventNotice(event, "preview"), Facts({key: details}, {} if usual is None else {key.scenario: usual})


def _of_alert(receiver: str, story: JsonObject) -> tuple[Any, Any]:
    from pydantic import TypeAdapter

    from tocsin.deliver.outgoing import Facts
    from tocsin.model.alert import Alert
    from tocsin.model.notification import GroupNotice
    from tocsin.store.explanation import AlertExplanation

    record = TypeAdapter(AlertExplanation).validate_python(story).alert
    alert = Alert(record.id, record.fingerprint, record.labels, record.starts_at, record.ends_at, record.end_reason,
                  record.annotations, record.count, acknowledged=record.acknowledged)  # fmt: skip
    return GroupNotice("preview", receiver, record.labels, (alert,), "first"), Facts()


def _seconds(value: float | None) -> Any:
    from datetime import timedelta

    return None if value is None else timedelta(seconds=value)
