"""The words of alerts: short plain English, the same on every evaluation of the same state."""

import re
from collections.abc import Mapping

from tocsin.rules.view import View

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def place(view: View) -> str:
    """What the alert speaks of: ``prod: SALES / Nightly``, or the node's name alone."""
    if view.scenario is None:
        return view.node.node
    return f"{view.scenario.key.node}: {view.scenario.key.project} / {view.scenario.name}"


def times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count} times"


def fill(text: str, values: Mapping[str, str]) -> str:
    """A rule's own annotation with ``${name}`` filled in; names that are not known stay as they are."""
    return _VARIABLE.sub(lambda found: values.get(found[1], found[0]), text)
