"""DSS's public API without any I/O: requests out, replies in, and handles on what they name.

An ``Endpoint`` called with the parts of its path gives a ``Request``; ``read`` turns a ``Reply`` into the parsed value or
raises the error that it means. Paths are DSS's own, down to their uneven trailing slashes.
"""

import json
import sys
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import quote

from tocsin.dss import errors
from tocsin.dss.errors import BODY_SHOWN, DSSError, DSSInvalidReply
from tocsin.kit.clock import Clock, SystemClock

T = TypeVar("T")
R = TypeVar("R")
Raw = dict[str, Any]
"""A JSON object as DSS sent it."""
MIB = 1024 * 1024
MAX_JSON_BYTES = 16 * MIB
MAX_JSON_VALUES = 1_000_000
"""Decoding takes about ten times the memory of the text, and more where it is nothing but small values."""
Secret = str | Callable[[], str | Awaitable[str]]
"""A secret, or a callable that is asked for it before each request, so that a rotated one serves at once."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    headers: Mapping[str, str]  # looked up without regard to case
    url: str = ""  # without query, user and password


@dataclass(frozen=True, slots=True)
class RequestReport:
    """What one attempt at a request came to."""

    operation: str
    method: str
    status: int | None
    code: str  # "200", or "timeout", "unreachable", "invalid", "no_secret"
    seconds: float
    server_date: datetime | None = None
    retry_after: float | None = None
    dss_version: str | None = None
    error: DSSError | None = None


@dataclass(eq=False, repr=False)
class ClientOptions:
    """How ``DSSClient`` speaks to one node. Of the three secrets the first that is set counts."""

    host: str  # http:// or https://, a host, and a path where a reverse proxy serves DSS below one
    api_key: Secret | None = None
    internal_ticket: Secret | None = None
    _: KW_ONLY
    jwt_bearer_token: Secret | None = None
    extra_headers: Mapping[str, str] | None = None
    no_check_certificate: bool = False
    client_certificate: str | tuple[str, str] | None = None  # a PEM file, or a certificate's and its key's
    ca_file: str | None = None  # instead of the system's authorities
    proxy: str | None = None  # None: HTTP(S)_PROXY and NO_PROXY; an empty one is none
    timeout: float = 30.0  # seconds, for one attempt of one request
    connect_timeout: float = 10.0  # seconds
    retries: int = 2  # of reads that failed in passing
    max_reply_bytes: int = 64 * MIB  # for logs and reports
    max_connections: int = 32
    user_agent: str = "tocsin-dss"
    on_request: Callable[[RequestReport], None] | None = None  # called after each attempt; must not raise
    clock: Clock = field(default_factory=SystemClock)
    sleep: Callable[[float], Awaitable[None]] | None = None  # None: asyncio's
    default_project_key: str | None = None
    poll_pauses: tuple[float, float] = (0.2, 15.0)  # seconds: the shortest and the longest between two polls of a wait
    max_polls: int = 8  # under way at once


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """One call, ready to be sent below the API's base path."""

    operation: str
    method: str
    target: str  # quoted path with query
    parse: Callable[[bytes], T]  # raises ValueError with what is wrong
    body: bytes | None = None
    content_type: str = "application/json"
    repeatable: bool = False  # sending it twice is the same as once
    tail: int | None = None  # keep only so many bytes from the end of the reply
    max_bytes: int = MAX_JSON_BYTES  # of the reply, unpacked


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[T]):
    """One row of the API; call it with the path's parts, the query and a JSON body for a ``Request``."""

    operation: str
    method: str
    template: str
    parse: Callable[[bytes], T]
    query: tuple[str, ...] = ()
    repeatable: bool = False

    def __call__(
        self, *parts: str, json_body: object = None, tail: int | None = None, **query: str | int | None
    ) -> Request[T]:
        """Query values that are None are left out; booleans are written ``True`` and ``False``, as DSS expects."""
        if unknown := query.keys() - set(self.query):
            raise TypeError(f"{self.operation} takes no query {', '.join(sorted(unknown))}")
        if len(parts) != self.template.count("{}"):
            raise TypeError(f"{self.operation} takes {self.template.count('{}')} path parts, not {len(parts)}")
        for part in parts:
            if part in ("", ".", ".."):
                raise ValueError(f"{part!r} cannot be an identifier in DSS")
        target = self.template.format(*(quote(part, safe="") for part in parts))
        pairs = "&".join(f"{k}={quote(str(v), safe='')}" for k, v in query.items() if v is not None)
        return Request(
            self.operation,
            self.method,
            f"{target}?{pairs}" if pairs else target,
            self.parse,
            body=None if json_body is None else json.dumps(json_body, allow_nan=False).encode(),
            repeatable=self.repeatable,
            tail=tail,
            max_bytes=sys.maxsize if self.parse in (parse_text, parse_bytes) else MAX_JSON_BYTES,
        )


