"""What the chart renders, and what it refuses."""

import base64
import copy
import hashlib
import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
import yaml

from tests.deploy.charts import CHART, HERE, VALUES, Chart, config_of, container_of, kinds, only, pod_of, run, serving

SWITCHES = (
    "serviceMonitor.enabled=true",
    "prometheusRule.enabled=true",
    "prometheusRule.scenarios=true",
    "grafanaDashboard.enabled=true",
    "networkPolicy.enabled=true",
    "ingress.enabled=true",
    "hooks.enabled=true",
    "serviceAccount.create=false",
    "caBundle.existingSecret=ca",
    "tokens.existingSecret=",
    "store.sqlite.existingClaim=mine",
)
MAKES_RANDOM = {"hooks.enabled=true", "tokens.existingSecret="}  # secrets that differ from run to run


def test_lint_is_strict_and_silent(either_chart: Chart) -> None:
    run(either_chart.helm, "lint", "--strict", CHART)
    for values in VALUES:
        run(either_chart.helm, "lint", "--strict", CHART, "--values", HERE / "values" / f"{values}.yaml")


@pytest.mark.parametrize("kube", [f"1.{minor}.0" for minor in range(27, 34)])
def test_every_supported_kubernetes_gets_the_same(chart: Chart, kube: str) -> None:
    for values in VALUES:
        assert chart.render(values, kube=kube) == chart.render(values)


def test_a_kubernetes_that_is_too_old_is_refused(chart: Chart) -> None:
    assert "1.27.0-0" in chart.template(kube="1.26.0", ok=False).stderr


def test_each_switch_alone_renders(chart: Chart) -> None:
    for switch in SWITCHES:
        assert "Deployment" in kinds(chart.render(sets=[switch]))


TEMPLATES = {  # that a switch adds
    "serviceMonitor.enabled": "servicemonitor.yaml",
    "prometheusRule.enabled": "prometheusrule.yaml",
    "prometheusRule.scenarios": None,
    "grafanaDashboard.enabled": "dashboards.yaml",
    "networkPolicy.enabled": "networkpolicy.yaml",
    "ingress.enabled": "ingress.yaml",
    "hooks.enabled": None,
}


def test_every_combination_of_the_switches_renders(tool: Callable[[str], str], tmp_path: Path) -> None:
    """On both stores, all in one run of Helm: a chart of charts, each with other values."""
    minimal, postgresql = (
        yaml.safe_load((HERE / "values" / f"{name}.yaml").read_text("utf-8")) for name in ("minimal", "postgresql")
    )
    wanted: dict[str, set[str]] = {}
    values: dict[str, object] = {}
    for store, *switched in product((minimal, postgresql), *[(False, True)] * len(TEMPLATES)):
        name = f"c{len(values)}"
        values[name] = mine = copy.deepcopy(store)
        for key, on in zip(TEMPLATES, switched, strict=True):
            top, switch = key.split(".")
            mine.setdefault(top, {})[switch] = on
        wanted[name] = {TEMPLATES[key] or "" for key, on in zip(TEMPLATES, switched, strict=True) if on} - {""}
        wanted[name] |= {"pvc.yaml"} if store is minimal else {"pdb.yaml"}
    shutil.copytree(CHART, tmp_path / "charts" / "tocsin")
    (tmp_path / "charts" / "tocsin" / "values.schema.json").unlink()  # read anew for each: other tests are about it
    aliases = [{"name": "tocsin", "version": ">=0.0.0", "alias": name} for name in values]
    chart = {"apiVersion": "v2", "name": "all", "version": "1.0.0", "dependencies": aliases}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(chart), encoding="utf-8")
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    said = run(tool("helm4"), "template", "bell", tmp_path, "--kube-version", "1.33.0").stdout
    made: dict[str, set[str]] = {name: set() for name in values}
    for document in said.split("\n---\n"):
        name, template = re.findall(r"# Source: all/charts/(\w+)/templates/(.+)", document)[0]
        made[name].add(template)
        if template != "dashboards.yaml":  # large, and tested by themselves
            assert "kind" in yaml.load(document, yaml.CSafeLoader)
    optional = {template for template in TEMPLATES.values() if template} | {"pvc.yaml", "pdb.yaml"}
    assert {name: templates & optional for name, templates in made.items()} == wanted
    assert all({"deployment.yaml", "config.yaml", "service.yaml"} <= templates for templates in made.values())


