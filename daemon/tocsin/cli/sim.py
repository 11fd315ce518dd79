"""``tocsin sim``: the emulated DSS alone, until it is told to end."""

import asyncio
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from tocsin.cli.exits import USAGE
from tocsin.cli.verb import typer_app

app = typer_app()


@app.command()
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
    from tocsin import sim as emulated

    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise typer.BadParameter(f"{listen!r} is not HOST:PORT", param_hint="--listen")
    try:
        seed = emulated.lively_world() if world is None else emulated.World.from_file(world)
        archive = emulated.SqliteArchive(db) if db is not None else None
    except (emulated.BadWorld, emulated.NotAnArchive, OSError, sqlite3.Error) as error:
        _refuse(str(error))
    key = api_key or emulated.DEFAULT_KEY
    dss = emulated.Sim(seed, api_keys=[key], clock=emulated.WorldClock(speed=speed), archive=archive)

    async def main() -> None:
        stop = asyncio.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        print(f"Emulated DSS on {await dss.start(host, int(port))}  API key: {key}", flush=True)
        if host not in ("127.0.0.1", "::1", "localhost"):
            print("Careful: it executes the code of its scenarios, and others can reach it here.", file=sys.stderr)
        try:
            await stop.wait()
        finally:
            await dss.stop()

    try:
        asyncio.run(main())
    except OSError as error:
        _refuse(f"cannot listen on {listen}: {error.strerror or error}")


def _refuse(why: str) -> NoReturn:
    print(f"tocsin sim: {why}", file=sys.stderr)
    raise typer.Exit(USAGE)
