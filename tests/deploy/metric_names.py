"""The metric families that dashboards and rules may use, from the code, and the suffixes of their samples."""

from docs.generate import series

_KINDS = {name: kind for name, kind, _, _ in series()}
GAUGES = {name for name, kind in _KINDS.items() if kind == "gauge"}
COUNTERS = {name for name, kind in _KINDS.items() if kind == "counter"}
HISTOGRAMS = {name for name, kind in _KINDS.items() if kind == "histogram"}
SAMPLES = GAUGES | COUNTERS | {f"{name}_{end}" for name in HISTOGRAMS for end in ("bucket", "sum", "count")}
