"""The verbs and their names. Each verb lives in a module of its own and loads what it needs when it runs."""

from typing import Annotated

import typer

from tocsin.cli import (
    alerts,
    check,
    db,
    deliveries,
    demo,
    events,
    explain,
    notify,
    project,
    reporter,
    routes,
    run_verbs,
    scenario,
    silence,
    sim,
)

app = typer.Typer(
    name="tocsin",
    help="The alarm bell for Dataiku DSS: watches scenario runs, keeps metrics, raises alerts, notifies.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from tocsin import __version__

        print(f"tocsin {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


app.add_typer(run_verbs.app, name="run")
app.command("demo")(demo.demo)
app.command("sim")(sim.sim)
app.command("check")(check.check)
app.add_typer(routes.app, name="routes")
app.add_typer(notify.app, name="notify")
app.add_typer(db.app, name="db")
app.add_typer(project.app, name="project")
app.add_typer(scenario.app, name="scenario")
app.add_typer(reporter.app, name="reporter")
app.add_typer(events.app, name="events")
app.add_typer(alerts.app, name="alerts")
app.add_typer(silence.app, name="silence")
app.add_typer(deliveries.app, name="deliveries")
app.command("explain")(explain.explain)
