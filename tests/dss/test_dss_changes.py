"""Everything else that changes or belongs to a scenario: making, aborting, discussions, futures, variables, channels."""

import json
from typing import Any

import pytest
from aiohttp import web

from tocsin.dss import DSSError, DSSInvalidReply, DSSWaitTimeout


def told(dss: Any) -> list[tuple[str, str, Any]]:
    prefix = "/dip/publicapi"
    return [(a.method, a.target.removeprefix(prefix), json.loads(a.body) if a.body else None) for a in dss.asked]


async def test_a_scenario_is_made_from_a_definition_that_stays_as_it_was(serve: Any, connect: Any) -> None:
    dss = await serve({"id": "NIGHTLY"})
    definition = {"params": {"steps": []}, "tags": ["a"]}
    made = await connect(dss).get_project("P").create_scenario("Nightly", "step_based", definition)
    assert (made.id, definition) == ("NIGHTLY", {"params": {"steps": []}, "tags": ["a"]})
    assert told(dss) == [
        (
            "POST",
            "/projects/P/scenarios/",
            {"params": {"steps": []}, "tags": ["a"], "type": "step_based", "name": "Nightly"},
        )
    ]


async def test_a_new_scenario_without_an_id_is_an_invalid_reply(serve: Any, connect: Any) -> None:
    with pytest.raises(DSSInvalidReply, match="without id"):
        await connect(await serve({})).get_project("P").create_scenario("x", "step_based")


async def test_aborting_and_deleting_are_one_request_each(serve: Any, connect: Any) -> None:
    dss = await serve({"msg": "ok"})
    scenario = connect(dss).get_project("P").get_scenario("S")
    assert await scenario.abort() == {"msg": "ok"}
    await scenario.delete()
    await connect(dss).get_project("P").get_job("J").abort()
    assert told(dss) == [
        ("POST", "/projects/P/scenarios/S/abort", None),
        ("DELETE", "/projects/P/scenarios/S", None),
        ("POST", "/projects/P/jobs/J/abort", None),
    ]
    assert dss.asked[0].headers["Content-Length"] == "0"


async def test_deprecated_methods_work_and_say_what_to_use(serve: Any, connect: Any) -> None:
    dss = await serve({"script": "print(1)"})
    scenario = connect(dss).get_project("P").get_scenario("S")
    with pytest.warns(DeprecationWarning, match="use get_status or get_settings"):
        await scenario.get_definition()
    with pytest.warns(DeprecationWarning, match="use get_status or get_settings"):
        await scenario.get_definition(with_status=False)
    with pytest.warns(DeprecationWarning, match="use get_settings"):
        await scenario.set_definition({"active": True})
    with pytest.warns(DeprecationWarning, match="use get_settings"):
        await scenario.set_definition({"id": "S"}, with_status=False)
    with pytest.warns(DeprecationWarning, match="use get_settings"):
        assert await scenario.get_payload() == "print(1)"
    with pytest.warns(DeprecationWarning, match="use get_settings"):
        await scenario.set_payload("print(2)")
    path = "/projects/P/scenarios/S"
    assert told(dss) == [
        ("GET", f"{path}/light", None),
        ("GET", path, None),
        ("PUT", f"{path}/light", {"active": True}),
        ("PUT", path, {"id": "S"}),
        ("GET", f"{path}/payload", {"extension": "py"}),
        ("PUT", f"{path}/payload", {"script": "print(2)", "extension": "py"}),
    ]


async def test_discussions_are_listed_begun_and_answered(serve: Any, connect: Any) -> None:
    replies = [{"text": "why?", "author": "ann", "time": 1000, "editedOn": 0}, None]
    full = {"id": "D1", "topic": "late again", "replies": replies}
    dss = await serve(
        lambda r: (
            [{"id": "D1", "topic": "late again"}, None, {}] if r.path.endswith("/S/") and r.method == "GET" else full
        )
    )
    discussions = connect(dss).get_project("P").get_scenario("S").get_object_discussions()
    [listed] = await discussions.list_discussions()
    [reply] = await listed.get_replies()
    assert (reply.get_text(), reply.get_author(), reply.get_timestamp()) == ("why?", "ann", 1000)
    assert (reply.get_edited_timestamp(), reply.get_raw_data()) == (0, replies[0])
    begun = await discussions.create_discussion("late again", "why?")
    assert begun.get_metadata() == {"id": "D1", "topic": "late again"}
    await begun.add_reply("who knows")
    await (await discussions.get_discussion("D1")).set_metadata({"id": "D1", "topic": "solved"})
    path = "/projects/P/discussions/SCENARIO/S/"
    assert told(dss) == [
        ("GET", path, None),
        ("GET", f"{path}D1", None),
        ("POST", path, {"topic": "late again", "reply": "why?"}),
        ("POST", f"{path}D1/replies/", {"reply": "who knows"}),
        ("GET", f"{path}D1", None),
        ("PUT", f"{path}D1", {"id": "D1", "topic": "solved", "replies": replies}),
    ]


