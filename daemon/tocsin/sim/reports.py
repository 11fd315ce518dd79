"""Test reports: JUnit XML and HTML of scenarios that are marked as tests, and their status. Pure."""

import re
from collections import Counter
from html import escape
from xml.etree import ElementTree

from tocsin.sim.behaviour import Document
from tocsin.sim.nouns import SimProject, SimRun, SimScenario

_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def junit_run(run: SimRun) -> str:
    """One run: a suite with a case for each step."""
    return _text(_suite(run, run.step_runs))


def junit_step(run: SimRun, step_id: str) -> str | None:
    """One step of a run, all its attempts; ``None`` if it did not run."""
    found = [step for step in run.step_runs if step["step"]["id"] == step_id]
    return _text(_suite(run, found)) if found else None


def junit_project(project: SimProject) -> str:
    """The last runs of all test scenarios of a project."""
    root = ElementTree.Element("testsuites", name=project.key)
    for _, run in last_test_runs(project):
        root.append(_suite(run, run.step_runs))
    return _text(root)


def html_report(project: SimProject) -> str:
    rows = "".join(
        f"<tr><td>{escape(scenario.id)}</td><td>{escape(run.id)}</td><td>{run.outcome}</td></tr>"
        for scenario, run in last_test_runs(project)
    )
    title = f"Test scenarios of {escape(project.key)}"
    head = "<tr><th>Scenario</th><th>Run</th><th>Outcome</th></tr>"
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>{title}</h1><table>{head}{rows}</table></body></html>"


def testing_status(project: SimProject) -> Document:
    outcomes = Counter(run.outcome for _, run in last_test_runs(project))
    return {"nbTotalRanScenarios": outcomes.total(), "nbScenariosPerOutcome": dict(outcomes)}


def last_test_runs(project: SimProject) -> list[tuple[SimScenario, SimRun]]:
    """Each test scenario that has run, with its last finished run."""
    tests = [s for s in project.scenarios.values() if s.definition.get("markedAsTest")]
    return [(s, run) for s in tests if (run := next(s.newest_first(finished_only=True), None)) is not None]


def _suite(run: SimRun, steps: list[Document]) -> ElementTree.Element:
    scenario = run.document["scenario"]
    failed = [step for step in steps if step.get("result", {}).get("outcome") == "FAILED"]
    suite = ElementTree.Element(
        "testsuite",
        name=f"{scenario['projectKey']}.{scenario['id']}",
        tests=str(len(steps)),
        failures=str(len(failed)),
        errors="0",
        skipped="0",
    )
    for step in steps:
        seconds = max(0, step["end"] - step["start"]) / 1000
        case = ElementTree.SubElement(
            suite, "testcase", name=step["step"]["name"], classname=scenario["id"], time=f"{seconds:.3f}"
        )
        if step in failed:
            thrown = first_error(step) or {"message": "failed", "stack": ""}
            ElementTree.SubElement(case, "failure", message=thrown["message"]).text = thrown["stack"]
    return suite


def first_error(step: Document) -> Document | None:
    """What a step threw: itself, else in one of its report items."""
    items = [step["result"], *step["additionalReportItems"]]
    return next((item["thrown"] for item in items if item.get("thrown") and item["outcome"] == "FAILED"), None)


def _text(root: ElementTree.Element) -> str:
    return _NOT_XML.sub("", ElementTree.tostring(root, encoding="unicode", xml_declaration=True))
