"""The configuration: every key of the file with its type, its default and, in the comment, its meaning.

The JSON Schema beside the reference file and docs/configuration.md are generated from here. ``load`` does what needs
the whole file.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

from tocsin.config.intervals import (
    Ranges,
    TimeInterval,
    check_location,
    on_weekday,
    parse_days,
    parse_time_of_day,
    parse_times_of_day,
    wall_time,
)
from tocsin.config.problems import line_of
from tocsin.config.secrets import InlineSecret, Secret
from tocsin.config.section import Section, http_url, keys_of_secret, need_secret
from tocsin.model.event import Event, EventName, event_labels, labels_of_tags
from tocsin.model.labels import Labels, Matcher, Op, compiled, glob_pattern, matchers_text, parse_matchers

if TYPE_CHECKING:  # annotations are evaluated when the first file is read: ``schema`` makes these names known
    from pydantic import AfterValidator, Field

    from tocsin.config.values import (
        Addresses,
        Duration,
        DurationOrCount,
        HeaderName,
        HeaderValue,
        HttpUrl,
        InlineText,
        LabelName,
        Listen,
        Matchers,
        Name,
        Network,
        NoKey,
        OrNull,
        PlainUrl,
        PositiveDuration,
        ProxyUrl,
        Rate,
        RelativePath,
        Seconds,
        SecretFile,
        SecretVariable,
        Written,
        not_empty,
    )

NATIVE_KINDS: Final = ("slack", "pagerduty", "opsgenie")
# Labels that Tocsin sets, on alerts, events and the series about nodes and scenarios.
_OF_ALERTS: Final = frozenset({"alertname", "severity", "dss_node", "project", "scenario", "scenario_name", "tags"})
_RESERVED: Final = _OF_ALERTS | {"event", "outcome", "trigger_type", "run_as", "receiver", "channel", "type", "version",
                                 "node_type"}  # fmt: skip
_ABOUT_NODES: Final = frozenset({"NodeDown", "NodeSchedulerStalled", "ChannelFailing", "CommonCause"})
ABSENT: Final[Any] = None  # the default of a value that is filled in after validation, from elsewhere in the file


class MessageFormat(StrEnum):
    """The built-in formats of messages; each is the name of a template too."""

    TEXT = "text"
    MARKDOWN = "markdown"
    SLACK = "slack"
    MAIL = "mail"


@dataclass(frozen=True, slots=True)
class Tls(Section):
    verify: bool = True  # false takes any certificate: for a test
    ca_file: RelativePath | None = None  # authorities to trust in place of the built-in ones
    client_cert_file: RelativePath | None = None  # a certificate to show
    client_key_file: RelativePath | None = None  # its key, where the certificate file does not hold it

    def check(self, written: Mapping[str, object]) -> Tls:
        if self.client_key_file and not self.client_cert_file:
            raise ValueError("client_key_file is set without client_cert_file")
        return self


@dataclass(frozen=True, slots=True)
class ProjectScope(Section):
    include: tuple[str, ...] = ("*",)  # globs on keys or ids
    exclude: tuple[str, ...] = ()  # globs that take out again


@dataclass(frozen=True, slots=True)
class ScenarioScope(Section):
    include: tuple[str, ...] = ("*",)  # globs on keys or ids
    exclude: tuple[str, ...] = ()  # globs that take out again
    tags: tuple[str, ...] = ()  # where given, a scenario needs one of them


@dataclass(frozen=True, slots=True)
class Backfill(Section):
    max_age: PositiveDuration = timedelta(days=7)  # how far back missed runs are read after a downtime
    notify_max_age: Duration = timedelta(hours=1)  # late events older than this notify in one summary only


@dataclass(frozen=True, slots=True)
class WatchConfig(Section):
    sweep_interval: PositiveDuration = timedelta(seconds=2)  # how often one request lists every running scenario
    discovery_interval: PositiveDuration = timedelta(minutes=5)  # projects and scenario lists, spread evenly
    max_poll_interval: PositiveDuration = timedelta(hours=1)  # the longest time between two polls of a quiet scenario
    max_requests_per_second: Annotated[float, Field(gt=0, le=1000)] = 5  # budget of the node, all requests together
    max_concurrency: Annotated[int, Field(ge=1, le=256)] = 8  # requests on their way at a time
    details_wait: Duration = timedelta(seconds=15)  # how long a message waits for the run's first error and steps
    backfill: Backfill = Backfill()


@dataclass(frozen=True, slots=True)
class Node(Section):
    """Exactly one of ``api_key`` and ``bearer`` is set."""

    name: Name  # the label `dss_node`; another name starts another history
    url: PlainUrl  # where DSS is; a proxy's path before DSS's own may follow
    labels: Mapping[LabelName, str] = field(default_factory=dict)  # on every event and alert of the node
    api_key: InlineText | None = None  # a key; what it may read is watched
    api_key_file: InitVar[SecretFile] = None
    api_key_env: InitVar[SecretVariable] = None
    bearer: InlineText | None = None  # a JWT instead of a key
    bearer_file: InitVar[SecretFile] = None
    bearer_env: InitVar[SecretVariable] = None
    sweep_api_key: InlineText | None = None  # an admin key for the sweep's one GET alone
    sweep_api_key_file: InitVar[SecretFile] = None
    sweep_api_key_env: InitVar[SecretVariable] = None
    headers: Mapping[HeaderName, HeaderValue] = field(default_factory=dict)  # sent with every request, for gateways
    proxy: ProxyUrl | None = None  # else HTTP(S)_PROXY and NO_PROXY count
    tls: Tls = Tls()
    projects: ProjectScope = ProjectScope()
    scenarios: ScenarioScope = ScenarioScope()
    watch: WatchConfig = WatchConfig()

    def check(self, written: Mapping[str, object]) -> Node:
        keys = keys_of_secret(written, "api_key", "bearer")
        if not keys:
            raise ValueError("has no credential; set api_key_file (or api_key, api_key_env, bearer_file)")
        if len(keys) > 1:
            raise ValueError(f"{' and '.join(keys)} are both set; keep one")
        _refuse_reserved("labels", self.labels)
        return self


def _refuse_reserved(key: str, labels: Iterable[str], reserved: frozenset[str] = _RESERVED) -> None:
    if taken := sorted(reserved.intersection(labels)):
        raise ValueError(f"{key} may not set {', '.join(taken)}; Tocsin sets {'them' if taken[1:] else 'it'}")


@dataclass(frozen=True, slots=True)
class SlackConfig(Section):
    channel: Name  # name or id of the channel; with an id a message whose answer was lost is found again
    token: InlineText | None = None  # of a bot with the scope chat:write
    token_file: InitVar[SecretFile] = None
    token_env: InitVar[SecretVariable] = None
    api_url: HttpUrl = "https://slack.com/api"  # where Slack's Web API is

    def check(self, written: Mapping[str, object]) -> SlackConfig:
        return need_secret(self, written, "token")


@dataclass(frozen=True, slots=True)
class PagerDutyConfig(Section):
    routing_key: InlineText | None = None  # of an Events API v2 integration
    routing_key_file: InitVar[SecretFile] = None
    routing_key_env: InitVar[SecretVariable] = None
    url: HttpUrl = "https://events.pagerduty.com/v2/enqueue"  # EU: https://events.eu.pagerduty.com/v2/enqueue

    def check(self, written: Mapping[str, object]) -> PagerDutyConfig:
        return need_secret(self, written, "routing_key")


@dataclass(frozen=True, slots=True)
class OpsgenieConfig(Section):
    api_key: InlineText | None = None  # of an API integration
    api_key_file: InitVar[SecretFile] = None
    api_key_env: InitVar[SecretVariable] = None
    url: HttpUrl = "https://api.opsgenie.com"  # EU: https://api.eu.opsgenie.com

    def check(self, written: Mapping[str, object]) -> OpsgenieConfig:
        return need_secret(self, written, "api_key")


@dataclass(frozen=True, slots=True)
class Channel(Section):
    """Exactly one of ``url``, for apprise, ``webhook``, ``slack``, ``pagerduty`` and ``opsgenie`` is set."""

    name: Annotated[Name, OrNull] = ABSENT  # unique over all receivers; by default `<receiver>/<scheme>`
    receiver: NoKey[str] = ""
    url: InlineText | None = None  # an apprise URL
    url_file: InitVar[SecretFile] = None
    url_env: InitVar[SecretVariable] = None
    webhook: InlineText | None = None  # native: CloudEvents, and Alertmanager's format for alerts
    webhook_file: InitVar[SecretFile] = None
    webhook_env: InitVar[SecretVariable] = None
    slack: SlackConfig | None = None  # native: one message for a group or a run, edited in place
    pagerduty: PagerDutyConfig | None = None  # native: one incident for a group of alerts
    opsgenie: OpsgenieConfig | None = None  # native: one alert for a group of alerts
    template: str | None = None  # text, markdown, slack, mail, or the name of a template file; by default by the scheme
    send_resolved: bool = True  # whether the end of an alert is notified
    resolve_what_was_sent: bool = False  # send an end once a mute is over, though Alertmanager drops it
    timeout: PositiveDuration = timedelta(seconds=30)  # a send that takes longer counts as unknown and is tried again
    rate: Rate | None = None  # sends a second or minute, as `1/s`; none: no limit
    max_age: PositiveDuration = timedelta(hours=24)  # an older undelivered notification becomes a dead letter
    workers: Annotated[int, Field(ge=1, le=4)] = 1  # 2 to 4 lose the order between groups, not within one
    hmac_secret: InlineText | None = None  # signs as Standard Webhooks describes
    hmac_secret_file: InitVar[SecretFile] = None
    hmac_secret_env: InitVar[SecretVariable] = None
    # sent with every webhook
    headers: Mapping[HeaderName, Annotated[Secret, Written(HeaderValue, InlineSecret)]] = field(default_factory=dict)
    proxy: ProxyUrl | None = None  # for this channel; else the environment counts
    tls: Tls = Tls()
    allow_private: bool = True  # false refuses private and loopback addresses

    def check(self, written: Mapping[str, object]) -> Channel:
        native = [name for name in NATIVE_KINDS if written.get(name) is not None]
        if len(keys_of_secret(written, "url", "webhook")) + len(native) != 1:
            raise ValueError(f"needs exactly one of url, webhook, {', '.join(NATIVE_KINDS)} (url_file, webhook_env…)")
        if native and (self.headers or self.hmac_secret or self.template):
            raise ValueError(f"headers, hmac_secret and template do not belong to {native[0]}")
        if isinstance(self.webhook, InlineSecret):
            http_url(self.webhook.value)
        if self.url and (self.headers or self.hmac_secret):
            raise ValueError("headers and hmac_secret belong to webhook; an apprise url carries its own headers")
        return self

    @property
    def kind(self) -> str:
        """The key that says where it sends: url, webhook, slack, pagerduty or opsgenie."""
        return next((name for name in ("webhook", *NATIVE_KINDS) if getattr(self, name) is not None), "url")

    @property
    def alerts_only(self) -> bool:
        """Whether it keeps incidents open and so cannot be told of single events."""
        return self.pagerduty is not None or self.opsgenie is not None

    @property
    def keeps_state(self) -> bool:
        """Whether it shows a group in one place, and so is told that somebody has it."""
        return self.alerts_only or self.slack is not None

    @property
    def scheme(self) -> str:
        """For the default name; a URL in a file or variable is not read for it."""
        if self.kind != "url":
            return self.kind
        scheme = re.match(r"([a-zA-Z0-9+.-]+)://", self.url.value) if isinstance(self.url, InlineSecret) else None
        return scheme[1].lower() if scheme else "url"


@dataclass(frozen=True, slots=True)
class Failover(Section):
    receiver: Name  # who hears it too
    after: PositiveDuration = timedelta(minutes=10)  # how long a notification may be pending; a dead one goes at once


@dataclass(frozen=True, slots=True)
class Receiver(Section):
    name: Name  # what routes and reporters name
    channels: tuple[Channel, ...] = ()
    failover: Failover | None = None  # who hears what its channels do not deliver

    def check(self, written: Mapping[str, object]) -> Receiver:
        unnamed: dict[str, int] = {}
        channels = []
        for channel in self.channels:
            if not (name := channel.name):
                name = f"{self.name}/{channel.scheme}"
                unnamed[name] = number = unnamed.get(name, 0) + 1
                name += f"-{number}" if number > 1 else ""
            channels.append(replace(channel, name=name, receiver=self.name))
        if self.failover is not None and self.failover.receiver == self.name:
            raise ValueError("failover names the receiver itself; name another one")
        return replace(self, channels=tuple(channels))


@dataclass(frozen=True, slots=True)
class ReporterMail(Section):
    sender: Annotated[str | None, Field(alias="from")] = None  # overrides the channel's From
    to: Addresses = ()  # overrides its recipients; one message to all
    cc: Addresses = ()  # copies
    bcc: Addresses = ()  # hidden copies
    variables: Mapping[str, str] = field(default_factory=dict)  # of this mail alone: ${mailVariables_NAME}


@dataclass(frozen=True, slots=True)
class Digest(Section):
    # times of the day, as `["08:30"]`
    at: Annotated[tuple[int, ...], Written(Annotated[tuple[str, ...], AfterValidator(not_empty)], parse_times_of_day)]
    # as `[monday:friday]`; every day
    days: Annotated[Ranges, Written(Annotated[tuple[str, ...], AfterValidator(not_empty)], parse_days)] = ((0, 6),)
    location: Annotated[str, AfterValidator(check_location)] | None = None  # a time zone; none: `timezone`

    def next_after(self, now: datetime, timezone: str) -> datetime:
        """The next of its moments, by the clocks of its location."""
        location = self.location or timezone
        today = now.astimezone(ZoneInfo(location)).date()
        days = [day for count in range(-1, 9) if on_weekday(self.days, day := today + timedelta(days=count))]
        return min(at for day in days for minute in self.at if (at := wall_time(day, minute, location)) > now)


@dataclass(frozen=True, slots=True)
class Reporter(Section):
    name: Name  # unique
    receiver: Name  # who is notified
    # events: run.started, run.finished, run.failed, run.aborted, node.down, node.up, reporter.failed
    on: Annotated[
        frozenset[EventName], Written(Annotated[tuple[EventName, ...], AfterValidator(not_empty)], frozenset)
    ] = frozenset({EventName.RUN_FINISHED, EventName.RUN_FAILED, EventName.RUN_ABORTED})
    match: Matchers = ()  # matchers on the labels of events
    condition: str | None = None  # DSS's run condition, as `outcome != 'SUCCESS'`
    attach: tuple[Literal["log"], ...] = ()  # `log` attaches the run's log
    subject: str | None = None  # DSS variables or Jinja2
    message: str | None = None  # the text, likewise
    template: str | None = None  # a template file instead
    mail: ReporterMail | None = None
    digest: Digest | None = None  # one summary at these times, instead of a message for each event

    def check(self, written: Mapping[str, object]) -> Reporter:
        strange = [key for key in ("attach", "subject", "message", "template") if self.digest and written.get(key)]
        if strange:
            raise ValueError(f"a digest does not read {', '.join(strange)}; it has a form of its own")
        return self


RuleKind = Literal["failed", "missed", "overlong", "stale", "deadline", "common_cause", "short", "node_down"]
_KIND_KEYS: Final = {
    "failed": {"after", "resolve_after", "outcomes", "flapping"},
    "missed": {"grace"},
    "overlong": {"times_usual", "at_least", "min_runs", "longer_than"},
    "stale": {"no_success_for"},
    "deadline": {"by", "from", "days", "location", "predict"},
    "common_cause": {"at_least", "within"},
    "short": {"below_usual", "min_runs"},
    "node_down": {"for"},
}


@dataclass(frozen=True, slots=True)
class Flapping(Section):
    changes: Annotated[int, Field(ge=2, le=100)] = 4  # so many turns between good and bad
    within: PositiveDuration = timedelta(hours=2)  # in this time
    steady: Annotated[int, Field(ge=1, le=1000)] = 3  # so many good runs in a row resolve it then


@dataclass(frozen=True, slots=True)
class Rule(Section):
    alert: Name  # the alert's name
    kind: RuleKind  # when it fires
    about_nodes: NoKey[bool] = True  # whether it may hold alerts about whole nodes: not in a file with a scope
    severity: Name = "warning"  # a label
    match: Matchers = ()  # matchers on the labels of scenario or node
    labels: Mapping[str, str] = field(default_factory=dict)  # further labels of the alert
    annotations: Mapping[str, str] = field(default_factory=dict)  # further texts of the alert; see docs/rules.md
    after: Annotated[int, Field(ge=1)] = 1  # failed: so many failures in a row fire
    resolve_after: Annotated[int, Field(ge=1)] = 1  # failed: so many good runs resolve it
    outcomes: Annotated[
        tuple[Literal["SUCCESS", "WARNING", "FAILED", "ABORTED", "UNKNOWN"], ...], AfterValidator(not_empty)
    ] = ("FAILED", "UNKNOWN")  # failed: what counts as a failure; UNKNOWN is a run that DSS lost
    # failed: one that turns so often says so once and goes on firing until it is steady; none: each turn is told
    flapping: Flapping | None = None
    grace: Duration = timedelta(minutes=10)  # missed: how late a start may be, beyond the 60 s that DSS waits
    times_usual: Annotated[float, Field(gt=1, le=1000)] | None = None  # overlong: so many times the usual duration
    # overlong: but no less than this; common_cause: so many scenarios, 5 unless it says otherwise
    at_least: DurationOrCount = timedelta(minutes=15)
    min_runs: Annotated[int, Field(ge=1, le=1000)] = 5  # overlong, short: so many runs define the usual duration
    below_usual: Annotated[float, Field(gt=0, lt=1)] | None = None  # short: less than so much of the usual duration
    longer_than: PositiveDuration | None = None  # overlong: a fixed bound instead, or beside
    no_success_for: PositiveDuration | None = None  # stale: the longest time without a good run
    by: Annotated[int, Written(str, parse_time_of_day)] | None = None  # deadline: when it must be done, as `"07:00"`
    # deadline: a run that ended before this time does not count; none: the deadline before
    from_: Annotated[Annotated[int, Written(str, parse_time_of_day)] | None, Field(alias="from")] = None
    # deadline: the days of `by`, as `[monday:friday]`; every day
    days: Annotated[Ranges, Written(Annotated[tuple[str, ...], AfterValidator(not_empty)], parse_days)] = ((0, 6),)
    location: Annotated[str, AfterValidator(check_location)] | None = None  # deadline: a time zone; none: `timezone`
    predict: bool = False  # deadline: fire as soon as usual durations say that it will be late
    within: PositiveDuration = timedelta(minutes=15)  # common_cause: the time in which they fail
    hold: Annotated[Duration, Field(alias="for")] = timedelta(minutes=2)  # node_down: how long it must be down

    def check(self, written: Mapping[str, object]) -> Rule:
        if strange := sorted(written.keys() & (set.union(*_KIND_KEYS.values()) - _KIND_KEYS[self.kind])):
            raise ValueError(f"a rule of kind {self.kind} does not read {', '.join(strange)}")
        if self.kind == "stale" and self.no_success_for is None:
            raise ValueError("a rule of kind stale needs no_success_for, as 26h")
        if self.kind == "overlong" and isinstance(self.at_least, int):
            raise ValueError("at_least of a rule of kind overlong is a duration, as 15m")
        if self.kind == "common_cause" and "at_least" in written and not isinstance(self.at_least, int):
            raise ValueError("at_least of a rule of kind common_cause is a number of scenarios, 2 or more")
        if self.kind == "short" and self.below_usual is None:
            raise ValueError("a rule of kind short needs below_usual, as 0.2")
        if self.kind == "deadline" and self.by is None:
            raise ValueError('a rule of kind deadline needs by, as "07:00"')
        if self.by is not None and self.from_ is not None and self.by in (self.from_, self.from_ % (24 * 60)):
            raise ValueError("from and by are the same time; leave from out, then the last deadline counts")
        if self.kind == "overlong" and self.times_usual is None and self.longer_than is None:
            raise ValueError("a rule of kind overlong needs times_usual or longer_than")
        _refuse_reserved("labels", self.labels, _OF_ALERTS)
        return self

    @property
    def identity(self) -> str:
        """Alert name, a digest of kind, matchers and the rule's own labels, severity."""
        text = f"{self.kind}|{matchers_text(self.match)}|{sorted(self.labels.items())!r}"
        digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
        return f"{self.alert}:{digest}:{self.severity}"

    @property
    def least_duration(self) -> timedelta:
        return timedelta(0) if isinstance(self.at_least, int) else self.at_least

    @property
    def least_scenarios(self) -> int:
        return self.at_least if isinstance(self.at_least, int) else 5


