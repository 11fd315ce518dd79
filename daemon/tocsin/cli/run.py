"""``tocsin run``: the daemon."""

import sys

from tocsin.cli.configuration import ConfigOption
from tocsin.cli.exits import DONE, NO


def run(config: ConfigOption = None) -> None:
    """Run the daemon until SIGTERM or SIGINT."""
    import asyncio
    import os
    import signal

    # Until the daemon takes signals over nothing is begun that could be half done; and as the first process of a
    # container it would not hear one without a handler.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(DONE))

    from tocsin.app.run import CannotStart, leave, serve
    from tocsin.app.settings import BadConfig
    from tocsin.app.source import Source

    try:
        code = asyncio.run(serve(Source(config)))
    except (BadConfig, CannotStart) as error:
        print(f"tocsin: {error}", file=sys.stderr)
        code = NO
    leave(code)
