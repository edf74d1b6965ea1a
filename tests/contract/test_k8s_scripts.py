"""The delivery scripts: what they ask of kubectl, in which order, and a health check that scores a real track.

There is no cluster here. A stand-in for kubectl writes down what it is asked, builds with the real kubectl, and
forwards ports to the real Triton of the tests.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from reentry.serving import EmbeddedServer
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from reentry.tracks import write_tracks
from tests.contract.manifests import K8S, program

SCRIPTS = K8S / "scripts"
COMMANDS = sorted(path for path in SCRIPTS.glob("*.sh") if path.name != "common.sh")
IMAGE = f"registry.example.com/reentry-triton@sha256:{64 * 'a'}"
TIMEOUT = 60.0

STAND_IN = """#!/usr/bin/env bash
# Answers of a cluster with three stable replicas; $STATE/canary is there while a canary runs.
set -euo pipefail
[ "$1" = kustomize ] && exec "$KUBECTL" "$@"
printf '%s\\n' "$*" >>"$STATE/asked"
[ "$1" = -n ] && shift 2
case "$*" in
"apply -f -")
    cat >"$STATE/applied.yaml"
    ! grep -q reentry-canary "$STATE/applied.yaml" || touch "$STATE/canary"
    ;;
port-forward*:8000) echo "Forwarding from 127.0.0.1:$HTTP_PORT -> 8000" && exec sleep 60 ;;
port-forward*:8001) echo "Forwarding from 127.0.0.1:$GRPC_PORT -> 8001" && exec sleep 60 ;;
*--ignore-not-found*) [ ! -e "$STATE/canary" ] || echo deployment.apps/reentry-canary ;;
get*reentry-canary*image*) echo "$IMAGE" ;;
get*image*) echo registry.example.com/reentry-triton:0.1.0-cpu ;;
get*.spec.replicas*) echo 3 ;;
get*.host*) echo reentry.example.com ;;
delete*deployment*) rm "$STATE/canary" ;;
rollout\\ status\\ deployment/"${BROKEN:-none} "*) echo "timed out" >&2 && exit 1 ;;
esac
"""


@dataclass
class Cluster:
    """The stand-in, and what became of it."""

    state: Path
    http_port: int
    grpc_port: int
    broken: str = "none"
    """Deployment whose rollout never ends."""

    def run(self, *command: str, scripts: Path = SCRIPTS) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [scripts / command[0], *command[1:]],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            env={
                **os.environ,
                "PATH": f"{self.state}:{os.environ['PATH']}",
                "STATE": str(self.state),
                "KUBECTL": program("kubectl"),
                "HTTP_PORT": str(self.http_port),
                "GRPC_PORT": str(self.grpc_port),
                "IMAGE": IMAGE,
                "BROKEN": self.broken,
            },
        )

    @property
    def changes(self) -> list[str]:
        """What was asked that is not a question, without the namespace."""
        asked = (self.state / "asked").read_text().splitlines() if (self.state / "asked").exists() else []
        plain = [line.partition(" ")[2].partition(" ")[2] if line.startswith("-n ") else line for line in asked]
        return [line for line in plain if not line.startswith(("get", "config", "rollout history"))]

    @property
    def applied(self) -> list[dict]:
        return list(yaml.safe_load_all((self.state / "applied.yaml").read_text()))


@pytest.fixture
def cluster(tmp_path: Path, server: EmbeddedServer) -> Cluster:
    program("kubectl")
    program("curl")
    stand_in = tmp_path / "kubectl"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    ports = [int(url.rpartition(":")[2]) for url in (server.http_url, server.grpc_url)]
    return Cluster(state=tmp_path, http_port=ports[0], grpc_port=ports[1])


@pytest.fixture
def canary(cluster: Cluster) -> Cluster:
    """The cluster while a canary runs."""
    (cluster.state / "canary").touch()
    return cluster


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_shellcheck_finds_nothing() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    found = subprocess.run(
        [shellcheck, "--external-sources", *COMMANDS, SCRIPTS / "common.sh"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", COMMANDS, ids=lambda path: path.stem)
def test_every_script_fails_early_and_explains_itself(script: Path) -> None:
    assert script.stat().st_mode & stat.S_IXUSR
    assert "\nset -euo pipefail\n" in script.read_text()
    told = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert told.returncode == 0
    assert f"Usage: {script.name}" in told.stdout
    assert "Example: " in told.stdout
    assert "set -" not in told.stdout


def test_the_health_check_scores_a_track_on_the_running_server(server: EmbeddedServer) -> None:
    program("curl")
    check = [SCRIPTS / "health-check.sh", "--url", f"http://{server.http_url}"]
    told = subprocess.run(check, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert told.returncode == 0, told.stderr
    assert "healthy: reentry_lstm version 1 answered" in told.stdout


def test_the_health_check_fails_where_nobody_listens() -> None:
    program("curl")
    check = [SCRIPTS / "health-check.sh", "--url", f"http://127.0.0.1:{free_port()}"]
    told = subprocess.run(check, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert told.returncode == 1
    assert "is not well" in told.stderr


def test_deploy_applies_the_pinned_image_waits_and_scores(cluster: Cluster) -> None:
    told = cluster.run("deploy.sh", "staging", "--image", IMAGE)
    assert told.returncode == 0, told.stderr
    assert cluster.changes == [
        "apply -f -",
        "rollout status deployment/reentry --timeout=10m",
        "port-forward service/reentry :8000",
    ]
    (deployment,) = [manifest for manifest in cluster.applied if manifest["kind"] == "Deployment"]
    assert deployment["metadata"]["namespace"] == "reentry-staging"
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == IMAGE
    assert not list(K8S.glob(".deploy.*"))


@pytest.mark.parametrize("image", ["registry.example.com/reentry-triton", "reentry-triton:latest", "host:5000/reentry"])
def test_deploy_refuses_an_image_that_moves(cluster: Cluster, image: str) -> None:
    told = cluster.run("deploy.sh", "production", "--image", image)
    assert told.returncode == 1
    assert "fix: " in told.stderr
    assert cluster.changes == []


def test_deploy_fails_when_the_new_pods_do_not_become_ready(cluster: Cluster) -> None:
    cluster.broken = "reentry"
    told = cluster.run("deploy.sh", "production")
    assert told.returncode == 1
    assert "the old ones serve" in told.stderr


def test_minikube_goes_from_a_checkout_with_a_model_to_a_scored_file(
    cluster: Cluster, model_repository: Path, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(K8S, checkout / "k8s")
    shutil.copytree(model_repository, checkout / "model_repository")
    (checkout / ".venv").symlink_to(sys.prefix)
    tracks = simulate_trapezoid(TrapezoidConfig(tracks=2, seed=1, labels=False))
    write_tracks(checkout / "artifacts" / "data" / "test.csv", tracks)
    minikube = tmp_path / "minikube"
    minikube.write_text('#!/bin/sh\necho "$*" >>"$STATE/minikube.asked"\n')
    minikube.chmod(0o755)

    told = cluster.run("minikube.sh", scripts=checkout / "k8s" / "scripts")

    assert told.returncode == 0, told.stderr
    start, build = (tmp_path / "minikube.asked").read_text().splitlines()
    assert start.startswith("start --profile reentry")
    (image,) = re.findall(r"--tag (reentry-triton:\S+) --file Dockerfile.triton --build-opt=target=cpu", build)
    (deployment,) = [manifest for manifest in cluster.applied if manifest["kind"] == "Deployment"]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == image
    predictions = checkout / "artifacts" / "minikube" / "predictions" / "predictions.csv"
    assert len(predictions.read_text().splitlines()) == 1 + len(tracks)


def test_rollback_goes_to_the_revision_before_and_scores(cluster: Cluster) -> None:
    told = cluster.run("rollback.sh")
    assert told.returncode == 0, told.stderr
    assert cluster.changes == [
        "rollout undo deployment/reentry --to-revision=0",
        "rollout status deployment/reentry --timeout=10m",
        "port-forward service/reentry :8000",
    ]


def shift(weight: int, replicas: int) -> list[str]:
    return [
        f"scale deployment/reentry-canary --replicas={replicas}",
        "rollout status deployment/reentry-canary --timeout=10m",
        route(weight),
    ]


def route(weight: int) -> str:
    return (
        "annotate --overwrite ingress/reentry-http-canary ingress/reentry-grpc-canary "
        f"nginx.ingress.kubernetes.io/canary-weight={weight}"
    )


REMOVE = ["delete ingress -l release=canary", "delete deployment,service,configmap -l release=canary"]


def test_a_canary_scores_a_track_before_it_takes_its_share(cluster: Cluster) -> None:
    told = cluster.run("canary.sh", "start", IMAGE, "--weight", "5", "--namespace", "reentry-staging")
    assert told.returncode == 0, told.stderr
    assert cluster.changes == [
        "apply -f -",
        "rollout status deployment/reentry-canary --timeout=10m",
        "port-forward service/reentry-canary :8000",
        *shift(weight=5, replicas=1),
    ]
    for manifest in cluster.applied:
        assert manifest["metadata"]["namespace"] == "reentry-staging"
        assert manifest["metadata"]["labels"]["release"] == "canary"  # by which it is removed
        kubernetes_validate.validate(manifest, "1.37", strict=True)
    kinds = sorted(manifest["kind"] for manifest in cluster.applied)
    assert kinds == ["ConfigMap", "Deployment", "Ingress", "Ingress", "Service"]
    (deployment,) = [manifest for manifest in cluster.applied if manifest["kind"] == "Deployment"]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == IMAGE
    for ingress in (manifest for manifest in cluster.applied if manifest["kind"] == "Ingress"):
        assert ingress["spec"]["rules"][0]["host"] == "reentry.example.com"
        assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary-weight"] == "0"
    assert not list(K8S.glob(".canary.*"))


def test_a_canary_that_does_not_score_takes_no_share(cluster: Cluster) -> None:
    cluster.http_port = free_port()
    told = cluster.run("canary.sh", "start", IMAGE)
    assert told.returncode == 1
    assert "fix: read its log, then canary.sh abort" in told.stderr
    assert not [line for line in cluster.changes if line.startswith("annotate")]


def test_a_second_canary_is_refused(canary: Cluster) -> None:
    told = canary.run("canary.sh", "start", IMAGE)
    assert told.returncode == 1
    assert "promote or abort" in told.stderr
    assert canary.changes == []


@pytest.mark.parametrize(("weight", "replicas"), [(0, 1), (34, 2), (50, 2), (100, 3)])
def test_replicas_follow_the_weight_and_come_first(canary: Cluster, weight: int, replicas: int) -> None:
    told = canary.run("canary.sh", "weight", str(weight))
    assert told.returncode == 0, told.stderr
    assert canary.changes == shift(weight, replicas)


@pytest.mark.parametrize("weight", ["101", "-1", "half"])
def test_a_weight_that_is_no_percentage_is_refused(canary: Cluster, weight: str) -> None:
    assert canary.run("canary.sh", "weight", weight).returncode == 1
    assert canary.changes == []


def test_promotion_keeps_the_traffic_on_the_canary_until_the_stable_release_scores(canary: Cluster) -> None:
    told = canary.run("canary.sh", "promote")
    assert told.returncode == 0, told.stderr
    assert canary.changes == [
        *shift(weight=100, replicas=3),
        f"set image deployment/reentry triton={IMAGE}",
        "scale deployment/reentry --replicas=3",
        "rollout status deployment/reentry --timeout=10m",
        "port-forward service/reentry :8000",
        route(0),
        *REMOVE,
    ]


def test_a_promotion_that_fails_leaves_the_traffic_on_the_canary(canary: Cluster) -> None:
    canary.broken = "reentry"
    told = canary.run("canary.sh", "promote")
    assert told.returncode == 1
    assert "the canary carries the traffic" in told.stderr
    assert route(0) not in canary.changes
    assert not set(REMOVE) & set(canary.changes)


def test_abort_takes_the_traffic_away_before_the_pods(canary: Cluster) -> None:
    told = canary.run("canary.sh", "abort")
    assert told.returncode == 0, told.stderr
    assert canary.changes == [route(0), *REMOVE]


@pytest.mark.parametrize("command", ["promote", "abort", "weight"])
def test_without_a_canary_there_is_nothing_to_move(cluster: Cluster, command: str) -> None:
    told = cluster.run("canary.sh", command, *(["10"] if command == "weight" else []))
    assert told.returncode == 1
    assert "no canary" in told.stderr
    assert cluster.changes == []
