"""``tocsin check``: is this configuration good, before it is used."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from tocsin.cli.configuration import ConfigOption
from tocsin.cli.exits import DONE, NO

if TYPE_CHECKING:
    from tocsin.app.settings import Problem


def check(
    config: ConfigOption = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not look for secrets: they need not be on this machine.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Check a configuration: form, names, secrets, templates, routes. Exit 1 when it cannot be used."""
    from tocsin.app.source import Source
    from tocsin.app.validate import validate
    from tocsin.kit.clock import SystemClock

    source = Source(config)
    problems = validate(source, SystemClock().now(), offline=offline)
    errors = [problem for problem in problems if problem.severity == "error"]
    if as_json:
        print(json.dumps({"ok": not errors, "problems": [_as_json(problem) for problem in problems]}, indent=2))
    else:
        for problem in problems:
            print(f"{problem}" if problem.severity == "error" else f"{problem} (warning)")
        if not errors:
            print(f"{source.path or 'the environment'}: good" + (", with warnings" if problems else ""))
    raise typer.Exit(NO if errors else DONE)


def _as_json(problem: "Problem") -> dict[str, object]:
    return {
        "severity": problem.severity,
        "message": problem.message,
        "file": problem.file,
        "line": problem.line,
        "key": problem.key,
    }
