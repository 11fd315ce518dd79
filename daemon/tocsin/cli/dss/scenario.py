"""``tocsin scenario``: what people do with scenarios."""

from tocsin.cli.dss import scenario_change, scenario_define, scenario_read, scenario_trigger
from tocsin.cli.verb import typer_app

app = typer_app()
app.add_typer(scenario_read.app)
app.add_typer(scenario_change.app)
app.add_typer(scenario_define.app)
app.add_typer(scenario_trigger.app, name="trigger", help="The triggers of a scenario.")
