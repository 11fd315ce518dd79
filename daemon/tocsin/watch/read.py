"""From DSS's JSON to Tocsin's nouns, with tolerance.

Promises that no reply can stop a poll: an item that makes no sense (no id, no start, another scenario's) is counted
and shown by its beginning, the others are read. Texts come out clean for any database: without NUL and lone
surrogates, and of bounded length.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from tocsin.dss import DSSScenarioRunDetails, DSSStepRunDetails
from tocsin.dss.fields import get_object, get_text, get_time, only_objects, only_texts
from tocsin.dss.wire import Raw
from tocsin.kit.clock import to_ms
from tocsin.kit.strings import json_beginning, storable
from tocsin.model.event import FailedReporter
from tocsin.model.run import Details, Outcome, Run, RunError, RunKey, ScenarioKey, Step
from tocsin.model.scenario import MailReporter

T = TypeVar("T")

RESULT_WAIT = timedelta(minutes=10)  # how long a run with an end, or with a successor, but no result counts as running
FOLLOW = "follow_scenariorun"

_ID_LENGTH = 512
_NAME_LENGTH = 1_000
_TEXT_LENGTH = 8_000
_SHOWN = 200  # characters of what makes no sense
_MOST_STEPS = 500
_MOST_REPORTERS = 20
_MOST = 200  # tags of a scenario, jobs of a step, scenarios that one follows
_LIST_LENGTH = 50_000  # characters of a list of recipients, and of a reporter's message


@dataclass(frozen=True, slots=True)
class ParsedList(Generic[T]):
    """What a list held: the items that make sense, how many do not, how the first of those begins, and a mark of each."""

    items: tuple[T, ...]
    odd: int = 0
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
    """The runs of a poll's reply, each once, the newest first whatever their order was. ``now`` is DSS's.

    DSS runs a scenario once at a time: a run without a result that has long had a successor was lost with its node.

    ``mail_reporters``: whether those of the runs' copies of the scenario are wanted too."""
    reading = _read(raw, lambda item: _run(item, scenario, now, mail_reporters))
    unique: dict[tuple[str, datetime], ListedRun] = {}
    for seen in reading.items:
        key = (seen.run.run_id, seen.run.start)
        if key not in unique or unique[key].run.end is None:
            unique[key] = seen
    ordered = sorted(unique.values(), key=lambda seen: (seen.run.start, seen.run.run_id), reverse=True)
    return replace(reading, items=tuple(_without_lost(ordered, now)))


def _without_lost(ordered: Iterable[ListedRun], now: datetime) -> Iterator[ListedRun]:
    """The runs, the newest first, with an end for those that were lost: when their successor started."""
    successor: datetime | None = None
    for seen in ordered:
        lost = seen.run.end is None and successor is not None and now - successor >= RESULT_WAIT
        yield replace(seen, run=replace(seen.run, end=successor, outcome=Outcome.UNKNOWN)) if lost else seen
        successor = seen.run.start


def read_scenarios(raw: object, node: str, project: str) -> ParsedList[ListedScenario]:
    """The scenarios of a project's list."""
    return _read(raw, lambda item: _scenario(item, node, project))


def read_projects(raw: object) -> ParsedList[ListedProject]:
    """The projects of the node's list."""
    return _read(raw, _project)


def read_running(raw: object) -> ParsedList[tuple[tuple[str, str], str]]:
    """What a sweep shows: (project, scenario) and a name for the very run, which changes from run to run."""
    alive = [item for item in raw if not _dead(item)] if isinstance(raw, list) else raw
    return _read(alive, _future)


def read_follows(definition: Raw, project: str) -> tuple[tuple[str, str], ...]:
    """The (project, scenario) pairs whose ends trigger this scenario, from its definition or a run's copy of it."""
    found = [_followed(trigger, project) for trigger in only_objects(definition.get("triggers"))]
    return tuple(dict.fromkeys(pair for pair in found if pair))[:_MOST]


def read_details(raw: Raw, run: RunKey, read_at: datetime) -> Details:
    """First error, steps and job ids of a run; see ``Details``. The log tail is that of the failed step, if any."""
    details = DSSScenarioRunDetails(raw)
    steps = details.steps
    told = get_time(details.scenario_run, "start")
    if told is not None and to_ms(told) != to_ms(run.start):
        return Details(run, read_at, problem="DSS answers another run under this run's id")
    failed = next((step for step in steps if step.first_error_details), None)
    thrown = (failed.first_error_details if failed else None) or get_object(
        get_object(details.scenario_run, "result"), "thrown"
    )
    return Details(
        run,
        read_at,
        error=_error(thrown, failed) if thrown else None,
        steps=tuple(_step(step) for step in steps[:_MOST_STEPS]),
        log_tail=_step_log(failed) if failed else None,
    )


