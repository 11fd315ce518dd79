"""``tocsin notify test``: a sample through the real path of a receiver."""

from typing import Annotated

import typer

from tocsin.cli import show
from tocsin.cli.exits import DONE, NO, fail
from tocsin.cli.verb import ConfigOption, JsonOption, load_config, typer_app

app = typer_app()


@app.command("test")
def send_sample(
    receiver: Annotated[str, typer.Argument(help="The name of a receiver.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a sample to every channel of RECEIVER and tell what became of each. Exit 1 unless all took it."""
    import asyncio

    from tocsin.app.logs import configure_logging
    from tocsin.app.run import hard_exit
    from tocsin.deliver.check import test_channels
    from tocsin.kit.clock import SystemClock
    from tocsin.kit.strings import did_you_mean
    from tocsin.model.notification import AttemptOutcome

    settings = load_config(config, to_send=True)
    configure_logging("error", "auto")
    names = [known.name for known in settings.receivers]
    if receiver not in names:
        fail(f"no receiver is named {receiver!r}{did_you_mean(receiver, names)}")
    outcomes = asyncio.run(test_channels(settings, receiver, clock=SystemClock()))
    if as_json:
        keys = ("channel", "outcome", "note", "hint")
        show.print_json([{key: getattr(one, key) for key in keys} | {"seconds": one.took} for one in outcomes])
    else:
        for one in outcomes:
            print(f"{one.outcome.value:<10} {one.channel}  {one.note}".rstrip())
            if one.hint:
                print(f"{'':<10} {one.hint}")
        if not outcomes:
            print(f"the receiver {receiver} has no channel")
    hard_exit(DONE if outcomes and all(one.outcome is AttemptOutcome.DELIVERED for one in outcomes) else NO)
