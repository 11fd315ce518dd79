"""DSS's own reporters: listed, given another sender, hooked, and carried over."""

import asyncio
import json
import stat

import pytest
import yaml

from tests.cli.driven import READER, driven

pytestmark = pytest.mark.e2e

EVERY_KIND = """
node_name: prod
channels:
  - id: smtp-main
    type: smtp
    configuration: {host: mail.example.org, port: 587, useTLS: true, login: dss, password: "p w", sender: dss@example.org}
  - {id: team-slack, type: slack, configuration: {mode: WEBHOOK, webhookUrl: "https://hooks.slack.com/services/T0123/B0123/abcdefghijklmnopqrstuvwx"}}
  - {id: ses, type: aws-ses-mail, configuration: {sender: x@example.org}}
projects:
  - key: P
    owner: amelie
    scenarios:
      - id: A
        steps: [{build: x}]
        behaviour: {duration: 1s}
        reporters:
          - name: team
            runConditionEnabled: true
            runCondition: "outcome == 'FAILED' || outcome == 'ABORTED'"
            messaging:
              type: mail-scenario
              configuration:
                channelId: smtp-main
                sender: "Nightly <n@example.org>"
                recipient: "a@example.org, b@example.org"
                ccRecipient: c@example.org
                subject: "DSS scenario ${scenarioName}: ${outcome}"
                messageSource: INLINE
                message: "<p>${scenarioName} ended</p>"
                sendAsHTML: true
                attachments: [{type: LOG}, {type: DATASET}]
          - {name: stock, phase: START, messaging: {type: mail-scenario, configuration: {channelId: smtp-main, recipient: '["a@example.org"]', messageSource: TEMPLATE_FILE, templateName: default.ftl}}}
          - {name: each, messaging: {type: mail-scenario, configuration: {recipient: '{"mails": [{"to": "a@example.org"}, {"to": "b@example.org"}]}', sender: s@example.org, messageSource: INLINE, message: "<#if x>y</#if>"}}}
          - {name: own variables, messaging: {type: mail-scenario, configuration: {recipient: '{"mails": [{"to": "a@example.org", "variables": {"x": 1}}]}'}}}
          - {name: whoever, messaging: {type: mail-scenario, configuration: {channelId: smtp-main, recipient: "${owner}"}}}
          - {name: cloud, messaging: {type: mail-scenario, configuration: {channelId: ses, recipient: a@example.org}}}
          - {name: "off", active: false, messaging: {type: mail-scenario, configuration: {channelId: smtp-main, recipient: a@example.org}}}
          - {name: slack, runConditionEnabled: true, runCondition: "stepOutput_x.size() > 3", messaging: {type: slack-scenario, configuration: {useGlobalChannel: true, channelId: team-slack, message: "${scenarioName}: ${outcome}"}}}
          - {name: slack again, messaging: {type: slack-scenario, configuration: {useGlobalChannel: true, channelId: team-slack, messageMode: BLOCK_KIT_API, blocks: "[]"}}}
          - {name: slack token, messaging: {type: slack-scenario, configuration: {mode: API, authorizationToken: xoxb-1234-1234-abcdef, channel: ops, message: "${stepOutput_x.rows}"}}}
          - {name: teams, messaging: {type: msft-teams-scenario, configuration: {webhookUrl: "https://prod-00.westus.logic.azure.com:443/workflows/0123456789abcdef0123456789abcdef/triggers/manual/paths/invoke?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=abcdefghijk", message: "{}"}}}
          - {name: teams elsewhere, messaging: {type: msft-teams-scenario, configuration: {webhookUrl: "https://example.org/hook", message: x}}}
          - {name: hook, messaging: {type: webhook-scenario, configuration: {method: POST, url: "https://example.org/hook", headers: [{key: X-Token, value: t0ken}], parameters: [{key: a, value: "b c"}], payload: "{}"}}}
          - {name: get, messaging: {type: webhook-scenario, configuration: {method: GET, url: "https://example.org/hook"}}}
          - {name: shell, messaging: {type: shell-scenario, configuration: {channelId: x}}}
"""


