"""``make pictures``: messages, made by the real channels, and the console before the demo, by a real browser.

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
from pathlib import Path

import services
from cases import CONFIG, failed_run

from tocsin.config.model import MessageFormat
from tocsin.deliver.outgoing import Facts
from tocsin.deliver.render import Renderer
from tocsin.model.notification import Notice

HERE = Path(__file__).parent


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
    shoot(browser, mail(*failed_run()), "mail-phone", 360)
    shoot(browser, mail(*failed_run()), "mail-dark", 360, dark=True)
    for service in services.SERVICES:
        shoot(browser, services.page(service), service, 1200)
    console(browser)


if __name__ == "__main__":
    main()
