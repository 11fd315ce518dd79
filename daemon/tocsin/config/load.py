"""From the file, or from three environment variables, to one frozen ``Config``.

References between parts of the file (receivers, intervals, templates) and the uniqueness of names are checked here. All
problems are reported at once.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from tocsin.config.files import Inputs, TooMuch, read_yaml
from tocsin.config.model import (
    ABSENT,
    CONFIG_ADAPTER,
    Channel,
    Config,
    MessageFormat,
    Receiver,
    Reporter,
    Route,
    StoreConfig,
    build_tree,
    json_schema,
)
from tocsin.config.problems import BadConfig, Lines, Path_, Problem, dotted, line_of, problems_of, without_secrets
from tocsin.config.secrets import EnvSecret, FileSecret, InlineSecret, Secret
from tocsin.config.values import http_url, plain_url
from tocsin.kit.proxy import environment_proxy
from tocsin.kit.strings import did_you_mean

_A_NAME = re.compile(r"[\w./-]+")
NO_HOME = "this user has no home directory for a store (neither HOME nor XDG_STATE_HOME is set)"
DEFAULT_GROUP_BY = ("alertname", "dss_node", "project")


Check = Callable[[str], str | None]
"""Returns what is wrong with the URL of a channel. The real one loads apprise, which takes half a second."""


def unchecked(_url: str) -> None:
    """The ``Check`` of commands that send nothing."""


def load_file(path: Path, check_url: Check = unchecked, inputs: Inputs | None = None) -> Config:
    """The configuration in a YAML file. Raises ``BadConfig`` with every problem that was found. ``inputs`` remembers
    what was read."""
    inputs = inputs or Inputs()
    document, lines = read_yaml(path, inputs)
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise BadConfig([Problem("must be a mapping of keys to values", str(path), 1)])
    folder = path.absolute().parent
    try:
        config = CONFIG_ADAPTER.validate_python(document, context=folder)
        return _Checks(path, lines, check_url, inputs).complete(config)
    except ValidationError as error:
        bad = BadConfig(problems_of(error, json_schema, str(path), lines))
    except BadConfig as error:
        bad = error
    raise without_secrets(bad, document, folder) from None


class _Checks:
    """Collects the problems of one configuration beyond its single sections, and completes it."""

    def __init__(self, path: Path, lines: Lines, check_url: Check, inputs: Inputs) -> None:
        self._path = path
        self._lines = lines
        self._check_url = check_url
        self._inputs = inputs
        self._problems: list[Problem] = []

    def complete(self, config: Config) -> Config:
        """Raises ``BadConfig``."""
        url = config.store.url or default_store_url()
        if url is None:
            self._wrong(("store", "url"), f"{NO_HOME}; set it")
        for index, node in enumerate(config.nodes):
            if node.proxy is None and (problem := _environment_proxy_problem(node.url)):
                self._wrong(("nodes", index, "url"), problem)
        for path, channel in _channels(config):
            if isinstance(channel.url, InlineSecret) and (problem := self._check_url(channel.url.value)):
                self._wrong((*path, "url"), problem)
        texts = self._templates(config.templates)
        self._names_are_unique(config)
        self._templates_are_known(config, texts)
        self._names_are_known(config)
        if config.route is not None:
            self._root(config.route)
        if self._problems:
            raise BadConfig(sorted(self._problems, key=lambda problem: problem.line or 0))
        return replace(
            config,
            store=replace(config.store, url=url or ""),
            route=config.route and build_tree(_with_group_by(config.route), self._lines),
            template_texts=texts,
            source=str(self._path),
            lines=self._lines,
        )

    def _wrong(self, path: Path_, message: str) -> None:
        self._problems.append(Problem(message, str(self._path), line_of(path, self._lines), dotted(path)))

    def _root(self, root: Route) -> None:
        if not root.receiver:
            self._wrong(("route",), "the root route needs a receiver")
        if root.matchers:
            self._wrong(("route", "matchers"), "the root route catches everything and may not have matchers")
        if root.continues:
            self._wrong(("route", "continue"), "the root route has no next one; continue belongs to its routes")
        if root.mute_time_intervals or root.active_time_intervals:
            self._wrong(("route",), "the root route may not have mute or active time intervals")

    def _templates(self, patterns: Iterable[str]) -> dict[str, str]:
        texts: dict[str, str] = {}
        for index, pattern in enumerate(patterns):
            place = ("templates", index)
            try:
                files = self._inputs.match(self._path.absolute().parent / pattern)
                if not files:
                    self._wrong(place, f"no file matches {pattern!r}")
                for file in files:
                    if not file.is_file():  # a pipe or device could be read for ever
                        self._wrong(place, f"a template is a file, and {str(file)!r} is none")
                        continue
                    texts[file.name] = self._inputs.read(file)
            except TooMuch as error:
                self._wrong(place, str(error))
            except (OSError, UnicodeDecodeError) as error:
                self._wrong(place, f"a template cannot be read: {error}")
        return texts

    def _names_are_unique(self, config: Config) -> None:
        for path, kind, names in (
            (("nodes",), "", [node.name for node in config.nodes]),
            (("receivers",), "", [receiver.name for receiver in config.receivers]),
            (("receivers",), "channel ", [channel.name for _, channel in _channels(config)]),
            (("reporters",), "", [reporter.name for reporter in config.reporters]),
            (("time_intervals",), "", [interval.name for interval in config.time_intervals]),
        ):
            for name, count in Counter(names).items():
                if count > 1:
                    self._wrong(path, f"the {kind}name {name!r} stands {count} times; names are unique")

    def _templates_are_known(self, config: Config, texts: Iterable[str]) -> None:
        """A template of one word is a name; a misspelt one would be sent as the message."""
        known = {*(name.value for name in MessageFormat), *texts}
        users: list[tuple[Path_, Reporter | Channel]] = [
            *((("reporters", index), reporter) for index, reporter in enumerate(config.reporters)),
            *_channels(config),
        ]
        for path, user in users:
            if (name := user.template) is not None and name not in known and _A_NAME.fullmatch(name):
                self._wrong((*path, "template"), f"no template is named {name!r}{did_you_mean(name, known)}")

    def _names_are_known(self, config: Config) -> None:
        receivers = {receiver.name for receiver in config.receivers}
        intervals = {interval.name for interval in config.time_intervals}

        def check(kind: str, path: Path_, name: str, known: set[str]) -> None:
            if name not in known:
                self._wrong(path, f"no {kind} is named {name!r}{did_you_mean(name, known)}")

        def check_route(route: Route, path: Path_) -> None:
            if route.receiver:
                check("receiver", (*path, "receiver"), route.receiver, receivers)
            for key in ("mute_time_intervals", "active_time_intervals"):
                for index, name in enumerate(getattr(route, key)):
                    check("time interval", (*path, key, index), name, intervals)
            for index, child in enumerate(route.routes):
                check_route(child, (*path, "routes", index))

        for index, reporter in enumerate(config.reporters):
            check("receiver", ("reporters", index, "receiver"), reporter.receiver, receivers)
        if config.dss_reporters.mode != "off":
            check("receiver", ("dss_reporters", "receiver"), config.dss_reporters.receiver or "", receivers)
        if config.route is not None:
            check_route(config.route, ("route",))


def _channels(config: Config) -> Iterator[tuple[Path_, Channel]]:
    for number, receiver in enumerate(config.receivers):
        for index, channel in enumerate(receiver.channels):
            yield ("receivers", number, "channels", index), channel


def _with_group_by(root: Route) -> Route:
    return replace(root, group_by=DEFAULT_GROUP_BY) if root.group_by is ABSENT else root


def _environment_proxy_problem(url: str) -> str | None:
    """What is wrong with the proxy that the environment names for this address. The message does not repeat it, since it
    may hold a password."""
    parts = urlsplit(url.strip())
    proxy = environment_proxy(parts.scheme, parts.hostname or "", parts.port)
    if proxy is None:
        return None
    try:
        http_url(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:
        variable = f"{parts.scheme.upper()}_PROXY or ALL_PROXY"
        return (
            f"{variable} names no http or https proxy; correct it, name the host in NO_PROXY, or set the node's proxy"
        )
    return None


def from_environment(check_url: Check = unchecked) -> Config:
    """A configuration from ``TOCSIN_DSS_URL``, ``TOCSIN_DSS_API_KEY[_FILE]`` and ``TOCSIN_NOTIFY`` alone.

    Further variables: ``TOCSIN_STORE_URL``, ``TOCSIN_HTTP_LISTEN``, ``TOCSIN_EXTERNAL_URL``, ``TOCSIN_LOG_LEVEL``.
    The node is named by its host; a daemon asks the node for its own name.
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
    document = {
        "nodes": [{"name": urlsplit(url).hostname, "url": url, "api_key": "set above"}],
        "http": {
            "listen": os.environ.get("TOCSIN_HTTP_LISTEN", "127.0.0.1:8080"),
            "external_url": os.environ.get("TOCSIN_EXTERNAL_URL") or None,
        },
        "log": {"level": os.environ.get("TOCSIN_LOG_LEVEL", "info").lower()},
    }
    try:
        config = CONFIG_ADAPTER.validate_python(document)
    except ValidationError as error:
        bad = BadConfig(problems_of(error, json_schema, "environment", {}))
        raise without_secrets(bad, {"url": os.environ.get("TOCSIN_EXTERNAL_URL", "")}, Path()) from None
    return replace(
        config,
        nodes=(replace(config.nodes[0], api_key=key),),
        store=StoreConfig(store_url),
        receivers=(Receiver("default", tuple(channels)),),
        route=build_tree(_with_group_by(Route("default"))),
    )


def api_key_from_environment() -> Secret | None:
    """From ``TOCSIN_DSS_API_KEY`` or ``TOCSIN_DSS_API_KEY_FILE``; None if neither is set."""
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
    """``TOCSIN_CONFIG``, where no ``--config`` was given."""
    value = os.environ.get("TOCSIN_CONFIG")
    return Path(value) if value else None
