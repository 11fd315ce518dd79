"""Faults: functions from the true answer to the one that leaves, and the rules that say when they apply.

``dss.fail(status(500), operation="last_runs", project="P1")`` until ``rule.stop()``, or as a context manager.
Rules apply in the order in which they were added, each to the answer that the one before it made, so that
``shuffled()`` and ``truncated()`` compose.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from time import monotonic

from tests.fakedss.answers import Answer, Wire
from tests.fakedss.wire import error

Fault = Callable[[Answer], Answer]

_PROXY_PAGE = b"<html><head><title>%d</title></head><body><h1>%d</h1><hr>nginx</body></html>\r\n"


def status(code: int, message: str = "Something broke", error_type: str = "java.lang.RuntimeException") -> Fault:
    """An error in DSS's own shape."""
    return _always(Answer.of(error(error_type, message), code))


def too_many(retry_after: str | None = None, code: int = 429) -> Fault:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return _always(replace(Answer.of(error("TooManyRequests", "Slow down"), code), headers=headers))


def unauthorized() -> Fault:
    return status(401, "Unknown API Key", "com.dataiku.dip.exceptions.NotAuthenticatedException")


def forbidden() -> Fault:
    return status(403, "Action forbidden", "com.dataiku.dip.exceptions.UnauthorizedException")


def not_found(what: str = "scenario") -> Fault:
    return status(404, f"{what} does not exist", "com.dataiku.dip.server.controllers.NotFoundException")


def html(code: int = 502) -> Fault:
    """A page of a reverse proxy; with 200 it is a log-in page."""
    return _always(Answer(code, _PROXY_PAGE % (code, code), "text/html; charset=utf-8"))


def redirect(location: str) -> Fault:
    return _always(Answer(302, b"", "text/html", {"Location": location}))


def with_headers(**headers: str) -> Fault:
    """The truth under other headers; an underscore stands for a dash."""
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda answer: replace(answer, headers={**answer.headers, **changed})


def reset() -> Fault:
    return lambda answer: replace(answer, wire=Wire.RESET)


def reset_after_headers() -> Fault:
    return lambda answer: replace(answer, wire=Wire.RESET_AFTER_HEADERS)


def truncated() -> Fault:
    """The body stops half-way although Content-Length promised more."""
    return lambda answer: replace(answer, wire=Wire.TRUNCATED)


