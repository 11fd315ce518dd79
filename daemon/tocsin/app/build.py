"""The composition root: every part of the daemon is made here, in one straight line, and nowhere else.

Long-lived parts (store, listener, registry, stages) are made once; what depends on the configuration asks ``live`` for
it at each step, so that a reload is one swapped reference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from random import Random

import structlog
from prometheus_client import CollectorRegistry

from tocsin import __version__
from tocsin.app.leader import Leader
from tocsin.app.reload import ConfigSource, Live
from tocsin.app.stages import Stages
from tocsin.app.status import Status
from tocsin.app.watchers import Watchers
from tocsin.config.load import process_name
from tocsin.config.model import Config, Node
from tocsin.decide.decide import DecideMetrics, Decider, resolve_by_hand
from tocsin.decide.explain import explain, explain_alert
from tocsin.deliver.connect import connector
from tocsin.deliver.heartbeat import Heartbeat
from tocsin.deliver.metrics import DeliverMetrics
from tocsin.deliver.sender import Sender
from tocsin.kit.clock import Clock
from tocsin.kit.tasks import RootTasks
from tocsin.metrics import Exposition, ProcessMetrics
from tocsin.model.event import Event
from tocsin.model.mail_reporter import MailReporter
from tocsin.model.run import DetailsLevel, ScenarioKey
from tocsin.routing import dss_reporters as mirror
from tocsin.routing.reporters import wants_details
from tocsin.store import Store, deliveries
from tocsin.store.story import AlertStory, RunStory
from tocsin.store.writer import Leadership
from tocsin.watch.metrics import WatchMetrics
from tocsin.watch.node import NodeWatcher
from tocsin.web import Listener, WebContext, listen, make_app

log = structlog.get_logger("tocsin.app.build")
USER_AGENT = f"tocsin/{__version__}"


def build(source: ConfigSource, config: Config, clock: Clock, slack_url: str | None = None) -> "Daemon":
    """All parts, wired; nothing is opened or started yet. ``slack_url`` stands in for Slack's own, for a local inbox."""
    registry = CollectorRegistry()
    app_metrics, decide_metrics = ProcessMetrics(registry), DecideMetrics(registry)
    watch_metrics, deliver_metrics = WatchMetrics(registry), DeliverMetrics(registry)
    live = Live(source, config, clock)
    store = Store(config.store.url)
    tasks = RootTasks()
    exposition = Exposition(registry)
    heartbeat = Heartbeat()
    stages = Stages(store, live, clock, app_metrics)
    sender = Sender(
        store,
        holder=process_name(),
        clock=clock,
        metrics=deliver_metrics,
        random=Random(),
        connect=connector(clock, slack_url=slack_url),
        ring=stages.deliver_bell.ring,
    )

    asked: tuple[Config, Callable[[Event], DetailsLevel]] | None = None

    def wanted(event: Event, dss_reporters: tuple[MailReporter, ...]) -> DetailsLevel:
        nonlocal asked
        config = live()
        if asked is None or asked[0] is not config:
            asked = config, wants_details(config.reporters, config.channels(), config.templates)
        return max(mirror.wants_details(config.dss_reporters, event, dss_reporters), asked[1](event))

    async def lead(leadership: Leadership) -> None:
        def watcher(node: Node, config: Config) -> NodeWatcher:
            return NodeWatcher(
                node,
                store=store,
                leadership=leadership,
                clock=clock,
                ring=stages.decide_bell.ring,
                metrics=watch_metrics,
                wants_details=wanted,
                wants_mail_reporters=lambda: live().dss_reporters.mode != "off",
                user_agent=USER_AGENT,
                duration_buckets=config.duration_bounds,
                details_read=stages.deliver_bell.ring,
            )

        decider = Decider(store, leadership, decide_metrics, stages.deliver_bell.ring)
        await stages.lead(leadership, watchers.run(watcher), decider, heartbeat)

    def led(leading: bool) -> None:
        app_metrics.leader.set(leading)
        if not leading:
            exposition.forget()

    def reconfigured() -> None:
        app_metrics.reloaded(live.last.ok, live.last.at)
        watchers.reconfigured()
        stages.decide_bell.ring()
        stages.deliver_bell.ring()

    watchers = Watchers(live)
    leader = Leader(store, process_name(), clock, lead, led)
    live.on_change(reconfigured)
    app_metrics.reloaded(True, clock.now())
    app_metrics.store_up.set_function(lambda: store.unavailable is None)
    app_metrics.show_set_aside(store.set_aside.counts)
    status = Status(clock.now(), store, live, leader, watchers, sender)
    daemon = Daemon(live, clock, store, tasks, leader, sender, exposition, stages)
    daemon.context = WebContext(
        store=store,
        config=live,
        clock=clock,
        exposition=exposition,
        alive=lambda: tasks.alive() | {"store writer": store.alive},
        loop_turned_at=lambda: stages.turned_at,
        ready=daemon.why_not_ready,
        status=status,
        reload=live.reload,
        nudge=lambda node, project, scenario: watchers.nudge(node, project, scenario),
        resolve_alert=daemon.resolve_alert,
        retry_delivery=daemon.retry_delivery,
        explain=daemon.explain,
        explain_alert=daemon.explain_alert,
    )
    return daemon


