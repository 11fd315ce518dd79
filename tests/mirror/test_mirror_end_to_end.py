"""The same run told twice: by the emulated DSS's own reporter and by Tocsin's stages, through one real SMTP server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from random import Random
from urllib.parse import quote

import pytest
from prometheus_client import CollectorRegistry

from tests.deliver.builders import Plain
from tests.fakedss.sinks import Mail, SmtpSink
from tests.sim.driven import running
from tests.watch.conftest import CLOCK, QUICK, until
from tocsin.config.model import DURATION_BUCKETS, Channel, Config, DssReportersConfig, Node, Receiver, StoreConfig
from tocsin.decide.decide import DecideMetrics, Decider
from tocsin.deliver.sender import DeliverMetrics, Sender
from tocsin.routing.details import details_needed
from tocsin.sim import DEFAULT_KEY, World
from tocsin.store import Store, writer
from tocsin.watch.node import NodeWatcher
from tocsin.watch.state import WatcherDeps, WatchMetrics

pytestmark = pytest.mark.filterwarnings("ignore:.*session.login_data.*:DeprecationWarning")

BODY = "Scenario ${scenarioName} (${projectKey}) ended ${outcome}, started by ${triggerName}.\nSee ${scenarioRunURL}\n"


def reporter(name: str = "mail", phase: str = "END", **configuration: object) -> dict[str, object]:
    told = {
        "channelId": "mail",
        "sender": "Nightly <nightly@example.com>",
        "recipient": "a@example.com, b@example.com",
        "ccRecipient": "c@example.com",
        "bccRecipient": "d@example.com",
        "subject": "${scenarioName}: ${outcome}",
        "messageSource": "INLINE",
        "templateFormat": "FORMULA",
        "message": BODY,
    }
    messaging = {"type": "mail-scenario", "configuration": told | configuration}
    return {"name": name, "phase": phase, "runConditionEnabled": False, "messaging": messaging}


@dataclass
class Stages:
    """The daemon's stages on a store of their own, watching an emulated DSS."""

    smtp: SmtpSink
    decider: Decider
    sender: Sender
    config: Config
    store: Store

    async def mails(self, of: Callable[[Mail], bool], count: int) -> list[Mail]:
        """Step until that many mails of this kind have come."""

        async def come() -> bool:
            await self.decider.step(CLOCK.now(), self.config)
            await self.sender.step(CLOCK.now(), self.config)
            await self.sender.idle()
            return len([one for one in self.smtp.mails if of(one)]) >= count

        await until(come, 60)
        return [one for one in self.smtp.mails if of(one)]


def by_tocsin(one: Mail) -> bool:
    return "Auto-Submitted" in one.message


def by_dss(one: Mail) -> bool:
    return not by_tocsin(one)


@asynccontextmanager
async def stages(
    path: Path, mode: str, *reporters: dict[str, object], name: str = "Nightly", broken: bool = False
) -> AsyncIterator[Stages]:
    """One scenario whose run has just been started."""
    world = World()
    async with AsyncExitStack() as stack:
        smtp = await stack.enter_async_context(SmtpSink())
        server = {"host": "127.0.0.1", "port": 1 if broken else smtp.port, "sender": "dss@example.com"}
        world.channels["mail"] = {"id": "mail", "type": "smtp", "configuration": server, "permissions": None}
        step = {"type": "build_flowitem", "name": "b", "params": {"sim": {"outcomes": "FAILED", "duration": "1s"}}}
        definition = {"id": "S", "name": name, "reporters": list(reporters), "params": {"steps": [step]}}
        world.add_scenario(world.add_project("P"), definition)
        sim = await stack.enter_async_context(running(world, speed=1))
        url = world.dss_url = sim.url
        who = "from=Tocsin <tocsin@example.com>&to=ops@example.com"
        channel = Channel("ops/mail", "ops", url=Plain(f"mailto://127.0.0.1:{smtp.port}?{quote(who, safe='=&')}"),
                          timeout=timedelta(seconds=10))  # fmt: skip
        node = Node("prod", url, api_key=Plain(DEFAULT_KEY), watch=replace(QUICK, details_wait=timedelta(seconds=1)))
        config = Config(
            nodes=(node,),
            store=StoreConfig("sqlite:////unused"),
            receivers=(Receiver("ops", (channel,)),),
            dss_reporters=DssReportersConfig(mode, "ops", ("*@example.com",), ("*@example.com",)),  # type: ignore[arg-type]
            rules=(),
            inhibit_rules=(),
        )
        store = Store(f"sqlite:///{path / 'tocsin.db'}")
        await store.open()
        leader = await store.write(writer.acquire_lease, "test", CLOCK.now(), force=True)
        assert leader is not None

        registry = CollectorRegistry()
        deps = WatcherDeps(
            node, store=store, leadership=leader, clock=CLOCK, wake=lambda: None, metrics=WatchMetrics(registry),
            wants_details=details_needed(config), wants_mail_reporters=lambda: True, user_agent="tocsin/test",
            duration_buckets=DURATION_BUCKETS,
        )  # fmt: skip
        watcher = NodeWatcher(deps)
        decider = Decider(store, leader, DecideMetrics(registry), lambda: None)
        sender = Sender(store, holder="me", clock=CLOCK, metrics=DeliverMetrics(registry), random=Random(1))
        task = asyncio.create_task(watcher.run())
        try:
            await until(lambda: bool((seen := watcher.snapshot()) and seen.scenarios == 1 and not seen.row.backfilling))
            await sim.ask(sim.scenario("S", "P").run)
            yield Stages(smtp, decider, sender, config, store)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await sender.close(timedelta(seconds=1))
            await store.close()