DEFAULT_RULES: Final[tuple[Rule, ...]] = (
    Rule("ScenarioFailed", "failed", flapping=Flapping()),
    Rule("ScenarioMissed", "missed"),
    Rule("ScenarioOverlong", "overlong", times_usual=3.0),
    Rule("CommonCause", "common_cause", at_least=5, severity="critical"),
    Rule("NodeDown", "node_down", severity="critical"),
)


@dataclass(frozen=True, slots=True)
class Escalation(Section):
    after: PositiveDuration  # how long an alert fires that nobody acknowledges
    receiver: Name  # who is notified then too, and of its end


@dataclass(frozen=True, slots=True)
class TagReceivers(Section):
    tag: Name  # the key of the tags: with `notify` the tag `notify:finance` names the receiver finance
    allow: Annotated[tuple[Name, ...], AfterValidator(not_empty)]  # the receivers that tags may name

    def check(self, written: Mapping[str, object]) -> TagReceivers:
        if ":" in self.tag or "," in self.tag or self.tag != self.tag.strip():
            raise ValueError(f"tag {self.tag!r} is no key of a tag; write what stands before the colon, as notify")
        return self

    def route(self, receiver: str) -> Route:
        """The route of the alerts whose scenarios have a tag that names this receiver."""
        pattern = rf".*,\s*{re.escape(self.tag)}\s*:\s*{re.escape(receiver)}\s*,.*"
        return Route(receiver, (Matcher("tags", Op.REGEX, pattern),), escalate=(), also=True)