@dataclass(slots=True)
class Daemon:
    """One process's parts, wired. ``open``, ``listen``, ``start``; then ``stop`` once."""

    live: Live
    clock: Clock
    store: Store
    tasks: RootTasks
    leader: Leader
    sender: Sender
    exposition: Exposition
    stages: Stages
    context: WebContext | None = None
    listener: Listener | None = None
    stopping: bool = False
    url: str = ""

    async def listen(self) -> None:
        """Begin to answer HTTP. Raises ``OSError`` when the address cannot be had."""
        assert self.context is not None
        address = self.live().http.listen
        self.listener = await listen(make_app(self.context), address)
        host = address.rpartition(":")[0]
        self.url = f"http://{'127.0.0.1' if host in ('', '0.0.0.0', '[::]') else host}:{self.listener.port}"

    def start(self) -> None:
        """Start the root tasks."""
        self.tasks.spawn("store", self.store.watch())
        self.tasks.spawn("leader", self.leader.run())
        self.tasks.spawn("deliver", self.stages.deliver(self.sender))
        self.tasks.spawn("metrics", self.stages.refresh(self.exposition, self.leader))
        self.tasks.spawn("loop lag", self.stages.turn())
        self.tasks.spawn("follow configuration", self.live.follow())

    async def stop(self, grace: timedelta) -> None:
        """Watch and decide no more, finish sends within ``grace``, close listener and store, in that order."""
        self.stopping = True
        leadership = self.leader.leadership
        await self.tasks.stop("leader")
        await self.tasks.stop("deliver")
        await self.sender.close(grace)
        await self.tasks.stop_all()
        if leadership is not None:
            await self.leader.release(leadership)
        if self.listener is not None:
            await self.listener.close()
        self.exposition.close()
        await self.store.close()

    def why_not_ready(self) -> str | None:
        if self.stopping:
            return "stopping"
        unavailable = self.store.unavailable
        return None if unavailable is None else f"the store cannot be used: {unavailable}"

    async def resolve_alert(self, alert_id: str, by: str) -> bool:
        ended = await self.store.write(resolve_by_hand, alert_id, self.clock.now(), self.live())
        if ended is None:
            return False
        log.info("alert_resolved_by_hand", alert=alert_id, alertname=ended.name, by=by)
        self.stages.decide_bell.ring()
        return True

    async def explain(self, scenario: ScenarioKey, run_id: str) -> RunStory | None:
        return await self.store.browse(explain, scenario, run_id, self.live())

    async def explain_alert(self, id_: str) -> AlertStory | None:
        return await self.store.browse(explain_alert, id_, self.live(), self.clock.now())

    async def retry_delivery(self, notification_id: str) -> bool:
        done = await self.store.write(deliveries.retry, [notification_id], self.clock.now())
        self.stages.deliver_bell.ring()
        return bool(done)
