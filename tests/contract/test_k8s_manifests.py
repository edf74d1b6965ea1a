"""Every overlay builds, is valid Kubernetes, and follows the `restricted` profile of Pod Security."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import kubernetes_validate
import pytest

from tests.contract.custom import is_custom
from tests.contract.manifests import (
    DEPLOYED,
    FOLDERS,
    K8S,
    Manifest,
    build,
    containers,
    every,
    one,
    pod,
    pods,
    server_deployment,
)

OLDEST = "1.30"
"""Oldest version of Kubernetes with all features that the manifests use, see k8s/README.md."""

VERSIONS = (OLDEST, "1.35", "1.36", "1.37")
"""Versions of Kubernetes: the oldest usable version, and the versions with upstream support."""


def test_the_guide_names_the_oldest_kubernetes() -> None:
    assert f"Kubernetes {OLDEST} or later" in (K8S / "README.md").read_text()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_kubernetes_schema_accepts_every_field_of_every_manifest(folder: str, version: str) -> None:
    for manifest in build(folder):
        if not is_custom(manifest):  # see test_k8s_custom.py
            assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_the_validation_refuses_a_misspelt_field() -> None:
    deployment = copy.deepcopy(server_deployment("overlays/production"))
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 50
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("folder", DEPLOYED)
def test_an_overlay_has_all_of_its_parts_in_one_namespace(folder: str) -> None:
    kinds = sorted(manifest["kind"] for manifest in build(folder) if manifest["kind"] != "ConfigMap")
    variant = ["PersistentVolumeClaim"] if folder in ("models/pvc", "tensorrt/init", "tensorrt/accelerator") else []
    if folder == "overlays/minikube":
        variant = ["PersistentVolumeClaim", *2 * ["NetworkPolicy", "Service", "StatefulSet"]]
    if folder == "tls":
        variant = ["Certificate"]
    if folder == "mesh":
        variant = ["NetworkPolicy", *3 * ["AuthorizationPolicy", "PeerAuthentication"]]
    assert kinds == sorted(
        ["HTTPRoute" if folder in ("gateway-api", "mesh") else "Ingress", "Job"]
        + ["LimitRange", "Namespace", "ResourceQuota", "Role", "RoleBinding"]
        + 2 * ["HorizontalPodAutoscaler", "ServiceAccount"]
        + 3 * ["Deployment", "PodDisruptionBudget", "Service"]
        + 6 * ["NetworkPolicy"]
        + variant
    )
    namespace = one(folder, "Namespace")["metadata"]["name"]
    others = [manifest for manifest in build(folder) if manifest["kind"] != "Namespace"]
    assert {manifest["metadata"]["namespace"] for manifest in others} == {namespace}


@pytest.mark.parametrize("folder", [*DEPLOYED, "feeds", "pipeline/cron"])
def test_every_image_is_pinned(folder: str) -> None:
    for container in (each for spec in pods(folder) for each in containers(spec)):
        assert re.search(r":\d[\w.-]*$|@sha256:[0-9a-f]{64}$", container["image"]), container["image"]


def test_no_secret_is_in_a_file() -> None:
    assert not [manifest for folder in FOLDERS for manifest in every(folder, "Secret")]


@pytest.mark.parametrize("folder", DEPLOYED)
def test_the_namespace_enforces_the_restricted_profile(folder: str) -> None:
    labels = one(folder, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


ALLOWED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(spec: Manifest) -> Iterator[str]:
    """Yield each field of a pod specification that violates the `restricted` profile of the Pod Security Standards."""
    pod_context = spec.get("securityContext", {})
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield name
    for volume in spec.get("volumes", []):
        if not set(volume) - {"name"} <= ALLOWED_VOLUMES:
            yield f"volume {volume['name']}"
    if pod_context.get("sysctls"):
        yield "sysctls"
    for container in [*spec["containers"], *spec.get("initContainers", []), *spec.get("ephemeralContainers", [])]:
        context = container.get("securityContext", {})
        effective = pod_context | context
        capabilities = context.get("capabilities", {})
        if context.get("privileged"):
            yield "privileged"
        if context.get("allowPrivilegeEscalation") is not False:
            yield "allowPrivilegeEscalation"
        if effective.get("runAsNonRoot") is not True:
            yield "runAsNonRoot"
        if effective.get("runAsUser") == 0:
            yield "runAsUser"
        if effective.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield "seccompProfile"
        if "ALL" not in capabilities.get("drop", []):
            yield "capabilities.drop"
        if not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}:
            yield "capabilities.add"
        if context.get("procMount", "Default") != "Default":
            yield "procMount"
        if any(port.get("hostPort") for port in container.get("ports", [])):
            yield "hostPort"
        probes = [container.get(probe) for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
        if any(probe.get("httpGet", {}).get("host") for probe in probes if probe):
            yield "probe.host"


@pytest.mark.parametrize("folder", [*DEPLOYED, "feeds", "pipeline/cron"])
def test_pods_follow_the_restricted_profile(folder: str) -> None:
    for spec in pods(folder):
        assert list(violations(spec)) == []


@pytest.mark.parametrize(
    ("violation", "spoil"),
    [
        ("hostNetwork", lambda spec, _: spec.update(hostNetwork=True)),
        ("volume host", lambda spec, _: spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}})),
        ("sysctls", lambda spec, _: spec["securityContext"].update(sysctls=[{"name": "kernel.shm_rmid_forced"}])),
        ("runAsNonRoot", lambda spec, _: spec["securityContext"].pop("runAsNonRoot")),
        ("runAsUser", lambda spec, _: spec["securityContext"].update(runAsUser=0)),
        ("seccompProfile", lambda spec, _: spec["securityContext"].pop("seccompProfile")),
        ("privileged", lambda _, context: context.update(privileged=True)),
        ("allowPrivilegeEscalation", lambda _, context: context.pop("allowPrivilegeEscalation")),
        ("capabilities.drop", lambda _, context: context["capabilities"].update(drop=["NET_RAW"])),
        ("capabilities.add", lambda _, context: context["capabilities"].update(add=["SYS_ADMIN"])),
        ("procMount", lambda _, context: context.update(procMount="Unmasked")),
        ("hostPort", lambda spec, _: spec["containers"][0]["ports"][0].update(hostPort=8000)),
        ("probe.host", lambda spec, _: spec["containers"][0]["livenessProbe"]["httpGet"].update(host="10.0.0.1")),
    ],
)
def test_each_violation_of_the_profile_is_detected(violation: str, spoil: Callable[[Any, Any], object]) -> None:
    spec = copy.deepcopy(pod("overlays/production"))
    spoil(spec, spec["containers"][0]["securityContext"])
    assert list(violations(spec)) == [violation]


@pytest.mark.parametrize("folder", [*DEPLOYED, "feeds", "pipeline/cron"])
def test_containers_write_only_to_volumes(folder: str) -> None:
    for spec in pods(folder):
        for container in containers(spec):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert spec["automountServiceAccountToken"] is False


def test_yamllint_finds_nothing_in_the_manifests() -> None:
    lint = [sys.executable, "-m", "yamllint", "--strict", "--config-file", K8S / ".yamllint.yaml", K8S]
    result = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def lists_of_ports(part: Any) -> Iterator[list[Manifest]]:
    """Yield each list under a key `ports`, wherever it is in a manifest."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "ports" and isinstance(value, list):
                yield value
            else:
                yield from lists_of_ports(value)
    elif isinstance(part, list):
        for value in part:
            yield from lists_of_ports(value)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_port_states_its_protocol(folder: str) -> None:
    for manifest in build(folder):
        for ports in lists_of_ports(manifest):
            if not is_custom(manifest):
                assert all(port.get("protocol") in ("TCP", "UDP") for port in ports), (manifest["kind"], ports)


