"""The Ray cluster of bulk scoring: its pods, which the schema of a RayJob leaves open, and its command."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from tests.contract.custom import faults
from tests.contract.manifests import Manifest, build, one, quantity
from tests.contract.test_documents import parse
from tests.contract.test_k8s_manifests import VERSIONS, violations

ROOT = Path(__file__).parents[2]


def cluster() -> Manifest:
    return one("bulk", "RayJob")["spec"]["rayClusterSpec"]


def templates() -> list[Manifest]:
    """Return the pod templates of the head and of the workers."""
    return [cluster()["headGroupSpec"]["template"], *(group["template"] for group in cluster()["workerGroupSpecs"])]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_the_pods_of_the_cluster(version: str) -> None:
    for template in templates():
        manifest = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}
        assert kubernetes_validate.validate(manifest, version, strict=True) == version
        spoilt = copy.deepcopy(manifest)
        spoilt["template"]["spec"]["container"] = []
        with pytest.raises(kubernetes_validate.ValidationError, match="container"):
            kubernetes_validate.validate(spoilt, version, strict=True)


def test_the_pods_follow_the_restricted_profile_and_write_only_to_volumes() -> None:
    assert one("bulk", "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    account = one("bulk", "ServiceAccount")["metadata"]["name"]
    for template in templates():
        spec = template["spec"]
        assert list(violations(spec)) == []
        assert spec["serviceAccountName"] == account
        assert spec["automountServiceAccountToken"] is False
        (container,) = spec["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert re.fullmatch(r"registry\.example\.com/reentry-cluster:\d[\w.]*", container["image"])


def test_the_head_runs_the_command_and_the_workers_have_memory_for_a_part_on_each_core() -> None:
    words = shlex.split(one("bulk", "RayJob")["spec"]["entrypoint"])
    assert words[:2] == ["reentry", "score-bulk"]
    parse(words[1:])
    assert words[words.index("--address") + 1] == "auto"
    assert cluster()["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster()["workerGroupSpecs"]:
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]
        assert quantity(resources["limits"]["memory"]) >= quantity(resources["limits"]["cpu"]) * 2**30


def test_the_cluster_has_the_version_of_ray_in_the_lock() -> None:
    (locked,) = re.findall(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert cluster()["rayVersion"] == locked


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda spec: spec.update(submissionMode="HttpMode"), "'HttpMode' is not one of"),
        (lambda spec: spec.update(entryPoint="reentry"), "'entryPoint' was unexpected"),
        (lambda spec: spec["rayClusterSpec"].pop("headGroupSpec"), "'headGroupSpec' is a required property"),
        (
            lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update(a=0),
            "0 is not of type 'string'",
        ),
        (
            lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].update(replicas="4"),
            "'4' is not of type 'integer'",
        ),
    ],
)
def test_each_fault_of_the_job_is_detected(spoil: Callable[[Any], object], fault: str) -> None:
    manifest = copy.deepcopy(one("bulk", "RayJob"))
    spoil(manifest["spec"])
    (found,) = faults(manifest)
    assert fault in found


def test_the_cluster_is_closed_to_other_namespaces_except_the_operator() -> None:
    policy = one("bulk", "NetworkPolicy")["spec"]
    assert policy["podSelector"] == {}
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    own, operator = policy["ingress"]
    assert own == {"from": [{"podSelector": {}}]}
    assert [port["port"] for port in operator["ports"]] == [8265]
    assert {manifest["metadata"].get("namespace", "reentry-bulk") for manifest in build("bulk")} == {"reentry-bulk"}
