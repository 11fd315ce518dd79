"""What the process says about itself: one JSON-able mapping for ``/api/v1/status`` and the pages."""

from collections.abc import Mapping
from datetime import datetime

from tocsin import __version__
from tocsin.app.leader import Leader
from tocsin.app.reload import Live
from tocsin.app.watchers import Watchers
from tocsin.deliver.sender import Sender
from tocsin.kit.clock import isoformat
from tocsin.model.cloudevent import Json
from tocsin.store import Store
from tocsin.watch.node import NodeSnapshot


class Status:
    """Gathers the present state of the parts; asks nobody over the network."""

    def __init__(
        self, started_at: datetime, store: Store, live: Live, leader: Leader, watchers: Watchers, sender: Sender
    ) -> None:
        self._started_at = started_at
        self._store = store
        self._live = live
        self._leader = leader
        self._watchers = watchers
        self._sender = sender

    def __call__(self) -> Mapping[str, Json]:
        config = self._live()
        last = self._live.last
        writer, unavailable = self._store.writer, self._store.unavailable
        return {
            "version": __version__,
            "started_at": isoformat(self._started_at),
            "leader": self._leader.leadership is not None,
            "config": {
                "source": config.source,
                "loaded_at": None if config.loaded_at is None else isoformat(config.loaded_at),
                "last_reload": {
                    "at": isoformat(last.at),
                    "successful": last.ok,
                    "errors": list(last.problems),
                    "needs_restart": list(last.needs_restart),
                },
            },
            "store": {
                "kind": "sqlite" if self._store.is_sqlite else "postgresql",
                "unavailable": None if unavailable is None else str(unavailable),
                "transactions": writer.transactions,
                "items": writer.items,
                "largest_batch": writer.largest,
                "unreadable_rows": {name: count for name, count in self._store.set_aside.counts().items() if count},
            },
            "failing_channels": dict(self._sender.failing()),
            "nodes": {name: _node(watcher.snapshot()) for name, watcher in self._watchers.watchers.items()},
        }


def _node(shown: NodeSnapshot | None) -> Json:
    if shown is None:
        return None
    return {
        "up": shown.up,
        "reason": None if shown.reason is None else shown.reason.value,
        "problem": shown.problem,
        "requests_per_second_limit": shown.requests_per_second,
        "sweep_trusted": shown.sweep_trusted,
        "oldest_poll_age_seconds": shown.oldest_poll_age,
        "oldest_due_poll_seconds": shown.overdue,
        "scenarios": shown.scenarios,
        "active": shown.active,
        "running": shown.running,
        "failing": shown.failing,
        "backfilling": shown.backfilling,
        "clock_offset_seconds": shown.clock_offset.total_seconds(),
        "last_ok_at": None if shown.last_ok_at is None else isoformat(shown.last_ok_at),
        "dss_version": shown.dss_version,
    }