@dataclass(frozen=True, slots=True)
class Route(Section):
    """``build_tree`` fills in what is inherited, the line, as ``path`` the matchers from the root to here, and as
    ``escalations`` a route for each step of ``escalate``, which waits for ``after`` as others do for ``group_wait``."""

    receiver: Annotated[Name, OrNull] = ABSENT  # who is notified; inherited
    matchers: Matchers = ()  # all must hold; none on the root
    continues: Annotated[bool, Field(alias="continue")] = False  # also try the routes that follow
    # labels that make a group; `['...']`: all. Root: `[alertname, dss_node, project]` (Alertmanager: none)
    group_by: Annotated[tuple[str, ...], OrNull] = ABSENT
    group_wait: Annotated[Duration, OrNull] = ABSENT  # how long a new group gathers. Root: 10s (Alertmanager: 30s)
    # the least time between two messages of a group that changed. Root: 5m
    group_interval: Annotated[PositiveDuration, OrNull] = ABSENT
    # the least time before an unchanged group is notified again. Root: 4h
    repeat_interval: Annotated[PositiveDuration, OrNull] = ABSENT
    mute_time_intervals: tuple[str, ...] = ()  # muted during these
    active_time_intervals: tuple[str, ...] = ()  # muted outside of these
    # who else is notified of what nobody acknowledges, as `[{after: 15m, receiver: oncall}]`; inherited. Root: `[]`
    escalate: Annotated[tuple[Escalation, ...], OrNull] = ABSENT
    digest: Digest | None = None  # one summary of all its alerts at these times, instead of a message for each group
    routes: tuple[Route, ...] = ()
    also: NoKey[bool] = False  # takes its alerts beside the routes that take them anyway
    escalates: NoKey[bool] = False  # is a step of another route's ``escalate``
    escalations: NoKey[tuple[Route, ...]] = ()
    path: NoKey[tuple[str, ...]] = ()
    line: NoKey[int | None] = None

    def check(self, written: Mapping[str, object]) -> Route:
        names = self.group_by or ()
        if "..." in names and len(names) > 1:
            raise ValueError("group_by: '...' stands for every label and must stand alone")
        if len(set(names)) < len(names):
            raise ValueError("group_by names a label twice")
        steps = [step.receiver for step in self.escalate or ()]
        if twice := sorted({name for name in steps if steps.count(name) > 1}):
            raise ValueError(f"escalate names receiver {twice[0]} twice; keep its first step")
        return self

    def first_flush(self, now: datetime, timezone: str) -> datetime:
        """When a group that begins at ``now`` is flushed first."""
        return now + self.group_wait if self.digest is None else self.digest.next_after(now, timezone)

    def next_flush(self, now: datetime, timezone: str) -> datetime:
        """When a group that is flushed at ``now`` is flushed again."""
        return now + self.group_interval if self.digest is None else self.digest.next_after(now, timezone)

    @property
    def group_by_all(self) -> bool:
        return self.group_by == ("...",)