def told(one: Mail) -> tuple[object, ...]:
    body = one.message.get_body(("plain", "html"))
    assert body is not None
    head = tuple(one.message[name] for name in ("From", "To", "Cc", "Subject"))
    return (one.sender.partition("<")[2].rstrip(">") or one.sender, one.recipients, head, body.get_content().strip())


async def test_mirrored_mails_are_those_that_dss_sends(tmp_path: Path) -> None:
    people = '{"mails": [{"to": "a@example.com", "variables": {"name": "Ann"}}, {"to": "b@example.com"}]}'
    each = reporter("each", recipient=people, subject="For ${mailVariables_name}", message="Hello", ccRecipient="")
    async with stages(tmp_path, "mirror", reporter(), each) as run:
        theirs = await run.mails(by_dss, 3)
        ours = await run.mails(by_tocsin, 3)
    first, second = told(theirs[0]), next(told(one) for one in ours if one.message["Cc"])
    assert first == second
    assert second[2] == (
        "Nightly <nightly@example.com>",
        "a@example.com, b@example.com",
        "c@example.com",
        "Nightly: FAILED",
    )
    assert "Scenario Nightly (P) ended FAILED" in str(second[3])
    individual = [one for one in ours if not one.message["Cc"]]
    assert [one.message["Subject"] for one in individual] == ["For Ann", "For ${mailVariables_name}"]
    assert [one.recipients for one in individual] == [one.recipients for one in theirs[1:]]


async def test_a_start_is_mirrored_while_the_run_goes_on(tmp_path: Path) -> None:
    async with stages(tmp_path, "mirror", reporter(phase="START", message="${scenarioName} begins")) as run:
        (theirs,), (ours,) = await run.mails(by_dss, 1), await run.mails(by_tocsin, 1)
        assert ours.message.get_body(("plain",)).get_content().strip() == "Nightly begins"  # type: ignore[union-attr]
        assert (ours.sender, ours.recipients) == (theirs.sender, theirs.recipients)


async def test_what_dss_could_not_send_arrives(tmp_path: Path) -> None:
    async with stages(tmp_path, "fallback", reporter(), broken=True) as run:
        (ours,) = await run.mails(by_tocsin, 1)
        assert [one for one in run.smtp.mails if by_dss(one)] == []
    assert told(ours)[:2] == ("nightly@example.com", tuple(f"{who}@example.com" for who in "abcd"))
    assert ours.message["Subject"] == "Nightly: FAILED"
    assert "Scenario Nightly (P) ended FAILED" in str(told(ours)[3])


async def test_names_are_text_and_templates_of_strangers_are_not_executed(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> {{ 7 * 7 }}"
    html = reporter("html", sendAsHTML=True, subject="{{ 7 * 7 }} ${scenarioName}",
                    message="<p>${scenarioName} {% for x in range(9999999) %}{{ x }}{% endfor %}</p>")  # fmt: skip
    mail = reporter("ftl", templateFormat="FREEMARKER", subject="built-in",
                    message="<#assign x='freemarker.template.utility.Execute'?new()>${x('id')}")  # fmt: skip
    async with stages(tmp_path, "mirror", html, mail, name=evil) as run:
        ours = {str(one.message["Subject"]): one.message for one in await run.mails(by_tocsin, 2)}
    built_in = ours.pop("built-in")
    ((subject, first),) = ours.items()
    assert subject == "{{ 7 * 7 }} " + evil
    page = first.get_body(("html",))
    assert page is not None
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{ 7 * 7 }} {% for x in range(9999999) %}" in page.get_content()
    text, page = built_in.get_body(("plain",)), built_in.get_body(("html",))
    assert text is not None
    assert page is not None
    assert f"{evil} FAILED in P on prod" in text.get_content()
    assert "<script>" not in page.get_content()
