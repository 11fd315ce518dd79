"""Scenarios, runs and steps as rows; the keys are those of docs/cli.md and stay."""

from datetime import timedelta

from tocsin.cli.dss.address import shown
from tocsin.cli.dss.session import Target
from tocsin.dss import DSSScenarioRun, DSSStepRunDetails
from tocsin.dss.fields import mapping, moment, objects, text, texts
from tocsin.dss.wire import Raw

Item = dict[str, object]


def scenario_row(target: Target, item: Raw) -> Item:
    """From a list entry or a light status, which are alike."""
    return {
        **target.place,
        "name": text(item, "name") or target.id,
        "type": text(item, "type"),
        "active": bool(item.get("active")),
        "running": bool(item.get("running")),
        "start": moment(item, "start"),
        "next_run": moment(item, "nextRun"),
        "triggers": text(item, "triggerDigest") or None,
        "tags": texts(item.get("tags")),
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
        "end": None if run.running else moment(run.run, "end") or moment(mapping(run.run, "result"), "end"),
        "duration_seconds": timedelta(seconds=run.duration),
        "trigger": {"type": text(trigger, "type"), "name": text(trigger, "name")},
        "run_as": text(mapping(run.run, "runAsUser"), "realUserLogin"),
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
        "code": text(thrown, "code"),
        "title": text(thrown, "title"),
        "message": text(thrown, "message"),
        "class": text(thrown, "clazz"),
        "stack": text(thrown, "stack") or None,
    }


def reporter_row(target: Target, reporter: Raw) -> Item:
    """One of DSS's own reporters."""
    messaging = mapping(reporter, "messaging")
    configuration = mapping(messaging, "configuration")
    return {
        **target.place,
        "id": text(reporter, "id"),
        "name": text(reporter, "name") or "",
        "type": text(messaging, "type"),
        "active": bool(reporter.get("active")),
        "phase": text(reporter, "phase"),
        "condition": text(reporter, "runCondition") if reporter.get("runConditionEnabled") else None,
        "channel": text(configuration, "channelId"),
        "sender": text(configuration, "sender"),
        "recipients": next(
            (found for key in ("recipient", "channel", "toNumber") if (found := text(configuration, key))), None
        ),
    }


def trigger_row(trigger: Raw) -> Item:
    return {
        "id": text(trigger, "id"),
        "name": text(trigger, "name") or "",
        "type": text(trigger, "type"),
        "active": bool(trigger.get("active", True)),
        "params": mapping(trigger, "params"),
    }


def definition_steps(raw: Raw) -> list[Item]:
    """The steps of a definition, not of a run."""
    return [
        {
            "id": text(step, "id"),
            "name": text(step, "name"),
            "type": text(step, "type"),
            "enabled": bool(step.get("enabled", True)),
            "condition": text(step, "runConditionType"),
        }
        for step in objects(mapping(raw, "params").get("steps"))
    ]
