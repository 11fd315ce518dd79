"""``tocsin check`` and ``tocsin routes``: one clear line for each thing that is wrong, with its place in the file."""

import hashlib
import json
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner, Result

from tocsin.cli.commands import app
from tocsin.config.model import RuleKind

_QUOTED = [f"'{kind}'" for kind in get_args(RuleKind)]
KINDS = f"{', '.join(_QUOTED[:-1])} or {_QUOTED[-1]}"

SHIPPED = Path(__file__).parents[2] / "config"
GOOD = """\
nodes: [{name: prod, url: "https://dss.example.com", api_key: k}]
receivers:
  - {name: ops, channels: [{name: hook, webhook: "https://hooks.example.com/x"}]}
  - {name: oncall, channels: [{name: pager, webhook: "https://hooks.example.com/y"}]}
rules:
  - {alert: ScenarioFailed, kind: failed}
  - {alert: NodeDown, kind: node_down, severity: critical}
route:
  receiver: ops
  routes:
    - {matchers: ['severity="critical"'], receiver: oncall}
    - {matchers: ['project="TEST"'], mute_time_intervals: [nights]}
time_intervals:
  - {name: nights, time_intervals: [{times: [{start_time: "00:00", end_time: "06:00"}]}]}
inhibit_rules:
  - {source_matchers: ['alertname=NodeDown'], target_matchers: ['alertname=~"Scenario.*"'], equal: [dss_node]}
reporters:
  - {name: mail, on: [run.failed], receiver: ops}
"""
CRITICAL = """    - {matchers: ['severity="critical"'], receiver: oncall}"""
TIMES = """times: [{start_time: "00:00", end_time: "06:00"}]"""


def tocsin(folder: Path, text: str, *words: str) -> Result:
    (folder / "t.yaml").write_text(text, "utf-8")
    return CliRunner().invoke(app, [*words, "--config", str(folder / "t.yaml")])


def check(folder: Path, text: str) -> list[str]:
    """What is said, without the folder; the last line of a good file is left out."""
    told = tocsin(folder, text, "check")
    lines = told.output.replace(f"{folder}/", "").splitlines()
    assert told.exit_code == (0 if lines[-1].startswith("t.yaml: good") else 1)
    return lines if told.exit_code else lines[:-1]


