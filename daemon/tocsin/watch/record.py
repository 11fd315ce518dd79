"""The transaction of a look: what is known is read inside it, so that looks of any age and order agree.

Many looks share one transaction and its statements. Cursor, runs, events and totals are written together or not at
all; totals count exactly the end events that were new.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection

from tocsin.model.event import END_EVENTS, Event, EventName
from tocsin.model.mail_reporter import MailReporter
from tocsin.model.run import DetailsLevel, Run, RunKey
from tocsin.store import events, mail_reporters, runs, scenarios, totals
from tocsin.store.runs import Known, RunRow
from tocsin.store.scenarios import Looked, Past
from tocsin.watch.diff import Diff, RunChange, Sight, diff, settle

WantsDetails = Callable[[Event, tuple[MailReporter, ...]], DetailsLevel]
"""What is needed of the run that an event ended, by the scenario's own mail reporters too.

Pure; it is called on the store's thread."""

_LOG_AT_ONCE = frozenset({EventName.RUN_FAILED, EventName.RUN_ABORTED})


@dataclass(frozen=True, slots=True)
class Look:
    """One good look, ready to be written. ``begun_at`` is on Tocsin's clock."""

    sight: Sight
    begun_at: datetime
    reason: str
    pending: tuple[datetime, ...]  # expected starts
    wants_details: WantsDetails
    bounds: tuple[float, ...]  # of the duration histogram, in seconds
    mail_reporters: tuple[MailReporter, ...] = ()  # DSS's own, as far as they are known and wanted
    put_mail_reporters: bool = False  # they are new to the store


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a look brought: its new events, the runs that go on, and what the scenario's row says now."""

    events: tuple[Event, ...] = ()
    open_runs: tuple[Run, ...] = ()
    details: tuple[tuple[RunKey, DetailsLevel], ...] = ()  # to be read, now due
    cursor: datetime | None = None
    last_end: datetime | None = None
    last_outcome: str | None = None
    settled: Mapping[datetime, str] = field(default_factory=dict)  # expected starts
    known: bool = True  # False: the scenario's row is gone, nothing was written


def record_looks(connection: Connection, looks: Sequence[Look]) -> list[Recorded]:
    """Write looks; one answer each, in order. Statements are shared, so many looks cost little more than one."""
    keys = [look.sight.key for look in looks]
    if len(set(keys)) < len(keys):  # each must see what the one before it wrote
        return [record_looks(connection, [look])[0] for look in looks]
    pasts = scenarios.pasts(connection, keys)
    fresh = [seen.run.key for look in looks for seen in look.sight.seen if seen.run.start >= look.sight.fresh_from]
    known = runs.known_runs(connection, keys, fresh)
    diffs = [
        diff(known[look.sight.key], look.sight, past) if (past := pasts.get(look.sight.key)) else None for look in looks
    ]
    told = events.insert_events(connection, [event for one in diffs if one for event in one.events])
    new = {event.id for event in told}
    recorded: list[Recorded] = []
    changed: list[RunRow] = []
    looked: list[Looked] = []
    for look, one in zip(looks, diffs, strict=True):
        if one is None:
            recorded.append(Recorded(known=False))
            continue
        mine = tuple(event for event in one.events if event.id in new)
        details = _details(look, mine)
        written = [_row(look, change, change.run.key in details) for change in one.runs]
        changed += written
        recorded.append(_recorded(look, one, mine, written, pasts[look.sight.key], known[look.sight.key], details))
        looked.append(_looked(look, recorded[-1]))
    runs.put_runs(connection, changed)
    scenarios.scenarios_looked(connection, looked)
    mail_reporters.put(
        connection,
        [
            (look.sight.key, look.mail_reporters)
            for look, one in zip(looks, recorded, strict=True)
            if look.put_mail_reporters and one.known
        ],
    )
    _settle(connection, looks, recorded)
    _count(connection, looks, told)
    return recorded


def _details(look: Look, new: Sequence[Event]) -> dict[RunKey, DetailsLevel]:
    """What is to be read of the runs that ended."""
    levels = {
        event.run.key: DetailsLevel.LOG
        if event.name in _LOG_AT_ONCE
        else look.wants_details(event, look.mail_reporters)
        for event in new
        if event.run and event.name in END_EVENTS
    }
    return {run: level for run, level in levels.items() if level}


def _row(look: Look, change: RunChange, details: bool) -> RunRow:
    now = look.sight.detected_at
    return RunRow(
        change.run,
        change.baseline,
        change.late,
        seen_at=now,
        seen_by=look.reason,
        end_seen_at=now if change.ended else None,
        absent_since=change.absent_since,
        details_due_at=now if details else None,
    )


def _recorded(
    look: Look,
    one: Diff,
    new: tuple[Event, ...],
    written: Sequence[RunRow],
    past: Past,
    known: Known,
    details: Mapping[RunKey, DetailsLevel],
) -> Recorded:
    now = {was.run.key: was.run for was in known.values() if was.run} | {one.run.key: one.run for one in written}
    cursors = [moment for moment in (past.cursor, one.cursor) if moment is not None]
    return Recorded(
        new,
        open_runs=tuple(run for run in now.values() if run.end is None),
        details=tuple((one.run.key, details[one.run.key]) for one in written if one.details_due_at is not None),
        cursor=max(cursors, default=None),
        last_end=one.last_end,
        last_outcome=one.last_outcome,
        settled=settle(look.pending, [seen.run for seen in look.sight.seen]) if look.pending else {},
    )


def _looked(look: Look, one: Recorded) -> Looked:
    failures = sum(event.name is EventName.REPORTER_FAILED for event in one.events)
    return Looked(look.sight.key, look.begun_at, one.cursor, one.last_end, one.last_outcome, failures)


def _settle(connection: Connection, looks: Sequence[Look], recorded: Sequence[Recorded]) -> None:
    states = [
        (look.sight.key, at, state)
        for look, one in zip(looks, recorded, strict=True)
        for at, state in one.settled.items()
    ]
    if states:
        scenarios.settle_starts(connection, states, looks[-1].sight.detected_at)


def _count(connection: Connection, looks: Sequence[Look], fresh: Iterable[Event]) -> None:
    ended = [event.run for event in fresh if event.run and event.name in END_EVENTS]
    if ended:
        totals.count_runs(connection, ended, looks[0].bounds)
