"""Small things that delivery's tests are made of."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web

from tocsin.config.model import Channel, Config, HttpConfig, Node, Receiver, StoreConfig
from tocsin.kit.clock import to_ms
from tocsin.kit.strings import fresh_id
from tocsin.model.alert import Alert, EndReason, alert_id, fingerprint
from tocsin.model.event import Event, EventName, ScenarioFacts, end_event_name, run_event_id
from tocsin.model.notification import EventNotice, GroupNotice, Notice, Notification
from tocsin.model.run import Run, ScenarioKey

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = ScenarioKey("prod", "SALES", "NIGHTLY")


@dataclass(frozen=True)
class Plain:
    """A secret that tests can read."""

    value: str

    def reveal(self) -> str:
        return self.value

    async def read(self) -> str:
        return self.reveal()

    def __str__(self) -> str:
        return "***"


@dataclass
class HandClock:
    """A clock that goes only when told; ``monotonic`` follows."""

    at: datetime = NOW

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def forward(self, **by: float) -> datetime:
        self.at += timedelta(**by)
        return self.at


def config(*channels: Channel, external_url: str | None = "https://tocsin.example.com", **more: object) -> Config:
    receivers: dict[str, list[Channel]] = {}
    for channel in channels:
        receivers.setdefault(channel.receiver, []).append(channel)
    return Config(
        nodes=(Node("prod", "https://dss.example.com"),),
        store=StoreConfig("sqlite:////nowhere/tocsin.db"),
        http=HttpConfig(external_url=external_url),
        receivers=tuple(Receiver(name, tuple(mine)) for name, mine in receivers.items()),
        **{"rules": (), "inhibit_rules": ()} | more,  # type: ignore[arg-type]
    )


def hook(url: str, name: str = "ops/hook", **more: object) -> Channel:
    return Channel(name=name, receiver="ops", webhook=Plain(url), **({"timeout": timedelta(seconds=5)} | more))  # type: ignore[arg-type]


def run(number: int = 1, outcome: str | None = "FAILED", key: ScenarioKey = KEY) -> Run:
    start = NOW - timedelta(hours=1) + timedelta(seconds=number)
    end = start + timedelta(minutes=4, seconds=12) if outcome else None
    return Run(key, f"2026-03-01-12-00-{number:02}-000", start, end, outcome, "temporal", "Every night", None, "jane")


def event(number: int = 1, outcome: str | None = "FAILED", name: str = "Nightly load", key: ScenarioKey = KEY) -> Event:
    one = run(number, outcome, key)
    what = end_event_name(outcome) if outcome else EventName.RUN_STARTED
    return Event(
        id=run_event_id(one, what),
        name=what,
        node=key.node,
        time=one.end or one.start,
        detected_at=NOW,
        project=key.project,
        scenario=ScenarioFacts(key.scenario, name, ("daily",)),
        run=one,
        run_url="https://dss.example.com/projects/SALES/scenarios/NIGHTLY/runs/list/x",
        previous_outcome="SUCCESS",
    )


def alert(number: int = 1, *, ended: bool = False, **labels: str) -> Alert:
    all_labels = {
        "alertname": "ScenarioFailed",
        "severity": "warning",
        "dss_node": "prod",
        "project": "SALES",
        "scenario": f"S{number}",
    } | labels
    starts = NOW - timedelta(minutes=30)
    identity = fingerprint(
        all_labels["alertname"], all_labels["severity"], "prod", ScenarioKey("prod", "SALES", f"S{number}"), {}
    )
    return Alert(
        id=alert_id(identity, to_ms(starts)),
        fingerprint=identity,
        labels=all_labels,
        starts_at=starts,
        ends_at=NOW - timedelta(minutes=1) if ended else None,
        end_reason=EndReason.RESOLVED if ended else None,
        annotations={"summary": f"S{number} failed"},
    )


def group(*alerts: Alert, key: str = "{}:{project}", reason: str = "first") -> GroupNotice:
    return GroupNotice(key, "ops", {"project": "SALES"}, alerts, reason)


def owed(
    notice: Notice | None = None,
    channel: str = "ops/hook",
    ordering_key: str = "ordering_key",
    at: datetime = NOW,
    **more: object,
) -> Notification:
    return Notification(
        fresh_id(),
        "ops",
        channel,
        ordering_key,
        notice or EventNotice(event(), "nightly"),
        at,
        **({"due_at": at} | more),  # type: ignore[arg-type]
    )


@dataclass
class Received:
    """One request as the inbox saw it."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Inbox:
    """A real HTTP server that keeps what it gets; ``answer`` decides each reply."""

    received: list[Received] = field(default_factory=list)
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
    url: str = ""

    @property
    def ids(self) -> list[str]:
        return [one.id for one in self.received]

    async def start(self) -> web.AppRunner:
        app = web.Application(client_max_size=8_000_000)
        app.router.add_route("*", "/{path:.*}", self._take)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/hook"
        return runner

    async def _take(self, request: web.Request) -> web.StreamResponse:
        self.received.append(Received(request.path, dict(request.headers), await request.read()))
        return await self.answer(request) if self.answer else web.Response()


def sqlite_url(place: Path) -> str:
    return f"sqlite:///{place / 'tocsin.db'}"
