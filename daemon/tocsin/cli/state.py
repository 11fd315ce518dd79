"""The verbs on the daemon's own state: ``events``, ``alerts``, ``silence``, ``deliveries`` and ``explain``."""

import getpass
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, make_dataclass
from typing import Annotated, Any
from urllib.parse import unquote

import click

from tocsin.cli import show
from tocsin.cli.api import ApiClient, JsonObject
from tocsin.cli.exits import DONE, USAGE, Failure, one_line
from tocsin.cli.verb import Argument, Filter, JsonOption, LimitOption, Option, group, verb

AlertId = Annotated[str, Argument(metavar="ID", help="As `tocsin alerts list` shows it.")]
Column = str | Callable[[JsonObject], Any]  # the key of an item, or its value
events, alerts, silence, deliveries = (group() for _ in range(4))


def _row(item: JsonObject, columns: Mapping[str, Column]) -> JsonObject:
    return {heading: item.get(key) if isinstance(key, str) else key(item) for heading, key in columns.items()}


def _add_list(
    group: click.Group, path: str, help: str, columns: Mapping[str, Column], options: dict[str, Any], hidden: str = ""
) -> None:
    """Add the verb ``list`` on the API's list ``path``, with an option for each filter, of a type and with a default.
    Unless a state is asked for, items whose state is ``hidden`` are left out."""
    every = "all" if options.get("state", (None, None))[1] else ""  # one who gets less by default can ask for all
    options_type = make_dataclass("Filters", [(name, *option) for name, option in options.items()], frozen=True)

    async def print_list(
        api: ApiClient,
        options: options_type,  # type: ignore[valid-type]
        limit: LimitOption = 100,
        as_json: JsonOption = False,
    ) -> None:
        query = {name: None if value is None else str(value) for name, value in asdict(options).items()}
        state = query.get("state")
        items = await api.items(path, limit, **(query | {"state": None} if state == every else query))
        if hidden and state is None:
            items = [item for item in items if item["state"] != hidden]
        if as_json:
            show.print_json(items)
        else:
            show.rows([_row(item, columns) for item in items], list(columns))

    print_list.__doc__ = help
    verb(group, "list")(print_list)


def _filters(names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), (Filter, None))


def _state(help: str, default: str | None = None) -> dict[str, Any]:
    return {"state": (Annotated[str | None, Option(help=help)], default)}


def _event_place(event: JsonObject) -> str:
    data = event["data"]
    return "/".join(filter(None, (data["node"], data["project"], data["scenario"] and data["scenario"]["id"])))


_PLACE_LABELS = ("dss_node", "project", "scenario", "channel")
_EVENT_COLUMNS: dict[str, Column] = {
    "seq": "seq",
    "time": "time",
    "event": lambda event: event["type"].removeprefix("tocsin."),
    "place": _event_place,
    "run": lambda event: event["data"]["run"] and event["data"]["run"]["id"],
    "outcome": lambda event: event["data"]["run"]["outcome"] if event["data"]["run"] else event["data"]["reason"],
    "error": lambda event: event["data"]["error"] and event["data"]["error"]["message"],
}
_add_list(
    events,
    "events",
    "List events in their public order, the oldest first.",
    _EVENT_COLUMNS,
    _filters("event node project scenario outcome")
    | {"after": (Annotated[int, Option(help="Only those behind this place in the public order.")], 0)},
)
_add_list(
    alerts,
    "alerts",
    "List alerts, the newest first; firing ones unless --state says otherwise.",
    {
        "id": "id",
        "state": lambda alert: alert["state"] if alert["state"] == "firing" else alert["end_reason"],
        "alert": lambda alert: alert["labels"].get("alertname"),
        "severity": lambda alert: alert["labels"].get("severity"),
        "place": lambda alert: "/".join(filter(None, map(alert["labels"].get, _PLACE_LABELS))),
        "since": "starts_at",
        "summary": lambda alert: alert["annotations"].get("summary"),
    },
    _state("firing, resolved, or all.", "firing") | _filters("alertname node project scenario"),
)
_add_list(
    silence,
    "silences",
    "List silences.",
    {key: key for key in ("id", "state", "matchers")} | {"ends": "ends_at", "by": "created_by", "comment": "comment"},
    _state("pending, active or expired; without it those not expired."),
    hidden="expired",
)
_add_list(
    deliveries,
    "deliveries",
    "List notifications, the newest first.",
    {key: key for key in ("id", "state", "channel", "subject")}
    | {"created": "created_at", "attempts": lambda notification: len(notification["attempts"]), "reason": "reason"},
    _state("pending, sending, delivered, dead, superseded or cancelled.")
    | _filters("receiver channel project scenario"),
)


