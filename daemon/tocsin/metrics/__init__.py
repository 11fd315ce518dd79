"""Prometheus series, from rows and not from call sites."""
