"""``tocsin alerts``: what rings, and ending it by hand."""

from typing import Annotated

import typer

from tocsin.cli.daemon import Answer, Api, listing
from tocsin.cli.verb import Filter, JsonOption, LimitOption, typer_app, verb

app = typer_app()


@verb(app, "list")
async def list_alerts(
    api: Api,
    state: Annotated[str, typer.Option(help="firing, ended, or all.")] = "firing",
    alertname: Filter = None,
    node: Filter = None,
    project: Filter = None,
    scenario: Filter = None,
    limit: LimitOption = 100,
    as_json: JsonOption = False,
) -> None:
    """List alerts, the newest first; firing ones unless --state says otherwise."""
    wanted = None if state == "all" else state
    found = await api.items(
        "alerts", limit, state=wanted, alertname=alertname, node=node, project=project, scenario=scenario
    )
    listing(found, _row, ("id", "state", "alert", "severity", "place", "since", "summary"), as_json)


@verb(app, "resolve")
async def resolve(
    api: Api, alert_id: Annotated[str, typer.Argument(metavar="ID", help="As `tocsin alerts list` shows it.")]
) -> None:
    """End an alert by hand; its notice says so, and it rings again when its rule next says so."""
    await api.post("alerts", alert_id, "resolve")
    print(f"{alert_id} is resolved")


def _row(alert: Answer) -> Answer:
    labels = alert["labels"]
    return {
        "id": alert["id"],
        "state": alert["state"] if alert["state"] == "firing" else alert["end_reason"],
        "alert": labels.get("alertname"),
        "severity": labels.get("severity"),
        "place": "/".join(labels[name] for name in ("dss_node", "project", "scenario", "channel") if labels.get(name)),
        "since": alert["starts_at"],
        "summary": alert["annotations"].get("summary"),
    }