async def test_a_future_is_peeked_at_until_its_result_is_there_and_fetched_once(serve: Any, connect: Any) -> None:
    states = iter([{"alive": True}, {"alive": True, "hasResult": False}, {"hasResult": True}])
    dss = await serve(lambda r: next(states) if r.query["peek"] == "True" else {"hasResult": True, "result": 42})
    client = connect(dss, poll_pauses=(0.001, 0.01))
    assert await client.get_future("J 1").wait_for_result(timeout=10) == 42
    assert dss.targets[-2:] == ["/dip/publicapi/futures/J%201?peek=True", "/dip/publicapi/futures/J%201?peek=False"]
    assert len(dss.asked) == 4


@pytest.mark.parametrize("state", [{"aborted": True}, {"alive": False}])
async def test_a_future_that_ends_without_a_result_is_an_error(serve: Any, connect: Any, state: Any) -> None:
    client = connect(await serve(state))
    with pytest.raises(DSSError, match="ended without a result"):
        await client.get_future("J").wait_for_result()


async def test_a_future_has_a_result_or_not_and_can_be_aborted(serve: Any, connect: Any) -> None:
    dss = await serve({"alive": True, "hasResult": False})
    future = connect(dss, poll_pauses=(0.001, 0.01)).get_future("J")
    assert await future.has_result() is False
    with pytest.raises(ValueError, match="no result yet"):
        await future.get_result()
    with pytest.raises(DSSWaitTimeout, match="the result of future J"):
        await future.wait_for_result(timeout=0.02)
    dss.answer = lambda request: web.Response(status=200)
    await future.abort()
    assert dss.asked[-1].method == "DELETE"


async def test_variables_are_replaced_as_a_whole_and_updated_in_part(serve: Any, connect: Any) -> None:
    dss = await serve({"standard": {"a": 1, "b": 2}, "local": {}, "more": 3})
    project = connect(dss).get_project("P")
    await project.update_variables({"b": 3})
    await project.update_variables({"c": 4}, type="local")
    with pytest.raises(ValueError, match="lack local"):
        await project.set_variables({"standard": {}})
    assert [body for method, _, body in told(dss) if method == "PUT"] == [
        {"standard": {"a": 1, "b": 3}, "local": {}, "more": 3},
        {"standard": {"a": 1, "b": 2}, "local": {"c": 4}, "more": 3},
    ]


async def test_resolved_and_global_variables_are_read(serve: Any, connect: Any) -> None:
    dss = await serve({"a": "1"})
    client = connect(dss, default_project_key="P")
    assert await client.get_resolved_variables(typed=True) == await client.get_global_variables() == {"a": "1"}
    assert dss.targets[0].endswith("/projects/P/variables-resolved?typed=true")


async def test_messaging_channels_are_listed_and_read(serve: Any, connect: Any) -> None:
    channel = {"id": "mail", "type": "smtp", "family": "mail", "sender": "dss@x", "useCurrentUserAsSender": True}
    dss = await serve(lambda r: [channel, None] if r.path.endswith("/messaging-channels/") else channel)
    client = connect(dss)
    [listed] = await client.list_messaging_channels(channel_family="mail")
    read = await client.get_messaging_channel("mail")
    for found in (listed, read):
        assert (found.id, found.type, found.family, found.sender) == ("mail", "smtp", "mail", "dss@x")
        assert (found.use_current_user_as_sender, found.get_raw()) == (True, channel)
    await read.get_settings()
    assert [target for _, target, _ in told(dss)] == [
        "/messaging-channels/?channelFamily=mail",
        "/messaging-channels/mail",
        "/messaging-channels/mail/settings",
    ]
