"""The delivery scripts run the right kubectl commands in the right order, and the health check scores a real track.

The tests need no cluster. A stand-in for kubectl records each command. It passes builds and reads to the real kubectl,
and forwards ports to the Triton server of the tests.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import kubernetes_validate
import pytest

from reentry.serving import EmbeddedServer
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from reentry.tracks import write_tracks
from tests.contract.api import PLURALS, Objects, as_live, serving
from tests.contract.manifests import (
    DEPLOYED,
    GATEWAY,
    K8S,
    MIGRATION,
    SERVER,
    WORKER,
    Manifest,
    build,
    containers,
    documents,
    every,
    one,
    pod,
    program,
    server_deployment,
    template,
    triton,
)
from tests.feed_client import until
from tests.gateway_servers import GatewayProcess, free_port, running_gateway

SCRIPTS = K8S / "scripts"
COMMANDS = sorted(path for path in SCRIPTS.glob("*.sh") if path.name != "common.sh")
TRITON_URL = "REENTRY_GATEWAY_TRITON_URL"
IMAGE = f"registry.example.com/reentry-triton@sha256:{64 * 'a'}"
STABLE_REPLICAS = "reentry/stable-replicas"
TIMEOUT = 600.0

STAND_IN = """#!/usr/bin/env bash
# Records each command. Later commands can read the objects of an apply.
set -euo pipefail
[ "$1" = kustomize ] && exec "$KUBECTL" "$@"
[ "$1 $2" = "patch --local" ] && exec "$KUBECTL" "$@"
command=$*
printf '%s\\n' "${command//$'\\n'/ }" >>"$STATE/commands"
namespace=
[ "$1" = -n ] && namespace=$2 && shift 2
if [[ $* == "$UNANSWERED"* ]] && [[ " $LOST " == *" $(grep -c -- "$UNANSWERED" "$STATE/commands") "* ]]; then
    echo "Unable to connect to the server: EOF" >&2
    exit 1
fi
case "$*" in
get*) exec "$KUBECTL" --kubeconfig=/dev/null --cache-dir="$STATE/cache" --server="$API" -n "$namespace" "$@" ;;
"apply --dry-run=server -f - "*) [ -z "${FORBIDDEN:-}" ] || { echo "$FORBIDDEN" >&2 && exit 1; } ;;
"apply -f -"*) cat >"$STATE/applied.yaml" ;;
port-forward*:8000) echo "Forwarding from 127.0.0.1:$HTTP_PORT -> 8000" && exec sleep 600 ;;
port-forward*:8080) echo "Forwarding from 127.0.0.1:$GATEWAY_PORT -> 8080" && exec sleep 600 ;;
port-forward*:8001) echo "Forwarding from 127.0.0.1:$GRPC_PORT -> 8001" && exec sleep 600 ;;
rollout\\ status\\ deployment/"$BROKEN "*) echo "timed out" >&2 && exit 1 ;;
rollout\\ status\\ deployment/"$STUCK "*) exec sleep 600 ;;
rollout\\ status*) [ -z "$WATCHED" ] || until grep -q ' get pods ' "$STATE/commands"; do sleep 0.05; done ;;
logs*--previous*) echo "cannot load the model" ;;
esac
"""


JUDGE = """#!/usr/bin/env bash
# Records each call, and ends with the next status of $VERDICTS; the first call has the status of a missing canary.
printf '%s\\n' "reentry $*" >>"$STATE/commands"
[[ $* == *--wait* ]] || exit "${BEFORE:-3}"
read -ra verdicts <<<"$VERDICTS"
status=${verdicts[$(grep -c '^reentry .*--wait' "$STATE/commands") - 1]}
[ "$status" != forever ] || exec sleep 600
exit "$status"
"""


@dataclass
class Cluster:
    """A stand-in for a cluster that records the kubectl commands of the scripts."""

    state: Path
    scripts: Path
    """Folder of the scripts, in a copy of the manifests: they write there, and others check the folder meanwhile."""
    api: str
    live: Objects
    http_port: int
    grpc_port: int
    gateway_port: int
    key: str = ""
    """Value of REENTRY_KEY for the scripts."""
    broken: str = "none"
    """Name of the Deployment whose rollout times out."""
    stuck: str = "none"
    """Name of the Deployment whose rollout continues until the script stops waiting for it."""
    watched: bool = False
    """Whether a rollout ends only after the script has read the pods."""
    forbidden: str = ""
    """Error message with which the API server refuses an apply; empty if it accepts the apply."""
    verdicts: str = ""
    """Statuses of the stand-in for the judge."""
    unanswered: str = "get deployment reentry-canary --ignore-not-found"
    """Beginning of the commands of which the API server does not answer some."""
    lost: str = ""
    """Numbers of these commands, from 1, that have no answer."""

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.scripts / command[0], *command[1:]],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            env=self.environment,
        )

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the scripts."""
        return {
            **os.environ,
            "PATH": f"{self.state}:{os.environ['PATH']}",
            "STATE": str(self.state),
            "KUBECTL": program("kubectl"),
            "GOGC": "off",  # a short kubectl spends a third of its time on collecting garbage
            "API": self.api,
            "HTTP_PORT": str(self.http_port),
            "GRPC_PORT": str(self.grpc_port),
            "GATEWAY_PORT": str(self.gateway_port),
            "REENTRY_KEY": self.key,
            "BROKEN": self.broken,
            "STUCK": self.stuck,
            "WATCHED": "yes" if self.watched else "",
            "FORBIDDEN": self.forbidden,
            "VERDICTS": self.verdicts,
            "UNANSWERED": self.unanswered,
            "LOST": self.lost,
        }

    def judged(self, verdicts: str) -> None:
        """Put a stand-in for the judge into the cluster, whose calls end with these statuses."""
        self.verdicts = verdicts
        write_program(self.state / "reentry", JUDGE)

    def put(self, *manifests: Manifest, name: str = "1-stable") -> None:
        """Put manifests into the cluster, with the fields that the API server adds."""
        self.put_unchanged(*(as_live(manifest, replicas=3) for manifest in manifests), name=name)

    def put_unchanged(self, *objects: Manifest, name: str) -> None:
        """Put objects into the cluster without changing them."""
        self.live[name] = list(objects)

    @property
    def changes(self) -> list[str]:
        """Recorded commands without their namespace, except those that only read objects or logs."""
        file = self.state / "commands"
        lines = file.read_text().splitlines() if file.exists() else []
        plain = [line.partition(" ")[2].partition(" ")[2] if line.startswith("-n ") else line for line in lines]
        return [line for line in plain if not line.startswith(("get", "logs", "config", "rollout history"))]

    @property
    def applied(self) -> list[dict]:
        return list(documents((self.state / "applied.yaml").read_text()))


