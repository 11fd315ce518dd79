"""Which scenarios a ``disable --save`` has switched off, so that ``enable --from`` can switch them on again.

The file is written before anything is changed, and names its end: a disable that failed half-way adds to it when it is
run again, while one that was completed is never written over.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from tocsin.cli.dss.address import BadAddress, scenario_address
from tocsin.cli.dss.files import read_object, write_text
from tocsin.cli.exits import USAGE, Failure
from tocsin.kit.clock import isoformat
from tocsin.kit.strings import json_text


def recall(path: Path) -> list[str]:
    """The addresses that a file remembers. Raises ``Failure``."""
    found = read_object(path).get("scenarios")
    try:
        if not isinstance(found, list):
            raise BadAddress("it holds no scenarios")
        return [str(scenario_address(str(text))) for text in found]
    except BadAddress as error:
        raise Failure(f"{path} was not written by `scenario disable --save`: {error}", USAGE) from None


def begin(path: Path, addresses: Iterable[str], now: datetime) -> list[str]:
    """Remember these, and those of an earlier try that did not complete. Raises ``Failure``."""
    known: list[str] = []
    if path.exists():
        if read_object(path).get("complete"):
            raise Failure(f"{path} remembers an earlier disable; name another file, or remove it")
        known = recall(path)
    everyone = list(dict.fromkeys([*known, *addresses]))
    _write(path, everyone, now, complete=False)
    return everyone


def complete(path: Path, addresses: Sequence[str], now: datetime) -> None:
    """All of them are switched off. Raises ``Failure``."""
    _write(path, addresses, now, complete=True)


def _write(path: Path, addresses: Sequence[str], now: datetime, *, complete: bool) -> None:
    content = {"saved_at": isoformat(now), "complete": complete, "scenarios": list(addresses)}
    write_text(path, json_text(content) + "\n")
