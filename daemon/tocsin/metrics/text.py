"""Writing samples by hand: Prometheus text 0.0.4 and OpenMetrics 1.0.

``prometheus_client`` takes ten times as long for the large scenario families, so those are written here, line by
line, from strings that were escaped once. A test holds this writer against its rendering and its parsers.
"""

from collections.abc import Mapping
from enum import Enum

EXEMPLAR_LIMIT = 128  # characters of names and values together, by OpenMetrics 1.0
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Format(Enum):
    """What a scrape is written in; the value is its content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def negotiate(accept: str) -> Format:
    """OpenMetrics for who asks for it, else the classic text."""
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if kind == "application/openmetrics-text" and not _refused(parameters):
            return Format.OPENMETRICS
    return Format.TEXT


def gzip_wanted(accept_encoding: str) -> bool:
    for part in accept_encoding.split(","):
        coding, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if coding == "gzip":
            return not _refused(parameters)
    return False


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


def _refused(parameters: list[str]) -> bool:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value) == 0
            except ValueError:
                return True
    return False
