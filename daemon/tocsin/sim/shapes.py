"""What a scenario definition must look like to be one: types of the fields that DSS itself reads. Pure.

DSS parses definitions into classes, so a text where a list belongs is refused, while unknown fields are kept. What
stands inside of ``params`` and ``configuration`` is read only where it is used.
"""

from collections.abc import Mapping

from tocsin.sim.behaviour import Document

Shape = Mapping[str, type | tuple[type, ...]]

_NUMBER = (int, float)
_TRIGGER: Shape = {"id": str, "type": str, "name": str, "active": bool, "delay": _NUMBER, "params": dict}
_MESSAGING: Shape = {"type": str, "configuration": dict}
_REPORTER: Shape = {
    "id": str, "name": str, "active": bool, "phase": str, "runConditionEnabled": bool, "runCondition": str,
    "messaging": dict,
}  # fmt: skip
_STEP: Shape = {
    "id": str, "name": str, "type": str, "enabled": bool, "params": dict, "runConditionType": str,
    "runConditionStatuses": list, "runConditionExpression": str, "resetScenarioStatus": bool,
    "maxRetriesOnFail": int, "delayBetweenRetries": _NUMBER,
}  # fmt: skip
_SCENARIO: Shape = {
    "id": str, "name": str, "type": str, "active": bool, "automationLocal": bool, "markedAsTest": bool,
    "shortDesc": str, "description": str, "tags": list, "checklists": dict, "customFields": dict, "runAsUser": str,
    "delayedTriggersBehavior": dict, "triggers": list, "reporters": list, "params": dict,
}  # fmt: skip


class BadDefinition(ValueError):
    """A definition whose parts have wrong types; the message names the first."""


def checked_definition(raw: Document) -> Document:
    """``raw`` without the fields that are null. Raises ``Misfit``."""
    document = _fit(raw, _SCENARIO, "")
    if not all(isinstance(tag, str) for tag in document.get("tags", ())):
        raise BadDefinition("tags holds something that is no text")
    for key, shape in (("triggers", _TRIGGER), ("reporters", _REPORTER)):
        if key in document:
            document[key] = _each(document[key], shape, key, needed=key == "triggers")
    for reporter in document.get("reporters", ()):
        if "messaging" in reporter:
            reporter["messaging"] = _fit(reporter["messaging"], _MESSAGING, "messaging.")
    if "params" in document and document["params"].get("steps") is not None:
        steps = _each(document["params"]["steps"], _STEP, "params.steps", needed=True)
        document["params"] = {**document["params"], "steps": steps}
    return document


def _each(items: object, shape: Shape, where: str, *, needed: bool) -> list[Document]:
    if not isinstance(items, list):
        raise BadDefinition(f"{where} must be a list")
    fit = [_fit(item, shape, f"{where}[{number}].") for number, item in enumerate(items)]
    for number, item in enumerate(fit):
        if needed and "type" not in item:
            raise BadDefinition(f"{where}[{number}] has no type")
    return fit


def _fit(raw: object, shape: Shape, where: str) -> Document:
    if not isinstance(raw, dict):
        raise BadDefinition(f"{where.rstrip('.') or 'it'} must be an object")
    fit = {key: value for key, value in raw.items() if value is not None or key not in shape}
    for key, kind in shape.items():
        if key in fit and (not isinstance(fit[key], kind) or (isinstance(fit[key], bool) and kind is not bool)):
            raise BadDefinition(f"{where}{key} has a value of the wrong type")
    return fit
