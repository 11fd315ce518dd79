"""Probes, /metrics, hooks, HTTP API, event stream, pages."""

from tocsin.web.context import ReloadResult, WebContext
from tocsin.web.server import Listener, listen, make_app
from tocsin.web.tokens import Scope, make_token

__all__ = ["Listener", "ReloadResult", "Scope", "WebContext", "listen", "make_app", "make_token"]
