"""From what a poll saw and what the store knows to what is new. Pure.

One start and exactly one end per run, known by its id and its start, whatever the order, the overlap or the number of
polls; what lies before the watch or the watermark makes no event at all.
"""

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, replace
from datetime import datetime, timedelta

import msgspec

from tocsin.model.event import Event, EventName, FailedReporter, ScenarioFacts, end_event_name, run_event_id
from tocsin.model.run import Outcome, Run, ScenarioKey
from tocsin.model.scenario import LAUNCH_DELAY, MailReporter
from tocsin.routing.details import WantsDetails
from tocsin.store.runs import StoredRun, StoredRuns
from tocsin.store.scenarios import ScenarioProgress
from tocsin.watch.read import ListedRun

_VANISHED_AFTER = timedelta(minutes=10)  # an open run that DSS's history lacks for so long is closed as UNKNOWN,
_LOST_AFTER = timedelta(seconds=20)  # and one that DSS does not know by its id either so soon: two polls agree
_REPORTERS_WATCHED_FOR = timedelta(hours=6)  # DSS's reporters may fail so long after the end of a run


@dataclass(frozen=True, slots=True)
class Poll:
    """What one good poll saw, and what is needed to compare and to write it. Times are DSS's, but for ``…_at``."""

    key: ScenarioKey
    facts: ScenarioFacts
    seen: tuple[ListedRun, ...] = ()  # the newest first
    _: KW_ONLY
    reason: str
    begun_at: datetime
    wants_details: WantsDetails  # asked on the store's thread
    bounds: tuple[float, ...]  # of the duration histogram, in seconds
    pending: tuple[datetime, ...] = ()  # expected starts
    mail_reporters: tuple[MailReporter, ...] = ()  # DSS's own, as far as they are known and wanted
    put_mail_reporters: bool = False  # they are new to the store
    reaches: datetime | None = None  # ``seen`` holds every run that started later; None: DSS's whole history
    whole: bool = True  # no item was unreadable
    advances: bool = True  # or those that were are known to be: the next poll need not reach further back for them
    now: datetime
    earliest: datetime  # what ``now`` may be, if DSS's clock was just set back
    detected_at: datetime
    horizon: datetime  # what ended before it is too old to make an event
    late_before: datetime | None = None  # what happened before it happened in a downtime
    fresh_from: datetime  # of what started earlier, all that is seen is known to have ended
    scenario_url: str = ""
    unknown: frozenset[tuple[str, datetime]] = frozenset()  # open runs, by id and start, that DSS answers 404 for
    gone: bool = False  # DSS no longer has the scenario, so its open runs cannot go on
    set_back: timedelta = timedelta(0)  # DSS's clock was, by so much; a watch that seems to begin later began before

    def is_late(self, time: datetime) -> bool:
        return self.late_before is not None and time < self.late_before


class RunChange(msgspec.Struct, frozen=True):
    """A run to be written. ``ended`` says that this poll saw its end first."""

    run: Run
    baseline: bool = False
    late: bool = False
    ended: bool = False
    absent_since: datetime | None = None


class Diff(msgspec.Struct, frozen=True):
    """What is new: rows to write, events in order, and where the next poll must reach to."""

    runs: tuple[RunChange, ...]
    events: tuple[Event, ...]
    cursor: datetime | None  # None: as before
    last_end: datetime | None
    last_outcome: str | None