def read_failed_reporters(run: Raw) -> tuple[FailedReporter, ...]:
    """DSS's own reporters of this run that could not send."""
    found: list[FailedReporter] = []
    for number, state in enumerate(only_objects(run.get("reportersStates"))):
        if problem := _problem(state.get("error")):
            name = _clean(get_text(state, "reporterName")) or f"reporter {number + 1}"
            found.append(FailedReporter(name, _clean(get_text(state, "messagingType")), problem))
    return tuple(found[:_MOST_REPORTERS])


def read_mail_reporters(definition: Raw) -> tuple[MailReporter, ...] | None:
    """The active mail reporters of a scenario, from its definition or a run's copy of it; None: it does not say."""
    listed = definition.get("reporters")
    if not isinstance(listed, list):
        return None
    found: dict[str, MailReporter] = {}
    for number, raw in enumerate(only_objects(listed)):
        messaging = get_object(raw, "messaging")
        if raw.get("active") is not False and messaging.get("type") == "mail-scenario":
            id_ = _clean(get_text(raw, "id"), _ID_LENGTH) or str(number)
            id_ = f"{id_}/{number}" if id_ in found else id_
            found[id_] = _mail_reporter(raw, get_object(messaging, "configuration"), id_, number)
    return tuple(found.values())[:_MOST_REPORTERS]


def clean(words: str, length: int = _TEXT_LENGTH) -> str:
    """A text that any database can hold: no NUL, no lone surrogates, not longer than ``length``."""
    return storable(words, length)


# --- one item each; None where it makes no sense ---------------------------------------------------------------------


def _read(raw: object, one: Callable[[Raw], T | None]) -> ParsedList[T]:
    if not isinstance(raw, list):
        return ParsedList((), 1, json_beginning(raw, _SHOWN))
    items: list[T] = []
    odd: list[object] = []
    for item in raw:
        read = one(item) if isinstance(item, dict) else None
        if read is None:
            odd.append(item)
        else:
            items.append(read)
    example = json_beginning(odd[0], _SHOWN) if odd else ""
    return ParsedList(tuple(items), len(odd), example, frozenset(map(_unreadable, odd)))


def _unreadable(item: object) -> int:
    """What an unreadable item is known by, from list to list: its id if it has one, or its beginning."""
    run_id = item.get("runId") if isinstance(item, dict) else None
    return hash(run_id if isinstance(run_id, str) else json_beginning(item, 500))


def _id(raw: Raw, key: str) -> str | None:
    """An identifier that a row can hold and that a path of DSS's API can name."""
    value = get_text(raw, key)
    sane = value and value == clean(value, _ID_LENGTH) and value not in (".", "..")
    return value if sane else None


def _clean(words: str | None, length: int = _NAME_LENGTH) -> str | None:
    return clean(words, length) if words else None


def _run(raw: Raw, scenario: ScenarioKey, now: datetime, mail_reporters: bool) -> ListedRun | None:
    copy = get_object(raw, "scenario")
    run_id, start = _id(raw, "runId"), get_time(raw, "start")
    stranger = (get_text(copy, "id") or scenario.scenario) != scenario.scenario
    if run_id is None or start is None or stranger:
        return None
    result = get_object(raw, "result")
    end = get_time(raw, "end") or get_time(result, "end")
    if result and end is None:
        return None
    ended = bool(result) or (end is not None and now - end >= RESULT_WAIT)
    fire = get_object(raw, "trigger")
    trigger = get_object(fire, "trigger")
    run = Run(
        scenario,
        run_id,
        start,
        end=end if ended else None,
        outcome=(_clean(get_text(result, "outcome"), 64) or Outcome.UNKNOWN) if ended else None,
        trigger_type=_clean(get_text(trigger, "type")),
        trigger_name=_clean(get_text(trigger, "name")),
        fire_id=_clean(get_text(fire, "runId")),
        run_as=_run_as(raw),
    )
    return ListedRun(
        run,
        read_failed_reporters(raw),
        _follows(copy, trigger, scenario.project),
        read_mail_reporters(copy) if mail_reporters else None,
    )


def _run_as(raw: Raw) -> str | None:
    for who in (get_object(raw, "runAsUser"), get_object(raw, "effectiveUser")):
        if login := get_text(who, "realUserLogin") or get_text(get_object(who, "apiKey"), "label"):
            return _clean(login)
    return None


def _follows(copy: Raw, trigger: Raw, project: str) -> tuple[tuple[str, str], ...] | None:
    if isinstance(copy.get("triggers"), list):
        return read_follows(copy, project)
    pair = _followed(trigger, project)
    return (pair,) if pair else None


def _followed(trigger: Raw, project: str) -> tuple[str, str] | None:
    if trigger.get("type") != FOLLOW or trigger.get("active") is False:
        return None
    params = get_object(trigger, "params")
    scenario = _id(params, "scenarioId")
    return (_id(params, "projectKey") or project, scenario) if scenario else None


