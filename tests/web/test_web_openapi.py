"""The API's description holds what the handlers do."""

from typing import Any

from aiohttp import ClientSession
from jsonschema import Draft202012Validator
from sqlalchemy import Connection

from tests.web.harness import Daemon
from tests.web.rows import (
    NOW,
    a_run,
    an_alert,
    an_event,
    put_alert,
    put_error,
    put_events,
    put_node,
    put_notification,
    put_run,
    put_scenario,
)
from tocsin.model.notification import EventNotice
from tocsin.store import schema
from tocsin.web import make_app
from tocsin.web.routes import endpoints


async def described(client: ClientSession) -> Any:
    async with client.get("/api/v1/openapi.json") as answer:
        return await answer.json()


def validator(document: Any, schema: Any) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


async def test_every_address_is_described_and_nothing_else_is(client: ClientSession, daemon: Daemon) -> None:
    document = await described(client)
    served = {
        (route.method, route.resource.canonical)
        for route in make_app(daemon.context()).router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    pages = {(route.method, route.path) for route in endpoints() if route.page}
    assert told | pages == served
    assert not told & pages


async def test_references_and_operation_ids_are_sound(client: ClientSession) -> None:
    document = await described(client)
    names = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names))
    for found in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(found)


async def test_answers_are_as_described(client: ClientSession, daemon: Daemon) -> None:
    run = a_run(outcome="FAILED")

    def fill(connection: Connection) -> None:
        put_node(connection)
        put_scenario(connection)
        put_run(connection, run)
        put_run(connection, a_run(minutes_ago=1, seconds=None))
        put_error(connection, run, "boom")
        put_events(connection, an_event(run))
        put_alert(connection, an_alert())
        put_notification(connection, "d1", EventNotice(an_event(run), "nightly"))
        connection.execute(
            schema.attempts.insert(),
            {"notification_id": "d1", "number": 1, "started_at": NOW, "ended_at": NOW, "outcome": "failed", "note": ""},
        )
        connection.execute(
            schema.silences.insert(),
            {"id": "s", "matchers": ("a=b",), "starts_at": NOW, "ends_at": NOW, "created_by": "ann", "comment": ""},
        )

    await daemon.store.write(fill)
    document = await described(client)
    for name in ("nodes", "scenarios", "runs", "events", "alerts", "silences", "deliveries", "status", "config"):
        path = f"/api/v1/{name}"
        answers = document["paths"][path]["get"]["responses"]
        async with client.get(path) as answer:
            body = await answer.json()
        if name == "runs":
            address = f"prod/SALES/NIGHTLY/{run.run_id}"
            async with client.get(f"/api/v1/explain/{address}") as answer:
                story = await answer.json()
            validator(document, {"$ref": "#/components/schemas/RunExplanation"}).validate(story)
        if "items" in body:
            assert body["items"], name
        validator(document, answers["200"]["content"]["application/json"]["schema"]).validate(body)


async def test_every_described_filter_is_taken(client: ClientSession) -> None:
    document = await described(client)
    for path, methods in document["paths"].items():
        for parameter in methods.get("get", {}).get("parameters", []):
            if parameter["in"] == "query" and path != "/api/v1/events/stream":
                value = "1" if parameter["name"] == "limit" else ""
                async with client.get(path, params={parameter["name"]: value}) as answer:
                    assert (path, parameter["name"], answer.status) == (path, parameter["name"], 200)


async def test_a_problem_is_as_described(client: ClientSession) -> None:
    document = await described(client)
    async with client.get("/api/v1/runs?limit=0") as answer:
        validator(document, {"$ref": "#/components/schemas/Problem"}).validate(await answer.json())
