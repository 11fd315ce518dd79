"""Probes, /metrics, hooks, HTTP API, event stream, pages."""

from tocsin.web.access import Role, make_token
from tocsin.web.context import ReloadResult, WebContext
from tocsin.web.server import Listener, listen, make_app

__all__ = ["Listener", "ReloadResult", "Role", "WebContext", "listen", "make_app", "make_token"]
