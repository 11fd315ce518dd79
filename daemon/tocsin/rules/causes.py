"""The rule about many scenarios of a node that fail with one error: ``common_cause``. Its alert inhibits theirs.

It keeps no state: it is evaluated from the rows of the failures and from its own alerts.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from tocsin.kit.clock import format_utc, isoformat
from tocsin.model.alert import Alert, EndReason
from tocsin.model.rule_state import AlertRef, RuleState
from tocsin.model.scenario import FailedRun
from tocsin.rules.rule import AlertContent, CompiledRule, Fired, Resolved, RuleView, Updated

_MOST_NAMED = 50  # scenarios in the alert's texts
_LONGEST_ERROR = 200  # characters in the summary
MOST_PATIENCE = 12  # times group_wait that an alert waits in all, and no longer than the rules' ``within``


class CommonCauseRule(CompiledRule[RuleState]):
    state_type = RuleState
    about_nodes = True

    def evaluate_cause(
        self,
        cause: str,
        failures: Sequence[FailedRun],
        error: str,
        firing: Alert | None,
        dismissed_at: datetime | None,
        view: RuleView,
        now: datetime,
    ) -> Fired | Updated | Resolved | None:
        """What changes. ``failures``: the last of each scenario with this error, the oldest first; ``dismissed_at``: when
        the last alert of this cause was ended by hand, if it was lately."""
        within, least = self.config.within, self.config.least_scenarios
        if firing is None:
            newest = max((failure.end for failure in failures), default=view.now)
            after = max(filter(None, (dismissed_at, newest - within - timedelta(milliseconds=1))))
            members = [failure for failure in failures if failure.end > after]
            if len(members) < least or not _most_fail(members):
                return None
            starts_at, reference = members[least - 1].end, None
        else:
            members = [failure for failure in failures if failure.end >= firing.starts_at - within]
            if not _most_fail(members):
                return Resolved(firing.id, max(view.now, firing.starts_at), EndReason.RESOLVED)
            if len(members) <= firing.count:
                return None
            starts_at, reference = firing.starts_at, AlertRef(firing.id, firing.starts_at, "")
        alert = self._build_alert(self._content(cause, members, error, starts_at, view), view, now, reference)
        return Fired(alert) if firing is None else Updated(alert)

    def _content(
        self, cause: str, members: Sequence[FailedRun], error: str, starts_at: datetime, view: RuleView
    ) -> AlertContent:
        names = [f"{member.scenario.key.project} / {member.scenario.name}" for member in members[:_MOST_NAMED]]
        more = f" and {len(members) - _MOST_NAMED} more" if len(members) > _MOST_NAMED else ""
        listed = ", ".join(names) + more
        line = error.partition("\n")[0]
        short = line if len(line) <= _LONGEST_ERROR else line[: _LONGEST_ERROR - 1] + "…"
        return AlertContent(
            starts_at=starts_at,
            evidence="",
            summary=f"{view.node.node}: {len(members)} scenarios failed with one error: {short}",
            description=f"Since {format_utc(min(member.end for member in members))} {len(members)} scenarios failed with this "
            f"error: {error}\nThey are {listed}. Their own alerts are quiet while most of them still fail.",
            count=len(members),
            facts={"error": error, "scenarios": listed, "since": isoformat(min(member.end for member in members))},
            labels={"cause": cause},
        )


def _most_fail(members: Sequence[FailedRun]) -> bool:
    """Whether at least half of them still fail."""
    return bool(members) and 2 * sum(member.failing for member in members) >= len(members)
