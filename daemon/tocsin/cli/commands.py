"""The verbs and what they are for. A verb's module is loaded when the verb is asked for, and with it what it needs."""

from importlib import import_module
from typing import Any

import click

from tocsin import __version__

# Each verb, or group of verbs, as module:attribute of this package, and what it is for.
_VERBS = {
    "run": ("serve:run", "Run the daemon until SIGTERM or SIGINT."),
    "demo": ("serve:demo", "Show Tocsin at work on an emulated DSS. Nothing leaves this machine."),
    "sim": ("serve:sim", "An emulated DSS: the scenario API of a node, with a lively world or one of your own."),
    "check": ("configuration:check", "Check a configuration: form, names, secrets, templates, routes."),
    "doctor": ("doctor:doctor", "Ask the real parts: nodes, store, channels. Sends nothing."),
    "replay": ("replay:replay", "What a configuration would have sent for the stored history. Sends nothing."),
    "routes": ("configuration:routes", "The routing tree of alerts."),
    "notify": ("configuration:notify", "Try receivers."),
    "message": ("preview:message", "Look at messages before they are sent."),
    "token": ("configuration:token", "Tokens that let people and programs in."),
    "db": ("db:app", "The store: its version, its upgrade, a backup, pruning."),
    "project": ("dss.scenario:projects", "Projects of DSS."),
    "scenario": ("dss.scenario:app", "Scenarios of DSS: look at them, run them, change them."),
    "runs": ("dss.runs:app", "Single runs of scenarios: look at them, wait for them, stop them."),
    "reporter": ("dss.reporter:app", "DSS's own reporters, over all scenarios."),
    "status": ("state:show_status", "Nodes, alerts, deliveries and the last reload of the daemon."),
    "events": ("state:events", "What happened: runs, nodes, failed reporters."),
    "alerts": ("state:alerts", "Alerts: they fire until what is wrong is fixed."),
    "silence": ("state:silence", "Silences: nobody is notified of alerts that match; they go on firing."),
    "deliveries": ("state:deliveries", "The log of deliveries, and sending again."),
    "explain": (
        "state:explain_place",
        "Tell what became of a run or an alert: what fired, who was notified, and why not.",
    ),
}


class _Verbs(click.Group):
    """The group of all verbs, which lists and completes them without loading one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = dict.fromkeys(_VERBS)  # the names serve suggestions

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in _VERBS:
            return None
        place, help = _VERBS[name]
        module, _, attribute = place.partition(":")
        verb: click.Command = getattr(import_module(f"tocsin.cli.{module}"), attribute)
        verb.name, verb.help = name, verb.help or help
        return verb

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in _VERBS.items()])

    def shell_complete(self, context: click.Context, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        options = click.Command.shell_complete(self, context, incomplete)
        verbs = _VERBS.items()
        return [CompletionItem(name, help=help) for name, (_, help) in verbs if name.startswith(incomplete)] + options


def _completion(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from tocsin.cli import completion

        (completion.install if parameter.name == "install_completion" else completion.show)(context.command)
        context.exit()


@click.group(cls=_Verbs, no_args_is_help=True)
@click.version_option(__version__, message="tocsin %(version)s", help="Print the version and leave.")
@click.option(
    "--install-completion",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_completion,
    help="Install completion for the current shell.",
)
@click.option(
    "--show-completion",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_completion,
    help="Show completion for the current shell, to copy it or customize the installation.",
)
def app() -> None:
    """The alarm bell for Dataiku DSS: watches scenario runs, keeps metrics, raises alerts, notifies."""
