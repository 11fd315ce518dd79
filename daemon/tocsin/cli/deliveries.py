"""``tocsin deliveries``: what was owed to whom, and what became of it."""

from typing import Annotated

import typer

from tocsin.cli import show
from tocsin.cli.daemon import Api, listing
from tocsin.cli.exits import Failure
from tocsin.cli.verb import Filter, JsonOption, LimitOption, typer_app, verb

app = typer_app()


@verb(app, "list")
async def list_deliveries(
    api: Api,
    state: Annotated[
        str | None, typer.Option(help="pending, sending, delivered, dead, superseded or cancelled.")
    ] = None,
    receiver: Filter = None,
    channel: Filter = None,
    project: Filter = None,
    scenario: Filter = None,
    limit: LimitOption = 100,
    as_json: JsonOption = False,
) -> None:
    """List notifications, the newest first."""
    found = await api.items(
        "deliveries", limit, state=state, receiver=receiver, channel=channel, project=project, scenario=scenario
    )
    columns = ("id", "state", "channel", "subject", "created=created_at", "tries", "reason")
    listing(found, lambda one: one | {"tries": len(one["attempts"])}, columns, as_json)


@verb(app, "show")
async def show_delivery(
    api: Api,
    delivery_id: Annotated[str, typer.Argument(metavar="ID", help="As `tocsin deliveries list` shows it.")],
    as_json: JsonOption = False,
) -> None:
    """Show one notification with all of its attempts."""
    found = await api.items("deliveries", 1, id=delivery_id)
    if not found:
        raise Failure(f"no delivery has the id {delivery_id}")
    show.one(found[0], hide=("attempts",), as_json=as_json)
    if not as_json:
        show.rows(found[0]["attempts"], ("try=number", "started=started_at", "outcome", "note"))


@verb(app, "retry")
async def retry(
    api: Api, ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Dead or waiting notifications.")]
) -> None:
    """Send notifications again, or now; a running daemon does it within seconds."""
    for delivery_id in ids:
        await api.post("deliveries", delivery_id, "retry")
        print(f"{delivery_id} will be sent again")