def diff(known: StoredRuns, poll: Poll, past: ScenarioProgress) -> Diff:
    """What this poll adds to what is known. ``known`` holds the open runs and those from ``fresh_from`` on; one
    without ``run`` has ended."""
    runs: list[RunChange] = []
    events: list[Event] = []
    last_end, last_outcome = past.last_end, past.last_outcome
    for seen in reversed(poll.seen):
        run = seen.run
        if run.start >= poll.fresh_from:
            was = known.get((run.run_id, run.start))
            change, names = _compare(run, was, poll, past)
            if change is not None:
                runs.append(change)
            before = last_outcome if last_end is not None and last_end <= run.start else None
            events += [_event(poll, name, run, before) for name in names]
            if seen.failed_reporters:
                matters = bool(names) or run.end is None
                if was is not None:
                    end_at = was.end_seen_at
                    fresh = end_at is not None and poll.detected_at - end_at < _REPORTERS_WATCHED_FOR
                    matters = was.run is not None or (fresh and not was.baseline)
                name, failures = EventName.REPORTER_FAILED, seen.failed_reporters if matters else ()
                events += [_event(poll, name, run, reporter=failed) for failed in failures]
        if run.end is not None and (last_end is None or run.end >= last_end):
            last_end, last_outcome = run.end, run.outcome
    for gone in _absent(known, poll):
        runs.append(gone)
        if gone.ended:
            events.append(_event(poll, end_event_name(gone.run.outcome), gone.run, last_outcome))
    newest = poll.seen[0].run.start if poll.seen and poll.advances else None
    return Diff(tuple(runs), tuple(events), newest, last_end, last_outcome)


def _compare(
    run: Run, was: StoredRun | None, poll: Poll, past: ScenarioProgress
) -> tuple[RunChange | None, tuple[EventName, ...]]:
    end = () if run.end is None else (end_event_name(run.outcome),)
    late = run.end is not None and poll.is_late(run.end)
    if was is not None:
        if was.run is None:
            return None, ()
        if end:
            return RunChange(run, late=late, ended=True), end
        return (RunChange(run) if was.absent_since is not None else None), ()
    if run.start < past.watermark:
        return None, ()
    since = past.watched_since - (poll.set_back if past.watched_since > poll.earliest else timedelta(0))
    if run.end is not None and max(run.start, run.end) < max(since, poll.horizon):  # a clock may run backwards
        return RunChange(run, baseline=True), ()
    start = (EventName.RUN_STARTED,) if run.start >= since else ()
    return RunChange(run, late=late, ended=bool(end)), (*start, *end)


def _absent(known: StoredRuns, poll: Poll) -> Iterable[RunChange]:
    """Open runs that DSS no longer has (a crash, a cleared history): remembered first, closed as UNKNOWN if that lasts.

    A list that is not whole or does not reach back to the run says nothing, a 404 for the run's id says it always."""
    listed = {(seen.run.run_id, seen.run.start) for seen in poll.seen}
    for key, was in known.items():
        if was.run is None or key in listed:
            continue
        known_by_id = key not in poll.unknown
        shown = poll.whole and (poll.reaches is None or was.run.start > poll.reaches)
        if not poll.gone and ((known_by_id and not shown) or was.run.start > poll.now - LAUNCH_DELAY):
            continue
        since = was.absent_since or poll.now
        # A clock that leaps ahead makes no absence long; a run that is twice denied by its id needs no patience.
        lasted = poll.earliest - since >= _VANISHED_AFTER if known_by_id else poll.now - since >= _LOST_AFTER
        if poll.gone or (was.absent_since and lasted):
            end = max(was.run.start, since)
            closed = replace(was.run, end=end, outcome=Outcome.UNKNOWN)
            yield RunChange(closed, late=poll.is_late(end), ended=True, absent_since=since)
        elif was.absent_since is None:
            yield RunChange(was.run, absent_since=since)


def _event(
    poll: Poll, name: EventName, run: Run, previous: str | None = None, reporter: FailedReporter | None = None
) -> Event:
    starts = name is EventName.RUN_STARTED
    time = run.start if starts or run.end is None else max(run.start, run.end)
    late = poll.is_late(time)
    if starts and not late:  # a late start says that its run is over already
        run = Run(
            run.scenario, run.run_id, run.start, None, None, run.trigger_type, run.trigger_name, run.fire_id, run.run_as
        )
    return Event(
        id=run_event_id(run, name, reporter.name if reporter else ""),
        name=name,
        node=poll.key.node,
        time=time,
        detected_at=poll.detected_at,
        project=poll.key.project,
        scenario=poll.facts,
        run=run,
        run_url=f"{poll.scenario_url}/runs/list/{run.run_id}" if poll.scenario_url else None,
        previous_outcome=previous,
        late=late,
        reporter=reporter,
    )
