"""Tocsin: the alarm bell for Dataiku DSS."""

__version__ = "0.2.0"
ALERTMANAGER_VERSION = "0.27.0"
"""The version of Alertmanager whose API v2 is served beside our own; some clients look at it."""
