"""The wire without a network: requests built, replies read."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from tocsin.dss import errors, wire

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def reply(status: int = 200, body: object = b"", **headers: str) -> wire.Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return wire.Reply(status, raw, CIMultiDict({k.replace("_", "-"): v for k, v in headers.items()}))


def dss_error(error_type: str, message: str) -> dict[str, str]:
    return {"errorType": error_type, "message": message, "detailedMessage": f"{error_type}: {message}"}


def raised(status: int, body: object = b"", **headers: str) -> errors.DSSError:
    with pytest.raises(errors.DSSError) as caught:
        wire.read(wire.get_scenario("P", "S"), reply(status, body, **headers), NOW)
    return caught.value


def test_paths_keep_the_uneven_slashes_of_dss() -> None:
    assert wire.list_scenarios("P").target == "/projects/P/scenarios/"
    assert wire.get_scenario("P", "S").target == "/projects/P/scenarios/S"
    assert wire.get_run("P", "S", "R").target == "/projects/P/scenarios/S/R/"
    assert wire.get_trigger_fire("P", "S", "T", triggerRunId="F").target == (
        "/projects/P/scenarios/trigger/S/T?triggerRunId=F"
    )


@pytest.mark.parametrize(
    ("part", "quoted"),
    [
        ("a b", "a%20b"),
        ("a/b", "a%2Fb"),
        ("a?b#c", "a%3Fb%23c"),
        ("100%", "100%25"),
        ("été", "%C3%A9t%C3%A9"),
        ("a+b&c", "a%2Bb%26c"),
        ("..x", "..x"),
    ],
)
def test_every_part_of_a_path_is_quoted(part: str, quoted: str) -> None:
    assert wire.get_scenario("P", part).target == f"/projects/P/scenarios/{quoted}"


@pytest.mark.parametrize("part", ["", ".", ".."])
def test_a_part_that_would_mean_another_object_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match="cannot be an identifier"):
        wire.delete_scenario("P", part)


def test_booleans_are_written_as_python_writes_them_and_none_is_left_out() -> None:
    request = wire.get_last_runs("P", "S", limit=10, onlyFinishedRuns=True)
    assert request.target.endswith("get-last-runs?limit=10&onlyFinishedRuns=True")
    assert wire.get_run_log("P", "S", "R", stepId=None).target.endswith("/log")


def test_query_values_are_quoted() -> None:
    assert wire.get_run_log("P", "S", "R", stepId="a&b c/ä").target.endswith("?stepId=a%26b%20c%2F%C3%A4")


def test_only_reads_are_repeatable() -> None:
    rows = [row for row in vars(wire).values() if isinstance(row, wire.Endpoint)]
    assert len(rows) >= 52
    assert {row.operation for row in rows if row.repeatable and row.method != "GET"} == set()
    assert {row.operation for row in rows if not row.repeatable and row.method == "GET"} == {"get_future"}


def test_every_row_is_named_as_its_operation() -> None:
    rows = {name: row.operation for name, row in vars(wire).items() if isinstance(row, wire.Endpoint)}
    assert {name: name for name in rows} == rows


def test_a_wrong_call_of_a_row_is_an_error_at_once() -> None:
    with pytest.raises(TypeError, match="path parts"):
        wire.get_scenario("P")
    with pytest.raises(TypeError, match="no query onlyFinished"):
        wire.get_last_runs("P", "S", onlyFinished=True)


def test_a_body_is_json_and_refuses_numbers_that_json_has_not() -> None:
    assert wire.run_scenario("P", "S", json_body={}).body == b"{}"
    assert wire.abort_scenario("P", "S").body is None
    with pytest.raises(ValueError, match="Out of range"):
        wire.run_scenario("P", "S", json_body={"x": float("nan")})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "the body is an HTML page"),
        (b"\xef\xbb\xbf  <HTML>", "the body is an HTML page"),
        (b'{"id": "S", "na', "the body is not JSON"),
        (b"", "the body is empty"),
        (b"null", "a JSON object was expected, not null"),
        (b"[1]", "a JSON object was expected, not a list"),
        (b"\xff\xfe\xfd", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"1" * 5_000, "the body is not JSON"),
    ],
)
def test_a_body_that_is_no_object_is_an_invalid_reply(body: bytes, reason: str) -> None:
    error = raised(200, body)
    assert isinstance(error, errors.DSSInvalidReply)
    assert error.reason.startswith(reason)
    assert not error.transient


def test_an_invalid_reply_keeps_its_beginning() -> None:
    assert raised(200, b"<html>" + "é".encode() * 1000).body == "<html>" + "é" * 194


def test_a_receipt_may_be_empty_or_any_json_but_no_page() -> None:
    request = wire.save_scenario("P", "S", json_body={})
    assert wire.read(request, reply(204), NOW) == {}
    assert wire.read(request, reply(200, {"msg": "ok"}), NOW) == {"msg": "ok"}
    assert wire.read(request, reply(200, "saved"), NOW) == {}
    with pytest.raises(errors.DSSInvalidReply):
        wire.read(request, reply(200, b"<html>log in first</html>"), NOW)


def test_a_log_is_text_in_whatever_bytes_but_no_page() -> None:
    request = wire.get_run_log("P", "S", "R")
    assert wire.read(request, reply(200, b"line \xff\n"), NOW) == "line �\n"
    with pytest.raises(errors.DSSInvalidReply):
        wire.read(request, reply(200, b"<html>log in first</html>"), NOW)


HTML = b"<html><body>host not found</body></html>"


@pytest.mark.parametrize(
    ("status", "body", "kind", "transient"),
    [
        (401, dss_error("com.dataiku.dip.exceptions.NotAuthenticatedException", "Unknown API Key"), errors.DSSUnauthorized, False),
        (403, b"", errors.DSSForbidden, False),
        (404, dss_error("c.d.NotFoundException", "scenario does not exist: S"), errors.DSSNotFound, False),
        (404, HTML, errors.DSSNotFound, False),
        (500, dss_error("java.lang.IllegalArgumentException", "Scenario S not found"), errors.DSSNotFound, False),
        (503, dss_error("x.CodedException", "project P does not exist"), errors.DSSNotFound, False),
        (500, b"Scenario does not exist", errors.DSSNotFound, False),
        (500, HTML, errors.DSSServerError, True),
        (502, HTML, errors.DSSServerError, True),
        (502, b"upstream host not found", errors.DSSServerError, True),
        (503, {"message": "service not found"}, errors.DSSServerError, True),
        (500, dss_error("x.E", "Action not allowed for you"), errors.DSSServerError, False),
        (500, dss_error("java.lang.IllegalArgumentException", "bad trigger"), errors.DSSServerError, False),
        (500, dss_error("java.io.IOException", "disk is slow"), errors.DSSServerError, True),
        (500, b"", errors.DSSServerError, True),
        (504, b"", errors.DSSServerError, True),
        (501, b"not implemented", errors.DSSServerError, True),
        (429, b"", errors.DSSThrottled, True),
        (408, b"", errors.DSSRefused, True),
        (425, b"", errors.DSSRefused, True),
        (400, dss_error("x.E", "Could not parse a Scenario from request body"), errors.DSSRefused, False),
        (400, [1, 2], errors.DSSRefused, False),
        (418, b'"a string"', errors.DSSRefused, False),
        (302, b"", errors.DSSInvalidReply, False),
    ],
)  # fmt: skip
def test_a_status_and_the_words_beside_it_make_the_error(
    status: int, body: object, kind: type[errors.DSSError], transient: bool
) -> None:
    error = raised(status, body)
    assert (type(error), error.transient, error.status) == (kind, transient, status)


def test_an_error_says_whether_dss_itself_spoke() -> None:
    told = dss_error("c.d.NotFoundException", "scenario does not exist: S")
    assert raised(404, told).error_type == "c.d.NotFoundException"
    assert raised(404, HTML).error_type is None


def test_an_error_reads_as_a_sentence_with_its_facts() -> None:
    error = raised(404, dss_error("c.d.NotFoundException", "no S"))
    assert str(error) == (
        "No such object in DSS (get_scenario, HTTP 404, c.d.NotFoundException): c.d.NotFoundException: no S"
    )


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("1000000000000000000", 86_400.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        ("soon", None),
        ("1e18", None),
        ("-5", None),
        ("", None),
        ("٣", None),
        ("Sun, 99 Mar 2026 99:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    error = raised(429, b"", Retry_After=header)
    assert isinstance(error, errors.DSSThrottled)
    assert error.retry_after == seconds


def test_a_dated_retry_after_counts_from_the_servers_own_clock() -> None:
    headers = CIMultiDict({"date": "Sun, 01 Mar 2026 15:00:00 GMT", "retry-after": "Sun, 01 Mar 2026 15:00:20 GMT"})
    assert wire.retry_after(headers, NOW) == 20.0


@given(st.integers(400, 599), st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_error_reply_becomes_an_error(status: int, body: bytes) -> None:
    assert isinstance(wire.error_of("op", reply(status, body), NOW), errors.DSSError)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
)


@given(st.integers(200, 599), JSON)
def test_any_json_reply_is_an_object_or_an_error(status: int, body: object) -> None:
    try:
        value = wire.read(wire.get_scenario("P", "S"), reply(status, body), NOW)
    except errors.DSSError:
        return
    assert isinstance(value, dict)


def test_every_error_has_a_sentence_of_its_own_that_needs_no_docstrings() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DSSError)]
    sentences = {vars(kind).get("sentence") for kind in classes}
    assert (len(classes) > 10, len(sentences), None in sentences) == (True, len(classes), False)
    assert str(errors.DSSForbidden("no such right", operation="abort", status=403)) == (
        "The credentials do not allow this (abort, HTTP 403): no such right"
    )


@pytest.mark.parametrize(("words", "denied"), [("Action not allowed for you", True), ("disk is slow", False)])
def test_a_server_error_says_whether_dss_denied_it(words: str, denied: bool) -> None:
    error = wire.error_of("run", reply(500, dss_error("x.E", words)), NOW)
    assert isinstance(error, errors.DSSServerError)
    assert error.denied is denied
