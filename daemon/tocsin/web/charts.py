"""The figures of pages as plain numbers that templates draw as SVG. Pure.

Colours are never alone: every outcome has a shape or a sign of its own, and every mark a title.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median, quantiles
from typing import NamedTuple

from markupsafe import Markup, escape

from tocsin.kit.clock import human_duration
from tocsin.model.run import GOOD_OUTCOMES, Step
from tocsin.store.console import BARS, BarRun
from tocsin.store.explanation import StepRecord
from tocsin.store.query import RunRecord

OUTCOME_CLASSES = {"SUCCESS": "good", "WARNING": "warn", "FAILED": "bad", "UNKNOWN": "bad", "ABORTED": "stopped"}
SIGNS = {"good": "", "warn": "!", "bad": "×", "stopped": "–", "running": "▸"}
BAR_WIDTH, BAR_HEIGHT, BAR_STEP = 5, 18, 7
WIDTH, HEIGHT = 860, 190  # of the plot, without its labels
_TICKS = 5
_CUT = 4.0  # how many times the usual a duration may rise before it is cut


def kind_of(outcome: str | None, *, running: bool) -> str:
    return "running" if running else OUTCOME_CLASSES.get(outcome or "", "stopped")


def bars(runs: Sequence[BarRun], now: datetime) -> Markup:
    """The last runs of a scenario, the oldest first, at the right: as high as they took, the longest the highest."""
    runs = runs[-BARS:]
    seconds = [run.seconds if run.seconds is not None else max((now - run.start).total_seconds(), 0.0) for run in runs]
    longest = max([*seconds, 1.0])
    drawn, said = [], []
    for place, (run, took) in enumerate(zip(runs, seconds, strict=True), BARS - len(runs)):
        height, x = max(2, round(BAR_HEIGHT * took / longest)), place * BAR_STEP
        kind = kind_of(run.outcome, running=run.seconds is None)
        outcome = escape("running" if run.seconds is None else (run.outcome or "unknown").lower())
        sign = (
            f'<text class="label" x="{x + 2.5}" y="26" text-anchor="middle">{SIGNS[kind]}</text>' if SIGNS[kind] else ""
        )
        drawn.append(
            f"<g><title>{outcome}, {_words(took)}, {run.start:%Y-%m-%d %H:%M} UTC</title>"
            f'<rect class="{kind}" x="{x}" y="{BAR_HEIGHT - height}" width="{BAR_WIDTH}" height="{height}"/>{sign}</g>'
        )
        said.append(outcome)
    label = f"{len(runs)} runs, the newest last: {', '.join(said)}"
    width = BARS * BAR_STEP
    return Markup(f'<svg class="bars" viewBox="0 0 {width} 26" role="img" aria-label="{label}">{"".join(drawn)}</svg>')


class Usual(NamedTuple):
    """Seconds of the good runs: nine in ten take between ``low`` and ``high``."""

    low: float
    middle: float
    high: float


def usual(good: Sequence[float]) -> Usual | None:
    if not good:
        return None
    cuts = quantiles(good, n=20, method="inclusive") if len(good) > 1 else [good[0]] * 19
    return Usual(cuts[0], median(good), cuts[-1])


def weeks(runs: Sequence[RunRecord], now: datetime) -> tuple[float, float] | None:
    """The median seconds of the good runs of the last seven days and of the seven before; None without both."""
    by_week: tuple[list[float], list[float]] = ([], [])
    for run in runs:
        week = (now - run.start) // timedelta(days=7)
        if 0 <= week <= 1 and run.duration_seconds is not None and run.outcome in GOOD_OUTCOMES:
            by_week[week].append(run.duration_seconds)
    return (median(by_week[0]), median(by_week[1])) if all(by_week) else None


class Point(NamedTuple):
    run: RunRecord
    x: float
    y: float
    kind: str
    cut: bool
    title: str


@dataclass(frozen=True, slots=True)
class DurationChart:
    """Durations of runs, one beside the other in the order of time. ``band`` and ``middle`` are heights in the plot, ``rows`` lines with their labels."""

    points: tuple[Point, ...]
    band: tuple[float, float] | None
    middle: float | None
    rows: tuple[tuple[float, str], ...]
    moments: tuple[datetime, ...]


def durations(runs: Sequence[RunRecord], good: Sequence[float], now: datetime) -> DurationChart | None:
    """The chart of these runs, the newest first; None without any."""
    if not runs:
        return None
    normal = usual(good)
    took = [(run, max(((run.end or now) - run.start).total_seconds(), 0.0)) for run in reversed(runs)]
    highest = max([seconds for _, seconds in took] + [normal.high if normal else 0.0, 1.0])
    if normal is not None and normal.high > 0:
        highest = min(highest, max(normal.high * _CUT, 1.0))
    top = _round_up(highest * 1.05)

    def y(seconds: float) -> float:
        return round(HEIGHT - HEIGHT * min(seconds, top) / top, 1)

    points = []
    for place, (run, seconds) in enumerate(took):
        kind = kind_of(run.outcome, running=run.end is None)
        x = WIDTH / 2 if len(took) == 1 else 8 + (WIDTH - 16) * place / (len(took) - 1)
        what = "running for" if run.end is None else f"{(run.outcome or 'unknown').lower()} after"
        title = f"{run.start:%Y-%m-%d %H:%M} UTC: {what} {_words(seconds)}"
        points.append(Point(run, round(x, 1), y(seconds), kind, seconds > top, title))
    return DurationChart(
        tuple(points),
        None if normal is None else (y(normal.high), max(y(normal.low) - y(normal.high), 1.5)),
        None if normal is None else y(normal.middle),
        tuple((y(top * part), _words(top * part) if part else "0") for part in (0, 0.5, 1)),
        tuple(took[round((len(took) - 1) * number / (_TICKS - 1))][0].start for number in range(_TICKS)),
    )


_NICE = (1, 2, 5, 10, 15, 20, 30, 60, 90, 120, 180, 300, 600, 900, 1200, 1800, 2700, 3600, 5400, 7200, 10800, 14400, 21600,
         28800, 43200, 64800, 86400)  # fmt: skip


def _round_up(seconds: float) -> float:
    """The next number of seconds that reads well on an axis."""
    return next((nice for nice in _NICE if nice >= seconds), 86_400 * (int(seconds / 86_400) + 1))


LONGEST = timedelta.max.total_seconds() // 2


def _words(seconds: float) -> str:
    return human_duration(timedelta(seconds=min(seconds, LONGEST)))  # a row may say anything


class WaterfallStep(NamedTuple):
    name: str
    type: str
    kind: str
    outcome: str
    seconds: float | None
    x: float  # thousandths of the whole
    width: float


def waterfall(steps: Sequence[Step | StepRecord]) -> list[WaterfallStep]:
    """The steps of a run one after another, as DSS executes them; what they waited in between is not known."""
    spans: list[float | None] = []
    for step in steps:
        if isinstance(step, StepRecord):
            spans.append(step.duration_seconds)
        else:
            spans.append(None if step.duration is None else step.duration.total_seconds())
    whole, begun, rows = sum(span or 0 for span in spans) or 1.0, 0.0, []
    for step, span in zip(steps, spans, strict=True):
        width = 1000 * (span or 0) / whole
        kind = kind_of(step.outcome, running=step.outcome is None and span is None)
        rows.append(WaterfallStep(step.name or step.type or "step", step.type or "", kind, (step.outcome or "").lower(), span,
                                  round(min(1000 * begun / whole, 996), 1), round(max(width, 4), 1)))  # fmt: skip
        begun += span or 0
    return rows