@verb(events, "tail", interrupted=DONE)
async def _tail_events(
    api: ApiClient,
    event: Filter = None,
    node: Filter = None,
    project: Filter = None,
    scenario: Filter = None,
    after: Annotated[int | None, Option(help="Begin behind this place; without it, with what comes next.")] = None,
    count: Annotated[int | None, Option(min=1, help="End after so many.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print events as they come, until Ctrl-C; with --json one a line."""
    filters = {"event": event, "node": node, "project": project, "scenario": scenario}
    async for item in api.stream("events", "stream", **filters, after=None if after is None else str(after)):
        if as_json:
            line = json.dumps(item, ensure_ascii=False)
        else:
            values = _row(item, _EVENT_COLUMNS).values()
            line = "  ".join(one_line(str(value)) for value in values if value is not None)
        print(line, flush=True)
        if count is not None and (count := count - 1) == 0:
            break


@verb(alerts, "resolve")
async def _resolve_alert(api: ApiClient, alert_id: AlertId) -> None:
    """End an alert by hand; its notice says so, and it fires again when its rule next says so."""
    await api.request("POST", "alerts", alert_id, "resolve")
    print(f"{alert_id} is resolved")


@verb(alerts, "ack")
async def _acknowledge_alert(
    api: ApiClient,
    alert_id: AlertId,
    duration: Annotated[str | None, Option(help="How long, as 2h; without it until the alert ends.")] = None,
    author: Annotated[str | None, Option(help="Who has it; without it the user of this machine.")] = None,
    comment: Annotated[str, Option(help="What is being done.")] = "",
) -> None:
    """Say that somebody has an alert: its repeats stop, its end is told as ever."""
    body = {"by": author or getpass.getuser(), "comment": comment} | ({"duration": duration} if duration else {})
    answer = (await api.request("POST", "alerts", alert_id, "ack", body=body))["acknowledged"]
    print(f"{alert_id} is acknowledged by {answer['by']}" + (f" until {answer['until']}" if answer["until"] else ""))


@verb(alerts, "unack")
async def _unacknowledge_alert(api: ApiClient, alert_id: AlertId) -> None:
    """Say that nobody has an alert any more: its repeats go on."""
    await api.request("POST", "alerts", alert_id, "unack")
    print(f"{alert_id} is not acknowledged any more")


@verb(silence, "add")
async def _add_silence(
    api: ApiClient,
    matchers: Annotated[list[str], Argument(metavar="MATCHER…", help="As project=SALES or 'scenario=~NIGHTLY_.*'.")],
    duration: Annotated[str | None, Option(help="How long, as 2h or 1d12h.")] = None,
    ends: Annotated[str | None, Option(help="Until when instead, as 2026-03-01T06:00:00Z.")] = None,
    starts: Annotated[str | None, Option(help="From when on; without it from now on.")] = None,
    author: Annotated[str | None, Option(help="Who asks; without it the user of this machine.")] = None,
    comment: Annotated[str, Option(help="Why.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Add a silence and print its id. All matchers must hold."""
    if (duration is None) == (ends is None):
        raise Failure("a silence needs --duration or --ends", USAGE)
    body = {"matchers": matchers, "created_by": author or getpass.getuser(), "comment": comment}
    times = {"duration": duration, "ends_at": ends, "starts_at": starts}
    body |= {key: value for key, value in times.items() if value is not None}
    added = await api.request("POST", "silences", body=body)
    show.print_json(added) if as_json else print(added["id"])


@verb(silence, "expire")
async def _expire_silence(
    api: ApiClient, silence_id: Annotated[str, Argument(metavar="ID", help="As `tocsin silence list` shows it.")]
) -> None:
    """End a silence now."""
    await api.request("DELETE", "silences", silence_id)
    print(f"{silence_id} has ended")


@verb(deliveries, "show")
async def _show_delivery(
    api: ApiClient,
    delivery_id: Annotated[str, Argument(metavar="ID", help="As `tocsin deliveries list` shows it.")],
    as_json: JsonOption = False,
) -> None:
    """Show one notification with all of its attempts."""
    items = await api.items("deliveries", 1, id=delivery_id)
    if not items:
        raise Failure(f"no delivery has the id {delivery_id}")
    show.item(items[0], hide=("attempts",), as_json=as_json)
    if not as_json:
        show.rows(items[0]["attempts"], ("attempt=number", "started=started_at", "outcome", "note"))


@verb(deliveries, "retry")
async def _retry_deliveries(
    api: ApiClient,
    ids: Annotated[
        list[str], Argument(metavar="ID…", help="Dead letters, as `tocsin deliveries list --state dead` shows them.")
    ],
) -> None:
    """Send dead letters again; a running daemon does it within seconds."""
    for delivery_id in ids:
        await api.request("POST", "deliveries", delivery_id, "retry")
        print(f"{delivery_id} will be sent again")


@verb(None, "explain")
async def explain_place(
    api: ApiClient,
    address: Annotated[
        str,
        Argument(
            metavar="[NODE/]PROJECT/SCENARIO/RUN or ALERT-ID",
            help="RUN may be `last`. Percent-encode a slash. An alert's id may be cut where it is still unique.",
        ),
    ],
    everything: Annotated[
        bool, Option("--all", help="Every event, decision, notification and try, and what did not fire and why.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell what became of a run or an alert: what fired, and a line a channel on who was notified and why not."""
    from pydantic import TypeAdapter

    from tocsin.decide.explain import alert_text, run_text
    from tocsin.store.explanation import AlertExplanation, RunExplanation

    is_alert = "/" not in address
    path = ["alerts", address] if is_alert else await run_path(api, address)
    story = await api.request("GET", "explain", *path)
    if as_json:
        return show.print_json(story)
    if is_alert:
        text = alert_text(TypeAdapter(AlertExplanation).validate_python(story), everything=everything)
    else:
        text = run_text(TypeAdapter(RunExplanation).validate_python(story), everything=everything)
    for line in text.splitlines():
        words = line.lstrip(" ")
        print(" " * (len(line) - len(words)) + one_line(words))
    return None


async def run_path(api: ApiClient, address: str) -> list[str]:
    """Node, project, scenario and run of an address that may lack the node, and may say ``last``."""
    parts = [unquote(part) for part in address.split("/")]
    if len(parts) not in (3, 4) or not all(parts):
        raise Failure(f"{address!r} is neither [NODE/]PROJECT/SCENARIO/RUN nor the id of an alert", USAGE)
    if len(parts) == 3:
        nodes = [str(node["node"]) for node in await api.items("nodes", 100)]
        if len(nodes) != 1:
            message = f"there are {len(nodes)} nodes; write NODE/PROJECT/SCENARIO/RUN with one of: {', '.join(nodes)}"
            raise Failure(message, USAGE)
        parts = [*nodes, *parts]
    node, project, scenario, run = parts
    if run == "last":
        runs = await api.items("runs", 1, node=node, project=project, scenario=scenario)
        if not runs:
            raise Failure(f"no run of {node}/{project}/{scenario} is known")
        run = str(runs[0]["run_id"])
    return [node, project, scenario, run]