RESOURCES = {
    "AuthorizationPolicy": "authorizationpolicies",
    "Certificate": "certificates",
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "HTTPRoute": "httproutes",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "Ingress": "ingresses",
    "Job": "jobs",
    "LimitRange": "limitranges",
    "Namespace": "namespaces",
    "NetworkPolicy": "networkpolicies",
    "PeerAuthentication": "peerauthentications",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "ResourceQuota": "resourcequotas",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "StatefulSet": "statefulsets",
}
"""Resource name of each kind, as the rules of a role use it."""


def rights(manifest: Manifest) -> set[str]:
    """Return the verbs that the deployer role allows on objects of this kind."""
    group = manifest["apiVersion"].rpartition("/")[0]
    return {
        verb
        for rule in one("overlays/production", "Role")["rules"]
        if group in rule["apiGroups"] and RESOURCES[manifest["kind"]] in rule["resources"]
        for verb in rule["verbs"]
    }


def is_canonical(quantity: str) -> bool:
    """Return whether the API server keeps a quantity as it is written. It changes 1000m to 1, and 1024Mi to 1Gi."""
    found = re.fullmatch(r"(\d+)(|m|Ki|Mi|Gi)", quantity)
    return found is not None and (found[1] == "0" or int(found[1]) % (1024 if "i" in found[2] else 1000) > 0)


