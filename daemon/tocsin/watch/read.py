"""From DSS's JSON to Tocsin's nouns, with tolerance: no reply can stop a poll.

An item that makes no sense (no id, no start, another scenario's) is counted, the others are read. Texts come out fit
for any database: without NUL and lone surrogates, and of bounded length.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Generic, TypeVar

from tocsin.dss import DSSScenarioRunDetails
from tocsin.dss.fields import get_object, get_text, get_time, only_objects, only_texts
from tocsin.dss.wire import Raw
from tocsin.kit.clock import to_ms
from tocsin.kit.strings import json_beginning, storable
from tocsin.model.event import FailedReporter
from tocsin.model.run import Details, Outcome, Run, RunError, RunKey, RunWarning, ScenarioKey, Step
from tocsin.model.scenario import MailReporter

T = TypeVar("T")

FOLLOW = "follow_scenariorun"

_RESULT_WAIT = timedelta(minutes=10)  # a run with an end, or with a successor, but no result counts as running so long
_ID_LENGTH = 512
_NAME_LENGTH = 1_000
_TEXT_LENGTH = 8_000
_LIST_LENGTH = 50_000  # of a list of recipients, and of a reporter's message
_LOG_LENGTH = 64_000
_EXAMPLE_LENGTH = 200
_MOST_STEPS = 500
_MOST_REPORTERS = 20
_MOST = 200  # tags of a scenario, jobs of a step, scenarios that one follows, lines of a step's log


@dataclass(frozen=True, slots=True)
class ParsedList(Generic[T]):
    """The items of a list that make sense, how many do not, how the first of those begins, and a hash of each."""

    items: tuple[T, ...]
    invalid: int = 0
    example: str = ""
    unreadable: frozenset[int] = field(default=frozenset(), compare=False)


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run in a poll's reply. ``run.end`` is None until the run has a result."""

    run: Run
    failed_reporters: tuple[FailedReporter, ...] = ()
    follows: tuple[tuple[str, str], ...] | None = None  # [project, scenario] pairs; None: the reply does not say
    mail_reporters: tuple[MailReporter, ...] | None = None  # None: not asked for, or the reply does not say


@dataclass(frozen=True, slots=True)
class ListedScenario:
    """A scenario in its project's list. What the list does not say is None."""

    key: ScenarioKey
    name: str
    tags: tuple[str, ...] = ()
    type: str | None = None
    active: bool | None = None
    running: str | None = None  # names the run that the list says is running; None: idle
    next_run: datetime | None = None
    run_as: str | None = None


@dataclass(frozen=True, slots=True)
class ListedProject:
    key: str
    name: str | None = None
    created: datetime | None = None


def read_runs(
    raw: object, scenario: ScenarioKey, now: datetime, *, mail_reporters: bool = False
) -> ParsedList[ListedRun]:
    """The runs of a poll's reply, each once, the newest first. ``now`` is DSS's; ``mail_reporters``: read those too.

    DSS runs a scenario once at a time: a run without a result that has long had a successor was lost with its node.
    """
    parsed = _parse(raw, lambda item: _read_run(item, scenario, now, mail_reporters))
    unique: dict[RunKey, ListedRun] = {}
    for listed in parsed.items:
        if (known := unique.get(listed.run.key)) is None or known.run.end is None:
            unique[listed.run.key] = listed
    items = newest_first(unique.values())
    for number, (newer, listed) in enumerate(pairwise(items), 1):
        if listed.run.end is None and now - newer.run.start >= _RESULT_WAIT:
            items[number] = replace(listed, run=replace(listed.run, end=newer.run.start, outcome=Outcome.UNKNOWN))
    return replace(parsed, items=tuple(items))


def _read_run(raw: Raw, scenario: ScenarioKey, now: datetime, mail_reporters: bool) -> ListedRun | None:
    copy = get_object(raw, "scenario")
    run_id, start = _id(raw, "runId"), get_time(raw, "start")
    foreign = (get_text(copy, "id") or scenario.scenario) != scenario.scenario
    if run_id is None or start is None or foreign:
        return None
    result = get_object(raw, "result")
    end = get_time(raw, "end") or get_time(result, "end")
    if result and end is None:
        return None
    ended = bool(result) or (end is not None and now - end >= _RESULT_WAIT)
    fire = get_object(raw, "trigger")
    trigger = get_object(fire, "trigger")
    has_triggers = isinstance(copy.get("triggers"), list)
    follows = read_follows(copy if has_triggers else {"triggers": [trigger]}, scenario.project)
    users = [get_object(raw, "runAsUser"), get_object(raw, "effectiveUser")]
    logins = [get_text(user, "realUserLogin") or get_text(get_object(user, "apiKey"), "label") for user in users]
    run = Run(
        scenario,
        run_id,
        start,
        end=end if ended else None,
        outcome=(_text(result, "outcome", 64) or Outcome.UNKNOWN) if ended else None,
        trigger_type=_text(trigger, "type"),
        trigger_name=_text(trigger, "name"),
        fire_id=_text(fire, "runId"),
        run_as=_clean(next(filter(None, logins), None)),
    )
    reporters = read_mail_reporters(copy) if mail_reporters else None
    return ListedRun(run, read_failed_reporters(raw), follows if has_triggers else follows or None, reporters)


