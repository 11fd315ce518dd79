"""The test message, the heartbeat, and small pure parts."""

from datetime import timedelta

import pytest
from aiohttp import web

from tests.deliver.builders import NOW, HandClock, Inbox, Plain, config, hook
from tocsin.deliver import trial
from tocsin.deliver.heartbeat import Heartbeat
from tocsin.deliver.verdict import failed, of_log, of_smtp, refused
from tocsin.kit.mask import mask
from tocsin.model.config import Channel
from tocsin.model.config import Heartbeat as HeartbeatConfig
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
    outcomes = await trial.test_channels(config(*channels), "ops", clock=clock)
    assert [(one.channel, one.outcome, one.mend) for one in outcomes] == [
        ("ops/good", AttemptOutcome.DELIVERED, None),
        ("ops/closed", AttemptOutcome.REFUSED, "check the credentials of the channel"),
        ("ops/nobody", AttemptOutcome.FAILED, "check host and port, and the firewalls between"),
        ("ops/local", AttemptOutcome.REFUSED, "mend the channel's URL"),
    ]
    assert b"A test of Tocsin (nothing is wrong)" in inbox.received[0].body


async def test_an_unknown_receiver_is_an_error(clock: HandClock) -> None:
    with pytest.raises(trial.UnknownReceiver):
        await trial.test_channels(config(), "nobody", clock=clock)


@pytest.mark.parametrize(
    ("verdict", "advice"),
    [
        (refused("HTTP 404: gone"), "check the address of the channel: nobody is there"),
        (refused("HTTP 301: redirects are not followed"), "configure the address that it redirects to"),
        (of_smtp(535, "bad"), "check the credentials of the channel"),
        (
            failed("TLS: self-signed certificate"),
            "set tls.ca_file (for SMTP: SSL_CERT_FILE) to the receiver's authority",
        ),
        (failed("something else"), None),
    ],
)
def test_advice_fits_the_problem(verdict, advice: str | None) -> None:
    assert trial.mend(verdict) == advice


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        (["Failed to send Slack: Too Many Requests., error=429."], AttemptOutcome.FAILED),
        (["Failed to send JSON POST notification: error=500."], AttemptOutcome.FAILED),
        (["Failed to send Discord: Unauthorized., error=401."], AttemptOutcome.REFUSED),
        (["Failed, error=404.", "Response Details: no_service"], AttemptOutcome.REFUSED),
        (["Failed to send to Slack: , error=200.", "Response Details: b'{\"ok\":false,\"error\":\"invalid_auth\"}'"], AttemptOutcome.REFUSED),
        (["Failed to send to Slack: , error=200.", "Response Details: b'<html>'"], AttemptOutcome.FAILED),
        (["A Connection error occurred", "Socket Exception: timed out"], AttemptOutcome.FAILED),
        ([], AttemptOutcome.FAILED),
        (["first error=401.", "then error=503."], AttemptOutcome.FAILED),
    ],
)  # fmt: skip
def test_what_apprises_log_says_is_told_apart(lines: list[str], outcome: AttemptOutcome) -> None:
    assert of_log(lines).outcome == outcome


def test_a_wait_in_apprises_log_is_read() -> None:
    assert of_log(["error=429.", 'Response Details: {"retry_after": 2.5}']).retry_after == timedelta(seconds=2.5)


def test_masking_takes_the_longest_secret_first_and_leaves_short_words() -> None:
    assert mask("token abc-def and abc", ["abc-", "abc-def", "and", ""]) == "token *** and abc"


async def test_the_heart_beats_when_all_is_well_and_once_an_interval(inbox: Inbox) -> None:
    settings = config(heartbeat=HeartbeatConfig(Plain(inbox.url + "\n"), timedelta(minutes=1)))
    heart = Heartbeat()
    assert await heart.step(NOW, config(), True) is None
    assert await heart.step(NOW, settings, True) == NOW + timedelta(minutes=1)
    await heart.step(NOW + timedelta(seconds=59), settings, True)
    await heart.step(NOW + timedelta(seconds=61), settings, False)
    assert [one.path for one in inbox.received] == ["/hook"]
    inbox.answer = None
    await heart.step(NOW + timedelta(seconds=130), settings, True)
    assert len(inbox.received) == 2


async def test_a_heartbeat_that_nobody_hears_is_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    settings = config(heartbeat=HeartbeatConfig(Plain("http://127.0.0.1:9/secret-uuid"), timedelta(seconds=1)))
    heart = Heartbeat()
    for seconds in range(0, 10, 2):
        await heart.step(NOW + timedelta(seconds=seconds), settings, True)
    out = capsys.readouterr().out
    assert out.count("heartbeat_failed") == 1
    assert "secret-uuid" not in out
