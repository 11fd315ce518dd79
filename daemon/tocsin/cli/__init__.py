"""The command line: one module a topic; importing this package loads nothing heavy."""


def main() -> None:
    """The entry point of the ``tocsin`` command."""
    from tocsin.cli.commands import app

    app(prog_name="tocsin")
