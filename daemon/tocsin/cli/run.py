"""``tocsin run``: the daemon."""

import sys

from tocsin.cli.configuration import ConfigOption
from tocsin.cli.exits import NO


def run(config: ConfigOption = None) -> None:
    """Run the daemon until SIGTERM or SIGINT."""
    import asyncio

    from tocsin.app.run import CannotStart, leave, serve
    from tocsin.app.settings import BadConfig
    from tocsin.app.source import Source

    try:
        code = asyncio.run(serve(Source(config)))
    except (BadConfig, CannotStart) as error:
        print(f"tocsin: {error}", file=sys.stderr)
        code = NO
    leave(code)
