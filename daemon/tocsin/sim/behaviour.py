"""What an emulated scenario acts out: how long its runs take, how they end, and with which errors and warnings.

A scenario with a behaviour executes nothing. Bad input raises ``BadWorld`` with the place.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from tocsin.kit.clock import BadDuration, parse_duration

Document = dict[str, Any]  # JSON as DSS writes it: the emulator keeps such documents as they are

OUTCOMES = ("SUCCESS", "WARNING", "FAILED", "ABORTED")
_ERROR: Document = {
    "clazz": "com.dataiku.common.server.APIError$SerializedErrorException",
    "title": "The step failed",
    "message": "Process died (exit code: 1), check the logs for more information",
    "stack": "",
}
_WARNING = "A check returned a warning"


class SimError(Exception):
    """An error as DSS words it: the answer to a request with ``status``, or what a step has ``thrown``."""

    status = 400
    clazz = "java.lang.IllegalArgumentException"

    def __init__(self, message: str, clazz: str = "", code: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.clazz = clazz or self.clazz
        self.code = code
        self.status = status or self.status

    @property
    def thrown(self) -> Document:
        error = {"clazz": self.clazz, "title": self.clazz.rpartition(".")[2], "message": str(self)}
        return {**error, "stack": f"{self.clazz}: {self}", **({"code": self.code} if self.code else {})}


class BadWorld(SimError):
    """A world description that cannot be understood; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Span:
    low: timedelta = timedelta(seconds=2)
    high: timedelta = timedelta(seconds=2)

    def draw(self, rng: random.Random) -> timedelta:
        return self.low + (self.high - self.low) * rng.random()

    @classmethod
    def parse(cls, raw: object, where: str) -> "Span":
        """``12s`` or ``[8s, 20s]``."""
        low, high = raw if isinstance(raw, list) and len(raw) == 2 else (raw, raw)
        try:
            span = cls(parse_duration(str(low)), parse_duration(str(high)))
        except BadDuration as error:
            raise BadWorld(f"{where}: {error}") from None
        if span.high < span.low:
            raise BadWorld(f"{where}: {high} is shorter than {low}")
        return span


@dataclass(frozen=True, slots=True)
class Outcomes:
    names: tuple[str, ...] = ("SUCCESS",)
    weights: tuple[float, ...] | None = None  # None: a cycle of the names

    def draw(self, turn: int, rng: random.Random) -> str:
        if self.weights is None:
            return self.names[turn % len(self.names)]
        return rng.choices(self.names, self.weights)[0]

    @classmethod
    def parse(cls, raw: object, where: str) -> "Outcomes":
        """``SUCCESS``, ``FAILED, SUCCESS`` or a list (a cycle); ``{SUCCESS: 0.9, FAILED: 0.1}`` (weights)."""
        weights: tuple[float, ...] | None = None
        if isinstance(raw, Mapping):
            if not all(isinstance(w, int | float) and w >= 0 for w in raw.values()) or not any(raw.values()):
                raise BadWorld(f"{where}: weights are numbers of which one is above 0")
            weights = tuple(float(weight) for weight in raw.values())
        items = list(raw) if isinstance(raw, Mapping | list) else str(raw).split(",")
        names = tuple(str(item).strip() for item in items)
        if not names or (unknown := [name for name in names if name not in OUTCOMES]):
            raise BadWorld(f"{where}: {', '.join(unknown) or 'nothing'} is no outcome; known: {', '.join(OUTCOMES)}")
        return cls(names, weights)


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """How a step, a job or a script ended."""

    outcome: str = "SUCCESS"
    thrown: Document | None = None
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class StepPlan(ExecutionResult):
    duration: timedelta = timedelta(seconds=1)
    log: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class HistorySpec:
    """The runs a scenario has had before the world began."""

    runs: int
    every: Span | None = None  # None: at the occurrences of the scenario's first temporal trigger
    outcomes: Outcomes | None = None  # None: those of the behaviour


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What one scenario acts out. ``raw`` is what it was read from, so that it can be stored."""

    raw: Document = field(default_factory=dict)
    duration: Span = Span()
    outcomes: Outcomes = Outcomes()
    every: Span | None = None
    first: Span | None = None
    fails_at: str | None = None
    errors: tuple[Document, ...] = (_ERROR,)
    warnings: tuple[str, ...] = (_WARNING,)
    log: tuple[str, ...] = ()
    history: HistorySpec | None = None

    @classmethod
    def parse(cls, raw: object, where: str) -> "Behaviour":
        known = {"duration", "outcomes", "every", "first", "fails_at", "errors", "warnings", "log", "history"}
        data = checked_keys(raw, known, where)
        return cls(
            raw=dict(data),
            **_parsed(data, where, duration=Span, every=Span, first=Span, outcomes=Outcomes),
            fails_at=data.get("fails_at"),
            errors=tuple(_error(error, f"{where}.errors") for error in as_list(data.get("errors"))) or (_ERROR,),
            warnings=tuple(str(warning) for warning in as_list(data.get("warnings"))) or (_WARNING,),
            log=tuple(str(line) for line in as_list(data.get("log"))),
            history=_history(data.get("history"), f"{where}.history"),
        )

    def plan(self, outcome: str, turn: int, steps: Sequence[Document], rng: random.Random) -> dict[str, StepPlan]:
        """The plan of each step, by id, in a run that is to end with ``outcome``; they share the duration evenly."""
        ids = [step["id"] for step in steps] or [""]
        named = [step["id"] for step in steps if self.fails_at in (step["id"], step.get("name"))]
        culprit = named[0] if named else rng.choice(ids)
        each = self.duration.draw(rng) / len(ids)
        plans = {step_id: StepPlan(duration=each, log=self.log) for step_id in ids}
        if outcome != "SUCCESS":
            thrown = self.errors[turn % len(self.errors)] if outcome == "FAILED" else None
            warnings = self.warnings if outcome == "WARNING" else ()
            tail = thrown["stack"].splitlines() if thrown else ()
            plans[culprit] = StepPlan(outcome, thrown, warnings, each, [*self.log, *tail])
        return plans


def checked_keys(raw: object, known: set[str], where: str) -> Document:
    """``raw`` as an object that holds no other keys than ``known``. Raises ``BadWorld``."""
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise BadWorld(f"{where}: expected keys and values, found {type(raw).__name__}")
    if unknown := sorted(str(key) for key in raw if key not in known):
        raise BadWorld(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return raw


def as_list(raw: object) -> list[Any]:
    """A list as it is, nothing as an empty one, anything else alone in one."""
    return raw if isinstance(raw, list) else [] if raw is None else [raw]


def _parsed(data: Document, where: str, **kinds: "type[Span] | type[Outcomes]") -> Document:
    return {key: kind.parse(data[key], f"{where}.{key}") for key, kind in kinds.items() if key in data}


def _error(raw: object, where: str) -> Document:
    known = {"clazz", "title", "message", "stack", "code", "fixability"}
    data = checked_keys({"message": raw} if isinstance(raw, str) else raw, known, where)
    error = {**_ERROR, **data}
    return {**error, "stack": data.get("stack") or f"{error['clazz']}: {error['message']}"}


def _history(raw: object, where: str) -> HistorySpec | None:
    data = checked_keys(raw, {"runs", "every", "outcomes"}, where)
    runs = data.get("runs", 30)
    if not isinstance(runs, int) or runs < 0:
        raise BadWorld(f"{where}.runs: {runs!r} is not a number of runs")
    return HistorySpec(runs, **_parsed(data, where, every=Span, outcomes=Outcomes)) if data else None
