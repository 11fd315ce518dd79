"""``tocsin explain``: why a run or an alert fired or did not, and who was notified."""

from typing import Annotated
from urllib.parse import unquote

import typer

from tocsin.cli import show
from tocsin.cli.daemon import Api
from tocsin.cli.exits import USAGE, Failure, one_line
from tocsin.cli.verb import JsonOption, typer_app, verb

app = typer_app()


@verb(app, "explain")
async def explain(
    api: Api,
    address: Annotated[
        str,
        typer.Argument(
            metavar="[NODE/]PROJECT/SCENARIO/RUN or ALERT-ID",
            help="RUN may be `last`. Percent-encode a slash. An alert's id may be cut where it is still unique.",
        ),
    ],
    everything: Annotated[
        bool, typer.Option("--all", help="Every event, decision, notification and try, and what did not fire and why.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell what became of a run or an alert: what fired, and a line a channel on who was notified and why not."""
    from pydantic import TypeAdapter

    from tocsin.decide.explain import alert_text, run_text
    from tocsin.store.story import AlertStory, RunStory

    parts = [unquote(part) for part in address.split("/")]
    if len(parts) == 1 and address:
        story = await api.get("explain", "alerts", address)
        if not as_json:
            _print(alert_text(TypeAdapter(AlertStory).validate_python(story), everything=everything))
        return show.print_json(story) if as_json else None
    if len(parts) not in (3, 4) or not all(parts):
        raise Failure(f"{address!r} is neither [NODE/]PROJECT/SCENARIO/RUN nor the id of an alert", USAGE)
    *node, project, scenario, run = parts
    place = (node[0] if node else await _only_node(api), project, scenario)
    story = await api.get("explain", *place, await _last_run(api, *place) if run == "last" else run)
    if as_json:
        return show.print_json(story)
    return _print(run_text(TypeAdapter(RunStory).validate_python(story), everything=everything))


def _print(text: str) -> None:
    for line in text.splitlines():
        words = line.lstrip(" ")
        print(" " * (len(line) - len(words)) + one_line(words))


async def _only_node(api: Api) -> str:
    nodes = [str(one["node"]) for one in await api.items("nodes", 100)]
    if len(nodes) != 1:
        names = ", ".join(nodes)
        raise Failure(f"there are {len(nodes)} nodes; write NODE/PROJECT/SCENARIO/RUN with one of: {names}", USAGE)
    return nodes[0]


async def _last_run(api: Api, node: str, project: str, scenario: str) -> str:
    found = await api.items("runs", 1, node=node, project=project, scenario=scenario)
    if not found:
        raise Failure(f"no run of {node}/{project}/{scenario} is known")
    return str(found[0]["run_id"])
