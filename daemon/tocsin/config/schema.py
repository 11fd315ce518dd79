"""The configuration file as it is written: every key, its type and its default.

The JSON Schema beside the reference file is generated from here. Each model knows how to become its part of the
frozen ``Config``; what needs the whole file (defaults, names that point elsewhere) is left to ``load``.
"""

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tocsin.config import intervals
from tocsin.config import model as c
from tocsin.config.fields import (
    Duration,
    Headers,
    HttpUrl,
    Listen,
    Matchers,
    Name,
    PlainUrl,
    PositiveDuration,
    ProxyUrl,
    Rate,
    Severity,
    http_url,
    not_empty,
)
from tocsin.config.intervals import Range
from tocsin.config.routes import RouteSpec
from tocsin.config.secrets import EnvSecret, FileSecret, InlineSecret
from tocsin.model.event import EventName

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Made = TypeVar("Made", bound="DataclassInstance")


class Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=False, hide_input_in_errors=True, allow_inf_nan=False
    )

    def secret(self, name: str, base: Path) -> c.Secret | None:
        """The secret ``name`` from whichever of its three keys is set."""
        inline, file, env = (getattr(self, name + suffix) for suffix in ("", "_file", "_env"))
        if inline is not None:
            return InlineSecret(inline)
        if file is not None:
            return FileSecret(base / file)
        return None if env is None else EnvSecret(env)

    def made(self, kind: type[Made], base: Path, **given: object) -> Made:
        """A ``kind`` from the fields of the same names, secrets from whichever of their keys is set."""
        known = type(self).model_fields
        own = [field.name for field in fields(kind) if field.name in known and field.name not in given]
        values = {n: self.secret(n, base) if f"{n}_file" in known else getattr(self, n) for n in own}
        return kind(**values, **given)

    def written(self, name: str) -> list[str]:
        """Which of the three keys of a secret are set."""
        return [name + suffix for suffix in ("", "_file", "_env") if getattr(self, name + suffix) is not None]


class SecretsModel(Model):
    """A model that checks that each of its secrets is written in one way only."""

    @model_validator(mode="after")
    def _one_way_each(self) -> "SecretsModel":
        for name in type(self).model_fields:
            if name + "_file" in type(self).model_fields and len(ways := self.written(name)) > 1:
                raise ValueError(f"{' and '.join(ways)} are both set; keep one")
        return self


class Tls(Model):
    verify: bool = True  # false takes any certificate: for a test
    ca_file: str | None = None  # authorities to trust in place of the built-in ones
    client_cert_file: str | None = None  # a certificate to show
    client_key_file: str | None = None  # its key, where the certificate file does not hold it

    @model_validator(mode="after")
    def _key_needs_certificate(self) -> "Tls":
        if self.client_key_file and not self.client_cert_file:
            raise ValueError("client_key_file is set without client_cert_file")
        return self

    def build(self, base: Path) -> c.Tls:
        def place(file: str | None) -> str | None:
            return None if file is None else str(base / file)

        return c.Tls(self.verify, place(self.ca_file), place(self.client_cert_file), place(self.client_key_file))


class ProjectScope(Model):
    include: tuple[str, ...] = ("*",)  # globs on keys or ids
    exclude: tuple[str, ...] = ()  # globs that take out again


class ScenarioScope(ProjectScope):
    tags: tuple[str, ...] = ()  # where given, a scenario needs one of them


class Backfill(Model):
    max_age: PositiveDuration = timedelta(days=7)  # how far back missed runs are read after a downtime
    notify_max_age: Duration = timedelta(hours=1)  # late events older than this notify in one summary only