def test_a_good_file_is_good(tmp_path: Path) -> None:
    assert check(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('severity="critical"', 'severity=~"(critical"',
         "11: route.routes[0].matchers: the regular expression '(critical' cannot be read: missing ): (critical"),
        ('severity="critical"', 'severity=~"(a{1000}){1000}"',
         "11: route.routes[0].matchers: the regular expression '(a{1000}){1000}' cannot be read: invalid repetition size: {1000}"),
        ('severity="critical"', "severity critical",
         "11: route.routes[0].matchers: 'severity critical' is not a matcher; write it like severity=\"critical\" or "
         'project=~"SALES.*"'),
        (TIMES, f"location: Europe/Pariss, {TIMES}",
         "14: time_intervals[0].time_intervals[0]: 'Europe/Pariss' is not a time zone; did you mean 'Europe/Paris'?"),
        ('"00:00", end_time', '"22:00", end_time',
         "14: time_intervals[0].time_intervals[0]: the time 22:00 is not before 06:00; a time over midnight is written as "
         "two: 22:00 to 24:00 and 00:00 to 06:00"),
        (TIMES, "weekdays: [monda]",
         "14: time_intervals[0].time_intervals[0]: 'monda' is not a weekday; did you mean 'monday'?"),
        (f"[{{{TIMES}}}]", "[]", "14: time interval nights: it is empty"),
        ("kind: failed", "kind: failed, receiver: ops",
         "6: rules[0].receiver: a rule names no receiver; routes choose it by the alert's labels"),
        ("kind: failed", "kind: fail",
         f"6: rules[0].kind: 'fail' is not one of {KINDS}; did you mean 'failed'?"),
        ("kind: failed", "kind: failed, afer: 3", "6: rules[0].afer: unknown key; did you mean 'after'?"),
        ("kind: failed", "kind: failed, grace: 10m", "6: rules[0]: a rule of kind failed does not read grace"),
        ("kind: failed", "kind: stale", "6: rules[0]: a rule of kind stale needs no_success_for, as 26h"),
        ("kind: failed", "kind: failed, outcomes: [FAILURE]",
         "6: rules[0].outcomes[0]: 'FAILURE' is not one of 'SUCCESS', 'WARNING', 'FAILED', 'ABORTED' or 'UNKNOWN'; did you mean 'FAILED'?"),
        ("kind: failed", "kind: failed, match: ['scenrio=X']",
         '6: rule ScenarioFailed: no scenario can match {scenrio="X"}: there is no label \'scenrio\'; did you mean \'scenario\'?'),
        ("  - {alert: NodeDown", "  - {alert: ScenarioFailed, kind: failed, after: 3}\n  - {alert: NodeDown",
         "7: rule ScenarioFailed: another rule has the same alert name, severity, matchers and labels; give one a label"),
        ("recei", "recie", "2: recievers: unknown key; did you mean 'receivers'?"),
        ("receiver: oncall", "receiver: on-call", "11: route.routes[0].receiver: no receiver is named 'on-call'; did you mean 'oncall'?"),
        ("[nights]", "[night]",
         "12: route.routes[1].mute_time_intervals[0]: no time interval is named 'night'; did you mean 'nights'?"),
        (CRITICAL, f"    - {{matchers: ['severity=~\"c.*\"']}}\n{CRITICAL}",
         '12: route {severity="critical"}: never reached: {severity=~"c.*"} before it takes all of its alerts'),
        ('"critical"', '"crtical"', '11: route {severity="crtical"}: no alert of these rules can match: severity is never '
         "'crtical'; did you mean 'critical'?"),
        ("severity=\"", "node=\"", "11: route {node=\"critical\"}: no alert of these rules can match: there is no label 'node'; "
         "did you mean 'dss_node'?"),
        ("  receiver: ops\n", "", "8: route: the root route needs a receiver"),
        ("  receiver: ops\n", "  receiver: ops\n  matchers: [a=b]\n",
         "10: route.matchers: the root route catches everything and may not have matchers"),
        ("  receiver: ops\n", "  receiver: ops\n  group_wait: 10sec\n",
         "10: route.group_wait: '10sec' is not a duration; write it like 30s, 1h30m or 7d"),
        ("  receiver: ops\n", "  receiver: ops\n  receiver: oncall\n", "10: the key 'receiver' stands twice, first in line 9"),
        ("receiver: ops}", "receiver: ops, condition: \"outcome = 'x'\"}",
         "18: reporter mail: its condition cannot be read and counts as true: \"outcome = 'x'\": expected a value at position 7, "
         "found \"= 'x'\""),
        ("receiver: ops}", "receiver: ops, match: ['outcome=SUCCESS']}",
         "18: reporter mail: none of its events can match {outcome=\"SUCCESS\"}: outcome is never 'SUCCESS'"),
        ("route:\n", "route: [\n", "10: is not YAML: while parsing a flow sequence did not find expected ',' or ']'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    errors = [line for line in check(tmp_path, GOOD.replace(old, new, 1)) if not line.endswith("(warning)")]
    assert errors == [f"t.yaml:{expected}"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (", receiver: oncall", "", "4: receiver oncall: no route and no reporter uses it"),
        (", mute_time_intervals: [nights]", "", "14: time interval nights: no route uses it"),
        ("  receiver: ops\n", "  receiver: ops\n  group_interval: 5m\n  repeat_interval: 1m\n",
         "8: route: repeat_interval is shorter than group_interval, which is the soonest that a group is flushed"),
        ("  receiver: ops\n", "  receiver: ops\n  group_by: [alertnam]\n",
         "8: route: no alert has the label 'alertnam' of group_by; did you mean 'alertname'?"),
        ("alertname=NodeDown", "alertname=NodeDwn",
         '16: inhibit_rules: no alert of these rules can match its source {alertname="NodeDwn"}: alertname is never '
         "'NodeDwn'; did you mean 'NodeDown'?"),
        ("equal: [dss_node]", "equal: [node]",
         "16: inhibit_rules: no alert has the label 'node' of equal, so it is equal everywhere; did you mean 'dss_node'?"),
        ("kind: failed", "kind: failed, match: ['outcome=FAILED']",
         "6: rule ScenarioFailed: its match on outcome also hides the runs that would end its alerts"),
        ("receiver: ops}", "receiver: ops, condition: \"outcom == 'FAILED'\"}",
         "18: reporter mail: its condition counts as true: only DSS knows 'outcom'; did you mean 'outcome'?"),
        ("receiver: ops}", "receiver: ops, subject: '{{ oops('}",
         "18: reporter mail: subject cannot render an event: line 1: unexpected 'end of template'; the built-in "
         "message would be sent"),
    ],
)  # fmt: skip
def test_what_is_odd_is_a_warning(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    assert check(tmp_path, GOOD.replace(old, new, 1)) == [f"t.yaml:{expected} (warning)"]


def test_a_critical_alert_that_at_some_hours_only_a_muted_route_would_get_is_a_warning(tmp_path: Path) -> None:
    (line,) = check(tmp_path, GOOD.replace("receiver: oncall}", "receiver: oncall, mute_time_intervals: [nights]}", 1))
    assert line.startswith('t.yaml:11: route {severity="critical"}: a critical NodeDown would be sent to nobody at ')
    assert line.endswith(": every route that takes it is mute then (warning)")


@pytest.mark.parametrize(
    "file",
    sorted({*SHIPPED.glob("*.yaml"), *SHIPPED.glob("*/tocsin.yaml")}),
    ids=lambda file: str(file.relative_to(SHIPPED)),
)
def test_what_we_ship_passes_without_a_warning_secrets_and_all(file: Path) -> None:
    told = CliRunner().invoke(app, ["check", "--config", str(file)])
    assert told.output == f"{file}: good\n"


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        ("env=prod project=FIN_GL severity=critical alertname=ClosingLate", "oncall,itsm,finance"),
        ("env=prod project=SALES_X severity=warning alertname=ScenarioFailed", "sales"),
        ("env=dev project=SALES_X severity=info alertname=ScenarioFailed", "platform"),
        ("env=prod project=MKT_A severity=warning alertname=ScenarioMissed tags=,notify:iot,", "marketing,iot"),
        ("env=prod severity=critical alertname=NodeDown", "oncall,platform"),
    ],
)
def test_the_configuration_of_a_company_notifies_whom_it_says(labels: str, receivers: str) -> None:
    file = SHIPPED / "company" / "tocsin.yaml"
    told = CliRunner().invoke(app, ["routes", "test", "--config", str(file), *labels.split()])
    assert told.output == f"{receivers}\n"


