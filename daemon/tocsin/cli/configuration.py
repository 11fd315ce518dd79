"""What the verbs share about the configuration: where it comes from, and how its problems are told."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tocsin.cli.exits import NO, fail

if TYPE_CHECKING:
    from tocsin.model.config import Config

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="The configuration file; without it TOCSIN_CONFIG, or TOCSIN_DSS_URL, TOCSIN_DSS_API_KEY[_FILE] and TOCSIN_NOTIFY.",
    ),
]


def load_config(path: Path | None) -> "Config":
    """The configuration; on problems prints each on a line of its own and leaves with 1."""
    from tocsin.app.settings import BadConfig
    from tocsin.app.source import Source

    try:
        return Source(path).load()
    except BadConfig as error:
        fail(str(error), NO)
