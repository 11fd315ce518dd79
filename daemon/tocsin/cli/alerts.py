"""``tocsin alerts``: what rings, and ending it by hand."""

from typing import Annotated

import typer

from tocsin.cli.daemon import Answer, Api, ConfigOption, JsonOption, LimitOption, TokenOption, UrlOption, ask, wanted
from tocsin.cli.show import print_json, rows

app = typer.Typer(help="What rings until it is fixed.", no_args_is_help=True)
Filter = Annotated[str | None, typer.Option(help="Only these.")]


@app.command("list")
def list_alerts(
    state: Annotated[str | None, typer.Option(help="firing or ended; without it both.")] = "firing",
    alertname: Filter = None,
    node: Filter = None,
    project: Filter = None,
    scenario: Filter = None,
    limit: LimitOption = 100,
    url: UrlOption = None,
    token_file: TokenOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List alerts, the newest first; firing ones unless --state says otherwise (`--state all` for both)."""
    query = wanted(alertname=alertname, node=node, project=project, scenario=scenario)
    if state not in (None, "all"):
        query["state"] = str(state)

    async def work(api: Api) -> list[Answer]:
        return await api.items("alerts", query, limit)

    found = ask(work, url, token_file, config)
    if as_json:
        print_json(found)
    else:
        rows(
            [_row(one) for one in found],
            ("id", "state", "alert", "severity", "place", "since", "summary"),
            as_json=False,
        )


@app.command("resolve")
def resolve(
    alert_id: Annotated[str, typer.Argument(metavar="ID", help="As `tocsin alerts list` shows it.")],
    url: UrlOption = None,
    token_file: TokenOption = None,
    config: ConfigOption = None,
) -> None:
    """End an alert by hand; its notice says so, and it rings again when its rule next says so."""

    async def work(api: Api) -> None:
        await api.post(f"/api/v1/alerts/{alert_id}/resolve")

    ask(work, url, token_file, config)
    print(f"{alert_id} is resolved")


def _row(alert: Answer) -> Answer:
    labels = alert["labels"]
    return {
        "id": alert["id"],
        "state": alert["state"] if alert["state"] == "firing" else alert["end_reason"],
        "alert": labels.get("alertname"),
        "severity": labels.get("severity"),
        "place": "/".join(labels[name] for name in ("dss_node", "project", "scenario") if labels.get(name)),
        "since": alert["starts_at"],
        "summary": alert["annotations"].get("summary"),
    }