def test_for_scripts_problems_come_apart_with_their_places(tmp_path: Path) -> None:
    told = tocsin(tmp_path, GOOD.replace(", receiver: oncall", ""), "check", "--json")
    assert json.loads(told.stdout) == {
        "ok": True,
        "problems": [
            {
                "severity": "warning",
                "message": "receiver oncall: no route and no reporter uses it",
                "file": str(tmp_path / "t.yaml"),
                "line": 4,
                "key": None,
            }
        ],
    }
    broken = json.loads(tocsin(tmp_path, GOOD.replace("route:", "ruote:", 1), "check", "--json").stdout)
    assert (broken["ok"], broken["problems"][0]["line"], broken["problems"][0]["key"]) == (False, 8, "ruote")


def test_the_tree_is_shown_and_tested(tmp_path: Path) -> None:
    shown = tocsin(tmp_path, GOOD, "routes", "show").stdout.splitlines()
    assert shown[:3] == [".", "└── default-route  receiver: ops", '    ├── {severity="critical"}  receiver: oncall']
    assert json.loads(tocsin(tmp_path, GOOD, "routes", "show", "--json").stdout)["routes"][0]["receiver"] == "oncall"
    told = tocsin(tmp_path, GOOD, "routes", "test", "severity=critical", "project=X")
    assert (told.stdout, told.exit_code) == ("oncall\n", 0)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["severity=critical", "--expect", "oncall"], 0, ""),
        (["severity=critical", "--expect", "ops"], 1, "tocsin: expected ops"),
        (["severity"], 2, "tocsin: 'severity' is not LABEL=VALUE"),
        (
            ["severity!=critical"],
            2,
            "tocsin: 'severity!=critical' is not LABEL=VALUE: an alert has one value for each label",
        ),
    ],
)
def test_an_expectation_is_the_exit_code(tmp_path: Path, words: list[str], code: int, told: str) -> None:
    answer = tocsin(tmp_path, GOOD, "routes", "test", *words)
    assert (answer.exit_code, answer.stderr.strip()) == (code, told)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("receiver: ops}", "receiver: ops, subject: '${scenarioNam}: ${outcome}'}",
         "18: reporter mail: subject: there is no variable ${scenarioNam}; did you mean 'scenarioName'? (warning)"),
        ("receiver: ops}", "receiver: ops, message: '${stepOutcome_Build} ${mailVariables_a}', mail: {variables: {b: c}}}",
         "18: reporter mail: message: there is no variable ${mailVariables_a}; did you mean 'mailVariables_b'? (warning)"),
        ("kind: failed", "kind: failed, annotations: {owner: '${scenrio}'}",
         "6: rule ScenarioFailed: its annotation 'owner' names ${scenrio}, which no alert has; did you mean 'scenario'? (warning)"),
        ("rules:\n", "http: {listen: '0.0.0.0:8080'}\nrules:\n",
         "5: http.listen 0.0.0.0:8080 is open to others, who are shown probes, /metrics and status only, and may change "
         "nothing; set http.tokens_file to let people in (warning)"),
        ("dss.example.com", "dss.example.com/projects/SALES/scenarios/",
         "1: node prod: the url looks like a page of DSS's user interface; DSS itself is at https://dss.example.com (warning)"),
        ("dss.example.com", "home.example.com/dss/home",
         "1: node prod: the url looks like a page of DSS's user interface; DSS itself is at https://home.example.com/dss (warning)"),
        ("channels: [{name: hook, webhook: \"https://hooks.example.com/x\"}]", "slack_configs: [{channel: '#x'}]",
         "3: receivers[0].slack_configs: this is Alertmanager's way; here a receiver has channels, as `channels: [{url: "
         "slack://…}]`"),
        ("channels: [{name: hook, webhook: \"https://hooks.example.com/x\"}]", "email_configs: [{to: 'a@example.com'}]",
         "3: receivers[0].email_configs: this is Alertmanager's way; here a receiver has channels, as `channels: [{url: "
         "mailto://…}]`"),
        ("webhook: \"https://hooks.example.com/x\"", "url: \"slak://a/b/c\"",
         "3: receivers[0].channels[0].url: 'slak' is not a scheme that apprise knows; did you mean 'slack'?"),
        ("matchers: ['severity=\"critical\"']", "match: {severity: critical}",
         "11: route.routes[0].match: write matchers instead, as `matchers: ['severity=\"critical\"']`"),
    ],
)  # fmt: skip
def test_what_people_mistake_is_told_with_what_to_write(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    assert check(tmp_path, GOOD.replace(old, new, 1)) == [f"t.yaml:{expected}"]


@pytest.mark.parametrize("address", [
    "postgresql://tocsin:sec@ret@db/tocsin",
    "postgresql://tocsin:secret@db:port/tocsin",
    "postgresql://tocsin:secret@db/tocsin?colour=secret",
    "mysql://tocsin:secret@db/tocsin",
])  # fmt: skip
def test_a_store_that_cannot_be_addressed_is_found_and_its_password_not_shown(tmp_path: Path, address: str) -> None:
    (line,) = check(tmp_path, f'{GOOD}store: {{url: "{address}"}}\n')
    assert line.startswith("t.yaml:19: ")
    assert "store.url" in line
    assert "ret" not in line


def test_a_default_that_nobody_wrote_is_no_mistake(tmp_path: Path) -> None:
    rules = GOOD[GOOD.index("rules:") : GOOD.index("route:")]
    text = GOOD.replace(rules, "rules: [{alert: NodeDown, kind: node_down, severity: critical}]\n")
    text = text.replace("    - {matchers: ['project=\"TEST\"'], mute_time_intervals: [nights]}\n", "")
    assert [line for line in check(tmp_path, text) if "group_by" in line] == []
    written = text.replace("  receiver: ops\n", "  receiver: ops\n  group_by: [project]\n", 1)
    assert len([line for line in check(tmp_path, written) if "group_by" in line]) == 1


# --- tokens and the proxy that logs people in -------------------------------------------------------------------------


def test_a_new_token_is_printed_once_and_its_hash_is_appended(tmp_path: Path) -> None:
    text = GOOD + "http: {tokens_file: tokens}\n"
    (tmp_path / "tokens").write_text("# ours")
    printed = [
        tocsin(tmp_path, text, "token", "new", name, "--role", role)
        for name, role in (("ann", "viewer"), ("bob", "operator"))
    ]
    lines = (tmp_path / "tokens").read_text().splitlines()
    assert [result.exit_code for result in printed] == [0, 0]
    for result, line, start in zip(printed, lines[1:], ("ann viewer ", "bob operator "), strict=True):
        secret = result.output.strip()
        assert line == start + hashlib.sha256(secret.encode()).hexdigest()
    assert check(tmp_path, text) == []
    other = tmp_path / "new"
    assert CliRunner().invoke(app, ["token", "new", "c", "--role", "viewer", "--file", str(other)]).exit_code == 0
    assert other.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["a b", "--role", "viewer", "--file", "{}/t"], 2, "'a b' is not a token's name"),
        (["ann", "--role", "root", "--file", "{}/t"], 2, "'root' is not one of 'viewer', 'operator'"),
        (["ann", "--role", "viewer"], 2, "the configuration has no http.tokens_file; set it, or name a file with --file"),
        (["ann", "--role", "viewer", "--file", "{}/no/t"], 1, "cannot write {}/no/t: No such file or directory"),
    ],
)  # fmt: skip
def test_a_token_that_cannot_be_written_is_not_printed(
    tmp_path: Path, words: list[str], code: int, expected: str
) -> None:
    result = tocsin(tmp_path, GOOD, "token", "new", *(word.format(tmp_path) for word in words))
    assert (result.exit_code, expected.format(tmp_path) in result.output) == (code, True)
    assert "tocsin_" not in result.output