class Watch(Model):
    sweep_interval: PositiveDuration = timedelta(seconds=2)  # one request tells everything that runs now
    discovery_interval: PositiveDuration = timedelta(minutes=5)  # projects and scenario lists, spread evenly
    max_poll_interval: PositiveDuration = timedelta(hours=1)  # the longest time between two polls of a quiet scenario
    max_requests_per_second: Annotated[float, Field(gt=0, le=1000)] = 5  # budget of the node, all requests together
    max_concurrency: Annotated[int, Field(ge=1, le=256)] = 8  # requests on their way at a time
    details_wait: Duration = timedelta(seconds=15)  # how long a message waits for the run's first error and steps
    backfill: Backfill = Backfill()

    def build(self, base: Path) -> c.Watch:
        return self.made(c.Watch, base, backfill=self.backfill.made(c.Backfill, base))


class Node(SecretsModel):
    name: Name  # the label `dss_node`; another name starts another history
    url: PlainUrl  # where DSS is; a proxy's path before DSS's own may follow
    api_key: str | None = None  # a key; what it may read is watched
    api_key_file: str | None = None
    api_key_env: str | None = None
    bearer: str | None = None  # a JWT instead of a key
    bearer_file: str | None = None
    bearer_env: str | None = None
    sweep_api_key: str | None = None  # an admin key for the sweep's one GET alone
    sweep_api_key_file: str | None = None
    sweep_api_key_env: str | None = None
    headers: Headers = {}  # sent with every request, for gateways
    proxy: ProxyUrl | None = None  # else HTTP(S)_PROXY and NO_PROXY count
    tls: Tls = Tls()
    projects: ProjectScope = ProjectScope()
    scenarios: ScenarioScope = ScenarioScope()
    watch: Watch = Watch()

    @model_validator(mode="after")
    def _one_credential(self) -> "Node":
        ways = self.written("api_key") + self.written("bearer")
        if not ways:
            raise ValueError("has no credential; set api_key_file (or api_key, api_key_env, bearer_file)")
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} are both set; keep one")
        return self

    def build(self, base: Path) -> c.Node:
        return self.made(
            c.Node,
            base,
            tls=self.tls.build(base),
            projects=self.projects.made(c.Scope, base),
            scenarios=self.scenarios.made(c.Scope, base),
            watch=self.watch.build(base),
        )


class Channel(SecretsModel):
    name: Name | None = None  # unique over all receivers; by default `<receiver>/<scheme>`
    url: str | None = None  # an apprise URL
    url_file: str | None = None
    url_env: str | None = None
    webhook: str | None = None  # native: CloudEvents, and Alertmanager's format for alerts
    webhook_file: str | None = None
    webhook_env: str | None = None
    template: str | None = None  # text, markdown, slack, mail, or the name of a template file; by default by the scheme
    send_resolved: bool = True  # whether the end of an alert is told
    resolve_what_was_sent: bool = False  # send an end once a mute is over, though Alertmanager drops it
    timeout: PositiveDuration = timedelta(seconds=30)  # a send that takes longer counts as unknown and is tried again
    rate: Rate | None = None  # sends a second or minute, as `1/s`; none: no limit
    max_age: PositiveDuration = timedelta(hours=24)  # an older undelivered notification becomes a dead letter
    workers: Annotated[int, Field(ge=1, le=4)] = 1  # 2 to 4 lose the order between groups, not within one
    hmac_secret: str | None = None  # signs as Standard Webhooks describes
    hmac_secret_file: str | None = None
    hmac_secret_env: str | None = None
    headers: Headers = {}  # sent with every webhook
    proxy: ProxyUrl | None = None  # for this channel; else the environment counts
    tls: Tls = Tls()
    allow_private: bool = True  # false refuses private and loopback addresses

    @model_validator(mode="after")
    def _one_address(self) -> "Channel":
        ways = self.written("url") + self.written("webhook")
        if len(ways) != 1:
            raise ValueError("needs exactly one of url, url_file, url_env, webhook, webhook_file and webhook_env")
        if self.webhook is not None:
            http_url(self.webhook)
        if self.written("url") and (self.headers or self.written("hmac_secret")):
            raise ValueError("headers and hmac_secret belong to webhook; an apprise url carries its own headers")
        return self

    @property
    def scheme(self) -> str:
        """What the default name says; a URL behind a file or variable is not read for it."""
        if self.written("webhook"):
            return "webhook"
        found = re.match(r"([a-zA-Z0-9+.-]+)://", self.url or "")
        return found[1].lower() if found else "url"

    def build(self, name: str, receiver: str, base: Path) -> c.Channel:
        headers = {key: InlineSecret(value) for key, value in self.headers.items()}
        return self.made(c.Channel, base, name=name, receiver=receiver, headers=headers, tls=self.tls.build(base))


