"""The configuration file: what it becomes, and how its mistakes are told."""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from tocsin.config import BadConfig, load_file
from tocsin.config.model import Config
from tocsin.config.schema import included_json_schema, json_schema, json_schema_text
from tocsin.config.secrets import FileSecret
from tocsin.deliver.transport import check_channel_url
from tocsin.model.event import EventName

NODE = "nodes: [{name: prod, url: 'https://dss.example.com', api_key: k}]\n"


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "tocsin.yaml"
    file.write_text(text)
    return file


def load(tmp_path: Path, text: str) -> Config:
    return load_file(write(tmp_path, text), check_channel_url)


def problems(tmp_path: Path, text: str) -> list[str]:
    """What is said about a bad file, without the folder's name."""
    with pytest.raises(BadConfig) as caught:
        load(tmp_path, text)
    return [str(problem).replace(str(tmp_path) + "/", "") for problem in caught.value.problems]


def test_the_smallest_file_gets_every_default(tmp_path: Path) -> None:
    config = load(tmp_path, NODE)
    assert config.nodes[0].watch.sweep_interval == timedelta(seconds=2)
    names = ["ScenarioFailed", "ScenarioMissed", "ScenarioOverlong", "CommonCause", "NodeDown"]
    assert [rule.alert for rule in config.rules] == names
    assert [rule.upstream for rule in config.inhibit_rules] == [False, False, True]
    assert config.route is None


def test_the_shipped_rules_are_those_of_the_reference(tmp_path: Path, repository: Path) -> None:
    reference, shipped = load_file(repository / "config" / "tocsin.yaml"), load(tmp_path, NODE)
    assert reference.rules[:5] == shipped.rules
    assert reference.inhibit_rules == shipped.inhibit_rules


def test_the_reference_file_is_readable(repository: Path) -> None:
    config = load_file(repository / "config" / "tocsin.yaml")
    assert [node.name for node in config.nodes] == ["prod"]
    assert config.reporters[0].on == {EventName.RUN_FINISHED, EventName.RUN_FAILED, EventName.RUN_ABORTED}
    assert config.route
    assert [child.path for child in config.route.routes] == [
        ("{}", '{severity="critical"}'),
        ("{}", '{severity="warning"}'),
        ("{}", '{alertname="CloseIsStale",project=~"FIN_.*|CLOSE"}'),
    ]
    assert config.channels()["pager"].hmac_secret
    assert "secret" not in repr(config.channels()["pager"].webhook)


def test_no_rules_is_not_the_default_rules(tmp_path: Path) -> None:
    assert load(tmp_path, NODE + "rules: []\n").rules == ()


def test_routes_inherit_what_they_do_not_say(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        NODE
        + """
receivers: [{name: a}, {name: b}]
route:
  receiver: a
  group_by: ['...']
  group_wait: 1s
  routes:
    - matchers: ['project="SALES"']
      repeat_interval: 1h
      routes: [{receiver: b, group_by: [scenario], continue: true}]
""",
    )
    assert config.route
    child = config.route.routes[0]
    grandchild = child.routes[0]
    assert (child.receiver, child.group_by_all, child.repeat_interval) == ("a", True, timedelta(hours=1))
    assert (grandchild.receiver, grandchild.group_by, grandchild.group_by_all) == ("b", ("scenario",), False)
    assert (grandchild.group_wait, grandchild.repeat_interval, grandchild.continues) == (
        timedelta(seconds=1),
        timedelta(hours=1),
        True,
    )


