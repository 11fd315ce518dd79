"""The verbs and what they are for. A verb's module is loaded when the verb is asked for, and with it what it needs."""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from tocsin import __version__

_VERBS = {
    "run": "Run the daemon until SIGTERM or SIGINT.",
    "demo": "Show Tocsin at work on an emulated DSS. Nothing leaves this machine.",
    "sim": "An emulated DSS: the scenario API of a node, with a lively world or one of your own.",
    "check": "Check a configuration: form, names, secrets, templates, routes.",
    "routes": "The routing tree of alerts.",
    "notify": "Try receivers.",
    "db": "The store: its version, its upgrade, a backup, pruning.",
    "project": "Projects of DSS.",
    "scenario": "Scenarios of DSS: look at them, run them, change them.",
    "runs": "Single runs of scenarios: look at them, wait for them, stop them.",
    "reporter": "DSS's own reporters, over all scenarios.",
    "events": "What happened: runs, nodes, failed reporters.",
    "alerts": "What rings until it is fixed.",
    "silence": "Silences: alerts that match are not told; they go on all the same.",
    "deliveries": "The log of deliveries, and sending again.",
    "explain": "Tell what became of a run or an alert: what rang, who was told, and why not.",
}
_PLACES = {  # of those whose module is not named as they are
    "project": ("dss.scenario", "projects"),
    "scenario": ("dss.scenario", "app"),
    "runs": ("dss.runs", "app"),
    "reporter": ("dss.reporter", "app"),
}
_ALONE = ("run", "demo", "sim", "check", "explain")  # the others are groups of verbs


class _Verbs(TyperGroup):
    """The group of all verbs, which lists them without loading one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = dict.fromkeys(_VERBS)  # the names serve completion and suggestions

    def get_command(self, _context: object, name: str) -> Any:
        if name in _VERBS and self.commands[name] is None:
            module, attribute = _PLACES.get(name, (name, "app"))
            app = getattr(import_module(f"tocsin.cli.{module}"), attribute)
            self.commands[name] = get_command(app) if name in _ALONE else get_group(app)
            if name not in _ALONE:
                self.commands[name].help = _VERBS[name]
        return self.commands.get(name)

    def format_commands(self, _context: object, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))


app = typer.Typer(
    cls=_Verbs,
    help="The alarm bell for Dataiku DSS: watches scenario runs, keeps metrics, raises alerts, notifies.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tocsin {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass
