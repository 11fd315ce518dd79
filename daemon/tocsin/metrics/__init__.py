"""Prometheus series from rows, not from call sites."""

from tocsin.metrics.exposition import Exposition
from tocsin.metrics.own import AppMetrics

__all__ = ["AppMetrics", "Exposition"]
