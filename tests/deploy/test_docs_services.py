"""Every configuration that docs/services.md shows is one that Tocsin takes."""

import re
from pathlib import Path

import pytest
import yaml

from tocsin.config import load_file
from tocsin.deliver.transport import check_channel_url

PAGE = (Path(__file__).parents[2] / "docs" / "services.md").read_text("utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.split("\n")[0][:40] for block in BLOCKS])
def test_an_example_loads(tmp_path: Path, block: str) -> None:
    written = yaml.safe_load(block)
    document = written if isinstance(written, dict) else {"receivers": [{"name": "r", "channels": written}]}
    document["nodes"] = [{"name": "prod", "url": "https://dss.example.com", "api_key": "k"}]
    path = tmp_path / "tocsin.yaml"
    path.write_text(yaml.safe_dump(document), "utf-8")
    load_file(path, lambda url: None if "…" in url else check_channel_url(url))


def test_the_page_has_the_services_that_companies_have() -> None:
    titles = set(re.findall(r"^## (.*)$", PAGE, re.MULTILINE))
    assert titles == {
        "PagerDuty", "Opsgenie", "Slack with a bot", "Slack with an incoming webhook", "Microsoft Teams", "Discord",
        "Telegram", "Google Chat", "Mattermost", "ntfy", "Mail", "Alertmanager", "Grafana OnCall", "incident.io",
        "Splunk On-Call",
    }  # fmt: skip
