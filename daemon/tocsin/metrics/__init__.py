"""Prometheus series from rows, not from call sites."""

from tocsin.metrics.exposition import Exposition, ProcessMetrics

__all__ = ["Exposition", "ProcessMetrics"]
