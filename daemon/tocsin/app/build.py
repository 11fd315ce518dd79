"""The composition root: every part of the daemon is made here and nowhere else.

What depends on the configuration asks the ``ConfigHolder`` at each step, so that a reload is one swapped reference.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from random import Random

import structlog
from prometheus_client import CollectorRegistry

from tocsin import __version__
from tocsin.app.leader import Leader
from tocsin.app.loops import Stages, Watchers
from tocsin.app.reload import ConfigHolder, ConfigSource
from tocsin.config.model import Config, Node
from tocsin.decide.decide import DecideMetrics, Decider, acknowledge, resolve_by_hand
from tocsin.decide.evaluate import CompiledConfig
from tocsin.decide.explain import explain_firing, explain_run
from tocsin.decide.external import PostedAlert, take_alerts
from tocsin.deliver.alertmanagers import AlertmanagerMetrics, AlertmanagerSender
from tocsin.deliver.heartbeat import HeartbeatSender
from tocsin.deliver.sender import DeliverMetrics, Sender
from tocsin.deliver.transport import connector
from tocsin.kit.clock import Clock, isoformat
from tocsin.kit.lines import write_lines
from tocsin.kit.tasks import RootTasks
from tocsin.metrics import Exposition, ProcessMetrics
from tocsin.model.alert import Acknowledgement
from tocsin.model.cloudevent import Json
from tocsin.routing.details import details_needed
from tocsin.store import Store, deliveries
from tocsin.store.writer import Leadership
from tocsin.watch.node import NodeSnapshot, NodeWatcher
from tocsin.watch.record import record_polls
from tocsin.watch.state import WatcherDeps, WatchMetrics
from tocsin.web import Listener, WebContext, listen, make_app

log = structlog.get_logger("tocsin.app.build")


class Daemon:
    """One process's parts, wired; nothing is opened or started yet. ``open`` the store, ``listen``, ``start``; then
    ``stop`` once."""

    def __init__(self, source: ConfigSource, config: Config, clock: Clock) -> None:
        registry = CollectorRegistry()
        self._process_metrics, self._decide_metrics = ProcessMetrics(registry), DecideMetrics(registry)
        self._watch_metrics = WatchMetrics(registry)
        self.clock = clock
        self.started_at = clock.now()
        self.config = ConfigHolder(source, config, clock)
        self.store = Store(config.store.url)
        self.tasks = RootTasks()
        self._decider: Decider | None = None  # while this process leads
        self.watchers = Watchers(self.config)
        self.stages = Stages(self.store, self.config, clock, self._process_metrics)
        holder = f"{socket.gethostname()}/{os.getpid()}"  # of leases
        self.leader = Leader(self.store, holder, clock, self._lead, self._on_leadership_change)
        self.sender = Sender(
            self.store,
            holder=holder,
            clock=clock,
            metrics=DeliverMetrics(registry),
            random=Random(),
            connect=connector(clock),
            wake=self.stages.wake_deliver.set,
        )
        self.exposition = Exposition(registry)
        self._heartbeat = HeartbeatSender()
        self._alertmanagers = AlertmanagerSender(self.store, clock, AlertmanagerMetrics(registry))
        self._listener: Listener | None = None
        self._compiled: CompiledConfig | None = None  # for alerts of others
        self._stopping = False
        self._apply_config()
        wake_ups = (self.watchers.reconfigure, self.stages.wake_decide.set, self.stages.wake_deliver.set)
        for listener in (self._apply_config, *wake_ups):
            self.config.on_change(listener)
        self._process_metrics.store_up.set_function(lambda: self.store.unavailable is None)
        self._process_metrics.show_set_aside(self.store.set_aside.counts)

    async def _lead(self, leadership: Leadership) -> None:
        wake, wake_sender = self.stages.wake_decide.set, self.stages.wake_deliver.set
        decider = self._decider = Decider(
            self.store, leadership, self._decide_metrics, wake_sender, wake, self.watchers.poll
        )
        record = partial(record_polls, decide=decider.decide_recorded)

        def make_watcher(node: Node, config: Config) -> NodeWatcher:
            deps = WatcherDeps(
                node,
                store=self.store,
                leadership=leadership,
                clock=self.clock,
                wake=wake,
                record=record,
                metrics=self._watch_metrics,
                wants_details=lambda event, mail_reporters: self._wants_details(event, mail_reporters),
                wants_mail_reporters=lambda: self.config().dss_reporters.mode != "off",
                user_agent=f"tocsin/{__version__}",
                duration_buckets=config.metrics.duration_bounds,
                details_read=wake_sender,
            )
            return NodeWatcher(deps)

        watch = self.watchers.run(make_watcher)
        await self.stages.lead(leadership, watch, decider, self._heartbeat, self._alertmanagers)

    def _on_leadership_change(self, leading: bool) -> None:
        self._process_metrics.leader.set(leading)
        if not leading:
            self.exposition.forget()

    def _apply_config(self) -> None:
        config = self.config()
        self._wants_details = details_needed(config)
        self._process_metrics.reloaded(self.config.last.ok, self.config.last.at)

    async def listen(self) -> None:
        """Begin to answer HTTP. Raises ``OSError`` when the address cannot be had."""
        context = WebContext(
            store=self.store,
            config=self.config,
            clock=self.clock,
            exposition=self.exposition,
            alive=self.parts_alive,
            loop_turned_at=lambda: self.stages.last_turn,
            ready=self.why_not_ready,
            status=self.status,
            reload=self.config.reload,
            count_request=self._process_metrics.count_request,
            nudge=self.watchers.nudge,
            resolve_alert=self.resolve_alert,
            acknowledge_alert=self.acknowledge_alert,
            retry_delivery=self.retry_delivery,
            retry_deliveries=self.retry_deliveries,
            take_alerts=self.take_alerts,
            explain=lambda scenario, run: self.store.browse(explain_run, scenario, run, self.config()),
            explain_alert=lambda id_: self.store.browse(explain_firing, id_, self.config(), self.clock.now()),
        )
        self._listener = await listen(make_app(context), self.config().http.listen)

    def parts_alive(self) -> Mapping[str, bool]:
        return self.tasks.alive() | {"store writer": self.store.alive}

    @property
    def alive(self) -> bool:
        """Whether all that must run does, as seen by the loop that turns."""
        return all(self.parts_alive().values())

    @property
    def url(self) -> str:
        """Where this machine reaches the listener."""
        host = self.config().http.listen.rpartition(":")[0]
        return f"http://{'127.0.0.1' if host in ('', '0.0.0.0', '[::]') else host}:{self.port}"

    @property
    def port(self) -> int:
        return self._listener.port if self._listener else 0

    def start(self) -> None:
        """Start the root tasks."""
        self.tasks.spawn("store", self.store.watch())
        self.tasks.spawn("leader", self.leader.run())
        self.tasks.spawn("deliver", self.stages.loop("deliver", self.sender.step, self.stages.wake_deliver))
        self.tasks.spawn("metrics", self.stages.refresh(self.exposition, lambda: self.leader.leadership is not None))
        self.tasks.spawn("loop lag", self.stages.measure_lag())
        self.tasks.spawn("follow configuration", self.config.follow())

    async def stop(self, grace: timedelta) -> None:
        """Stop watching and deciding, finish sends within ``grace``, close listener and store, in that order."""
        self._stopping = True
        leadership = self.leader.leadership
        await self.tasks.stop("leader")
        await self.tasks.stop("deliver")
        await self.sender.close(grace)
        await self.tasks.stop_all()
        if leadership is not None:
            await self.leader.release(leadership)
        if self._listener is not None:
            await self._listener.close()
        self.exposition.close()
        await self.store.close()

    def why_not_ready(self) -> str | None:
        if self._stopping:
            return "stopping"
        unavailable = self.store.unavailable
        return None if unavailable is None else f"the store cannot be used: {unavailable}"

    async def resolve_alert(self, alert_id: str, by: str) -> bool:
        ended = await self.store.write(resolve_by_hand, alert_id, self.clock.now(), self.config())
        if ended is None:
            return False
        log.info("alert_resolved_by_hand", **ended.place, by=by, alert=alert_id)
        self.stages.wake_decide.set()
        return True

    async def acknowledge_alert(self, alert_id: str, acknowledged: Acknowledgement | None, by: str) -> bool:
        now = self.clock.now()
        alert = await self.store.write(acknowledge, alert_id, acknowledged, now, by)
        if alert is None:
            return False
        log.info("alert_acknowledged" if acknowledged else "alert_unacknowledged", **alert.place, by=by, alert=alert_id)
        self.stages.wake_decide.set()
        return True

    async def retry_delivery(self, notification_id: str) -> bool:
        return bool(await self.retry_deliveries([notification_id]))

    async def retry_deliveries(self, ids: Sequence[str]) -> Sequence[str]:
        retried = await self.store.write(deliveries.retry_dead, ids, self.clock.now())
        self.stages.wake_deliver.set()
        return retried

    async def take_alerts(self, posted: Sequence[PostedAlert]) -> None:
        config = self.config()
        if self._compiled is None or self._compiled.config is not config:
            self._compiled = CompiledConfig(config)
        result = await self.store.write(take_alerts, self._compiled, self.clock.now(), posted)
        write_lines("decide", "info", lambda: iter(result.changes), len(result.changes))
        self.stages.wake_decide.set()

    def status(self) -> Mapping[str, Json]:
        """The present state of all parts for ``/api/v1/status`` and the pages; nothing is asked over the network."""
        config, last, writer = self.config(), self.config.last, self.store.writer
        unavailable = self.store.unavailable
        return {
            "version": __version__,
            "started_at": isoformat(self.started_at),
            "leader": self.leader.leadership is not None,
            "config": {
                "source": config.source,
                "loaded_at": _iso(config.loaded_at),
                "last_reload": {
                    "at": isoformat(last.at),
                    "successful": last.ok,
                    "errors": list(last.problems),
                    "needs_restart": list(last.needs_restart),
                },
            },
            "store": {
                "kind": "sqlite" if self.store.is_sqlite else "postgresql",
                "unavailable": None if unavailable is None else str(unavailable),
                "transactions": writer.transactions,
                "items": writer.items,
                "largest_batch": writer.largest,
                "unreadable_rows": {name: count for name, count in self.store.set_aside.counts().items() if count},
            },
            "failing_channels": dict(self.sender.failing()),
            "rules_without_scenarios": [*sorted(self._decider.idle_rules if self._decider else ())],
            "alertmanagers": {url: {"problem": peer.error} for url, peer in self._alertmanagers.peers.items()},
            "nodes": {name: _node_status(watcher.snapshot()) for name, watcher in self.watchers.by_node.items()},
        }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else isoformat(moment)


def _node_status(node: NodeSnapshot | None) -> Json:
    if node is None:
        return None
    of_row, of_memory = ("up", "problem", "sweep_trusted", "backfilling"), ("scenarios", "active", "running", "failing")
    return {
        **{name: getattr(node.row, name) for name in of_row},
        **{name: getattr(node, name) for name in of_memory},
        "reason": node.row.down_reason,
        "requests_per_second_limit": node.requests_per_second,
        "oldest_poll_age_seconds": node.oldest_poll_age,
        "oldest_due_poll_seconds": node.longest_overdue,
        "clock_offset_seconds": node.clock_offset.total_seconds(),
        "last_ok_at": _iso(node.row.last_ok_at),
        "dss_version": node.dss_version,
    }
