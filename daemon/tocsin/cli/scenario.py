"""``tocsin scenario``: what people do with scenarios."""

import typer

from tocsin.cli import scenario_change, scenario_define, scenario_read, scenario_trigger

app = typer.Typer(help="Scenarios of DSS: look at them, run them, change them.", no_args_is_help=True)
app.add_typer(scenario_read.app)
app.add_typer(scenario_change.app)
app.add_typer(scenario_define.app)
app.add_typer(scenario_trigger.app, name="trigger")
