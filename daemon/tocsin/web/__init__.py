"""Probes, /metrics, hooks, HTTP API, event stream, pages."""

from tocsin.web.context import WebContext
from tocsin.web.server import Listener, listen, make_app

__all__ = ["Listener", "WebContext", "listen", "make_app"]
