"""Scenarios, runs and steps as rows; the keys are those of docs/cli.md and stay."""

from datetime import timedelta

from tocsin.cli.dss.address import shown
from tocsin.cli.dss.session import Target
from tocsin.dss import DSSScenarioRun, DSSStepRunDetails
from tocsin.dss.fields import get_object, get_text, get_time, only_objects, only_texts
from tocsin.dss.wire import Raw

Item = dict[str, object]


def scenario_row(target: Target, item: Raw) -> Item:
    """From a list entry or a light status, which are alike."""
    return {
        **target.place,
        "name": get_text(item, "name") or target.id,
        "type": get_text(item, "type"),
        "active": bool(item.get("active")),
        "running": bool(item.get("running")),
        "start": get_time(item, "start"),
        "next_run": get_time(item, "nextRun"),
        "triggers": get_text(item, "triggerDigest") or None,
        "tags": only_texts(item.get("tags")),
        "test": bool(item.get("markedAsTest")),
    }


def run_row(target: Target, run: DSSScenarioRun) -> Item:
    trigger = run.trigger
    return {
        **target.place,
        "address": shown(target.node, target.project, target.id, run.id),
        "run": run.id,
        "outcome": None if run.running else run.outcome,
        "start": run.start_time,
        "end": None if run.running else get_time(run.run, "end") or get_time(get_object(run.run, "result"), "end"),
        "duration_seconds": timedelta(seconds=run.duration),
        "trigger": {"type": get_text(trigger, "type"), "name": get_text(trigger, "name")},
        "run_as": get_text(get_object(run.run, "runAsUser"), "realUserLogin"),
    }


def step_row(step: DSSStepRunDetails) -> Item:
    duration = step.duration
    return {
        "id": step.id,
        "name": step.name,
        "type": step.type,
        "outcome": step.outcome,
        "start": step.start_time,
        "end": step.end_time,
        "duration_seconds": None if duration is None else timedelta(seconds=duration),
        "job_ids": step.job_ids,
    }


def error_row(step: DSSStepRunDetails, thrown: Raw) -> Item:
    return {
        "step": step.name or step.id,
        "code": get_text(thrown, "code"),
        "title": get_text(thrown, "title"),
        "message": get_text(thrown, "message"),
        "class": get_text(thrown, "clazz"),
        "stack": get_text(thrown, "stack") or None,
    }


def reporter_row(target: Target, reporter: Raw) -> Item:
    """One of DSS's own reporters."""
    messaging = get_object(reporter, "messaging")
    configuration = get_object(messaging, "configuration")
    return {
        **target.place,
        "id": get_text(reporter, "id"),
        "name": get_text(reporter, "name") or "",
        "type": get_text(messaging, "type"),
        "active": bool(reporter.get("active")),
        "phase": get_text(reporter, "phase"),
        "condition": get_text(reporter, "runCondition") if reporter.get("runConditionEnabled") else None,
        "channel": get_text(configuration, "channelId"),
        "sender": get_text(configuration, "sender"),
        "recipients": next(
            (found for key in ("recipient", "channel", "toNumber") if (found := get_text(configuration, key))), None
        ),
    }


def trigger_row(trigger: Raw) -> Item:
    return {
        "id": get_text(trigger, "id"),
        "name": get_text(trigger, "name") or "",
        "type": get_text(trigger, "type"),
        "active": bool(trigger.get("active", True)),
        "params": get_object(trigger, "params"),
    }


def definition_steps(raw: Raw) -> list[Item]:
    """The steps of a definition, not of a run."""
    return [
        {
            "id": get_text(step, "id"),
            "name": get_text(step, "name"),
            "type": get_text(step, "type"),
            "enabled": bool(step.get("enabled", True)),
            "condition": get_text(step, "runConditionType"),
        }
        for step in only_objects(get_object(raw, "params").get("steps"))
    ]
