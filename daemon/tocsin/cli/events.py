"""``tocsin events``: what happened, in the public order."""

import json
from typing import Annotated

import typer

from tocsin.cli.daemon import Answer, Api, ConfigOption, JsonOption, LimitOption, TokenOption, UrlOption, ask, wanted
from tocsin.cli.show import print_json, rows

app = typer.Typer(help="What happened: runs, nodes, failed reporters.", no_args_is_help=True)
Filter = Annotated[str | None, typer.Option(help="Only these.")]
_COLUMNS = ("seq", "time", "event", "place", "run", "outcome", "error")


@app.command("list")
def list_events(
    event: Filter = None,
    node: Filter = None,
    project: Filter = None,
    scenario: Filter = None,
    outcome: Filter = None,
    after: Annotated[int, typer.Option(help="Only those behind this place in the public order.")] = 0,
    limit: LimitOption = 100,
    url: UrlOption = None,
    token_file: TokenOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List events in their public order, the oldest first."""
    query = wanted(event=event, node=node, project=project, scenario=scenario, outcome=outcome, after=str(after))

    async def work(api: Api) -> list[Answer]:
        return await api.items("events", query, limit)

    found = ask(work, url, token_file, config)
    if as_json:
        print_json(found)
    else:
        rows([_row(one) for one in found], _COLUMNS, as_json=False)


@app.command("tail")
def tail(
    event: Filter = None,
    node: Filter = None,
    project: Filter = None,
    scenario: Filter = None,
    after: Annotated[
        int | None, typer.Option(help="Begin behind this place; without it, with what comes next.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many.")] = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print events as they come, until Ctrl-C; with --json one a line."""
    query = wanted(event=event, node=node, project=project, scenario=scenario)
    if after is not None:
        query["after"] = str(after)

    async def work(api: Api) -> None:
        left = count
        async for line in api.lines("/api/v1/events/stream", query):
            if not line.startswith("data:"):
                continue
            one = json.loads(line.removeprefix("data:"))
            print(json.dumps(one, ensure_ascii=False) if as_json else _line(one), flush=True)
            left = None if left is None else left - 1
            if left == 0:
                return

    try:
        ask(work, url, token_file, config)
    except KeyboardInterrupt:
        raise SystemExit(0) from None


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
    from tocsin.cli.trouble import one_line

    return "  ".join(one_line(str(value)) for value in _row(event).values() if value is not None)
