"""The verbs around a configuration before it is used: ``check``, ``routes``, ``notify`` and ``token``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from tocsin.cli import show
from tocsin.cli.exits import DONE, NO, USAGE, append_line, fail
from tocsin.cli.verb import Argument, ConfigOption, JsonOption, Option, command, group, load_config

if TYPE_CHECKING:
    from tocsin.config.model import Route

routes, notify, token = group(), group(), group()


@command(None, "check")
def check(
    config: ConfigOption = None,
    offline: Annotated[
        bool, Option("--offline", help="Do not look for secrets: they need not be on this machine.")
    ] = False,
    replay: Annotated[
        str | None, Option(metavar="TIME", help="Tell each receiver's change against what was sent since then, as 7d.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a configuration: form, names, secrets, templates, routes. Exit 1 when it cannot be used."""
    from tocsin.config import BadConfig
    from tocsin.config.load import check_sections, config_path_from_environment

    file = config or config_path_from_environment()
    try:
        check_sections(file)
    except BadConfig as error:
        problems = list(error.problems)
    else:
        from tocsin.app.reload import Source
        from tocsin.app.validate import validate
        from tocsin.kit.clock import SystemClock

        problems = validate(Source(file), SystemClock().now(), offline=offline)
    usable = all(problem.severity != "error" for problem in problems)
    changes: list[str] = []
    if replay is not None and usable:
        from tocsin.cli.replay import changes_by_receiver, load_replay

        changes = list(changes_by_receiver(load_replay(load_config(config), replay)))
    if as_json:
        replayed = {} if replay is None else {"replay": changes}
        show.print_json({"ok": usable, "problems": list(map(asdict, problems)), **replayed})
    else:
        for problem in problems:
            print(f"{problem}" if problem.severity == "error" else f"{problem} (warning)")
        if usable:
            print(f"{file or 'the environment'}: good" + (", with warnings" if problems else ""))
        for change in changes:
            print(change)
    raise SystemExit(DONE if usable else NO)


@command(routes, "show")
def _show_routes(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the tree."""
    from tocsin.routing.tree import format_tree

    root = _root(config)
    show.print_json(_route_json(root)) if as_json else print(format_tree(root))


@command(routes, "test")
def _test_routes(
    labels: Annotated[list[str], Argument(metavar="LABEL=VALUE…", help="The labels of an alert.")],
    config: ConfigOption = None,
    expect: Annotated[
        list[str] | None, Option(help="A receiver that must be notified; several in order, or comma-separated.")
    ] = None,
    tree: Annotated[bool, Option("--tree", help="Show the part of the tree that the labels take.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the receivers that would be notified of an alert with these labels, comma-separated on one line."""
    from tocsin.routing.tree import format_matching, matching_receivers

    root, alert_labels = _root(config), dict(map(_parse_label, labels))
    receivers = matching_receivers(root, alert_labels)
    if tree:
        print(format_matching(root, alert_labels))
    show.print_json({"receivers": receivers or [""]}) if as_json else print(",".join(receivers))
    expected = [name for text in expect or [] for name in text.split(",")]
    if expected and receivers != expected:
        fail(f"expected {','.join(expected)}")


def _parse_label(text: str) -> tuple[str, str]:
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
        fail("the configuration has no route: nobody is notified of alerts")
    return route


def _route_json(route: "Route") -> dict[str, object]:
    from tocsin.kit.clock import format_duration

    intervals = ("group_wait", "group_interval", "repeat_interval")
    return {
        "receiver": route.receiver,
        "matchers": list(map(str, route.matchers)),
        "continue": route.continues,
        "group_by": list(route.group_by),
        **{name: format_duration(getattr(route, name)) for name in intervals},
        "mute_time_intervals": list(route.mute_time_intervals),
        "active_time_intervals": list(route.active_time_intervals),
        "routes": list(map(_route_json, route.routes)),
    }


@command(notify, "test")
def _notify_test(
    receiver: Annotated[str, Argument(help="The name of a receiver.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send an alert that fires, then its end, to every channel of RECEIVER and print the results. Exit 1 unless all took
    both."""
    import asyncio

    from tocsin.app.logs import configure_logging
    from tocsin.app.run import hard_exit
    from tocsin.deliver.check import test_channels
    from tocsin.kit.clock import SystemClock
    from tocsin.kit.strings import did_you_mean
    from tocsin.model.notification import AttemptOutcome

    settings = load_config(config, to_send=True)
    configure_logging("error", "auto")
    names = [known.name for known in settings.receivers]
    if receiver not in names:
        fail(f"no receiver is named {receiver!r}{did_you_mean(receiver, names)}")
    results = asyncio.run(test_channels(settings, receiver, clock=SystemClock()))
    if as_json:
        keys = ("channel", "sample", "outcome", "note", "hint")
        show.print_json([{key: getattr(result, key) for key in keys} | {"seconds": result.took} for result in results])
    else:
        for result in results:
            print(f"{result.outcome.value:<10} {result.sample:<9} {result.channel}  {result.note}".rstrip())
            if result.hint:
                print(f"{'':<20} {result.hint}")
        if not results:
            print(f"the receiver {receiver} has no channel")
    delivered = [result.outcome is AttemptOutcome.DELIVERED for result in results]
    hard_exit(DONE if delivered and all(delivered) else NO)


@command(token, "new")
def _new_token(
    name: Annotated[str, Argument(help="Who it is for; it stands in the log and in what they change.")],
    role: Annotated[
        str, Option(type=click.Choice(["viewer", "operator"]), help="A viewer reads, an operator changes things too.")
    ],
    file: Annotated[
        Path | None, Option(metavar="FILE", help="The tokens file; without it http.tokens_file of the configuration.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Print a new token, once, and append its hash to the tokens file. A running daemon takes it at once."""
    from tocsin.config.tokens import Role, make_token

    path = file or load_config(config).http.tokens_file
    if path is None:
        fail("the configuration has no http.tokens_file; set it, or name a file with --file", USAGE)
    try:
        secret, line = make_token(name, Role(role))
    except ValueError as error:
        fail(str(error), USAGE)
    append_line(Path(path), line)
    print(secret)
