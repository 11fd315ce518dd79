"""The verbs on the daemon's own state: ``status``, ``events``, ``alerts``, ``silence``, ``deliveries`` and ``explain``."""

import getpass
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, make_dataclass
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import unquote

import click

from tocsin.cli import show
from tocsin.cli.api import ApiClient, JsonObject
from tocsin.cli.exits import DONE, USAGE, Failure, one_line, print_stderr
from tocsin.cli.verb import Argument, Filter, JsonOption, LimitOption, Option, group, verb
from tocsin.kit.clock import BadMoment, SystemClock, isoformat, parse_moment

AlertId = Annotated[str, Argument(metavar="ID", help="As `tocsin alerts list` shows it; it may be cut where unique.")]
Column = str | Callable[[JsonObject], Any]  # the key of an item, or its value
SHOWN_ID = 12  # characters of an id in a table; as many as an id may be cut to in practice
events, alerts, silence, deliveries = (group() for _ in range(4))


def _row(item: JsonObject, columns: Mapping[str, Column]) -> JsonObject:
    return {heading: item.get(key) if isinstance(key, str) else key(item) for heading, key in columns.items()}


def _id(item: JsonObject) -> str:
    return str(item["id"])[:SHOWN_ID]


def _time(key: str) -> Callable[[JsonObject], Any]:
    """The time under a key, which tables show in this machine's zone."""
    return lambda item: item[key] and datetime.fromisoformat(item[key])


