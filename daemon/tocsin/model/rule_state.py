"""The state of a rule for one scenario or node between two evaluations. Without a row it is healthy."""

from datetime import datetime

import msgspec

from tocsin.model.run import RunKey

# Of all states. An older row is read as it is: fields are only added, with values that hold for it. What a newer
# version wrote is not read, and the alert that it held open ends as unwatched.
STATE_VERSION = 1


class AlertRef(msgspec.Struct, frozen=True):
    alert_id: str
    starts_at: datetime
    evidence: str  # what it fires for; see ``RuleState.dismissed``


class RuleState(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """``dismissed`` names the evidence whose alert was resolved by hand: it does not fire again."""

    firing: AlertRef | None = None
    dismissed: str | None = None


class FailedState(RuleState, frozen=True, kw_only=True, tag="failed"):
    """A streak of failures; ``good`` counts the good runs after it while it still fires."""

    failures: int = 0
    good: int = 0
    first: datetime | None = None  # the end of the streak's first failure
    crossed: datetime | None = None  # the end of the failure that made it fire
    recovered: datetime | None = None  # the good run that ended the streak, until the alert has resolved
    run: RunKey | None = None  # the latest failure
    outcome: str | None = None
    previous: str | None = None  # the outcome before the streak
    url: str | None = None
    turns: tuple[datetime, ...] = ()  # the latest changes between good and bad; of rules with `flapping`
    flapping: datetime | None = None  # since when


class MissedState(RuleState, frozen=True, kw_only=True, tag="missed"):
    """Starts that did not come since the last one that did."""

    count: int = 0
    first: datetime | None = None
    last: datetime | None = None
    due: datetime | None = None  # when the first of them counted as missed
    met: datetime | None = None  # the next start, until the alert has resolved
    last_counted: datetime | None = None  # the latest expected start that this rule has counted


class OverlongState(RuleState, frozen=True, kw_only=True, tag="overlong"):
    """``limit`` is the moment from which the open run is overlong, once that is known."""

    run: RunKey | None = None
    limit: datetime | None = None
    usual_seconds: float | None = None
    ended: datetime | None = None  # the run's end, until the alert has resolved
    url: str | None = None


class StaleState(RuleState, frozen=True, kw_only=True, tag="stale"):
    """When the scenario was last known good, or began to be watched or active."""

    since: datetime | None = None
    good: bool = False  # whether `since` is a good run's end
    off: bool = False  # seen inactive; counts anew from its activation


class ShortState(RuleState, frozen=True, kw_only=True, tag="short"):
    """The last good run, until its duration has been compared, and while its alert fires."""

    run: RunKey | None = None
    end: datetime | None = None
    url: str | None = None


class DeadlineState(RuleState, frozen=True, kw_only=True, tag="deadline"):
    """``since``: deadlines after it count. What began or ended last makes a prediction be made anew."""

    since: datetime | None = None
    good: datetime | None = None  # the end of the last good run
    latest: str | None = None  # the run that began or ended last
    unscheduled: bool = False  # that run was started by no trigger: the scenario's own switch says nothing


class NodeDownState(RuleState, frozen=True, kw_only=True, tag="node_down"):
    since: datetime | None = None
    reason: str | None = None
    up: datetime | None = None  # the node's return, until the alert has resolved


class StalledState(RuleState, frozen=True, kw_only=True, tag="stalled"):
    since: datetime | None = None  # the earliest of the missed starts
    last: datetime | None = None
    missed: int = 0
    expected: int = 0
    over: datetime | None = None  # a later start that came, until the alert has resolved


AnyRuleState = (
    FailedState | MissedState | OverlongState | StaleState | ShortState | DeadlineState | NodeDownState | StalledState
)
