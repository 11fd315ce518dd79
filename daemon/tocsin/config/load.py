"""From the file, or from three environment variables, to one frozen ``Config``.

What points from one part of the file to another is checked here: receivers, intervals, templates, names that stand
twice. Everything that is wrong is told at once.
"""

import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from tocsin.config import model as c
from tocsin.config import schema
from tocsin.config.defaults import DEFAULT_INHIBIT_RULES, DEFAULT_RULES
from tocsin.config.fields import http_url, plain_url
from tocsin.config.inputs import Inputs, TooMuch
from tocsin.config.problems import BadConfig, Lines, Path_, Problem, dotted, explain, line_of, without_secrets
from tocsin.config.routes import RouteSpec, build_tree
from tocsin.config.secrets import EnvSecret, FileSecret, InlineSecret
from tocsin.config.yaml_file import read_yaml
from tocsin.kit.proxy import environment_proxy
from tocsin.kit.spelling import did_you_mean

_A_NAME = re.compile(r"[\w./-]+")
NO_HOME = "this user has no home directory for a store (neither HOME nor XDG_STATE_HOME is set)"
DEFAULT_GROUP_BY = ("alertname", "dss_node", "project")


Check = Callable[[str], str | None]
"""What is wrong with the URL of a channel. Asking apprise loads it, half a second: who sends nothing does without."""


def unchecked(_url: str) -> None:
    """The ``Check`` of who asks apprise nothing."""


def load_file(path: Path, check_url: Check = unchecked, inputs: Inputs | None = None) -> c.Config:
    """The configuration in a YAML file. Raises ``BadConfig`` with every problem that was found. ``inputs`` remembers
    what was read."""
    inputs = inputs or Inputs()
    document, lines = read_yaml(path, inputs)
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise BadConfig([Problem("must be a mapping of keys to values", str(path), 1)])
    try:
        return _Builder(path, lines, check_url, inputs).build(schema.File.model_validate(document))
    except ValidationError as error:
        bad = BadConfig(explain(error, schema.File, str(path), lines))
    except BadConfig as error:
        bad = error
    raise without_secrets(bad, document, path.absolute().parent) from None


