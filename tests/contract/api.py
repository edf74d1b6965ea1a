"""A read-only Kubernetes API server, complete enough for the real `kubectl get`.

It serves the objects of a dictionary, read in the order of its keys. If a file with applied manifests exists, its
objects take the place of the key "2-applied". A later object replaces an earlier one with the same name.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from tests.contract.manifests import Manifest, documents

KINDS: Final = {
    "v1": {
        "ConfigMap": "configmaps",
        "Event": "events",
        "LimitRange": "limitranges",
        "Namespace": "namespaces",
        "Node": "nodes",
        "PersistentVolumeClaim": "persistentvolumeclaims",
        "Pod": "pods",
        "ResourceQuota": "resourcequotas",
        "Service": "services",
        "Secret": "secrets",
        "ServiceAccount": "serviceaccounts",
    },
    "apps/v1": {"Deployment": "deployments", "ReplicaSet": "replicasets", "StatefulSet": "statefulsets"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "batch/v1": {"Job": "jobs"},
    "gateway.networking.k8s.io/v1": {"HTTPRoute": "httproutes"},
    "networking.k8s.io/v1": {"Ingress": "ingresses", "NetworkPolicy": "networkpolicies"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "rbac.authorization.k8s.io/v1": {"Role": "roles", "RoleBinding": "rolebindings"},
}
"""Plural of each kind, by API version."""

SHORT: Final = {
    "HorizontalPodAutoscaler": ["hpa"],
    "Deployment": ["deploy"],
    "ReplicaSet": ["rs"],
    "Pod": ["po"],
    "Event": ["ev"],
}
"""Short names of the kinds, as kubectl accepts them."""

CLUSTER_WIDE: Final = {"Namespace", "Node"}

PLURALS: Final = {kind: plural for kinds in KINDS.values() for kind, plural in kinds.items()}

Key = tuple[str, str, str, str]
"""API version, plural, namespace and name of an object."""

Objects = dict[str, list[Manifest]]
"""Objects in lists. The lists are read in the order of their keys."""


def as_live(manifest: Manifest, *, replicas: int = 1) -> Manifest:
    """Add the fields that an API server and its controllers add to a manifest.

    A Deployment without a number of replicas gets `replicas`.
    """
    live = copy.deepcopy(manifest)
    metadata, spec = live["metadata"], live.get("spec", {})
    annotations = metadata.setdefault("annotations", {})
    annotations["kubectl.kubernetes.io/last-applied-configuration"] = json.dumps(manifest) + "\n"
    metadata |= {"uid": "5f1b", "resourceVersion": "812", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 3}
    if live["kind"] == "Deployment":
        annotations |= {"deployment.kubernetes.io/revision": "2", "kubernetes.io/change-cause": "the previous release"}
        spec.setdefault("replicas", replicas)
        live["status"] = {"observedGeneration": 3, "replicas": spec["replicas"]}
    elif live["kind"] == "Service":
        if spec.get("clusterIP") is None:
            spec |= {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"]}
        spec |= {"type": "ClusterIP", "sessionAffinity": "None", "ipFamilies": ["IPv4"]}
        live["status"] = {"loadBalancer": {}}
    elif live["kind"] == "Job":
        live["status"] = {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}
    elif live["kind"] == "Ingress":
        live["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    return live


class Handler(BaseHTTPRequestHandler):
    """Request handler for API discovery, objects, and lists with label selectors."""

    protocol_version = "HTTP/1.1"
    live: Objects
    applied: Path | None

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        words = [word for word in parts.path.split("/") if word]
        if words == ["api"]:
            self._answer({"kind": "APIVersions", "versions": ["v1"]})
        elif words == ["apis"]:
            self._answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": list(groups())})
        elif words[:2] == ["api", "v1"] or len(words) >= 3:
            length = 2 if words[0] == "api" else 3
            self._resources("/".join(words[1:length]), words[length:], parse_qs(parts.query))
        else:
            self._not_found()

    def _resources(self, version: str, words: list[str], query: dict[str, list[str]]) -> None:
        if not words and version in KINDS:
            self._answer(resources(version))
            return
        namespace = ""
        if words[0] == "namespaces" and len(words) > 2:
            namespace, words = words[1], words[2:]
        found = {
            key[3]: live
            for key, live in self._objects().items()
            if key[:2] == (version, words[0]) and namespace in ("", key[2])
        }
        if len(words) == 2:
            self._answer(found[words[1]]) if words[1] in found else self._not_found()
            return
        labels = dict(each.split("=") for each in query.get("labelSelector", [""])[0].split(",") if each)
        items = [live for live in found.values() if labels.items() <= live["metadata"].get("labels", {}).items()]
        if "as=Table" in self.headers.get("Accept", ""):
            rows = [{"cells": [live["metadata"]["name"]], "object": live} for live in items]
            columns = [{"name": "Name", "type": "string"}]
            table = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}}
            self._answer(table | {"columnDefinitions": columns, "rows": rows})
            return
        kind = next(kind for kind, plural in KINDS[version].items() if plural == words[0])
        self._answer({"kind": f"{kind}List", "apiVersion": version, "metadata": {}, "items": items})

    def _objects(self) -> dict[Key, Manifest]:
        live = dict(self.live)
        if self.applied is not None and self.applied.exists():
            live["2-applied"] = list(map(as_live, documents(self.applied.read_text())))
        manifests = [each for name in sorted(live) for each in live[name]]
        return {
            (
                each["apiVersion"],
                PLURALS[each["kind"]],
                each["metadata"].get("namespace", ""),
                each["metadata"]["name"],
            ): each
            for each in manifests
        }

    def _answer(self, body: Any, status: int = 200) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _not_found(self) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        self._answer(status | {"message": f"{self.path} not found"}, 404)

    def log_message(self, *_: object) -> None:
        """Discard the message."""


def groups() -> Iterator[dict[str, Any]]:
    """Yield the description of each API group, for API discovery."""
    for version in KINDS:
        if "/" in version:
            entry = {"groupVersion": version, "version": version.rpartition("/")[2]}
            yield {"name": version.partition("/")[0], "versions": [entry], "preferredVersion": entry}


def resources(version: str) -> dict[str, Any]:
    """Return the list of the resources of an API version, for API discovery."""
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
        "resources": [
            {
                "name": plural,
                "singularName": kind.lower(),
                "shortNames": SHORT.get(kind, []),
                "namespaced": kind not in CLUSTER_WIDE,
                "kind": kind,
                "verbs": ["get", "list"],
            }
            for kind, plural in KINDS[version].items()
        ],
    }


@contextmanager
def serving(live: Objects, applied: Path | None = None) -> Iterator[str]:
    """Serve the objects on a free port, and yield the URL."""
    handler = type("Handler", (Handler,), {"live": live, "applied": applied})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
