"""The overlays that distribute the requests of the gateways: Argo Rollouts with the judge, and a shadow of a canary."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest
import typer

from cli import app
from pipeline.canary.config import JudgeConfig
from pipeline.canary.figures import CANARY, STABLE
from tests.contract.manifests import GATEWAY, K8S, ROUTED, SERVER, WORKER, Manifest, every, one, template

FOLDER = "argo-rollouts"
ROUTE = {"group": "", "kind": "Service", "name": SERVER, "port": 8001}
"""Parent of the route between gateways and servers."""


def canary() -> Any:
    return one(FOLDER, "Rollout")["spec"]["strategy"]["canary"]


def metric() -> Any:
    (found,) = one(FOLDER, "AnalysisTemplate")["spec"]["metrics"]
    return found


def job() -> Any:
    return metric()["provider"]["job"]["spec"]


def arguments() -> list[str]:
    """Return the arguments of the judge, with those of the template filled in."""
    given = {each["name"]: each["value"] for each in one(FOLDER, "AnalysisTemplate")["spec"]["args"]}
    (container,) = job()["template"]["spec"]["containers"]
    return [re.sub(r"\{\{args\.(\w+)\}\}", lambda match: given[match[1]], word) for word in container["args"]]


def triton_url(folder: str, name: str) -> str:
    (container,) = template(folder, "Deployment", name)["spec"]["containers"]
    (found,) = [each["value"] for each in container["env"] if each["name"] == "REENTRY_GATEWAY_TRITON_URL"]
    return str(found)


def test_a_rollout_has_the_steps_of_the_script_and_the_judge_after_each() -> None:
    found = re.search(r"^STEPS=\((.*)\)$", (K8S / "scripts" / "canary.sh").read_text(), re.MULTILINE)
    assert found
    judge = {"analysis": {"templates": [{"templateName": one(FOLDER, "AnalysisTemplate")["metadata"]["name"]}]}}
    weights = [{"setWeight": int(weight)} for weight in found[1].split()]
    assert canary()["steps"] == [step for weight in weights for step in (weight, judge)]


def test_one_judgement_decides_and_a_judge_without_a_verdict_ends_the_rollout() -> None:
    assert (metric()["count"], metric()["failureLimit"], metric()["consecutiveErrorLimit"]) == (1, 0, 0)
    assert job()["backoffLimit"] == 0
    assert job()["template"]["spec"]["restartPolicy"] == "Never"


def test_the_job_runs_the_command_of_this_release_with_valid_options() -> None:
    group, name, *options = arguments()
    command = typer.main.get_command(app).commands[group].commands[name]
    given = command.make_context(name, options).params
    config = JudgeConfig(
        prometheus=given["prometheus"],
        namespace=given["namespace"],
        wait=given["wait"],
    )
    assert config.namespace == one(FOLDER, "Namespace")["metadata"]["name"]
    assert config.limits.window < config.wait < job()["activeDeadlineSeconds"]
    (container,) = job()["template"]["spec"]["containers"]
    (feed,) = template("feeds", "Deployment")["spec"]["containers"]
    assert container["image"] == feed["image"]  # the client's, whose entry command is `reentry`
    assert "command" not in container


def test_the_job_follows_the_schema_of_kubernetes_and_has_the_rights_of_the_other_pods() -> None:
    manifest = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "judge"}, "spec": job()}
    kubernetes_validate.validate(manifest, "1.37", strict=True)
    spec, feed = job()["template"]["spec"], template("feeds", "Deployment")["spec"]
    assert spec["securityContext"] == feed["securityContext"]
    assert spec["containers"][0]["securityContext"] == feed["containers"][0]["securityContext"]
    assert spec["automountServiceAccountToken"] is spec["enableServiceLinks"] is False
    assert spec["serviceAccountName"] in {each["metadata"]["name"] for each in every(FOLDER, "ServiceAccount")}


def test_the_network_admits_the_judge_to_prometheus_and_nowhere_else() -> None:
    labels = job()["template"]["metadata"]["labels"]
    policy = one(FOLDER, "NetworkPolicy", "reentry-canary-judge")["spec"]
    selected = [
        each["metadata"]["name"]
        for each in every(FOLDER, "NetworkPolicy")
        if each["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items()
        and not each["spec"]["podSelector"].get("matchExpressions")
    ]
    assert sorted(selected) == ["default-deny", "reentry-canary-judge"]
    assert "ingress" not in policy
    prometheus, names = policy["egress"]
    (url,) = [each["value"] for each in one(FOLDER, "AnalysisTemplate")["spec"]["args"]]
    assert url == f"http://prometheus.monitoring.svc:{prometheus['ports'][0]['port']}"
    assert {port["port"] for port in names["ports"]} == {53}


def test_the_label_of_a_release_is_the_one_that_the_judge_compares_by() -> None:
    deployment = one(FOLDER, "Deployment", SERVER)["spec"]
    assert deployment["replicas"] == 0
    assert "release" not in deployment["selector"]["matchLabels"]  # the controller changes it while pods run
    labels = deployment["template"]["metadata"]["labels"]
    assert "release" not in labels
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    for name, key in ((STABLE, "stableMetadata"), (CANARY, "canaryMetadata")):
        assert canary()[key]["labels"] == {"release": name}
    reference = one(FOLDER, "Rollout")["spec"]["workloadRef"]
    assert (reference["kind"], reference["name"]) == ("Deployment", SERVER)
    feeds = one(FOLDER, "Service", "reentry-feeds")["spec"]["selector"]
    assert feeds.items() <= (labels | canary()["stableMetadata"]["labels"]).items()


def test_the_metrics_of_each_pod_are_collected_once() -> None:
    monitor = one("monitoring", "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    labels = template(FOLDER, "Deployment", SERVER)["metadata"]["labels"]
    found = [
        service for service in every(FOLDER, "Service") if monitor.items() <= service["metadata"]["labels"].items()
    ]
    assert [service["metadata"]["name"] for service in found] == [SERVER]
    assert found[0]["spec"]["selector"].items() <= labels.items()


def test_the_controller_shifts_the_weights_of_the_route_between_its_two_services() -> None:
    settings = canary()["trafficRouting"]["plugins"]["argoproj-labs/gatewayAPI"]
    route = one(FOLDER, "HTTPRoute", settings["httpRoute"])
    assert settings["namespace"] == route["metadata"]["namespace"]
    (rule,) = route["spec"]["rules"]
    names = [canary()["stableService"], canary()["canaryService"]]
    assert [(each["name"], each["weight"]) for each in rule["backendRefs"]] == [(names[0], 100), (names[1], 0)]
    labels = template(FOLDER, "Deployment", SERVER)["metadata"]["labels"]
    for name in names:
        service = one(FOLDER, "Service", name)["spec"]
        assert service["selector"].items() <= labels.items()
        assert {each["port"] for each in rule["backendRefs"]} == {port["port"] for port in service["ports"]}


def test_the_autoscaler_scales_the_rollout() -> None:
    rollout = one(FOLDER, "Rollout")
    target = one(FOLDER, "HorizontalPodAutoscaler", SERVER)["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": rollout["apiVersion"], "kind": "Rollout", "name": rollout["metadata"]["name"]}
    assert "replicas" not in rollout["spec"]


def test_deployers_may_begin_and_watch_a_rollout() -> None:
    def verbs(resource: str) -> set[str]:
        rules: list[Manifest] = one(FOLDER, "Role", "reentry-deployer")["rules"]
        given = [rule for rule in rules if rule["apiGroups"] == ["argoproj.io"] and resource in rule["resources"]]
        return {verb for rule in given for verb in rule["verbs"]}

    for resource in ("rollouts", "analysistemplates"):
        assert {"get", "create", "patch"} <= verbs(resource)
    assert "get" in verbs("analysisruns")


@pytest.mark.parametrize("folder", ROUTED)
def test_gateways_ask_the_service_of_the_route_and_workers_the_stable_pods(folder: str) -> None:
    assert one(folder, "HTTPRoute", SERVER)["spec"]["parentRefs"] == [ROUTE]
    assert triton_url(folder, GATEWAY) == f"grpc://{ROUTE['name']}:{ROUTE['port']}"
    assert triton_url(folder, WORKER) == "grpc://reentry-feeds:8001"
    ports = {port["port"]: port for port in one(folder, "Service", SERVER)["spec"]["ports"]}
    assert ports[ROUTE["port"]]["appProtocol"] == "kubernetes.io/h2c"


def test_the_shadow_copies_a_share_of_the_requests_to_the_service_that_the_script_creates() -> None:
    (rule,) = one("shadow", "HTTPRoute", SERVER)["spec"]["rules"]
    assert [(each["name"], each["weight"]) for each in rule["backendRefs"]] == [(SERVER, 100)]
    (mirror,) = rule["filters"]
    suffix = re.search(r"^nameSuffix: (\S+)$", (K8S / "canary" / "kustomization.yaml").read_text(), re.MULTILINE)
    assert suffix
    assert mirror["type"] == "RequestMirror"
    assert mirror["requestMirror"]["backendRef"] == {"name": f"{SERVER}{suffix[1]}", "port": ROUTE["port"]}
    assert 0 < mirror["requestMirror"]["percent"] < 100
