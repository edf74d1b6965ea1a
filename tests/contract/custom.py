"""Validation of custom resources, whose schemas are not part of Kubernetes."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema

from tests.contract.manifests import Manifest

SCHEMAS = Path(__file__).with_name("custom_schemas")
"""Folder with a schema for each kind. `extract.py` in it names their sources."""

BUILT_IN = ("k8s.io", "apps", "autoscaling", "batch", "policy")
"""API groups of Kubernetes, or their ends."""


def is_custom(manifest: Manifest) -> bool:
    """Return whether a manifest is of a kind that is not part of Kubernetes."""
    group = manifest["apiVersion"].rpartition("/")[0]
    return group == "gateway.networking.k8s.io" or bool(group and not group.endswith(BUILT_IN))


@functools.cache
def schema_of(kind: str) -> dict[str, Any]:
    """Return the schema of a kind."""
    return dict(json.loads((SCHEMAS / f"{kind}.json").read_text()))


def faults(manifest: Manifest) -> list[str]:
    """Return what is wrong with a custom resource."""
    validator = jsonschema.Draft202012Validator(schema_of(manifest["kind"]))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]
