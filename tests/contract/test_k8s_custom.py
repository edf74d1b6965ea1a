"""Custom resources: the Gateway API, cert-manager, the External Secrets operator, Istio, Argo and Flux."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.contract.custom import SCHEMAS, faults, is_custom
from tests.contract.manifests import (
    DEPLOYED,
    FOLDERS,
    GATEWAY,
    K8S,
    MIGRATION,
    SERVER,
    WORKER,
    Manifest,
    build,
    every,
    one,
    pods,
    secret_keys,
    template,
)

CUSTOM = {
    (folder, manifest["kind"], manifest["metadata"]["name"]): manifest
    for folder in FOLDERS
    for manifest in build(folder)
    if is_custom(manifest)
}


@pytest.mark.parametrize("key", CUSTOM, ids=" ".join)
def test_a_custom_resource_follows_the_schema_of_its_kind(key: tuple[str, str, str]) -> None:
    assert faults(CUSTOM[key]) == []


def test_every_schema_is_used_and_small() -> None:
    assert {path.stem for path in SCHEMAS.glob("*.json")} == {kind for _, kind, _ in CUSTOM}
    assert max(path.stat().st_size for path in SCHEMAS.glob("*.json")) < 60_000


@pytest.mark.parametrize(
    ("key", "spoil", "fault"),
    [
        (
            ("gateway-api", "HTTPRoute", GATEWAY),
            lambda spec: spec["rules"][0].update(backends=[]),
            "backends",
        ),
        (
            ("gateway-api", "HTTPRoute", GATEWAY),
            lambda spec: spec["rules"][0]["matches"][0]["path"].update(type="Prefix"),
            "'Prefix' is not one of",
        ),
        (
            ("feeds-outside/gateway-api", "GRPCRoute", "reentry-feeds"),
            lambda spec: spec["rules"][0]["backendRefs"][0].pop("name"),
            "'name' is a required property",
        ),
        (
            ("gateway-api/edge", "Gateway", "reentry"),
            lambda spec: spec["listeners"][0].update(port="http"),
            "'http' is not of type 'number'",
        ),
        (("mesh", "PeerAuthentication", "default"), lambda spec: spec["mtls"].update(mode="ON"), "'ON' is not one of"),
        (
            ("mesh", "AuthorizationPolicy", SERVER),
            lambda spec: spec["rules"][0]["to"][0]["operation"].update(port=["8001"]),
            "'port' was unexpected",
        ),
        (("tls", "Certificate", GATEWAY), lambda spec: spec.update(dnsName="a"), "'dnsName' was unexpected"),
        (
            ("external-secrets", "ExternalSecret", GATEWAY),
            lambda spec: spec["data"][0]["remoteRef"].pop("key"),
            "'key' is a required property",
        ),
        (
            ("shadow", "HTTPRoute", "reentry"),
            lambda spec: spec["rules"][0]["filters"][0]["requestMirror"].update(percent="10 %"),
            "is not of type 'number'",
        ),
        (
            ("argo-rollouts", "Rollout", "reentry"),
            lambda spec: spec["strategy"]["canary"]["steps"][0].update(weight=5),
            "'weight' was unexpected",
        ),
        (
            ("argo-rollouts", "AnalysisTemplate", "reentry-canary"),
            lambda spec: spec["metrics"][0].pop("provider"),
            "'provider' is a required property",
        ),
        (("gitops/argocd", "Application", "reentry"), lambda spec: spec.pop("project"), "'project' is a required"),
        (
            ("gitops/flux", "Kustomization", "reentry"),
            lambda spec: spec.update(prune="yes"),
            "is not of type 'boolean'",
        ),
    ],
)
def test_each_fault_of_a_custom_resource_is_detected(
    key: tuple[str, str, str], spoil: Callable[[Any], object], fault: str
) -> None:
    manifest = copy.deepcopy(CUSTOM[key])
    spoil(manifest["spec"])
    (found,) = faults(manifest)
    assert fault in found


def attached() -> Iterator[tuple[Manifest, Manifest]]:
    """Yield each route of the edge and the listener that it names."""
    gateway = one("gateway-api/edge", "Gateway")
    listeners = {listener["name"]: listener for listener in gateway["spec"]["listeners"]}
    for (_, kind, _), route in CUSTOM.items():
        if kind in ("HTTPRoute", "GRPCRoute"):
            (parent,) = route["spec"]["parentRefs"]
            if parent.get("kind") == "Service":  # of the mesh, between gateways and servers
                continue
            assert parent["name"] == gateway["metadata"]["name"]
            home = parent.get("namespace", route["metadata"]["namespace"])
            assert home == gateway["metadata"]["namespace"]
            yield route, listeners[parent["sectionName"]]


def test_each_route_attaches_to_a_listener_that_admits_its_host_and_namespace() -> None:
    found = list(attached())
    assert {listener["name"] for _, listener in found} == {"http", "gateway", "feeds"}
    for route, listener in found:
        assert route["spec"]["hostnames"] == [listener["hostname"]]
        admitted = listener["allowedRoutes"]["namespaces"]
        if admitted["from"] == "Same":
            assert route["metadata"]["namespace"] == "reentry-edge"
        else:
            (namespace,) = admitted["selector"]["matchLabels"].values()
            assert route["metadata"]["namespace"] == namespace


def test_no_reference_grant_is_needed() -> None:
    """A route may name Services of its own namespace, and a Gateway certificates of its own."""
    for route, _ in attached():
        for rule in route["spec"]["rules"]:
            assert not [backend for backend in rule.get("backendRefs", []) if "namespace" in backend]
    for listener in one("gateway-api/edge", "Gateway")["spec"]["listeners"]:
        assert not [each for each in listener.get("tls", {}).get("certificateRefs", []) if "namespace" in each]


def test_the_route_leads_to_the_gateway_and_plain_http_is_redirected() -> None:
    (rule,) = one("gateway-api", "HTTPRoute")["spec"]["rules"]
    (backend,) = rule["backendRefs"]
    service = one("gateway-api", "Service", GATEWAY)
    assert backend["name"] == service["metadata"]["name"]
    ports = {port["port"]: port["name"] for port in service["spec"]["ports"]}
    assert ports[backend["port"]] == "http"
    assert rule["timeouts"] == {"request": "0s"}  # an event stream lasts for days
    assert one("gateway-api", "HTTPRoute")["spec"]["hostnames"] == [
        one("overlays/production", "Ingress")["spec"]["rules"][0]["host"]
    ]
    redirect = one("gateway-api/edge", "HTTPRoute")["spec"]["rules"]
    assert [each["requestRedirect"]["scheme"] for rule in redirect for each in rule["filters"]] == ["https"]
    assert not [rule for rule in redirect if "backendRefs" in rule]


def test_the_edge_refuses_compressed_requests_like_ingress_nginx() -> None:
    policy = one("gateway-api/edge", "AuthorizationPolicy")["spec"]
    (target,) = policy["targetRefs"]
    assert (target["kind"], target["name"]) == ("Gateway", one("gateway-api/edge", "Gateway")["metadata"]["name"])
    assert policy["action"] == "DENY"
    refused = {condition["key"]: condition for rule in policy["rules"] for condition in rule["when"]}
    assert set(refused) == {"request.headers[content-encoding]", "request.headers[grpc-encoding]"}
    for condition in refused.values():
        assert (condition["values"], condition["notValues"]) == (["*"], ["identity"])


def principals(policy: Manifest, port: str) -> set[str] | None:
    """Return the accounts that a policy admits to a port; None if it admits everybody."""
    found: set[str] = set()
    for rule in policy["spec"]["rules"]:
        if port in {each for to in rule["to"] for each in to["operation"]["ports"]}:
            if "from" not in rule:
                return None
            found |= {name for source in rule["from"] for name in source["source"]["principals"]}
    return found


def account(folder: str, kind: str, name: str | None = None) -> str:
    """Return the identity that the mesh gives to the pods of a workload."""
    workload = one(folder, kind, name)
    namespace, spec = workload["metadata"]["namespace"], workload["spec"]["template"]["spec"]
    return f"cluster.local/ns/{namespace}/sa/{spec['serviceAccountName']}"


def test_the_mesh_admits_only_gateway_workers_feeds_and_the_edge_to_the_servers() -> None:
    deny = one("mesh", "AuthorizationPolicy", "default-deny")
    assert deny["spec"] == {}
    servers, gateway = (one("mesh", "AuthorizationPolicy", name) for name in (SERVER, GATEWAY))
    edge = "cluster.local/ns/reentry-edge/sa/reentry-istio"  # Istio names it after Gateway and class
    ours = {account("mesh", "Deployment", GATEWAY), account("mesh", "Deployment", WORKER)}
    feed = account("feeds", "Deployment")
    assert account("mesh", "Deployment", SERVER) not in {*ours, feed}
    assert principals(servers, "8001") == {*ours, feed, edge}
    assert principals(servers, "8000") == set()
    assert principals(gateway, "8080") == {edge, feed}
    for policy, port in ((servers, "8002"), (gateway, "8081")):
        assert principals(policy, port) is None  # Prometheus has no sidecar; the network policy admits it alone
    (outside,) = [rule for rule in servers["spec"]["rules"] if "paths" in rule["to"][0]["operation"]]
    (rule,) = one("feeds-outside/gateway-api", "GRPCRoute")["spec"]["rules"]
    calls = {f"/{match['method']['service']}/{match['method']['method']}" for match in rule["matches"]}
    assert set(outside["to"][0]["operation"]["paths"]) == calls
    assert outside["from"] == [{"source": {"principals": [edge]}}]


def test_the_mesh_encrypts_everything_but_the_metrics() -> None:
    policies = {manifest["metadata"]["name"]: manifest["spec"] for manifest in every("mesh", "PeerAuthentication")}
    assert policies["default"] == {"mtls": {"mode": "STRICT"}}
    metrics = {SERVER: 8002, GATEWAY: 8081}
    for name, port in metrics.items():
        assert policies[name]["mtls"] == {"mode": "STRICT"}
        assert policies[name]["portLevelMtls"] == {str(port): {"mode": "PERMISSIVE"}}
        labels = template("mesh", "Deployment", name)["metadata"]["labels"]
        assert policies[name]["selector"]["matchLabels"].items() <= labels.items()
    assert one("mesh", "Namespace")["metadata"]["labels"]["istio-injection"] == "enabled"
    assert template("mesh", "Job", MIGRATION)["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"


def test_the_certificate_names_the_services_and_pods_use_it() -> None:
    certificate = one("tls", "Certificate")["spec"]
    namespace = one("tls", "Namespace")["metadata"]["name"]
    names = {GATEWAY, f"{GATEWAY}-canary"}
    assert set(certificate["dnsNames"]) == names | {f"{name}.{namespace}.svc" for name in names}
    spec = template("tls", "Deployment", GATEWAY)["spec"]
    (volume,) = [volume for volume in spec["volumes"] if "secret" in volume]
    assert volume["secret"] == {"secretName": certificate["secretName"], "defaultMode": 0o440}
    (container,) = spec["containers"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == volume["name"]]
    given = {each["name"]: each.get("value") for each in container["env"]}
    assert given["REENTRY_GATEWAY_TLS_CERTIFICATE"] == f"{mount['mountPath']}/tls.crt"
    assert given["REENTRY_GATEWAY_TLS_KEY"] == f"{mount['mountPath']}/tls.key"
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]
    assert {probe["scheme"] for probe in probes} == {"HTTPS"}
    annotations = one("tls", "Ingress")["metadata"]["annotations"]
    prefix = "nginx.ingress.kubernetes.io/"
    assert annotations[f"{prefix}backend-protocol"] == "HTTPS"
    assert annotations[f"{prefix}proxy-ssl-verify"] == "on"
    assert annotations[f"{prefix}proxy-ssl-secret"] == f"{namespace}/{certificate['secretName']}"
    assert annotations[f"{prefix}proxy-ssl-name"] in certificate["dnsNames"]


def test_the_external_secrets_are_those_that_the_pods_of_production_read() -> None:
    made = {
        manifest["spec"]["target"]["name"]: {each["secretKey"] for each in manifest["spec"]["data"]}
        for manifest in every("external-secrets", "ExternalSecret")
    }
    assert made == secret_keys(pods("overlays/production"))
    stores = {manifest["metadata"]["name"] for manifest in every("external-secrets", "SecretStore")}
    assert {
        manifest["spec"]["secretStoreRef"]["name"] for manifest in every("external-secrets", "ExternalSecret")
    } == stores
    (account,) = every("external-secrets", "ServiceAccount")
    provider = one("external-secrets", "SecretStore")["spec"]["provider"]["aws"]
    assert provider["auth"]["jwt"]["serviceAccountRef"]["name"] == account["metadata"]["name"]


@pytest.mark.parametrize(("folder", "kind"), [("gitops/argocd", "Application"), ("gitops/flux", "Kustomization")])
def test_gitops_applies_an_existing_overlay_of_one_namespace(folder: str, kind: str) -> None:
    spec = one(folder, kind)["spec"]
    path = spec["source"]["path"] if kind == "Application" else spec["path"].removeprefix("./")
    assert path.removeprefix("k8s/") in DEPLOYED
    assert (K8S.parent / path / "kustomization.yaml").is_file()
    if kind == "Application":
        assert spec["destination"]["namespace"] == one(path.removeprefix("k8s/"), "Namespace")["metadata"]["name"]
    else:
        (source,) = every(folder, "GitRepository")
        assert spec["sourceRef"] == {"kind": "GitRepository", "name": source["metadata"]["name"]}


def test_argo_cd_applies_what_the_migration_needs_before_it_and_pods_after_it() -> None:
    def wave(manifest: Manifest) -> int:
        return int(manifest["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-wave", "0"))

    for folder in DEPLOYED:
        job = one(folder, "Job", MIGRATION)
        assert job["metadata"]["annotations"]["argocd.argoproj.io/hook"] == "Sync"
        assert job["metadata"]["annotations"]["argocd.argoproj.io/hook-delete-policy"] == "BeforeHookCreation"
        spec = job["spec"]["template"]["spec"]
        before = [one(folder, "Namespace"), one(folder, "ServiceAccount", spec["serviceAccountName"])]
        before += [each for each in every(folder, "NetworkPolicy") if each["metadata"]["name"].startswith(GATEWAY)]
        assert len(before) == 6
        assert max(map(wave, before)) < wave(job) < min(map(wave, every(folder, "Deployment")))


def test_argo_cd_leaves_the_weights_of_a_canary_alone() -> None:
    spec = one("gitops/argocd", "Application")["spec"]
    (ignored,) = spec["ignoreDifferences"]
    (rule,) = one("gateway-api", "HTTPRoute")["spec"]["rules"]
    assert "backendRefs" in rule
    assert (ignored["kind"], ignored["name"]) == ("HTTPRoute", one("gateway-api", "HTTPRoute")["metadata"]["name"])
    assert ignored["jsonPointers"] == ["/spec/rules/0/backendRefs"]
    assert ignored["jsonPointers"][0] in (K8S / "scripts" / "canary.sh").read_text()
    assert "RespectIgnoreDifferences=true" in spec["syncPolicy"]["syncOptions"]


def test_a_host_that_stands_for_the_readers_own_is_an_example() -> None:
    hosts = {route["spec"]["hostnames"][0] for route, _ in attached()}
    hosts |= set(re.findall(r"https://([\w.-]+)/", str([CUSTOM[key] for key in CUSTOM if key[0].startswith("gitops")])))
    assert all(host.endswith("example.com") for host in hosts)
