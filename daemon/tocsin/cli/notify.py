"""``tocsin notify test``: a sample through the real path of a receiver."""

import json
from typing import Annotated

import typer

from tocsin.cli.configuration import ConfigOption, load_config
from tocsin.cli.exits import NO, fail

app = typer.Typer(help="Try receivers.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Try receivers."""


@app.command("test")
def send_sample(
    receiver: Annotated[str, typer.Argument(help="The name of a receiver.")],
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Send a sample to every channel of RECEIVER and tell what became of each. Exit 1 unless all took it."""
    import asyncio

    from tocsin.app.logs import configure_logging
    from tocsin.app.run import leave
    from tocsin.app.settings.problems import did_you_mean
    from tocsin.deliver.trial import test_channels
    from tocsin.kit.clock import SystemClock
    from tocsin.model.notification import AttemptOutcome

    settings = load_config(config)
    configure_logging("error", "auto")
    names = [known.name for known in settings.receivers]
    if receiver not in names:
        fail(f"no receiver is named {receiver!r}{did_you_mean(receiver, names)}", NO)
    outcomes = asyncio.run(test_channels(settings, receiver, clock=SystemClock()))
    if as_json:
        print(
            json.dumps(
                [
                    {
                        "channel": one.channel,
                        "outcome": one.outcome.value,
                        "note": one.note,
                        "mend": one.mend,
                        "seconds": one.took.total_seconds(),
                    }
                    for one in outcomes
                ],
                indent=2,
            )
        )
    else:
        for one in outcomes:
            print(f"{one.outcome.value:<10} {one.channel}  {one.note}".rstrip())
            if one.mend:
                print(f"{'':<10} {one.mend}")
        if not outcomes:
            print(f"the receiver {receiver} has no channel")
    leave(0 if outcomes and all(one.outcome is AttemptOutcome.DELIVERED for one in outcomes) else NO)
