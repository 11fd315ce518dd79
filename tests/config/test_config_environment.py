"""Three environment variables are enough."""

from pathlib import Path

import pytest

from tocsin.config import BadConfig, from_environment, load_file
from tocsin.deliver.transport import check_channel_url


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("URL", "API_KEY", "API_KEY_FILE"):
        monkeypatch.delenv(f"TOCSIN_DSS_{name}", raising=False)
    for name in ("NOTIFY", "STORE_URL", "HTTP_LISTEN", "EXTERNAL_URL", "LOG_LEVEL"):
        monkeypatch.delenv(f"TOCSIN_{name}", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_url_key_and_notify_make_a_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOCSIN_DSS_URL", "https://dss.example.com:11200/")
    monkeypatch.setenv("TOCSIN_DSS_API_KEY", "key")
    monkeypatch.setenv("TOCSIN_NOTIFY", "json://localhost:1\njson://localhost:2 json://localhost:3")
    config = from_environment(check_channel_url)
    assert (config.nodes[0].name, config.nodes[0].url) == ("dss.example.com", "https://dss.example.com:11200")
    assert config.nodes[0].api_key
    assert config.nodes[0].api_key.reveal() == "key"
    assert [channel.name for channel in config.receivers[0].channels] == ["default/1", "default/2", "default/3"]
    assert config.store.url == f"sqlite:///{tmp_path}/tocsin/tocsin.db"
    assert config.http.listen == "127.0.0.1:8080"
    assert config.route
    assert config.route.receiver == "default"


def test_the_key_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from file\n")
    monkeypatch.setenv("TOCSIN_DSS_URL", "https://dss.example.com")
    monkeypatch.setenv("TOCSIN_DSS_API_KEY_FILE", str(tmp_path / "key"))
    key = from_environment(check_channel_url).nodes[0].api_key
    assert key
    assert key.reveal() == "from file"


def test_what_is_missing_is_told_at_once() -> None:
    with pytest.raises(BadConfig) as caught:
        from_environment(check_channel_url)
    assert [problem.message.split()[0] for problem in caught.value.problems] == ["TOCSIN_DSS_URL", "TOCSIN_DSS_API_KEY"]


def test_a_bad_notification_address_is_told_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_DSS_URL", "https://dss.example.com")
    monkeypatch.setenv("TOCSIN_DSS_API_KEY", "key")
    monkeypatch.setenv("TOCSIN_NOTIFY", "json://localhost nonsense://x")
    with pytest.raises(BadConfig, match="entry 2"):
        from_environment(check_channel_url)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOCSIN_DSS_URL", "https://user:Wv3pHj8sXt5m@dss.example.com"),
        ("TOCSIN_DSS_URL", "user:Wv3pHj8sXt5m@dss.example.com"),
        ("TOCSIN_DSS_URL", "https://[Wv3pHj8sXt5m"),
        ("TOCSIN_DSS_URL", "https://user:Wv3pHj8sXt5m"),
        ("TOCSIN_NOTIFY", "slack://Wv3pHj8sXt5m"),
        ("TOCSIN_NOTIFY", "Wv3pHj8sXt5m"),
        ("TOCSIN_EXTERNAL_URL", "https://user:Wv3pHj8sXt5m@x.example.com"),
        ("TOCSIN_HTTP_LISTEN", "Wv3pHj8sXt5m"),
        ("TOCSIN_LOG_LEVEL", "Wv3pHj8sXt5m"),
    ],
)
def test_a_secret_in_the_wrong_variable_is_not_shown(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("TOCSIN_DSS_URL", "https://dss.example.com")
    monkeypatch.setenv("TOCSIN_DSS_API_KEY", "key")
    monkeypatch.setenv(name, value)
    with pytest.raises(BadConfig) as caught:
        from_environment(check_channel_url)
    assert not any("Wv3pHj8sXt5m"[i : i + 5].lower() in str(caught.value).lower() for i in range(8))


def test_a_user_without_a_home_is_told_to_name_a_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54_321)  # whom /etc/passwd does not know
    monkeypatch.setenv("TOCSIN_DSS_URL", "https://dss.example.com")
    monkeypatch.setenv("TOCSIN_DSS_API_KEY", "key")
    with pytest.raises(BadConfig, match="TOCSIN_STORE_URL is not set and this user has no home directory"):
        from_environment(check_channel_url)
    file = tmp_path / "tocsin.yaml"
    file.write_text("nodes: [{name: prod, url: 'https://dss.example.com', api_key: k}]\n")
    with pytest.raises(BadConfig, match=r"store\.url: this user has no home directory"):
        load_file(file)
    monkeypatch.setenv("TOCSIN_STORE_URL", "sqlite:////tmp/tocsin.db")
    assert from_environment(check_channel_url).store.url == "sqlite:////tmp/tocsin.db"


def test_a_proxy_that_cannot_be_used_is_told_without_a_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_DSS_URL", "https://dss.example.com")
    monkeypatch.setenv("TOCSIN_DSS_API_KEY", "key")
    monkeypatch.setenv("https_proxy", "socks5://me:s3cr3t@h:1080")
    with pytest.raises(BadConfig) as caught:
        from_environment(check_channel_url)
    (problem,) = caught.value.problems
    assert "HTTPS_PROXY" in str(problem)
    assert "s3cr3t" not in str(problem)