@pytest.fixture(scope="module")
def gateway(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway in front of the Triton server of the tests."""
    url = f"grpc://{server.grpc_url}"
    with running_gateway(tmp_path_factory.mktemp("gateway"), triton_url=url) as process:
        yield process


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@contextmanager
def running_cluster(folder: Path, server: EmbeddedServer, gateway: GatewayProcess) -> Iterator[Cluster]:
    """Run a cluster with the production overlay and three replicas, whose pods are a server and a gateway."""
    program("kubectl")
    program("curl")
    write_program(folder / "kubectl", STAND_IN)
    live: Objects = {}
    http_port, grpc_port = (int(url.rpartition(":")[2]) for url in (server.http_url, server.grpc_url))
    with serving(live, applied=folder / "applied.yaml") as api:
        cluster = Cluster(
            state=folder,
            scripts=shutil.copytree(K8S, folder / "k8s") / SCRIPTS.name,
            api=api,
            live=live,
            http_port=http_port,
            grpc_port=grpc_port,
            gateway_port=gateway.port,
        )
        cluster.put(*build("overlays/production"))
        yield cluster


@pytest.fixture
def cluster(tmp_path: Path, server: EmbeddedServer, gateway: GatewayProcess) -> Iterator[Cluster]:
    with running_cluster(tmp_path, server, gateway) as running:
        yield running


@pytest.fixture
def canary(cluster: Cluster) -> Cluster:
    """A cluster that also runs a canary with two replicas."""
    put_canary(cluster, replicas=2)
    return cluster


def put_canary(cluster: Cluster, replicas: int, *, started: int | None = None) -> None:
    """Put a canary into a cluster, which started when the stable release had a number of replicas."""
    canaries = []
    for name in (SERVER, GATEWAY):
        deployment = copy.deepcopy(one("overlays/production", "Deployment", name))
        deployment["metadata"]["name"] = f"{name}-canary"
        deployment["spec"]["replicas"] = replicas
        if started is not None:
            deployment["metadata"].setdefault("annotations", {})[STABLE_REPLICAS] = str(started)
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] = IMAGE
        for labels in (deployment["metadata"]["labels"], deployment["spec"]["selector"]["matchLabels"]):
            labels["release"] = "canary"
        canaries.append(deployment)
    ingress = copy.deepcopy(one("overlays/production", "Ingress", GATEWAY))
    ingress["metadata"] |= {"name": f"{GATEWAY}-canary"}
    canaries.append(ingress)
    cluster.put(*canaries, name="2-canary")


def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    result = subprocess.run(
        [shellcheck, "--external-sources", *COMMANDS, SCRIPTS / "common.sh"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", COMMANDS, ids=lambda path: path.stem)
def test_every_script_stops_at_the_first_error_and_has_a_help_text(script: Path) -> None:
    assert script.stat().st_mode & stat.S_IXUSR
    assert "\nset -euo pipefail\n" in script.read_text()
    result = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert result.returncode == 0
    assert f"Usage: {script.name}" in result.stdout
    assert "Example: " in result.stdout
    assert "set -" not in result.stdout


def test_the_health_check_scores_a_track_on_the_running_server(server: EmbeddedServer) -> None:
    program("curl")
    check = [SCRIPTS / "health-check.sh", "--url", f"http://{server.http_url}"]
    result = subprocess.run(check, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert result.returncode == 0, result.stderr
    assert "healthy: reentry_lstm version 1 answered" in result.stdout


def test_the_health_check_fails_if_no_server_listens() -> None:
    program("curl")
    check = [SCRIPTS / "health-check.sh", "--url", f"http://127.0.0.1:{free_port()}"]
    result = subprocess.run(check, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert result.returncode == 1
    assert "reports a failure" in result.stderr


STABLE = triton("overlays/production")["image"]
DRY_RUN = "apply --dry-run=server -f - --selector app.kubernetes.io/component!=migration"
MIGRATE = [
    f"delete job {MIGRATION} --ignore-not-found",
    "apply -f - --selector app.kubernetes.io/component notin (server, gateway, worker)",
]
HEALTH_CHECK = [f"port-forward service/{SERVER} :8000", f"port-forward service/{GATEWAY} :8080"]


def images(cluster: Cluster) -> dict[str, str]:
    """Return the image of each Deployment that was applied, by name."""
    return {
        manifest["metadata"]["name"]: manifest["spec"]["template"]["spec"]["containers"][0]["image"]
        for manifest in cluster.applied
        if manifest["kind"] == "Deployment"
    }


def record_cause(deployment: str, cause: str) -> str:
    return f"annotate --overwrite deployment/{deployment} kubernetes.io/change-cause={cause}"


def test_deploy_applies_the_pinned_image_waits_and_scores_a_track(cluster: Cluster) -> None:
    cluster.put(*build("overlays/staging"))
    result = cluster.run("deploy.sh", "staging", "--image", IMAGE)
    assert result.returncode == 0, result.stderr
    gateway = one("overlays/staging", "Deployment", GATEWAY)["spec"]["template"]["spec"]["containers"][0]["image"]
    assert cluster.changes == [
        DRY_RUN,
        *MIGRATE,
        "apply -f -",
        record_cause(SERVER, f"deploy.sh staging: {IMAGE}"),
        record_cause(GATEWAY, f"deploy.sh staging: {gateway}"),
        record_cause(WORKER, f"deploy.sh staging: {gateway}"),
        *(f"rollout status deployment/{name} --timeout=10m" for name in (SERVER, GATEWAY, WORKER)),
        *HEALTH_CHECK,
    ]
    assert f"no track was scored through {GATEWAY}, because REENTRY_KEY is not set" in result.stdout
    assert images(cluster) == {SERVER: IMAGE, GATEWAY: gateway, WORKER: gateway}
    assert {manifest["metadata"].get("namespace") for manifest in cluster.applied} == {"reentry-staging", None}
    assert not list(cluster.scripts.parent.glob(".deploy.*"))


def test_deploy_gives_gateway_workers_and_migration_one_image(cluster: Cluster) -> None:
    image = IMAGE.replace("triton", "gateway")
    result = cluster.run("deploy.sh", "production", "--gateway-image", image)
    assert result.returncode == 0, result.stderr
    assert images(cluster) == {SERVER: STABLE, GATEWAY: image, WORKER: image}
    (job,) = [manifest for manifest in cluster.applied if manifest["kind"] == "Job"]
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == image


def test_a_failed_migration_stops_the_deploy_before_any_pod_changes(cluster: Cluster) -> None:
    job = as_live(one("overlays/production", "Job"))
    job["status"] = {"failed": 6, "conditions": [{"type": "Failed", "status": "True"}]}
    cluster.put_unchanged(job, name="3-failed")
    result = cluster.run("deploy.sh", "production")
    assert result.returncode == 1
    assert "the migration failed, the old pods serve" in result.stderr
    assert cluster.changes == [DRY_RUN, *MIGRATE]


def test_the_first_step_of_a_deploy_applies_everything_that_the_migration_needs_and_no_pod_of_a_release() -> None:
    selector = next(line for line in MIGRATE if line.startswith("apply")).partition("--selector ")[2]
    key, _, values = selector.partition(" notin ")
    left_out = set(values.strip("()").split(", "))
    for folder in DEPLOYED:
        first = [each for each in build(folder) if each["metadata"].get("labels", {}).get(key) not in left_out]
        kinds = {(each["kind"], each["metadata"]["name"]) for each in first}
        job = template(folder, "Job", MIGRATION)["spec"]
        assert {("Job", MIGRATION), ("ServiceAccount", job["serviceAccountName"])} <= kinds
        assert not [name for kind, name in kinds if kind == "Deployment"]


def test_the_health_check_scores_through_the_gateway_with_a_key(cluster: Cluster, gateway: GatewayProcess) -> None:
    cluster.key = gateway.key
    result = cluster.run("health-check.sh", "--namespace", "reentry")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("healthy: reentry_lstm version 1 answered") == 2
    assert cluster.changes == HEALTH_CHECK


@pytest.mark.parametrize("key", ["rk_0_0_0", ""])
def test_the_health_check_of_a_gateway_fails_without_a_valid_key(cluster: Cluster, key: str) -> None:
    cluster.key = key
    result = cluster.run("health-check.sh", "--url", f"http://127.0.0.1:{cluster.gateway_port}")
    assert result.returncode == 1
    assert "v2/health/live reports a failure" in result.stderr


def test_the_key_is_no_argument_of_a_program() -> None:
    assert "@<(printf '%s' \"${key:+Authorization: Bearer $key}\")" in (SCRIPTS / "health-check.sh").read_text()


def test_deploy_changes_nothing_if_the_cluster_refuses_an_object(cluster: Cluster) -> None:
    cluster.forbidden = 'networkpolicies "reentry" is forbidden: User "dee" cannot patch resource "networkpolicies"'
    result = cluster.run("deploy.sh", "production")
    assert result.returncode == 1
    assert cluster.forbidden in result.stderr
    assert "nothing was changed; fix: let an administrator" in result.stderr
    assert cluster.changes == [DRY_RUN]


def test_the_first_deploy_creates_the_namespace(cluster: Cluster) -> None:
    result = cluster.run("deploy.sh", "staging")  # the cluster runs only production
    assert result.returncode == 0, result.stderr
    assert cluster.changes[: len(MIGRATE)] == MIGRATE


@pytest.mark.parametrize("image", ["registry.example.com/reentry-triton", "reentry-triton:latest", "host:5000/reentry"])
def test_deploy_refuses_an_image_without_a_digest(cluster: Cluster, image: str) -> None:
    result = cluster.run("deploy.sh", "production", "--image", image)
    assert result.returncode == 1
    assert "fix: " in result.stderr
    assert cluster.changes == []


def test_deploy_fails_when_the_new_pods_do_not_become_ready(cluster: Cluster) -> None:
    cluster.broken = "reentry"
    deployment = as_live(server_deployment("overlays/production"))
    reason = 'pods "reentry-5d" is forbidden: exceeded quota: reentry'
    deployment["status"]["conditions"] = [
        {"type": "Available", "status": "True", "message": "Deployment has minimum availability."},
        {"type": "ReplicaFailure", "status": "True", "message": reason},
    ]
    cluster.put_unchanged(deployment, name="2-broken")
    result = cluster.run("deploy.sh", "production")
    assert result.returncode == 1
    assert f"error: {reason}\n" in result.stderr
    assert "minimum availability" not in result.stderr
    assert "the old ones serve" in result.stderr


def waiting_pod(revision: int, reason: str, *, init: bool = False) -> tuple[Manifest, Manifest]:
    """Return a ReplicaSet of the stable release and one of its pods, which has a container in the state `waiting`."""
    labels = {"app.kubernetes.io/name": "reentry", "release": "stable", "pod-template-hash": f"hash{revision}"}
    metadata = {"name": f"reentry-hash{revision}", "namespace": "reentry", "labels": labels}
    annotations = {"deployment.kubernetes.io/revision": str(revision)}
    waiting = {"name": "triton", "state": {"waiting": {"reason": reason, "message": "back-off 10s restarting"}}}
    status = {"initContainerStatuses": [waiting | {"name": "models"}]} if init else {"containerStatuses": [waiting]}
    replicas = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata | {"annotations": annotations}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata | {"name": f"reentry-hash{revision}-x"}}
    return replicas, pod | {"status": status}


@pytest.mark.parametrize(
    ("reason", "init"),
    [("CrashLoopBackOff", False), ("ImagePullBackOff", False), ("CrashLoopBackOff", True), ("InvalidImageName", False)],
)
def test_a_pod_that_cannot_start_ends_the_wait_and_its_last_message_is_printed(
    cluster: Cluster, reason: str, init: bool
) -> None:
    cluster.stuck = "reentry"
    cluster.put_unchanged(*waiting_pod(1, "PodInitializing"), *waiting_pod(2, reason, init=init), name="3-pods")
    cluster.put(*build("overlays/production"), name="4-applied")
    result = cluster.run("deploy.sh", "production")
    assert result.returncode == 1
    container = "models" if init else "triton"
    assert f"error: pod reentry-hash2-x, container {container}: {reason}: back-off 10s restarting" in result.stderr
    assert "its last line: cannot load the model" in result.stderr
    assert "the old ones serve" in result.stderr
    assert not set(HEALTH_CHECK) & set(cluster.changes)


@pytest.mark.parametrize(
    "pods",
    [waiting_pod(1, "CrashLoopBackOff"), waiting_pod(2, "ContainerCreating"), waiting_pod(2, "ErrImagePull")],
    ids=["a pod of the previous revision", "a starting pod", "a pull that is retried"],
)
def test_a_rollout_succeeds_beside_pods_that_are_not_stuck(cluster: Cluster, pods: tuple[Manifest, Manifest]) -> None:
    cluster.watched = True
    cluster.put_unchanged(*waiting_pod(2, "ContainerCreating"), name="3-pods")
    cluster.put_unchanged(*pods, name="4-pods")
    cluster.put(*build("overlays/production"), name="5-applied")
    result = cluster.run("deploy.sh", "production")
    assert result.returncode == 0, result.stderr
    assert "error" not in result.stderr


def test_the_minikube_script_deploys_a_checkout_and_scores_a_file(
    cluster: Cluster, model_repository: Path, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(K8S, checkout / "k8s")
    shutil.copytree(model_repository, checkout / "model_repository")
    (checkout / ".venv").symlink_to(sys.prefix)
    tracks = simulate_trapezoid(TrapezoidConfig(tracks=2, seed=1, labels=False))
    write_tracks(checkout / "artifacts" / "data" / "test.csv", tracks)
    minikube = tmp_path / "minikube"
    minikube.write_text('#!/bin/sh\necho "$*" >>"$STATE/minikube.commands"\n')
    minikube.chmod(0o755)

    cluster.scripts = checkout / "k8s" / "scripts"
    result = cluster.run("minikube.sh")

    assert result.returncode == 0, result.stderr
    start, *builds = (tmp_path / "minikube.commands").read_text().splitlines()
    assert start.startswith("start --profile reentry")
    built = dict(
        re.findall(r"--tag (\S+) --file Dockerfile.triton --build-opt=target=(\w+)", each)[0][::-1] for each in builds
    )
    assert set(built) == {"cpu", "gateway"}
    assert images(cluster) == {SERVER: built["cpu"], GATEWAY: built["gateway"], WORKER: built["gateway"]}
    (secret,) = [line for line in cluster.changes if line.startswith("create secret")]
    given = dict(re.findall(r"--from-(?:literal|file)=([\w-]+)=(\S+)", secret))
    assert set(given) == {"redis-url", "database-password", "database-url"}
    assert all(given[name].startswith("/dev/fd/") for name in ("database-password", "database-url"))
    predictions = checkout / "artifacts" / "minikube" / "predictions" / "predictions.csv"
    assert len(predictions.read_text().splitlines()) == 1 + len(tracks)


def test_rollback_stops_at_a_revision_that_cannot_start(cluster: Cluster) -> None:
    cluster.stuck = "reentry"
    cluster.put_unchanged(*waiting_pod(2, "CrashLoopBackOff"), name="3-pods")
    result = cluster.run("rollback.sh")
    assert result.returncode == 1
    assert "CrashLoopBackOff" in result.stderr
    assert "fix: --to-revision" in result.stderr


def test_rollback_returns_to_the_previous_revision_and_scores_a_track(cluster: Cluster) -> None:
    result = cluster.run("rollback.sh")
    assert result.returncode == 0, result.stderr
    assert cluster.changes == [
        "rollout undo deployment/reentry --to-revision=0",
        "rollout status deployment/reentry --timeout=10m",
        *HEALTH_CHECK,
    ]


def test_a_rollback_of_the_gateway_leaves_the_servers_as_they_are(cluster: Cluster) -> None:
    result = cluster.run("rollback.sh", "--deployment", GATEWAY, "--to-revision", "3")
    assert result.returncode == 0, result.stderr
    assert cluster.changes == [
        f"rollout undo deployment/{GATEWAY} --to-revision=3",
        f"rollout status deployment/{GATEWAY} --timeout=10m",
        *HEALTH_CHECK,
    ]


def resize(replicas: int) -> list[str]:
    return [
        f"{word}deployment/{name}-canary {rest}"
        for name in (SERVER, GATEWAY)
        for word, rest in (("scale ", f"--replicas={replicas}"), ("rollout status ", "--timeout=10m"))
    ]


def route(weight: int) -> str:
    return f"annotate --overwrite ingress/reentry-gateway-canary nginx.ingress.kubernetes.io/canary-weight={weight}"


REMOVE = ["delete ingress -l release=canary", "delete deployment,service,poddisruptionbudget -l release=canary"]
CANARY_HEALTH_CHECK = [
    f"port-forward service/{name}-canary :{port}" for name, port in ((SERVER, 8000), (GATEWAY, 8080))
]


def started(weight: int) -> list[str]:
    """Return the changes that start a canary with a weight."""
    return [
        "apply -f -",
        record_cause("reentry-canary", f"canary.sh start: {IMAGE}"),
        "rollout status deployment/reentry-canary --timeout=10m",
        "rollout status deployment/reentry-gateway-canary --timeout=10m",
        *CANARY_HEALTH_CHECK,
        *resize(1),
        route(weight),
    ]


def test_a_canary_scores_a_track_before_it_receives_traffic(cluster: Cluster) -> None:
    cluster.put(*build("overlays/staging"))
    result = cluster.run("canary.sh", "start", IMAGE, "--weight", "5", "--namespace", "reentry-staging")
    assert result.returncode == 0, result.stderr
    assert cluster.changes == started(5)
    assert {manifest["metadata"]["namespace"] for manifest in cluster.applied} == {"reentry-staging"}
    assert not list(cluster.scripts.parent.glob(".canary.*"))


@pytest.mark.parametrize("folder", DEPLOYED)
def test_a_canary_differs_from_the_deployed_release_only_in_name_labels_image_and_weight(
    cluster: Cluster, folder: str
) -> None:
    namespace = one(folder, "Namespace")["metadata"]["name"]
    cluster.put(*(manifest for manifest in build(folder) if manifest["kind"] in PLURALS))
    cluster.broken = "reentry-canary"  # the applied manifests are enough for this test
    assert cluster.run("canary.sh", "start", IMAGE, "--namespace", namespace).returncode == 1

    applied = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in cluster.applied}
    names = [
        ("Deployment", SERVER),
        ("Deployment", GATEWAY),
        ("Service", SERVER),
        ("Service", "reentry-feeds"),
        ("Service", GATEWAY),
        ("PodDisruptionBudget", SERVER),
        ("PodDisruptionBudget", GATEWAY),
        *([("Ingress", GATEWAY)] if every(folder, "Ingress") else []),
    ]
    assert sorted(applied) == sorted((kind, f"{name}-canary") for kind, name in names)
    for (kind, name), manifest in applied.items():
        assert manifest["metadata"]["namespace"] == namespace
        assert manifest["metadata"]["labels"]["release"] == "canary"  # the script removes the canary by this label
        assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
        assert set(manifest["metadata"]) <= {"name", "namespace", "labels", "annotations"}
        assert manifest["spec"].get("clusterIP") == ("None" if name == "reentry-feeds-canary" else None)
        annotations = manifest["metadata"].get("annotations", {})
        replicas = annotations.pop(STABLE_REPLICAS, None)
        assert replicas == ("3" if kind == "Deployment" else None)
        assert not [key for key in annotations if "nginx" not in key], kind
        kubernetes_validate.validate(manifest, "1.37", strict=True)

    for name in (SERVER, GATEWAY):
        stable_deployment, stable_service = one(folder, "Deployment", name), one(folder, "Service", name)
        deployment, service = applied["Deployment", f"{name}-canary"], applied["Service", f"{name}-canary"]
        stable_labels = stable_deployment["spec"]["template"]["metadata"]["labels"]
        labels = stable_labels | {"release": "canary"}
        assert deployment["spec"]["template"]["metadata"]["labels"] == labels
        for selector in (
            deployment["spec"]["selector"]["matchLabels"],
            service["spec"]["selector"],
            applied["PodDisruptionBudget", f"{name}-canary"]["spec"]["selector"]["matchLabels"],
        ):
            assert selector.items() <= labels.items()
            assert not selector.items() <= stable_labels.items()
        assert service["metadata"]["labels"] == stable_service["metadata"]["labels"] | {"release": "canary"}
        assert service["spec"]["ports"] == stable_service["spec"]["ports"]
        assert "replicas" not in deployment["spec"]  # Kubernetes then starts one replica
        expected = copy.deepcopy(stable_deployment["spec"]["template"]["spec"])
        for container in containers(expected):
            if container["image"] == triton(folder)["image"]:
                container["image"] = IMAGE
        got = deployment["spec"]["template"]["spec"]
        for spread in got["topologySpreadConstraints"]:  # some versions of kustomize add this label
            spread["labelSelector"]["matchLabels"].pop("release", None)
        if name == GATEWAY:  # it asks the servers of the canary
            (address,) = [variable for variable in expected["containers"][0]["env"] if variable["name"] == TRITON_URL]
            assert address["value"] == "grpc://reentry-feeds:8001"
            address["value"] = "grpc://reentry-feeds-canary:8001"
        for spec in (got, expected):  # the patch puts the variable first
            spec["containers"][0]["env"].sort(key=lambda variable: variable["name"])
        assert got == expected
    addresses = applied["Service", "reentry-feeds-canary"]["spec"]
    assert addresses["selector"] == applied["Service", f"{SERVER}-canary"]["spec"]["selector"]

    if every(folder, "Ingress"):
        stable, canary = one(folder, "Ingress", GATEWAY), applied["Ingress", f"{GATEWAY}-canary"]
        weight = {"nginx.ingress.kubernetes.io/canary": "true", "nginx.ingress.kubernetes.io/canary-weight": "0"}
        assert canary["metadata"]["annotations"] == stable["metadata"].get("annotations", {}) | weight
        rules = copy.deepcopy(stable["spec"])
        for path in rules["rules"][0]["http"]["paths"]:
            path["backend"]["service"]["name"] = f"{GATEWAY}-canary"
        assert canary["spec"] == rules


def test_a_canary_that_fails_the_health_check_receives_no_traffic(cluster: Cluster) -> None:
    cluster.http_port = free_port()
    result = cluster.run("canary.sh", "start", IMAGE)
    assert result.returncode == 1
    assert "fix: read its log, then canary.sh abort" in result.stderr
    assert not [line for line in cluster.changes if line.startswith("annotate --overwrite ingress")]


def test_a_second_canary_is_refused(canary: Cluster) -> None:
    result = canary.run("canary.sh", "start", IMAGE)
    assert result.returncode == 1
    assert "promote or abort" in result.stderr
    assert canary.changes == []


@pytest.mark.parametrize(
    ("weight", "backends"),
    [
        (25, [("reentry-gateway", 75), ("reentry-gateway-canary", 25)]),
        (100, [("reentry-gateway", 0), ("reentry-gateway-canary", 100)]),
        (0, [("reentry-gateway", 100)]),
    ],
)
def test_the_weight_is_in_the_route_if_the_gateway_api_routes(
    canary: Cluster, weight: int, backends: list[tuple[str, int]]
) -> None:
    canary.put(one("gateway-api", "HTTPRoute"), name="3-route")
    result = canary.run("canary.sh", "weight", str(weight))
    assert result.returncode == 0, result.stderr
    (patch,) = [line for line in canary.changes if line.startswith("patch")]
    kind, _, text = patch.partition(" --type=json --patch ")
    assert kind == "patch httproute reentry-gateway"
    (operation,) = json.loads(text)
    (rule,) = one("gateway-api", "HTTPRoute")["spec"]["rules"]
    assert operation["path"] == "/spec/rules/0/backendRefs"
    assert set(rule["backendRefs"][0]) == set(operation["value"][0])
    assert [(backend["name"], backend["weight"]) for backend in operation["value"]] == backends
    assert {backend["port"] for backend in operation["value"]} == {8080}


@pytest.mark.parametrize(("weight", "replicas"), [(34, 2), (50, 2), (100, 3)])
def test_replicas_are_added_before_the_weight_rises(canary: Cluster, weight: int, replicas: int) -> None:
    result = canary.run("canary.sh", "weight", str(weight))
    assert result.returncode == 0, result.stderr
    assert canary.changes == [*resize(replicas), route(weight)]


@pytest.mark.parametrize(("weight", "replicas"), [(0, 1), (33, 1), (50, 2)])
def test_the_weight_falls_before_replicas_are_removed(cluster: Cluster, weight: int, replicas: int) -> None:
    put_canary(cluster, replicas=3)
    result = cluster.run("canary.sh", "weight", str(weight))
    assert result.returncode == 0, result.stderr
    assert cluster.changes == [route(weight), *resize(replicas)]


@pytest.mark.parametrize(("weight", "replicas"), [(100, 6), (50, 3)])
def test_a_canary_keeps_its_size_when_the_stable_release_shrinks_without_traffic(
    cluster: Cluster, weight: int, replicas: int
) -> None:
    put_canary(cluster, replicas=6, started=6)  # the stable release has 3 replicas now
    result = cluster.run("canary.sh", "weight", str(weight))
    assert result.returncode == 0, result.stderr
    resized = resize(replicas)
    assert cluster.changes == ([*resized, route(weight)] if weight == 100 else [route(weight), *resized])


@pytest.mark.parametrize("command", [("weight", "100"), ("promote",)], ids=lambda words: words[0])
def test_a_canary_is_not_resized_if_the_size_of_the_stable_release_is_unknown(
    canary: Cluster, command: tuple[str, ...]
) -> None:
    canary.unanswered, canary.lost = "get deployment reentry -o jsonpath={.spec.replicas}", "1 2"
    assert canary.run("canary.sh", *command).returncode == 1
    assert canary.changes == []


def test_a_canary_whose_pods_do_not_start_gets_no_more_weight(canary: Cluster) -> None:
    canary.broken = "reentry-canary"
    result = canary.run("canary.sh", "weight", "100")
    assert result.returncode == 1
    assert "fix: canary.sh abort" in result.stderr
    assert route(100) not in canary.changes


@pytest.mark.parametrize("weight", ["101", "-1", "half"])
def test_a_weight_that_is_not_a_percentage_is_refused(canary: Cluster, weight: str) -> None:
    assert canary.run("canary.sh", "weight", weight).returncode == 1
    assert canary.changes == []


def test_a_promotion_keeps_the_traffic_on_the_canary_until_the_stable_release_scores_a_track(canary: Cluster) -> None:
    result = canary.run("canary.sh", "promote")
    assert result.returncode == 0, result.stderr
    assert canary.changes == [
        *resize(3),
        route(100),
        f"set image deployment/reentry triton={IMAGE}",
        record_cause("reentry", f"canary.sh promote: {IMAGE}"),
        "scale deployment/reentry --replicas=3",
        "rollout status deployment/reentry --timeout=10m",
        "scale deployment/reentry-gateway --replicas=3",
        "rollout status deployment/reentry-gateway --timeout=10m",
        *HEALTH_CHECK,
        route(0),
        *REMOVE,
    ]


@pytest.mark.parametrize(("replicas", "started"), [(6, 6), (6, None), (8, 6)])
def test_a_promotion_never_shrinks_the_canary_and_makes_the_stable_release_as_large(
    cluster: Cluster, replicas: int, started: int | None
) -> None:
    put_canary(cluster, replicas=replicas, started=started)
    result = cluster.run("canary.sh", "promote")
    assert result.returncode == 0, result.stderr
    assert cluster.changes[:2] == [route(100), f"set image deployment/reentry triton={IMAGE}"]
    assert [line for line in cluster.changes if line.startswith("scale")] == [
        f"scale deployment/{name} --replicas={replicas}" for name in (SERVER, GATEWAY)
    ]


def test_a_promotion_sets_the_image_of_every_container_that_runs_it(cluster: Cluster) -> None:
    cluster.put(*build("tensorrt/init"))
    cluster.broken = "reentry-canary"
    assert cluster.run("canary.sh", "start", IMAGE).returncode == 1
    cluster.put(*cluster.applied, name="2-applied")
    cluster.broken = "reentry"
    assert cluster.run("canary.sh", "promote").returncode == 1
    engine = {container["name"]: container["image"] for container in pod("tensorrt/init")["initContainers"]}
    images = [f"prepare={engine['prepare']}", f"build={IMAGE}", f"install={engine['install']}", f"triton={IMAGE}"]
    assert f"set image deployment/reentry {' '.join(images)}" in cluster.changes


def test_a_promotion_that_fails_leaves_the_traffic_on_the_canary(canary: Cluster) -> None:
    canary.broken = "reentry"
    result = canary.run("canary.sh", "promote")
    assert result.returncode == 1
    assert "the canary carries the traffic" in result.stderr
    assert route(0) not in canary.changes
    assert not set(REMOVE) & set(canary.changes)


def test_abort_removes_the_traffic_before_the_pods(canary: Cluster) -> None:
    result = canary.run("canary.sh", "abort")
    assert result.returncode == 0, result.stderr
    assert canary.changes == [route(0), *REMOVE]


def test_an_abort_can_be_repeated_after_the_ingress_was_deleted(canary: Cluster) -> None:
    canary.live["2-canary"] = [each for each in canary.live["2-canary"] if each["kind"] != "Ingress"]
    result = canary.run("canary.sh", "abort")
    assert result.returncode == 0, result.stderr
    assert canary.changes == REMOVE


PROMETHEUS = "http://prometheus.example.com"
AUTO = ("canary.sh", "auto", IMAGE, "--prometheus", PROMETHEUS)
JUDGED = f"reentry canary judge --prometheus {PROMETHEUS} --namespace reentry"


def test_auto_gives_a_canary_more_traffic_after_each_pass_and_promotes_it(cluster: Cluster) -> None:
    cluster.judged("0 0 0 0")
    result = cluster.run(*AUTO, "--wait", "900")
    assert result.returncode == 0, result.stderr
    judge = f"{JUDGED} --wait 900"
    promoted = cluster.changes.index(f"set image deployment/reentry triton={IMAGE}")
    assert cluster.changes[:promoted] == [
        JUDGED,  # once before anything is changed, to check the options
        *started(5),
        *(judge, *resize(1), route(20)),
        *(judge, *resize(2), route(50)),
        *(judge, *resize(3), route(100)),
        judge,
        *(*resize(3), route(100)),
    ]
    assert cluster.changes[-3:] == [route(0), *REMOVE]


@pytest.mark.parametrize(
    ("verdicts", "weights", "message"),
    [
        ("1", [5, 0], "the canary failed"),
        ("0 3", [5, 20, 0], "no verdict on the canary within 1800 s"),
    ],
)
def test_auto_aborts_a_canary_that_does_not_pass(
    cluster: Cluster, verdicts: str, weights: list[int], message: str
) -> None:
    cluster.judged(verdicts)
    result = cluster.run(*AUTO)
    assert result.returncode == int(verdicts.split()[-1])
    assert message in result.stderr
    assert "==> aborted: the stable release" in result.stdout
    assert [line for line in cluster.changes if line.startswith("annotate --overwrite ingress")] == list(
        map(route, weights)
    )
    assert cluster.changes[-3:] == [route(0), *REMOVE]
    assert not [line for line in cluster.changes if line.startswith("set image")]


def test_auto_aborts_a_canary_that_scores_no_track(cluster: Cluster) -> None:
    cluster.judged("0")
    cluster.http_port = free_port()
    result = cluster.run(*AUTO)
    assert result.returncode == 1
    assert "the canary does not score a track" in result.stderr
    assert cluster.changes[-3:] == [route(0), *REMOVE]


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_auto_aborts_the_canary_when_it_is_stopped(cluster: Cluster, signal_: signal.Signals) -> None:
    cluster.judged("forever")
    script = subprocess.Popen(
        [cluster.scripts / AUTO[0], *AUTO[1:]],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    until(lambda: f"{JUDGED} --wait 1800" in cluster.changes)
    script.send_signal(signal_)
    output, _ = script.communicate(timeout=TIMEOUT)
    assert script.returncode != 0
    assert b"==> aborted: the stable release" in output
    assert cluster.changes[-3:] == [route(0), *REMOVE]


def test_auto_lets_both_releases_score_a_file_of_tracks(cluster: Cluster) -> None:
    cluster.judged("1")
    assert cluster.run(*AUTO, "--tracks", "sample.csv", "--config", "canary.toml").returncode == 1
    at = f"grpc://127.0.0.1:{cluster.grpc_port}"
    options = f"--config canary.toml --tracks sample.csv --stable {at} --canary {at}"
    assert f"{JUDGED} {options} --wait 1800" in cluster.changes
    assert {f"port-forward service/{name} :8001" for name in (SERVER, f"{SERVER}-canary")} <= set(cluster.changes)


def test_auto_changes_nothing_if_a_canary_exists_or_the_judge_refuses_its_options(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.judged("0")
    monkeypatch.setenv("BEFORE", "2")
    result = cluster.run(*AUTO)
    assert (result.returncode, cluster.changes) == (1, [JUDGED])
    assert "the judge refuses its options" in result.stderr
    put_canary(cluster, replicas=2)
    result = cluster.run(*AUTO)
    assert (result.returncode, cluster.changes) == (1, [JUDGED])
    assert "promote or abort" in result.stderr


def test_auto_needs_a_prometheus(cluster: Cluster) -> None:
    assert cluster.run("canary.sh", "auto", IMAGE).returncode == 2
    assert cluster.changes == []


@pytest.mark.parametrize("command", ["promote", "abort", "weight"])
def test_a_canary_command_without_a_canary_is_an_error(cluster: Cluster, command: str) -> None:
    result = cluster.run("canary.sh", command, *(["10"] if command == "weight" else []))
    assert result.returncode == 1
    assert "no canary" in result.stderr
    assert cluster.changes == []


@pytest.mark.parametrize(
    "command", [("start", IMAGE), AUTO[1:], ("weight", "10"), ("promote",), ("abort",)], ids=lambda c: c[0]
)
def test_a_cluster_that_does_not_answer_is_not_one_without_a_canary(cluster: Cluster, command: tuple[str, ...]) -> None:
    cluster.judged("0")
    cluster.lost = "1"
    result = cluster.run("canary.sh", *command)
    assert (result.returncode, cluster.changes) == (1, [])
    assert "the cluster does not say whether a canary exists" in result.stderr


@pytest.mark.parametrize(("lost", "removed"), [("3", True), ("3 4", False)])
def test_auto_tries_to_abort_a_canary_although_the_cluster_does_not_answer(
    cluster: Cluster, lost: str, removed: bool
) -> None:
    """The third look for a canary is that of the script when it ends, and the fourth one that of its abort."""
    cluster.judged("1")
    cluster.lost = lost
    result = cluster.run(*AUTO)
    assert result.returncode == 1
    assert (cluster.changes[-3:] == [route(0), *REMOVE]) is removed
    assert ("error: the canary could not be removed; fix: canary.sh abort" in result.stderr) is not removed


def test_no_weight_is_left_in_a_route_that_the_cluster_did_not_show(canary: Cluster) -> None:
    canary.put(one("gateway-api", "HTTPRoute"), name="3-route")
    canary.unanswered, canary.lost = "get httproute reentry-gateway", "1"
    result = canary.run("canary.sh", "abort")
    assert (result.returncode, canary.changes) == (1, [])
    assert "cannot read the route: Unable to connect" in result.stderr
