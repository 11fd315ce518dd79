"""Addresses of the store: what cannot be used is one line, and passwords are shown nowhere."""

import pytest

from tocsin.store import Store, StoreRefused
from tocsin.store.engine import parse_url, shown_url

ADDRESSES = [
    "postgresql://tocsin:pa%2Fss%3Fword@127.0.0.1:1/tocsin",
    "postgresql://tocsin:pa/ss?word@127.0.0.1:1/tocsin",
    "postgresql://tocsin@127.0.0.1:1/tocsin?password=pa/ss?word",
    "postgresql://127.0.0.1:1/tocsin?user=tocsin&password=pa%2Fss%3Fword&sslmode=disable",
    "postgresql://127.0.0.1:1/tocsin?sslpassword=pa/ss?word",
    "postgresql://127.0.0.1:1/tocsin?options=pa/ss?word",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_part_of_a_password_is_shown(address: str) -> None:
    shown = shown_url(parse_url(address))
    assert [part for part in ("pa/", "ss?", "word", "%2F") if part in shown.replace("password", "")] == []
    assert "127.0.0.1:1/tocsin" in shown


WRONG = [
    "postgresql://tocsin:secret@host:port/tocsin",
    "postgresql://tocsin:sec@ret@127.0.0.1:1/tocsin",
    "postgresql://tocsin:secret@127.0.0.1:1/tocsin?colour=secret",
    "postgresql://tocsin:secret@127.0.0.1:1/tocsin?password=secret&password=secret",
    "postgresql://tocsin:secret@127.0.0.1:1/tocsin?connect_timeout=soon",
    "postgresql://tocsin:secret@127.0.0.1:1/tocsin?row_factory=secret",
    "postgresql://tocsin:secret@127.0.0.1:1/tocsin?sslmode=perhaps",
    "postgresql://tocsin:secret@127.0.0.1:1/tocsin?host=a,b&port=1,2,3",
    "postgresql://tocsin:secret@127.0.0.1:99999/tocsin",
    "postgresql://tocsin:secret@a..b/tocsin",
    "postgresql://tocsin:secret@" + "x" * 70 + "/tocsin",
    "postgresql://tocsin:secret@127.0.0.1:1/toc%00sin",
    "postgresql+asyncpg://tocsin:secret@127.0.0.1:1/tocsin",
    "postgresql://tocsin:secret@127.0.0.1:1/tocsin",
    "postgresql://tocsin:sec\nret@127.0.0.1:1/tocsin",
    "mysql://tocsin:secret@127.0.0.1:1/tocsin",
    "secret",
    "",
]


@pytest.mark.parametrize("address", WRONG)
async def test_an_address_that_cannot_be_used_is_refused_with_one_line_and_without_its_secret(address: str) -> None:
    with pytest.raises(StoreRefused) as error:
        await Store(address).open()
    line = str(error.value)
    assert ("\n" in line, "sec" in line.replace("seconds", ""), "ret" in line) == (False, False, False), line
