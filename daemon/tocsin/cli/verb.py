"""How a verb that speaks to DSS becomes a command: the options that all share, and its end.

``verb`` makes a command of an async function: it adds the options that say where DSS is, runs the function, and turns
every error into one line on standard error and an exit code. Nothing heavy is imported before a verb runs.
"""

import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from tocsin.cli.address import BadAddress
from tocsin.cli.configuration import ConfigOption
from tocsin.cli.exits import USAGE, fail
from tocsin.cli.trouble import Failure, exit_code, told

if TYPE_CHECKING:
    from tocsin.cli.session import Session

P = ParamSpec("P")
Work = Callable[Concatenate["Session", P], Coroutine[Any, Any, int | None]]

JsonOption = Annotated[bool, typer.Option("--json", help="For scripts; the shapes stand in docs/cli.md.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only tell what would be changed.")]
KeepRunAsOption = Annotated[
    bool,
    typer.Option(
        help="A save makes you the last modifier, and a scenario without runAsUser runs as that one: set runAsUser "
        "to the former one, which needs an admin key, or let it change."
    ),
]
TimeoutOption = Annotated[
    str | None, typer.Option(metavar="DURATION", help="Wait no longer than this, as 30m.", show_default=False)
]
ScenarioArgument = Annotated[str, typer.Argument(metavar="ADDRESS", help="[NODE/]PROJECT/SCENARIO", show_default=False)]
ScenariosArgument = Annotated[
    list[str], typer.Argument(metavar="ADDRESS...", help="[NODE/]PROJECT/SCENARIO; globs allowed.", show_default=False)
]
ScopeArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ADDRESS...]",
        help="[NODE/]PROJECT/SCENARIO or a PROJECT; globs allowed. Without one: all that the node's scope lets in.",
        show_default=False,
    ),
]
RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="ADDRESS",
        help="PROJECT/SCENARIO[/RUN] or NODE/PROJECT/SCENARIO/RUN; RUN is an id, last (the default) or current.",
        show_default=False,
    ),
]

_WHERE: dict[str, object] = {
    "config": ConfigOption,
    "node": Annotated[str | None, typer.Option("--node", help="The node, where the configuration has several.")],
    "url": Annotated[str | None, typer.Option("--url", help="Ask this DSS instead of a configured node.")],
    "api_key_file": Annotated[
        Path | None,
        typer.Option("--api-key-file", help="With --url: the file of its key; else TOCSIN_DSS_API_KEY[_FILE]."),
    ],
}


def verb(app: typer.Typer, name: str) -> Callable[[Work[P]], Work[P]]:
    """Register an async function as the command ``name``. It gets a ``Session`` first and may answer an exit code."""

    def register(work: Work[P]) -> Work[P]:
        def command(**given: Any) -> None:
            where = {option: given.pop(option) for option in _WHERE}
            raise SystemExit(_run(lambda session: work(session, **given), **where))  # type: ignore[call-arg]  # typer calls it by work's own signature

        _, *own = inspect.signature(work).parameters.values()
        kind = inspect.Parameter.KEYWORD_ONLY
        options = [inspect.Parameter(n, kind, default=None, annotation=a) for n, a in _WHERE.items()]
        signature = inspect.Signature([*(parameter.replace(kind=kind) for parameter in own), *options])
        vars(command).update(__signature__=signature)  # what typer reads
        command.__doc__ = work.__doc__
        app.command(name)(command)
        return work

    return register


def seconds(duration: str | None) -> float | None:
    """A duration of the command line. Raises ``Failure``."""
    from tocsin.kit.durations import BadDuration, parse_duration

    try:
        return None if duration is None else parse_duration(duration).total_seconds()
    except BadDuration as error:
        raise Failure(str(error), USAGE) from None


def _run(
    work: Callable[["Session"], Coroutine[Any, Any, int | None]],
    config: Path | None,
    node: str | None,
    url: str | None,
    api_key_file: Path | None,
) -> int:
    import asyncio

    from tocsin.cli.session import Session
    from tocsin.dss import DSSError

    async def main() -> int:
        async with Session(config, node, url, api_key_file) as session:
            return await work(session) or session.code

    try:
        return asyncio.run(main())
    except BadAddress as error:
        fail(str(error), USAGE)
    except Failure as error:
        fail(str(error), error.code)
    except DSSError as error:
        fail(told(error), exit_code(error))
    except KeyboardInterrupt:
        fail("interrupted", 130)
