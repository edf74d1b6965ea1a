"""The Kubernetes manifests as kubectl builds them."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from reentry import schema

K8S = Path(__file__).parents[2] / "k8s"

ENVIRONMENTS = ("overlays/minikube", "overlays/staging", "overlays/production", "overlays/gpu")
VARIANTS = ("models/pvc", "models/s3", "tensorrt/init", "tensorrt/accelerator")
DEPLOYED = (*ENVIRONMENTS, *VARIANTS)
"""Folders that are a whole namespace."""
FOLDERS = (*DEPLOYED, "autoscaling", "edge", "tensorrt/job")
"""All that are applied."""

Manifest = dict  # of what YAML holds


PACKAGES = {"kubectl": "kubernetes-client", "curl": "curl", "nginx": "nginx-light", "promtool": "prometheus"}
"""What Debian calls the packages of the programs that the tests run."""


def program(name: str) -> str:
    """Path of a program; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: {PACKAGES.get(name, name)})")
    return found


@functools.cache
def build(folder: str) -> tuple[Manifest, ...]:
    built = subprocess.run([program("kubectl"), "kustomize", K8S / folder], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return tuple(document for document in yaml.safe_load_all(built.stdout) if document)


def every(folder: str, kind: str) -> list[Manifest]:
    return [manifest for manifest in build(folder) if manifest["kind"] == kind]


def one(folder: str, kind: str, name: str | None = None) -> Manifest:
    found = [manifest for manifest in every(folder, kind) if name in (None, manifest["metadata"]["name"])]
    assert len(found) == 1, f"{folder} has {len(found)} of {kind} {name or ''}"
    return found[0]


def pod(folder: str) -> Manifest:
    """Specification of the server's pods."""
    return one(folder, "Deployment")["spec"]["template"]["spec"]


def triton(folder: str) -> Manifest:
    """The container that runs Triton."""
    (container,) = pod(folder)["containers"]
    return container


def pod_labels(folder: str) -> dict[str, str]:
    return one(folder, "Deployment")["spec"]["template"]["metadata"]["labels"]


def environment(folder: str) -> dict[str, str]:
    """Variables of the server's container, from the ConfigMaps it names."""
    names = [source["configMapRef"]["name"] for source in triton(folder)["envFrom"]]
    return {key: value for name in names for key, value in one(folder, "ConfigMap", name)["data"].items()}


def routes(folder: str) -> Iterator[tuple[Manifest, str, str, Manifest]]:
    """Of each path of each Ingress: the Ingress, host, path, and the backend's Service with its port."""
    for ingress in every(folder, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                yield ingress, rule["host"], path["path"], path["backend"]["service"]


UNITS = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def quantity(text: str) -> float:
    """Kubernetes' 500m or 2Gi as a number."""
    unit = text.lstrip("0123456789.")
    return float(text.removesuffix(unit)) * (UNITS[unit] if unit else 1.0)


ENSEMBLE = schema.ENSEMBLE.name
