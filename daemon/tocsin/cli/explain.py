"""``tocsin explain``: a run's whole story, and why it rang or did not."""

from typing import Annotated
from urllib.parse import quote, unquote

import typer

from tocsin.cli.daemon import Answer, Api, ConfigOption, JsonOption, TokenOption, UrlOption, ask
from tocsin.cli.exits import USAGE, fail
from tocsin.cli.show import print_json
from tocsin.cli.trouble import one_line


def explain(
    address: Annotated[
        str, typer.Argument(metavar="[NODE/]PROJECT/SCENARIO/RUN", help="RUN may be `last`. Percent-encode a slash.")
    ],
    url: UrlOption = None,
    token_file: TokenOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell a run's story: when and how it was seen, what was decided and why, what was sent to whom."""
    from pydantic import TypeAdapter

    from tocsin.app.explain import to_text
    from tocsin.store.story import RunStory

    parts = [unquote(part) for part in address.split("/")]
    if len(parts) not in (3, 4) or not all(parts):
        fail(f"{address!r} is not [NODE/]PROJECT/SCENARIO/RUN", USAGE)

    async def work(api: Api) -> Answer:
        node = parts[0] if len(parts) == 4 else await _only_node(api)
        project, scenario, run = parts[-3:]
        if run == "last":
            run = await _last_run(api, node, project, scenario)
        path = "/".join(quote(part, safe="") for part in (node, project, scenario, run))
        return await api.get(f"/api/v1/explain/{path}")

    story = ask(work, url, token_file, config)
    if as_json:
        print_json(story)
    else:
        for line in to_text(TypeAdapter(RunStory).validate_python(story)).splitlines():
            words = line.lstrip(" ")
            print(" " * (len(line) - len(words)) + one_line(words))


async def _only_node(api: Api) -> str:
    nodes = [one["node"] for one in await api.items("nodes", {}, 100)]
    if len(nodes) != 1:
        fail(f"there are {len(nodes)} nodes; write NODE/PROJECT/SCENARIO/RUN with one of: {', '.join(nodes)}", USAGE)
    return str(nodes[0])


async def _last_run(api: Api, node: str, project: str, scenario: str) -> str:
    found = await api.items("runs", {"dss_node": node, "project": project, "scenario": scenario}, 1)
    if not found:
        fail(f"no run of {node}/{project}/{scenario} is known")
    return str(found[0]["run_id"])
