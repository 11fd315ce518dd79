"""Reporters in one transaction: events → notifications, those of the configuration and DSS's own mail reporters.

What is too late to be sent by itself is withheld for the summary after the backfill.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from tocsin.config.model import Channel, Config
from tocsin.decide.evaluate import Evaluation
from tocsin.kit.clock import isoformat
from tocsin.model.decision import DecisionReason, Stage
from tocsin.model.event import END_EVENTS, Event, EventName
from tocsin.model.labels import Labels
from tocsin.model.notification import EventNotice, Notification
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.model.scenario import MailReporter, NodeView
from tocsin.routing import dss_reporters as dss
from tocsin.routing.reporters import ReporterResult, evaluate_reporter, reporter_notifications
from tocsin.store import events as event_rows
from tocsin.store import runs
from tocsin.store.scenarios import get_mail_reporters


@dataclass(slots=True)
class ReporterEvaluation(Evaluation):
    """Reporters in one transaction. Nothing is read for events that do not concern DSS's own reporters."""

    nodes: Mapping[str, NodeView]
    events: Sequence[Event]
    mail_channels: Sequence[Channel]
    _dss: Mapping[ScenarioKey, tuple[MailReporter, ...]] = field(init=False)  # without those that were never read
    _concerned: set[str] = field(init=False)  # ids of the events that concern DSS's reporters
    _early: Mapping[RunKey, Sequence[Event]] = field(default_factory=dict)  # their failures before the run's end
    _ended: set[RunKey] = field(init=False)  # of the runs whose starts are late, those that have ended since
    _pending: list[Notification] = field(default_factory=list)
    _enqueued: int = 0  # decisions that the outbox implies
    _late: list[tuple[str, str, str]] = field(default_factory=list)  # node, receiver, event id
    _deferred: list[tuple[Event, str, str, datetime]] = field(default_factory=list)  # receiver, reporter, when due
    stage: ClassVar[Stage] = Stage.REPORTER

    def __post_init__(self) -> None:
        config = self.compiled.config.dss_reporters
        concerned = [event for event in self.events if dss.concerns(config, event)] if config.mode != "off" else []
        self._concerned = {event.id for event in concerned}
        if config.mode == "fallback":
            ended = {event.run.key for event in concerned if event.run and event.name in END_EVENTS}
            self._early = event_rows.early_failures(self.connection, ended)
            concerned = [event for event in concerned if event.reporter or (event.run and event.run.key in self._early)]
        keys = {event.key for event in concerned if event.key is not None}
        self._dss = get_mail_reporters(self.connection, keys)
        late = (event.run for event in self.events if event.late and event.name is EventName.RUN_STARTED)
        self._ended = runs.ended(self.connection, {run.key for run in late if run is not None})

    def on_event(self, event: Event, labels: Labels) -> None:
        for reporter in self.compiled.reporters_for(event.name, labels):
            try:
                result = evaluate_reporter(reporter, event)
            except Exception as error:  # noqa: BLE001 - one reporter on one event; reported, the others go on
                self._note_error(reporter.name, error, event)
                continue
            channels = self.compiled.channels.get(reporter.receiver, ())
            if reporter.digest is not None and result.notices:
                due_at = reporter.digest.next_after(self.now, self.compiled.config.timezone)
                self._deferred.append((event, reporter.receiver, reporter.name, due_at))
                note = f"until {isoformat(due_at)}"
                self.note(reporter.name, DecisionReason.DEFERRED, note, event_id=event.id)
                continue
            self._decide(result, event, reporter.receiver, channels, "")
        if event.id not in self._concerned:
            return
        subject = f"DSS: {event.reporter.name if event.reporter else 'all'}"
        try:
            results = self._evaluate_dss(event)
        except Exception as error:  # noqa: BLE001 - one event; reported, the others go on
            self._note_error(subject, error, event)
            return
        if results is None:
            self.note(subject, DecisionReason.UNKNOWN_REPORTER, event_id=event.id)
        receiver = self.compiled.config.dss_reporters.receiver or ""
        for result in results or ():
            self._decide(result, event, receiver, self.mail_channels, " has no mail channel")

    def _evaluate_dss(self, event: Event) -> Sequence[ReporterResult] | None:
        """What DSS's own reporters do about an event that concerns them; None when that is not known."""
        config = self.compiled.config.dss_reporters
        known = None if event.key is None else self._dss.get(event.key)
        if config.mode == "fallback" and event.name in END_EVENTS:
            early = self._early.get(event.run.key, ()) if event.run and known else ()
            evaluated = (dss.evaluate_fallback(config, failed, known or (), event.run) or () for failed in early)
            return [result for results in evaluated for result in results]
        if known is None:
            return None
        evaluate = dss.evaluate_mirror if config.mode == "mirror" else dss.evaluate_fallback
        return evaluate(config, event, known)

    def _decide(
        self, result: ReporterResult, event: Event, receiver: str, channels: Sequence[Channel], lacking: str
    ) -> None:
        """Note what a reporter made of an event, and send its notices unless they have no channel or are too late."""
        not_allowed = result.reason is DecisionReason.NOT_ALLOWED
        if result.left_out or not_allowed:
            note = dss.left_out_note(result.left_out)
            self.note(result.name, DecisionReason.NOT_ALLOWED, note, event_id=event.id)
        if not result.notices:
            if not not_allowed:
                self.note(result.name, result.reason, result.note, event_id=event.id)
        elif not channels:
            self.note(result.name, DecisionReason.NO_CHANNEL, f"receiver {receiver}{lacking}", event_id=event.id)
        elif not self._is_late(result.name, receiver, event):
            for notification in reporter_notifications(result, channels, self.now):
                self._pending.append(notification)
                implied = result.reason is DecisionReason.ENQUEUED and result.name == result.notices[0].reporter
                if implied and not self.result.verbose:
                    self._enqueued += 1
                    continue
                self.note(
                    result.name, result.reason, result.note, event_id=event.id, notification_id=notification.id,
                    implied=implied,
                )  # fmt: skip

    def _is_late(self, name: str, receiver: str, event: Event) -> bool:
        """Whether an event is too late to be sent by itself; what becomes of it is noted."""
        if not event.late:
            return False
        note = "its run is over"
        if event.name is not EventName.RUN_STARTED or event.run is None or event.run.key not in self._ended:
            node = self.nodes.get(event.node) or NodeView(event.node)
            age = self.now + node.clock_offset - event.time
            if age <= self.compiled.watch(event.node).backfill.notify_max_age:
                return False
            self._late.append((event.node, receiver, event.id))
            note = "in the summary"
        self.note(name, DecisionReason.LATE, note, event_id=event.id)
        return True

    def _note_error(self, name: str, error: Exception, event: Event) -> None:
        self.result.errors.append((name, event.id, error))
        self.note(name, DecisionReason.ERROR, f"{type(error).__name__}: {error}", event_id=event.id)

    def write(self) -> None:
        """Withhold what is late and enqueue the rest; notices of an end wait for details of the run that are due."""
        event_rows.withhold(self.connection, self._late)
        event_rows.defer(self.connection, self._deferred)
        dues = {due_at for *_, due_at in self._deferred}
        self.result.next_due = min(filter(None, (self.result.next_due, *dues)), default=None)
        if self._enqueued:
            self.result.counts[Stage.REPORTER, DecisionReason.ENQUEUED] += self._enqueued
        ends = {
            item.id: event.run.key
            for item in self._pending
            if isinstance(item.notice, EventNotice) and (event := item.notice.event).run and event.name in END_EVENTS
        }
        awaited = runs.awaiting_details(self.connection, set(ends.values()))
        awaited -= runs.with_details(self.connection, awaited)
        self.enqueue(self._pending, {id_: (run,) for id_, run in ends.items() if run in awaited})


async def mail_channels(config: Config) -> list[Channel]:
    """The mail channels of the receiver of DSS's reporters, none when it sends nothing. One whose URL cannot be read
    now counts as one: its notifications wait until it can."""
    channels = []
    for channel, url in dss.mail_urls(config) if config.dss_reporters.mode != "off" else ():
        try:
            if dss.is_mail(await url.read()):
                channels.append(channel)
        except OSError:
            channels.append(channel)
    return channels
