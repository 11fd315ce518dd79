"""The rendered manifests against Kubernetes' own schemas, the Prometheus operator's, and a security policy."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.deploy.charts import REPOSITORY, TOOLS, VALUES, Chart, run

OPERATOR_KINDS = ("ServiceMonitor", "PrometheusRule")

# Why a check of the policy does not hold for Tocsin.
EXCUSED = {
    "CKV_K8S_11": "no CPU limit: it would throttle the loop, and a late alarm is a bad alarm",
    "CKV_K8S_35": "PGPASSWORD is the one secret in a variable: it is the PostgreSQL driver's own way",
}
# The pod of `helm test` runs once: it has no probes, and nobody connects to it.
EXCUSED_FOR_TEST_POD = {"CKV_K8S_8", "CKV_K8S_9", "CKV2_K8S_6"}


@pytest.mark.parametrize("kube", [f"1.{minor}" for minor in range(27, 34)])
def test_the_manifests_are_what_kubernetes_knows(
    chart: Chart, tool: Callable[[str], str], tmp_path: Path, kube: str
) -> None:
    validate = tool("kubernetes-validate")
    file = tmp_path / "manifests.yaml"
    manifests = [m for values in VALUES for m in chart.render(values) if m["kind"] not in OPERATOR_KINDS]
    file.write_text(yaml.safe_dump_all(manifests), encoding="utf-8")
    run(validate, "--strict", "--kubernetes-version", kube, file)


def test_the_operator_s_kinds_are_what_the_operator_knows(
    chart: Chart, tool: Callable[[str], str], tmp_path: Path
) -> None:
    node = tool("node")
    models = TOOLS / "node" / "node_modules" / "@kubernetes-models" / "prometheus-operator"
    if not models.is_dir():
        pytest.skip("the Prometheus operator's models are not here; .ci/tools installs them")
    manifests = [m for m in chart.render("everything") if m["kind"] in OPERATOR_KINDS]
    assert {m["kind"] for m in manifests} == set(OPERATOR_KINDS)
    strange = json.loads(json.dumps(manifests))
    strange[0]["spec"]["endpoints" if strange[0]["kind"] == "ServiceMonitor" else "groups"] = "no list"
    script = tmp_path / "validate.js"
    script.write_text(
        f"const models = require({json.dumps(str(models / 'monitoring.coreos.com' / 'v1'))});\n"
        "for (const manifest of JSON.parse(process.argv[2])) new models[manifest.kind](manifest).validate();\n",
        encoding="utf-8",
    )
    run(node, script, json.dumps(manifests))
    assert run(node, script, json.dumps(strange), ok=False).returncode != 0


@pytest.mark.parametrize("kind", OPERATOR_KINDS)
def test_the_operator_s_kinds_use_only_old_fields(chart: Chart, kind: str) -> None:
    """An operator of any age takes them: a field that it does not know, it drops in silence."""
    fields = {"ServiceMonitor": {"selector", "namespaceSelector", "endpoints"}, "PrometheusRule": {"groups"}}
    endpoint = {
        "port", "path", "interval", "scrapeTimeout", "authorization", "relabelings", "metricRelabelings",
    }  # fmt: skip
    spec = next(m["spec"] for m in chart.render("everything") if m["kind"] == kind)
    assert set(spec) == fields[kind]
    for one in spec.get("endpoints", []):
        assert set(one) == endpoint


@pytest.mark.slow
def test_the_policy_finds_nothing_but_what_is_excused(chart: Chart, tool: Callable[[str], str], tmp_path: Path) -> None:
    checkov = tool("checkov")
    digest = "image.digest=sha256:" + "0" * 64
    sets = [digest, "image.pullPolicy=Always", "networkPolicy.enabled=true"]
    for values in ("minimal", "postgresql"):
        file = tmp_path / f"{values}.yaml"
        file.write_text(yaml.safe_dump_all(chart.render(values, sets=sets)), encoding="utf-8")
    (tmp_path / "Dockerfile").write_text((REPOSITORY / "Dockerfile").read_text("utf-8"), encoding="utf-8")
    excused = ",".join(EXCUSED)
    command = (checkov, "--directory", tmp_path, "--framework", "kubernetes", "dockerfile", "--skip-check", excused)
    found = run(*command, "--compact", "--quiet", "--skip-download", "--output", "json", ok=False)
    reports = json.loads(found.stdout)
    failed = [
        f"{check['check_id']} {check['resource']}: {check['check_name']}"
        for report in (reports if isinstance(reports, list) else [reports])
        for check in report["results"]["failed_checks"]
        if not (check["resource"].endswith("-test") and check["check_id"] in EXCUSED_FOR_TEST_POD)
    ]
    assert failed == []
    assert {report["check_type"] for report in reports} == {"kubernetes", "dockerfile"}