_ROOT: Final = Route("", group_by=(), group_wait=timedelta(seconds=10), group_interval=timedelta(minutes=5),
                     repeat_interval=timedelta(hours=4), escalate=())  # fmt: skip


def build_tree(
    route: Route, lines: Mapping[tuple[str | int, ...], int] | None = None, parent: Route = _ROOT,
    place: tuple[str | int, ...] = ("route",),
) -> Route:  # fmt: skip
    """The tree with every inherited value filled in, as Alertmanager inherits them: time intervals are not. Raises
    ``ValueError`` if the root names no receiver."""
    names = ("receiver", "group_by", "group_wait", "group_interval", "repeat_interval", "escalate")
    inherited = {name: getattr(parent, name) for name in names if getattr(route, name) is None}
    path = (*parent.path, matchers_text(route.matchers))
    own = replace(route, **inherited, path=path, line=line_of(place, lines or {}))
    if not own.receiver:
        raise ValueError("the root route must name a receiver")
    escalations = (
        replace(
            own,
            receiver=step.receiver,
            group_wait=step.after,
            path=(*path, "escalate"),
            escalates=True,
            routes=(),
            digest=None,
        )
        for step in own.escalate
        if step.receiver != own.receiver  # a child that inherits both
    )
    own = replace(own, escalations=tuple(escalations))
    children = (build_tree(child, lines, own, (*place, "routes", index)) for index, child in enumerate(route.routes))
    return replace(own, routes=tuple(children))