class _Builder:
    """Builds the parts of one file and gathers what is wrong with them."""

    def __init__(self, path: Path, lines: Lines, check_url: Check, inputs: Inputs) -> None:
        self._path = path
        self._base = path.absolute().parent
        self._lines = lines
        self._check_url = check_url
        self._inputs = inputs
        self._problems: list[Problem] = []

    def build(self, file: schema.File) -> c.Config:
        base, receivers = self._base, self._receivers(file.receivers)
        intervals = {interval.name for interval in file.time_intervals}
        rules = DEFAULT_RULES if file.rules is None else tuple(rule.made(c.Rule, base) for rule in file.rules)
        config = c.Config(
            nodes=tuple(node.build(base) for node in file.nodes),
            store=file.store.made(c.StoreConfig, base, url=file.store.url or self._default_store_url()),
            http=file.http.build(base),
            heartbeat=file.heartbeat.made(c.Heartbeat, base),
            log_level=file.log.level,
            log_format=file.log.format,
            log_levels={str(package): level for package, level in file.log.levels.items()},
            max_scenarios=file.metrics.max_scenarios,
            duration_buckets=tuple(bucket.total_seconds() for bucket in file.metrics.duration_buckets or ()),
            receivers=receivers,
            reporters=tuple(reporter.build(base) for reporter in file.reporters),
            dss_reporters=file.dss_reporters.made(c.DssReporters, base),
            rules=rules,
            route=self._root(file.route),
            inhibit_rules=DEFAULT_INHIBIT_RULES
            if file.inhibit_rules is None
            else tuple(rule.made(c.InhibitRule, base) for rule in file.inhibit_rules),
            time_intervals=tuple(
                c.TimeInterval(interval.name, tuple(times.build() for times in interval.time_intervals))
                for interval in file.time_intervals
            ),
            templates=self._templates(file.templates),
            source=str(self._path),
            lines=self._lines,
        )
        for number, node in enumerate(config.nodes):
            if node.proxy is None and (trouble := _environment_proxy_trouble(node.url)):
                self._wrong(("nodes", number, "url"), trouble)
        self._names_are_unique(config)
        self._templates_are_known(config)
        self._names_are_known(file, {receiver.name for receiver in receivers}, intervals)
        if self._problems:
            raise BadConfig(sorted(self._problems, key=lambda problem: problem.line or 0))
        return config

    def _default_store_url(self) -> str:
        url = default_store_url()
        if url is None:
            self._wrong(("store", "url"), f"{NO_HOME}; set it")
        return url or ""

    def _wrong(self, path: Path_, message: str) -> None:
        self._problems.append(Problem(message, str(self._path), line_of(path, self._lines), dotted(path)))

    def _receivers(self, written: Sequence[schema.Receiver]) -> tuple[c.Receiver, ...]:
        receivers = []
        for number, receiver in enumerate(written):
            taken: Counter[str] = Counter()
            channels = []
            for index, channel in enumerate(receiver.channels):
                default = f"{receiver.name}/{channel.scheme}"
                if channel.name is None:
                    taken[default] += 1
                    default += f"-{taken[default]}" if taken[default] > 1 else ""
                if channel.url is not None and (trouble := self._check_url(channel.url)):
                    self._wrong(("receivers", number, "channels", index, "url"), trouble)
                channels.append(channel.build(channel.name or default, receiver.name, self._base))
            receivers.append(c.Receiver(receiver.name, tuple(channels)))
        return tuple(receivers)

    def _root(self, root: schema.Route | None) -> c.Route | None:
        if root is None:
            return None
        if root.receiver is None:
            self._wrong(("route",), "the root route needs a receiver")
        if root.matchers:
            self._wrong(("route", "matchers"), "the root route catches everything and may not have matchers")
        if root.continues:
            self._wrong(("route", "continue"), "the root route has no next one; continue belongs to its routes")
        if root.mute_time_intervals or root.active_time_intervals:
            self._wrong(("route",), "the root route may not have mute or active time intervals")
        if root.receiver is None:
            return None
        spec = self._spec(root, ("route",))
        return build_tree(spec if spec.group_by is not None else replace(spec, group_by=DEFAULT_GROUP_BY))

    def _spec(self, written: schema.Route, path: Path_) -> RouteSpec:
        children = tuple(self._spec(child, (*path, "routes", i)) for i, child in enumerate(written.routes))
        return written.spec(children, line_of(path, self._lines))

    def _templates(self, patterns: Iterable[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for index, pattern in enumerate(patterns):
            place = ("templates", index)
            try:
                files = self._inputs.match(self._base / pattern)
                if not files:
                    self._wrong(place, f"no file matches {pattern!r}")
                for file in files:
                    if not file.is_file():  # a pipe or device could be read for ever
                        self._wrong(place, f"a template is a file, and {str(file)!r} is none")
                        continue
                    found[file.name] = self._inputs.read(file)
            except TooMuch as error:
                self._wrong(place, str(error))
            except (OSError, UnicodeDecodeError) as error:
                self._wrong(place, f"a template cannot be read: {error}")
        return found

    def _names_are_unique(self, config: c.Config) -> None:
        channels = [channel.name for receiver in config.receivers for channel in receiver.channels]
        for path, names in (
            (("nodes",), [node.name for node in config.nodes]),
            (("receivers",), [receiver.name for receiver in config.receivers]),
            (("receivers",), channels),
            (("reporters",), [reporter.name for reporter in config.reporters]),
            (("time_intervals",), [interval.name for interval in config.time_intervals]),
        ):
            for name, count in Counter(names).items():
                if count > 1:
                    kind = "channel " if names is channels else ""
                    self._wrong(path, f"the {kind}name {name!r} stands {count} times; names are unique")

    def _templates_are_known(self, config: c.Config) -> None:
        """A template that is a mere word is a name; a misspelt one would be sent as the message."""
        known = {*(kind.value for kind in c.Kind), *config.templates}
        named: list[tuple[Path_, str | None]] = [
            (("reporters", index, "template"), reporter.template) for index, reporter in enumerate(config.reporters)
        ]
        for number, receiver in enumerate(config.receivers):
            for index, channel in enumerate(receiver.channels):
                named.append((("receivers", number, "channels", index, "template"), channel.template))
        for path, name in named:
            if name is not None and name not in known and _A_NAME.fullmatch(name):
                self._wrong(path, f"no template is named {name!r}{did_you_mean(name, known)}")

    def _names_are_known(self, file: schema.File, receivers: set[str], intervals: set[str]) -> None:
        for index, reporter in enumerate(file.reporters):
            self._receiver_is_known(("reporters", index, "receiver"), reporter.receiver, receivers)
        if file.dss_reporters.mode != "off":
            self._receiver_is_known(("dss_reporters", "receiver"), file.dss_reporters.receiver or "", receivers)
        if file.route is not None:
            self._route_names(file.route, ("route",), receivers, intervals)

    def _route_names(self, route: schema.Route, path: Path_, receivers: set[str], intervals: set[str]) -> None:
        if route.receiver is not None:
            self._receiver_is_known((*path, "receiver"), route.receiver, receivers)
        for key in ("mute_time_intervals", "active_time_intervals"):
            for index, name in enumerate(getattr(route, key)):
                if name not in intervals:
                    self._wrong(
                        (*path, key, index), f"no time interval is named {name!r}{did_you_mean(name, intervals)}"
                    )
        for index, child in enumerate(route.routes):
            self._route_names(child, (*path, "routes", index), receivers, intervals)

    def _receiver_is_known(self, path: Path_, name: str, known: set[str]) -> None:
        if name not in known:
            self._wrong(path, f"no receiver is named {name!r}{did_you_mean(name, known)}")


def _environment_proxy_trouble(url: str) -> str | None:
    """What is wrong with the proxy that the environment names for this address, without its words: it may hold a
    password."""
    parts = urlsplit(url.strip())
    proxy = environment_proxy(parts.scheme, parts.hostname or "", parts.port)
    if proxy is None:
        return None
    try:
        http_url(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:
        variable = f"{parts.scheme.upper()}_PROXY or ALL_PROXY"
        return f"{variable} names no http or https proxy; mend it, name the host in NO_PROXY, or set the node's proxy"
    return None


def from_environment(check_url: Check = unchecked) -> c.Config:
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
            if trouble := _environment_proxy_trouble(url):
                problems.append(Problem(f"TOCSIN_DSS_URL: {trouble}"))
        except ValueError as error:
            bad = without_secrets(BadConfig([Problem(f"TOCSIN_DSS_URL: {error}")]), {"url": url}, Path())
            problems += bad.problems
    if (key := api_key_from_environment()) is None:
        problems.append(Problem("TOCSIN_DSS_API_KEY (or TOCSIN_DSS_API_KEY_FILE) is not set"))
    channels = []
    for number, address in enumerate(os.environ.get("TOCSIN_NOTIFY", "").split(), start=1):
        if trouble := check_url(address):
            problems.append(Problem(f"TOCSIN_NOTIFY: entry {number}: {trouble}"))
        channels.append(c.Channel(name=f"default/{number}", receiver="default", url=InlineSecret(address)))
    if (store_url := os.environ.get("TOCSIN_STORE_URL") or default_store_url()) is None:
        problems.append(Problem(f"TOCSIN_STORE_URL is not set and {NO_HOME}"))
    if problems or store_url is None:
        raise BadConfig(problems)
    try:
        written = schema.File.model_validate(
            {
                "nodes": [{"name": urlsplit(url).hostname, "url": url, "api_key": "set above"}],
                "http": {
                    "listen": os.environ.get("TOCSIN_HTTP_LISTEN", "127.0.0.1:8080"),
                    "external_url": os.environ.get("TOCSIN_EXTERNAL_URL") or None,
                },
                "log": {"level": os.environ.get("TOCSIN_LOG_LEVEL", "info").lower()},
            }
        )
    except ValidationError as error:
        bad = BadConfig(explain(error, schema.File, "environment", {}))
        raise without_secrets(bad, {"url": os.environ.get("TOCSIN_EXTERNAL_URL", "")}, Path()) from None
    node = replace(written.nodes[0].build(Path()), api_key=key)
    return c.Config(
        nodes=(node,),
        store=c.StoreConfig(store_url),
        http=c.Http(written.http.listen, written.http.external_url),
        log_level=written.log.level,
        receivers=(c.Receiver("default", tuple(channels)),),
        rules=DEFAULT_RULES,
        inhibit_rules=DEFAULT_INHIBIT_RULES,
        route=build_tree(RouteSpec("default", group_by=DEFAULT_GROUP_BY)),
    )


def api_key_from_environment() -> c.Secret | None:
    """What ``TOCSIN_DSS_API_KEY`` or ``TOCSIN_DSS_API_KEY_FILE`` says; None if neither is set."""
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


def process_name() -> str:
    """Who holds leases: host and process."""
    return f"{socket.gethostname()}/{os.getpid()}"