class Receiver(Model):
    name: Name  # what routes and reporters name
    channels: tuple[Channel, ...] = ()


def _addresses(value: object) -> object:
    return [value] if isinstance(value, str) else value  # each may be a list; commas may stand in names


Addresses = Annotated[tuple[str, ...], BeforeValidator(_addresses)]


class Mail(Model):
    sender: Annotated[str | None, Field(alias="from")] = None  # overrides the channel's From
    to: Addresses = ()  # overrides its recipients; one message to all
    cc: Addresses = ()  # copies
    bcc: Addresses = ()  # hidden copies
    variables: dict[str, str] = {}  # of this mail alone: ${mailVariables_NAME}


class Reporter(Model):
    name: Name  # unique
    receiver: Name  # who is told
    on: Annotated[tuple[EventName, ...], AfterValidator(not_empty)] = (
        EventName.RUN_FINISHED,
        EventName.RUN_FAILED,
        EventName.RUN_ABORTED,
    )  # events: run.started, run.finished, run.failed, run.aborted, node.down, node.up, reporter.failed
    match: Matchers = ()  # matchers on the labels of events
    condition: str | None = None  # DSS's run condition, as `outcome != 'SUCCESS'`
    attach: tuple[Literal["log"], ...] = ()  # `log` attaches the run's log
    subject: str | None = None  # DSS variables or Jinja2
    message: str | None = None  # the text, likewise
    template: str | None = None  # a template file instead
    mail: Mail | None = None

    def build(self, base: Path) -> c.Reporter:
        mail = None if self.mail is None else self.mail.made(c.ReporterMail, base)
        return self.made(c.Reporter, base, on=frozenset(self.on), mail=mail)


_KIND_KEYS = {
    "failed": {"after", "resolve_after", "outcomes"},
    "missed": {"grace"},
    "overlong": {"times_usual", "at_least", "min_runs", "longer_than"},
    "stale": {"no_success_for"},
    "node_down": {"hold"},
}
_RESERVED_LABELS = frozenset({"alertname", "severity", "dss_node", "project", "scenario", "tags"})


class Rule(Model):
    alert: Name  # the alert's name
    kind: c.RuleKind  # what rings
    severity: Severity = "warning"  # a label
    match: Matchers = ()  # matchers on the labels of scenario or node
    labels: dict[str, str] = {}  # further labels of the alert
    annotations: dict[str, str] = {}  # further texts of the alert; see docs/rules.md
    after: Annotated[int, Field(ge=1)] = 1  # failed: so many failures in a row ring
    resolve_after: Annotated[int, Field(ge=1)] = 1  # failed: so many good runs end it
    outcomes: Annotated[
        tuple[Literal["SUCCESS", "WARNING", "FAILED", "ABORTED", "UNKNOWN"], ...], AfterValidator(not_empty)
    ] = ("FAILED", "UNKNOWN")  # failed: what counts as a failure; UNKNOWN is a run that DSS lost
    grace: Duration = timedelta(minutes=10)  # missed: how late a start may be, beyond the 60 s that DSS waits
    times_usual: Annotated[float, Field(gt=1, le=1000)] | None = None  # overlong: so many times the usual duration
    at_least: Duration = timedelta(minutes=15)  # overlong: but no less than this
    min_runs: Annotated[int, Field(ge=1, le=1000)] = 5  # overlong: so many runs tell what is usual
    longer_than: PositiveDuration | None = None  # overlong: a fixed bound instead, or beside
    no_success_for: PositiveDuration | None = None  # stale: the longest time without a good run
    hold: Annotated[Duration, Field(alias="for")] = timedelta(minutes=2)  # node_down: how long it must be down

    @model_validator(mode="after")
    def _keys_fit_the_kind(self) -> "Rule":
        strange = self.model_fields_set & (set.union(*_KIND_KEYS.values()) - _KIND_KEYS[self.kind])
        if strange:
            words = sorted("for" if name == "hold" else name for name in strange)
            raise ValueError(f"a rule of kind {self.kind} does not read {', '.join(words)}")
        if self.kind == "stale" and self.no_success_for is None:
            raise ValueError("a rule of kind stale needs no_success_for, as 26h")
        if self.kind == "overlong" and self.times_usual is None and self.longer_than is None:
            raise ValueError("a rule of kind overlong needs times_usual or longer_than")
        reserved = sorted(_RESERVED_LABELS & self.labels.keys())
        if reserved:
            raise ValueError(f"labels may not set {', '.join(reserved)}; Tocsin sets them")
        return self


