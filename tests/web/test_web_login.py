"""People: sessions of the login page, and a proxy that names who asks. Over a real socket, with forged requests."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import ClientSession, DummyCookieJar
from multidict import CIMultiDict

from tests.web.harness import Daemon, Serve
from tests.web.rows import NOW
from tests.web.test_web_access import CHANGING, status
from tocsin.config.model import AuthProxy
from tocsin.config.tokens import Role, Token
from tocsin.web.access import COOKIE, SESSION, Sessions

Headers = dict[str, str]
PROXY = AuthProxy(trusted=("127.0.0.0/8", "::1/128"), operator_groups=("sre",))


async def log_in(client: ClientSession, token: str, following: str = "", headers: Headers | None = None) -> Headers:
    """The cookie of a new session, as a header."""
    form = {"token": token, "next": following}
    async with client.post("/login", data=form, allow_redirects=False, headers=headers or {}) as answer:
        assert answer.status == 303
        return {"Cookie": f"{COOKIE}={answer.cookies[COOKIE].value}"}


def csrf_of(daemon: Daemon, cookie: Headers, key: bytes) -> str:
    return Sessions(key).sign("cookie", cookie["Cookie"].partition("=")[2])


async def key_of(daemon: Daemon) -> bytes:
    from tocsin.store.console import session_key

    return await daemon.store.write(session_key)


@pytest.fixture
async def browser(tokens: dict[str, str], serve: Serve) -> ClientSession:
    """A client that keeps no cookie by itself."""
    client = await serve()
    client._cookie_jar = DummyCookieJar()
    return client


async def test_a_token_logs_in_reads_and_changes_with_the_tokens_of_pages(
    browser: ClientSession, daemon: Daemon, tokens: dict[str, str]
) -> None:
    cookie = await log_in(browser, tokens["operator"])
    csrf = csrf_of(daemon, cookie, await key_of(daemon))
    assert await status(browser, "GET", "/", headers=cookie) == 200
    assert await status(browser, "GET", "/api/v1/runs", headers=cookie) == 200
    for method, path in CHANGING:
        assert await status(browser, method, path, headers=cookie) == 403
        assert await status(browser, method, path, headers=cookie | {"X-CSRF-Token": "0" * 64}) == 403
        assert await status(browser, method, path, headers=cookie | {"X-CSRF-Token": csrf}) not in (401, 403)
    assert await status(browser, "POST", "/-/reload", headers=cookie, data={"csrf": csrf}) == 200
    assert await status(browser, "POST", "/-/reload", headers=cookie, data={"csrf": "é"}) == 403


async def test_a_viewers_session_reads_and_changes_nothing(
    browser: ClientSession, daemon: Daemon, tokens: dict[str, str]
) -> None:
    cookie = await log_in(browser, tokens["viewer"])
    csrf = {"X-CSRF-Token": csrf_of(daemon, cookie, await key_of(daemon))}
    assert await status(browser, "GET", "/api/v1/runs", headers=cookie) == 200
    for method, path in CHANGING:
        assert await status(browser, method, path, headers=cookie | csrf) == 403


async def test_the_token_of_one_session_changes_nothing_for_another(
    browser: ClientSession, daemon: Daemon, tokens: dict[str, str]
) -> None:
    other = await log_in(browser, tokens["viewer"])
    cookie = await log_in(browser, tokens["operator"])
    foreign = {"X-CSRF-Token": csrf_of(daemon, other, await key_of(daemon))}
    assert await status(browser, "POST", "/-/reload", headers=cookie | foreign) == 403


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example.com"}, {"Origin": "null"},
                                     {"Sec-Fetch-Site": "cross-site"}])  # fmt: skip
async def test_no_other_site_logs_anybody_in_or_changes_anything(
    browser: ClientSession, daemon: Daemon, tokens: dict[str, str], headers: Headers
) -> None:
    assert await status(browser, "POST", "/login", data={"token": tokens["operator"]}, headers=headers) == 403
    cookie = await log_in(browser, tokens["operator"])
    csrf = {"X-CSRF-Token": csrf_of(daemon, cookie, await key_of(daemon))}
    assert await status(browser, "POST", "/-/reload", headers=cookie | csrf | headers) == 403


async def test_the_cookie_is_hidden_from_scripts_and_other_sites_and_secure_under_https(
    browser: ClientSession, daemon: Daemon, tokens: dict[str, str]
) -> None:
    host = str(browser._base_url).rstrip("/").removeprefix("http://")
    daemon.http(external_url="https://tocsin.example.com")
    for headers, secure in (({}, False), ({"X-Forwarded-Proto": "https"}, True), ({"Origin": f"https://{host}"}, True),
                            ({"Host": "tocsin.example.com"}, True)):  # fmt: skip
        form = {"token": tokens["viewer"]}
        async with browser.post("/login", data=form, allow_redirects=False, headers=headers) as answer:
            morsel = answer.cookies[COOKIE]
            assert (morsel["httponly"], morsel["samesite"], morsel["path"]) == (True, "Strict", "/")
            assert int(morsel["max-age"]) == SESSION.total_seconds()
            assert bool(morsel["secure"]) is secure
            assert tokens["viewer"] not in morsel.value


async def test_a_session_ends_by_its_time_or_with_its_token_and_no_forged_cookie_opens(
    browser: ClientSession, daemon: Daemon, tokens: dict[str, str]
) -> None:
    cookie = await log_in(browser, tokens["operator"])
    value = cookie["Cookie"].partition("=")[2]
    name, until, signature = value.split(".")
    later = str(int(until) + 1)
    viewer = b"viewer-token".hex()
    for forged in (f"{name}.{later}.{signature}", f"{viewer}.{until}.{signature}", f"{name}.{until}.", "x", "..", "é.1.2",
                   f"{name}.{until}.{signature}x", f"{name}.{'9' * 20}.{signature}"):  # fmt: skip
        assert await status(browser, "GET", "/api/v1/runs", headers={"Cookie": f"{COOKIE}={forged}"}) == 401
    daemon.clock.time = NOW + SESSION - timedelta(seconds=1)
    assert await status(browser, "GET", "/api/v1/runs", headers=cookie) == 200
    daemon.clock.time = NOW + SESSION
    assert await status(browser, "GET", "/api/v1/runs", headers=cookie) == 401
    daemon.clock.time = NOW
    path = Path(daemon.config.http.tokens_file or "")
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "operator" not in line))
    assert await status(browser, "GET", "/api/v1/runs", headers=cookie) == 401


async def test_a_session_outlives_a_restart(daemon: Daemon, serve: Serve, tokens: dict[str, str]) -> None:
    cookie = await log_in(await serve(), tokens["viewer"])
    assert await status(await serve(), "GET", "/api/v1/runs", headers=cookie) == 200


def test_the_key_and_the_digest_of_the_token_are_both_needed() -> None:
    token, other = Token("ann", Role.VIEWER, "a" * 64), Token("ann", Role.VIEWER, "b" * 64)
    cookie = Sessions(b"k").cookie(token, NOW)
    assert Sessions(b"k").read(cookie, [other, token], NOW) == token
    assert Sessions(b"k").read(cookie, [other], NOW) is None
    assert Sessions(b"l").read(cookie, [token], NOW) is None


async def test_who_is_not_known_is_asked_on_pages_and_comes_back_where_they_were(
    browser: ClientSession, tokens: dict[str, str]
) -> None:
    page = "/runs/a/b%2Fc/d/e?x=1&y=%26"
    async with browser.get(page, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"][:24]) == (303, "../../../../login?next=r")
        asked = answer.headers["Location"].removeprefix("../../../..")
    async with browser.get(asked) as answer:
        text = await answer.text()
        assert (answer.status, 'method="post"' in text, "refresh" in text) == (200, True, False)
        (following,) = re.findall(r'name="next" value="([^"]*)"', text)
    form = {"token": tokens["viewer"], "next": following.replace("&amp;", "&")}
    async with browser.post("/login", data=form, allow_redirects=False) as answer:
        assert answer.headers["Location"] == f".{page}"


async def test_a_link_from_another_site_is_followed_with_the_cookie_before_anybody_is_asked(
    browser: ClientSession,
) -> None:
    async with browser.get("/login?next=alerts%3Fa=%22%3E", headers={"Sec-Fetch-Site": "cross-site"}) as answer:
        assert '<meta http-equiv="refresh" content="0; url=./alerts?a=%22%3E">' in await answer.text()


@pytest.mark.parametrize("following", ["https://evil.example.com/", "//evil.example.com", "/\\evil.example.com", "\\\\evil",
                                       "javascript:alert(1)", "a\r\nSet-Cookie: x=1"])  # fmt: skip
async def test_nobody_is_sent_to_another_site_after_logging_in(
    browser: ClientSession, tokens: dict[str, str], following: str
) -> None:
    form = {"token": tokens["viewer"], "next": following}
    async with browser.post("/login", data=form, allow_redirects=False) as answer:
        where = answer.headers["Location"]
        assert (answer.status, where.startswith("./"), "\\" in where, "\n" in where) == (303, True, False, False)
        assert (answer.url.join(answer.url.with_path(where)).host, set(answer.cookies)) == ("127.0.0.1", {COOKIE})


async def test_a_wrong_token_is_told_and_nothing_is_lost(browser: ClientSession) -> None:
    for form in ({"token": "wrong", "next": "alerts"}, {"next": "alerts"}):
        async with browser.post("/login", data=form) as answer:
            text = await answer.text()
            assert (answer.status, 'role="alert"' in text, 'value="alerts"' in text) == (401, True, True)


async def test_logging_out_takes_the_cookie_from_the_browser(
    browser: ClientSession, daemon: Daemon, tokens: dict[str, str]
) -> None:
    cookie = await log_in(browser, tokens["viewer"])
    assert await status(browser, "POST", "/logout", headers=cookie) == 403
    form = {"csrf": csrf_of(daemon, cookie, await key_of(daemon))}
    async with browser.post("/logout", headers=cookie, data=form, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "login")
        assert answer.cookies[COOKIE].value == ""


# --- a proxy that logs people in --------------------------------------------------------------------------------------


async def test_a_trusted_proxy_names_who_reads_and_its_groups_who_changes(daemon: Daemon, serve: Serve) -> None:
    daemon.http(auth_proxy=PROXY)
    client = await serve()
    ann = {"X-Forwarded-User": "ann", "X-Forwarded-Groups": "dev, sre", "X-Forwarded-For": "10.9.9.9"}
    bob = {"X-Forwarded-User": "bob", "X-Forwarded-Groups": "dev,sre2"}
    for headers in (ann, bob):
        assert await status(client, "GET", "/api/v1/runs", headers=headers) == 200
    assert await status(client, "POST", "/-/reload", headers=bob) == 403
    body = {"matchers": ["project=SALES"], "duration": "1h", "created_by": "somebody else"}
    async with client.post("/api/v1/silences", json=body, headers=ann) as answer:
        assert (answer.status, (await answer.json())["created_by"]) == (201, "ann")


@pytest.mark.parametrize("trusted", [("10.0.0.0/8",), ("127.0.0.2/32",), ("::/0",)])
async def test_headers_from_an_untrusted_address_are_ignored(
    daemon: Daemon, serve: Serve, trusted: tuple[str, ...]
) -> None:
    daemon.http(auth_proxy=AuthProxy(trusted=trusted, operator_groups=("sre",)))
    client = await serve()
    forged = {"X-Forwarded-User": "ann", "X-Forwarded-Groups": "sre", "X-Forwarded-For": "10.0.0.1"}
    assert await status(client, "GET", "/api/v1/runs", headers=forged) == 401
    assert await status(client, "POST", "/-/reload", headers=forged) == 401
    assert await status(client, "GET", "/", headers=forged) == 401, "nobody has a token to log in with"


async def test_a_proxy_that_names_nobody_lets_nobody_in(daemon: Daemon, serve: Serve) -> None:
    daemon.http(auth_proxy=PROXY)
    client = await serve()
    for headers in ({}, {"X-Forwarded-User": " "}, {"X-Forwarded-Groups": "sre"}, {"X-Forwarded-User": "x" * 201}):
        assert await status(client, "GET", "/api/v1/runs", headers=headers) == 401
    twice = CIMultiDict([("X-Forwarded-User", "ann"), ("X-Forwarded-User", "root")])
    assert await status(client, "GET", "/api/v1/runs", headers=twice) == 400


async def test_no_form_of_another_site_changes_anything_in_the_name_of_who_came_through_the_proxy(
    daemon: Daemon, serve: Serve
) -> None:
    daemon.http(auth_proxy=PROXY, external_url="https://tocsin.example.com")
    client = await serve()
    ann = {"X-Forwarded-User": "ann", "X-Forwarded-Groups": "sre"}
    csrf = Sessions(await key_of(daemon)).sign("proxy", "ann")
    assert await status(client, "POST", "/-/reload", headers=ann, data={"a": "1"}) == 403
    assert await status(client, "POST", "/-/reload", headers=ann, data={"csrf": csrf}) == 200
    assert await status(client, "POST", "/-/reload", headers=ann | {"Origin": "https://evil.example.com"}) == 403
    outside = {"Origin": "https://tocsin.example.com"}
    assert await status(client, "POST", "/-/reload", headers=ann | outside, data={"csrf": csrf}) == 200


async def test_tokens_and_a_proxy_go_together(daemon: Daemon, tokens: dict[str, str], serve: Serve) -> None:
    daemon.http(auth_proxy=PROXY)
    client = await serve()
    ann = {"X-Forwarded-User": "ann"}
    bearer = {"Authorization": f"Bearer {tokens['operator']}"}
    assert await status(client, "POST", "/-/reload", headers=bearer) == 200
    assert await status(client, "POST", "/-/reload", headers=ann) == 403
    assert await status(client, "GET", "/api/v1/runs", headers=ann | {"Authorization": "Bearer the-proxys-own"}) == 200
    assert await status(client, "GET", "/api/v1/runs") == 401
