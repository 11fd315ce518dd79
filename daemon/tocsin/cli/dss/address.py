"""Addresses as people write them: ``[NODE/]PROJECT``, ``[NODE/]PROJECT/SCENARIO``, ``[NODE/]PROJECT/SCENARIO/RUN``.

Each part but the run may be a glob (``SALES/NIGHTLY_*``). What would be read as something else is percent-encoded:
``SALES/a%2Fb`` is the scenario ``a/b``, ``SALES/%2A`` the one that is called ``*``. Pure.
"""

import glob
import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import quote, unquote

from tocsin.cli.exits import USAGE, Failure

_ENCODED = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_SPECIAL = re.compile(r"[/%*?\[\x00-\x1f\x7f]")


class InvalidAddress(Failure):
    def __init__(self, message: str) -> None:
        super().__init__(message, USAGE)


@dataclass(frozen=True, slots=True)
class AddressPart:
    written: str

    @property
    def is_glob(self) -> bool:
        return any(sign in self.written for sign in "*?[")

    @property
    def exact(self) -> str:
        return unquote(self.written)

    def matches(self, identifier: str) -> bool:
        """Globs as the shell's; an identifier that is itself written like a glob is matched by its own name too."""
        pattern = _ENCODED.sub(lambda match: glob.escape(unquote(match[0])), self.written)
        return identifier == self.exact or (self.is_glob and fnmatchcase(identifier, pattern))


ANY = AddressPart("*")


@dataclass(frozen=True, slots=True)
class Address:
    """``node`` None: not said. ``scenario`` and ``run`` stand only where the verb has them."""

    node: AddressPart | None = None
    project: AddressPart = ANY
    scenario: AddressPart = ANY
    run: str | None = None  # decoded: an id, ``last`` or ``current``

    @property
    def is_glob(self) -> bool:
        return any(part.is_glob for part in (self.node, self.project, self.scenario) if part is not None)

    def __str__(self) -> str:
        return "/".join(part.written for part in (self.node, self.project, self.scenario) if part is not None)


def scenario_address(text: str) -> Address:
    """``[NODE/]PROJECT/SCENARIO``. Raises ``InvalidAddress``."""
    *node, project, scenario = _parts(text, (2, 3), "[NODE/]PROJECT/SCENARIO")
    return Address(node[0] if node else None, project, scenario)


def listing_address(text: str) -> Address:
    """As ``scenario_address``; a project alone stands for all its scenarios. Raises ``InvalidAddress``."""
    parts = _parts(text, (1, 2, 3), "PROJECT or [NODE/]PROJECT/SCENARIO")
    return Address(None, parts[0]) if len(parts) == 1 else scenario_address(text)


def run_address(text: str, nodes: Collection[str] = ()) -> Address:
    """``[NODE/]PROJECT/SCENARIO[/RUN]``; without a run the last one. Of three parts the first is a node if it is one of
    ``nodes``. Raises ``InvalidAddress``."""
    parts = _parts(text, (2, 3, 4), "[NODE/]PROJECT/SCENARIO[/RUN]")
    if len(parts) == 3 and parts[0].exact in nodes:
        parts.append(AddressPart("last"))
    run = parts.pop().exact if len(parts) > 2 else "last"
    *node, project, scenario = parts
    address = Address(node[0] if node else None, project, scenario, run)
    if address.is_glob:
        raise InvalidAddress(f"{text!r}: this takes one run, not a pattern")
    return address


def format_address(*parts: str) -> str:
    """Identifiers as an address, encoded where they would be read as something else."""
    return "/".join(_SPECIAL.sub(lambda match: quote(match[0], safe=""), part) for part in parts)


def _parts(text: str, counts: tuple[int, ...], form: str) -> list[AddressPart]:
    parts = [AddressPart(part) for part in text.split("/")]
    if len(parts) not in counts or not all(part.written for part in parts):
        raise InvalidAddress(f"{text!r} is not {form}; a slash inside a name is written %2F")
    if any(part.exact in (".", "..") for part in parts) or not text.isprintable():
        raise InvalidAddress(f"{text!r}: DSS has no such names")
    return parts
