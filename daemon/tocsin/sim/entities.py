"""What a world consists of: projects, scenarios, their fires, runs, jobs and logs; each keeps its document as DSS writes it."""

import asyncio
import copy
import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from tocsin.kit.clock import from_ms, to_ms
from tocsin.sim.behaviour import Behaviour, Document, SimError, as_list
from tocsin.sim.clock import Alarm
from tocsin.sim.schedule import BadTrigger, TemporalTrigger

_TAIL_LINES = 50
V = TypeVar("V")


class NoSuchObject(SimError):
    """An object that does not exist; the message names it as DSS would."""

    status = 404
    clazz = "com.dataiku.dip.server.controllers.NotFoundException"


@dataclass(slots=True, eq=False)
class SimLog:
    """The log of a run or a job, written in DSS's layout only when it is read."""

    thread: str
    lines: list[tuple[int, str, str, str, str]] = field(default_factory=list)  # moment (ms), text, logger, level, step

    def add(self, at: datetime, message: str, logger: str, level: str = "INFO", step: str = "") -> None:
        at_ms = to_ms(at)
        self.lines.extend((at_ms, line, logger, level, step) for line in message.splitlines() or [""])

    def written(self, zone: ZoneInfo, step: str | None = None) -> list[str]:
        """All lines, or those of one step, as they stand in DSS's files."""
        return [
            f"[{local_stamp(from_ms(at), zone, '%Y/%m/%d-%H:%M:%S.')}] [{self.thread}] [{level}] [{logger}]  - {line}"
            for at, line, logger, level, line_step in self.lines
            if step is None or line_step == step
        ]

    def text(self, zone: ZoneInfo, step: str | None = None) -> str:
        return "".join(f"{line}\n" for line in self.written(zone, step))

    def tail(self, zone: ZoneInfo, step: str | None = None) -> Document:
        lines = self.written(zone, step)
        return {"totalLines": len(lines), "lines": lines[-_TAIL_LINES:], "status": [0], "maxLevel": 0}


@dataclass(slots=True, eq=False)
class LiveHandle:
    """The events that stop a run or job and tell of its end; finished ones hold none, since history is long."""

    abort: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class SimRun:
    document: Document
    future_id: str
    step_runs: list[Document] = field(default_factory=list)
    variables: Document = field(default_factory=dict)  # defined by its steps
    live: LiveHandle | None = None
    log: SimLog = field(init=False)

    def __post_init__(self) -> None:
        self.log = SimLog(f"ScenarioThread-{self.future_id}")

    @property
    def id(self) -> str:
        return str(self.document["runId"])

    @property
    def start(self) -> datetime:
        return from_ms(self.document["start"])

    @property
    def end(self) -> datetime:  # the epoch while it runs
        return from_ms(self.document["end"])

    @property
    def ended(self) -> bool:
        return "result" in self.document

    @property
    def outcome(self) -> str:  # empty while it runs
        return str(self.document.get("result", {}).get("outcome", ""))


@dataclass(slots=True, eq=False)
class TriggerFire:
    document: Document
    variables: Document = field(default_factory=dict)  # handed over by a parent scenario
    run: SimRun | None = None
    alarm: Alarm | None = None
    imminent: bool = False  # about to launch: nothing may take its place
    settled: asyncio.Event | None = None  # set once it is launched or cancelled; None if nobody can wait

    def cancel(self) -> None:
        self.document["cancelled"] = True
        if self.settled is not None:
            self.settled.set()
        if self.alarm is not None:
            self.alarm.cancel()


@dataclass(slots=True, eq=False)
class SimJob:
    id: str
    definition: Document
    start: int
    login: str
    end: int = 0
    state: str = "RUNNING"
    failure: Document | None = None
    live: LiveHandle | None = None
    log: SimLog = field(init=False)

    def __post_init__(self) -> None:
        self.log = SimLog(f"FRT-{self.id[-6:]}")


