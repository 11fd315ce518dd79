"""Twenty different mail reporters of one project, told twice: by the emulated DSS, and by a real daemon with the
configuration that `tocsin reporter import` made of them."""

from email.message import EmailMessage
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.cli.driven import driven
from tests.fakedss.process import DaemonProcess, eventually, free_port
from tests.fakedss.sinks import Mail, SmtpSink
from tocsin.sim import DEFAULT_KEY

pytestmark = pytest.mark.filterwarnings("ignore:.*session.login_data.*:DeprecationWarning")

PLAIN = "${scenarioName} (${scenarioId}) in ${projectKey}: ${outcome}, by ${triggerName}\nSee ${scenarioRunURL}\n"
# scenario → its outcome, and its reporters: name, and what differs from a plain mail at the end of each run
REPORTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "A": ("FAILED", {
        "plain": {},
        "named sender": {"sender": "Nightly load <nightly@example.com>"},
        "two": {"recipient": "a@example.com, b@example.com"},
        "names": {"recipient": "Jane Doe <jane@example.com>, b@example.com"},
        "json array": {"recipient": '["a@example.com", "c@example.com"]'},
        "copies": {"ccRecipient": "c@example.com, d@example.com", "bccRecipient": "secret@example.com"},
        "each": {"recipient": '{"mails": [{"to": "a@example.com"}, {"to": "b@example.com"}]}'},
    }),
    "B": ("SUCCESS", {
        "own words": {"recipient": '{"mails": [{"to": "a@example.com", "variables": {"who": "Ann"}},'
                                   ' {"to": "b@example.com", "variables": {"who": "Bob <b>"}}]}',
                      "subject": "For ${mailVariables_who}", "message": "Dear ${mailVariables_who}, ${outcome}."},
        "start": {"phase": "START", "subject": "${scenarioName} begins", "message": "${scenarioName} runs"},
        "start, never": {"phase": "START", "condition": "triggerType == 'temporal'"},
        "good": {"condition": "outcome == 'SUCCESS'"},
        "bad": {"condition": "outcome == 'FAILED' || outcome == 'ABORTED'"},
        "both": {"condition": "!(outcome == 'FAILED') && (scenarioId == \"B\" || projectKey == 'X')"},
        "unlike": {"condition": "outcome != 'SUCCESS'"},
    }),
    "C": ("WARNING", {
        "page": {"sendAsHTML": True, "message": "<h1>${scenarioName}</h1><p>${outcome} &amp; done</p>"},
        "log": {"attachments": [{"type": "LOG"}]},
        "usual subject": {"subject": ""},
        "step": {"message": "the step ended ${stepOutcome_build}"},
        "only copies": {"recipient": "", "ccRecipient": "c@example.com"},
        "stock": {"messageSource": "TEMPLATE_FILE", "templateName": "default.ftl", "subject": "stock: ${outcome}"},
    }),
}  # fmt: skip


def world(port: int) -> str:
    scenarios = []
    for id_, (outcome, reporters) in REPORTERS.items():
        step = {"type": "build_flowitem", "name": "build", "params": {"sim": {"outcomes": outcome, "duration": "1s"}}}
        definition: dict[str, object] = {"id": id_, "name": f"Load {id_}", "steps": [step]}
        definition["reporters"] = [_reporter(f"{id_} {name}", **unlike) for name, unlike in reporters.items()]
        scenarios.append(definition)
    server = {"host": "127.0.0.1", "port": port, "sender": "dss@example.com"}
    channels = [{"id": "mail", "type": "smtp", "configuration": server}]
    return yaml.safe_dump({"channels": channels, "projects": [{"key": "P", "scenarios": scenarios}]})


def _reporter(name: str, phase: str = "END", condition: str = "", **unlike: object) -> dict[str, object]:
    usual = {"channelId": "mail", "sender": "dss@example.com", "recipient": "ops@example.com",
             "subject": f"{name}: ${{outcome}}", "messageSource": "INLINE", "message": PLAIN}  # fmt: skip
    return {"name": name, "phase": phase, "runConditionEnabled": bool(condition), "runCondition": condition,
            "messaging": {"type": "mail-scenario", "configuration": usual | unlike}}  # fmt: skip


def told(mail: Mail) -> tuple[object, ...]:
    """What a mail says to whom, but for the words of a stock message, which each has its own of."""
    message: EmailMessage = mail.message
    sender, to, cc = (message[name].addresses if message[name] else () for name in ("From", "To", "Cc"))
    kinds = ("html", "plain") if any(part.get_content_type() == "text/html" for part in message.walk()) else ("plain",)
    body = message.get_body(kinds)
    assert body is not None
    said = body.get_content().strip()
    stock = "stock" in message["Subject"]
    return (
        tuple(str(one) for one in sender), tuple(str(one) for one in to), tuple(str(one) for one in cc),
        tuple(sorted(mail.recipients)), message["Subject"], None if stock else (body.get_content_type(), said),
        len(list(message.iter_attachments())),
    )  # fmt: skip


async def test_twenty_reporters_are_carried_over_and_say_the_same_to_the_same(tmp_path: Path) -> None:
    assert sum(len(reporters) for _, reporters in REPORTERS.values()) == 20
    async with SmtpSink() as smtp, driven(tmp_path, world=world(smtp.port), speed=1) as dss:
        dss.sim.world.dss_url = dss.proxy.url
        said = await dss.run("reporter", "import", "--output", "imported.yaml")
        assert "20 of 20 reporters carried over" in said.err
        checked = await dss.run("check", "--config", "imported.yaml")
        assert (checked.code, checked.out) == (0, "imported.yaml: good\n")
        made = yaml.safe_load((tmp_path / "imported.yaml").read_text())
        made["store"] = {"url": f"sqlite:///{tmp_path / 'tocsin.db'}"}
        made["http"] = {"listen": f"127.0.0.1:{free_port()}"}
        made["nodes"][0]["watch"] = {
            "sweep_interval": "200ms",
            "discovery_interval": "1s",
            "max_requests_per_second": 50,
        }
        (tmp_path / "daemon.yaml").write_text(yaml.safe_dump(made))
        async with DaemonProcess(tmp_path / "daemon.yaml", env={"TOCSIN_DSS_API_KEY": DEFAULT_KEY}) as daemon:
            await daemon.watching(len(REPORTERS))
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {DEFAULT_KEY}"}) as http:
                for id_ in REPORTERS:
                    await http.post(f"{dss.proxy.url}/public/api/projects/P/scenarios/{id_}/run")

            async def ended() -> bool:
                events = await daemon.events()
                over = [one for one in events if one["type"] != "tocsin.run.started"]
                rows = await daemon.items("/api/v1/deliveries")
                return len(over) == len(REPORTERS) and {one["state"] for one in rows} == {"delivered"}

            await eventually(ended)
    ours = sorted(str(told(one)) for one in smtp.mails if "Auto-Submitted" in one.message)
    theirs = sorted(str(told(one)) for one in smtp.mails if "Auto-Submitted" not in one.message)
    assert len(theirs) == 19  # of twenty: three conditions are false, and two of them write two mails each
    assert ours == theirs
