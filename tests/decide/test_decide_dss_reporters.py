"""What ``tocsin check`` says of DSS's own reporters when they would send nothing."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tocsin.app.reload import Source
from tocsin.app.validate import validate

FILE = """
nodes: [{{name: prod, url: "https://dss.example.com", api_key: k}}]
receivers: [{{name: ops, channels: [{{name: m, url: "{url}"}}]}}]
route: {{receiver: ops}}
dss_reporters: {{mode: {mode}, receiver: ops, {lists}}}
"""
MAIL = "mailto://smtp.example.com?from=t@example.com&to=o@example.com"
BOTH = 'allow_recipients: ["*@example.com"], allow_senders: ["*@example.com"]'


@pytest.mark.parametrize(
    ("mode", "url", "lists", "expected"),
    [
        ("off", MAIL, "", []),
        ("mirror", MAIL, BOTH, []),
        ("fallback", MAIL, 'allow_senders: ["*"]', ["allow_recipients is empty, so mode fallback sends nothing"]),
        (
            "mirror",
            MAIL,
            "allow_recipients: []",
            ["allow_recipients is empty, so mode mirror", "allow_senders is empty, so mode mirror"],
        ),
        ("mirror", "slack://a/b/c", BOTH, ["receiver 'ops' has no mailto:// or mailtos:// channel"]),
    ],
)  # fmt: skip
def test_an_empty_list_and_a_receiver_without_mail_are_warned_of(
    tmp_path: Path, mode: str, url: str, lists: str, expected: list[str]
) -> None:
    file = tmp_path / "tocsin.yaml"
    file.write_text(FILE.format(mode=mode, url=url, lists=lists))
    problems = validate(Source(file), datetime(2026, 3, 1, tzinfo=UTC), offline=True)
    said = [(one.severity, str(one)) for one in problems if "dss_reporters" in str(one)]
    assert [severity for severity, _ in said] == ["warning"] * len(expected)
    assert all(words in told for words, (_, told) in zip(expected, said, strict=True))