@dataclass(slots=True, eq=False)
class SimScenario:
    """One scenario with its history, oldest run first, and the fires that wait to become a run."""

    definition: Document
    rng: random.Random
    behaviour: Behaviour | None = None
    payload: str = ""
    runs: dict[str, SimRun] = field(default_factory=dict)
    fires: dict[tuple[str, str], TriggerFire] = field(default_factory=dict)
    discussions: dict[str, Document] = field(default_factory=dict)
    current: SimRun | None = None
    waiting: TriggerFire | None = None  # promoted, or about to launch
    delayed: list[TriggerFire] = field(default_factory=list)  # for the end of the current run
    turns: int = 0  # runs planned so far: the place in the outcome cycle
    temporals: list[tuple[Document, TemporalTrigger]] = field(default_factory=list)
    follows: list[tuple[Document, tuple[str, str]]] = field(default_factory=list)
    evaluated: dict[str, datetime] = field(default_factory=dict)  # id of a temporal trigger → evaluated until
    occurrence_alarm: Alarm | None = None
    spontaneous_alarm: Alarm | None = None
    trigger_error: str = ""  # why a temporal trigger cannot be read
    frozen: Document | None = None  # the definition as it stands in the runs that began since its last change

    @property
    def id(self) -> str:
        return str(self.definition["id"])

    @property
    def project_key(self) -> str:
        return str(self.definition["projectKey"])

    @property
    def busy(self) -> bool:
        """Whether a new fire finds the scenario running, or about to."""
        waiting = self.waiting
        launching = waiting is not None and waiting.imminent and not waiting.document["cancelled"]
        return self.current is not None or launching

    @property
    def steps(self) -> list[Document]:
        return as_list(self.definition["params"].get("steps"))

    def read_triggers(self, zone: ZoneInfo) -> None:
        """Read the triggers of a changed definition; temporal ones that make no sense never fire."""
        self.frozen = None
        self.temporals, self.follows, self.trigger_error = [], [], ""
        for trigger in self.definition["triggers"]:
            params = trigger["params"]
            if trigger["active"] and trigger["type"] == "temporal":
                try:
                    self.temporals.append((trigger, TemporalTrigger.parse(params, zone)))
                except BadTrigger as error:
                    self.trigger_error = str(error)
            elif trigger["active"] and trigger["type"] == "follow_scenariorun":
                followed = (str(params.get("projectKey") or self.project_key), str(params.get("scenarioId")))
                self.follows.append((trigger, followed))

    def next_occurrence(self, now: datetime) -> datetime | None:
        temporals = self.temporals if self.definition["active"] else ()
        return min((at for _, temporal in temporals if (at := temporal.after(now))), default=None)

    def snapshot(self) -> Document:
        if self.frozen is None:
            self.frozen = copy.deepcopy(self.definition)
        return self.frozen

    def when_running(self, switch: str) -> bool:
        return bool((self.definition.get("delayedTriggersBehavior") or {}).get(switch))

    def newest_first(self, finished_only: bool = False) -> Iterator[SimRun]:
        return (run for run in reversed(self.runs.values()) if run.ended or not finished_only)

    def trim(self, limit: int) -> list[str]:
        """Drop the oldest runs beyond ``limit``, and old fires. The ids of the runs that were dropped."""
        surplus = len(self.runs) - limit
        dropped = list(itertools.islice((key for key, run in self.runs.items() if run.ended), max(0, surplus)))
        for key in dropped:
            del self.runs[key]
        if len(self.fires) > 2 * limit + 20:
            self.fires = {
                key: fire
                for key, fire in self.fires.items()
                if (not fire.document["cancelled"] if fire.run is None else fire.run.id in self.runs)
            }
        return dropped


@dataclass(slots=True, eq=False)
class SimProject:
    document: Document  # summary and settings
    variables: Document = field(default_factory=lambda: {"standard": {}, "local": {}})
    scenarios: dict[str, SimScenario] = field(default_factory=dict)
    jobs: dict[str, SimJob] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return str(self.document["projectKey"])

    def scenario(self, scenario_id: str) -> SimScenario:
        return look_up(self.scenarios, scenario_id, "scenario", f"{self.key}.{scenario_id}")

    def jobs_of(self, run: SimRun) -> list[SimJob]:
        items = (item for step in run.step_runs for item in step["additionalReportItems"])
        return [self.jobs[item["jobId"]] for item in items if item.get("jobId") in self.jobs]


def look_up(items: Mapping[Any, V], key: object, kind: str, name: str) -> V:
    if key not in items:
        raise NoSuchObject(f"{kind} does not exist: {name}")
    return items[key]


def local_stamp(moment: datetime, zone: tzinfo, layout: str = "%Y-%m-%d-%H-%M-%S-") -> str:
    """A moment in the server's local time with milliseconds; in the first layout it is a run's id."""
    local = moment.astimezone(zone)
    return f"{local:{layout}}{local.microsecond // 1000:03d}"
