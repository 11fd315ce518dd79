"""DSS's ``${variables}`` in subjects and messages of reporters. Pure.

Names are those of DSS's templates. A text may hold them, Jinja2, or both: a known ``${name}`` becomes a Jinja2
expression, so that its value is escaped like any other; an unknown one stays as it is and is reported.
"""

import re
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from tocsin.deliver.context import Facts, moment
from tocsin.kit.clock import to_ms
from tocsin.model.event import EventName
from tocsin.model.notification import EventNotice, Notice

_VARIABLE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
_EXPRESSION = re.compile(r"\$\{[^{}]*\}")


def fill(text: str, known: Collection[str], write: Callable[[str], str]) -> tuple[str, list[str]]:
    """``${name}`` → what ``write`` makes of a known name; and the unknown ones, which stay as they are."""
    unknown = [found[0] for found in _EXPRESSION.finditer(text) if found[0][2:-1] not in known]
    filled = _VARIABLE.sub(lambda found: write(found[1]) if found[1] in known else found[0], text)
    return filled, list(dict.fromkeys(unknown))


def dss_variables(notice: Notice, facts: Facts) -> dict[str, str]:
    """What is known by DSS's own names; empty for groups and summaries, which DSS does not have."""
    if not isinstance(notice, EventNotice):
        return {}
    event, run, scenario = notice.event, notice.event.run, notice.event.scenario
    known = {
        "projectKey": event.project or "",
        "scenarioProjectKey": event.project or "",
        "scenarioId": scenario.id if scenario else "",
        "scenarioName": scenario.name if scenario else "",
        "outcome": (run.outcome or "") if run and event.name is not EventName.RUN_STARTED else "N/A",
        "triggerName": (run.trigger_name or "") if run else "",
        "triggerType": (run.trigger_type or "") if run else "",
        "scenarioRunURL": event.run_url or "",
        "dssURL": _base(event.run_url),
    }
    if run is not None:
        known |= {
            "scenarioRunId": run.run_id,
            "scenarioStart": moment(run.start),
            "scenarioEnd": moment(run.end) if run.end else "",
            "scenarioTriggerTime": str(to_ms(run.start)),
        }
        if run.fire_id:
            known["scenarioTriggerRunId"] = run.fire_id
        details = facts.details.get(run.key)
        for step in details.steps if details else ():
            if step.name:
                known[f"stepOutcome_{step.name}"] = step.outcome or ""
    return known | {f"mailVariables_{name}": value for name, value in notice.variables.items()}


def _base(url: str | None) -> str:
    if not url:
        return ""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path.partition('/projects/')[0]}"
