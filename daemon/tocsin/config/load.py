"""From the file, or from environment variables, to one frozen ``Config``.

References between parts of the file and the uniqueness of names are checked here. All problems are reported at once.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from tocsin.config.model import (
    ABSENT,
    Channel,
    Config,
    IncludedFile,
    MessageFormat,
    Node,
    Receiver,
    Reporter,
    Route,
    StoreConfig,
    TagReceivers,
    build_tree,
)
from tocsin.config.problems import (
    BadConfig,
    IncludedLine,
    Lines,
    Path_,
    Problem,
    Schema,
    dotted,
    line_of,
    problems_of,
    without_secrets,
)
from tocsin.config.secrets import EnvSecret, FileSecret, InlineSecret, Secret
from tocsin.config.section import http_url, plain_url
from tocsin.kit.proxy import environment_proxy
from tocsin.kit.strings import did_you_mean

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from tocsin.config.files import Inputs

NO_HOME = "this user has no home directory for a store (neither HOME nor XDG_STATE_HOME is set)"
T = TypeVar("T")
Check = Callable[[str], str | None]
"""Returns what is wrong with the URL of a channel. The real one loads apprise, which takes half a second."""


def unchecked(_url: str) -> None:
    """The ``Check`` of commands that send nothing."""


def load_file(path: Path, check_url: Check = unchecked, inputs: "Inputs | None" = None) -> Config:
    """Raises ``BadConfig`` with every problem that was found. ``inputs`` remembers what was read."""
    from tocsin.config.files import Inputs

    inputs = inputs or Inputs()
    documents, config, lines = _read_sections(path, inputs)
    try:
        return _complete(config, path, lines, check_url, inputs)
    except BadConfig as error:
        raise without_secrets(error, documents, path.absolute().parent) from None


def check_sections(path: Path | None) -> None:
    """Find what makes reading fail before a ``Check`` is called, whose module takes long to load. Raises ``BadConfig``."""
    from tocsin.config.files import Inputs

    if path is not None:
        _read_sections(path, Inputs())
    elif not os.environ.get("TOCSIN_NOTIFY"):
        from_environment()


def _read_sections(path: Path, inputs: "Inputs") -> tuple[list[object], Config, Lines]:
    """The documents of the file and of those that it includes, their sections, each valid in itself, and the lines of
    their keys. Raises ``BadConfig``."""
    document, config, lines = _read_section(path, inputs)
    documents, problems = [document], list[Problem]()
    for file in _included_files(config.include, path, lines, inputs):
        try:
            document, part, its_lines = _read_section(file, inputs, included=True)
        except BadConfig as error:
            problems += error.problems
            continue
        if part.routes and config.route is None:
            message = (
                "there is no route whose children these could be; write one in the configuration that includes this"
            )
            problems.append(Problem(message, str(file), its_lines.get(("routes",)), "routes"))
            continue
        documents.append(document)
        config = _with_part(config, part, lines, {at: IncludedLine(n, str(file), at) for at, n in its_lines.items()})
    if problems:
        raise BadConfig(problems)
    return documents, config, lines


def _read_section(path: Path, inputs: "Inputs", *, included: bool = False) -> tuple[object, Any, Lines]:
    """A file as a document, as a section, and the lines of its keys. What takes long to load waits until the file is
    read. Raises ``BadConfig``."""
    from tocsin.config.files import read_yaml

    document, lines = read_yaml(path, inputs)
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise BadConfig([Problem("must be a mapping of keys to values", str(path), 1)])
    folder = path.absolute().parent
    from tocsin.config.schema import CONFIG_ADAPTER, INCLUDED_ADAPTER, included_json_schema, json_schema

    adapter: TypeAdapter[Any] = INCLUDED_ADAPTER if included else CONFIG_ADAPTER
    schema = included_json_schema if included else json_schema
    try:
        return document, _validate(adapter, schema, document, folder, str(path), lines), lines
    except BadConfig as error:
        raise without_secrets(error, document, folder) from None


def _included_files(patterns: Iterable[str], path: Path, lines: Lines, inputs: "Inputs") -> list[Path]:
    """Each once, in the order of the patterns, and of the names within one; not the file itself. Raises ``BadConfig``."""
    from tocsin.config.files import TooMuch

    folder, files = path.absolute().parent, dict[Path, None]()
    for index, pattern in enumerate(patterns):
        try:
            found = inputs.match(folder / pattern)
            problem = None
            if not found and not re.search(r"[*?\[]", pattern):
                problem = f"no file matches {pattern!r}"
        except TooMuch as error:
            found, problem = [], str(error)
        problem = next((f"{str(file)!r} is no file" for file in found if not file.is_file()), problem)
        if problem is not None:
            at = ("include", index)
            raise BadConfig([Problem(problem, str(path), line_of(at, lines), dotted(at))])
        files |= dict.fromkeys(file for file in found if file.resolve() != path.resolve())
    return [path.parent / file.relative_to(folder) if file.is_relative_to(folder) else file for file in files]


def _with_part(config: Config, part: IncludedFile, lines: Lines, its_lines: Lines) -> Config:
    """The configuration with what an included file adds; its lines are added to ``lines``."""
    more: dict[str, Any] = {}
    for name in ("receivers", "reporters", "rules", "inhibit_rules", "time_intervals"):
        before = getattr(config, name)
        more[name] = before + getattr(part, name)
        _add_lines(lines, its_lines, name, (name,), len(before))
    if config.route is not None:
        _add_lines(lines, its_lines, "routes", ("route", "routes"), len(config.route.routes))
        more["route"] = replace(config.route, routes=config.route.routes + part.routes)
    return replace(config, **more)


def _add_lines(lines: Lines, its_lines: Lines, name: str, place: Path_, before: int) -> None:
    for (first, *rest), line in ((at, line) for at, line in its_lines.items() if len(at) > 1):
        if first == name and isinstance(rest[0], int):
            lines[(*place, before + rest[0], *rest[1:])] = line


def _validate(
    adapter: "TypeAdapter[T]", schema: Callable[[], Schema], document: object, folder: Path, name: str, lines: Lines
) -> T:
    """Raises ``BadConfig`` with the problems of single sections."""
    from pydantic import ValidationError

    try:
        return adapter.validate_python(document, context=folder)
    except ValidationError as error:
        raise BadConfig(problems_of(error, schema, name, lines)) from None


Finding = tuple[Path_, str]


def _complete(config: Config, path: Path, lines: Lines, check_url: Check, inputs: "Inputs") -> Config:
    """Raises ``BadConfig`` with the problems beyond single sections."""
    findings: list[Finding] = []
    url = config.store.url or default_store_url()
    if url is None:
        findings.append((("store", "url"), f"{NO_HOME}; set it"))
    for index, node in enumerate(config.nodes):
        if node.proxy is None and (problem := _environment_proxy_problem(node.url)):
            findings.append((("nodes", index, "url"), problem))
    for place, channel in _channels(config):
        if isinstance(channel.url, InlineSecret) and (problem := check_url(channel.url.value)):
            findings.append(((*place, "url"), problem))
    texts: dict[str, str] = {}
    findings += _read_templates(config.templates, path.absolute().parent, inputs, texts)
    findings += _duplicate_names(config, lines)
    findings += _unknown_names(config, {*(name.value for name in MessageFormat), *texts})
    findings += _reporters_of_incidents(config)
    findings += _root_findings(config)
    if findings:
        problems = [Problem(message, str(path), line_of(at, lines), dotted(at)) for at, message in findings]
        raise BadConfig(sorted(problems, key=lambda problem: problem.line or 0))
    return replace(
        config,
        store=replace(config.store, url=url or ""),
        route=config.route and build_tree(_with_tags(_with_group_by(config.route), config.tag_receivers), lines),
        template_texts=texts,
        source=str(path),
        lines=lines,
    )


def _root_findings(config: Config) -> Iterator[Finding]:
    root = config.route
    if root is None:
        if config.tag_receivers is not None:
            yield ("tag_receivers",), "there is no route, and it adds receivers to those of routes; write one"
        return
    if not root.receiver:
        yield ("route",), "the root route needs a receiver"
    if root.matchers:
        yield ("route", "matchers"), "the root route catches everything and may not have matchers"
    if root.continues:
        yield ("route", "continue"), "the root route has no next one; continue belongs to its routes"
    if root.mute_time_intervals or root.active_time_intervals:
        yield ("route",), "the root route may not have mute or active time intervals"
    if root.receiver:
        yield from _escalations_to_itself(build_tree(root))


def _read_templates(
    patterns: Iterable[str], folder: Path, inputs: "Inputs", texts: dict[str, str]
) -> Iterator[Finding]:
    """Add the texts of all template files by their names to ``texts``."""
    from tocsin.config.files import TooMuch

    for index, pattern in enumerate(patterns):
        place = ("templates", index)
        try:
            files = inputs.match(folder / pattern)
            if not files:
                yield place, f"no file matches {pattern!r}"
            for file in files:
                if file.is_file():  # a pipe or device could be read for ever
                    texts[file.name] = inputs.read(file)
                else:
                    yield place, f"a template is a file, and {str(file)!r} is none"
        except TooMuch as error:
            yield place, str(error)
        except (OSError, UnicodeDecodeError) as error:
            yield place, f"a template cannot be read: {error}"


def _duplicate_names(config: Config, lines: Lines) -> Iterator[Finding]:
    named = {key: getattr(config, key) for key in ("nodes", "receivers", "reporters", "time_intervals")}
    kinds: list[tuple[str, list[tuple[Path_, str]]]]
    kinds = [("", [((key, n), item.name) for n, item in enumerate(items)]) for key, items in named.items()]
    kinds.append(("channel ", [(at, channel.name) for at, channel in _channels(config)]))
    for kind, places in kinds:
        first: dict[str, Path_] = {}
        for at, name in places:
            if at is not (before := first.setdefault(name, at)):
                line = line_of(before, lines)
                where = f"{line.file}:{line}" if isinstance(line, IncludedLine) else f"line {line}"
                yield at, f"the {kind}name {name!r} stands twice, first in {where}; names are unique"


def _unknown_names(config: Config, templates: set[str]) -> Iterator[Finding]:
    """References that lead nowhere."""
    receivers = {receiver.name for receiver in config.receivers}
    intervals = {interval.name for interval in config.time_intervals}
    reporters: list[tuple[Path_, Reporter]] = [(("reporters", i), item) for i, item in enumerate(config.reporters)]

    def references() -> Iterator[tuple[str, Path_, str, set[str]]]:
        users: list[tuple[Path_, Reporter | Channel]] = [*reporters, *_channels(config)]
        for path, user in users:
            # A template of one word is a name; a misspelt one would be sent as the message.
            if user.template is not None and re.fullmatch(r"[\w./-]+", user.template):
                yield "template", (*path, "template"), user.template, templates
        for path, name in [*((path, reporter.receiver) for path, reporter in reporters), *_failovers(config)]:
            yield "receiver", (*path, "receiver"), name, receivers
        if config.dss_reporters.mode != "off":
            yield "receiver", ("dss_reporters", "receiver"), config.dss_reporters.receiver or "", receivers
        allowed = config.tag_receivers.allow if config.tag_receivers else ()
        yield from (("receiver", ("tag_receivers", "allow"), name, receivers) for name in allowed)
        for path, route in _routes_of(config):
            named = [("receiver", route.receiver)] if route.receiver else []
            named += [("escalate", step.receiver) for step in route.escalate or ()]
            yield from (("receiver", (*path, key), name, receivers) for key, name in named)
            for key in ("mute_time_intervals", "active_time_intervals"):
                places = (((*path, key, index), name) for index, name in enumerate(getattr(route, key)))
                yield from (("time interval", place, name, intervals) for place, name in places)

    for kind, path, name, known in references():
        if name not in known:
            yield path, f"no {kind} is named {name!r}{did_you_mean(name, known)}"


def _reporters_of_incidents(config: Config) -> Iterator[Finding]:
    """Reporters whose receiver keeps incidents open: a single event would open one that never closes."""
    users = [
        (("reporters", index), f"reporter {item.name!r}", item.receiver) for index, item in enumerate(config.reporters)
    ]
    if config.dss_reporters.mode != "off":
        users.append((("dss_reporters",), "dss_reporters", config.dss_reporters.receiver or ""))  # type: ignore[arg-type]
    for place, user, name in users:
        receiver = config.receiver(name)
        for channel in receiver.channels if receiver else ():
            if channel.alerts_only:
                message = (
                    f"{user} cannot use channel {channel.name!r}: {channel.kind} keeps incidents, which only alerts end"
                )
                yield (*place, "receiver"), f"{message}; name another receiver, or route alerts to this one"


def _routes_of(config: Config) -> Iterator[tuple[Path_, Route]]:
    """The routes as they are written, parents first."""
    routes: list[tuple[Path_, Route]] = [(("route",), config.route)] if config.route else []
    while routes:
        path, route = routes.pop(0)
        yield path, route
        routes[:0] = [((*path, "routes", index), child) for index, child in enumerate(route.routes)]


def _failovers(config: Config) -> list[tuple[Path_, str]]:
    return [
        (("receivers", n, "failover"), item.failover.receiver)
        for n, item in enumerate(config.receivers)
        if item.failover
    ]


def _channels(config: Config) -> Iterator[tuple[Path_, Channel]]:
    for number, receiver in enumerate(config.receivers):
        for index, channel in enumerate(receiver.channels):
            yield ("receivers", number, "channels", index), channel


def _with_group_by(root: Route) -> Route:
    default = ("alertname", "dss_node", "project")
    return replace(root, group_by=default) if root.group_by is ABSENT else root


def _with_tags(root: Route, tags: TagReceivers | None) -> Route:
    return root if tags is None else replace(root, routes=(*root.routes, *map(tags.route, tags.allow)))


def _escalations_to_itself(route: Route, at: Path_ = ("route",), inherited: object = None) -> Iterator[Finding]:
    """``inherited``: the steps of the parent, which may name the receiver of this route."""
    for index, step in enumerate(route.escalate or ()):
        if step.receiver == route.receiver and route.escalate is not inherited:
            message = f"escalates to {step.receiver!r}, who is notified from the start; name another receiver"
            yield (*at, "escalate", index), message
    for index, child in enumerate(route.routes):
        yield from _escalations_to_itself(child, (*at, "routes", index), route.escalate)


def _environment_proxy_problem(url: str) -> str | None:
    """What is wrong with the proxy for this address. The message does not repeat it, since it may hold a password."""
    parts = urlsplit(url.strip())
    proxy = environment_proxy(parts.scheme, parts.hostname or "", parts.port)
    try:
        if proxy is not None:
            http_url(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:
        return (
            f"{parts.scheme.upper()}_PROXY or ALL_PROXY names no http or https proxy; correct it, name the host in "
            "NO_PROXY, or set the node's proxy"
        )
    return None


def from_environment(check_url: Check = unchecked) -> Config:
    """A configuration from ``TOCSIN_DSS_URL``, ``TOCSIN_DSS_API_KEY[_FILE]`` and ``TOCSIN_NOTIFY``.

    Further variables: ``TOCSIN_STORE_URL``, ``TOCSIN_HTTP_LISTEN``, ``TOCSIN_EXTERNAL_URL``, ``TOCSIN_LOG_LEVEL``. The
    node is named by its host; a daemon asks the node for its own name.
    """
    problems = []
    url = os.environ.get("TOCSIN_DSS_URL", "").rstrip("/")
    if not url:
        problems.append(Problem("TOCSIN_DSS_URL is not set; set it, or name a file with --config"))
    else:
        try:
            plain_url(http_url(url))
            if problem := _environment_proxy_problem(url):
                problems.append(Problem(f"TOCSIN_DSS_URL: {problem}"))
        except ValueError as error:
            bad = without_secrets(BadConfig([Problem(f"TOCSIN_DSS_URL: {error}")]), {"url": url}, Path())
            problems += bad.problems
    if (key := api_key_from_environment()) is None:
        problems.append(Problem("TOCSIN_DSS_API_KEY (or TOCSIN_DSS_API_KEY_FILE) is not set"))
    channels = []
    for number, address in enumerate(os.environ.get("TOCSIN_NOTIFY", "").split(), start=1):
        if problem := check_url(address):
            problems.append(Problem(f"TOCSIN_NOTIFY: entry {number}: {problem}"))
        channels.append(Channel(f"default/{number}", "default", InlineSecret(address)))
    if (store_url := os.environ.get("TOCSIN_STORE_URL") or default_store_url()) is None:
        problems.append(Problem(f"TOCSIN_STORE_URL is not set and {NO_HOME}"))
    if problems or store_url is None:
        raise BadConfig(problems)
    config = _settings_from_environment()
    return replace(
        config,
        nodes=(Node(urlsplit(url).hostname or "", url, api_key=key),),
        store=StoreConfig(store_url),
        receivers=(Receiver("default", tuple(channels)),),
        route=build_tree(_with_group_by(Route("default"))),
    )


def _settings_from_environment() -> Config:
    """What is no node, store, receiver or route. Raises ``BadConfig``."""
    names = ("TOCSIN_HTTP_LISTEN", "TOCSIN_EXTERNAL_URL", "TOCSIN_LOG_LEVEL")
    listen, external_url, level = (os.environ.get(name) for name in names)
    if not (listen or external_url or level):
        return Config(())
    document = {
        "nodes": [{"name": "set above", "url": "https://set.above", "api_key": "set above"}],
        "http": {"listen": listen or "127.0.0.1:8080", "external_url": external_url or None},
        "log": {"level": (level or "info").lower()},
    }
    from tocsin.config.schema import CONFIG_ADAPTER, json_schema

    try:
        return _validate(CONFIG_ADAPTER, json_schema, document, Path(), "environment", {})
    except BadConfig as bad:
        raise without_secrets(bad, {"url": external_url or ""}, Path()) from None


def api_key_from_environment() -> Secret | None:
    if os.environ.get("TOCSIN_DSS_API_KEY"):
        return EnvSecret("TOCSIN_DSS_API_KEY")
    file = os.environ.get("TOCSIN_DSS_API_KEY_FILE")
    return FileSecret(Path(file)) if file else None


def default_store_url() -> str | None:
    """A file in the user's state directory; None for a user without one."""
    try:
        home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError:  # no HOME, and the system does not know this user
        return None
    return f"sqlite:///{home.absolute() / 'tocsin' / 'tocsin.db'}"


def config_path_from_environment() -> Path | None:
    return Path(value) if (value := os.environ.get("TOCSIN_CONFIG")) else None
