"""DSS's ``${variables}`` in subjects and messages of reporters. Pure.

Names are those of DSS's templates. A text may hold them, Jinja2, or both: a known ``${name}`` becomes a Jinja2
expression, so that its value is escaped like any other; an unknown one stays as it is and is reported.
"""

import re
from collections.abc import Callable, Collection

from tocsin.deliver.context import Facts
from tocsin.kit.clock import format_utc, to_ms
from tocsin.model.event import EventName, dss_variables
from tocsin.model.notification import EventNotice, Notice

_VARIABLE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
_EXPRESSION = re.compile(r"\$\{[^{}]*\}")


def fill(text: str, known: Collection[str], write: Callable[[str], str]) -> tuple[str, list[str]]:
    """``${name}`` → what ``write`` makes of a known name; and the unknown ones, which stay as they are."""
    unknown = [found[0] for found in _EXPRESSION.finditer(text) if found[0][2:-1] not in known]
    filled = _VARIABLE.sub(lambda found: write(found[1]) if found[1] in known else found[0], text)
    return filled, list(dict.fromkeys(unknown))


def message_variables(notice: Notice, facts: Facts) -> dict[str, str]:
    """What is known by DSS's own names; empty for groups and summaries, which DSS does not have."""
    if not isinstance(notice, EventNotice):
        return {}
    event, run = notice.event, notice.event.run
    known = {"scenarioRunURL": "", "dssURL": ""} | dss_variables(event)
    if run is None or event.name is EventName.RUN_STARTED:
        known["outcome"] = "N/A"
    if run is not None:
        known |= {
            "scenarioRunId": run.run_id,
            "scenarioStart": format_utc(run.start),
            "scenarioEnd": format_utc(run.end) if run.end else "",
            "scenarioTriggerTime": str(to_ms(run.start)),
        }
        details = facts.details.get(run.key)
        for step in details.steps if details else ():
            if step.name:
                known[f"stepOutcome_{step.name}"] = step.outcome or ""
    return known | {f"mailVariables_{name}": value for name, value in notice.variables.items()}