def changed_by_the_api(manifest: Manifest) -> Iterator[str]:
    """Yield the fields that the API server rewrites, or adds inside lists that `kubectl apply` compares as a whole.

    With such a field a manifest always differs from the live object, so every apply sends a PATCH.
    """
    spec = manifest.get("spec", {})
    if manifest["kind"] == "NetworkPolicy":
        for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
            if any("protocol" not in port for port in rule.get("ports", [])):
                yield "ports.protocol"
    if manifest["kind"] == "LimitRange":
        for limit in spec["limits"]:
            bounded = {*limit.get("max", {}), *limit.get("min", {}), *limit.get("default", {})}
            for field in ("default", "defaultRequest"):
                if limit["type"] == "Container" and not bounded <= set(limit.get(field, {})):
                    yield f"limits.{field}"
            if not all(
                is_canonical(each) for part in limit.values() if part != limit["type"] for each in part.values()
            ):
                yield "limits quantity"
    if manifest["kind"] == "ResourceQuota" and not all(map(is_canonical, spec["hard"].values())):
        yield "hard quantity"
    if manifest["kind"] == "RoleBinding" and any("apiGroup" not in subject for subject in manifest["subjects"]):
        yield "subjects.apiGroup"


@pytest.mark.parametrize("folder", DEPLOYED)
def test_deployers_may_apply_all_of_an_overlay(folder: str) -> None:
    for manifest in build(folder):
        allowed = rights(manifest)
        assert "get" in allowed, manifest["kind"]
        if not {"create", "patch"} <= allowed:  # an apply by a deployer must find no difference
            assert list(changed_by_the_api(manifest)) == [], manifest["kind"]


@pytest.mark.parametrize(
    ("kind", "missing", "spoil"),
    [
        (
            "NetworkPolicy",
            "ports.protocol",
            lambda manifest: manifest["spec"]["ingress"][0]["ports"][0].pop("protocol"),
        ),
        ("LimitRange", "limits.default", lambda manifest: manifest["spec"]["limits"][0]["default"].pop("cpu")),
        (
            "LimitRange",
            "limits.defaultRequest",
            lambda manifest: manifest["spec"]["limits"][0]["defaultRequest"].pop("memory"),
        ),
        ("LimitRange", "limits quantity", lambda manifest: manifest["spec"]["limits"][0]["max"].update(cpu="16000m")),
        (
            "ResourceQuota",
            "hard quantity",
            lambda manifest: manifest["spec"]["hard"].update({"limits.memory": "77824Mi"}),
        ),
        ("RoleBinding", "subjects.apiGroup", lambda manifest: manifest["subjects"][0].pop("apiGroup")),
    ],
)
def test_each_field_that_the_api_changes_is_detected(
    kind: str, missing: str, spoil: Callable[[Manifest], object]
) -> None:
    named = {"NetworkPolicy": "reentry"}.get(kind)
    manifest = copy.deepcopy(one("overlays/production", kind, named))
    assert rights(manifest) == {"get"}
    spoil(manifest)
    assert list(changed_by_the_api(manifest)) == [missing]
