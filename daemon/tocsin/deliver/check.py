"""Checks before it matters: a test notification through the real path, and templates on samples."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from tocsin.config.model import Channel, Config, MessageFormat
from tocsin.deliver.incidents import opsgenie_requests, pagerduty_events
from tocsin.deliver.message import build_message
from tocsin.deliver.outgoing import Facts, Outgoing
from tocsin.deliver.render import Renderer, fill_variables, message_variables
from tocsin.deliver.result import unknown
from tocsin.deliver.slack_blocks import slack_body
from tocsin.deliver.transport import Transport, connector
from tocsin.deliver.webhook import build_payload
from tocsin.kit.clock import Clock
from tocsin.kit.strings import did_you_mean, fresh_id
from tocsin.model.alert import Alert, EndReason
from tocsin.model.event import Event, EventName, ScenarioFacts
from tocsin.model.notification import AttemptOutcome, EventNotice, GroupNotice, Notice, Notification, SummaryNotice
from tocsin.model.run import Details, Outcome, Run, RunError, ScenarioKey, Step

Owner = tuple[str, ...]
_Sample = tuple[str, Notice, Facts]


class UnknownReceiver(LookupError):
    """The configuration has no receiver of this name."""


@dataclass(frozen=True, slots=True)
class ChannelOutcome:
    """``sample``: firing or resolved. ``hint``: what to do, None when nothing needs to be done or nothing better than the
    note is known."""

    channel: str
    sample: str
    outcome: AttemptOutcome
    note: str
    hint: str | None
    took: timedelta


async def test_channels(
    config: Config,
    receiver_name: str,
    *,
    clock: Clock,
    connect: Callable[[Channel], Transport] | None = None,  # noqa: PT028 - not a test
) -> list[ChannelOutcome]:
    """Send an alert that fires and then its end to each channel of a receiver, as notifications would go, once each.

    The end is not sent where the start was not taken, or where the channel does not want it. Raises
    ``UnknownReceiver``.
    """
    receiver = config.receiver(receiver_name)
    if receiver is None:
        raise UnknownReceiver(receiver_name)
    node = config.nodes[0].name if config.nodes else "test"

    async def test(channel: Channel) -> list[ChannelOutcome]:
        transport = (connect or connector(clock))(channel)
        outcomes: list[ChannelOutcome] = []
        place: Mapping[str, Any] | None = None
        started = clock.now()
        key = fresh_id()
        try:
            for sample in ("firing", "resolved") if channel.send_resolved else ("firing",):
                now, began = clock.now(), clock.monotonic()
                notice = _test_notice(key, receiver_name, node, started, now if sample == "resolved" else None)
                row = Notification(fresh_id(), channel.receiver, channel.name, key, notice, now, now)
                try:
                    async with asyncio.timeout(channel.timeout.total_seconds()):
                        result = await transport.send(Outgoing(row, config, sent=place))
                except TimeoutError:
                    result = unknown("no answer before the channel's deadline")
                took = timedelta(seconds=clock.monotonic() - began)
                outcomes.append(ChannelOutcome(channel.name, sample, result.outcome, result.note, result.hint, took))
                if not result.delivered:
                    break
                place = result.sent
        finally:
            await transport.close()
        return outcomes

    return [outcome for part in await asyncio.gather(*map(test, receiver.channels)) for outcome in part]


def _test_notice(key: str, receiver: str, node: str, at: datetime, ended: datetime | None) -> GroupNotice:
    labels = {"alertname": "TocsinTest", "severity": "info", "dss_node": node, "project": "TOCSIN", "scenario": "TEST"}
    annotations = {"summary": "A test of Tocsin (nothing is wrong)", "description": "Sent by `tocsin notify test`."}
    reason = None if ended is None else EndReason.RESOLVED
    alert = Alert(key, key, labels, at, ended, reason, annotations)
    return GroupNotice(key, receiver, {"alertname": "TocsinTest"}, (alert,), "first" if ended is None else "resolved")


@dataclass(frozen=True, slots=True)
class Preview:
    """What one channel would get: text, or the JSON of its service's API; or why it would get nothing."""

    channel: str
    kind: str
    title: str = ""
    body: str = ""
    html: str | None = None
    problem: str | None = None


def preview(channel: Channel, notice: Notice, facts: Facts, config: Config, clock: Clock) -> Preview:
    """Renders only, though for an apprise URL with its plugin."""
    now = clock.now()
    row = Notification("preview", channel.receiver, channel.name, "preview", notice, now, now)
    message = build_message(notice, facts, config)
    external_url = config.http.external_url
    match channel.kind:
        case "webhook":
            document: Any = json.loads(build_payload(row, facts.details, external_url).body)
        case "pagerduty" if isinstance(notice, GroupNotice):
            document = pagerduty_events(notice, message, "<secret>", external_url)
        case "opsgenie" if isinstance(notice, GroupNotice):
            document = [{"path": request.path, **request.body} for request in opsgenie_requests(notice, message)]
        case "pagerduty" | "opsgenie":
            return Preview(channel.name, channel.kind, problem="it hears of alerts only, not of runs")
        case "slack":
            rendered = Renderer(config.template_texts).render(notice, facts, config, MessageFormat.SLACK, None)
            message, document = slack_body(rendered)
        case _:
            from tocsin.deliver.apprise_channel import AppriseSender  # noqa: PLC0415 - half a second

            try:
                shown = AppriseSender(channel, clock).preview(Outgoing(row, config, facts))
            except ValueError as error:
                return Preview(channel.name, "url", problem=str(error))
            return Preview(channel.name, "url", *shown)
    return Preview(channel.name, channel.kind, message.headline, json.dumps(document, indent=2, ensure_ascii=False))