def test_helm_3_and_helm_4_render_the_same(tool: Callable[[str], str]) -> None:
    three, four = Chart(tool("helm3")), Chart(tool("helm4"))
    for values in VALUES:
        assert _sorted(three, values) == _sorted(four, values)
    for switch in SWITCHES:
        if switch not in MAKES_RANDOM:
            assert _sorted(three, "minimal", [switch]) == _sorted(four, "minimal", [switch])


def _sorted(chart: Chart, values: str, sets: Iterable[str] = ()) -> list[str]:
    return sorted(json.dumps(manifest, sort_keys=True) for manifest in chart.render(values, sets=sets))


@pytest.mark.parametrize(
    ("assignment", "word"),
    [
        ("replicaCont=2", "replicaCont"),
        ("image.tagg=1", "tagg"),
        ("config.node=1", "node"),
        ("config.store.url=sqlite:////elsewhere", "url"),
        ("config.http.listen=0.0.0.0:1", "listen"),
        ("store.sqlite.accessMode=ReadWriteMany", "accessMode"),
        ("store.backend=mysql", "backend"),
        ("replicaCount=2", "replicaCount"),
        ("terminationGracePeriodSeconds=20", "terminationGracePeriodSeconds"),
        ("image.digest=latest", "digest"),
        ("serviceMonitor.interval=often", "interval"),
    ],
)
def test_the_schema_refuses(either_chart: Chart, assignment: str, word: str) -> None:
    refused = either_chart.template(sets=[assignment], ok=False)
    assert refused.returncode != 0
    assert word in refused.stderr


def test_every_object_of_the_schema_refuses_unknown_keys() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))

    def loose(node: object, path: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        here = [path] if "properties" in node and node.get("additionalProperties") is not False else []
        below = node.get("properties", {})
        return here + [item for key, child in below.items() for item in loose(child, f"{path}.{key}")]

    assert loose(schema, "values") == []


def test_global_values_of_other_charts_are_admitted(chart: Chart) -> None:
    chart.render(sets=["global.storageClass=fast", "global.nested.key=1"])


def test_without_a_node_the_chart_says_what_to_write(either_chart: Chart) -> None:
    refused = either_chart.template(None, sets=["config.timezone=Europe/Paris"], ok=False)
    assert "config.nodes: name at least one DSS node" in refused.stderr


def test_without_values_the_node_comes_from_a_secret(either_chart: Chart) -> None:
    manifests = either_chart.render(None)
    assert "bell-tocsin-config" not in [manifest["metadata"]["name"] for manifest in manifests]
    container = container_of(manifests)
    assert container["args"] == ["run"]
    env = {item["name"]: item for item in container["env"]}
    assert env["TOCSIN_DSS_URL"]["valueFrom"]["secretKeyRef"] == {"name": "bell-tocsin-dss", "key": "dss-url"}
    assert env["TOCSIN_DSS_API_KEY_FILE"]["value"] == "/run/secrets/tocsin/dss-api-key"
    assert {mount["name"] for mount in container["volumeMounts"]} == {"http-secrets", "secrets", "data", "tmp"}
    named = container_of(either_chart.render(None, sets=["secrets.existingSecret=mine"]))["env"]
    assert {item["valueFrom"]["secretKeyRef"]["name"] for item in named if "valueFrom" in item} == {"mine"}


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("config.recievers=x", "recievers"),
        ("config.nodes[0].api_kye=x", "api_kye"),
        ("config.route.reciever=x", "reciever"),
        ("config.rules[0].alert=A,config.rules[0].kind=failedd", "kind"),
    ],
)
def test_a_mistake_in_the_configuration_is_refused_at_install(either_chart: Chart, assignment: str, words: str) -> None:
    refused = either_chart.template(sets=[assignment], ok=False)
    assert refused.returncode != 0
    assert words in refused.stderr