class Waits(Protocol):
    async def until(self, key: Hashable, fetch: Callable[[], Awaitable[T]], check: Callable[[T], R | None]) -> R: ...


class APIClient(Protocol):
    clock: Clock

    @property
    def waits(self) -> Waits: ...

    async def perform(self, request: Request[T]) -> T: ...


class ScenarioHandle(Protocol):
    """What names a scenario, as ``DSSScenario``."""

    client: APIClient
    project_key: str
    id: str


class DSSHandle:
    """Stands for an object in DSS; making one asks DSS nothing."""

    def __init__(self, client: APIClient, *path: str) -> None:
        self.client = client
        self._path = path

    async def _call(self, endpoint: Endpoint[T], *parts: str, **options: Any) -> T:
        """Perform a request whose path begins with the parts of this object's."""
        return await self.client.perform(endpoint(*self._path, *parts, **options))


# What a good body is: parsers of 2xx replies. They raise ValueError with what is wrong.


def parse_object(body: bytes) -> Raw:
    if isinstance(value := _json(body), dict):
        return value
    raise ValueError(f"a JSON object was expected, not {_kind(value)}")


def parse_list(body: bytes) -> list[Any]:
    if isinstance(value := _json(body), list):
        return value
    raise ValueError(f"a JSON list was expected, not {_kind(value)}")


def parse_projects(body: bytes) -> list[Any]:
    """A list of projects. One that holds none but is not empty is some other server's."""
    value = parse_list(body)
    if value and not any(isinstance(item, dict) and isinstance(item.get("projectKey"), str) for item in value):
        raise ValueError("a list of projects was expected, and no item has a projectKey")
    return value


def parse_receipt(body: bytes) -> Raw:
    """The answer to a change: DSS's words are not documented, so an empty body and any JSON will do."""
    value = _json(body) if body.strip() else {}
    return value if isinstance(value, dict) else {}


def parse_text(body: bytes) -> str:
    if _is_html(body):
        raise ValueError("a text was expected, not an HTML page")
    return body.decode("utf-8", "replace")


def parse_bytes(body: bytes) -> bytes:
    return body


class _TooLarge(ValueError):
    pass


def _json(body: bytes) -> Any:
    if len(body) > MAX_JSON_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise _TooLarge(f"more than {MAX_JSON_VALUES} values")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        what = "an HTML page" if _is_html(body) else "empty" if not body.strip() else f"not JSON: {error}"
        raise ValueError(f"the body is {what}") from None


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "a string", type(None): "null"}.get(type(value), "a scalar")


def _is_html(body: bytes) -> bool:
    return body[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))


# From a reply to its value or its error.


def read(request: Request[T], reply: Reply, now: datetime) -> T:
    """The value of a good reply; else raises the ``DSSError`` that it means. ``now`` serves dated Retry-After headers."""
    if reply.status >= 400:
        raise error_of(request.operation, reply, now)
    if reply.status >= 300:
        where = reply.headers.get("Location", "").partition("?")[0]
        raise invalid(request.operation, reply, f"a redirect{f' to {where}' if where else ''} that is not followed")
    try:
        return request.parse(reply.body)
    except ValueError as error:
        raise invalid(request.operation, reply, str(error), too_large=isinstance(error, _TooLarge)) from None


def invalid(operation: str, reply: Reply, reason: str, *, too_large: bool = False) -> DSSInvalidReply:
    """The error for a reply that is not DSS's, or that holds more than is read; the beginning of its body is kept."""
    kind = errors.DSSReplyTooLarge if too_large else DSSInvalidReply
    return kind(reason, operation=operation, url=reply.url, status=reply.status, body=_beginning(reply.body))


_MAX_RETRY_AFTER = 86_400.0  # seconds; what is longer is nonsense
_MISSING = ("not found", "does not exist", "doesn't exist")
_DENIED = ("not allowed", "not authorized", "unauthorized", "forbidden", "permission", "denied")
_PERMANENT = (*_DENIED, "invalid", "illegal", "could not parse", "cannot parse", "malformed", "validation")
_ALWAYS_TRANSIENT = frozenset({408, 425, 429, 502, 503, 504})
_KINDS = {401: errors.DSSUnauthorized, 403: errors.DSSForbidden, 404: errors.DSSNotFound, 429: errors.DSSThrottled}


