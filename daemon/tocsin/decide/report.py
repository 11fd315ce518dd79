"""Reporters at work inside one transaction: what events make them owe, and what is too late to be told by itself."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import Connection

from tocsin.config.model import WatchConfig
from tocsin.decide import dss_reporters as mirroring
from tocsin.decide.compiled import CompiledConfig
from tocsin.model.decision import Decision, DecisionReason, Stage
from tocsin.model.event import END_EVENTS, Event
from tocsin.model.labels import Labels
from tocsin.model.notification import Notification
from tocsin.model.run import RunKey
from tocsin.model.scenario import NodeView
from tocsin.routing import dss_reporters as mirror
from tocsin.routing import reporters as report
from tocsin.store import events, outbox, runs

_DEFAULT_WATCH = WatchConfig()


@dataclass(slots=True)
class ReporterEvaluation:
    """Reporters at work inside one transaction."""

    connection: Connection
    compiled: CompiledConfig
    now: datetime
    nodes: dict[str, NodeView]
    own: mirroring.Own
    over: Set[RunKey]  # of the runs whose starts are late, those that have ended since
    made: list[Decision] = field(default_factory=list)
    errors: list[tuple[str, str, Exception]] = field(default_factory=list)
    _owed: list[tuple[Event, list[Notification]]] = field(default_factory=list)
    _late: list[tuple[str, str, str]] = field(default_factory=list)  # node, receiver, event id

    def on_event(self, event: Event, labels: Labels) -> None:
        for reporter in self.compiled.reporters[event.name]:
            try:
                asked = report.ask(reporter, event, labels)
            except Exception as error:  # noqa: BLE001 - one reporter on one event; reported, the others go on
                self.errors.append((reporter.name, event.id, error))
                self._decide(reporter.name, DecisionReason.ERROR, f"{type(error).__name__}: {error}", event)
                continue
            if asked is not None:
                self._weigh(asked, event)
        if mirror.concerns(self.own.config, event):
            self._hear_own(event)

    def _hear_own(self, event: Event) -> None:
        """What DSS's own mail reporters say to an event."""
        failed = event.reporter.name if event.reporter else "all"
        try:
            found = self.own.about(event)
        except Exception as error:  # noqa: BLE001 - one event; reported, the others go on
            self.errors.append((f"DSS: {failed}", event.id, error))
            self._decide(f"DSS: {failed}", DecisionReason.ERROR, f"{type(error).__name__}: {error}", event)
            return
        if found is None:
            self._decide(f"DSS: {failed}", DecisionReason.UNKNOWN_REPORTER, None, event)
        for one in found or ():
            self._weigh_own(one, event)

    def _weigh_own(self, one: mirror.Mirrored, event: Event) -> None:
        name, receiver = f"DSS: {one.reporter.name}", self.own.config.receiver or ""
        note = "; ".join(one.notes) or None
        if one.left_out or one.reason is DecisionReason.NOT_ALLOWED:
            self._decide(name, DecisionReason.NOT_ALLOWED, mirror.named(one.left_out), event)
        if one.reason is DecisionReason.CONDITION:
            self._decide(name, one.reason, note, event)
        elif one.mails and not self.own.channels:
            self._decide(name, DecisionReason.NO_CHANNEL, f"receiver {receiver} has no mail channel", event)
        elif one.mails and (late := self._late_note(event, receiver)):
            self._decide(name, DecisionReason.LATE, late, event)
        else:
            owed = mirror.notifications(one, self.own.channels, self.now)
            self._owed.append((one.event, owed))
            for notification in owed:
                self._decide(name, one.reason, note, event, notification.id)

    def _weigh(self, asked: report.Report, event: Event) -> None:
        reporter = asked.reporter
        channels = self.compiled.channels.get(reporter.receiver, ())
        if not asked.owes:
            self._decide(reporter.name, asked.reason, asked.note, event)
        elif not channels:
            self._decide(reporter.name, DecisionReason.NO_CHANNEL, f"receiver {reporter.receiver}", event)
        elif late := self._late_note(event, reporter.receiver):
            self._decide(reporter.name, DecisionReason.LATE, late, event)
        else:
            owed = report.notifications(reporter, event, channels, self.now, self.now)
            self._owed.append((event, owed))
            for one in owed:
                self._decide(reporter.name, asked.reason, asked.note, event, one.id)

    def _late_note(self, event: Event, receiver: str) -> str | None:
        """What becomes of an event that is too late to be told by itself; None for any other."""
        if not event.late:
            return None
        started = report.late_start(event)
        if started is not None and started.key in self.over:
            return "its run is over"
        node = self.nodes.get(event.node) or NodeView(event.node)
        if self.now + node.clock_offset - event.time <= _watch(self.compiled, event.node).backfill.notify_max_age:
            return None
        self._late.append((event.node, receiver, event.id))
        return "told in the summary"

    def _decide(
        self, reporter: str, reason: DecisionReason, note: str | None, event: Event, notification_id: str | None = None
    ) -> None:
        self.made.append(
            Decision(self.now, Stage.REPORTER, reporter, reason, note, event.id, notification_id=notification_id)
        )

    def write(self) -> list[Notification]:
        """Put down what is owed; an end's notice waits for the run's details, unless they are here."""
        events.withhold(self.connection, self._late)
        if not self._owed:
            return []
        ends = {event.run.key for event, _ in self._owed if event.run and event.name in END_EVENTS}
        missing = ends - runs.with_details(self.connection, ends)
        owed: list[Notification] = []
        waits: dict[str, Sequence[RunKey]] = {}
        for event, mine in self._owed:
            if event.run is not None and event.name in END_EVENTS and event.run.key in missing:
                due_at = self.now + _watch(self.compiled, event.node).details_wait
                mine = [replace(one, due_at=due_at) for one in mine]
                waits.update((one.id, (event.run.key,)) for one in mine)
            owed += mine
        return outbox.owe(self.connection, owed, waits)


def _watch(compiled: CompiledConfig, node: str) -> WatchConfig:
    configured = compiled.nodes.get(node)
    return configured.watch if configured else _DEFAULT_WATCH