def test_the_schema_of_the_configuration_is_the_daemons() -> None:
    program = runpy.run_path(str(CHART.parent / "config_schema.py"))
    written = (CHART / "values.schema.json").read_text("utf-8")
    config = json.loads(program["CONFIG"].read_text("utf-8"))
    assert written == program["render"](json.loads(written), config), "run make schema"


def test_two_pods_on_sqlite_are_refused_with_a_sentence(either_chart: Chart) -> None:
    said = either_chart.template(sets=["replicaCount=2"], ok=False).stderr
    assert "replicaCount: SQLite has one writer and so one pod; set store.backend: postgresql" in said


def test_the_knobs_of_pods_services_and_gateways(either_chart: Chart) -> None:
    values = {
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["dss"]}],
        "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
        "revisionHistoryLimit": 1,
        "deploymentAnnotations": {"reloader": "yes"},
        "service": {"type": "LoadBalancer", "labels": {"a": "b"}, "nodePort": 30080, "loadBalancerSourceRanges": ["10.0.0.0/8"]},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["bell.example.com"]},
        "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-extra"}}],
    }  # fmt: skip
    flags = [part for key, value in values.items() for part in ("--set-json", f"{key}={json.dumps(value)}")]
    manifests = [part for part in yaml.safe_load_all(either_chart.template(flags=flags).stdout) if part]
    pod, deployment = pod_of(manifests)["spec"], only(manifests, "Deployment")
    assert (pod["hostAliases"], pod["dnsConfig"]) == (values["hostAliases"], values["dnsConfig"])
    assert deployment["spec"]["revisionHistoryLimit"] == 1
    assert deployment["metadata"]["annotations"] == {"reloader": "yes"}
    service = only(manifests, "Service")
    assert service["metadata"]["labels"]["a"] == "b"
    assert service["spec"]["ports"][0]["nodePort"] == 30080
    assert service["spec"]["loadBalancerSourceRanges"] == ["10.0.0.0/8"]
    assert only(manifests, "HTTPRoute")["spec"]["hostnames"] == ["bell.example.com"]
    assert config_of(manifests)["http"]["external_url"] == "https://bell.example.com"
    assert only(manifests, "ConfigMap")["metadata"]["name"] == "bell-extra"


@pytest.mark.parametrize(("preset", "key"), [("soft", "preferred"), ("hard", "required")])
def test_replicas_are_kept_apart(chart: Chart, preset: str, key: str) -> None:
    pod = pod_of(chart.render("postgresql", sets=[f"podAntiAffinityPreset={preset}", "replicaCount=2"]))
    assert list(pod["spec"]["affinity"]["podAntiAffinity"]) == [f"{key}DuringSchedulingIgnoredDuringExecution"]


def test_the_least_values_make_these_and_no_more(chart: Chart) -> None:
    names = [(m["kind"], m["metadata"]["name"]) for m in chart.render()]
    assert names == [
        ("ServiceAccount", "bell-tocsin"),
        ("Secret", "bell-tocsin-config"),
        ("PersistentVolumeClaim", "bell-tocsin"),
        ("Service", "bell-tocsin"),
        ("Deployment", "bell-tocsin"),
        ("Pod", "bell-tocsin-test"),
    ]


def test_every_resource_wears_the_standard_labels(chart: Chart) -> None:
    wanted = {"helm.sh/chart", *(f"app.kubernetes.io/{key}" for key in ("name", "instance", "version"))}
    wanted |= {f"app.kubernetes.io/{key}" for key in ("managed-by", "part-of", "component")}
    for manifest in chart.render("everything"):
        labels = manifest["metadata"]["labels"]
        assert wanted <= labels.keys()
        assert labels["team"] == "data"