def read_scenarios(raw: object, node: str, project: str) -> ParsedList[ListedScenario]:
    def read(item: Raw) -> ListedScenario | None:
        scenario, active = _id(item, "id"), item.get("active")
        if scenario is None or (get_text(item, "projectKey") or project) != project:
            return None
        tags = (storable(tag, _NAME_LENGTH) for tag in only_texts(item.get("tags"))[:_MOST])
        running = _run_name(get_time(item, "start"), get_text(item, "futureId"))
        return ListedScenario(
            ScenarioKey(node, project, scenario),
            _text(item, "name") or scenario,
            tags=tuple(dict.fromkeys(tags)),
            type=_text(item, "type"),
            active=active if isinstance(active, bool) else None,
            running=running if item.get("running") is True else None,
            next_run=get_time(item, "nextRun"),
            run_as=_text(item, "runAsUser"),
        )

    return _parse(raw, read)


def read_projects(raw: object) -> ParsedList[ListedProject]:
    def read(item: Raw) -> ListedProject | None:
        key, created = _id(item, "projectKey"), get_time(get_object(item, "creationTag"), "lastModifiedOn")
        return None if key is None else ListedProject(key, _text(item, "name"), created)

    return _parse(raw, read)


def read_running(raw: object) -> ParsedList[tuple[tuple[str, str], str]]:
    """What a sweep shows: (project, scenario) and a name for the very run, which changes from run to run."""

    def read(item: Raw) -> tuple[tuple[str, str], str] | None:
        for target in only_objects(get_object(item, "payload").get("targets")):
            project, scenario = _id(target, "projectKey"), _id(target, "objectId")
            if project and scenario and target.get("objectType", "SCENARIO") == "SCENARIO":
                return (project, scenario), _run_name(get_text(item, "jobId"), get_time(item, "startTime"))
        return None

    if isinstance(raw, list):
        raw = [item for item in raw if not (isinstance(item, dict) and item.get("alive") is False)]
    return _parse(raw, read)


def newest_first(runs: Iterable[ListedRun]) -> list[ListedRun]:
    return sorted(runs, key=lambda listed: (listed.run.start, listed.run.run_id), reverse=True)


def read_follows(definition: Raw, project: str) -> tuple[tuple[str, str], ...]:
    """The (project, scenario) pairs whose ends trigger this scenario, or that its own steps run, from its definition or a
    run's copy of it."""
    pairs: dict[tuple[str, str], None] = {}
    steps = only_objects(get_object(definition, "params").get("steps"))
    for item in (*only_objects(definition.get("triggers")), *steps):
        params = get_object(item, "params")
        scenario = _id(params, "scenarioId")
        on = item.get("active") is not False and item.get("enabled") is not False
        if scenario and on and item.get("type") in (FOLLOW, "run_scenario"):
            pairs[_id(params, "projectKey") or project, scenario] = None
    return tuple(pairs)[:_MOST]


def read_details(raw: Raw, run: RunKey, read_at: datetime) -> Details:
    """First error, steps and job ids of a run; see ``Details``. The log tail is that of the failed step, if any."""
    details = DSSScenarioRunDetails(raw)
    start = get_time(details.scenario_run, "start")
    if start is not None and to_ms(start) != to_ms(run.start):
        return Details(run, read_at, problem="DSS answers another run under this run's id")
    step_runs = details.steps
    failed = next((step for step in step_runs if step.first_error_details), None)
    thrown = failed.first_error_details if failed else None
    thrown = thrown or get_object(get_object(details.scenario_run, "result"), "thrown")
    error, log_tail = None, None
    if thrown:
        message = get_text(thrown, "message") or get_text(thrown, "detailedMessage") or get_text(thrown, "clazz")
        failed_step = _clean(failed.name or failed.id) if failed else None
        error = RunError(_clean(message, _TEXT_LENGTH), _text(thrown, "code"), _text(thrown, "title"), failed_step)
    if failed:  # the last lines that DSS attached to the step's result or to the first of its jobs that has some
        items = [get_object(failed, "result"), *only_objects(failed.get("additionalReportItems"))]
        logs = (only_texts(get_object(item, "logTail").get("lines")) for item in items)
        log_tail = _clean("\n".join(next(filter(None, logs), [])[-_MOST:]), _LOG_LENGTH)
    steps = []
    for step in step_runs[:_MOST_STEPS]:
        begun, ended = get_time(step, "start"), get_time(step, "end")
        duration = max(ended - begun, timedelta(0)) if begun and ended else None
        id_, name, type_, outcome = map(_clean, (step.id, step.name, step.type, step.outcome))
        jobs = tuple(storable(job, _NAME_LENGTH) for job in step.job_ids[:_MOST])
        steps.append(Step(id_, name, type_, outcome, duration, jobs))
    warnings = tuple(
        RunWarning(_clean(step.name or step.id), storable(message, _TEXT_LENGTH), count)
        for step in step_runs[:_MOST_STEPS]
        for message, count in step.warnings
    )[:_MOST]
    return Details(run, read_at, error, tuple(steps), log_tail, warnings=warnings)


