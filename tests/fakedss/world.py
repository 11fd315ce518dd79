"""What is true on the faked DSS node: its projects, scenarios and runs, under full control of a test.

The world does no I/O and asks no clock of its own; the server above shows it over HTTP. Each run that happens
is written into the ledger and stays there, whatever a fault later hides, clears or forgets: the ledger is what
a test holds against the events of the daemon. Times are epoch milliseconds of the server's own clock, which is
the given clock plus ``skew_ms``.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

from tests.fakedss.ledger import Ledger, Run


@dataclass(slots=True)
class Scenario:
    """A scenario as DSS would show it now; ``history`` is what DSS still remembers, oldest first."""

    project: str
    id: str
    name: str
    type: str = "step_based"
    active: bool = True
    tags: tuple[str, ...] = ()
    next_run_ms: int = 0
    run_as: str | None = None
    reporters: list[dict[str, object]] = field(default_factory=list)
    triggers: list[dict[str, object]] = field(default_factory=list)
    history: list[Run] = field(default_factory=list)
    running: Run | None = None

    @property
    def key(self) -> tuple[str, str]:
        return (self.project, self.id)


@dataclass(slots=True)
class World:
    """The node. ``zone`` is its local time, in which run ids are written and days begin."""

    clock_ms: Callable[[], int]
    zone: ZoneInfo
    skew_ms: int = 0
    projects: dict[str, dict[str, Scenario]] = field(default_factory=dict)
    tags_of_projects: dict[str, tuple[str, ...]] = field(default_factory=dict)
    running: dict[tuple[str, str], Run] = field(default_factory=dict)
    """What the node believes to run: the source of ``/futures/`` and of the running flags."""
    ledger: Ledger = field(default_factory=Ledger)

    def now_ms(self) -> int:
        """The server's clock."""
        return self.clock_ms() + self.skew_ms

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.now_ms() / 1000, UTC)

    def jump(self, by: timedelta) -> None:
        """Set the server's clock forward or back; runs that run keep the start that they had."""
        self.skew_ms += round(by / timedelta(milliseconds=1))

    # Projects and scenarios

    def add_project(self, project: str, *, tags: tuple[str, ...] = ()) -> None:
        self.projects.setdefault(project, {})
        self.tags_of_projects[project] = tags

    def add_scenario(self, project: str, scenario: str, name: str | None = None, **more: object) -> Scenario:
        """Add a scenario, and its project where it is new; ``more`` are fields of ``Scenario``."""
        self.projects.setdefault(project, {})
        made = Scenario(project, scenario, name or scenario, **more)  # type: ignore[arg-type]
        self.projects[project][scenario] = made
        return made

    def populate(self, projects: int, scenarios: int) -> None:
        """``projects`` projects P000… of ``scenarios`` scenarios S000… each."""
        for p in range(projects):
            for s in range(scenarios):
                self.add_scenario(f"P{p:03}", f"S{s:03}", f"Scenario {s} of project {p}")

    def scenario(self, project: str, scenario: str) -> Scenario:
        return self.projects[project][scenario]

    def all_scenarios(self) -> Iterator[Scenario]:
        for scenarios in self.projects.values():
            yield from scenarios.values()

    def remove_scenario(self, project: str, scenario: str) -> None:
        self.running.pop((project, scenario), None)
        del self.projects[project][scenario]

    def remove_project(self, project: str) -> None:
        for scenario in list(self.projects[project]):
            self.remove_scenario(project, scenario)
        del self.projects[project]

    # Runs

    def start_run(
        self, project: str, scenario: str, at: datetime | None = None, trigger: str = "temporal", run_as: str = "admin"
    ) -> str:
        """A run begins, now or at ``at`` (server's clock); the answer is its run id, which is local time."""
        owner = self.scenario(project, scenario)
        if owner.running is not None:
            raise ValueError(f"{project}/{scenario} runs already: {owner.running.id}")
        start_ms = self.now_ms() if at is None else _ms(at)
        run = Run(project, scenario, self.run_id(start_ms), start_ms, trigger=trigger, run_as=run_as)
        insort(owner.history, run, key=lambda known: known.start_ms)
        owner.running = self.running[owner.key] = run
        self.ledger.runs.append(run)
        return run.id

    def end_run(
        self,
        project: str,
        scenario: str,
        outcome: str = "SUCCESS",
        at: datetime | None = None,
        error: str | None = None,
    ) -> str:
        """The run that runs ends, now or at ``at``; ``error`` is the message of the failed step."""
        owner = self.scenario(project, scenario)
        run = owner.running
        if run is None:
            raise ValueError(f"{project}/{scenario} does not run")
        run.end_ms = self.now_ms() if at is None else _ms(at)
        run.outcome, run.error = outcome, error
        owner.running = None
        self.running.pop(owner.key, None)
        return run.id

    def instant_run(
        self,
        project: str,
        scenario: str,
        outcome: str = "SUCCESS",
        *,
        ago: timedelta = timedelta(0),
        lasted: timedelta = timedelta(milliseconds=20),
        trigger: str = "temporal",
        error: str | None = None,
    ) -> str:
        """A whole run at once, over before anybody could look; it ended ``ago`` ago."""
        end = self.now() - ago
        self.start_run(project, scenario, end - lasted, trigger)
        return self.end_run(project, scenario, outcome, end, error)

    def run_id(self, start_ms: int) -> str:
        local = datetime.fromtimestamp(start_ms // 1000, self.zone)
        return f"{local:%Y-%m-%d-%H-%M-%S}-{start_ms % 1000:03}"

    # What can happen to a node

    def forget_running(self) -> None:
        """Futures and running flags are gone while the runs go on (a sweep sees nothing)."""
        self.running.clear()

    def restart(self, fate: str = "aborted") -> None:
        """The node restarted: runs that ran end as ABORTED, or (``vanished``) are as if never started."""
        self.running.clear()
        for owner in self.all_scenarios():
            run, owner.running = owner.running, None
            if run is None:
                continue
            if fate == "aborted":
                run.end_ms, run.outcome = self.now_ms(), "ABORTED"
            else:
                run.vanished = True
                owner.history.remove(run)

    def clear_history(self, project: str = "*", scenario: str = "*", keep: int = 0) -> None:
        """The macro "Clear scenario runs logs": all but the ``keep`` newest ended runs go; runs that run stay."""
        for owner in self._matching(project, scenario):
            ended = [run for run in owner.history if run.end_ms]
            gone = set(map(id, ended[: max(0, len(ended) - keep)]))
            owner.history = [run for run in owner.history if id(run) not in gone]

    def _matching(self, project: str, scenario: str) -> Iterable[Scenario]:
        return [s for s in self.all_scenarios() if fnmatchcase(s.project, project) and fnmatchcase(s.id, scenario)]


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