def error_of(operation: str, reply: Reply, now: datetime) -> DSSError:
    """The error that a status of 400 or more means. DSS answers 500 for much that is not there or not allowed, and only
    its words tell which; a gateway's page is never taken for DSS's word."""
    error_type, words = _serialized_error(reply.body)
    text = f"{error_type or ''} {words}".lower()
    gateway = reply.status in _ALWAYS_TRANSIENT and error_type is None
    kind: type[DSSError] = _KINDS.get(reply.status, errors.DSSRefused if reply.status < 500 else errors.DSSServerError)
    if kind is errors.DSSServerError and not gateway and any(word in text for word in _MISSING):
        kind = errors.DSSNotFound
    if kind is errors.DSSServerError and reply.status not in _ALWAYS_TRANSIENT:
        transient = not any(word in text for word in _PERMANENT)
    else:
        transient = reply.status in _ALWAYS_TRANSIENT and kind is not errors.DSSNotFound
    error = kind(
        words[:BODY_SHOWN],
        operation=operation,
        url=reply.url,
        status=reply.status,
        error_type=error_type,
        body=_beginning(reply.body),
        transient=transient,
    )
    if isinstance(error, errors.DSSThrottled):
        error.retry_after = retry_after(reply.headers, now)
    if isinstance(error, errors.DSSServerError):
        error.denied = any(word in text for word in _DENIED)
    return error


def _serialized_error(body: bytes) -> tuple[str | None, str]:
    """DSS's error class and words, from its serialized error or from plain text; nothing from an HTML page."""
    if _is_html(body):
        return None, ""
    try:
        error = json.loads(body)
    except (ValueError, RecursionError):
        return None, body[: 4 * BODY_SHOWN].decode("utf-8", "replace").strip()
    if not isinstance(error, dict):
        return None, error if isinstance(error, str) else ""
    error_type, *texts = (
        text if isinstance(text := error.get(key), str) else ""
        for key in ("errorType", "detailedMessage", "message", "title")
    )
    return error_type or None, next(filter(None, texts), "")


def _beginning(body: bytes) -> str:
    return body[: 4 * BODY_SHOWN].decode("utf-8", "replace")[:BODY_SHOWN]


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, written as a number or a date; a date is measured from the
    server's own Date header where there is one. None if absent or unreadable, never negative, a day at most."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _MAX_RETRY_AFTER)
    if not text or (until := http_date(text)) is None:
        return None
    sent = http_date(headers.get("Date", "")) or now
    return min(max(0.0, (until - sent).total_seconds()), _MAX_RETRY_AFTER)


def http_date(text: str) -> datetime | None:
    """A date of a header as aware UTC; None if it is empty or unreadable."""
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


# The API, row by row. A name is the operation's label in metrics: it stays.


def _get(operation: str, template: str, parse: Callable[[bytes], T], *query: str) -> Endpoint[T]:
    return Endpoint(operation, "GET", template, parse, query, repeatable=True)


def _change(operation: str, method: str, template: str, parse: Callable[[bytes], T], *query: str) -> Endpoint[T]:
    return Endpoint(operation, method, template, parse, query)


_P = "/projects/{}"
_S = "/projects/{}/scenarios/{}"

