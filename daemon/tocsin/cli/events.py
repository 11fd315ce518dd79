"""``tocsin events``: what happened, in the public order."""

import json
from typing import Annotated

import typer

from tocsin.cli.daemon import Answer, Api, listing
from tocsin.cli.exits import DONE, one_line
from tocsin.cli.verb import Filter, JsonOption, LimitOption, typer_app, verb

app = typer_app()


@verb(app, "list")
async def list_events(
    api: Api,
    event: Filter = None,
    node: Filter = None,
    project: Filter = None,
    scenario: Filter = None,
    outcome: Filter = None,
    after: Annotated[int, typer.Option(help="Only those behind this place in the public order.")] = 0,
    limit: LimitOption = 100,
    as_json: JsonOption = False,
) -> None:
    """List events in their public order, the oldest first."""
    found = await api.items(
        "events", limit, event=event, node=node, project=project, scenario=scenario, outcome=outcome, after=str(after)
    )
    listing(found, _row, ("seq", "time", "event", "place", "run", "outcome", "error"), as_json)


@verb(app, "tail", interrupted=DONE)
async def tail(
    api: Api,
    event: Filter = None,
    node: Filter = None,
    project: Filter = None,
    scenario: Filter = None,
    after: Annotated[
        int | None, typer.Option(help="Begin behind this place; without it, with what comes next.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print events as they come, until Ctrl-C; with --json one a line."""
    since = None if after is None else str(after)
    coming = api.stream("events", "stream", event=event, node=node, project=project, scenario=scenario, after=since)
    async for one in coming:
        print(json.dumps(one, ensure_ascii=False) if as_json else _line(one), flush=True)
        if count is not None and (count := count - 1) == 0:
            break


def _row(event: Answer) -> Answer:
    data = event["data"]
    run, scenario, error = data["run"], data["scenario"], data["error"]
    place = "/".join(part for part in (data["node"], data["project"], scenario and scenario["id"]) if part)
    return {
        "seq": event.get("seq"),
        "time": event["time"],
        "event": event["type"].removeprefix("tocsin."),
        "place": place,
        "run": run and run["id"],
        "outcome": run["outcome"] if run else data["reason"],
        "error": error and error["message"],
    }


def _line(event: Answer) -> str:
    return "  ".join(one_line(str(value)) for value in _row(event).values() if value is not None)
