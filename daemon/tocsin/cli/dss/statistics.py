"""What the last runs of a scenario add up to. Pure."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from math import ceil

from tocsin.dss import DSSScenarioRun


def summary(runs: Sequence[DSSScenarioRun]) -> dict[str, object]:
    """Counts, rate and durations of finished runs, the newest first. Durations are those of SUCCESS and WARNING, since
    a run that failed early says nothing about how long a good one takes; None where there are none. ``last_…``: starts."""
    good = [run for run in runs if run.good]
    took = sorted(run.duration for run in good)
    return {
        "runs": len(runs),
        "outcomes": dict(Counter(run.outcome for run in runs).most_common()),
        "success_rate": round(len(good) / len(runs), 4) if runs else None,
        "mean_seconds": _seconds(sum(took) / len(took)) if took else None,
        "median_seconds": _quantile(took, 0.5),
        "p95_seconds": _quantile(took, 0.95),
        "max_seconds": _quantile(took, 1.0),
        "last_success": next((run.start_time for run in good), None),
        "last_failure": next((run.start_time for run in runs if run.outcome in ("FAILED", "UNKNOWN")), None),
    }


def _quantile(ascending: Sequence[float], share: float) -> timedelta | None:
    """The smallest duration that at least this share of runs stayed within."""
    return _seconds(ascending[ceil(share * len(ascending)) - 1]) if ascending else None


def _seconds(seconds: float) -> timedelta:
    return timedelta(milliseconds=round(seconds * 1000))
