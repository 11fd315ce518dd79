"""The measurements run and print figures; what the figures say is not asked here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
SMALL = {
    "pipeline": "--runs 40 --scenarios 20",
    "evaluate": "--events 40 --scenarios 20",
    "deliver": "--rows 20 --deep 40 --rounds 1 --beside 4",
    "watch": "--projects 2 --scenarios 5 --rate 5 --durations 7:9 --requests 20 --seconds 4 --burst 0 --stored 50",
    "faults": "--seconds 4 --requests 20 --rate 2 --projects 2",
    "cli": "--rounds 1 --only routes",
    "console": "--runs 200 --scenarios 20 --rounds 1",
    "scrape": "--scenarios 20 --runs-each 2 --seconds 1",
}


@pytest.mark.parametrize("name", SMALL)
def test_a_measurement_prints_figures(name: str) -> None:
    command = [sys.executable, "-m", "bench", name, "--", *SMALL[name].split()]
    env = os.environ | {"PYTHONPATH": str(TOP / "daemon")}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=TOP, env=env)
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"\d", ran.stdout)
