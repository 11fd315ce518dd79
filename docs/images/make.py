"""``make pictures``: the default mail, rendered from the real templates, and the console before the demo, by a real browser.

Each picture is of 8-bit colours. Needs Chromium and playwright; what it draws is looked at by people, not
compared by tests, since fonts differ from machine to machine.
"""

import html
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tocsin.config.model import Config, HttpConfig, MessageFormat, StoreConfig
from tocsin.deliver.outgoing import Facts
from tocsin.deliver.render import Renderer
from tocsin.model.alert import Alert, EndReason
from tocsin.model.event import Event, EventName, ScenarioFacts
from tocsin.model.notification import EventNotice, GroupNotice, Notice
from tocsin.model.run import Details, Outcome, Run, RunError, ScenarioKey, Step

HERE = Path(__file__).parent
WHEN = datetime(2026, 3, 2, 5, 0, 12, tzinfo=UTC)
CONFIG = Config((), StoreConfig("sqlite:////unused"), http=HttpConfig(external_url="https://tocsin.example.com"))
DSS = "https://dss.example.com/projects"
LOG = """[05:04:19.377] [INFO] [dku.flow.activity] - Executing activity compute_orders_joined_NP
[05:04:20.113] [INFO] [dku.sql.query] - INSERT INTO "orders_joined" SELECT … FROM "orders" LEFT JOIN "customers"
[05:04:24.918] [ERROR] [dku.sql.query] - SQL state 53100
org.postgresql.util.PSQLException: ERROR: could not extend file "base/16401/24576": No space left on device
  Hint: Check free disk space.
[05:04:24.926] [INFO] [dku.flow.activity] - Activity finished: FAILED"""


def failure() -> tuple[Notice, Facts]:
    key = ScenarioKey("prod", "SALES", "NIGHTLY")
    run = Run(key, "2026-03-02-06-00-12-481", WHEN, WHEN + timedelta(minutes=4, seconds=13), Outcome.FAILED, "temporal",
              "Every night at 6", None, "jane.doe")  # fmt: skip
    event = Event("e" * 32, EventName.RUN_FAILED, "prod", run.end or WHEN, WHEN, "SALES",
                  ScenarioFacts("NIGHTLY", "Nightly load of orders", ("daily",), "step_based"), run,
                  f"{DSS}/SALES/scenarios/NIGHTLY/runs/list/{run.run_id}", "SUCCESS")  # fmt: skip
    done = [("Refresh source tables", 48, Outcome.SUCCESS), ("Check row counts", 2, Outcome.WARNING)]
    steps = [Step(name, name, "sql", outcome, timedelta(seconds=seconds)) for name, seconds, outcome in done]
    steps.append(Step("b", "Build orders_joined", "build_flowitem", Outcome.FAILED, timedelta(minutes=3, seconds=21)))
    said = 'could not extend file "base/16401/24576": No space left on device'
    error = RunError(said, title="Job failed", step="Build orders_joined")
    return EventNotice(event, "nightly"), Facts({run.key: Details(run.key, WHEN, error, tuple(steps), LOG)},
                                                {key: timedelta(minutes=11, seconds=40)})  # fmt: skip


def group() -> tuple[Notice, Facts]:
    alerts = []
    for name, summary, severity, ended in (
        ("NIGHTLY", "SALES / Nightly load of orders ended FAILED three times in a row", "warning", False),
        ("EXPORT", "SALES / Export to the shop did not start at 06:30", "critical", False),
        ("STOCK", "SALES / Stock levels ended FAILED", "warning", True),
    ):
        labels = {"alertname": "ScenarioFailed", "severity": severity, "dss_node": "prod", "project": "SALES",
                  "scenario": name}  # fmt: skip
        notes = {"summary": summary, "run_url": f"{DSS}/SALES/scenarios/{name}/runs/list/x"}
        end = (WHEN + timedelta(hours=2), EndReason.RESOLVED) if ended else (None, None)
        alerts.append(Alert(name, name, labels, WHEN, *end, annotations=notes, count=3))
    labels = {"alertname": "ScenarioFailed", "dss_node": "prod", "project": "SALES"}
    return GroupNotice("{}", "ops", labels, tuple(alerts), "new_alerts"), Facts()


def mail(notice: Notice, facts: Facts) -> str:
    page = Renderer({}).render(notice, facts, CONFIG, MessageFormat.MAIL, None).html
    assert page is not None
    return page