# The configuration


def test_the_configuration_holds_what_was_written_and_what_the_chart_knows(chart: Chart) -> None:
    config = config_of(chart.render("everything"))
    assert config["store"] == {"retention": "30d", "url": "sqlite:////var/lib/tocsin/tocsin.db"}
    assert config["http"] == {
        "listen": "0.0.0.0:8080",
        "tokens_file": "/run/secrets/tocsin-http/tokens",
        "hooks_secret_file": "/run/secrets/tocsin-http/hooks-secret",
        "external_url": "https://bell.example.com",
    }
    assert config["templates"] == ["*.j2"]
    assert config["metrics"] == {"max_scenarios": 1_000_000}
    assert [node["name"] for node in config["nodes"]] == ["prod", "auto"]
    assert config["rules"] == []


def test_an_external_url_that_was_written_stays(chart: Chart) -> None:
    manifests = chart.render(sets=["ingress.enabled=true", "config.http.external_url=https://bell.example.com/x"])
    assert config_of(manifests)["http"]["external_url"] == "https://bell.example.com/x"


def test_templates_lie_beside_the_configuration_as_they_were_written(chart: Chart) -> None:
    data = only(chart.render("everything"), "Secret", "bell-tocsin-config")["stringData"]
    assert data["short.j2"] == '{{ alerts | length }} alerts: "quoted", and a {brace}\n'


def test_the_configuration_is_mounted_as_directories_that_are_updated(chart: Chart) -> None:
    manifests = chart.render("everything")
    mounts = {mount["name"]: mount for mount in container_of(manifests)["volumeMounts"]}
    assert mounts["config"]["mountPath"] == "/etc/tocsin"
    assert mounts["secrets"]["mountPath"] == "/run/secrets/tocsin"
    assert all("subPath" not in mount for mount in mounts.values())
    volumes = {volume["name"]: volume for volume in pod_of(manifests)["spec"]["volumes"]}
    assert "items" not in volumes["config"]["secret"]
    sources = [source["secret"]["name"] for source in volumes["secrets"]["projected"]["sources"]]
    assert sources == ["one", "two", "bell-tocsin-secrets"]


def test_only_what_cannot_be_reloaded_restarts_the_pod(chart: Chart) -> None:
    def checksum(*sets: str, values: str = "minimal") -> str:
        return str(pod_of(chart.render(values, sets=sets))["metadata"]["annotations"]["checksum/static"])

    still = checksum()
    assert checksum("config.log.level=debug", "config.metrics.max_scenarios=5") == still
    assert checksum("templates.x\\.j2=hello", "config.store.retention=1d") == still
    assert checksum("http.port=9090") != still
    assert checksum(values="postgresql") != still
    assert checksum("store.postgresql.host=other", values="postgresql") != checksum(values="postgresql")
    assert still == hashlib.sha256(b"sqlite:////var/lib/tocsin/tocsin.db 0.0.0.0:8080").hexdigest()


def test_a_configuration_secret_of_the_user_takes_the_chart_s_place(chart: Chart) -> None:
    manifests = chart.render("openshift")
    assert "Secret" not in kinds(manifests)
    volumes = {volume["name"]: volume for volume in pod_of(manifests)["spec"]["volumes"]}
    assert volumes["config"]["secret"]["secretName"] == "tocsin-config"
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == "tocsin-data"


def test_the_rendered_configuration_passes_the_daemon_s_own_check(chart: Chart, tmp_path: Path) -> None:
    try:
        from tocsin.config import load_file
    except ImportError:
        pytest.skip("the settings are not written yet")
    for values in ("minimal", "everything", "postgresql"):
        secret = only(chart.render(values), "Secret", "bell-tocsin-config")["stringData"]
        folder = tmp_path / values
        folder.mkdir()
        for name, text in secret.items():
            (folder / name).write_text(text, encoding="utf-8")
        assert len(load_file(folder / "tocsin.yaml").nodes) == len(yaml.safe_load(secret["tocsin.yaml"])["nodes"])