def read_failed_reporters(run: Raw) -> tuple[FailedReporter, ...]:
    """DSS's own reporters of this run that could not send. DSS may send a text or a serialized exception."""
    reporters: list[FailedReporter] = []
    for number, state in enumerate(only_objects(run.get("reportersStates")), 1):
        error, problem = state.get("error"), ""
        if isinstance(error, dict) and error:
            texts = (get_text(error, key) for key in ("detailedMessage", "message", "title"))
            problem = next(filter(None, texts), None) or json_beginning(error, 500)
        elif isinstance(error, str) and error.strip():
            problem = error
        if problem := storable(problem, _TEXT_LENGTH):
            name = _text(state, "reporterName") or f"reporter {number}"
            reporters.append(FailedReporter(name, _text(state, "messagingType"), problem))
    return tuple(reporters[:_MOST_REPORTERS])


def read_mail_reporters(definition: Raw) -> tuple[MailReporter, ...] | None:
    """The active mail reporters of a scenario, from its definition or a run's copy of it; None: it does not say."""
    listed = definition.get("reporters")
    if not isinstance(listed, list):
        return None
    reporters: dict[str, MailReporter] = {}
    for number, raw in enumerate(only_objects(listed)):
        messaging = get_object(raw, "messaging")
        if raw.get("active") is not False and messaging.get("type") == "mail-scenario":
            id_ = _text(raw, "id", _ID_LENGTH) or str(number)
            id_ = f"{id_}/{number}" if id_ in reporters else id_
            name = _text(raw, "name") or f"reporter {number + 1}"
            reporters[id_] = _read_mail_reporter(raw, get_object(messaging, "configuration"), id_, name)
    return tuple(reporters.values())[:_MOST_REPORTERS]


def _read_mail_reporter(raw: Raw, mail: Raw, id_: str, name: str) -> MailReporter:
    def text(key: str, length: int = _TEXT_LENGTH) -> str:
        return _text(mail, key, length) or ""

    def addresses(key: str) -> str:
        listed = text(key, _LIST_LENGTH + 1)
        return listed if len(listed) <= _LIST_LENGTH else listed.rpartition(",")[0]  # never half an address

    from_file = get_text(mail, "messageSource") == "TEMPLATE_FILE"
    kinds = (_text(item, "type", 100) for item in only_objects(mail.get("attachments")))
    return MailReporter(
        id_,
        name,
        phase="START" if raw.get("phase") == "START" else "END",
        condition=(_text(raw, "runCondition", _TEXT_LENGTH) or "") if raw.get("runConditionEnabled") is True else None,
        sender=text("sender", _NAME_LENGTH),
        recipient=addresses("recipient"),
        cc=addresses("ccRecipient"),
        bcc=addresses("bccRecipient"),
        subject=text("subject"),
        message="" if from_file else text("message", _LIST_LENGTH),
        template=text("templateName", _NAME_LENGTH) if from_file else "",
        freemarker=mail.get("templateFormat") != "FORMULA",
        html=mail.get("sendAsHTML") is True,
        attachments=tuple(dict.fromkeys(filter(None, kinds))),
    )


def _parse(raw: object, read: Callable[[Raw], T | None]) -> ParsedList[T]:
    """``read`` returns None for an item that makes no sense."""
    if not isinstance(raw, list):
        return ParsedList((), 1, json_beginning(raw, _EXAMPLE_LENGTH))
    items: list[T] = []
    invalid: list[object] = []
    for item in raw:
        parsed = read(item) if isinstance(item, dict) else None
        if parsed is None:
            invalid.append(item)
        else:
            items.append(parsed)
    example = json_beginning(invalid[0], _EXAMPLE_LENGTH) if invalid else ""
    return ParsedList(tuple(items), len(invalid), example, frozenset(map(_hash, invalid)))


def _hash(item: object) -> int:
    """What an unreadable item is known by, from list to list: its id if it has one, or its beginning."""
    run_id = item.get("runId") if isinstance(item, dict) else None
    return hash(run_id if isinstance(run_id, str) else json_beginning(item, 500))


def _id(raw: Raw, key: str) -> str | None:
    """An identifier that a row can hold and that a path of DSS's API can name."""
    value = get_text(raw, key)
    return value if value and value == storable(value, _ID_LENGTH) and value not in (".", "..") else None


def _clean(text: str | None, length: int = _NAME_LENGTH) -> str | None:
    return storable(text, length) if text else None


def _text(raw: Raw, key: str, length: int = _NAME_LENGTH) -> str | None:
    return _clean(get_text(raw, key), length)


def _run_name(*parts: object) -> str:
    """What tells a run that runs now from the next one, as far as DSS says something."""
    return str(next(filter(None, parts), "running"))