@pytest.mark.parametrize(
    ("http", "expected"),
    [
        ("tokens_file: tokens", "19: the tokens file: line 1 is not NAME viewer|operator SHA256; "
         "`tocsin token new` writes such lines"),
        ("auth_proxy: {trusted: []}", "19: http.auth_proxy.trusted: must not be empty"),
        ("auth_proxy: {user_header: X-User}", "19: http.auth_proxy: needs trusted, the addresses of the proxy, as [10.0.0.0/8]"),
        ("auth_proxy: {trusted: [10.0.0.1/8]}", "19: http.auth_proxy.trusted[0]: '10.0.0.1/8' is no network; write it like "
         "10.0.0.0/8 or 10.1.2.3 (10.0.0.1/8 has host bits set)"),
        ("auth_proxy: {trusted: [10.0.0.0/8]}", "19: who comes through http.auth_proxy only reads, and nobody may change "
         "anything; set operator_groups, or http.tokens_file (warning)"),
        ('listen: "0.0.0.0:1", auth_proxy: {trusted: [10.0.0.0/8], operator_groups: [sre]}', ""),
    ],
)  # fmt: skip
def test_mistakes_in_who_may_come_in_are_told(tmp_path: Path, http: str, expected: str) -> None:
    (tmp_path / "tokens").write_text("ann viewer\n")
    assert check(tmp_path, f"{GOOD}http: {{{http}}}\n") == ([f"t.yaml:{expected}"] if expected else [])
