"""Scenarios and nodes as last seen, the starts that schedules announce, and DSS's own mail reporters. Pure.

DSS launches a fired trigger after 60 s, and evaluates no triggers while a run of the scenario is open (both facts from
Dataiku's documentation and forum). So a start is withdrawn, not missed, when the scenario was running then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from tocsin.model.event import tags_label
from tocsin.model.labels import Labels
from tocsin.model.run import Run, RunKey, ScenarioKey

LAUNCH_DELAY = timedelta(seconds=60)  # between a trigger's activation and the run
EARLY = timedelta(seconds=5)  # a run may seem to start this much before its time, by rounding
_MERGED = timedelta(minutes=10)
NOT_SCHEDULED = frozenset({"manual", "sub"})  # trigger types that no schedule makes


@dataclass(frozen=True, slots=True)
class NodeView:
    node: str
    up: bool | None = None  # None until the first answer or failure
    backfilling: bool = False
    down_since: datetime | None = None
    down_reason: str | None = None
    clock_offset: timedelta = timedelta(0)  # DSS's clock minus ours
    least_clock_offset: timedelta | None = None  # the least of it for hours
    problem: str | None = None  # the words of the last failure, while it is down

    @property
    def cautious(self) -> "NodeView":
        """With the least clock offset of late: when its clock leaps ahead for a while, nothing is overdue."""
        least = self.clock_offset if self.least_clock_offset is None else self.least_clock_offset
        return replace(self, clock_offset=min(self.clock_offset, least))

    @property
    def clear(self) -> bool:
        """Whether time alone may fire rules here: the node answers, and its history is read back."""
        return self.up is True and not self.backfilling


@dataclass(frozen=True, slots=True)
class ScenarioView:
    """A scenario as last seen. Moments of Tocsin's own doing (``polled_at``, ``status_read_at``) are on its clock."""

    key: ScenarioKey
    name: str
    tags: tuple[str, ...] = ()
    active: bool | None = None
    gone: bool = False
    watched_since: datetime | None = None
    polled_at: datetime | None = None  # when the last good poll began
    status_read_at: datetime | None = None  # when the request for `active` and `next_run` began
    next_run: datetime | None = None
    backfilled: bool = True


@dataclass(frozen=True, slots=True)
class FailedRun:
    """The last run of a scenario that failed with one error; ``failing``: no good run has ended since."""

    scenario: ScenarioView
    run: RunKey
    end: datetime
    failing: bool


def scenario_labels(scenario: ScenarioView, extra: Labels) -> Labels:
    """What a rule's ``match`` sees when no event is at hand; ``extra``: what the configuration adds."""
    return {
        **extra,
        "dss_node": scenario.key.node,
        "project": scenario.key.project,
        "scenario": scenario.key.scenario,
        "scenario_name": scenario.name,
        "tags": tags_label(scenario.tags),
    }


@dataclass(frozen=True, slots=True)
class MailReporter:
    """An active mail reporter of a scenario. Its texts and addresses are untrusted, kept as they came, and may hold DSS's
    ``${variables}``."""

    id: str
    name: str
    phase: Literal["START", "END"] = "END"
    condition: str | None = None  # None: at every run
    sender: str = ""
    recipient: str = ""  # a comma list, a JSON array, or {"mails": [{"to", "variables"}]}
    cc: str = ""
    bcc: str = ""
    subject: str = ""
    message: str = ""  # inline; empty: a template file
    template: str = ""  # the name of a template file of DSS
    freemarker: bool = True  # the message is a FreeMarker template; else DSS's formula language
    html: bool = False
    attachments: tuple[str, ...] = ()  # kinds: LOG, DATASET…


class StartState(StrEnum):
    PENDING = "pending"
    MET = "met"
    WITHDRAWN = "withdrawn"
    MISSED = "missed"


def may_meet(run: Run, at: datetime) -> bool:
    """Whether a run of a trigger's started at or after this expected start."""
    return at - EARLY <= run.start and run.trigger_type not in NOT_SCHEDULED


def keeps_triggers_off(run: Run, at: datetime) -> bool:
    """Whether a run was open when an expected start was due or would have been launched."""
    return any(run.start <= moment and (run.end is None or run.end >= moment) for moment in (at, at + LAUNCH_DELAY))


def match_starts(pending: Sequence[datetime], runs: Sequence[Run]) -> dict[datetime, StartState]:
    """Which expected starts these runs have met, and which are withdrawn because the scenario was running then.

    A run belongs to the latest expected start before it. One of another automatic trigger meets it too if it came soon
    after, since DSS keeps only the last of several triggers.
    """
    states: dict[datetime, StartState] = {}
    for run in runs:
        at = max((at for at in pending if may_meet(run, at)), default=None)
        if at is not None and (run.trigger_type in (None, "temporal") or run.start - at <= _MERGED):
            states[at] = StartState.MET
    withdrawn = [at for at in pending if at not in states and any(keeps_triggers_off(run, at) for run in runs)]
    return states | dict.fromkeys(withdrawn, StartState.WITHDRAWN)