def test_channels_are_named_after_receiver_and_scheme(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        NODE
        + """
receivers:
  - name: ops
    channels: [{url: 'json://localhost'}, {url: 'json://localhost/2'}, {webhook: 'http://localhost/x'}, {name: own, url: 'json://localhost'}]
""",
    )
    assert list(config.channels()) == ["ops/json", "ops/json-2", "ops/webhook", "own"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nodes:\n- name: prod\n  url: https://x\n  api_key: k\n  watch: {sweep_intervall: 2s}\n",
         "tocsin.yaml:5: nodes[0].watch.sweep_intervall: unknown key; did you mean 'sweep_interval'?"),
        (NODE + "receiver: []\n", "tocsin.yaml:2: receiver: unknown key; did you mean 'receivers'?"),
        ("nodes:\n- name: prod\n  url: https://x\n  api_key: k\n  watch:\n    sweep_interval: 2 seconds\n",
         "tocsin.yaml:6: nodes[0].watch.sweep_interval: '2 seconds' is not a duration; write it like 30s, 1h30m or 7d"),
        ("nodes:\n- {name: prod, url: 'https://x'}\n",
         "tocsin.yaml:2: nodes[0]: has no credential; set api_key_file (or api_key, api_key_env, bearer_file)"),
        ("nodes: []\n", "tocsin.yaml:1: nodes: must not be empty"),
        ("{}\n", "tocsin.yaml:1: nodes: is missing"),
        ("", "tocsin.yaml: nodes: is missing"),
        ("nodes: [\n", "tocsin.yaml:2: is not YAML: while parsing a flow node did not find expected node content"),
        ("- a\n", "tocsin.yaml:1: must be a mapping of keys to values"),
        (NODE + "log: {level: info}\nlog: {level: debug}\n", "tocsin.yaml:3: the key 'log' stands twice, first in line 2"),
        (NODE + "rules:\n- {alert: A, kind: failed, grace: 1m}\n",
         "tocsin.yaml:3: rules[0]: a rule of kind failed does not read grace"),
        (NODE + "rules:\n- {alert: A, kind: stale}\n",
         "tocsin.yaml:3: rules[0]: a rule of kind stale needs no_success_for, as 26h"),
        (NODE + "rules:\n- {alert: A, kind: late}\n",
         "tocsin.yaml:3: rules[0].kind: 'late' is not one of 'failed', 'missed', 'overlong', 'stale', 'deadline', 'common_cause', 'short' or 'node_down'"),
        (NODE + "receivers: [{name: ops}]\nroute:\n  receiver: opps\n",
         "tocsin.yaml:4: route.receiver: no receiver is named 'opps'; did you mean 'ops'?"),
        (NODE + "receivers: [{name: ops}]\nroute:\n  receiver: ops\n  routes:\n  - {mute_time_intervals: [nights]}\n",
         "tocsin.yaml:6: route.routes[0].mute_time_intervals[0]: no time interval is named 'nights'"),
        (NODE + "receivers: [{name: ops}]\nroute:\n  receiver: ops\n  routes:\n  - matchers: ['severity=~\"*a\"']\n",
         "tocsin.yaml:6: route.routes[0].matchers: the regular expression '*a' cannot be read: no argument for repetition operator: *"),
        (NODE + "time_intervals:\n- name: n\n  time_intervals: [{location: Europe/Pariss}]\n",
         "tocsin.yaml:4: time_intervals[0].time_intervals[0]: 'Europe/Pariss' is not a time zone; did you mean 'Europe/Paris'?"),
        (NODE + "time_intervals:\n- name: n\n  time_intervals: [{times: [{start_time: '22:00', end_time: '06:00'}]}]\n",
         "tocsin.yaml:4: time_intervals[0].time_intervals[0]: the time 22:00 is not before 06:00; a time over midnight is written as two: 22:00 to 24:00 and 00:00 to 06:00"),
        (NODE + "receivers:\n- name: ops\n  channels: [{template: mail}]\n",
         "tocsin.yaml:4: receivers[0].channels[0]: needs exactly one of url, webhook, slack, pagerduty, opsgenie (url_file, webhook_env…)"),
        (NODE + "receivers:\n- name: ops\n  channels: [{url: 'json://h', template: slak}]\n",
         "tocsin.yaml:4: receivers[0].channels[0].template: no template is named 'slak'; did you mean 'slack'?"),
        (NODE + "receivers: [{name: a}, {name: a}]\n", "tocsin.yaml:2: receivers[1]: the name 'a' stands twice, first in line 2; names are unique"),
        (NODE + "templates: [none/*.j2]\n", "tocsin.yaml:2: templates[0]: no file matches 'none/*.j2'"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_file_line_key_and_what_to_do(tmp_path: Path, text: str, told: str) -> None:
    assert problems(tmp_path, text) == [told]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "nodes:\n- {name: prod, url: ftp://x, api_key: k}\nhttp: {listen: nowhere}\nlogg: {}\n"
    assert [line.split(":")[1] for line in problems(tmp_path, text)] == ["2", "3", "4"]


def test_a_secret_stands_in_no_message(tmp_path: Path) -> None:
    told = "\n".join(
        problems(
            tmp_path, "nodes:\n- {name: prod, url: 'https://x', api_key: hunter2, api_key_file: f, bearer: [hunter3]}\n"
        )
    )
    assert "hunter" not in told


def test_on_is_a_key_and_clock_times_are_text(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        NODE
        + """
receivers: [{name: ops}]
reporters: [{name: r, on: [run.started], receiver: ops}]
time_intervals:
  - name: office
    time_intervals: [{times: [{start_time: 09:00, end_time: 17:30}], weekdays: ['monday:friday'], days_of_month: [1, '-3:-1'], months: [5, 'june:august']}]
""",
    )
    assert config.reporters[0].on == {EventName.RUN_STARTED}
    (times,) = config.time_intervals[0].time_intervals
    assert times.times == ((540, 1050),)
    assert times.weekdays == ((1, 5),)
    assert times.days_of_month == ((1, 1), (-3, -1))
    assert times.months == ((5, 5), (6, 8))


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert problems(tmp_path, "\n".join(lines))[0].endswith("more than 100000 keys and values, with its aliases")


def test_a_bottomless_list_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, "nodes: " + "[" * 5000) == [
        "tocsin.yaml:1: is not YAML: while increasing flow level exceeded maximum nesting depth"
    ]


