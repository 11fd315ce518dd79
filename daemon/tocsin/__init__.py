"""Tocsin: the alarm bell for Dataiku DSS."""

__version__ = "0.1.0"
