"""``tocsin silence``: keep quiet about some alerts for a while."""

import getpass
from typing import Annotated

import typer

from tocsin.cli.daemon import Answer, Api, ConfigOption, JsonOption, LimitOption, TokenOption, UrlOption, ask, wanted
from tocsin.cli.exits import USAGE, fail
from tocsin.cli.show import print_json, rows

app = typer.Typer(help="Silences: alerts that match are not told; they go on all the same.", no_args_is_help=True)


@app.command("add")
def add(
    matchers: Annotated[
        list[str], typer.Argument(metavar="MATCHER…", help="As project=SALES or 'scenario=~NIGHTLY_.*'.")
    ],
    duration: Annotated[str | None, typer.Option(help="How long, as 2h or 1d12h.")] = None,
    ends: Annotated[str | None, typer.Option(help="Until when instead, as 2026-03-01T06:00:00Z.")] = None,
    starts: Annotated[str | None, typer.Option(help="From when on; without it from now on.")] = None,
    author: Annotated[str | None, typer.Option(help="Who asks; without it the user of this machine.")] = None,
    comment: Annotated[str, typer.Option(help="Why.")] = "",
    url: UrlOption = None,
    token_file: TokenOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a silence and print its id. All matchers must hold."""
    if (duration is None) == (ends is None):
        fail("a silence needs --duration or --ends", USAGE)
    body = {
        "matchers": matchers,
        "created_by": author or getpass.getuser(),
        "comment": comment,
        **wanted(duration=duration, ends_at=ends, starts_at=starts),
    }

    async def work(api: Api) -> Answer:
        return await api.post("/api/v1/silences", body)

    made = ask(work, url, token_file, config)
    if as_json:
        print_json(made)
    else:
        print(made["id"])


@app.command("list")
def list_silences(
    state: Annotated[str | None, typer.Option(help="pending, active or expired; without it those not expired.")] = None,
    limit: LimitOption = 100,
    url: UrlOption = None,
    token_file: TokenOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List silences."""

    async def work(api: Api) -> list[Answer]:
        return await api.items("silences", wanted(state=state), limit)

    found = ask(work, url, token_file, config)
    if state is None:
        found = [one for one in found if one["state"] != "expired"]
    rows(found, ("id", "state", "matchers", "ends=ends_at", "by=created_by", "comment"), as_json=as_json)


@app.command("expire")
def expire(
    silence_id: Annotated[str, typer.Argument(metavar="ID", help="As `tocsin silence list` shows it.")],
    url: UrlOption = None,
    token_file: TokenOption = None,
    config: ConfigOption = None,
) -> None:
    """End a silence now."""

    async def work(api: Api) -> None:
        await api.delete(f"/api/v1/silences/{silence_id}")

    ask(work, url, token_file, config)
    print(f"{silence_id} has ended")
