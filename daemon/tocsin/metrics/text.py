"""Writing samples by hand: Prometheus text 0.0.4 and OpenMetrics 1.0.

``prometheus_client`` takes ten times as long for the large scenario families, so those are written here, line by
line, from strings that were escaped once. A test holds this writer against its rendering and its parsers.
"""

import re
from collections.abc import Mapping
from enum import Enum

EXEMPLAR_LIMIT = 128  # characters of names and values together, by OpenMetrics 1.0
_POSITIVE = re.compile(r"(?=.*[1-9])[0-9]*\.?[0-9]*")
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Format(Enum):
    """What a scrape is written in; the value is its content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def accepts(header: str, kind: str) -> bool:
    """Whether a header as Accept or Accept-Encoding names this kind, and no ``q`` refuses it: 0, or no number."""
    for part in header.lower().split(","):
        name, *parameters = ("".join(piece.split()) for piece in part.split(";"))
        if name == kind:
            return all(_POSITIVE.fullmatch(parameter[2:]) for parameter in parameters if parameter.startswith("q="))
    return False


def negotiate(accept: str) -> Format:
    """OpenMetrics for who asks for it, else the classic text."""
    return Format.OPENMETRICS if accepts(accept, "application/openmetrics-text") else Format.TEXT


def labels_text(labels: Mapping[str, str]) -> str:
    """``a="x",b="y"`` with values escaped, without braces."""
    return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())


def header(name: str, kind: str, documentation: str, format: Format) -> str:
    """HELP and TYPE of a family. ``name`` of a counter is without ``_total``, which only the classic text adds."""
    if kind == "counter" and format is Format.TEXT:
        name += "_total"
    return f"# HELP {name} {documentation}\n# TYPE {name} {kind}\n"


def exemplar(run_id: str, scenario: str | None, value: float, at_seconds: float) -> str:
    """The end of a sample's line that names a run; empty when not even the run id fits into the limit.

    Parsers disagree about escapes in exemplars (prometheus_client's own refuses an escaped quote), so an id that would
    need one is left out.
    """
    for labels in ({"run_id": run_id, "scenario": scenario or ""}, {"run_id": run_id}):
        known = {name: text for name, text in labels.items() if text}
        if any(not text.isprintable() or '"' in text or "\\" in text for text in known.values()):
            continue
        if sum(len(name) + len(text) for name, text in known.items()) <= EXEMPLAR_LIMIT:
            return f" # {{{labels_text(known)}}} {value} {at_seconds}"
    return ""
