"""The configuration as the stages read it: frozen, complete, with every default filled in.

The YAML file, its errors and its secrets are the business of the settings; here are only their results. Secrets come
as ``Secret``, which re-reads its source and never prints. Field names are those of the YAML.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, Protocol

from tocsin.model.event import EventName
from tocsin.model.labels import Matcher
from tocsin.model.run import BAD_OUTCOMES


class Kind(StrEnum):
    """The dialects that messages are written in."""

    TEXT = "text"
    MARKDOWN = "markdown"
    SLACK = "slack"
    MAIL = "mail"


class Secret(Protocol):
    """Something that must not be printed. ``str()`` of it is a mask."""

    def reveal(self) -> str:
        """The present value; a file is read again when it changed. For threads: it may wait for seconds.

        Raises ``OSError`` when it cannot be read, or not in time.
        """
        ...

    async def read(self) -> str:
        """As ``reveal``, for event loops."""
        ...


@dataclass(frozen=True, slots=True)
class Tls:
    verify: bool = True
    ca_file: str | None = None
    client_cert_file: str | None = None
    client_key_file: str | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """Globs on keys or ids, and tags of which a scenario must have one; no tags: all."""

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Backfill:
    max_age: timedelta = timedelta(days=7)
    notify_max_age: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Watch:
    """How a node is watched; see the configuration reference for the meaning of each."""

    sweep_interval: timedelta = timedelta(seconds=2)
    discovery_interval: timedelta = timedelta(minutes=5)
    max_poll_interval: timedelta = timedelta(hours=1)
    max_requests_per_second: float = 5.0
    max_concurrency: int = 8
    details_wait: timedelta = timedelta(seconds=15)
    backfill: Backfill = Backfill()


@dataclass(frozen=True, slots=True)
class Node:
    """One DSS node. Exactly one of ``api_key`` and ``bearer`` is set."""

    name: str
    url: str
    api_key: Secret | None = None
    bearer: Secret | None = None
    sweep_api_key: Secret | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    proxy: str | None = None
    tls: Tls = Tls()
    projects: Scope = Scope()
    scenarios: Scope = Scope()
    watch: Watch = Watch()


@dataclass(frozen=True, slots=True)
class Channel:
    """One apprise URL or one native webhook."""

    name: str
    receiver: str
    url: Secret | None = None  # apprise
    webhook: Secret | None = None  # native; exactly one of both is set
    template: str | None = None  # text, slack, mail, markdown, or the name of a template file; None: by scheme
    send_resolved: bool = True
    resolve_what_was_sent: bool = False
    timeout: timedelta = timedelta(seconds=30)
    rate: float | None = None  # sends a second; None: unlimited
    max_age: timedelta = timedelta(hours=24)
    workers: int = 1
    hmac_secret: Secret | None = None
    headers: Mapping[str, Secret] = field(default_factory=dict)
    proxy: str | None = None
    tls: Tls = Tls()
    allow_private: bool = True  # native webhooks: whether private and loopback addresses may be called


@dataclass(frozen=True, slots=True)
class Receiver:
    name: str
    channels: tuple[Channel, ...]


@dataclass(frozen=True, slots=True)
class ReporterMail:
    sender: str | None = None  # `from` in YAML
    to: tuple[str, ...] = ()
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)  # of this mail alone: ${mailVariables_NAME}


@dataclass(frozen=True, slots=True)
class Reporter:
    """Tell me every time X happens."""

    name: str
    receiver: str
    on: frozenset[EventName]
    match: tuple[Matcher, ...] = ()
    condition: str | None = None
    attach: tuple[str, ...] = ()
    subject: str | None = None
    message: str | None = None  # inline message, with DSS variables or Jinja2
    template: str | None = None
    mail: ReporterMail | None = None


RuleKind = Literal["failed", "missed", "overlong", "stale", "node_down"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; the fields that its kind does not read keep their defaults."""

    alert: str
    kind: RuleKind
    severity: str = "warning"
    match: tuple[Matcher, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)  # templates over the built-in ones
    after: int = 1  # failed
    resolve_after: int = 1
    outcomes: tuple[str, ...] = BAD_OUTCOMES
    grace: timedelta = timedelta(minutes=10)  # missed
    times_usual: float | None = None  # overlong
    at_least: timedelta = timedelta(minutes=15)
    min_runs: int = 5
    longer_than: timedelta | None = None
    no_success_for: timedelta | None = None  # stale
    hold: timedelta = timedelta(minutes=2)  # node_down; `for` in YAML


