"""The ledger: every run that truly happened, and how a list of events compares with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

END_EVENTS = {"FAILED": "run.failed", "ABORTED": "run.aborted"}

Fact = tuple[str, str, str, str]
"""(event name, project, scenario, run id)"""


@dataclass(slots=True, eq=False)
class Run:
    """One run. ``end_ms`` is 0 while it runs; ``vanished`` says that the node forgot it before its end."""

    project: str
    scenario: str
    id: str
    start_ms: int
    end_ms: int = 0
    outcome: str | None = None
    trigger: str = "temporal"
    run_as: str = "admin"
    error: str | None = None
    vanished: bool = False
    reporters_states: list[dict[str, object]] = field(default_factory=list)

    def start_fact(self) -> Fact:
        return ("run.started", self.project, self.scenario, self.id)

    def end_fact(self) -> Fact:
        return (END_EVENTS.get(self.outcome or "", "run.finished"), self.project, self.scenario, self.id)


@dataclass(frozen=True, slots=True)
class Differences:
    """How an event log disagrees with the ledger; all three are empty when it agrees."""

    lost: tuple[Fact, ...] = ()
    twice: tuple[Fact, ...] = ()
    invented: tuple[Fact, ...] = ()


@dataclass(slots=True)
class Ledger:
    """All runs since the world began, in the order in which they were started; nothing is ever taken out."""

    runs: list[Run] = field(default_factory=list)

    def started(self) -> list[Run]:
        return list(self.runs)

    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.end_ms]

    def running(self) -> list[Run]:
        return [run for run in self.runs if not run.end_ms and not run.vanished]

    def facts(self, since_ms: int = 0) -> list[Fact]:
        """The events that are owed to one who watches since ``since_ms``: no run that ended before, no start
        of a run that started before. Runs that vanished are owed nothing."""
        owed: list[Fact] = []
        for run in self.runs:
            if run.vanished or 0 < run.end_ms < since_ms:
                continue
            if run.start_ms >= since_ms:
                owed.append(run.start_fact())
            if run.end_ms:
                owed.append(run.end_fact())
        return owed

    def compare(self, events: Iterable[Mapping[str, object]], since_ms: int = 0) -> Differences:
        """Hold CloudEvents (``type`` tocsin.run.*; others are left out) against the ledger."""
        seen = Counter(fact for event in events if (fact := fact_of(event)))
        owed = Counter(self.facts(since_ms))
        # Whoever saw a run before it vanished was right about its start, and may close it as it likes.
        tolerated = {run.start_fact()[1:] for run in self.runs if run.vanished}
        return Differences(
            lost=tuple((owed - seen).elements()),
            twice=tuple(f for f, n in seen.items() if n > 1 and n > owed[f]),
            invented=tuple(f for f in seen if f not in owed and f[1:] not in tolerated),
        )


def fact_of(event: Mapping[str, object]) -> Fact | None:
    """The identity of a run event written as a CloudEvent, or None for an event about something else."""
    name = str(event.get("type", "")).removeprefix("tocsin.")
    if not name.startswith("run."):
        return None
    data = event["data"]
    assert isinstance(data, Mapping)
    return (name, str(data["project"]), str(data["scenario"]["id"]), str(data["run"]["id"]))
