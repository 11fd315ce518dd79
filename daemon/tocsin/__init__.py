"""Tocsin: the alarm bell for Dataiku DSS."""

__version__ = "0.2.0"
