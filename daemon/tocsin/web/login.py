"""Logging in with a token, and out: a session is a cookie that scripts cannot read and other sites cannot send.

Since no other site can send it, a browser that follows a link from a message comes without it: the login page then
sends the browser on from here, with the cookie, before anybody is asked for a token.
"""

from collections.abc import Callable
from urllib.parse import quote, urlsplit

import structlog
from aiohttp import web

from tocsin.web.access import COOKIE, GATE, SESSION, read_form
from tocsin.web.context import CONTEXT

log = structlog.get_logger(__name__)


def login_address(request: web.Request, segments: int | None = None) -> str:
    """The login page, relative to the page that was asked for, which is where it leads afterwards, or to the page of so
    many of its segments."""
    path = request.rel_url.raw_path.lstrip("/")
    if segments is not None:
        return "../" * path.count("/") + f"login?next={quote('/'.join(path.split('/')[:segments]), safe='')}"
    query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
    return "../" * path.count("/") + f"login?next={quote(path + query, safe='')}"


def see_other(location: str) -> web.Response:
    """On to another page, with a GET."""
    return web.Response(status=303, headers={"Location": location})


class Login:
    """The handlers of ``/login`` and ``/logout``. ``render`` makes a page of a template and its values."""

    def __init__(self, render: Callable[..., str]) -> None:
        self._render = render

    async def show(self, request: web.Request) -> web.Response:
        following = request.query.get("next", "")
        if request.app[CONTEXT].config().http.tokens_file is None:
            return see_other(_inside(following))
        from_elsewhere = request.headers.get("Sec-Fetch-Site", "") in ("cross-site", "same-site")
        return self._page(following, onward=_inside(following) if from_elsewhere else None)

    async def log_in(self, request: web.Request) -> web.Response:
        """Begin a session with the field ``token``, and go on to ``next``."""
        context, form, gate = request.app[CONTEXT], await read_form(request), request.app[GATE]
        presented, following = (form.get(name, "").strip() for name in ("token", "next"))
        token = await gate.find_token(context.config().http, presented)
        if token is None:
            log.info("login_refused", peer=request.remote)
            return self._page(following, error="This is no token that Tocsin knows.", status=401)
        log.info("login", subject=token.name, role=token.role.value, peer=request.remote)
        cookie = (await gate.sessions(context.store)).cookie(token, context.clock.now())
        response = see_other(_inside(following))
        response.set_cookie(
            COOKIE, cookie, max_age=int(SESSION.total_seconds()), path="/", httponly=True, samesite="Strict",
            secure=_is_https(request, context.config().http.external_url),
        )  # fmt: skip
        return response

    async def log_out(self, _request: web.Request) -> web.Response:
        response = see_other("login")
        response.del_cookie(COOKIE, path="/")
        return response

    def _page(self, following: str, error: str = "", onward: str | None = None, status: int = 200) -> web.Response:
        text = self._render("login.html", root="", following=following, error=error, onward=onward)
        return web.Response(text=text, status=status, content_type="text/html")


def _inside(path: str) -> str:
    """A page of ours, relative to /login, whatever was asked for."""
    return "./" + quote(path.lstrip("/\\"), safe="/?&=%+,;:@!*'()~$[]|")


def _is_https(request: web.Request, external_url: str | None) -> bool:
    """Whether the browser speaks https: by what the form's page, a proxy or the configuration says."""
    outside = urlsplit(external_url or "")
    return (
        request.headers.get("Origin", "").startswith("https://")
        or request.headers.get("X-Forwarded-Proto", "").lower() == "https"
        or (outside.scheme == "https" and outside.netloc.lower() == request.headers.get("Host", "").lower())
    )
