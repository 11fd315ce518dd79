"""Reporters and messaging channels that really send: to a local SMTP server and a local webhook."""

import asyncio
import email
import email.policy
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiosmtpd.smtp import SMTP
from dataikuapi.utils import DataikuException

from tests.sim.driven import running
from tocsin.sim import ApiKey, World

pytestmark = pytest.mark.filterwarnings("ignore:.*session.login_data.*:DeprecationWarning")


class Inbox:
    """Keeps what it is given."""

    port: int

    def __init__(self):
        self.mails = []

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, message))
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"


@pytest.fixture
async def smtp():
    inbox = Inbox()
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(inbox), "127.0.0.1", 0)
    inbox.port = server.sockets[0].getsockname()[1]
    yield inbox
    server.close()
    await server.wait_closed()


@asynccontextmanager
async def webhook(status=200):
    got = []

    async def take(request):
        got.append((request.method, request.path_qs, dict(request.headers), await request.text()))
        return web.Response(status=status, text="no thanks" if status >= 400 else "ok")

    app = web.Application()
    app.router.add_route("*", "/{p:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", got
    finally:
        await runner.cleanup()


def world(*reporters, port=0, outcome="FAILED", configuration=None, **more):
    built = World(dss_url="https://dss.example.com/")
    built.channels["mail"] = {
        "id": "mail",
        "type": "smtp",
        "configuration": {"host": "127.0.0.1", "port": port, "sender": "dss@example.com", **(configuration or {})},
        "permissions": None,
    }
    step = {"type": "build_flowitem", "name": "b", "params": {"sim": {"outcomes": outcome}}}
    definition = {"id": "S", "name": "Nightly", "reporters": list(reporters), "params": {"steps": [step]}, **more}
    built.add_scenario(built.add_project("P"), definition)
    return built


def mail(condition=None, **configuration):
    told = {
        "channelId": "mail",
        "recipient": "a@example.com, b@example.com",
        "messageSource": "INLINE",
        **configuration,
    }
    return {
        "name": "m",
        "runConditionEnabled": condition is not None,
        "runCondition": condition,
        "messaging": {"type": "mail-scenario", "configuration": told},
    }


def hook(url, **configuration):
    return {"name": "h", "messaging": {"type": "webhook-scenario", "configuration": {"url": url, **configuration}}}


async def ended(sim):
    found = await sim.ask(sim.scenario("S", "P").run_and_wait, no_fail=True)
    return found, found.run["reportersStates"]


async def test_a_reporter_of_an_unknown_phase_sends_at_the_end(smtp):
    told = {**mail(message="${outcome}"), "phase": "LATER"}
    async with running(world(told, port=smtp.port), speed=20) as sim:
        await ended(sim)
    assert [message.get_content().strip() for _, _, message in smtp.mails] == ["FAILED"]


async def test_a_mail_reporter_sends_through_its_channel(smtp):
    told = mail(
        "outcome == 'FAILED' || outcome == 'ABORTED'",
        subject="${scenarioName}: ${outcome}",
        message="see ${scenarioRunURL}",
        ccRecipient="c@example.com",
        bccRecipient="d@example.com",
        attachments=[{"type": "LOG"}],
    )
    async with running(world(told, port=smtp.port), speed=20) as sim:
        found, states = await ended(sim)
    (sender, recipients, message) = smtp.mails[0]
    assert (sender, recipients) == ("dss@example.com", [f"{x}@example.com" for x in "abcd"])
    assert (message["Subject"], message["Cc"], message["Bcc"]) == ("Nightly: FAILED", "c@example.com", None)
    body = message.get_body().get_content()
    assert body.strip() == f"see https://dss.example.com/projects/P/scenarios/S/runs/list/{found.id}"
    assert "Starting step b" in next(message.iter_attachments()).get_content()
    assert [(s["reporterName"], s["messagingType"], s["activated"]) for s in states] == [("m", "mail-scenario", True)]
    assert "error" not in states[0]


@pytest.mark.parametrize(
    ("condition", "sent"),
    [
        (None, 1),
        ("outcome != 'SUCCESS'", 1),
        ("outcome == 'SUCCESS'", 0),
        ("outcome == 'FAILED' or outcome == 'ABORTED'", 0),
        ("!(outcome == 'SUCCESS') && contains(scenarioName, 'ight')", 1),
    ],
)
async def test_a_run_condition_decides(smtp, condition, sent):
    async with running(world(mail(condition), port=smtp.port), speed=20) as sim:
        _, states = await ended(sim)
    assert (len(smtp.mails), [state["activated"] for state in states]) == (sent, [bool(sent)])


async def test_what_cannot_be_sent_is_kept_with_the_run():
    reporters = [mail(), mail(channelId="gone"), {"name": "t", "messaging": {"type": "twilio-scenario"}}]
    async with running(world(*reporters, port=1), speed=20) as sim:
        found, states = await ended(sim)
    errors = [state["error"]["message"] for state in states]
    assert found.outcome == "FAILED"
    assert "ConnectionRefusedError" in errors[0]
    assert errors[1:] == ["Messaging channel does not exist: gone", "twilio-scenario is not emulated"]


async def test_a_freemarker_mail_that_names_what_does_not_exist_is_not_sent(smtp):
    told = mail(message="${scenarioRunURL}", templateFormat="FREEMARKER")
    built = world(told, port=smtp.port)
    built.dss_url = ""
    async with running(built, speed=20) as sim:
        _, states = await ended(sim)
    assert smtp.mails == []
    assert states[0]["error"]["message"].startswith("freemarker.core.InvalidReferenceException")


async def test_individual_mails_have_variables_of_their_own(smtp):
    recipient = '{"mails": [{"to": "a@example.com", "variables": {"name": "Ann"}}, {"to": "b@example.com"}]}'
    told = mail(recipient=recipient, message="Hello ${mailVariables_name}", sendAsHTML=True)
    async with running(world(told, port=smtp.port), speed=20) as sim:
        await ended(sim)
    bodies = [(to, m.get_content_type(), m.get_content().strip()) for _, to, m in smtp.mails]
    assert bodies == [(["a@example.com"], "text/html", "Hello Ann"), (["b@example.com"], "text/html", "Hello")]


async def test_a_start_reporter_sends_before_the_end(smtp):
    told = {**mail(messageSource="TEMPLATE_FILE"), "phase": "START"}
    built = world(told, port=smtp.port)
    built.scenario("P", "S").definition["params"]["steps"][0]["params"]["sim"]["duration"] = "1h"
    async with running(built, speed=20) as sim:
        await sim.ask(sim.scenario("S", "P").run)
        while not smtp.mails:
            await asyncio.sleep(0.01)
        assert (await sim.ask(sim.scenario("S", "P").get_current_run)).running
    assert "Scenario Nightly in project P started" in smtp.mails[0][2].get_content()


async def test_a_webhook_reporter_posts_its_template():
    async with webhook() as (url, got):
        told = hook(
            f"{url}/in",
            payload='{"o": "${outcome}", "f": "${scenarioTriggerRunId}"}',
            headers=[{"key": "X-Token", "value": "t"}],
            parameters=[{"key": "p", "value": "${projectKey}"}],
        )
        async with running(world(told), speed=20) as sim:
            found, _ = await ended(sim)
    method, path, headers, body = got[0]
    assert (method, path, headers["X-Token"], headers["Content-Type"]) == ("POST", "/in?p=P", "t", "application/json")
    assert body == f'{{"o": "FAILED", "f": "{found.run["trigger"]["runId"]}"}}'


async def test_a_webhook_that_says_no_is_an_error_of_the_reporter():
    async with webhook(503) as (url, _), running(world(hook(url)), speed=20) as sim:
        _, states = await ended(sim)
    assert states[0]["error"]["message"] == "HTTP 503 from the webhook: no thanks"


async def test_a_chat_reporter_posts_to_its_webhook():
    async with webhook() as (url, got):
        slack = {"type": "slack-scenario", "configuration": {"webhookUrl": url, "message": "*${outcome}*"}}
        async with running(world({"name": "s", "messaging": slack}), speed=20) as sim:
            await ended(sim)
    assert got[0][3] == '{"text": "*FAILED*"}'


async def test_a_step_sends_a_report_in_the_middle_of_a_run(smtp):
    built = world(port=smtp.port)
    step = {"type": "send_report", "name": "r", "params": {"messaging": mail()["messaging"]}}
    built.add_scenario(built.project("P"), {"id": "T", "params": {"steps": [step, {**step, "name": "again"}]}})
    async with running(built, speed=20) as sim:
        assert (await sim.ask(sim.scenario("T", "P").run_and_wait)).outcome == "SUCCESS"
    assert len(smtp.mails) == 2


async def test_channels_are_created_used_changed_and_deleted(smtp):
    async with running(api_keys=["root", ApiKey("k", user="bob", admin=False)]) as sim:
        root, bob = sim.client("root"), sim.client("k")
        creator = root.new_messaging_channel("smtp")
        creator.with_id("ops")
        creator.with_host("127.0.0.1")
        creator.with_port(smtp.port)
        creator.with_sender("ops@example.com")
        creator.with_authorized_domains(["example.com"])
        creator.with_permissions(["admins"], ["eve"])
        channel = await sim.ask(creator.create)
        assert (channel.id, channel.type, channel.family, channel.sender) == ("ops", "smtp", "mail", "ops@example.com")
        assert [c.id for c in await sim.ask(bob.list_messaging_channels, channel_family="mail")] == ["ops"]
        assert await sim.ask(bob.list_messaging_channels, channel_type="slack") == []
        await sim.ask(
            channel.send, "SALES", ["x@example.com"], "Hi\nthere", "<b>yo</b>", attachments=[("n.txt", b"note")]
        )
        with pytest.raises(DataikuException, match="outside of the authorized domains"):
            await sim.ask(channel.send, "SALES", ["x@elsewhere.org"], "Hi", "yo")
        with pytest.raises(DataikuException, match="SMTPRecipientsRefused"):
            await sim.ask(channel.send, "SALES", ["nobody@example.com"], "Hi", "yo")
        with pytest.raises(DataikuException, match="you may not use channel"):
            await sim.ask(
                (await sim.ask(bob.get_messaging_channel, "ops")).send, "SALES", ["x@example.com"], "Hi", "yo"
            )
        with pytest.raises(DataikuException, match="UnauthorizedException"):
            await sim.ask((await sim.ask(bob.get_messaging_channel, "ops")).get_settings)
        settings = await sim.ask(channel.get_settings)
        settings.get_raw()["configuration"]["sender"] = "new@example.com"
        await sim.ask(settings.save)
        assert (await sim.ask(root.get_messaging_channel, "ops")).sender == "new@example.com"
        await sim.ask(channel.set_permissions, [{"user": "bob", "canUse": True}])
        assert await sim.ask(channel.get_permissions) == [{"user": "bob", "canUse": True}]
        await sim.ask(channel.delete)
        with pytest.raises(DataikuException, match="messaging channel does not exist: ops"):
            await sim.ask(root.get_messaging_channel, "ops")
    sender, recipients, message = smtp.mails[0]
    assert (sender, recipients, message["Subject"]) == ("ops@example.com", ["x@example.com"], "Hi there")
    assert [part.get_filename() for part in message.iter_attachments()] == ["n.txt"]
