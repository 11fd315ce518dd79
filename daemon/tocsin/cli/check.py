"""``tocsin check``: is this configuration good, before it is used."""

from dataclasses import asdict
from typing import Annotated

import typer

from tocsin.cli import show
from tocsin.cli.exits import DONE, NO
from tocsin.cli.verb import ConfigOption, JsonOption, typer_app

app = typer_app()


@app.command()
def check(
    config: ConfigOption = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not look for secrets: they need not be on this machine.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a configuration: form, names, secrets, templates, routes. Exit 1 when it cannot be used."""
    from tocsin.app.reload import Source
    from tocsin.app.validate import validate
    from tocsin.kit.clock import SystemClock

    source = Source(config)
    problems = validate(source, SystemClock().now(), offline=offline)
    good = all(problem.severity != "error" for problem in problems)
    if as_json:
        show.print_json({"ok": good, "problems": list(map(asdict, problems))})
    else:
        for problem in problems:
            print(f"{problem}" if problem.severity == "error" else f"{problem} (warning)")
        if good:
            print(f"{source.path or 'the environment'}: good" + (", with warnings" if problems else ""))
    raise typer.Exit(DONE if good else NO)