@dataclass(frozen=True, slots=True)
class InhibitRule(Section):
    source_matchers: Annotated[Matchers, OrNull] = ()  # while such an alert fires
    target_matchers: Annotated[Matchers, OrNull] = ()  # such alerts are not notified
    equal: tuple[str, ...] = ()  # if these labels are equal on both
    # instead of all these: alerts of a scenario while one that it follows, directly or through others, has a firing alert
    upstream: bool = False

    def check(self, written: Mapping[str, object]) -> InhibitRule:
        others = [key for key in ("source_matchers", "target_matchers", "equal") if key in written]
        if self.upstream and others:
            raise ValueError(f"upstream stands alone; take {' and '.join(others)} out, or write a rule of their own")
        for key in () if self.upstream else ("source_matchers", "target_matchers"):
            if key not in written:
                raise ValueError(f"an inhibit rule needs {key}, or upstream: true alone")
        return self


DEFAULT_INHIBIT_RULES: Final[tuple[InhibitRule, ...]] = (
    InhibitRule(
        parse_matchers('alertname="NodeDown"'), parse_matchers('alertname=~"Scenario.*|CommonCause"'), ("dss_node",)
    ),
    InhibitRule(
        parse_matchers('severity="critical"'),
        parse_matchers('severity=~"warning|info"'),
        ("alertname", "dss_node", "project", "scenario"),
    ),
    InhibitRule(upstream=True),
)