def test_the_schema_knows_every_key_of_the_configuration() -> None:
    from tocsin.config.schema import json_schema

    known = json.loads((CHART / "values.schema.json").read_text("utf-8"))["properties"]["config"]["properties"]
    assert set(known) == set(json_schema()["properties"])


# Secrets


def test_tokens_are_made_when_none_are_given(chart: Chart) -> None:
    data = only(chart.render(sets=["tokens.existingSecret="]), "Secret", "bell-tocsin-tokens")["stringData"]
    assert re.fullmatch("[A-Za-z0-9]{40}", data["viewer-token"])
    assert data["viewer-token"] != data["operator-token"]


def test_the_tokens_file_is_what_the_daemon_reads_and_holds_digests_only(chart: Chart) -> None:
    from tocsin.config.tokens import parse_tokens

    data = only(chart.render(sets=["tokens.existingSecret="]), "Secret", "bell-tocsin-tokens")["stringData"]
    tokens, problems = parse_tokens(data["tokens"])
    assert problems == []
    assert {token.role.value: token.sha256 for token in tokens} == {
        scope: hashlib.sha256(data[f"{scope}-token"].encode()).hexdigest() for scope in ("viewer", "operator")
    }
    assert data["viewer-token"] not in data["tokens"]


def test_tokens_that_are_there_already_are_kept(either_chart: Chart) -> None:
    there = {"viewer-token": "V" * 40, "operator-token": "O" * 40, "hooks-secret": "H" * 40}
    with secret_in_a_cluster("ops", "bell-tocsin-tokens", there) as address:
        flags = ["--dry-run=server", "--disable-openapi-validation", "--kube-apiserver", address]
        flags += ["--show-only", "templates/tokens.yaml"]
        text = either_chart.template(sets=["tokens.existingSecret="], flags=flags).stdout
    data = only([m for m in yaml.safe_load_all(text) if m], "Secret", "bell-tocsin-tokens")["stringData"]
    assert {key: data[key] for key in there} == there
    assert hashlib.sha256(b"V" * 40).hexdigest() in data["tokens"]
    assert hashlib.sha256(b"O" * 40).hexdigest() in data["tokens"]


@contextmanager
def secret_in_a_cluster(namespace: str, name: str, data: dict[str, str]) -> Iterator[str]:
    """The address of as much of a Kubernetes API server as Helm's ``lookup`` asks for."""
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}

    def resources(group: str, *kinds: str) -> dict[str, object]:
        listed = [
            {
                "name": f"{kind.lower()}s",
                "singularName": kind.lower(),
                "namespaced": True,
                "kind": kind,
                "verbs": ["get"],
            }
            for kind in kinds
        ]
        return {"kind": "APIResourceList", "groupVersion": group, "resources": listed}

    apps = {"groupVersion": "apps/v1", "version": "v1"}
    answers = {
        "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "groups": [{"name": "apps", "versions": [apps], "preferredVersion": apps}]},
        "/api/v1": resources("v1", "Secret", "ServiceAccount", "PersistentVolumeClaim", "Service", "Pod"),
        "/apis/apps/v1": resources("apps/v1", "Deployment"),
        f"/api/v1/namespaces/{namespace}/secrets/{name}": {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {"app.kubernetes.io/managed-by": "Helm"},
                "annotations": {"meta.helm.sh/release-name": "bell", "meta.helm.sh/release-namespace": namespace},
            },
            "data": encoded,
        },
    }

    def answer(path: str, _headers: object) -> tuple[int, bytes]:
        found = answers.get(path.partition("?")[0])
        return 200 if found else 404, json.dumps(found or {"kind": "Status", "reason": "NotFound"}).encode()

    with serving(answer) as port:
        yield f"http://127.0.0.1:{port}"


