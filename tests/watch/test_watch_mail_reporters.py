"""DSS's own mail reporters: read from the runs' copies of the scenario, or from its definition when these lack them."""

from datetime import UTC, datetime

import pytest

from tests.fakedss import FakeDSS, faults
from tests.watch.conftest import Start, Watching, until
from tocsin.model.run import ScenarioKey
from tocsin.model.scenario import MailReporter
from tocsin.store.scenarios import get_mail_reporters
from tocsin.watch.read import read_mail_reporters, read_runs

pytestmark = pytest.mark.e2e

KEY = ScenarioKey("prod", "P000", "S000")
RAW: dict[str, object] = {
    "id": "r1",
    "name": "mail",
    "active": True,
    "phase": "END",
    "runConditionEnabled": True,
    "runCondition": "outcome != 'SUCCESS'",
    "messaging": {"type": "mail-scenario", "configuration": {
        "channelId": "mail", "sender": "n@example.com", "recipient": "a@example.com", "ccRecipient": "c@example.com",
        "bccRecipient": "d@example.com", "subject": "${scenarioName}", "messageSource": "INLINE", "message": "x",
        "templateFormat": "FORMULA", "sendAsHTML": True, "attachments": [{"type": "LOG"}, {"type": "LOG"}, 3],
    }},
}  # fmt: skip
MAIL = MailReporter("r1", "mail", "END", "outcome != 'SUCCESS'", "n@example.com", "a@example.com", "c@example.com",
                    "d@example.com", "${scenarioName}", "x", "", False, True, ("LOG",))  # fmt: skip


def other(**changes: object) -> dict[str, object]:
    return RAW | changes


@pytest.mark.parametrize(
    ("reporters", "expected"),
    [
        ([RAW], (MAIL,)),
        ([], ()),
        (None, None),
        ("nonsense", None),
        ([3, None, {}, {"messaging": 3}], ()),
        ([other(active=False)], ()),
        ([other(messaging={"type": "slack-scenario", "configuration": {}})], ()),
        ([{"messaging": {"type": "mail-scenario"}}], (MailReporter("0", "reporter 1"),)),
        (
            [{"phase": "START", "messaging": {"type": "mail-scenario", "configuration": {
                "messageSource": "TEMPLATE_FILE", "templateName": "default.ftl", "message": "left over"}}}],
            (MailReporter("0", "reporter 1", "START", template="default.ftl"),),
        ),
    ],
)  # fmt: skip
def test_a_definition_is_read_with_tolerance(reporters: object, expected: tuple[MailReporter, ...] | None) -> None:
    assert read_mail_reporters({"reporters": reporters}) == expected


def test_reporters_with_one_id_are_two_and_there_are_not_too_many() -> None:
    found = read_mail_reporters({"reporters": [RAW] * 500}) or ()
    assert (len(found), len({one.id for one in found})) == (20, 20)


def test_a_list_that_is_too_long_ends_with_a_whole_address() -> None:
    long = other(messaging={"type": "mail-scenario", "configuration": {"recipient": "ann@example.com," * 20_000}})
    (found,) = read_mail_reporters({"reporters": [long]}) or ()
    assert 49_900 < len(found.recipient) <= 50_000
    assert set(found.recipient.split(",")) == {"ann@example.com"}


def test_a_runs_copy_is_read_only_when_asked_for() -> None:
    raw = [{"runId": "r", "start": 1, "scenario": {"id": "S000", "reporters": [RAW]}}]
    now = datetime(2026, 3, 1, tzinfo=UTC)
    assert [one.mail_reporters for one in read_runs(raw, KEY, now).items] == [None]
    assert [one.mail_reporters for one in read_runs(raw, KEY, now, mail_reporters=True).items] == [(MAIL,)]


async def kept(found: Watching) -> tuple[MailReporter, ...] | None:
    return (await found.store.read(get_mail_reporters, [KEY])).get(KEY)


async def one_run(dss: FakeDSS, found: Watching, ends: int) -> None:
    dss.start_run("P000", "S000")
    await until(lambda: _ended(found, ends, "run.started"))
    dss.end_run("P000", "S000")
    await until(lambda: _ended(found, ends, "run.finished"))


async def _ended(found: Watching, count: int, name: str) -> bool:
    return (await found.names()).count(name) == count


async def test_where_the_copies_lack_them_the_definition_is_asked_at_starts_and_ends(
    dss: FakeDSS, start: Start
) -> None:
    dss.world.populate(1, 2)
    dss.world.scenario("P000", "S000").reporters.append(RAW)
    found = await start(mirroring=True)
    before = dss.asked("scenario")
    await one_run(dss, found, 1)
    assert await kept(found) == (MAIL,)
    dss.world.scenario("P000", "S000").reporters.clear()
    await one_run(dss, found, 2)
    assert await kept(found) == ()
    assert dss.asked("scenario") - before <= 4
    assert dss.asked("scenario", "P000", "S001") == 0


async def test_nothing_is_asked_or_written_when_nobody_wants_them(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 1)
    dss.world.scenario("P000", "S000").reporters.append(RAW)
    found = await start()
    await one_run(dss, found, 1)
    assert (await kept(found), dss.asked("scenario")) == (None, 0)


async def test_a_definition_that_cannot_be_read_delays_no_event(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 1)
    dss.fail(faults.status(403), operation="scenario")
    found = await start(mirroring=True)
    await one_run(dss, found, 1)
    assert await kept(found) is None