def shoot(browser: str, page: str, name: str, width: int, *, dark: bool = False) -> None:
    """A picture of a mail, as high as it is. The frame has the width: a browser refuses windows as narrow as a phone."""
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        frame.write_text(_FRAME.format(width=width, page=html.escape(page)), "utf-8")
        words = [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-lcd-text"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={folder}/profile", f"--blink-settings=preferredColorScheme={0 if dark else 1}"),
        ]
        read = subprocess.run([*words, "--dump-dom", frame.as_uri()], check=True, capture_output=True, timeout=120)
        height = read.stdout.decode().partition("<title>")[2].partition("</title>")[0]
        shot = [f"--window-size={width},{height}", f"--screenshot={HERE / name}.png", frame.as_uri()]
        subprocess.run([*words, *shot], check=True, capture_output=True, timeout=120)
    picture = HERE / f"{name}.png"
    picture.write_bytes(with_palette(picture.read_bytes()))


_FRAME = """<!DOCTYPE html><meta charset="utf-8"><title></title><style>body {{ margin: 0 }}</style>
<iframe style="border:0;display:block;width:{width}px" srcdoc="{page}"
  onload="document.title = this.height = this.contentDocument.documentElement.scrollHeight"></iframe>"""


def console(browser: str) -> None:
    """The overview and the page of a scenario, of a demo that has run for a while."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - the mails need none

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    demo = subprocess.Popen([sys.executable, "-m", "tocsin", "demo", "--listen", listen], stdout=subprocess.DEVNULL)
    try:
        with sync_playwright() as driver:
            page = driver.chromium.launch(
                executable_path=browser, args=["--no-sandbox", "--disable-lcd-text"]
            ).new_page(viewport={"width": 1120, "height": 760})
            time.sleep(50)  # until some runs have failed and some still run
            for path, name in (("", "overview"), ("scenarios/demo/CUSTOMER_360/CRM_SYNC", "scenario")):
                page.goto(f"http://{listen}/{path}")
                page.wait_for_selector("main table")
                picture = HERE / f"console-{name}.png"
                picture.write_bytes(with_palette(page.screenshot()))
    finally:
        demo.terminate()
        demo.wait()


def with_palette(png: bytes) -> bytes:
    """The same picture in a third of its bytes: Chromium writes three bytes a pixel, and text needs few colours."""
    chunks, at = [], 8
    while at < len(png):
        (size,) = struct.unpack_from(">I", png, at)
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + size]))
        at += size + 12
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    assert rest == [8, 2, 0, 0, 0], "8 bits, RGB, no interlace"
    raw = zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT"))
    before, lines = bytes(3 * width), []
    for start in range(0, len(raw), 3 * width + 1):
        before = unfiltered(raw[start], raw[start + 1 : start + 1 + 3 * width], before)
        lines.append([before[x : x + 3] for x in range(0, 3 * width, 3)])
    counted = Counter(colour for line in lines for colour in line)
    palette = [colour for colour, _ in counted.most_common(256)]
    place = {colour: nearest(colour, palette) for colour in counted}
    packed = b"".join(b"\0" + bytes(place[colour] for colour in line) for line in lines)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    made = [(b"IHDR", header), (b"PLTE", b"".join(palette)), (b"IDAT", zlib.compress(packed, 9)), (b"IEND", b"")]
    return png[:8] + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in made
    )


def nearest(colour: bytes, palette: list[bytes]) -> int:
    return min(range(len(palette)), key=lambda n: sum((a - b) ** 2 for a, b in zip(colour, palette[n], strict=True)))


def unfiltered(kind: int, line: bytes, above: bytes) -> bytes:
    """A line of pixels as it was before its filter (PNG specification, section 9)."""
    out = bytearray(line)
    for x, value in enumerate(line):
        left, up, corner = (out[x - 3], above[x], above[x - 3]) if x >= 3 else (0, above[x], 0)
        guess = left + up - corner
        paeth = min((left, up, corner), key=lambda one: abs(guess - one))
        out[x] = (value + (0, left, up, (left + up) // 2, paeth)[kind]) & 255
    return bytes(out)


def main() -> None:
    browser = shutil.which("chromium") or shutil.which("chrome") or sys.exit("no Chromium here")
    for width, name in ((760, "wide"), (360, "phone")):
        shoot(browser, mail(*failure()), f"mail-{name}", width)
    shoot(browser, mail(*failure()), "mail-dark", 360, dark=True)
    shoot(browser, mail(*group()), "mail-group", 760)
    console(browser)


if __name__ == "__main__":
    main()
