"""Alerts for existing Alertmanagers, as Prometheus sends them: every firing alert at once and again each ``resend_delay``,
with an end four delays ahead, and after its end for fifteen minutes with the true one. Each Alertmanager is sent to on
its own, so one that does not answer holds up no other. Source: Prometheus's documentation of alerting clients."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from tocsin.config.model import AlertmanagerConfig, Channel, Config
from tocsin.deliver.bulkhead import log_failure
from tocsin.deliver.native import JsonClient
from tocsin.deliver.result import Cause, SendResult, failed, result_of_status
from tocsin.deliver.webhook import result_of_error
from tocsin.kit.clock import Clock, isoformat
from tocsin.model.alert import Alert
from tocsin.store import Store, alerts

log = structlog.get_logger(__name__)

MAX_BATCH = 64  # alerts in a request, as Prometheus has it
RESOLVED_FOR = timedelta(minutes=15)  # how long the end of an alert is sent
_AHEAD = 4  # delays that a firing alert lasts without another post
_STEP = timedelta(seconds=1)  # a new alert waits at most so long
_TIMEOUT = timedelta(seconds=10)
_COMMIT = timedelta(seconds=30)  # a change may be committed so long after the time that its row says


class AlertmanagerMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        label = ["alertmanager"]
        self.sent = Counter(
            "tocsin_alertmanager_alerts_sent", "Alerts accepted by an Alertmanager.", label, registry=registry
        )
        self.errors = Counter(
            "tocsin_alertmanager_errors", "Alerts that an Alertmanager did not accept.", label, registry=registry
        )
        self.up = Gauge(
            "tocsin_alertmanager_up", "Whether it answered the last request as it should.", label, registry=registry
        )


def alert_document(alert: Alert, now: datetime, resend_delay: timedelta, external_url: str | None) -> dict[str, Any]:
    """One alert of ``POST /api/v2/alerts``. Empty labels and annotations are left out, since they mean absence there."""
    page = f"{external_url.rstrip('/')}/alerts/{alert.id}" if external_url else ""
    return {
        "labels": {name: value for name, value in alert.labels.items() if value},
        "annotations": {name: value for name, value in alert.annotations.items() if value},
        "startsAt": isoformat(alert.starts_at),
        "endsAt": isoformat(alert.ends_at or now + _AHEAD * resend_delay),
        "generatorURL": page or alert.annotations.get("run_url", ""),
    }


@dataclass(slots=True)
class Peer:
    """One Alertmanager: what it was last sent, and the request that is on its way."""

    config: AlertmanagerConfig
    client: JsonClient
    sent: dict[str, tuple[datetime, Alert]] = field(default_factory=dict)  # by alert id
    task: "asyncio.Task[None] | None" = None
    error: str | None = None  # of the last request that was not answered as it should be
    refused: set[str] = field(default_factory=set)  # ids of alerts that it does not take

    def due(self, current: Iterable[Alert], now: datetime, resend_delay: timedelta) -> list[Alert]:
        """What is new, has changed or is to be sent again."""
        before = self.sent
        return [
            alert
            for alert in current
            if (known := before.get(alert.id)) is None or known[1] != alert or now - known[0] >= resend_delay
        ]


class AlertmanagerSender:
    """Sends the alerts of the rows to every configured Alertmanager."""

    def __init__(self, store: Store, clock: Clock, metrics: AlertmanagerMetrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self.peers: dict[str, Peer] = {}
        self._alerts: dict[str, Alert] = {}  # those that fire, or ended lately
        self._read_at: datetime | None = None
        self._reload_at: datetime | None = None

    async def step(self, now: datetime, config: Config) -> datetime | None:
        """Send what is due to those that are not busy; returns when to look again, None without an Alertmanager."""
        await self._reconcile(config)
        if not self.peers:
            return None
        await self._load(now, config.alerting.resend_delay)
        for peer in self.peers.values():
            peer.sent = {id_: known for id_, known in peer.sent.items() if id_ in self._alerts}
            peer.refused &= peer.sent.keys()
            if peer.task is not None and not peer.task.done():
                continue
            if due := peer.due(self._alerts.values(), now, config.alerting.resend_delay):
                work = self._send(peer, due, now, config)
                peer.task = asyncio.create_task(work, name=f"alertmanager {peer.config.url}")
                peer.task.add_done_callback(log_failure)
        return now + _STEP

    async def close(self) -> None:
        """Requests on their way are given up: what they carry is sent again after the next start."""
        await self._drop(list(self.peers))

    async def idle(self) -> None:
        tasks = [peer.task for peer in self.peers.values() if peer.task is not None]
        await asyncio.gather(*tasks)

    async def _load(self, now: datetime, resend_delay: timedelta) -> None:
        """What has changed since the last step; all of them once a delay, so that nothing stays that a row no longer says."""
        since = now - RESOLVED_FOR
        if self._read_at is None or self._reload_at is None or now >= self._reload_at or now < self._read_at:
            self._alerts, self._reload_at = {}, now + resend_delay
            changed_since = None
        else:
            changed_since = self._read_at - _COMMIT
        for alert in await self._store.read(alerts.firing_or_ended_since, since, changed_since):
            self._alerts[alert.id] = alert
        self._alerts = {
            id_: item for id_, item in self._alerts.items() if item.ends_at is None or item.ends_at >= since
        }
        self._read_at = now

    async def _reconcile(self, config: Config) -> None:
        wanted = {peer.url: peer for peer in config.alerting.alertmanagers}
        await self._drop([url for url, peer in self.peers.items() if wanted.get(url) != peer.config])
        for url, own in wanted.items():
            if url not in self.peers:
                channel = Channel(f"alertmanager {url}", timeout=_TIMEOUT, proxy=own.proxy, tls=own.tls)
                self.peers[url] = Peer(own, JsonClient(channel, self._clock))
                for series in (self._metrics.sent, self._metrics.errors, self._metrics.up):
                    series.labels(url)

    async def _drop(self, urls: Sequence[str]) -> None:
        for url in urls:
            peer = self.peers.pop(url)
            if peer.task is not None:
                peer.task.cancel()
                await asyncio.gather(peer.task, return_exceptions=True)
            await peer.client.close()
            for series in (self._metrics.sent, self._metrics.errors, self._metrics.up):
                series.remove(url)

    async def _send(self, peer: Peer, due: Sequence[Alert], now: datetime, config: Config) -> None:
        """Batch after batch; the first that gets no answer ends it, since the next would wait as long."""
        for start in range(0, len(due), MAX_BATCH):
            if not await self._post(peer, due[start : start + MAX_BATCH], now, config):
                return

    async def _post(self, peer: Peer, batch: Sequence[Alert], now: datetime, config: Config) -> bool:
        """One request. Of a batch that is refused each alert is tried alone, so that one bad label costs no other."""
        delay, url = config.alerting.resend_delay, config.http.external_url
        result = await self._request(peer, [alert_document(alert, now, delay, url) for alert in batch])
        self._note(peer, result)
        if result.delivered:
            self._metrics.sent.labels(peer.config.url).inc(len(batch))
            peer.refused -= {alert.id for alert in batch}
        elif result.cause is Cause.MESSAGE and len(batch) > 1:
            middle = len(batch) // 2
            return await self._post(peer, batch[:middle], now, config) and await self._post(
                peer, batch[middle:], now, config
            )
        else:
            self._metrics.errors.labels(peer.config.url).inc(len(batch))
            if result.cause is not Cause.MESSAGE:
                return False
            alert = batch[0].id
            if alert not in peer.refused:
                peer.refused.add(alert)
                log.warning("alertmanager_refused_alert", alertmanager=peer.config.url, alert=alert, reason=result.note)
        peer.sent |= {alert.id: (now, alert) for alert in batch}  # a refused one is tried again at its next turn
        return True

    async def _request(self, peer: Peer, documents: Sequence[Mapping[str, Any]]) -> SendResult:
        headers: dict[str, str] = {}
        try:
            if peer.config.bearer is not None:
                bearer = (await peer.config.bearer.read()).strip()
                if any(map(str.isspace, bearer)):
                    return failed("the bearer token has more than one word", cause=Cause.CREDENTIALS)
                headers["Authorization"] = f"Bearer {bearer}"
            address = f"{peer.config.url}/api/v2/alerts"
            answer = await peer.client.request("POST", address, headers, documents)
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            return result_of_error(error)
        if answer.status == 413:  # a smaller batch may pass
            return result_of_status(400, answer.body)
        return result_of_status(answer.status, answer.body, answer.retry_after)

    def _note(self, peer: Peer, result: SendResult) -> None:
        """The first failure and the recovery make a line each. One that refuses an alert works."""
        works = result.delivered or result.cause is Cause.MESSAGE
        self._metrics.up.labels(peer.config.url).set(works)
        if works and peer.error is not None:
            log.info("alertmanager_recovered", alertmanager=peer.config.url)
        elif not works and peer.error is None:
            log.warning("alertmanager_failing", alertmanager=peer.config.url, reason=result.note)
        peer.error = None if works else result.note
