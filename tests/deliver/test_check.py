"""The test message, the heartbeat, and small pure parts."""

import ssl
from datetime import timedelta

import pytest
from aiohttp import web

from tests.deliver.builders import NOW, HandClock, Inbox, Plain, config, hook
from tocsin.config.model import Channel, HeartbeatConfig
from tocsin.deliver import check
from tocsin.deliver.heartbeat import HeartbeatSender
from tocsin.deliver.result import Cause, SendResult, cause_of, failed, result_of_smtp, result_of_status
from tocsin.model.notification import AttemptOutcome


async def test_a_test_message_goes_the_real_way_and_says_what_to_mend(clock: HandClock, inbox: Inbox) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=401 if request.path == "/hook/closed" else 200)

    inbox.answer = answer
    channels = (
        hook(inbox.url, "ops/good"),
        hook(inbox.url + "/closed", "ops/closed"),
        hook("http://127.0.0.1:9/", "ops/nobody"),
        Channel("ops/local", "ops", url=Plain("syslog://")),
    )
    outcomes = await check.test_channels(config(*channels), "ops", clock=clock)
    assert [(one.channel, one.sample, one.outcome, one.hint) for one in outcomes] == [
        ("ops/good", "firing", AttemptOutcome.DELIVERED, None),
        ("ops/good", "resolved", AttemptOutcome.DELIVERED, None),
        ("ops/closed", "firing", AttemptOutcome.REFUSED, "check the credentials of the channel"),
        ("ops/nobody", "firing", AttemptOutcome.FAILED, "check host and port, and the firewalls between"),
        ("ops/local", "firing", AttemptOutcome.REFUSED, "correct the channel's URL"),
    ]
    assert b"A test of Tocsin (nothing is wrong)" in inbox.received[0].body


async def test_an_unknown_receiver_is_an_error(clock: HandClock) -> None:
    with pytest.raises(check.UnknownReceiver):
        await check.test_channels(config(), "nobody", clock=clock)


@pytest.mark.parametrize(
    ("result", "advice"),
    [
        (result_of_status(404, "gone"), "check the address of the channel: nobody is there"),
        (result_of_status(301), "configure the address that it redirects to"),
        (result_of_status(422, "redirects, HTTP 401, certificate"), "the receiver does not take such a message; read what it said"),
        (result_of_smtp(535, "bad"), "check the credentials of the channel"),
        (failed("self-signed certificate", cause=cause_of(ssl.SSLError())), "set tls.ca_file to the receiver's authority"),
        (failed("something else"), None),
    ],
)  # fmt: skip
def test_advice_fits_the_cause_whatever_the_words(result: SendResult, advice: str | None) -> None:
    assert result.hint == advice


def test_there_is_advice_for_every_cause() -> None:
    assert all(failed("x", cause=cause).hint for cause in Cause)


async def test_the_heart_beats_when_all_is_well_and_once_an_interval(inbox: Inbox) -> None:
    settings = config(heartbeat=HeartbeatConfig(Plain(inbox.url + "\n"), interval=timedelta(minutes=1)))
    heart = HeartbeatSender()
    assert await heart.step(NOW, config(), True) is None
    assert await heart.step(NOW, settings, True) == NOW + timedelta(minutes=1)
    await heart.step(NOW + timedelta(seconds=59), settings, True)
    await heart.step(NOW + timedelta(seconds=61), settings, False)
    assert [one.path for one in inbox.received] == ["/hook"]
    inbox.answer = None
    await heart.step(NOW + timedelta(seconds=130), settings, True)
    assert len(inbox.received) == 2


async def test_a_heartbeat_that_nobody_hears_is_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    settings = config(heartbeat=HeartbeatConfig(Plain("http://127.0.0.1:9/secret-uuid"), interval=timedelta(seconds=1)))
    heart = HeartbeatSender()
    for seconds in range(0, 10, 2):
        await heart.step(NOW + timedelta(seconds=seconds), settings, True)
    out = capsys.readouterr().out
    assert out.count("heartbeat_failed") == 1
    assert "secret-uuid" not in out
