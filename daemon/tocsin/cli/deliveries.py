"""``tocsin deliveries``: what was owed to whom, and what became of it."""

from typing import Annotated

import typer

from tocsin.cli.daemon import Answer, Api, ConfigOption, JsonOption, LimitOption, TokenOption, UrlOption, ask, wanted
from tocsin.cli.exits import NO, fail
from tocsin.cli.show import one, print_json, rows

app = typer.Typer(help="The log of deliveries, and sending again.", no_args_is_help=True)
Filter = Annotated[str | None, typer.Option(help="Only these.")]


@app.command("list")
def list_deliveries(
    state: Annotated[str | None, typer.Option(help="owed, sending, delivered, dead, superseded or cancelled.")] = None,
    receiver: Filter = None,
    channel: Filter = None,
    project: Filter = None,
    scenario: Filter = None,
    limit: LimitOption = 100,
    url: UrlOption = None,
    token_file: TokenOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List notifications, the newest first."""
    query = wanted(state=state, receiver=receiver, channel=channel, project=project, scenario=scenario)

    async def work(api: Api) -> list[Answer]:
        return await api.items("deliveries", query, limit)

    found = ask(work, url, token_file, config)
    if as_json:
        print_json(found)
    else:
        shown = [one | {"tries": len(one["attempts"])} for one in found]
        rows(shown, ("id", "state", "channel", "subject", "owed=owed_at", "tries", "reason"), as_json=False)


@app.command("show")
def show(
    delivery_id: Annotated[str, typer.Argument(metavar="ID", help="As `tocsin deliveries list` shows it.")],
    url: UrlOption = None,
    token_file: TokenOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one notification with all of its attempts."""

    async def work(api: Api) -> list[Answer]:
        return await api.items("deliveries", {"id": delivery_id}, 1)

    found = ask(work, url, token_file, config)
    if not found:
        fail(f"no delivery has the id {delivery_id}", NO)
    if as_json:
        print_json(found[0])
    else:
        one(found[0], hide=("attempts",))
        rows(found[0]["attempts"], ("try=number", "started=started_at", "outcome", "note"), as_json=False)


@app.command("retry")
def retry(
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Dead or waiting notifications.")],
    url: UrlOption = None,
    token_file: TokenOption = None,
    config: ConfigOption = None,
) -> None:
    """Send notifications again, or now; a running daemon does it within seconds."""

    async def work(api: Api) -> None:
        for delivery_id in ids:
            await api.post(f"/api/v1/deliveries/{delivery_id}/retry")
            print(f"{delivery_id} will be sent again")

    ask(work, url, token_file, config)
