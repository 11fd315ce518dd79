"""``tocsin routes``: the routing tree, and who would hear. Output as amtool prints it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tocsin.cli import show
from tocsin.cli.exits import USAGE, fail
from tocsin.cli.verb import ConfigOption, JsonOption, load_config, typer_app

if TYPE_CHECKING:
    from tocsin.config.model import Route

app = typer_app()


@app.command("show")
def show_tree(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the tree."""
    from tocsin.routing.tree import format_tree

    root = _root(config)
    show.print_json(_as_json(root)) if as_json else print(format_tree(root))


@app.command("test")
def who_hears(
    labels: Annotated[list[str], typer.Argument(metavar="LABEL=VALUE…", help="The labels of an alert.")],
    config: ConfigOption = None,
    expect: Annotated[
        list[str] | None, typer.Option(help="A receiver that must hear; several in order, or comma-separated.")
    ] = None,
    tree: Annotated[bool, typer.Option("--tree", help="Show the part of the tree that the labels take.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the receivers that would hear of an alert with these labels, comma-separated on one line."""
    from tocsin.routing.tree import format_matching, matching_receivers

    root, alert_labels = _root(config), dict(map(_label, labels))
    receivers = matching_receivers(root, alert_labels)
    if tree:
        print(format_matching(root, alert_labels))
    show.print_json({"receivers": receivers or [""]}) if as_json else print(",".join(receivers))
    expected = [name for text in expect or [] for name in text.split(",")]
    if expected and receivers != expected:
        fail(f"expected {','.join(expected)}")


def _label(text: str) -> tuple[str, str]:
    """A label as amtool reads it: a matcher with an equals sign, its value quoted or not."""
    from tocsin.model.labels import BadMatcher, Op, parse_matcher

    try:
        matcher = parse_matcher(text)
    except BadMatcher:
        fail(f"{text!r} is not LABEL=VALUE", USAGE)
    if matcher.op is not Op.EQUAL:
        fail(f"{text!r} is not LABEL=VALUE: an alert has one value for each label", USAGE)
    return matcher.name, matcher.value


def _root(config: Path | None) -> "Route":
    if (route := load_config(config).route) is None:
        fail("the configuration has no route: alerts are told to nobody")
    return route


def _as_json(route: "Route") -> dict[str, object]:
    from tocsin.kit.clock import format_duration

    return {
        "receiver": route.receiver,
        "matchers": [str(matcher) for matcher in route.matchers],
        "continue": route.continues,
        "group_by": list(route.group_by),
        "group_wait": format_duration(route.group_wait),
        "group_interval": format_duration(route.group_interval),
        "repeat_interval": format_duration(route.repeat_interval),
        "mute_time_intervals": list(route.mute_time_intervals),
        "active_time_intervals": list(route.active_time_intervals),
        "routes": [_as_json(child) for child in route.routes],
    }