async def test_every_reporter_of_every_scenario_is_listed(dss):
    rows, none = await asyncio.gather(dss.ask("reporter", "list"), dss.ask("reporter", "list", "--type", "slack"))
    assert (len(rows), none) == (1, [])
    assert {key: rows[0][key] for key in ("scenario", "name", "type", "active", "phase", "condition", "channel")} == {
        "scenario": "NIGHTLY_A",
        "name": "everyone",
        "type": "mail-scenario",
        "active": True,
        "phase": "END",
        "condition": "outcome != 'SUCCESS'",
        "channel": "smtp-main",
    }
    assert (rows[0]["sender"], rows[0]["recipients"]) == ("old@example.org", "a@example.org, b@example.org")


async def test_the_from_of_all_mail_reporters_is_changed_and_nothing_else(dss):
    before = json.loads(json.dumps(dss.definition("NIGHTLY_A")))
    tried = await dss.run("reporter", "set-sender", "Data <new@example.org>", "--dry-run")
    assert (tried.code, "would change" in tried.out) == (0, True)
    assert dss.definition("NIGHTLY_A") == before
    (other,) = await dss.ask(
        "reporter", "set-sender", "x@example.org", "SALES/NIGHTLY_A", "--only", "other@example.org"
    )
    assert other["result"] == "unchanged"
    rows = await dss.ask("reporter", "set-sender", "Data <new@example.org>")
    assert [row["scenario"] for row in rows if row["result"] == "changed"] == ["NIGHTLY_A"]
    after = dss.definition("NIGHTLY_A")
    assert after["reporters"][0]["messaging"]["configuration"].pop("sender") == "Data <new@example.org>"
    assert before["reporters"][0]["messaging"]["configuration"].pop("sender") == "old@example.org"
    assert after.pop("runAsUser") == "amelie"
    assert {key for key in after if after[key] != before.get(key)} == {"versionTag"}
    wrong = await dss.run("reporter", "set-sender", "nobody")
    assert wrong.code == 2


async def test_hooks_are_installed_once_brought_up_to_date_and_removed(dss):
    (dss.folder / "secret").write_text("s3cret\n")
    place = ("--external-url", "https://tocsin.example.org/base/", "--secret-file", "secret", "--node", "127.0.0.1")
    first = await dss.ask("reporter", "install-hook", "SALES/NIGHTLY_*", *place)
    assert {row["result"] for row in first} == {"changed"}
    assert dss.definition("NIGHTLY_A")["runAsUser"] == "amelie"
    _, start, end = dss.definition("NIGHTLY_A")["reporters"]
    assert [(r["name"], r["phase"], r["active"]) for r in (start, end)] == [
        ("tocsin: start", "START", True),
        ("tocsin: end", "END", True),
    ]
    configuration = end["messaging"]["configuration"]
    assert configuration["url"] == "https://tocsin.example.org/base/hooks/dss/127.0.0.1"
    assert configuration["headers"] == [{"key": "X-Tocsin-Secret", "value": "s3cret"}]
    assert json.loads(configuration["payload"]) == {"project": "SALES", "scenario": "NIGHTLY_A"}
    again = await dss.ask("reporter", "install-hook", "SALES/NIGHTLY_*", *place)
    assert {row["result"] for row in again} == {"unchanged"}
    (dss.folder / "secret").write_text("rotated\n")
    await dss.ask("reporter", "install-hook", "SALES/NIGHTLY_A", *place)
    headers = [r["messaging"]["configuration"].get("headers") for r in dss.definition("NIGHTLY_A")["reporters"]]
    assert headers[1:] == [[{"key": "X-Tocsin-Secret", "value": "rotated"}]] * 2
    await dss.ask("reporter", "remove-hook")
    assert [r["name"] for r in dss.definition("NIGHTLY_A")["reporters"]] == ["everyone"]
    lost = await dss.run("reporter", "install-hook", "SALES/NIGHTLY_A")
    assert (lost.code, "external_url" in lost.err) == (2, True)


