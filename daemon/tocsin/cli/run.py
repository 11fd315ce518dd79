"""``tocsin run``: the daemon."""

import os
import signal
from typing import NoReturn

from tocsin.cli.exits import DONE, NO, tell
from tocsin.cli.verb import ConfigOption, typer_app

app = typer_app()


@app.command()
def run_daemon(config: ConfigOption = None) -> None:
    """Run the daemon until SIGTERM or SIGINT."""
    import asyncio

    # Until the daemon takes signals over nothing is begun that could be half done; and as the first process of a
    # container it would not hear one without a handler.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(DONE))

    from tocsin.app.logs import log_python_errors
    from tocsin.app.reload import Source
    from tocsin.app.run import CannotStart, hard_exit, serve
    from tocsin.config import BadConfig

    log_python_errors()

    async def daemon() -> NoReturn:
        hard_exit(await serve(Source(config)))  # inside the loop, whose own end would wait for every thread that hangs

    try:
        asyncio.run(daemon())
    except (BadConfig, CannotStart) as error:
        tell(str(error))
    hard_exit(NO)