def test_an_event_that_is_none_is_told_with_the_nearest(tmp_path: Path) -> None:
    text = NODE + "receivers: [{name: ops}]\nreporters: [{name: r, on: [run.fialed], receiver: ops}]\n"
    (told,) = problems(tmp_path, text)
    assert told.startswith("tocsin.yaml:3: reporters[0].on[0]: 'run.fialed' is not one of 'run.started', ")
    assert told.endswith("did you mean 'run.failed'?")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="there is no such file"):
        load_file(tmp_path / "absent.yaml")


def test_secret_files_are_read_when_used(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("one\n")
    config = load(tmp_path, "nodes: [{name: prod, url: 'https://x', api_key_file: key}]\n")
    secret = config.nodes[0].api_key
    assert secret
    assert secret.reveal() == "one"
    (tmp_path / "key").write_text("two\n")
    assert secret.reveal() == "two"
    (tmp_path / "key").write_text("\n")
    with pytest.raises(OSError, match="is empty"):
        secret.reveal()


def test_a_channel_s_address_may_stand_inline_in_a_file_or_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGER_URL", "json://env.example.com/")
    (tmp_path / "url").write_text("json://file.example.com/\n")
    told = [
        {"name": "a", "url": "json://inline.example.com/"},
        {"name": "b", "url_file": "url"},
        {"name": "c", "url_env": "PAGER_URL"},
    ]
    channels = load(tmp_path, f"{NODE}receivers: [{{name: ops, channels: {json.dumps(told)}}}]\n").channels()
    found = [one.url.reveal() for one in channels.values() if one.url]
    assert found == [f"json://{place}.example.com/" for place in ("inline", "file", "env")]


def test_equal_files_make_equal_nodes(tmp_path: Path) -> None:
    assert load(tmp_path, NODE).nodes == load(tmp_path, NODE).nodes


def test_the_json_schema_beside_the_reference_is_up_to_date(repository: Path) -> None:
    for name, schema in (("tocsin", json_schema()), ("include", included_json_schema())):
        written = (repository / "config" / f"{name}.schema.json").read_text()
        assert written == json_schema_text(schema), "run: make schema"


async def test_a_secret_file_that_hangs_serves_the_value_last_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one\n")
    secret = FileSecret(path, deadline_seconds=0.01)
    assert await secret.read() == "one"
    path.unlink()
    os.mkfifo(path)  # opening one that nobody writes to hangs as a dead mount does
    assert (secret.reveal(), await secret.read()) == ("one", "one")


async def test_a_secret_file_that_was_never_read_and_hangs_is_an_error_in_time(tmp_path: Path) -> None:
    path = tmp_path / "key"
    os.mkfifo(path)
    secret = FileSecret(path, deadline_seconds=0.01)
    with pytest.raises(OSError, match="does not answer"):
        await secret.read()
    with pytest.raises(OSError, match="does not answer"):
        secret.reveal()


@pytest.mark.parametrize(
    "keys",
    [
        "url: 'http://d e.com'",
        "url: 'http://.'",
        "url: 'http://a..b'",
        "url: 'http://\\\\d'",
        "url: 'http://" + "a" * 64 + ".com'",
        'url: "http://d\\0.com"',
        'url: "http://d\\t.com"',
        "url: 'http://d', proxy: 'http://p q:1'",
    ],
)
def test_an_address_whose_host_cannot_be_one_is_refused(tmp_path: Path, keys: str) -> None:
    (said,) = problems(tmp_path, "nodes: [{name: p, api_key: k, " + keys + "}]\n")
    assert said.endswith("is not a URL")


@pytest.mark.parametrize("value", ["a\\nX: y", "a\\0", "a\\u200bb", "a\\rb"])
def test_a_header_that_http_cannot_carry_is_refused_unseen(tmp_path: Path, value: str) -> None:
    node = f"nodes: [{{name: p, url: 'http://d', api_key: k, headers: {{X: \"s3cr3t {value}\"}}}}]\n"
    channel = f"{{webhook: 'http://h', headers: {{X: \"s3cr3t {value}\"}}}}"
    for text in (node, NODE + f"receivers: [{{name: r, channels: [{channel}]}}]\n"):
        (said,) = problems(tmp_path, text)
        assert said.endswith("headers.X: holds characters that no HTTP header can carry")
        assert "s3cr3t" not in said


def test_the_line_end_after_a_header_is_no_part_of_it(tmp_path: Path) -> None:
    text = "nodes:\n- name: p\n  url: http://d\n  api_key: k\n  headers:\n    X: |\n      a value\n"
    assert load(tmp_path, text).nodes[0].headers == {"X": "a value"}


@pytest.mark.parametrize("proxy", ["socks5://me:s3cr3t@h:1080", "http://me:s3cr3t@h:x", "://s3cr3t"])
def test_a_proxy_of_the_environment_that_cannot_be_used_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    (said,) = problems(tmp_path, NODE)
    assert "HTTPS_PROXY or ALL_PROXY names no http or https proxy" in said
    assert "s3cr3t" not in said
    load(tmp_path, NODE.replace("api_key: k", "api_key: k, proxy: 'http://h:1'"))
    monkeypatch.setenv("no_proxy", ".example.com")
    load(tmp_path, NODE)


@pytest.mark.parametrize("text", ["nodes:\n", "nodes: {}\n", NODE + "receivers: x\n", NODE + "templates: a.j2\n"])
def test_what_is_no_list_is_told_in_the_words_of_the_file(tmp_path: Path, text: str) -> None:
    (said,) = problems(tmp_path, text)
    assert said.endswith(": must be a list")


def test_a_pipe_or_directory_among_the_templates_is_refused_and_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.j2")
    (tmp_path / "folder.j2").mkdir()
    (tmp_path / "good.j2").write_text("text")
    said = problems(tmp_path, NODE + "templates: ['*.j2']\n")
    assert said == [
        f"tocsin.yaml:2: templates[0]: a template is a file, and {name!r} is none" for name in ("folder.j2", "pipe.j2")
    ]


def test_a_route_that_comes_by_a_merge_keeps_the_nearest_line(tmp_path: Path) -> None:
    text = (
        NODE
        + """
receivers: [{name: ops, channels: []}]
route:
  receiver: ops
  <<: &common
    routes: [{matchers: ['severity="critical"']}]
"""
    )
    route = load(tmp_path, text).route
    assert route is not None
    assert route.routes[0].line is not None


NATIVE = """
receivers:
- name: oncall
  channels:
  - {name: pd, pagerduty: {routing_key: abc}}
  - {name: genie, opsgenie: {api_key: abc}}
  - {name: chat, slack: {channel: "#alerts", token: abc}}
"""


def test_native_channels_have_their_own_section(tmp_path: Path) -> None:
    channels = load(tmp_path, NODE + NATIVE).channels()
    assert [channel.kind for channel in channels.values()] == ["pagerduty", "opsgenie", "slack"]
    assert channels["pd"].pagerduty
    assert channels["pd"].pagerduty.url == "https://events.pagerduty.com/v2/enqueue"


@pytest.mark.parametrize(("channel", "reason"), [
    ("{name: x, pagerduty: {}}", "pagerduty: needs routing_key_file"),
    ("{name: x, pagerduty: {routing_key: a, routing_key_env: B}}", "are both set"),
    ("{name: x, slack: {token: a}}", "channel"),
    ("{name: x, slack: {token: a, channel: c}, url: 'json://h'}", "needs exactly one of"),
    ("{name: x, opsgenie: {api_key: a, url: nowhere}}", "is not an http or https URL"),
    ("{name: x, opsgenie: {api_key: a}, template: text}", "do not belong to opsgenie"),
    ("{name: x, pagerdutty: {routing_key: a}}", "did you mean 'pagerduty'"),
])  # fmt: skip
def test_a_native_channel_that_makes_no_sense_is_refused(tmp_path: Path, channel: str, reason: str) -> None:
    said = problems(tmp_path, NODE + f"receivers: [{{name: r, channels: [{channel}]}}]\n")
    assert any(reason in line for line in said), said


def test_a_reporter_may_not_tell_a_service_that_keeps_incidents(tmp_path: Path) -> None:
    text = NODE + NATIVE + "reporters: [{name: all, receiver: oncall}]\n"
    said = problems(tmp_path, text)
    assert [line.partition(": ")[2] for line in said] == [
        f"reporters[0].receiver: reporter 'all' cannot use channel '{name}': {kind} keeps incidents, which only alerts end; "
        "name another receiver, or route alerts to this one"
        for name, kind in (("pd", "pagerduty"), ("genie", "opsgenie"))
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (NODE + "tag_labels: ['cost centre']\n", "2: tag_labels[0]: 'cost centre' is no label name"),
        (NODE + "tag_labels: [équipe]\n", "2: tag_labels[0]: 'équipe' is no label name"),
        (NODE + "tag_labels: [team, project]\n", "tag_labels may not set project; Tocsin sets it"),
        (NODE.replace("api_key: k", "api_key: k, labels: {run_as: x, type: y}"), "labels may not set run_as, type"),
        (NODE.replace("api_key: k", "api_key: k, labels: {a-b: x}"), "'a-b' is no label name"),
    ],
)
def test_a_label_that_cannot_be_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in problems(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("root", "problem"),
    [
        (
            "{receiver: a, escalate: [{after: 15m, receiver: a}]}",
            "route.escalate[0]: escalates to 'a', who is notified",
        ),
        (
            "{receiver: a, routes: [{escalate: [{after: 1m, receiver: a}]}]}",
            "route.routes[0].escalate[0]: escalates to",
        ),
        ("{receiver: a, escalate: [{after: 15m, receiver: bb}]}", "route.escalate: no receiver is named 'bb'"),
        ("{receiver: a, escalate: [{after: 0s, receiver: b}]}", "route.escalate[0].after: must be longer than 0s"),
        (
            "{receiver: a, escalate: [{after: 1m, receiver: b}, {after: 2m, receiver: b}]}",
            "route: escalate names receiver b twice; keep its first step",
        ),
        ("{receiver: a}\ntag_receivers: {tag: notify, allow: [c]}", "tag_receivers.allow: no receiver is named 'c'"),
        (
            "{receiver: a}\ntag_receivers: {tag: 'notify:', allow: [b]}",
            "tag_receivers: tag 'notify:' is no key of a tag",
        ),
        ("{receiver: a}\ntag_receivers: {tag: notify, allow: []}", "tag_receivers.allow: must not be empty"),
        ("null\ntag_receivers: {tag: notify, allow: [b]}", "tag_receivers: there is no route, and it adds"),
    ],
)
def test_escalations_and_tag_receivers_that_cannot_be_are_refused(tmp_path: Path, root: str, problem: str) -> None:
    receivers = "receivers: [{name: a}, {name: b}]\n"
    assert problem in problems(tmp_path, f"{NODE}{receivers}route: {root}\n")[0]


