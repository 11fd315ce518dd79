"""DSS's own mail reporters in rows, and in the transaction of a poll."""

from dataclasses import replace

from sqlalchemy import select, text

from tests.store.test_store_watched import scenario
from tests.watch.scenes import KEY, at, poll, poll_result, ran, wants
from tocsin.model.event import FailedReporter
from tocsin.model.run import DetailsLevel, ScenarioKey
from tocsin.model.scenario import MailReporter
from tocsin.store import Store, events, scenarios, schema
from tocsin.watch.read import ListedRun
from tocsin.watch.record import record_polls

OTHER = ScenarioKey("prod", "SALES", "HOURLY")
MAIL = MailReporter(
    "r1", "mail", "START", "outcome != 'SUCCESS'", "n@example.com", "a@example.com, ü@example.com",
    subject="${scenarioName}", message="<b>${outcome}</b>", freemarker=False, html=True, attachments=("LOG",),
)  # fmt: skip


async def test_reporters_come_back_as_they_were_written_and_the_newest_stand(store: Store) -> None:
    await store.write(scenarios.put_mail_reporters, [(KEY, (MAIL,)), (OTHER, ())])
    asked = (KEY, OTHER, KEY._replace(scenario="NEVER_READ"))
    assert await store.read(scenarios.get_mail_reporters, asked) == {KEY: (MAIL,), OTHER: ()}
    await store.write(scenarios.put_mail_reporters, [(KEY, ()), (OTHER, (MAIL, replace(MAIL, id="r2")))])
    assert await store.read(scenarios.get_mail_reporters, asked) == {KEY: (), OTHER: (MAIL, replace(MAIL, id="r2"))}


async def test_what_stands_there_already_is_not_written_again(store: Store) -> None:
    await store.write(scenarios.put_mail_reporters, [(KEY, (MAIL,))])
    sqlite = store.url.get_backend_name() == "sqlite"
    touched = text("SELECT total_changes()" if sqlite else "SELECT xmin FROM mail_reporters")
    before = await store.write(lambda c: c.execute(touched).scalar_one())
    await store.write(scenarios.put_mail_reporters, [(KEY, (MAIL,))])
    assert await store.write(lambda c: c.execute(touched).scalar_one()) == before


async def test_a_poll_writes_reporters_with_its_events_or_not_at_all(store: Store) -> None:
    await store.write(scenarios.put_scenarios, [scenario(), scenario(OTHER)])
    seen = poll(poll_result([ran(10, 20)], 30))
    wanted = replace(seen, mail_reporters=(MAIL,), put_mail_reporters=True)
    unchanged = replace(poll(poll_result([ran(10, 20, key=OTHER)], 30, key=OTHER)), mail_reporters=(MAIL,))
    gone = KEY._replace(scenario="GONE")
    stranger = replace(poll(poll_result([], 30, key=gone)), mail_reporters=(MAIL,), put_mail_reporters=True)
    recorded = await store.write(record_polls, [wanted, unchanged, stranger])
    assert [len(one.events) for one in recorded] == [2, 2, 0]
    keys = await store.read(lambda c: list(c.execute(select(schema.mail_reporters.c.scenario)).scalars()))
    assert keys == ["NIGHTLY"]


async def test_the_reporters_say_whose_details_are_wanted(store: Store) -> None:
    await store.write(scenarios.put_scenarios, [scenario()])
    seen = replace(
        poll(poll_result([ran(10, 20)], 30)),
        wants_details=lambda event, own: wants(DetailsLevel(own == (MAIL,)))(event, own),
        mail_reporters=(MAIL,),
    )
    (recorded,) = await store.write(record_polls, [seen])
    assert [(run.run_id, need.level) for run, need in recorded.details] == [("run-10", DetailsLevel.STEPS)]


async def test_failures_that_came_before_the_end_of_their_run_are_found(store: Store) -> None:
    await store.write(scenarios.put_scenarios, [scenario()])
    failure = (FailedReporter("mail", "mail-scenario", "no route"),)
    for now, runs in ((15, [ran(10)]), (40, [ran(10, 30), ran(31)]), (60, [ran(10, 30), ran(31, 50)])):
        seen = [ListedRun(run, failure if run.start == at(10) or run.end else ()) for run in runs]
        await store.write(record_polls, [poll(poll_result(seen, now))])
    early, late = ran(10, 30).key, ran(31, 50).key
    found = await store.read(events.early_failures, {early, late})
    assert {key: [one.reporter for one in told] for key, told in found.items()} == {early: [*failure]}
    assert await store.read(events.early_failures, set()) == {}
