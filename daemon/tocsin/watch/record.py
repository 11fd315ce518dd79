"""The transaction of a poll: what is known is read inside it, so that polls of any age and order agree.

Many polls share one transaction and its statements. Cursor, runs, events and totals are written together or not at
all; totals count exactly the end events that were new.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection

from tocsin.model.event import END_EVENTS, Event, EventName
from tocsin.model.run import DetailsLevel, Run, RunKey
from tocsin.model.scenario import MailReporter, match_starts
from tocsin.store import events, runs, scenarios, starts, totals
from tocsin.store.runs import RunRow, StoredRuns
from tocsin.store.scenarios import PolledScenario, ScenarioProgress
from tocsin.watch.diff import Diff, PollResult, RunChange, diff

WantsDetails = Callable[[Event, tuple[MailReporter, ...]], DetailsLevel]
"""What is needed of the run that an event ended, by the scenario's own mail reporters too.

Pure; it is called on the store's thread."""

_LOG_AT_ONCE = frozenset({EventName.RUN_FAILED, EventName.RUN_ABORTED})


@dataclass(frozen=True, slots=True)
class Poll:
    """One good poll, ready to be written. ``begun_at`` is on Tocsin's clock."""

    sight: PollResult
    begun_at: datetime
    reason: str
    pending: tuple[datetime, ...]  # expected starts
    wants_details: WantsDetails
    bounds: tuple[float, ...]  # of the duration histogram, in seconds
    mail_reporters: tuple[MailReporter, ...] = ()  # DSS's own, as far as they are known and wanted
    put_mail_reporters: bool = False  # they are new to the store


@dataclass(frozen=True, slots=True)
class PollOutcome:
    """What a poll brought: its new events, the runs that go on, and what the scenario's row says now."""

    events: tuple[Event, ...] = ()
    open_runs: tuple[Run, ...] = ()
    details: tuple[tuple[RunKey, DetailsLevel], ...] = ()  # to be read, now due
    cursor: datetime | None = None
    last_end: datetime | None = None
    last_outcome: str | None = None
    settled: Mapping[datetime, str] = field(default_factory=dict)  # expected starts
    known: bool = True  # False: the scenario's row is gone, nothing was written


def record_polls(connection: Connection, polls: Sequence[Poll]) -> list[PollOutcome]:
    """Write polls; one answer each, in order. Statements are shared, so many polls cost little more than one."""
    keys = [poll.sight.key for poll in polls]
    if len(set(keys)) < len(keys):  # each must see what the one before it wrote
        return [record_polls(connection, [poll])[0] for poll in polls]
    pasts = scenarios.scenario_progress(connection, keys)
    fresh = [seen.run.key for poll in polls for seen in poll.sight.seen if seen.run.start >= poll.sight.fresh_from]
    known = runs.stored_runs(connection, keys, fresh)
    diffs = [
        diff(known[poll.sight.key], poll.sight, past) if (past := pasts.get(poll.sight.key)) else None for poll in polls
    ]
    told = events.insert_events(connection, [event for one in diffs if one for event in one.events])
    new = {event.id for event in told}
    recorded: list[PollOutcome] = []
    changed: list[RunRow] = []
    polled: list[PolledScenario] = []
    for poll, one in zip(polls, diffs, strict=True):
        if one is None:
            recorded.append(PollOutcome(known=False))
            continue
        mine = tuple(event for event in one.events if event.id in new)
        details = _details(poll, mine)
        written = [_row(poll, change, change.run.key in details) for change in one.runs]
        changed += written
        recorded.append(_recorded(poll, one, mine, written, pasts[poll.sight.key], known[poll.sight.key], details))
        polled.append(_polled(poll, recorded[-1]))
    runs.put_runs(connection, changed)
    scenarios.save_polls(connection, polled)
    scenarios.put_mail_reporters(
        connection,
        [
            (poll.sight.key, poll.mail_reporters)
            for poll, one in zip(polls, recorded, strict=True)
            if poll.put_mail_reporters and one.known
        ],
    )
    _settle(connection, polls, recorded)
    _count(connection, polls, told)
    return recorded


def _details(poll: Poll, new: Sequence[Event]) -> dict[RunKey, DetailsLevel]:
    """What is to be read of the runs that ended."""
    levels = {
        event.run.key: DetailsLevel.LOG
        if event.name in _LOG_AT_ONCE
        else poll.wants_details(event, poll.mail_reporters)
        for event in new
        if event.run and event.name in END_EVENTS
    }
    return {run: level for run, level in levels.items() if level}


def _row(poll: Poll, change: RunChange, details: bool) -> RunRow:
    now = poll.sight.detected_at
    return RunRow(
        change.run,
        change.baseline,
        change.late,
        seen_at=now,
        seen_by=poll.reason,
        end_seen_at=now if change.ended else None,
        absent_since=change.absent_since,
        details_due_at=now if details else None,
    )


def _recorded(
    poll: Poll,
    one: Diff,
    new: tuple[Event, ...],
    written: Sequence[RunRow],
    past: ScenarioProgress,
    known: StoredRuns,
    details: Mapping[RunKey, DetailsLevel],
) -> PollOutcome:
    now = {was.run.key: was.run for was in known.values() if was.run} | {one.run.key: one.run for one in written}
    cursors = [moment for moment in (past.cursor, one.cursor) if moment is not None]
    return PollOutcome(
        new,
        open_runs=tuple(run for run in now.values() if run.end is None),
        details=tuple((one.run.key, details[one.run.key]) for one in written if one.details_due_at is not None),
        cursor=max(cursors, default=None),
        last_end=one.last_end,
        last_outcome=one.last_outcome,
        settled=match_starts(poll.pending, [seen.run for seen in poll.sight.seen]) if poll.pending else {},
    )


def _polled(poll: Poll, one: PollOutcome) -> PolledScenario:
    failures = sum(event.name is EventName.REPORTER_FAILED for event in one.events)
    return PolledScenario(poll.sight.key, poll.begun_at, one.cursor, one.last_end, one.last_outcome, failures)


def _settle(connection: Connection, polls: Sequence[Poll], recorded: Sequence[PollOutcome]) -> None:
    states = [
        (poll.sight.key, at, state)
        for poll, one in zip(polls, recorded, strict=True)
        for at, state in one.settled.items()
    ]
    if states:
        starts.close_starts(connection, states, polls[-1].sight.detected_at)


def _count(connection: Connection, polls: Sequence[Poll], fresh: Iterable[Event]) -> None:
    ended = [event.run for event in fresh if event.run and event.name in END_EVENTS]
    if ended:
        totals.count_runs(connection, ended, polls[0].bounds)