def test_a_child_that_inherits_an_escalation_to_its_own_receiver_goes_without(tmp_path: Path) -> None:
    text = "receivers: [{name: a}, {name: b}]\nroute: {receiver: a, escalate: [{after: 1m, receiver: b}], routes: [{receiver: b}]}"
    root = load(tmp_path, NODE + text).route
    assert root is not None
    assert [step.receiver for step in root.escalations] == ["b"]
    assert root.routes[0].escalations == ()


@pytest.mark.parametrize(
    ("digest", "problem"),
    [
        ("{at: []}", "route.digest.at: must not be empty"),
        ("{days: [monday]}", "route.digest.at: is missing"),
        ("{at: ['8:30']}", "route.digest.at: '8:30' is not a time of day; write it like 09:00"),
        ("{at: ['25:00']}", "route.digest.at: '25:00' is not a time of day"),
        ("{at: ['08:30'], days: [mondays]}", "route.digest.days: 'mondays' is not a weekday"),
        ("{at: ['08:30'], days: []}", "route.digest.days: must not be empty"),
        ("{at: ['08:30'], location: Europe/Pariss}", "route.digest.location: 'Europe/Pariss' is not a time zone"),
    ],
)
def test_a_digest_without_a_time_is_refused(tmp_path: Path, digest: str, problem: str) -> None:
    assert (
        problem in problems(tmp_path, f"{NODE}receivers: [{{name: a}}]\nroute: {{receiver: a, digest: {digest}}}\n")[0]
    )
    reporter = "reporters: [{name: r, receiver: a, attach: [log], digest: {at: ['08:30']}}]\n"
    assert "a digest does not read attach" in problems(tmp_path, f"{NODE}receivers: [{{name: a}}]\n{reporter}")[0]
