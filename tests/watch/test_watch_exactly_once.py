"""Whatever happened, and however it was polled: one start and one end a run, the start first."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, create_engine, select

from tests.watch.scenes import EARLY, T0, poll, poll_result, runs_of
from tocsin.model.event import END_EVENTS, EventName
from tocsin.model.run import Run, ScenarioKey
from tocsin.store.prune import forget_runs
from tocsin.store.scenarios import ScenarioRow, put_scenarios
from tocsin.store.schema import events, metadata, outcome_totals
from tocsin.watch.record import record_polls

pytestmark = pytest.mark.e2e

NUMBERS = count()
HORIZON = 100_000
SECONDS = st.integers(1, 400)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, int, str]]:
    """Runs one after another, as (start, end, outcome) in seconds; some follow in the same instant."""
    moment, history = 0, []
    outcomes = st.sampled_from(["SUCCESS", "WARNING", "FAILED", "ABORTED", "NEWLY_INVENTED"])
    for pause, lasted in draw(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=12)):
        history.append((moment + pause, moment + pause + lasted, draw(outcomes)))
        moment += pause + lasted
    return history


# (seconds since the one before, how many runs it shows, "skip" leaves every second one out, how long it lies about)
POLLS = st.lists(
    st.tuples(SECONDS, st.integers(1, 6), st.booleans(), st.integers(0, 3), st.sampled_from(["", "prune", "twice"])),
    max_size=12,
)


def shown(key: ScenarioKey, history: list[tuple[int, int, str]], now: int) -> list[Run]:
    """What DSS's history holds at ``now``, the newest first."""
    found = []
    for number, (start, end, outcome) in enumerate(history):
        if start <= now:
            over = end <= now
            moments = (T0 + timedelta(seconds=start), T0 + timedelta(seconds=end) if over else None)
            found.append(Run(key, f"r{number}", *moments, outcome if over else None, "temporal"))
    return found[::-1]


def prune(connection: Connection, key: ScenarioKey, history: list[tuple[int, int, str]], now: int) -> None:
    """Prune as the daemon does: only where every poll has reached, which is long before retention ends."""
    ended = {run.run_id for run, _ in runs_of(connection, key) if run.end}
    unseen = [start for number, (start, _, _) in enumerate(history) if f"r{number}" not in ended]
    before = min([now - 50, *unseen])
    forget_runs(connection, T0 + timedelta(seconds=before), keep=1)


@settings(max_examples=100, deadline=None)
@given(history=histories(), polls=POLLS, since=st.integers(0, 500))
def test_each_run_starts_once_and_ends_once(
    engine: Engine, history: list[tuple[int, int, str]], polls: list[tuple[int, int, bool, int, str]], since: int
) -> None:
    key = ScenarioKey("prod", "P", f"S{next(NUMBERS)}")
    began = T0 + timedelta(seconds=since)
    now, waiting = since, []
    with engine.begin() as connection:
        row = ScenarioRow(key, "S", (), None, True, None, (), watched_since=began, watermark=EARLY)
        put_scenarios(connection, [row])
        for pause, limit, skips, delay, then in polls:
            now += pause
            runs = shown(key, history, now)
            seen = runs[:limit:2] if skips else runs[:limit]
            view = poll_result(seen, now, key=key, all_history=len(runs) <= limit and not skips, whole=not skips)
            waiting.append((delay, view))
            for _, view in [entry for entry in waiting if entry[0] == 0]:
                batch = [poll(view)] * (2 if then == "twice" else 1)
                record_polls(connection, batch)
            waiting = [(left - 1, view) for left, view in waiting if left > 0]
            if then == "prune":
                prune(connection, key, history, now)
        for _, view in waiting:
            record_polls(connection, [poll(view)])
        everything = shown(key, history, HORIZON)
        record_polls(connection, [poll(poll_result(everything, HORIZON, key=key))])
        query = select(events.c.event, events.c.run_id, events.c.n).where(events.c.scenario == key.scenario)
        rows = list(connection.execute(query.order_by(events.c.n)))
        counted = connection.execute(
            select(outcome_totals.c.runs).where(outcome_totals.c.scenario == key.scenario)
        ).scalars()
        assert sum(counted) == sum(name in END_EVENTS for name, _, _ in rows)
    seen_events = Counter((name == EventName.RUN_STARTED, run_id) for name, run_id, _ in rows)
    for number, (start, end, _) in enumerate(history):
        owed = (start >= since, end >= since)
        assert (seen_events[True, f"r{number}"], seen_events[False, f"r{number}"]) == owed
    first: dict[str, str] = {}
    for name, run_id, _ in rows:
        first.setdefault(run_id, name)
    assert {run_id for run_id, name in first.items() if name != EventName.RUN_STARTED} == {
        f"r{number}" for number, (start, end, _) in enumerate(history) if start < since <= end
    }
