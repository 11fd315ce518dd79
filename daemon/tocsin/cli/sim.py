"""``tocsin sim``: the emulated DSS alone, until it is told to end."""

from pathlib import Path
from typing import Annotated

import typer


def sim(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes any.")
    ] = "127.0.0.1:11200",
    api_key: Annotated[str, typer.Option(metavar="KEY", help="The key of an administrator.")] = "",
    db: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep definitions and history in this file.")] = None,
    world: Annotated[Path | None, typer.Option(metavar="FILE", help="The world to begin with, in YAML.")] = None,
    speed: Annotated[
        float, typer.Option(metavar="X", help="How many seconds pass in one.", min=0.0, max=100_000.0)
    ] = 1.0,
) -> None:
    """An emulated DSS: the scenario API of a design or automation node, with a lively world or one of your own."""
    import asyncio
    import signal
    import sqlite3

    from tocsin.sim import (
        DEFAULT_KEY,
        BadWorld,
        NotAnArchive,
        Sim,
        SqliteArchive,
        World,
        WorldClock,
        lively_world,
        serve,
    )

    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise typer.BadParameter(f"{listen!r} is not HOST:PORT", param_hint="--listen")
    try:
        seed = lively_world() if world is None else World.from_file(world)
        archive = SqliteArchive(db) if db is not None else None
    except (BadWorld, NotAnArchive, OSError, sqlite3.Error) as error:
        typer.echo(f"tocsin sim: {error}", err=True)
        raise typer.Exit(2) from None
    key = api_key or DEFAULT_KEY
    dss = Sim(seed, api_keys=[key], clock=WorldClock(speed=speed), archive=archive)

    def ready(url: str) -> None:
        typer.echo(f"Emulated DSS on {url}  API key: {key}")
        if host.strip("[]") not in ("127.0.0.1", "::1", "localhost"):
            typer.echo("Careful: it executes the code of its scenarios, and others can reach it here.", err=True)

    async def main() -> None:
        stop = asyncio.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        await serve(dss, host.strip("[]"), int(port), ready, stop)

    try:
        asyncio.run(main())
    except OSError as error:
        typer.echo(f"tocsin sim: cannot listen on {listen}: {error.strerror or error}", err=True)
        raise typer.Exit(2) from None