async def test_a_hook_takes_its_address_and_secret_from_the_configuration(dss):
    (dss.folder / "key").write_text("tocsin-sim-admin-key")
    (dss.folder / "secret").write_text("s3cret")
    (dss.folder / "t.yaml").write_text(
        f"nodes: [{{name: the node, url: '{dss.proxy.url}', api_key_file: key}}]\n"
        "http: {external_url: 'https://t.example.org', hooks_secret_file: secret}\n"
    )
    (row,) = await dss.ask("reporter", "install-hook", "the node/SALES/BROKEN", "-c", "t.yaml")
    assert (row["node"], row["result"]) == ("the node", "changed")
    configuration = dss.definition("BROKEN")["reporters"][0]["messaging"]["configuration"]
    assert configuration["url"] == "https://t.example.org/hooks/dss/the%20node"


async def test_reporters_are_carried_over_and_what_cannot_be_is_named_one_by_one(tmp_path):
    async with driven(tmp_path, world=EVERY_KIND) as dss:
        said = await dss.run("reporter", "import", "--output", "imported.yaml")
        assert (said.code, said.out) == (0, "")
        assert "9 of 15 reporters carried over" in said.err
        for left_out, why in {
            "whoever": "made of variables",
            "cloud": "aws-ses-mail",
            "off": "switched off",
            "teams elsewhere": "apprise cannot read",
            "get": "GET",
            "shell": "shell-scenario",
        }.items():
            assert any(f"P/A/{left_out}: not carried over: " in line and why in line for line in said.err.splitlines())
        for in_part, why in {
            "team": "attachment DATASET",
            "each": "FreeMarker",
            "slack": "condition",
            "slack again": "blocks",
            "slack token": "${stepOutput_x.rows}",
            "teams": "card",
            "hook": "CloudEvents",
        }.items():
            assert any(f"P/A/{in_part}: " in line and why in line for line in said.err.splitlines())
        checked = await dss.run("check", "--offline", "--config", "imported.yaml")
        assert (checked.code, checked.out) == (0, "imported.yaml: good\n")
        made = yaml.safe_load((tmp_path / "imported.yaml").read_text())
        assert "hooks.slack.com" not in (tmp_path / "imported.yaml").read_text()
        assert (tmp_path / "secrets" / "dss-slack-team-slack").read_text().startswith("https://hooks.slack.com/")
        assert stat.S_IMODE((tmp_path / "secrets" / "dss-slack-team-slack").stat().st_mode) == 0o600
        mailto = (tmp_path / "secrets" / "dss-mail-smtp-main").read_text()
        assert mailto.startswith("mailtos://dss:p%20w@mail.example.org:587?")
        reporters = {reporter["name"]: reporter for reporter in made["reporters"]}
        assert reporters["P/A/team"] == {
            "name": "P/A/team",
            "receiver": "dss-mail-smtp-main",
            "match": ['dss_node="127.0.0.1"', 'project="P"', 'scenario="A"'],
            "condition": "outcome == 'FAILED' || outcome == 'ABORTED'",
            "subject": "DSS scenario ${scenarioName}: ${outcome}",
            "message": "<p>${scenarioName} ended</p>",
            "attach": ["log"],
            "mail": {
                "from": "Nightly <n@example.org>",
                "to": ["a@example.org", "b@example.org"],
                "cc": ["c@example.org"],
            },
        }
        assert reporters["P/A/stock"]["on"] == ["run.started"]
        assert [reporters[name]["mail"]["to"] for name in ("P/A/each", "P/A/each (2)")] == [
            ["a@example.org"],
            ["b@example.org"],
        ]
        assert made["receivers"][-1]["channels"][0]["headers"] == {"X-Token": "t0ken"}
        printed = await dss.run("reporter", "import")
        assert (printed.code, "t0ken" in printed.out + printed.err) == (0, False)
        assert reporters["P/A/slack"]["receiver"] == reporters["P/A/slack again"]["receiver"]


async def test_an_import_without_an_admin_key_names_what_it_could_not_read(dss):
    said = await dss.run("reporter", "import", key=READER.secret)
    assert said.code == 0
    assert "the server of the mail channel smtp-main cannot be read with this key" in said.err
    made = yaml.safe_load(said.out)
    assert made["nodes"][0]["api_key_env"] == "TOCSIN_DSS_API_KEY"
    assert "smtp.example.com" in made["receivers"][0]["channels"][0]["url"]
