import pytest

from tocsin.kit.proxy import bypasses, environment_proxy


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "direct"),
    [
        ("", "dss.example.com", 443, False),
        ("*", "dss.example.com", 443, True),
        ("example.com", "example.com", 443, True),
        ("example.com", "dss.example.com", 443, True),
        (".example.com", "dss.example.com", 443, True),
        ("*.example.com", "DSS.example.com.", 443, True),
        ("example.com", "notexample.com", 443, False),
        ("a.org, example.com", "dss.example.com", 443, True),
        ("a.org example.com", "dss.example.com", 443, True),
        ("example.com:8443", "dss.example.com", 8443, True),
        ("example.com:8443", "dss.example.com", 443, False),
        ("10.0.0.0/8", "10.1.2.3", 80, True),
        ("10.0.0.0/8", "11.1.2.3", 80, False),
        ("10.1.2.3/8", "10.200.0.1", 80, True),
        ("10.0.0.0/8", "ten.example.com", 80, False),
        ("10.1.2.3", "10.1.2.3", 80, True),
        ("10.1.2.3:80", "10.1.2.3", 80, True),
        ("10.1.2.3:80", "10.1.2.3", 81, False),
        ("fd00::/8", "[fd12::1]", 443, True),
        ("fd12::1", "fd12::1", 443, True),
        ("[fd12::1]:443", "fd12::1", 443, True),
        ("[fd12::1]:443", "fd12::1", 444, False),
        ("300.0.0.0/8, :80, ., nonsense/x", "10.1.2.3", 80, False),
    ],
)
def test_what_no_proxy_covers(no_proxy: str, host: str, port: int, direct: bool) -> None:
    assert bypasses(no_proxy, host, port) is direct


def test_the_proxy_of_an_address_is_that_of_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "10.0.0.0/8:443,10.0.0.0/8,dss.example.com:443")
    assert environment_proxy("https", "hooks.example.com", None) == "http://proxy:3128"
    assert environment_proxy("http", "hooks.example.com", None) is None
    assert environment_proxy("https", "10.9.9.9", 8443) is None
    assert environment_proxy("https", "dss.example.com", None) is None
    assert environment_proxy("https", "dss.example.com", 8443) == "http://proxy:3128"