list_scenarios = _get("list_scenarios", f"{_P}/scenarios/", parse_list)
create_scenario = _change("create_scenario", "POST", f"{_P}/scenarios/", parse_object)
get_scenario = _get("get_scenario", _S, parse_object)
save_scenario = _change("save_scenario", "PUT", _S, parse_receipt)
delete_scenario = _change("delete_scenario", "DELETE", _S, parse_receipt)
get_scenario_status = _get("get_scenario_status", f"{_S}/light", parse_object)
save_scenario_status = _change("save_scenario_status", "PUT", f"{_S}/light", parse_receipt)
get_scenario_payload = _get("get_scenario_payload", f"{_S}/payload", parse_object)
save_scenario_payload = _change("save_scenario_payload", "PUT", f"{_S}/payload", parse_receipt)
run_scenario = _change("run_scenario", "POST", f"{_S}/run", parse_object)
abort_scenario = _change("abort_scenario", "POST", f"{_S}/abort", parse_receipt)
get_last_runs = _get("get_last_runs", f"{_S}/get-last-runs", parse_list, "limit", "onlyFinishedRuns")
get_runs_by_date = _get("get_runs_by_date", f"{_S}/get-runs-by-date", parse_list, "fromDate", "toDate")
get_run = _get("get_run", f"{_S}/{{}}/", parse_object)
get_run_for_trigger = _get(
    "get_run_for_trigger", f"{_S}/get-run-for-trigger", parse_object, "triggerId", "triggerRunId"
)
get_trigger_fire = _get("get_trigger_fire", f"{_P}/scenarios/trigger/{{}}/{{}}", parse_object, "triggerRunId")
get_run_log = _get("get_run_log", f"{_S}/{{}}/log", parse_text, "stepId")
get_run_report = _get("get_run_report", f"{_S}/{{}}/scenario-run-report", parse_bytes)
get_step_run_report = _get("get_step_run_report", f"{_S}/{{}}/step-run-report", parse_bytes, "stepId")
get_test_report = _get("get_test_report", f"{_P}/scenarios/last-test-scenario-runs-report", parse_bytes, "bundleId")
get_test_html_report = _get(
    "get_test_html_report", f"{_P}/scenarios/last-test-scenario-runs-html-report", parse_bytes, "bundleId"
)
get_testing_status = _get("get_testing_status", f"{_P}/scenarios/testing-status", parse_object, "bundleId")

list_projects = _get("list_projects", "/projects/", parse_projects, "includeLocation")
get_project_summary = _get("get_project_summary", _P, parse_object)
get_project_settings = _get("get_project_settings", f"{_P}/settings", parse_object)
get_project_variables = _get("get_project_variables", f"{_P}/variables/", parse_object)
save_project_variables = _change("save_project_variables", "PUT", f"{_P}/variables/", parse_receipt)
get_resolved_variables = _get("get_resolved_variables", f"{_P}/variables-resolved", parse_object, "typed")
get_global_variables = _get("get_global_variables", "/admin/variables/", parse_object)
get_auth_info = _get("get_auth_info", "/auth/info", parse_object, "withSecrets")
get_instance_info = _get("get_instance_info", "/instance-info", parse_object)

list_futures = _get("list_futures", "/futures/", parse_list, "withScenarios", "withNotScenarios", "allUsers")
peek_future = _get("peek_future", "/futures/{}", parse_object, "peek")
get_future = Endpoint("get_future", "GET", "/futures/{}", parse_object, ("peek",))  # hands the result out, maybe once
abort_future = _change("abort_future", "DELETE", "/futures/{}", parse_receipt)

list_jobs = _get("list_jobs", f"{_P}/jobs/", parse_list)
list_running_project_jobs = _get("list_running_project_jobs", f"{_P}/jobs/running/", parse_list)
list_running_jobs = _get("list_running_jobs", "/jobs/running/", parse_list, "allUsers")
get_job = _get("get_job", f"{_P}/jobs/{{}}/", parse_object)
get_job_log = _get("get_job_log", f"{_P}/jobs/{{}}/log", parse_text, "activity")
abort_job = _change("abort_job", "POST", f"{_P}/jobs/{{}}/abort", parse_receipt)

_D = f"{_P}/discussions/{{}}/{{}}/"
list_discussions = _get("list_discussions", _D, parse_list)
create_discussion = _change("create_discussion", "POST", _D, parse_object)
get_discussion = _get("get_discussion", f"{_D}{{}}", parse_object)
save_discussion = _change("save_discussion", "PUT", f"{_D}{{}}", parse_object)
reply_to_discussion = _change("reply_to_discussion", "POST", f"{_D}{{}}/replies/", parse_object)

_C = "/messaging-channels/{}"
list_channels = _get("list_channels", "/messaging-channels/", parse_list, "channelType", "channelFamily")
get_channel = _get("get_channel", _C, parse_object)
create_channel = _change("create_channel", "POST", "/messaging-channels/", parse_object)
delete_channel = _change("delete_channel", "DELETE", _C, parse_receipt)
get_channel_settings = _get("get_channel_settings", f"{_C}/settings", parse_object)
save_channel_settings = _change("save_channel_settings", "PUT", f"{_C}/settings", parse_receipt)
get_channel_permissions = _get("get_channel_permissions", f"{_C}/permissions", parse_list)
save_channel_permissions = _change("save_channel_permissions", "PUT", f"{_C}/permissions", parse_receipt)