@dataclass(frozen=True, slots=True)
class DssReportersConfig(Section):
    mode: Literal["off", "fallback", "mirror"] = "off"  # fallback sends what DSS failed to send, mirror all of it
    receiver: str | None = None  # whose mail channels send
    allow_recipients: tuple[str, ...] = ()  # globs on addresses; none: nothing is sent
    allow_senders: tuple[str, ...] = ()  # globs on addresses; none: nothing is sent


@dataclass(frozen=True, slots=True)
class StoreConfig(Section):
    # `sqlite:////path` or `postgresql://user@host/db`; none: in the state directory
    url: Annotated[str, OrNull] = ABSENT
    retention: PositiveDuration = timedelta(days=90)  # how long events, runs, alerts and deliveries are kept


@dataclass(frozen=True, slots=True)
class AuthProxy(Section):
    user_header: HeaderName = "X-Forwarded-User"  # names who asks
    groups_header: HeaderName = "X-Forwarded-Groups"  # their groups, between commas
    trusted: Annotated[tuple[Network, ...], AfterValidator(not_empty)] = ()  # only from these addresses headers count
    operator_groups: tuple[str, ...] = ()  # who is in one of them may change things; everybody else reads

    def check(self, written: Mapping[str, object]) -> AuthProxy:
        if not self.trusted:
            raise ValueError("needs trusted, the addresses of the proxy, as [10.0.0.0/8]")
        return self