class Route(Model):
    receiver: Name | None = None  # who is told; inherited
    matchers: Matchers = ()  # all must hold; none on the root
    continues: Annotated[bool, Field(alias="continue")] = False  # also try the routes that follow
    # labels that make a group; `['...']`: all. Root: `[alertname, dss_node, project]` (Alertmanager: none)
    group_by: tuple[str, ...] | None = None
    group_wait: Duration | None = None  # how long a new group gathers. Root: 10s (Alertmanager: 30s)
    # the least time between two messages of a group that changed. Root: 5m
    group_interval: PositiveDuration | None = None
    # the least time before an unchanged group is told again. Root: 4h
    repeat_interval: PositiveDuration | None = None
    mute_time_intervals: tuple[str, ...] = ()  # silent during these
    active_time_intervals: tuple[str, ...] = ()  # silent outside of these
    routes: tuple["Route", ...] = ()

    @model_validator(mode="after")
    def _all_or_named(self) -> "Route":
        names = self.group_by or ()
        if "..." in names and len(names) > 1:
            raise ValueError("group_by: '...' stands for every label and must stand alone")
        if len(set(names)) < len(names):
            raise ValueError("group_by names a label twice")
        return self

    def spec(self, routes: tuple[RouteSpec, ...], line: int | None) -> RouteSpec:
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "routes"}
        return RouteSpec(**values, routes=routes, line=line)


class InhibitRule(Model):
    source_matchers: Matchers  # while such an alert rings
    target_matchers: Matchers  # such alerts are not told
    equal: tuple[str, ...] = ()  # if these labels are the same on both


class TimeOfDay(Model):
    start_time: str  # as `18:00`
    end_time: str  # as `24:00`


class Times(Model):
    times: tuple[TimeOfDay, ...] | None = None
    weekdays: tuple[str, ...] | None = None  # as `monday:friday`
    days_of_month: tuple[str, ...] | None = None  # as `1:5`, `-1` is the last
    months: tuple[str, ...] | None = None  # as `1:3` or `january:march`
    years: tuple[str, ...] | None = None  # as `2026:2027`
    location: str = "UTC"  # a time zone, as `Europe/Paris`

    @model_validator(mode="before")
    @classmethod
    def _numbers_as_text(cls, value: object) -> object:
        """``months: [5]`` and ``days_of_month: [1]`` are numbers in YAML."""
        if not isinstance(value, dict):
            return value
        return {
            key: [str(item) if isinstance(item, int) else item for item in items]
            if key in ("days_of_month", "months", "years") and isinstance(items, list)
            else items
            for key, items in value.items()
        }

    @model_validator(mode="after")
    def _readable(self) -> "Times":
        self.build()
        return self

    def build(self) -> c.Times:
        def ranges(words: tuple[str, ...] | None, parse: Callable[[str], Range]) -> tuple[Range, ...] | None:
            return None if words is None else tuple(map(parse, words))

        return c.Times(
            times=None
            if self.times is None
            else tuple(intervals.parse_time_range(time.start_time, time.end_time) for time in self.times),
            weekdays=ranges(self.weekdays, intervals.parse_weekdays),
            days_of_month=ranges(self.days_of_month, intervals.parse_days_of_month),
            months=ranges(self.months, intervals.parse_months),
            years=ranges(self.years, intervals.parse_years),
            location=intervals.check_location(self.location),
        )


