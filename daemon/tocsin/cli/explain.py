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
        str,
        typer.Argument(
            metavar="[NODE/]PROJECT/SCENARIO/RUN", help="RUN may be `last`. Percent-encode a slash."
        ),
    ],
    url: UrlOption = None,
    token_file: TokenOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell a run's story: when and how it was seen, what was decided and why, what was sent to whom."""
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
        print("\n".join(map(one_line, tell(story))))


async def _only_node(api: Api) -> str:
    nodes = [one["node"] for one in await api.items("nodes", {}, 100)]
    if len(nodes) != 1:
        fail(
            f"there are {len(nodes)} nodes; write NODE/PROJECT/SCENARIO/RUN with one of: {', '.join(nodes)}",
            USAGE,
        )
    return str(nodes[0])


async def _last_run(api: Api, node: str, project: str, scenario: str) -> str:
    found = await api.items("runs", {"dss_node": node, "project": project, "scenario": scenario}, 1)
    if not found:
        fail(f"no run of {node}/{project}/{scenario} is known")
    return str(found[0]["run_id"])


def tell(story: Answer) -> list[str]:
    """The story as lines for people, in the order of time."""
    run = story["run"]
    lines = [
        f"{run['node']}/{run['project']}/{run['scenario']}  run {run['run_id']}",
        f"  started {run['start']}"
        + (f", ended {run['end']} {run['outcome']}" if run["end"] else ", still running"),
        f"  seen {run['seen_at']} by {run['seen_by'] or 'unknown'}" + ("  late" if run["late"] else ""),
    ]
    if run["baseline"]:
        lines.append("  it ended before the scenario was watched: it makes no event")
    if run["error"]:
        lines.append(f"  first error: {run['error']['message']}")
    for title, rows in (
        ("events", [f"{e['time']}  {e['event']}  seq {e['seq']}" for e in story["events"]]),
        ("decisions", [_decision(d) for d in story["decisions"]]),
        (
            "alerts",
            [f"{a['starts_at']}  {a['labels'].get('alertname')}  {a['state']}" for a in story["alerts"]],
        ),
        ("deliveries", [_delivery(d) for d in story["deliveries"]]),
    ):
        lines.append(f"{title}{':' if rows else ': none'}")
        lines += [f"  {row}" for row in rows]
    return lines


def _decision(made: Answer) -> str:
    note = f"  {made['note']}" if made.get("note") else ""
    return f"{made['at']}  {made['stage']}  {made['subject']}: {made['verdict']}{note}"


def _delivery(owed: Answer) -> str:
    reason = f"  {owed['reason']}" if owed.get("reason") else ""
    return (
        f"{owed['owed_at']}  {owed['channel']}: {owed['state']} after {len(owed['attempts'])} tries{reason}"
    )
