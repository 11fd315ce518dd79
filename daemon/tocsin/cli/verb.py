"""How functions become commands, and the options that many share.

A function's signature is the command's: a parameter's type is ``Annotated`` with an ``Option`` or an ``Argument``.
The first parameter of an async verb is what it works on: a ``Session`` with DSS or the ``ApiClient`` of a daemon, opened
for it by the options that say where that is. A parameter whose type is a dataclass stands for an option a field.
"""

import inspect
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin

import click

from tocsin.cli import show
from tocsin.cli.exits import USAGE, Failure, fail

if TYPE_CHECKING:
    from tocsin.config.model import Config

Work = TypeVar("Work", bound=Callable[..., Coroutine[Any, Any, int | Sequence[show.Row] | None]])
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


class Option:
    """Describes an option: its names, by default that of the parameter, bounds of a number, and further settings of click's."""

    def __init__(self, *names: str, min: Any = None, max: Any = None, **settings: Any) -> None:
        self.names, self.bounds, self.settings = names, (min, max), settings

    def parameter(self, name: str, kind: Any, many: bool, settings: dict[str, Any]) -> click.Parameter:
        flag = f"--{name.replace('_', '-')}"
        settings["show_default"] = bool(settings.get("default"))
        if kind is bool:
            settings["is_flag"] = True
            flag += f"/--no-{flag[2:]}"
        return click.Option([*(self.names or [flag]), name], multiple=many, **settings)


class Argument(Option):
    """Describes an argument."""

    def parameter(self, name: str, kind: Any, many: bool, settings: dict[str, Any]) -> click.Parameter:
        note = "  [required]" if settings["required"] else ""
        return click.Argument([name], nargs=-1 if many else 1, **{**settings, "help": settings.get("help", "") + note})


class _Group(click.Group):
    def list_commands(self, _context: click.Context) -> list[str]:
        return list(self.commands)  # as they are defined


def group(help: str | None = None) -> click.Group:
    """A group of verbs; what the outermost are for stands in ``commands``."""
    return _Group(no_args_is_help=True, help=help)


def _parameter(parameter: inspect.Parameter) -> click.Parameter:
    described: Option
    annotated, described = get_args(parameter.annotation)
    kind = next((kind for kind in get_args(annotated) if kind is not NoneType), annotated)
    many = list in (get_origin(annotated), get_origin(kind))
    kind = str if many else kind
    required = parameter.default is inspect.Parameter.empty
    low, high = described.bounds
    types: dict[Any, Any] = {Path: click.Path(path_type=Path)}
    if described.bounds != (None, None):
        types |= {int: click.IntRange(low, high), float: click.FloatRange(low, high)}
    settings = {"required": required, "type": types.get(kind, kind), **described.settings}
    if not required and not (many and parameter.default is None):
        settings["default"] = parameter.default
    return described.parameter(parameter.name, kind, many, settings)


def _add(
    place: click.Group | None,
    name: str,
    parameters: Sequence[inspect.Parameter],
    run: Callable[..., None],
    help: str | None,
) -> click.Command:
    def callback(**values: Any) -> None:  # several values are a tuple to click
        run(**{key: list(value) if isinstance(value, tuple) else value for key, value in values.items()})

    params = list(map(_parameter, parameters))
    command = click.Command(name, None, callback, params, help)
    if place is not None:
        place.add_command(command)
    return command


def command(place: click.Group | None, name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a function the command ``name``, of a group or standing alone."""
    return lambda run: _add(place, name, list(inspect.signature(run).parameters.values()), run, run.__doc__)


ConfigOption = Annotated[
    Path | None,
    Option(
        "--config",
        "-c",
        help="The configuration file; without it TOCSIN_CONFIG, or TOCSIN_DSS_URL, TOCSIN_DSS_API_KEY[_FILE] and TOCSIN_NOTIFY.",
    ),
]
JsonOption = Annotated[bool, Option("--json", help="For scripts; the shapes stand in docs/cli.md.")]
TimeoutOption = Annotated[str | None, Option(metavar="DURATION", help="Wait no longer than this, as 30m.")]
StrictOption = Annotated[bool, Option("--strict", help="A WARNING is no success.")]
Filter = Annotated[str | None, Option(help="Only these.")]
LimitOption = Annotated[int, Option(min=1, help="At most so many.")]


def _argument(metavar: str, help: str) -> Any:
    return Argument(metavar=metavar, help=help)


ScenarioArgument = Annotated[str, _argument("ADDRESS", "[NODE/]PROJECT/SCENARIO")]
ScenariosArgument = Annotated[list[str], _argument("ADDRESS...", "[NODE/]PROJECT/SCENARIO; globs allowed.")]
_SCOPE = "[NODE/]PROJECT/SCENARIO or a PROJECT; globs allowed. Without one: all that the node's scope lets in."
ScopeArgument = Annotated[list[str] | None, _argument("[ADDRESS...]", _SCOPE)]
_RUN = "[NODE/]PROJECT/SCENARIO[/RUN]; RUN is an id, last (the default) or current."
RunArgument = Annotated[str, _argument("ADDRESS", _RUN)]
_DRY_RUN = Option("--dry-run", help="Only print what would be changed.")


@dataclass(frozen=True, slots=True)
class Where:
    """Where DSS is."""

    config: ConfigOption = None
    node: Annotated[str | None, Option(help="The node, where the configuration has several.")] = None
    url: Annotated[str | None, Option(help="Ask this DSS instead of a configured node.")] = None
    api_key_file: Annotated[
        Path | None, Option(help="With --url: the file of its key; else TOCSIN_DSS_API_KEY[_FILE].")
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
        Option(
            help="A save makes you the last modifier, and a scenario without runAsUser runs as that one: set runAsUser "
            "to the former one, which needs an admin key, or let it change."
        ),
    ] = True
    as_json: JsonOption = False


def file_option(help: str, *names: str) -> Any:
    """An option that takes a file, or ``-`` where its help says so."""
    return Option(*names, metavar="FILE", help=help)


def verb(
    place: click.Group | None, name: str, *, columns: Sequence[str] | None = None, interrupted: int = 130
) -> Callable[[Work], click.Command]:
    """Make an async function the command ``name``, of a group or standing alone. It may return an exit code, or with ``columns`` rows, which
    are printed as a table (see ``show.rows``), or whole with ``--json``."""

    def register(work: Work) -> click.Command:
        first, *own = inspect.signature(work).parameters.values()
        (where,) = inspect.signature(first.annotation.open).parameters.values()
        if columns is not None:
            own.append(inspect.Parameter("as_json", _KEYWORD, default=False, annotation=JsonOption))
        bundles: dict[str, Any] = {p.name: p.annotation for p in (where, *own) if is_dataclass(p.annotation)}

        def run(**values: Any) -> None:
            import asyncio

            for bundle, kind in bundles.items():
                values[bundle] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            location = values.pop(where.name)
            as_json = values.pop("as_json") if columns is not None else False

            async def main() -> int:
                async with first.annotation.open(location) as opened:
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
        return _add(place, name, options, run, work.__doc__)

    return register


def list_verb(place: click.Group, name: str, *columns: str) -> Callable[[Work], click.Command]:
    """Register an async function that returns rows as the command ``name``; see ``verb``."""
    return verb(place, name, columns=columns)


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
