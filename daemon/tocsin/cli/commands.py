"""The verbs and what they are for. A verb's module is loaded when the verb is asked for, and with it what it needs."""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from tocsin import __version__

# Each verb's app, as module:attribute of this package, and what it is for.
_VERBS = {
    "run": ("serve:run", "Run the daemon until SIGTERM or SIGINT."),
    "demo": ("serve:demo", "Show Tocsin at work on an emulated DSS. Nothing leaves this machine."),
    "sim": ("serve:sim", "An emulated DSS: the scenario API of a node, with a lively world or one of your own."),
    "check": ("configuration:check", "Check a configuration: form, names, secrets, templates, routes."),
    "routes": ("configuration:routes", "The routing tree of alerts."),
    "notify": ("configuration:notify", "Try receivers."),
    "db": ("db:app", "The store: its version, its upgrade, a backup, pruning."),
    "project": ("dss.scenario:projects", "Projects of DSS."),
    "scenario": ("dss.scenario:app", "Scenarios of DSS: look at them, run them, change them."),
    "runs": ("dss.runs:app", "Single runs of scenarios: look at them, wait for them, stop them."),
    "reporter": ("dss.reporter:app", "DSS's own reporters, over all scenarios."),
    "events": ("state:events", "What happened: runs, nodes, failed reporters."),
    "alerts": ("state:alerts", "Alerts: they fire until what is wrong is fixed."),
    "silence": ("state:silence", "Silences: nobody is notified of alerts that match; they go on firing."),
    "deliveries": ("state:deliveries", "The log of deliveries, and sending again."),
    "explain": ("state:explain", "Tell what became of a run or an alert: what fired, who was notified, and why not."),
}


class _Verbs(TyperGroup):
    """The group of all verbs, which lists them without loading one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = dict.fromkeys(_VERBS)  # the names serve completion and suggestions

    def get_command(self, _context: object, name: str) -> Any:
        if name in _VERBS and self.commands[name] is None:
            place, help = _VERBS[name]
            module, _, attribute = place.partition(":")
            app = getattr(import_module(f"tocsin.cli.{module}"), attribute)
            if [command.name for command in app.registered_commands] == [name]:  # a verb that stands alone
                self.commands[name] = get_command(app)
            else:
                self.commands[name] = get_group(app)
                self.commands[name].help = help
        return self.commands.get(name)

    def format_commands(self, _context: object, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in _VERBS.items()])


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
