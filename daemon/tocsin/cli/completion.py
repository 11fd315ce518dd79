"""Completion of the command line in bash, zsh and fish: click's scripts, shown or put where the shell reads them."""

import os
from pathlib import Path

from click import Command
from click.shell_completion import get_completion_class

from tocsin.cli.exits import USAGE, fail

_SCRIPTS = {
    "bash": ".bash_completions/tocsin.sh",
    "zsh": ".zfunc/_tocsin",
    "fish": ".config/fish/completions/tocsin.fish",
}
_LINES = {  # what has the shell read the script: the file that it reads at its start, and the line in it
    "bash": (".bashrc", "source '{script}'"),
    "zsh": (".zshrc", "fpath+=~/.zfunc; autoload -Uz compinit; compinit"),
}


def _script(app: Command) -> tuple[str, str]:
    """The user's shell and its script."""
    shell = Path(os.environ.get("SHELL", "")).name  # noqa: TID251 - the shell is no setting
    kind = get_completion_class(shell) if shell in _SCRIPTS else None
    if kind is None:
        fail(f"SHELL is {shell or 'not set'}; completion is for {', '.join(_SCRIPTS)}", USAGE)
    return shell, kind(app, {}, "tocsin", "_TOCSIN_COMPLETE").source()


def show(app: Command) -> None:
    """Print the script of the user's shell."""
    print(_script(app)[1])


def install(app: Command) -> None:
    """Write the script where the user's shell reads it; once it is there, again does no harm."""
    shell, text = _script(app)
    script = Path.home() / _SCRIPTS[shell]
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(text, "utf-8")
    if shell in _LINES:
        file, line = Path.home() / _LINES[shell][0], _LINES[shell][1].format(script=script)
        known = file.read_text("utf-8") if file.exists() else ""
        if line not in known:
            file.write_text(f"{known.rstrip()}\n{line}\n".lstrip(), "utf-8")
    print(f"completion for {shell} is in {script}; it works in the next shell")
