"""No part of a secret of five characters or more is left, however it comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.kit.mask import mask, secrets_of, secrets_of_header, where

SECRETS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", min_size=8, max_size=40)


@given(SECRETS, st.data(), st.text(max_size=20), st.text(max_size=20))
def test_no_five_characters_of_a_secret_are_left(secret: str, data: st.DataObject, before: str, after: str) -> None:
    start = data.draw(st.integers(0, len(secret) - 5))
    stop = data.draw(st.integers(start + 5, len(secret)))
    masked = mask(before + secret[start:stop] + after, [secret])
    parts = {secret[i : i + 5].lower() for i in range(len(secret) - 4)}
    assert not any(masked[i : i + 5].lower() in parts for i in range(len(masked)))


def test_words_without_a_part_of_a_secret_stay() -> None:
    assert mask("Nothing of abc-defg here: ABC-DEFG!", ["abc-defg"]) == "Nothing of *** here: ***!"
    assert mask("token xyzw and xyz", ["xyzw", "xyz", ""]) == "token *** and xyz"
    assert mask("as it was", []) == "as it was"


@pytest.mark.parametrize(
    ("url", "public", "hidden"),
    [
        ("tgram://110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/123/", [], ["110201543", "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"]),
        ("https://user:pa@ss/word@host.example.com:8443/x", ["host.example.com", "8443"], ["ss/word", "user"]),
        ("json://host.example.com:8080/path-part/?+Authorization=Bearer%20s3cr3t&:key=v4lue&-q=qu3ry#fr4gment",
         ["host.example.com", "8080"], ["path-part", "Bearer s3cr3t", "s3cr3t", "v4lue", "qu3ry", "fr4gment"]),
        ("ntfy://secrettopic", [], ["secrettopic"]),
        ("slack://TOKENA/TOKENB/TOKENC/#chan", [], ["TOKENA", "TOKENB", "TOKENC"]),
        ("hooks.example.com/services/T0KEN", ["hooks.example.com"], ["T0KEN"]),
        ("https:/hooks.example.com/services/T0KEN", [], ["T0KEN"]),
        ("postgresql://u:p%40ss@10.0.0.1:5432/db?password=other", ["10.0.0.1"], ["p%40ss", "p@ss", "other"]),
        ("json://[fd12::1]:8080/secret", ["[fd12::1]:8080"], ["secret"]),
        ("http://[broken/secret", [], ["secret", "broken"]),
        ("mailto://user:passw%3Ard@example.com?format=html&to=x", ["html", "example.com"], ["passw:rd"]),
    ],
)  # fmt: skip
def test_every_part_of_a_url_but_scheme_and_host_is_a_secret(url: str, public: list[str], hidden: list[str]) -> None:
    secrets = secrets_of(url)
    for word in public:
        assert mask(word, secrets) == word
    for word in hidden:
        masked = mask(f"it said {word}!", secrets)
        assert not any(word[i : i + 4] in masked for i in range(max(len(word) - 4, 1)))


def test_where_a_token_stands_in_the_place_of_the_host_the_host_is_a_secret() -> None:
    assert mask("o.aBcDeFgHiJ", secrets_of("pbul://o.aBcDeFgHiJ", host_is_public=False)) == "***"


def test_a_header_is_secret_without_its_scheme() -> None:
    assert secrets_of_header("Bearer abc.def") == ["abc.def"]
    assert secrets_of_header("plain-token") == ["plain-token"]
    assert secrets_of_header("Basic dXNlcjpwYXNzd29yZA==") == [
        "dXNlcjpwYXNzd29yZA==",
        "user:password",
        "user",
        "password",
    ]
    assert secrets_of_header("Basic %%%") == ["%%%"]


def test_the_place_of_an_error_does_not_say_its_words() -> None:
    def fails() -> None:
        raise ValueError("the password is hunter2")

    with pytest.raises(ValueError, match="hunter2") as caught:
        fails()
    assert where(caught.value).startswith("test_kit_mask.py:")
    assert "hunter2" not in where(caught.value)