def cut_json() -> Fault:
    """The body stops half-way and Content-Length agrees: HTTP is well, the JSON is not."""
    return lambda answer: replace(answer, body=answer.body[: len(answer.body) // 2])


def drip(every: float = 0.1, size: int = 1) -> Fault:
    """``size`` bytes every ``every`` seconds."""
    return lambda answer: replace(answer, wire=Wire.DRIP, drip_seconds=every, drip_bytes=size)


def never() -> Fault:
    return lambda answer: replace(answer, wire=Wire.NEVER)


def slow(seconds: float) -> Fault:
    return lambda answer: replace(answer, delay=answer.delay + seconds)


def held(gate: asyncio.Event) -> Fault:
    """No answer until the test sets the gate."""
    return lambda answer: replace(answer, gate=gate)


def sprinkled(
    seed: int = 0, throttled: float = 0.02, errors: float = 0.04, resets: float = 0.02, hangs: float = 0.01
) -> Fault:
    """The bad days of a real node: each answer gets, by chance, none or one of these faults.

    The shares are of 429 (every other one with a Retry-After of one second), of 500, of resets and of five-second
    hangs. The same seed draws the same faults in the order of the requests.
    """
    chance = random.Random(seed)
    kinds = (lambda answer: answer, too_many(), too_many("1"), status(500), reset(), slow(5.0))
    shares = (1 - throttled - errors - resets - hangs, throttled / 2, throttled / 2, errors, resets, hangs)
    return lambda answer: chance.choices(kinds, shares)[0](answer)


def wrong_type(content_type: str = "text/plain") -> Fault:
    return lambda answer: replace(answer, content_type=content_type)


def reply(value: object) -> Fault:
    """Any JSON with status 200: ``reply(None)`` is JSON null, ``reply([])`` an empty list."""
    return _always(Answer.of(value))


def shuffled(seed: int = 0) -> Fault:
    """The list in another order."""
    return _in_json(lambda value: random.Random(seed).sample(value, len(value)) if isinstance(value, list) else value)


def strangers(seed: int = 0) -> Fault:
    """Nulls, words, numbers, lists and objects that lack all fields among the true items of a list."""

    def mix(value: object) -> object:
        chance = random.Random(seed)
        unknown: tuple[object, ...] = (None, "stranger", 7, [], {}, {"id": None, "runId": None, "projectKey": None})
        if isinstance(value, list):
            for stranger in unknown:
                value.insert(chance.randint(0, len(value)), stranger)
        return value

    return _in_json(mix)


def nulled(*fields: str) -> Fault:
    """These fields are null, in the object or in each object of the list."""
    return _in_json(lambda value: _each(value, lambda item: item | dict.fromkeys(fields)))


def missing(*fields: str) -> Fault:
    """These fields are absent, in the object or in each object of the list."""
    return _in_json(lambda value: _each(value, lambda item: {k: v for k, v in item.items() if k not in fields}))


def changed(change: Callable[[dict[str, object]], object]) -> Fault:
    """Each object of the list, or the object, as this makes it."""
    return _in_json(lambda value: _each(value, change))


def huge(megabytes: float = 10) -> Fault:
    """The same facts in a very long reply."""
    return lambda answer: replace(answer, body=answer.body + b" " * round(megabytes * 1_000_000))


def _always(answer: Answer) -> Fault:
    """This instead of the truth; what an earlier rule said about the way (delay, wire) stays."""
    return lambda true: replace(
        true, status=answer.status, body=answer.body, content_type=answer.content_type, headers=answer.headers
    )


def _in_json(change: Callable[[object], object]) -> Fault:
    """Change the JSON of a good answer; an error or a body that is not JSON passes unchanged."""

    def fault(answer: Answer) -> Answer:
        if answer.status != 200 or answer.content_type != "application/json":
            return answer
        return replace(answer, body=json.dumps(change(json.loads(answer.body))).encode())

    return fault


def _each(value: object, change: Callable[[dict[str, object]], object]) -> object:
    if isinstance(value, list):
        return [change(item) if isinstance(item, dict) else item for item in value]
    return change(value) if isinstance(value, dict) else value


FAULTS: Mapping[str, Callable[..., Fault]] = {
    made.__name__: made
    for made in (
        *(status, too_many, unauthorized, forbidden, not_found, html, redirect, reset, reset_after_headers),
        *(truncated, cut_json, drip, never, slow, sprinkled, wrong_type, reply, shuffled, strangers),
        *(nulled, missing, huge),
    )
}
"""By name, for scripts; ``held`` needs a live event and is for tests in one process."""


@dataclass(slots=True, eq=False)
class Rule:
    """When a fault applies. Operation, project and scenario are globs; ``nth`` counts the requests that match
    them, from 1; ``after`` and ``until`` are seconds since the rule was added."""

    fault: Fault
    operation: str = "*"
    project: str = "*"
    scenario: str = "*"
    nth: Container[int] | None = None
    probability: float = 1.0
    seed: int = 0
    after: float = 0.0
    until: float = float("inf")
    seen: int = field(default=0, init=False)
    applied: int = field(default=0, init=False)
    stopped: bool = field(default=False, init=False)
    _added: float = field(default_factory=monotonic, init=False)
    _chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def matches(self, operation: str, project: str, scenario: str) -> bool:
        wanted = ((operation, self.operation), (project, self.project), (scenario, self.scenario))
        return all(fnmatchcase(value, pattern) for value, pattern in wanted)

    def applies(self, operation: str, project: str, scenario: str) -> bool:
        """Count this request, and say whether it gets the fault."""
        if self.stopped or not self.after <= monotonic() - self._added < self.until:
            return False
        if not self.matches(operation, project, scenario):
            return False
        self.seen += 1
        if self.nth is not None and self.seen not in self.nth:
            return False
        hit = self._chance.random() < self.probability
        self.applied += hit
        return hit

    def stop(self) -> None:
        self.stopped = True

    def __enter__(self) -> Rule:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@dataclass(slots=True)
class Rules:
    """The rules in force, in order."""

    rules: list[Rule] = field(default_factory=list)

    def add(self, rule: Rule) -> Rule:
        self.rules = [known for known in self.rules if not known.stopped] + [rule]
        return rule

    def applied_to(self, answer: Answer, operation: str, project: str, scenario: str) -> Answer:
        for rule in self.rules:
            if rule.applies(operation, project, scenario):
                answer = rule.fault(answer)
        return answer

    def clear(self) -> None:
        for rule in self.rules:
            rule.stop()
        self.rules = []
