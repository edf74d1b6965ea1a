"""The Kubernetes manifests, built by kubectl."""

from __future__ import annotations

import functools
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

from reentry import schema

K8S = Path(__file__).parents[2] / "k8s"

ENVIRONMENTS = ("overlays/minikube", "overlays/staging", "overlays/production", "overlays/gpu")
VARIANTS = ("models/pvc", "models/s3", "tensorrt/init", "tensorrt/accelerator")
EDGES = ("gateway-api", "tls", "mesh")
"""Production behind another edge, or with encrypted traffic."""

DEPLOYED = (*ENVIRONMENTS, *VARIANTS, *EDGES)
"""Folders that define a whole namespace."""
ROUTED = ("shadow", "argo-rollouts")
"""The mesh with a route between gateways and servers, which mirrors requests or distributes them to a canary."""

FOLDERS = (
    *DEPLOYED,
    *ROUTED,
    "autoscaling",
    "bulk",
    "cluster",
    "edge",
    "external-secrets",
    "feeds",
    "feeds-outside/gateway-api",
    "feeds-outside/ingress",
    "gateway-api/edge",
    "gitops/argocd",
    "gitops/flux",
    "pipeline/cron",
    "pipeline/features",
    "tensorrt/job",
)
"""All folders that can be applied."""

SERVER = "reentry"
"""Name of the server's Deployment, Service, autoscaler, disruption budget and network policy."""

GATEWAY = "reentry-gateway"
"""Name of the gateway's Deployment, Service, Ingress, autoscaler and disruption budget."""

WORKER = "reentry-gateway-worker"
"""Name of the Deployment of the workers."""

MIGRATION = "reentry-gateway-migration"
"""Name of the Job that brings the tables up to date."""

Manifest = dict

PACKAGES = {"kubectl": "kubernetes-client", "curl": "curl", "nginx": "nginx-light", "promtool": "prometheus"}
"""Debian package of each program that the tests run."""


def program(name: str) -> str:
    """Return the path of a program, or skip the test if it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: {PACKAGES.get(name, name)})")
    return found


@functools.cache
def build(folder: str) -> tuple[Manifest, ...]:
    """Return all manifests that kubectl builds from a folder."""
    result = subprocess.run(
        [program("kubectl"), "kustomize", K8S / folder], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return tuple(document for document in documents(result.stdout) if document)


def documents(text: str) -> Iterator[Manifest]:
    """Yield the documents of a YAML file. The parser in C takes a tenth of the time of the one in Python."""
    return yaml.load_all(text, yaml.CSafeLoader)


def every(folder: str, kind: str) -> list[Manifest]:
    """Return all manifests of one kind in a folder."""
    return [manifest for manifest in build(folder) if manifest["kind"] == kind]


def one(folder: str, kind: str, name: str | None = None) -> Manifest:
    """Return the only manifest of one kind in a folder, or the one with the given name."""
    found = [manifest for manifest in every(folder, kind) if name in (None, manifest["metadata"]["name"])]
    assert len(found) == 1, f"expected one {kind} {name or ''} in {folder}, got {len(found)}"
    return found[0]


def server_deployment(folder: str) -> Manifest:
    """Return the Deployment of the server, or the only Deployment of a folder without a server."""
    return one(folder, "Deployment", None if folder == "feeds" else SERVER)


def template(folder: str, kind: str, name: str | None = None) -> Manifest:
    """Return the pod template of a workload."""
    return one(folder, kind, name)["spec"]["template"]


WORKLOADS = ("Deployment", "StatefulSet", "Job")
"""Kinds that start pods."""


def workloads(folder: str) -> list[Manifest]:
    """Return everything in a folder that starts pods."""
    return [manifest for kind in WORKLOADS for manifest in every(folder, kind)]


def pods(folder: str) -> list[Manifest]:
    """Return the specifications of all pods of a folder."""
    jobs = [cron_job["spec"]["jobTemplate"] for cron_job in every(folder, "CronJob")]
    return [workload["spec"]["template"]["spec"] for workload in [*workloads(folder), *jobs]]


def containers(spec: Manifest) -> list[Manifest]:
    """Return all containers of a pod specification."""
    return [*spec["containers"], *spec.get("initContainers", [])]


def secret_keys(specs: Iterable[Manifest]) -> dict[str, set[str]]:
    """Return the keys that the containers of some pods read from each Secret, by the name of the Secret."""
    found: dict[str, set[str]] = {}
    for container in (each for spec in specs for each in containers(spec)):
        for variable in container.get("env", []):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                found.setdefault(reference["name"], set()).add(reference["key"])
    return found


def pod(folder: str) -> Manifest:
    """Return the specification of the server's pods."""
    return server_deployment(folder)["spec"]["template"]["spec"]


def triton(folder: str) -> Manifest:
    """Return the container that runs Triton."""
    (container,) = pod(folder)["containers"]
    return container


def feed_options() -> list[str]:
    """Return the options of `reentry stream` in the client of a feed, without address, port and input."""
    (container,) = pod("feeds")["containers"]
    shell, option, script = container["command"]
    assert (shell, option) == ("bash", "-ec")
    words = shlex.split(script)
    assert words[:3] == ["exec", "reentry", "stream"]
    assert words[-1] == "</dev/tcp/$SOURCE_HOST/$SOURCE_PORT"
    options = words[3:-1]
    for name in ("--url", "--metrics-port"):
        at = options.index(name)
        del options[at : at + 2]
    return options


def pod_labels(folder: str) -> dict[str, str]:
    return server_deployment(folder)["spec"]["template"]["metadata"]["labels"]


def server_services(folder: str) -> list[Manifest]:
    """Return the Services that lead to servers."""
    selector = {"app.kubernetes.io/name": SERVER}.items()
    return [service for service in every(folder, "Service") if selector <= service["spec"]["selector"].items()]


def environment(folder: str) -> dict[str, str]:
    """Return the environment variables of the server's container, read from its ConfigMaps."""
    names = [source["configMapRef"]["name"] for source in triton(folder)["envFrom"]]
    return {key: value for name in names for key, value in one(folder, "ConfigMap", name)["data"].items()}


def routes(folder: str) -> Iterator[tuple[Manifest, str, str, Manifest]]:
    """Yield the Ingress, host, path and backend Service (with its port) of each route."""
    for ingress in every(folder, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                yield ingress, rule["host"], path["path"], path["backend"]["service"]


UNITS = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def quantity(text: str) -> float:
    """Convert a Kubernetes quantity, such as 500m or 2Gi, to a number."""
    unit = text.lstrip("0123456789.")
    return float(text.removesuffix(unit)) * (UNITS[unit] if unit else 1.0)


ENSEMBLE = schema.ENSEMBLE.name