class TimeInterval(Model):
    name: Name  # what routes name
    time_intervals: tuple[Times, ...]


class DssReporters(Model):
    mode: Literal["off", "fallback", "mirror"] = "off"  # fallback sends what DSS failed to send, mirror all of it
    receiver: str | None = None  # whose mail channels send
    allow_recipients: tuple[str, ...] = ()  # globs on addresses; none: nothing is sent
    allow_senders: tuple[str, ...] = ()  # globs on addresses; none: nothing is sent


class Store(Model):
    url: str | None = None  # `sqlite:////path` or `postgresql://user@host/db`; none: in the state directory
    retention: PositiveDuration = timedelta(days=90)  # how long events, runs, alerts and deliveries are kept


class Http(SecretsModel):
    listen: Listen = "127.0.0.1:8080"  # host and port; a change needs a restart
    external_url: PlainUrl | None = None  # where people reach it; links in messages begin with it
    tokens_file: str | None = None  # viewer and operator tokens, by their digests
    hooks_secret: str | None = None  # who knows it may call POST /hooks/dss/NODE; none: 403
    hooks_secret_file: str | None = None
    hooks_secret_env: str | None = None

    def build(self, base: Path) -> c.Http:
        return self.made(c.Http, base, tokens_file=None if self.tokens_file is None else str(base / self.tokens_file))


class Heartbeat(SecretsModel):
    url: HttpUrl | None = None  # a GET after each healthy cycle, for a dead man's switch
    url_file: str | None = None
    url_env: str | None = None
    interval: PositiveDuration = timedelta(minutes=1)  # how often


Level = Literal["debug", "info", "warning", "error"]
Package = Literal["app", "decide", "deliver", "metrics", "store", "watch", "web"]


class Log(Model):
    level: Level = "info"  # of all packages
    format: Literal["auto", "console", "json"] = "auto"  # auto: console on a terminal, else json
    levels: dict[Package, Level] = {}  # of single packages, as `{watch: debug}`


class Metrics(Model):
    max_scenarios: Annotated[int, Field(ge=0)] = 10_000  # beyond it the newest scenarios have no series of their own
    # upper bounds of the duration histogram, 1s to 1d; a change begins it anew
    duration_buckets: Annotated[tuple[PositiveDuration, ...], Field(max_length=40)] | None = None

    @model_validator(mode="after")
    def _ascending(self) -> "Metrics":
        buckets = self.duration_buckets or ()
        if any(low >= high for low, high in itertools.pairwise(buckets)):
            raise ValueError("duration_buckets must grow from one to the next")
        return self


class File(Model):
    """The whole file."""

    nodes: Annotated[tuple[Node, ...], AfterValidator(not_empty)]
    store: Store = Store()
    http: Http = Http()
    heartbeat: Heartbeat = Heartbeat()
    log: Log = Log()
    metrics: Metrics = Metrics()
    receivers: tuple[Receiver, ...] = ()
    reporters: tuple[Reporter, ...] = ()
    dss_reporters: DssReporters = DssReporters()
    rules: tuple[Rule, ...] | None = None
    route: Route | None = None
    inhibit_rules: tuple[InhibitRule, ...] | None = None
    time_intervals: tuple[TimeInterval, ...] = ()
    templates: tuple[str, ...] = ()  # globs on Jinja2 files, relative to this file


def json_schema() -> str:
    """The JSON Schema of the file, as text, for editors."""
    schema = File.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Tocsin configuration"
    return json.dumps(schema, indent=2, default=str) + "\n"
