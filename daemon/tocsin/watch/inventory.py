"""What the lists of projects and scenarios mean: new, changed, missing, back, gone. Pure.

Nothing is gone because one reply lacks it. What cannot be read counts as neither there nor missing.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tocsin.model.run import ScenarioKey
from tocsin.store.scenarios import ProjectRow, ScenarioRow
from tocsin.watch.read import ListedProject, ListedScenario, ParsedList

MISSING_BEFORE_GONE = 3
"""So many complete lists in a row must lack something before it is gone."""
_MISSING_FOR_SURE = 288  # after a day of lists that agree, even a fifth of a node may be gone
_TOO_MUCH = 5  # a fifth
_WRITE_EVERY = timedelta(minutes=1)  # a status that says nothing new is not written more often
_SAME_START = timedelta(seconds=30)  # `nextRun` is approximate: so near it is the same start
_PAST = timedelta(minutes=10)
_FORGOTTEN = timedelta(days=7)  # what neither came nor was judged in so long will not be


@dataclass(frozen=True, slots=True)
class When:
    """The moment of a list: begun at, on both clocks, and since when newcomers count; None: since their project does."""

    now: datetime
    dss_now: datetime
    newcomers_since: datetime | None = None


def compare_projects(
    known: Mapping[str, ProjectRow],
    seen: ParsedList[ListedProject],
    node: str,
    in_scope: Callable[[str], bool],
    since: Callable[[ListedProject], datetime],
) -> list[ProjectRow]:
    """The rows of projects that change. ``since`` tells from when on a new project counts."""
    changed: list[ProjectRow] = []
    listed = {one.key: one for one in seen.items if in_scope(one.key)}
    for key, one in listed.items():
        row = known.get(key)
        if row is None:
            changed.append(ProjectRow(node, key, one.name, since(one)))
        elif row.gone_at is not None:
            changed.append(ProjectRow(node, key, one.name, since(replace(one, created=None))))
        elif row.missing or row.name != one.name:
            changed.append(replace(row, name=one.name, missing=0))
    if not seen.odd:
        absent = [row for key, row in known.items() if key not in listed and row.gone_at is None]
        changed += [replace(row, missing=row.missing + 1) for row in absent]
    return changed


def compare_scenarios(
    project: ProjectRow,
    known: Mapping[str, ScenarioRow],
    seen: ParsedList[ListedScenario],
    in_scope: Callable[[str, Sequence[str]], bool],
    counts: Callable[[ScenarioRow], bool],
    when: When,
) -> list[ScenarioRow]:
    """The rows of a project's scenarios as its list has them: all that are listed in scope, and those missing now.

    ``counts`` tells whether one that is missing is so once more: lists soon after another say nothing new."""
    rows: list[ScenarioRow] = []
    listed = {one.key.scenario: one for one in seen.items}
    for scenario, one in listed.items():
        row = known.get(scenario)
        if in_scope(scenario, one.tags):
            rows.append(_listed(row, one, project, when))
        elif row is not None and row.gone_at is None:
            rows.append(replace(row, gone_at=when.now, tags=one.tags))
    if not seen.odd:
        absent = [row for id_, row in known.items() if id_ not in listed and row.gone_at is None and counts(row)]
        rows += [replace(row, missing=row.missing + 1) for row in absent]
    return rows


def _listed(row: ScenarioRow | None, one: ListedScenario, project: ProjectRow, when: When) -> ScenarioRow:
    if row is None or row.gone_at is not None:
        since = when.newcomers_since or project.in_scope_since
        if row is None:
            row = ScenarioRow(one.key, one.name, (), None, None, None, (), watched_since=since)
        else:
            row = replace(row, gone_at=None, backfilled=False, watched_since=max(row.watched_since, since))
    return replace(
        row,
        name=one.name,
        tags=one.tags,
        type=one.type,
        active=row.active if one.active is None else one.active,
        run_as=one.run_as,
        next_run=one.next_run,
        status_read_at=when.now,
        missing=0,
    )


def worth_writing(row: ScenarioRow, written: ScenarioRow | None, pending: Iterable[datetime], when: When) -> bool:
    """Whether a list's row says more than the one that was last written.

    A start that is overdue waits for a status that was read after it, so that each one is worth writing then.
    """
    if written is None or written.status_read_at is None:
        return True
    if replace(row, status_read_at=written.status_read_at) != written:
        return True
    return when.now - written.status_read_at >= _WRITE_EVERY or any(at <= when.dss_now for at in pending)


@dataclass(frozen=True, slots=True)
class Expectation:
    """How a list changes the expected starts of one scenario."""

    new: tuple[datetime, ...] = ()
    withdrawn: tuple[datetime, ...] = ()


def expect(pending: Iterable[datetime], row: ScenarioRow, dss_now: datetime) -> Expectation:
    """An announced start is expected; what was announced for the future and is no longer is withdrawn.

    A start that is over stays until a run meets it, unless the scenario was switched off or is gone.
    """
    waiting = tuple(pending)
    if row.active is False or row.gone_at is not None:
        return Expectation(withdrawn=waiting)
    start = row.next_run
    same = [at for at in waiting if start is not None and abs(at - start) <= _SAME_START]
    old = dss_now - _FORGOTTEN
    withdrawn = tuple(at for at in waiting if at < old or (at > dss_now and at not in same))
    if start is None or same or start < dss_now - _PAST:
        return Expectation(withdrawn=withdrawn)
    return Expectation((start,), withdrawn)


def may_go(missing: Collection[tuple[ScenarioKey, int]], watched: int) -> bool:
    """Whether scenarios that so many lists lacked may be given up.

    Not if over a fifth of the node vanishes at once: then the node, its rights or its answers are at fault.
    """
    sudden = sum(count < _MISSING_FOR_SURE for _, count in missing)
    return sudden <= 1 or sudden * _TOO_MUCH <= watched