@dataclass(frozen=True, slots=True)
class HttpConfig(Section):
    listen: Listen = "127.0.0.1:8080"  # host and port; a change needs a restart
    external_url: PlainUrl | None = None  # where people reach it; links in messages begin with it
    tokens_file: RelativePath | None = None  # viewer and operator tokens, by their digests
    auth_proxy: AuthProxy | None = None  # a proxy in front that logs people in and names them in headers
    hooks_secret: InlineText | None = None  # who knows it may call POST /hooks/dss/NODE; none: 403
    hooks_secret_file: InitVar[SecretFile] = None
    hooks_secret_env: InitVar[SecretVariable] = None


@dataclass(frozen=True, slots=True)
class HeartbeatConfig(Section):
    # a GET after each healthy cycle, for a dead man's switch
    url: Annotated[Secret, Written(HttpUrl, InlineSecret)] | None = None
    url_file: InitVar[SecretFile] = None
    url_env: InitVar[SecretVariable] = None
    interval: PositiveDuration = timedelta(minutes=1)  # how often


@dataclass(frozen=True, slots=True)
class AlertmanagerConfig(Section):
    url: PlainUrl  # without /api/v2
    bearer: InlineText | None = None  # a token, where one is asked for
    bearer_file: InitVar[SecretFile] = None
    bearer_env: InitVar[SecretVariable] = None
    proxy: ProxyUrl | None = None  # else the environment counts
    tls: Tls = Tls()


@dataclass(frozen=True, slots=True)
class AlertingConfig(Section):
    alertmanagers: tuple[
        AlertmanagerConfig, ...
    ] = ()  # every alert goes to all of these too; `route` may be absent then
    resend_delay: PositiveDuration = timedelta(minutes=1)  # how often a firing alert is sent again

    def check(self, written: Mapping[str, object]) -> AlertingConfig:
        urls = [peer.url for peer in self.alertmanagers]
        if twice := sorted({url for url in urls if urls.count(url) > 1}):
            raise ValueError(f"{twice[0]} stands twice")
        return self


Level = Literal["debug", "info", "warning", "error"]
Package = Literal["app", "config", "decide", "deliver", "metrics", "store", "watch", "web"]


@dataclass(frozen=True, slots=True)
class LogConfig(Section):
    level: Level = "info"  # of all packages
    format: Literal["auto", "console", "json"] = "auto"  # auto: console on a terminal, else json
    # of single packages, as `{watch: debug}`
    levels: Annotated[Mapping[str, str], Written(dict[Package, Level])] = field(default_factory=dict)