def test_given_tokens_and_hook_secrets_are_mounted_and_none_is_made(chart: Chart) -> None:
    manifests = chart.render("everything")
    assert "bell-tocsin-tokens" not in {m["metadata"]["name"] for m in manifests}
    volumes = {volume["name"]: volume for volume in pod_of(manifests)["spec"]["volumes"]}
    assert [source["secret"] for source in volumes["http-secrets"]["projected"]["sources"]] == [
        {"name": "tocsin-tokens", "items": [{"key": "file", "path": "tokens"}]},
        {"name": "tocsin-hooks", "items": [{"key": "hooks-secret", "path": "hooks-secret"}]},
    ]


def test_no_secret_stands_outside_a_secret(chart: Chart) -> None:
    manifests = chart.render("everything")
    assert "slack://a/b/c" in json.dumps([m for m in manifests if m["kind"] == "Secret"])
    assert "slack://a/b/c" not in json.dumps([m for m in manifests if m["kind"] != "Secret"])


# The store


def test_sqlite_has_one_pod_that_is_stopped_before_the_next_and_a_volume_that_stays(chart: Chart) -> None:
    manifests = chart.render()
    spec = only(manifests, "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    claim = only(manifests, "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}
    assert "PodDisruptionBudget" not in kinds(manifests)


def test_a_volume_that_need_not_stay_says_so(chart: Chart) -> None:
    claim = only(chart.render(sets=["store.sqlite.keep=false", "store.sqlite.storageClass=-"]), "PersistentVolumeClaim")
    assert "annotations" not in claim["metadata"]
    assert claim["spec"]["storageClassName"] == ""


def test_postgresql_has_replicas_a_rolling_update_and_a_disruption_budget(chart: Chart) -> None:
    manifests = chart.render("postgresql")
    spec = only(manifests, "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (3, {"type": "RollingUpdate"})
    assert only(manifests, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert "PersistentVolumeClaim" not in kinds(manifests)
    url = config_of(manifests)["store"]["url"]
    assert url == "postgresql://bell%20ringer@db.example.com:5432/tocsin?sslmode=verify-full"
    assert container_of(manifests)["env"][1:] == [
        {"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": "tocsin-db", "key": "password"}}}
    ]


def test_the_postgresql_url_is_one_that_the_store_takes(chart: Chart) -> None:
    from tocsin.store.engine import parse_url

    url = parse_url(config_of(chart.render("postgresql"))["store"]["url"])
    assert (url.username, url.host, url.query["sslmode"]) == ("bell ringer", "db.example.com", "verify-full")


# The pod


def test_the_pod_is_restricted(either_chart: Chart) -> None:
    for values in VALUES:
        manifests = either_chart.render(values)
        for spec in (pod_of(manifests)["spec"], only(manifests, "Pod")["spec"]):
            assert spec["automountServiceAccountToken"] is False
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in spec["containers"]:
                if container["name"] != "beside":
                    assert container["securityContext"] == {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    }


def test_openshift_picks_the_ids(either_chart: Chart) -> None:
    context = pod_of(either_chart.render("openshift"))["spec"]["securityContext"]
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & context.keys()


def test_the_pod_may_write_its_data_and_tmp_only(chart: Chart) -> None:
    mounts = container_of(chart.render())["volumeMounts"]
    writable = {mount["mountPath"] for mount in mounts if not mount.get("readOnly")}
    assert writable == {"/var/lib/tocsin", "/tmp"}