@dataclass(frozen=True, slots=True)
class TemplateProblem:
    """A template, message or subject that cannot be rendered. ``owner``: the channel, or the reporter and its key;
    ``samples``: the kinds of notices; ``syntax``: it is no Jinja2, so no kind can be."""

    owner: Owner
    place: tuple[str | int, ...]  # in the configuration file
    what: str
    samples: tuple[str, ...]
    reason: str
    syntax: bool

    def __str__(self) -> str:
        return f"{self.what} cannot render {' and '.join(self.samples)}: {self.reason}"


class _Use(NamedTuple):
    owner: Owner
    place: tuple[str | int, ...]
    what: str
    source: str
    samples: Sequence[_Sample]
    variables: Sequence[str] = ()  # its own


def check_templates(config: Config) -> list[TemplateProblem]:
    renderer = Renderer(config.template_texts)
    problems = []
    for use in _uses(config):
        failures: dict[tuple[str, bool], list[str]] = {}
        for name, notice, facts in use.samples:
            if failure := renderer.check(use.source, MessageFormat.TEXT, notice, facts, config):
                failures.setdefault(failure, []).append(name)
        problems += [
            TemplateProblem(use.owner, use.place, use.what, tuple(names), *failure)
            for failure, names in failures.items()
        ]
    return problems


def unknown_variables(config: Config) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """A sentence and its place in the file for each ``${variable}`` that is never known."""
    _, event, facts = samples()[0]
    for use in _uses(config):
        known = {*message_variables(event, facts), *use.variables}
        for variable in fill_variables(config.template_texts.get(use.source, use.source), known, str)[1]:
            name = variable[2:-1]
            if not name.startswith("stepOutcome_"):
                yield f"{use.what}: there is no variable {variable}{did_you_mean(name, known)}", use.place


def template_owners(config: Config) -> set[Owner]:
    return {use.owner for use in _uses(config)}


def _uses(config: Config) -> Iterator[_Use]:
    everything = samples()
    for number, receiver in enumerate(config.receivers):
        for index, channel in enumerate(receiver.channels):
            if channel.template is not None and channel.template not in set(MessageFormat):
                place = ("receivers", number, "channels", index, "template")
                what = f"channel {channel.name}: template {channel.template}"
                yield _Use(("channel", channel.name), place, what, channel.template, everything)
    for index, reporter in enumerate(config.reporters):
        for part in ("subject", "message", "template"):
            source: str | None = getattr(reporter, part)
            if source is not None and source not in set(MessageFormat):
                own = [f"mailVariables_{name}" for name in (reporter.mail.variables if reporter.mail else ())]
                owner, what = ("reporter", reporter.name, part), f"reporter {reporter.name}: {part}"
                yield _Use(owner, ("reporters", index, part), what, source, everything[:1], own)


def samples() -> list[_Sample]:
    """One notice of each kind with all of its fields filled in, and its name."""
    key, start, hour = ScenarioKey("prod", "SALES", "NIGHTLY"), datetime(2026, 1, 1, 3, tzinfo=UTC), timedelta(hours=1)
    run = Run(
        key, "2026-01-01-04-00-00-000", start, start + hour, Outcome.FAILED, "temporal", "Every night", "fire", "jane"
    )
    url = "https://dss.example.com/projects/SALES/scenarios/NIGHTLY/runs/list/2026-01-01-04-00-00-000"
    scenario = ScenarioFacts("NIGHTLY", "Nightly load", ("daily",), "step_based")
    event = Event("e" * 32, EventName.RUN_FAILED, "prod", start, start, "SALES", scenario, run, url, "SUCCESS")
    steps = (Step("s1", "Build", "build_flowitem", Outcome.FAILED, timedelta(minutes=3), ("job",)),)
    details = Details(run.key, start, RunError("disk full", title="Job failed", step="Build"), steps, "log\nlines")
    facts = Facts({run.key: details}, {key: timedelta(minutes=2)})
    labels = {"alertname": "ScenarioFailed", "severity": "warning", "dss_node": "prod", "project": "SALES"}
    firing = Alert("a" * 32, "f" * 32, labels, start, annotations={"summary": "it failed", "run_url": url}, run=run.key)
    ended = Alert("b" * 32, "g" * 32, labels, start, start + hour, EndReason.RESOLVED, count=3)
    return [
        ("an event", EventNotice(event, "sample"), facts),
        ("a group of alerts", GroupNotice("{}", "sample", {"project": "SALES"}, (firing, ended), "first"), facts),
        ("a summary", SummaryNotice("prod", start, start + 2 * hour, {"FAILED": 1}, (event,)), facts),
    ]
