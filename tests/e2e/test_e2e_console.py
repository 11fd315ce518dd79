"""The console in a real browser: a daemon that watches an emulated node with forty failing scenarios, used by all tests."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import pytest_asyncio

from tests.fakedss import DaemonProcess, FakeDSS, WebhookSink, config_for, eventually, faults

playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = (
    Path(os.environ.get("TOCSIN_TOOLS", "~/.cache/tocsin-tools")).expanduser() / "node/node_modules/axe-core/axe.min.js"
)
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; .ci/tools installs it"),
]

EVIL = '"><img src=x onerror=alert(1)><script>alert(2)</script>'
FAILING = 40
FIRING = FAILING + 1  # and that of the channel whose receiver refuses everything
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@dataclass
class Console:
    """A browser before a daemon; what it complained of stands in ``complaints``."""

    browser: Any  # playwright's
    daemon: DaemonProcess
    dss: FakeDSS
    broken: WebhookSink
    complaints: list[str]

    async def open(self, address: str = "/", **options: object) -> Any:
        context = await self.browser.new_context(**options)
        page = await context.new_page()
        page.set_default_timeout(20_000)
        page.on("dialog", lambda dialog: self.complaints.append(f"a dialog: {dialog.message}"))
        page.on("pageerror", lambda error: self.complaints.append(f"{address}: {error}"))
        page.on("console", lambda said: said.type == "error" and self.complaints.append(f"{address}: {said.text}"))
        await page.goto(self.daemon.url + address)
        return page

    async def places(self) -> list[str]:
        """One address of each page."""
        alert = next(
            item
            for item in await self.daemon.items("/api/v1/alerts")
            if EVIL in item["labels"].get("scenario_name", "")
        )
        run = next(item for item in await self.daemon.items("/api/v1/runs") if item["project"] == "EVIL")
        scenario = "/".join(quote(run[part], safe="") for part in ("node", "project", "scenario"))
        lists = ("/", "/alerts", "/alerts?state=all&group=project", "/scenarios", "/silences", "/deliveries", "/status")
        forms = (
            f"/alerts/act?do=ack&id={alert['id']}",
            f"/silences/new?id={alert['id']}",
            f"/routes?scenario={scenario}",
        )
        return [*lists, *forms, f"/search?q={quote(EVIL)}", f"/alerts/{alert['id']}", f"/scenarios/{scenario}",
                f"/runs/{scenario}/{quote(run['run_id'], safe='')}"]  # fmt: skip


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def console(tmp_path_factory):
    async with FakeDSS() as dss, WebhookSink() as sink, WebhookSink(default=faults.status(410)) as broken:
        for number in range(FAILING - 1):
            dss.world.add_scenario("SALES", f"LOAD_{number:02}", f"Load of region {number}")
        dss.world.add_scenario("EVIL", "EVIL", EVIL, tags=(EVIL,))
        dss.world.add_scenario("SALES", "CALM", "Quiet report")
        receivers = [{"name": "ops", "channels": [{"name": "hook", "webhook": sink.url}]},
                     {"name": "gone", "channels": [{"name": "broken", "webhook": broken.url}]}]  # fmt: skip
        route = {"receiver": "ops", "group_by": ["alertname", "project"], "group_wait": "100ms", "group_interval": "1s",
                 "routes": [{"matchers": ['project="EVIL"'], "receiver": "gone"}]}  # fmt: skip
        config = config_for(
            tmp_path_factory.mktemp("console"), {"prod": dss}, sink, receivers=receivers, route=route, reporters=[],
            rules=[{"alert": "ScenarioFailed", "kind": "failed"}],
        )  # fmt: skip
        async with DaemonProcess(config) as daemon, playwright.async_playwright() as driver:
            await daemon.watching(FAILING + 1)
            for scenario in list(dss.world.all_scenarios()):
                outcome = "SUCCESS" if scenario.id == "CALM" else "FAILED"
                dss.world.instant_run(scenario.project, scenario.id, outcome, error=f"no space left {EVIL}")

            async def ready() -> bool:
                return len(await daemon.items("/api/v1/alerts")) == FIRING and "dead" in [
                    item["state"] for item in await daemon.items("/api/v1/deliveries")
                ]

            await eventually(ready)
            browser = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            yield Console(browser, daemon, dss, broken, [])
            await browser.close()


async def test_every_page_is_accessible_fits_a_phone_and_shows_hostile_names_as_text(console):
    page = await console.open("/", **PHONE)
    serious = []
    for number, place in enumerate(await console.places()):
        await page.emulate_media(color_scheme="dark" if number % 2 else "light")
        await page.goto(console.daemon.url + place)
        wide = await page.evaluate("document.documentElement.scrollWidth")
        assert wide <= PHONE["viewport"]["width"], f"{place} is {wide} wide"
        assert await page.locator("h1").count() == 1
        if AXE.is_file():
            await page.evaluate(AXE.read_text())
            found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            serious += [
                f"{place}: {violation['id']}: {violation['nodes'][0]['html'][:200]}"
                for violation in found["violations"]
                if violation["impact"] in ("serious", "critical")
            ]
    assert serious == []
    assert [said for said in console.complaints if "404" not in said] == []


async def test_every_firing_alert_can_be_reached_and_the_title_counts_them(console):
    page = await console.open("/")
    assert await page.title() == f"({FIRING}) Overview · Tocsin"
    await page.click("text=more that fire")
    assert await page.locator("tr[data-key] a[href*='alerts/']").count() == FIRING
    assert f"firing={FIRING}" in await page.get_attribute("link[rel=icon]", "href")


async def test_a_scenario_is_found_by_its_name_with_the_keyboard_alone(console):
    page = await console.open("/")
    await page.keyboard.press("/")
    await page.keyboard.type("region 7")
    await page.keyboard.press("Enter")
    await page.click("text=Load of region 7")
    assert await page.inner_text("h1") == "Load of region 7"
    assert await page.locator("svg .cross").count() == 1
    moment = page.locator("table time").first
    assert re.fullmatch(r"\d\d\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC", await moment.get_attribute("title"))


async def test_times_are_those_of_the_browser(console):
    page = await console.open("/alerts?state=all", timezone_id="Asia/Kathmandu")
    said, utc = await page.locator("footer time").evaluate("time => [time.textContent, time.title]")
    assert int(said[-8:-6]) * 60 + int(said[-5:-3]) == (int(utc[11:13]) * 60 + int(utc[14:16]) + 345) % 1440


async def test_from_a_messages_link_to_a_silence_in_three_clicks(console):
    link = "/silences/new?" + urlencode(
        [("matcher", 'scenario="LOAD_03"'), ("matcher", 'alertname="ScenarioFailed"'), ("duration", "1h")]
    )
    page = await console.open(link)
    assert await page.locator("#preview tbody tr").count() == 1
    await page.fill("textarea", 'scenario=~"LOAD_0[34]"')  # the preview follows what is typed
    await playwright.expect(page.locator("#preview tbody tr")).to_have_count(2)
    await page.click("text=Create silence")
    await playwright.expect(page.locator("tr", has_text="LOAD_0[34]")).to_contain_text("2 alerts")
    await page.goto(console.daemon.url + "/alerts?state=suppressed")
    assert await page.locator("tr[data-key]").count() == 2
    page = await console.open("/silences/new?node=prod", timezone_id="Asia/Kathmandu")
    await page.fill("[name=until]", "2040-01-01T06:00")
    await page.click("text=Create silence")
    ends = page.locator("tr", has_text="Maintenance of prod").locator("time").last
    assert await ends.get_attribute("title") == "2040-01-01 00:15:00 UTC"
    await page.click("button:text-is('Expire')")
    await page.goto(console.daemon.url + "/silences")
    await page.click("button:text-is('Expire')")
    assert "Nothing is silenced" in await page.inner_text("main")


async def test_a_message_that_leads_to_an_alert_lets_it_be_acknowledged(console):
    alert = next(
        item for item in await console.daemon.items("/api/v1/alerts") if item["labels"].get("scenario") == "LOAD_05"
    )
    page = await console.open(f"/alerts/{alert['id']}#ack")
    await page.fill("[name=by]", "ann")
    await page.click("#ack button")
    await playwright.expect(page.locator(".note", has_text="ann has it")).to_be_visible()
    await page.goto(console.daemon.url + "/alerts?state=acknowledged")
    assert await page.locator("tr[data-key]").count() == 1


async def test_focus_selection_and_opened_details_stay_while_the_page_follows_what_happens(console):
    page = await console.open("/alerts", viewport={"width": 1000, "height": 500})
    rows = page.locator("tr[data-key]")
    before = await rows.count()
    box = rows.nth(20).locator("input")
    await box.check()
    await box.focus()
    await page.fill("[name=matcher]", "half typed")
    await box.focus()
    place = await page.evaluate("scrollY")
    await page.evaluate("getSelection().selectAllChildren(document.querySelectorAll('tr[data-key] .clip')[22])")
    selected = await page.evaluate("String(getSelection())")
    console.dss.world.instant_run("SALES", "CALM", "FAILED", error="now too")
    await playwright.expect(rows).to_have_count(before + 1)
    assert await page.title() == f"({FIRING + 1}) Alerts · Tocsin"
    assert await box.is_checked() or await page.locator("tr[data-key] input:checked").count() == 1
    assert await page.evaluate("document.activeElement.matches('tr[data-key] input:checked')")
    assert abs(await page.evaluate("scrollY") - place) < 80
    assert await page.input_value("[name=matcher]") == "half typed"
    assert await page.evaluate("String(getSelection())") == selected != ""


async def test_a_dead_letter_is_sent_again(console):
    page = await console.open("/deliveries?state=dead")
    console.broken.default = None
    await page.check("input[name=id]")
    await page.click("text=Send the selected again")
    await playwright.expect(page.locator("tr[data-key]", has_text="broken").first).to_contain_text("delivered")


async def test_a_page_says_that_the_daemon_is_away_and_goes_on_when_it_is_back(console):
    page = await console.open("/")
    await console.daemon.kill9()
    await playwright.expect(page.locator("#stale")).to_be_visible()
    await console.daemon.start()
    await console.daemon.ready()
    await playwright.expect(page.locator("#stale")).to_be_hidden(timeout=40_000)