def test_the_probes_are_the_daemon_s_own_and_the_start_has_ten_minutes(chart: Chart) -> None:
    container = container_of(chart.render())
    assert container["livenessProbe"]["httpGet"]["path"] == "/-/healthy"
    assert container["readinessProbe"]["httpGet"]["path"] == "/-/ready"
    startup = container["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] == 600


def test_the_pod_is_given_longer_than_the_daemon_takes(chart: Chart) -> None:
    assert pod_of(chart.render())["spec"]["terminationGracePeriodSeconds"] > 20


def test_the_image_is_named_by_registry_tag_or_digest(chart: Chart) -> None:
    assert container_of(chart.render())["image"] == "tocsin:0.2.0"
    assert container_of(chart.render("everything"))["image"] == "registry.example.com/mirror/tocsin:1.2.3"
    assert container_of(chart.render("postgresql"))["image"].startswith("tocsin@sha256:0123")
    assert pod_of(chart.render("everything"))["spec"]["imagePullSecrets"] == [{"name": "shared"}, {"name": "mine"}]


def test_commands_in_the_pod_find_the_configuration_by_themselves(chart: Chart) -> None:
    env = {e["name"]: e.get("value") for e in container_of(chart.render())["env"]}
    assert env["TOCSIN_CONFIG"] == container_of(chart.render())["args"][-1] == "/etc/tocsin/tocsin.yaml"


def test_a_ca_bundle_serves_every_library(chart: Chart) -> None:
    env = {e["name"]: e.get("value") for e in container_of(chart.render("everything"))["env"]}
    assert env["SSL_CERT_FILE"] == env["REQUESTS_CA_BUNDLE"] == "/etc/tocsin-ca/bundle.pem"
    assert env["HTTPS_PROXY"] == "http://proxy.example.com:3128"


def test_scheduling_is_passed_on_and_spread_knows_these_pods(chart: Chart) -> None:
    spec = pod_of(chart.render("everything"))["spec"]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert spec["tolerations"] == [{"key": "ops", "operator": "Exists"}]
    assert "nodeAffinity" in spec["affinity"]
    ours, theirs = spec["topologySpreadConstraints"]
    assert ours["labelSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "bell"
    assert theirs["labelSelector"] == {"matchLabels": {"a": "b"}}


# The network


def test_the_service_picks_the_daemon_and_not_the_test(chart: Chart) -> None:
    manifests = chart.render("everything")
    selector = only(manifests, "Service")["spec"]["selector"]
    assert selector.items() <= pod_of(manifests)["metadata"]["labels"].items()
    assert not selector.items() <= only(manifests, "Pod")["metadata"]["labels"].items()


def test_a_network_policy_with_egress_keeps_dns_and_the_release_s_test(chart: Chart) -> None:
    spec = only(chart.render("everything"), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert {port["port"] for port in spec["egress"][0]["ports"]} == {53}
    assert len(spec["egress"]) == 2
    peers = spec["ingress"][0]["from"]
    assert peers[0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"
    assert len(peers) == 2


def test_a_plain_network_policy_closes_all_ports_but_one(chart: Chart) -> None:
    spec = only(chart.render(sets=["networkPolicy.enabled=true"]), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]


def test_the_ingress_leads_to_the_service(chart: Chart) -> None:
    spec = only(chart.render("everything"), "Ingress")["spec"]
    assert spec["ingressClassName"] == "nginx"
    assert spec["rules"][0]["host"] == "bell.example.com"
    backend = spec["rules"][0]["http"]["paths"][0]["backend"]
    assert backend == {"service": {"name": "bell-tocsin", "port": {"name": "http"}}}


# Monitoring


def test_the_service_monitor_picks_the_service(chart: Chart) -> None:
    manifests = chart.render("everything")
    monitor = only(manifests, "ServiceMonitor")
    service = only(manifests, "Service")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["ops"]}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["path"] == "/metrics"
    assert endpoint["authorization"]["credentials"] == {"name": "tocsin-tokens", "key": "viewer-token"}
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_the_rules_watch_this_release_only(chart: Chart) -> None:
    groups = only(chart.render(sets=["prometheusRule.enabled=true"]), "PrometheusRule")["spec"]["groups"]
    assert [group["name"] for group in groups] == ["tocsin"]
    for rule in groups[0]["rules"]:
        assert 'job="bell-tocsin",namespace="ops"' in rule["expr"]
        assert 'job="tocsin"' not in rule["expr"]


def test_rules_can_be_picked_labelled_and_added(chart: Chart) -> None:
    groups = only(chart.render("everything"), "PrometheusRule")["spec"]["groups"]
    assert [group["name"] for group in groups] == ["tocsin", "dss-scenarios", "mine"]
    names = {rule["alert"] for group in groups for rule in group["rules"]}
    assert "TocsinScenariosDropped" not in names
    assert {"TocsinDown", "DssScenarioFailed", "Mine"} <= names
    assert all(rule["labels"]["team"] == "data" for group in groups[:2] for rule in group["rules"])
    assert all("severity" in rule["labels"] for group in groups[:2] for rule in group["rules"])


def test_the_dashboards_are_in_a_config_map_for_the_sidecar(chart: Chart) -> None:
    config_map = only(chart.render("everything"), "ConfigMap")
    assert config_map["metadata"]["namespace"] == "grafana"
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config_map["metadata"]["annotations"] == {"grafana_folder": "Dataiku"}
    for name, text in config_map["data"].items():
        written = (CHART / "files" / "dashboards" / name).read_text("utf-8")
        assert json.loads(text) == json.loads(written)


# The test hook


@pytest.mark.parametrize(
    ("ready", "token", "code"), [(200, "right", 0), (503, "right", 1), (200, "wrong", 1), (200, None, 0)]
)
def test_the_test_hook_passes_only_when_the_daemon_answers_as_it_should(
    chart: Chart, tmp_path: Path, ready: int, token: str | None, code: int
) -> None:
    """The script of the hook's pod, run here; a Secret without the viewer's token leaves the metrics out."""
    pod = only(chart.render(sets=["tokens.existingSecret="]), "Pod")["spec"]
    program, flag, script, host, port = pod["containers"][0]["command"]
    assert (program, flag, host, port) == ("python", "-c", "bell-tocsin", "8080")
    if token is not None:
        (tmp_path / "token").write_text(token, encoding="utf-8")
    script = script.replace("/run/secrets/tocsin-test", str(tmp_path))

    def answer(path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        if path == "/-/ready":
            return ready, b"ok"
        right = path == "/metrics" and headers.get("Authorization") == "Bearer right"
        return (200, b"tocsin_build_info 1") if right else (401, b"")

    with serving(answer) as port:
        done = subprocess.run([sys.executable, "-c", script, "127.0.0.1", str(port)], timeout=30)
    assert done.returncode == code


# The words


def test_the_notes_say_the_next_step(chart: Chart, tmp_path: Path) -> None:
    """``helm template`` leaves NOTES.txt out; as a ConfigMap of a copied chart it is rendered."""
    copy = tmp_path / "tocsin"
    shutil.copytree(CHART, copy)
    notes = (copy / "templates" / "NOTES.txt").read_text("utf-8")
    (copy / "templates" / "_notes.tpl").write_text(f'{{{{ define "notes" }}}}{notes}{{{{ end }}}}', "utf-8")
    (copy / "templates" / "notes.yaml").write_text(
        'kind: ConfigMap\nmetadata: {name: notes}\ndata: {notes: {{ include "notes" . | b64enc }}}\n', "utf-8"
    )
    values = HERE / "values" / "minimal.yaml"
    text = run(chart.helm, "template", "bell", copy, "--namespace", "ops", "--values", values).stdout
    encoded = only([m for m in yaml.safe_load_all(text) if m], "ConfigMap")["data"]["notes"]
    told = base64.b64decode(encoded).decode()
    assert "watches 1 DSS node(s)" in told
    assert "helm test bell --namespace ops" in told
    assert "port-forward service/bell-tocsin" in told
    assert "config.receivers is empty" in told


def test_the_chart_s_version_of_tocsin_is_the_package_s() -> None:
    from tocsin import __version__

    assert yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["appVersion"] == __version__
