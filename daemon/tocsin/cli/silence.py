"""``tocsin silence``: keep quiet about some alerts for a while."""

import getpass
from typing import Annotated

import typer

from tocsin.cli import show
from tocsin.cli.daemon import Api, wanted
from tocsin.cli.exits import USAGE, Failure
from tocsin.cli.verb import JsonOption, LimitOption, typer_app, verb

app = typer_app()


@verb(app, "add")
async def add(
    api: Api,
    matchers: Annotated[
        list[str], typer.Argument(metavar="MATCHER…", help="As project=SALES or 'scenario=~NIGHTLY_.*'.")
    ],
    duration: Annotated[str | None, typer.Option(help="How long, as 2h or 1d12h.")] = None,
    ends: Annotated[str | None, typer.Option(help="Until when instead, as 2026-03-01T06:00:00Z.")] = None,
    starts: Annotated[str | None, typer.Option(help="From when on; without it from now on.")] = None,
    author: Annotated[str | None, typer.Option(help="Who asks; without it the user of this machine.")] = None,
    comment: Annotated[str, typer.Option(help="Why.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Add a silence and print its id. All matchers must hold."""
    if (duration is None) == (ends is None):
        raise Failure("a silence needs --duration or --ends", USAGE)
    times = wanted({"duration": duration, "ends_at": ends, "starts_at": starts})
    who = {"created_by": author or getpass.getuser(), "comment": comment}
    made = await api.post("silences", body={"matchers": matchers, **who, **times})
    show.print_json(made) if as_json else print(made["id"])


@verb(app, "list")
async def list_silences(
    api: Api,
    state: Annotated[str | None, typer.Option(help="pending, active or expired; without it those not expired.")] = None,
    limit: LimitOption = 100,
    as_json: JsonOption = False,
) -> None:
    """List silences."""
    found = await api.items("silences", limit, state=state)
    if state is None:
        found = [one for one in found if one["state"] != "expired"]
    show.rows(found, ("id", "state", "matchers", "ends=ends_at", "by=created_by", "comment"), as_json=as_json)


@verb(app, "expire")
async def expire(
    api: Api, silence_id: Annotated[str, typer.Argument(metavar="ID", help="As `tocsin silence list` shows it.")]
) -> None:
    """End a silence now."""
    await api.delete("silences", silence_id)
    print(f"{silence_id} has ended")
