"""How an async function becomes a command, and the options that many share.

A verb's first parameter is what it works on: a ``Session`` with DSS or the ``ApiClient`` of a daemon, opened for it by
the options that say where that is. A parameter whose type is a dataclass stands for an option a field.
"""

import inspect
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from tocsin.cli import show
from tocsin.cli.exits import USAGE, Failure, fail

if TYPE_CHECKING:
    from tocsin.config.model import Config

Work = TypeVar("Work", bound=Callable[..., Coroutine[Any, Any, int | Sequence[show.Row] | None]])
_KEYWORD = inspect.Parameter.KEYWORD_ONLY

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="The configuration file; without it TOCSIN_CONFIG, or TOCSIN_DSS_URL, TOCSIN_DSS_API_KEY[_FILE] and TOCSIN_NOTIFY.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts; the shapes stand in docs/cli.md.")]
TimeoutOption = Annotated[
    str | None, typer.Option(metavar="DURATION", help="Wait no longer than this, as 30m.", show_default=False)
]
StrictOption = Annotated[bool, typer.Option("--strict", help="A WARNING is no success.")]
Filter = Annotated[str | None, typer.Option(help="Only these.")]
LimitOption = Annotated[int, typer.Option(min=1, help="At most so many.")]


def _argument(metavar: str, help: str) -> Any:
    return typer.Argument(metavar=metavar, help=help, show_default=False)


ScenarioArgument = Annotated[str, _argument("ADDRESS", "[NODE/]PROJECT/SCENARIO")]
ScenariosArgument = Annotated[list[str], _argument("ADDRESS...", "[NODE/]PROJECT/SCENARIO; globs allowed.")]
_SCOPE = "[NODE/]PROJECT/SCENARIO or a PROJECT; globs allowed. Without one: all that the node's scope lets in."
ScopeArgument = Annotated[list[str] | None, _argument("[ADDRESS...]", _SCOPE)]
_RUN = "[NODE/]PROJECT/SCENARIO[/RUN]; RUN is an id, last (the default) or current."
RunArgument = Annotated[str, _argument("ADDRESS", _RUN)]
_DRY_RUN = typer.Option("--dry-run", help="Only print what would be changed.")


@dataclass(frozen=True, slots=True)
class Where:
    """Where DSS is."""

    config: ConfigOption = None
    node: Annotated[str | None, typer.Option(help="The node, where the configuration has several.")] = None
    url: Annotated[str | None, typer.Option(help="Ask this DSS instead of a configured node.")] = None
    api_key_file: Annotated[
        Path | None, typer.Option(help="With --url: the file of its key; else TOCSIN_DSS_API_KEY[_FILE].")
    ] = None


@dataclass(frozen=True, slots=True)
class Bulk:
    dry_run: Annotated[bool, _DRY_RUN] = False
    as_json: JsonOption = False


@dataclass(frozen=True, slots=True)
class Edit:
    dry_run: Annotated[bool, _DRY_RUN] = False
    keep_run_as: Annotated[
        bool,
        typer.Option(
            help="A save makes you the last modifier, and a scenario without runAsUser runs as that one: set runAsUser "
            "to the former one, which needs an admin key, or let it change."
        ),
    ] = True
    as_json: JsonOption = False


def file_option(help: str, *names: str) -> Any:
    """An option that takes a file, or ``-`` where its help says so."""
    return typer.Option(*names, metavar="FILE", help=help)


def typer_app() -> typer.Typer:
    """For a group of verbs, or a verb that stands alone; what it is for stands in ``commands``."""
    return typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )


def verb(
    app: typer.Typer, name: str, *, columns: Sequence[str] | None = None, interrupted: int = 130
) -> Callable[[Work], Work]:
    """Register an async function as the command ``name``. It may return an exit code, or with ``columns`` rows, which
    are printed as a table (see ``show.rows``), or whole with ``--json``."""

    def register(work: Work) -> Work:
        first, *own = inspect.signature(work).parameters.values()
        (where,) = inspect.signature(first.annotation.open).parameters.values()
        if columns is not None:
            own.append(inspect.Parameter("as_json", _KEYWORD, default=False, annotation=JsonOption))
        bundles: dict[str, Any] = {p.name: p.annotation for p in (where, *own) if is_dataclass(p.annotation)}

        def command(**values: Any) -> None:
            import asyncio

            for bundle, kind in bundles.items():
                values[bundle] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            place = values.pop(where.name)
            as_json = values.pop("as_json") if columns is not None else False

            async def main() -> int:
                async with first.annotation.open(place) as opened:
                    result = await work(opened, **values)
                    if columns is not None and isinstance(result, Sequence):
                        show.rows(result, columns, as_json=as_json)
                    code: int = result if isinstance(result, int) and result else opened.code
                    return code

            try:
                raise SystemExit(asyncio.run(main()))
            except Failure as error:
                fail(str(error), error.code)
            except KeyboardInterrupt:
                if interrupted:
                    fail("interrupted", interrupted)

        options = [option for parameter in (*own, where) for option in _options(parameter)]
        command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined] # read by typer
        app.command(name, help=work.__doc__)(command)
        return work

    return register


def list_verb(app: typer.Typer, name: str, *columns: str) -> Callable[[Work], Work]:
    """Register an async function that returns rows as the command ``name``; see ``verb``."""
    return verb(app, name, columns=columns)


def _options(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """The parameter itself, or one for each field of its dataclass."""
    if not is_dataclass(parameter.annotation):
        return [parameter.replace(kind=_KEYWORD)]
    return [
        inspect.Parameter(field.name, _KEYWORD, default=field.default, annotation=field.type)
        for field in fields(parameter.annotation)
    ]


def seconds(duration: str | None) -> float | None:
    """A duration of the command line. Raises ``Failure``."""
    from tocsin.kit.clock import BadDuration, parse_duration

    try:
        return None if duration is None else parse_duration(duration).total_seconds()
    except BadDuration as error:
        raise Failure(str(error), USAGE) from None


def load_config(path: Path | None, *, to_send: bool = False) -> "Config":
    """The configuration; on problems prints them and exits with 1. The channels' URLs are checked only ``to_send``."""
    from tocsin.config import BadConfig, from_environment, load_file
    from tocsin.config.load import Check, config_path_from_environment, unchecked

    check: Check = unchecked
    if to_send:
        from tocsin.deliver.transport import check_channel_url

        check = check_channel_url
    file = path or config_path_from_environment()
    try:
        return from_environment(check) if file is None else load_file(file, check)
    except BadConfig as error:
        fail(str(error))