def _mail_reporter(raw: Raw, mail: Raw, id_: str, number: int) -> MailReporter:
    def said(key: str, length: int = _TEXT_LENGTH) -> str:
        return clean(get_text(mail, key) or "", length)

    def listed(key: str) -> str:
        words = clean(get_text(mail, key) or "", _LIST_LENGTH + 1)
        return words if len(words) <= _LIST_LENGTH else words.rpartition(",")[0]  # never half an address

    from_file = get_text(mail, "messageSource") == "TEMPLATE_FILE"
    return MailReporter(
        id_,
        _clean(get_text(raw, "name")) or f"reporter {number + 1}",
        phase="START" if raw.get("phase") == "START" else "END",
        condition=clean(get_text(raw, "runCondition") or "") if raw.get("runConditionEnabled") is True else None,
        sender=said("sender", _NAME_LENGTH),
        recipient=listed("recipient"),
        cc=listed("ccRecipient"),
        bcc=listed("bccRecipient"),
        subject=said("subject"),
        message="" if from_file else said("message", _LIST_LENGTH),
        template=said("templateName", _NAME_LENGTH) if from_file else "",
        freemarker=mail.get("templateFormat") != "FORMULA",
        html=mail.get("sendAsHTML") is True,
        attachments=tuple(
            dict.fromkeys(
                clean(kind, 100) for one in only_objects(mail.get("attachments")) if (kind := get_text(one, "type"))
            )
        ),
    )


def _scenario(raw: Raw, node: str, project: str) -> ListedScenario | None:
    scenario = _id(raw, "id")
    if scenario is None or (get_text(raw, "projectKey") or project) != project:
        return None
    active = raw.get("active")
    name = _name(get_time(raw, "start"), get_text(raw, "futureId"))
    return ListedScenario(
        ScenarioKey(node, project, scenario),
        _clean(get_text(raw, "name")) or scenario,
        tags=tuple(dict.fromkeys(clean(tag, _NAME_LENGTH) for tag in only_texts(raw.get("tags"))[:_MOST])),
        type=_clean(get_text(raw, "type")),
        active=active if isinstance(active, bool) else None,
        running=name if raw.get("running") is True else None,
        next_run=get_time(raw, "nextRun"),
        run_as=_clean(get_text(raw, "runAsUser")),
    )


def _project(raw: Raw) -> ListedProject | None:
    key = _id(raw, "projectKey")
    if key is None:
        return None
    return ListedProject(key, _clean(get_text(raw, "name")), get_time(get_object(raw, "creationTag"), "lastModifiedOn"))


def _dead(item: object) -> bool:
    return isinstance(item, dict) and item.get("alive") is False


def _future(raw: Raw) -> tuple[tuple[str, str], str] | None:
    for target in only_objects(get_object(raw, "payload").get("targets")):
        project, scenario = _id(target, "projectKey"), _id(target, "objectId")
        if project and scenario and target.get("objectType", "SCENARIO") == "SCENARIO":
            return (project, scenario), _name(get_text(raw, "jobId"), get_time(raw, "startTime"))
    return None


def _name(*marks: object) -> str:
    """What tells a run that runs now from the next one, as far as DSS says something."""
    return str(next((mark for mark in marks if mark), "running"))


def _problem(error: object) -> str | None:
    """A reporter's error in words; DSS may send a text or a serialized exception."""
    if isinstance(error, dict):
        told: Iterable[str | None] = (get_text(error, key) for key in ("detailedMessage", "message", "title"))
        return clean(next((words for words in told if words), "") or json_beginning(error, 500)) if error else None
    return clean(error) if isinstance(error, str) and error.strip() else None


def _error(thrown: Raw, step: DSSStepRunDetails | None) -> RunError:
    name = (step.name or step.id) if step else None
    return RunError(
        _clean(
            get_text(thrown, "message") or get_text(thrown, "detailedMessage") or get_text(thrown, "clazz"),
            _TEXT_LENGTH,
        ),
        code=_clean(get_text(thrown, "code")),
        title=_clean(get_text(thrown, "title")),
        step=_clean(name),
    )


def _step(step: DSSStepRunDetails) -> Step:
    start, end = get_time(step, "start"), get_time(step, "end")
    return Step(
        _clean(step.id),
        _clean(step.name),
        _clean(step.type),
        _clean(step.outcome),
        max(end - start, timedelta(0)) if start and end else None,
        tuple(clean(job, _NAME_LENGTH) for job in step.job_ids[:_MOST]),
    )


def _step_log(step: DSSStepRunDetails) -> str | None:
    """The last lines that DSS attached to the step's result or to the first of its jobs that has some."""
    items = [get_object(step, "result"), *only_objects(step.get("additionalReportItems"))]
    for item in items:
        if lines := only_texts(get_object(item, "logTail").get("lines")):
            return clean("\n".join(lines[-200:]), 64_000)
    return None
