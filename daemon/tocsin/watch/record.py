"""The transaction of a poll: what is known is read inside it, so that polls of any age and order agree.

Cursor, runs, events and totals are written together or not at all; totals count exactly the end events that were new.
New events are decided in the same transaction where the leader's decide stage can, and else wait in the table for it.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec

from tocsin.model.event import END_EVENTS, Event, EventName
from tocsin.model.run import Run, RunKey
from tocsin.model.scenario import match_starts
from tocsin.routing.details import DetailsNeed
from tocsin.store import Connection, events, runs, scenarios, series, starts
from tocsin.store.runs import RunRow
from tocsin.store.scenarios import PolledScenario
from tocsin.watch.diff import Poll, diff


class PollOutcome(msgspec.Struct, frozen=True):
    """What a poll brought: its new events, the runs that go on, and what the scenario's row says now."""

    polled: PolledScenario | None = None  # None: the scenario's row is gone, nothing was written
    events: tuple[Event, ...] = ()
    open_runs: tuple[Run, ...] = ()
    details: tuple[tuple[RunKey, DetailsNeed], ...] = ()  # to be read, now due
    settled: Mapping[datetime, str] = msgspec.field(default_factory=dict)  # expected starts


# Writes new events and decides them at once; false, with nothing written, when they are to wait for their turn.
DecideNew = Callable[[Connection, Sequence[Event], datetime], bool]


RecordPolls = Callable[[Connection, Sequence[Poll]], list[PollOutcome]]


def record_polls(connection: Connection, polls: Sequence[Poll], decide: DecideNew | None = None) -> list[PollOutcome]:
    """Write polls; one outcome each, in order. Statements are shared, so many polls cost little more than one."""
    by_key = {poll.key: poll for poll in polls}
    if len(by_key) < len(polls):  # each must see what the one before it wrote
        return [record_polls(connection, [poll], decide)[0] for poll in polls]
    pasts = scenarios.scenario_progress(connection, list(by_key))
    fresh = [seen.run.key for poll in polls for seen in poll.seen if seen.run.start >= poll.fresh_from]
    known = runs.stored_runs(connection, list(by_key), fresh)
    diffs = {key: diff(known[key], poll, pasts[key]) for key, poll in by_key.items() if key in pasts}
    added = events.new_events(connection, [event for found in diffs.values() for event in found.events])
    new_ids = {event.id for event in added}
    outcomes = dict.fromkeys(by_key, PollOutcome())
    rows: list[RunRow] = []
    for key, found in diffs.items():
        poll, now = by_key[key], by_key[key].detected_at
        new = tuple(event for event in found.events if event.id in new_ids)
        details: dict[RunKey, DetailsNeed] = {}
        for event in new:
            if event.run and (need := poll.wants_details(event, poll.mail_reporters)):
                details[event.run.key] = need
        rows += [
            RunRow(
                change.run,
                change.baseline,
                change.late,
                seen_at=now,
                seen_by=poll.reason,
                end_seen_at=now if change.ended else None,
                absent_since=change.absent_since,
                details_due_at=now if change.run.key in details else None,
            )
            for change in found.runs
        ]
        cursor = max(filter(None, (pasts[key].cursor, found.cursor)), default=None)
        current = {run.run.key: run.run for run in known[key].values() if run.run}
        current |= {change.run.key: change.run for change in found.runs}
        failures = sum(event.name is EventName.REPORTER_FAILED for event in new)
        outcomes[key] = PollOutcome(
            PolledScenario(key, poll.begun_at, cursor, found.last_end, found.last_outcome, failures),
            new,
            open_runs=tuple(run for run in current.values() if run.end is None),
            details=tuple(details.items()),
            settled=match_starts(poll.pending, [seen.run for seen in poll.seen]) if poll.pending else {},
        )
    runs.put_runs(connection, rows)
    scenarios.save_polls(connection, [outcome.polled for outcome in outcomes.values() if outcome.polled])
    reporters = [(key, by_key[key].mail_reporters) for key in diffs if by_key[key].put_mail_reporters]
    scenarios.put_mail_reporters(connection, reporters)
    if settled := [(key, at, state) for key in diffs for at, state in outcomes[key].settled.items()]:
        starts.close_starts(connection, settled, polls[-1].detected_at)
    if ended := [event.run for event in added if event.run and event.name in END_EVENTS]:
        series.count_runs(connection, ended, polls[0].bounds)
    if added and (decide is None or not decide(connection, added, max(poll.detected_at for poll in polls))):
        events.insert_events(connection, added)
    return list(outcomes.values())