# Seconds, 1 s to 24 h: the bounds of the duration histogram unless the configuration names others.
DURATION_BUCKETS: Final[tuple[float, ...]] = (
    1, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200, 14_400, 28_800, 43_200, 86_400,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MetricsConfig(Section):
    max_scenarios: Annotated[int, Field(ge=0)] = 10_000  # beyond it the newest scenarios have no series of their own
    # upper bounds of the duration histogram, 1s to 1d; a change begins it anew
    duration_buckets: Annotated[tuple[Seconds, ...], Field(max_length=40)] | None = None

    def check(self, written: Mapping[str, object]) -> MetricsConfig:
        if any(low >= high for low, high in itertools.pairwise(self.duration_buckets or ())):
            raise ValueError("duration_buckets must grow from one to the next")
        return self

    @property
    def duration_bounds(self) -> tuple[float, ...]:
        """Upper bounds in seconds, ascending, without +Inf."""
        return tuple(sorted(self.duration_buckets or ())) or DURATION_BUCKETS


@dataclass(frozen=True, slots=True)
class FileScope(Section):
    projects: Annotated[tuple[Name, ...], AfterValidator(not_empty)]  # globs on project keys

    @property
    def matchers(self) -> tuple[Matcher, ...]:
        """What narrows to these projects. Raises ``BadMatcher``."""
        pattern = "|".join(map(glob_pattern, self.projects))
        if len(self.projects) == 1 and pattern == re.escape(self.projects[0]):
            return (Matcher("project", Op.EQUAL, self.projects[0]),)
        of_nodes = compiled(pattern).search("") is not None  # the alerts of nodes have no project, whatever the glob
        return Matcher("project", Op.REGEX, pattern), *([Matcher("project", Op.NOT_EQUAL, "")] if of_nodes else [])


@dataclass(frozen=True, slots=True)
class IncludedFile(Section):
    """What it holds is added to the lists of the configuration that includes it."""

    scope: FileScope | None = None  # where given, all that the file holds is about these projects alone
    receivers: tuple[Receiver, ...] = ()
    reporters: tuple[Reporter, ...] = ()
    rules: tuple[Rule, ...] = ()
    routes: tuple[Route, ...] = ()  # children of the root, after its own
    inhibit_rules: tuple[InhibitRule, ...] = ()
    time_intervals: tuple[TimeInterval, ...] = ()

    def check(self, written: Mapping[str, object]) -> IncludedFile:
        """With the matchers of the scope on everything that has matchers."""
        if self.scope is None:
            if "scope" in written:
                raise ValueError("scope is empty; name its projects, or leave the key out")
            return self
        narrowing = self.scope.matchers
        for rule in self.rules:
            if rule.kind in ("node_down", "common_cause"):
                raise ValueError(
                    f"rule {rule.alert} is about nodes, and scope allows projects only; move it to another file"
                )
            if rule.alert in _ABOUT_NODES:
                raise ValueError(f"rule {rule.alert}: this name is that of alerts about nodes, which quiet others")
        return replace(
            self,
            reporters=tuple(replace(item, match=item.match + narrowing) for item in self.reporters),
            rules=tuple(replace(item, match=item.match + narrowing, about_nodes=False) for item in self.rules),
            routes=tuple(replace(item, matchers=item.matchers + narrowing) for item in self.routes),
            inhibit_rules=tuple(
                replace(
                    item,
                    source_matchers=item.source_matchers + narrowing,
                    target_matchers=item.target_matchers + narrowing,
                )
                for item in self.inhibit_rules
            ),
        )


@dataclass(frozen=True, slots=True)
class Config(Section):
    """The whole file: all that a reload replaces at once, and what only a start reads (``store``, ``http.listen``)."""

    nodes: Annotated[tuple[Node, ...], AfterValidator(not_empty)]
    store: StoreConfig = StoreConfig()
    http: HttpConfig = HttpConfig()
    heartbeat: HeartbeatConfig = HeartbeatConfig()
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = MetricsConfig()
    alerting: AlertingConfig = AlertingConfig()
    receivers: tuple[Receiver, ...] = ()
    reporters: tuple[Reporter, ...] = ()
    dss_reporters: DssReportersConfig = DssReportersConfig()
    rules: Annotated[tuple[Rule, ...], OrNull] = field(default_factory=lambda: DEFAULT_RULES)
    route: Route | None = None
    inhibit_rules: Annotated[tuple[InhibitRule, ...], OrNull] = field(default_factory=lambda: DEFAULT_INHIBIT_RULES)
    time_intervals: tuple[TimeInterval, ...] = ()
    # globs on files that hold more receivers, reporters, rules, routes, inhibit_rules and time_intervals
    include: tuple[str, ...] = ()
    tag_receivers: TagReceivers | None = None  # scenario tags that name a further receiver of their alerts
    templates: tuple[str, ...] = ()  # globs on Jinja2 files, relative to this file
    # keys of scenario tags: with `[team]` the tag `team:finance` is the label team="finance" on its events and alerts
    tag_labels: tuple[LabelName, ...] = ()
    timezone: Annotated[str, AfterValidator(check_location)] = "UTC"  # of times in messages, as `Europe/Paris`
    template_texts: NoKey[Mapping[str, str]] = field(default_factory=dict)  # of the files, by their names
    loaded_at: NoKey[datetime | None] = None
    source: NoKey[str | None] = None  # the file it was read from
    lines: NoKey[Mapping[tuple[str | int, ...], int]] = field(default_factory=dict, compare=False, repr=False)

    def check(self, written: Mapping[str, object]) -> Config:
        _refuse_reserved("tag_labels", self.tag_labels)
        return self

    def extra_labels(self, node: str, tags: Iterable[str]) -> Labels:
        """The labels that this configuration adds to events and alerts of a node, or of a scenario with these tags."""
        known = self.node(node)
        labels = known.labels if known else {}
        return {**labels, **labels_of_tags(tags, self.tag_labels)} if self.tag_labels else labels

    @property
    def added_labels(self) -> set[str]:
        """The names of the labels that ``extra_labels`` can give."""
        return {*self.tag_labels, *(name for node in self.nodes for name in node.labels)}

    def event_labels(self, event: Event) -> Labels:
        """All labels of an event."""
        return event_labels(event, self.extra_labels(event.node, event.scenario.tags if event.scenario else ()))

    def node(self, name: str) -> Node | None:
        return next((node for node in self.nodes if node.name == name), None)

    def receiver(self, name: str) -> Receiver | None:
        return next((receiver for receiver in self.receivers if receiver.name == name), None)

    def channels(self) -> Mapping[str, Channel]:
        return {channel.name: channel for receiver in self.receivers for channel in receiver.channels}
