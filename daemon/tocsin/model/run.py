"""Scenario runs as Tocsin knows them, and what is read about a run after its end.

A run is identified by node, project, scenario, run id **and** start: DSS writes run ids in the server's local time,
so two runs may share an id in the hour that a clock change repeats.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import NamedTuple
from urllib.parse import quote


class Outcome(StrEnum):
    """How a run ended, in DSS's words; others are kept as they came. UNKNOWN, as in Dataiku's own client, is a run that
    DSS lost: it no longer lists it, or never gave it a result."""

    SUCCESS = "SUCCESS"
    WARNING = "WARNING"
    FAILED = "FAILED"
    ABORTED = "ABORTED"
    UNKNOWN = "UNKNOWN"


GOOD_OUTCOMES = frozenset({Outcome.SUCCESS, Outcome.WARNING})
BAD_OUTCOMES = (Outcome.FAILED.value, Outcome.UNKNOWN.value)  # where nothing else is configured
LOST = "DSS lost this run"  # the message of a run that ended UNKNOWN


class ScenarioKey(NamedTuple):
    """Tocsin's name of the node, DSS's project key and scenario id."""

    node: str
    project: str
    scenario: str

    def url(self, base: str) -> str:
        """Of its page in the DSS at ``base``."""
        project, scenario = quote(self.project, safe=""), quote(self.scenario, safe="")
        return f"{base.rstrip('/')}/projects/{project}/scenarios/{scenario}"


class RunKey(NamedTuple):
    scenario: ScenarioKey
    run_id: str
    start: datetime


@dataclass(frozen=True, slots=True)
class Run:
    """As last seen. ``end`` and ``outcome`` are None while it runs."""

    scenario: ScenarioKey
    run_id: str
    start: datetime
    end: datetime | None = None
    outcome: str | None = None
    trigger_type: str | None = None
    trigger_name: str | None = None
    fire_id: str | None = None  # of the trigger fire that led to the run; not the run id
    run_as: str | None = None

    @property
    def key(self) -> RunKey:
        return RunKey(self.scenario, self.run_id, self.start)

    @property
    def duration(self) -> timedelta | None:
        """Never negative; None while the run goes on."""
        return None if self.end is None else max(self.end - self.start, timedelta(0))


@dataclass(frozen=True, slots=True)
class RunError:
    """The first error of a run, as DSS serialises exceptions. Texts are data, never markup."""

    message: str | None
    code: str | None = None
    title: str | None = None
    step: str | None = None


@dataclass(frozen=True, slots=True)
class RunWarning:
    """Why a run, or one of its steps, ended with WARNING: ``result.warnings`` of its step runs."""

    step: str | None
    message: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Step:
    """One executed step of a run; a retried step stands once for each try."""

    id: str | None
    name: str | None
    type: str | None
    outcome: str | None
    duration: timedelta | None
    job_ids: tuple[str, ...] = ()


class DetailsLevel(IntEnum):
    """How much of a run is read after its end."""

    NOTHING = 0
    STEPS = 1  # with the first error and the job ids
    LOG = 2  # the end of the log as well, by a request of its own


@dataclass(frozen=True, slots=True)
class Details:
    """What is read about a run after its end. ``problem`` says why something could not be read."""

    run: RunKey
    read_at: datetime
    error: RunError | None = None
    steps: tuple[Step, ...] = ()
    log_tail: str | None = None
    problem: str | None = None
    warnings: tuple[RunWarning, ...] = ()
