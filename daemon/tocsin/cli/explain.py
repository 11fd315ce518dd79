"""``tocsin explain``: a run's whole story, and why it rang or did not."""

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
        str, typer.Argument(metavar="[NODE/]PROJECT/SCENARIO/RUN", help="RUN may be `last`. Percent-encode a slash.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Tell a run's story: when and how it was seen, what was decided and why, what was sent to whom."""
    from pydantic import TypeAdapter

    from tocsin.app.explain import to_text
    from tocsin.store.story import RunStory

    parts = [unquote(part) for part in address.split("/")]
    if len(parts) not in (3, 4) or not all(parts):
        raise Failure(f"{address!r} is not [NODE/]PROJECT/SCENARIO/RUN", USAGE)
    *node, project, scenario, run = parts
    place = (node[0] if node else await _only_node(api), project, scenario)
    story = await api.get("explain", *place, await _last_run(api, *place) if run == "last" else run)
    if as_json:
        return show.print_json(story)
    for line in to_text(TypeAdapter(RunStory).validate_python(story)).splitlines():
        words = line.lstrip(" ")
        print(" " * (len(line) - len(words)) + one_line(words))
    return None


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