@dataclass(frozen=True, slots=True)
class Route:
    """A node of the routing tree with its inherited values filled in. ``path`` is the matchers from the root to here."""

    receiver: str
    matchers: tuple[Matcher, ...] = ()
    continues: bool = False  # `continue` in YAML
    group_by: tuple[str, ...] = ()
    group_by_all: bool = False  # '...'
    group_wait: timedelta = timedelta(seconds=10)
    group_interval: timedelta = timedelta(minutes=5)
    repeat_interval: timedelta = timedelta(hours=4)
    mute_time_intervals: tuple[str, ...] = ()
    active_time_intervals: tuple[str, ...] = ()
    routes: tuple["Route", ...] = ()
    path: tuple[str, ...] = ()
    line: int | None = None  # in the file, for messages


@dataclass(frozen=True, slots=True)
class InhibitRule:
    source_matchers: tuple[Matcher, ...]
    target_matchers: tuple[Matcher, ...]
    equal: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Times:
    """One entry of a time interval, as Alertmanager reads it; None means any. Ranges are inclusive but for minutes.

    ``weekdays``: 0 is Sunday. ``days_of_month``: negative ones count from the end. ``times``: minutes of the day, end
    exclusive.
    """

    times: tuple[tuple[int, int], ...] | None = None
    weekdays: tuple[tuple[int, int], ...] | None = None
    days_of_month: tuple[tuple[int, int], ...] | None = None
    months: tuple[tuple[int, int], ...] | None = None
    years: tuple[tuple[int, int], ...] | None = None
    location: str = "UTC"


@dataclass(frozen=True, slots=True)
class TimeInterval:
    name: str
    time_intervals: tuple[Times, ...]


@dataclass(frozen=True, slots=True)
class DssReporters:
    mode: Literal["off", "fallback", "mirror"] = "off"
    receiver: str | None = None
    allow_recipients: tuple[str, ...] = ()
    allow_senders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreConfig:
    url: str
    retention: timedelta = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Http:
    listen: str = "127.0.0.1:8080"
    external_url: str | None = None
    tokens_file: str | None = None
    hooks_secret: Secret | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    url: Secret | None = None
    interval: timedelta = timedelta(minutes=1)


# Seconds, 1 s to 24 h: the bounds of the duration histogram unless the configuration names others.
DURATION_BUCKETS: tuple[float, ...] = (
    1, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200, 14_400, 28_800, 43_200, 86_400,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that a reload replaces at once, and what only a start reads (``store``, ``http.listen``)."""

    nodes: tuple[Node, ...]
    store: StoreConfig
    http: Http = Http()
    heartbeat: Heartbeat = Heartbeat()
    log_level: str = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    log_levels: Mapping[str, str] = field(default_factory=dict)  # of packages, over log_level
    max_scenarios: int = 10_000
    duration_buckets: tuple[float, ...] = ()  # seconds; empty: the built-in ones
    receivers: tuple[Receiver, ...] = ()
    reporters: tuple[Reporter, ...] = ()
    dss_reporters: DssReporters = DssReporters()
    rules: tuple[Rule, ...] = ()
    route: Route | None = None
    inhibit_rules: tuple[InhibitRule, ...] = ()
    time_intervals: tuple[TimeInterval, ...] = ()
    templates: Mapping[str, str] = field(default_factory=dict)  # name → source text
    loaded_at: datetime | None = None
    source: str | None = None  # the file it was read from
    lines: Mapping[tuple[str | int, ...], int] = field(default_factory=dict, compare=False, repr=False)  # of its keys

    def node(self, name: str) -> Node | None:
        return next((node for node in self.nodes if node.name == name), None)

    def channels(self) -> Mapping[str, Channel]:
        """Every channel by its name; names are unique over all receivers."""
        return {channel.name: channel for receiver in self.receivers for channel in receiver.channels}

    @property
    def duration_bounds(self) -> tuple[float, ...]:
        """The upper bounds of the duration histogram in seconds, ascending, without +Inf."""
        return tuple(sorted(self.duration_buckets)) or DURATION_BUCKETS

    def receiver(self, name: str) -> Receiver | None:
        return next((receiver for receiver in self.receivers if receiver.name == name), None)