def moment(text: str | None) -> str | None:
    """A time of the command line as the API takes it; one without a zone is of this machine's. Raises ``Failure``."""
    try:
        return None if text is None else isoformat(parse_moment(text, SystemClock().now(), zone=None))
    except BadMoment as error:
        raise Failure(str(error), USAGE) from None


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What every list takes."""

    matcher: Annotated[
        list[str] | None, Option(help="As project=~SALES.* or 'severity!=info'; several must all hold.")
    ] = None
    since: Annotated[
        str | None, Option(metavar="TIME", help="From then on: 2026-03-01T06:00, or 2h for so long ago.")
    ] = None
    until: Annotated[str | None, Option(metavar="TIME", help="Before then.")] = None

    def query(self) -> dict[str, Any]:
        return {"matcher": self.matcher, "since": moment(self.since), "until": moment(self.until)}


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
        narrowing: Narrowing,
        limit: LimitOption = 100,
        as_json: JsonOption = False,
    ) -> None:
        query = {name: None if value is None else str(value) for name, value in asdict(options).items()}
        state = query.get("state")
        asked = narrowing.query() | (query | {"state": None} if state == every else query)
        if path == "events":
            asked["order"] = "asc" if query["after"] else "desc"
        items = await api.items(path, limit, **asked)
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


def _alert_state(alert: JsonObject) -> str:
    """In a word: how it ended, or what is the matter with it while it fires."""
    if alert["state"] != "firing":
        return str(alert["end_reason"])
    return (
        "suppressed" if any(alert["suppressed_by"].values()) else "acknowledged" if alert["acknowledged"] else "firing"
    )


_PLACE_LABELS = ("dss_node", "project", "scenario", "channel")
_EVENT_COLUMNS: dict[str, Column] = {
    "seq": "seq",
    "time": _time("time"),
    "event": lambda event: event["type"].removeprefix("tocsin."),
    "outcome": lambda event: event["data"]["run"]["outcome"] if event["data"]["run"] else event["data"]["reason"],
    "place": _event_place,
    "run": lambda event: event["data"]["run"] and event["data"]["run"]["id"],
    "error": lambda event: event["data"]["error"] and event["data"]["error"]["message"],
}
_add_list(
    events,
    "events",
    "List events, the newest first; with --after in their public order.",
    _EVENT_COLUMNS,
    _filters("event node project scenario outcome")
    | {"after": (Annotated[int | None, Option(help="Those behind this place in the public order.")], None)},
)
_add_list(
    alerts,
    "alerts",
    "List alerts, the newest first; firing ones unless --state says otherwise.",
    {
        "id": _id,
        "state": _alert_state,
        "severity": lambda alert: alert["labels"].get("severity"),
        "alert": lambda alert: alert["labels"].get("alertname"),
        "place": lambda alert: "/".join(filter(None, map(alert["labels"].get, _PLACE_LABELS))),
        "since": _time("starts_at"),
        "summary": lambda alert: alert["annotations"].get("summary"),
    },
    _state("firing, resolved, or all.", "firing") | _filters("alertname severity node project scenario"),
)
_add_list(
    silence,
    "silences",
    "List silences, those that end last first.",
    {"id": _id} | {key: key for key in ("state", "matchers")}
    | {"ends": _time("ends_at"), "by": "created_by", "comment": "comment"},
    _state("pending, active or expired; without it those not expired."),
    hidden="expired",
)  # fmt: skip
_add_list(
    deliveries,
    "deliveries",
    "List notifications, the newest first.",
    {"id": _id} | {key: key for key in ("state", "channel", "subject")}
    | {"created": _time("created_at"), "tries": lambda item: len(item["attempts"]), "reason": "reason"},
    _state("pending, sending, delivered, dead, superseded or cancelled.")
    | _filters("receiver channel node project scenario"),
)  # fmt: skip


@verb(None, "status")
async def show_status(api: ApiClient, as_json: JsonOption = False) -> None:
    """Show nodes, what fires, what waits to be sent, and the last reload. Exit 1 when the daemon is not ready."""
    status = await api.request("GET", "status")
    if as_json:
        show.print_json(status)
    else:
        _print_status(status)
    if not status["ready"]:
        raise Failure(f"not ready: {status['reason']}")


def _print_status(status: JsonObject) -> None:
    def counted(key: str) -> str:
        return ", ".join(f"{count} {name}" for name, count in (status.get(key) or {}).items()) or "unknown"

    reload = status["config"]["last_reload"]
    failing = status.get("failing_channels") or {}
    facts = {
        "version": status["version"], "started": datetime.fromisoformat(status["started_at"]), "leader": status["leader"],
        "configuration": status["config"]["source"], "last reload": datetime.fromisoformat(reload["at"]),
        "reload errors": reload["errors"], "needs restart": reload["needs_restart"],
        **{key: counted(key) for key in ("scenarios", "alerts", "silences", "deliveries")},
        "failing channels": sorted(failing), "store": status["store"]["unavailable"] or "good",
    }  # fmt: skip
    show.item({name: value for name, value in facts.items() if value not in ([], None)})
    nodes = [{"node": name, **(node or {})} for name, node in status["nodes"].items()]
    if nodes:
        print()
        columns = ("node", "up", "scenarios", "active", "running", "requests/s=requests_per_second_limit",
                   "oldest poll=oldest_poll_age_seconds", "problem")  # fmt: skip
        show.rows(nodes, columns)


@verb(alerts, "show")
async def _show_alert(api: ApiClient, alert_id: AlertId, as_json: JsonOption = False) -> None:
    """Show one alert with what suppresses it and who has it; `tocsin explain ID` tells who was notified."""
    alert = await api.request("GET", "alerts", alert_id)
    if as_json:
        return show.print_json(alert)
    has = alert["acknowledged"] or {}
    facts = {
        "id": alert["id"], "state": _alert_state(alert), "since": _time("starts_at")(alert), "ended": _time("ends_at")(alert),
        **{f"suppressed by {name}": ids for name, ids in alert["suppressed_by"].items() if ids},
        **{f"acknowledged {key}": value for key, value in has.items() if value},
        "count": alert["count"], "run": alert["run_id"], **alert["labels"], **alert["annotations"],
    }  # fmt: skip
    return show.item(facts)


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
            line = "  ".join(filter(None, map(show.cell, _row(item, _EVENT_COLUMNS).values())))
        print(line, flush=True)
        if count is not None and (count := count - 1) == 0:
            break


@verb(alerts, "resolve")
async def _resolve_alert(api: ApiClient, alert_id: AlertId) -> None:
    """End an alert by hand; its notice says so, and it fires again when its rule next says so."""
    print(f"{(await api.request('POST', 'alerts', alert_id, 'resolve'))['id']} is resolved")


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
    answer = await api.request("POST", "alerts", alert_id, "ack", body=body)
    has = answer["acknowledged"]
    until = f" until {show.cell(_time('until')(has))}" if has["until"] else ""
    print(f"{answer['id']} is acknowledged by {has['by']}{until}")


@verb(alerts, "unack")
async def _unacknowledge_alert(api: ApiClient, alert_id: AlertId) -> None:
    """Say that nobody has an alert any more: its repeats go on."""
    answer = await api.request("POST", "alerts", alert_id, "unack")
    print(f"{answer['id']} is not acknowledged any more")


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
    times = {"duration": duration, "ends_at": moment(ends), "starts_at": moment(starts)}
    body |= {key: value for key, value in times.items() if value is not None}
    added = await api.request("POST", "silences", body=body)
    for warning in added["warnings"]:
        print_stderr(f"warning: {warning}")
    if as_json:
        return show.print_json(added)
    print(added["id"])
    return print_stderr(f"it covers {added['covers']} firing alert{'' if added['covers'] == 1 else 's'} now")


@verb(silence, "expire")
async def _expire_silence(
    api: ApiClient, silence_id: Annotated[str, Argument(metavar="ID", help="As `tocsin silence list` shows it.")]
) -> None:
    """End a silence now."""
    ended = await api.request("DELETE", "silences", silence_id)
    print(f"{ended['id']} has ended")


@verb(deliveries, "show")
async def _show_delivery(
    api: ApiClient,
    delivery_id: Annotated[str, Argument(metavar="ID", help="As `tocsin deliveries list` shows it.")],
    as_json: JsonOption = False,
) -> None:
    """Show one notification with all of its attempts."""
    delivery = await api.request("GET", "deliveries", delivery_id)
    times = {name: _time(name)(delivery) for name in ("created_at", "due_at", "settled_at")}
    show.item(delivery if as_json else delivery | times, hide=("attempts",), as_json=as_json)
    if not as_json:
        attempts = [attempt | {"started_at": _time("started_at")(attempt)} for attempt in delivery["attempts"]]
        show.rows(attempts, ("attempt=number", "started=started_at", "outcome", "note"))


@verb(deliveries, "retry")
async def _retry_deliveries(
    api: ApiClient,
    narrowing: Narrowing,
    ids: Annotated[
        list[str] | None,
        Argument(metavar="[ID…]", help="Dead letters, as `tocsin deliveries list --state dead` shows them."),
    ] = None,
    receiver: Filter = None,
    channel: Filter = None,
    node: Filter = None,
    project: Filter = None,
    scenario: Filter = None,
    everything: Annotated[bool, Option("--all", help="Every dead letter.")] = False,
) -> None:
    """Send dead letters again, these or all that match the filters; a running daemon does it within seconds."""
    filters = {"receiver": receiver, "channel": channel, "node": node, "project": project, "scenario": scenario}
    query = {name: value for name, value in (filters | narrowing.query()).items() if value}
    if bool(ids) + bool(query) + everything != 1:
        raise Failure("name dead letters by their ids, or by filters as --channel, or all of them with --all", USAGE)
    for delivery_id in ids or ():
        print(f"{(await api.request('POST', 'deliveries', delivery_id, 'retry'))['id']} will be sent again")
    while not ids:
        answer = await api.request("POST", "deliveries", "retry", query=query)
        print(f"{answer['retried']} will be sent again")
        if not answer["more"]:
            break


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
