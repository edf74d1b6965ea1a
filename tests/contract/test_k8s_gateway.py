"""The gateway's manifests agree with each other, with its settings, and with who may reach whom."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, fields

import pytest
import yaml

from gateway.app import BODIES_AT_ONCE
from gateway.settings import GatewaySettings, read_gateway_settings
from tests.contract.manifests import (
    DEPLOYED,
    GATEWAY,
    K8S,
    MIGRATION,
    SERVER,
    WORKER,
    Manifest,
    build,
    every,
    one,
    quantity,
    secret_keys,
    template,
    workloads,
)

PREFIX = "REENTRY_GATEWAY_"
FLUSH = 15
"""Seconds after the drain for the inference log to reach the database."""

NGINX = {"app.kubernetes.io/name": "ingress-nginx"}
PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}
EDGE = {"gateway.networking.k8s.io/gateway-name": "reentry"}


def container(folder: str, kind: str, name: str) -> Manifest:
    """Return the only container of a workload."""
    (found,) = template(folder, kind, name)["spec"]["containers"]
    return found


def variables(folder: str, kind: str, name: str) -> dict[str, str | None]:
    """Return the environment variables of a workload; None for a value from a Secret."""
    found = container(folder, kind, name)
    maps = [source["configMapRef"]["name"] for source in found.get("envFrom", [])]
    values = {key: value for name in maps for key, value in one(folder, "ConfigMap", name)["data"].items()}
    return values | {variable["name"]: variable.get("value") for variable in found["env"]}


WORK = [("Deployment", GATEWAY), ("Deployment", WORKER), ("Job", MIGRATION)]


@pytest.mark.parametrize("folder", DEPLOYED)
@pytest.mark.parametrize(("kind", "name"), WORK)
def test_every_variable_of_a_pod_is_a_setting_of_the_gateway(folder: str, kind: str, name: str) -> None:
    known = {PREFIX + field.name.upper() for field in fields(GatewaySettings)}
    ours = {variable for variable in variables(folder, kind, name) if variable.startswith("REENTRY_")}
    assert ours <= known
    assert PREFIX + "DATABASE_URL" in ours


@pytest.mark.parametrize("folder", DEPLOYED)
def test_the_settings_of_the_pods_are_valid(folder: str) -> None:
    secret = {PREFIX + "DATABASE_URL": "postgresql://a:b@c/d", PREFIX + "REDIS_URL": "redis://a:6379/0"}
    for kind, name in WORK:
        given = {key: value for key, value in variables(folder, kind, name).items() if value is not None}
        found = read_gateway_settings(None, environment=given | secret)
        assert not found.embedded
        assert found.worker_count == 0  # workers have pods of their own
        if kind == "Deployment":
            service = one(folder, "Service", "reentry-feeds")
            assert found.triton_url == f"grpc://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"


@pytest.mark.parametrize("folder", DEPLOYED)
def test_ports_are_those_of_the_settings(folder: str) -> None:
    defaults = GatewaySettings()
    expected = {"http": defaults.port, "metrics": defaults.metrics_port}
    found = container(folder, "Deployment", GATEWAY)
    assert {port["name"]: port["containerPort"] for port in found["ports"]} == expected
    worker = container(folder, "Deployment", WORKER)
    assert {port["name"]: port["containerPort"] for port in worker["ports"]} == {"metrics": defaults.metrics_port}
    service = one(folder, "Service", GATEWAY)["spec"]
    assert {port["name"]: port["port"] for port in service["ports"]} == expected
    assert all(port["targetPort"] == port["name"] for port in service["ports"])


@pytest.mark.parametrize("folder", DEPLOYED)
def test_the_drain_of_the_gateway_fits_the_grace_period(folder: str) -> None:
    spec = template(folder, "Deployment", GATEWAY)["spec"]
    pre_stop = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pre_stop + GatewaySettings().drain_seconds + FLUSH <= spec["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("folder", DEPLOYED)
def test_the_spool_and_an_upload_fit_their_volumes_and_the_edge(folder: str) -> None:
    values = variables(folder, "Deployment", GATEWAY)
    volumes = {volume["name"]: volume for volume in template(folder, "Deployment", GATEWAY)["spec"]["volumes"]}
    spool = int(values.get(PREFIX + "SPOOL_BYTES") or GatewaySettings().spool_bytes)
    upload = int(values[PREFIX + "LARGEST_UPLOAD"] or 0)
    data, tmp = (quantity(volumes[name]["emptyDir"]["sizeLimit"]) for name in ("data", "tmp"))
    assert spool < data
    assert 2 * upload <= tmp
    limits = container(folder, "Deployment", GATEWAY)["resources"]["limits"]
    assert data + tmp <= quantity(limits["ephemeral-storage"])
    for ingress in every(folder, "Ingress"):
        size = ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
        assert int(size.removesuffix("m")) * 2**20 == upload


@pytest.mark.parametrize("folder", DEPLOYED)
def test_the_cache_and_a_few_bodies_fit_the_memory(folder: str) -> None:
    defaults = GatewaySettings()
    memory = quantity(container(folder, "Deployment", GATEWAY)["resources"]["limits"]["memory"])
    values = variables(folder, "Deployment", GATEWAY)
    cache = int(values.get(PREFIX + "CACHE_BYTES") or defaults.cache_bytes)
    assert cache + 160 * 2**20 + BODIES_AT_ONCE * defaults.largest_body < memory


@pytest.mark.parametrize("folder", DEPLOYED)
def test_the_probes_are_open_routes_of_the_gateway(folder: str) -> None:
    found = container(folder, "Deployment", GATEWAY)
    paths = {name: found[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/health/live", "readiness": "/health/ready", "liveness": "/health/live"}
    worker = container(folder, "Deployment", WORKER)
    asked = [worker[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness")]
    assert asked == 2 * [{"path": "/health/live", "port": "metrics"}]
    assert "readinessProbe" not in worker  # no Service leads to it


@pytest.mark.parametrize("folder", DEPLOYED)
def test_gateway_workers_and_migration_have_one_image_and_the_commands_of_the_program(folder: str) -> None:
    assert len({container(folder, kind, name)["image"] for kind, name in WORK}) == 1
    commands = {name: container(folder, kind, name)["args"] for kind, name in WORK}
    assert commands == {GATEWAY: ["serve"], WORKER: ["work"], MIGRATION: ["migrate"]}


@pytest.mark.parametrize("folder", DEPLOYED)
def test_gateway_and_workers_have_the_same_settings(folder: str) -> None:
    gateway, worker = (variables(folder, "Deployment", name) for name in (GATEWAY, WORKER))
    tls = {PREFIX + "TLS_CERTIFICATE", PREFIX + "TLS_KEY"}
    assert {name: value for name, value in gateway.items() if name not in tls} == worker


@pytest.mark.parametrize("folder", DEPLOYED)
def test_secrets_are_named_and_never_written(folder: str) -> None:
    for kind, name in WORK:
        for variable in container(folder, kind, name)["env"]:
            if re.search(r"DATABASE_URL|REDIS_URL|KEY_ID|ACCESS_KEY$|PASSWORD", variable["name"]):
                assert set(variable) == {"name", "valueFrom"}
    assert not re.search(r"postgresql://|redis://", str([build(folder)]))


@pytest.mark.parametrize("folder", DEPLOYED)
def test_each_selector_of_the_gateway_matches_its_own_pods_alone(folder: str) -> None:
    labels = {name: template(folder, kind, name)["metadata"]["labels"] for kind, name in WORK}
    labels[SERVER] = template(folder, "Deployment", SERVER)["metadata"]["labels"]
    for name in (GATEWAY, WORKER):
        selectors = [
            one(folder, "Deployment", name)["spec"]["selector"]["matchLabels"],
            one(folder, "PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"],
        ]
        if name == GATEWAY:
            selectors.append(one(folder, "Service", name)["spec"]["selector"])
        for selector in selectors:
            assert [other for other, found in labels.items() if selector.items() <= found.items()] == [name]
        for spread in template(folder, "Deployment", name)["spec"]["topologySpreadConstraints"]:
            assert spread["labelSelector"]["matchLabels"].items() <= labels[name].items()


@pytest.mark.parametrize("folder", DEPLOYED)
def test_the_autoscaler_and_the_budget_of_the_gateway_leave_a_replica(folder: str) -> None:
    scaler = one(folder, "HorizontalPodAutoscaler", GATEWAY)["spec"]
    deployment = one(folder, "Deployment", GATEWAY)
    assert scaler["scaleTargetRef"]["name"] == GATEWAY
    assert "replicas" not in deployment["spec"]
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    for name in (GATEWAY, WORKER):
        assert one(folder, "PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1
    assert scaler["minReplicas"] > 1 or folder == "overlays/minikube"
    (metric,) = scaler["metrics"]
    assert metric["resource"]["name"] == "cpu"


@pytest.mark.parametrize("folder", ["overlays/production", "overlays/gpu", "models/s3", "gateway-api"])
def test_pods_that_answer_requests_have_the_priority_that_the_cluster_defines(folder: str) -> None:
    (priority,) = every("cluster", "PriorityClass")
    for name in (SERVER, GATEWAY):
        assert template(folder, "Deployment", name)["spec"]["priorityClassName"] == priority["metadata"]["name"]
    assert 0 < priority["value"] <= 1_000_000_000
    assert priority["globalDefault"] is False


@pytest.mark.parametrize("folder", [*DEPLOYED, "feeds"])
def test_every_account_pulls_with_the_same_secret_and_has_no_token(folder: str) -> None:
    for account in every(folder, "ServiceAccount"):
        assert account["imagePullSecrets"] == [{"name": "reentry-registry"}]
        assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("folder", DEPLOYED)
def test_the_ingress_routes_everything_to_the_gateway_and_nothing_to_a_server(folder: str) -> None:
    paths = [
        path["backend"]["service"] | {"path": path["path"], "type": path["pathType"]}
        for ingress in every(folder, "Ingress")
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    ]
    expected = [{"name": GATEWAY, "port": {"name": "http"}, "path": "/", "type": "Prefix"}]
    assert paths == (expected if every(folder, "Ingress") else [])
    for ingress in every(folder, "Ingress"):
        assert ingress["spec"]["tls"][0]["hosts"] == [ingress["spec"]["rules"][0]["host"]]
        annotations = ingress["metadata"]["annotations"]
        for name in ("proxy-buffering", "proxy-request-buffering"):
            assert annotations[f"nginx.ingress.kubernetes.io/{name}"] == "off"


def test_environments_have_stores_of_their_own() -> None:
    stores = [
        variables(f"overlays/{name}", "Deployment", GATEWAY)[PREFIX + "STORE"]
        for name in ("minikube", "staging", "production")
    ]
    assert len(set(stores)) == 3
    mounts = {
        mount["mountPath"]: mount for mount in container("overlays/minikube", "Deployment", WORKER)["volumeMounts"]
    }
    assert stores[0] in mounts


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A pod, or an address outside the cluster."""

    namespace: str = "reentry"
    labels: tuple[tuple[str, str], ...] = ()
    address: str = ""


def pod_of(labels: dict[str, str], namespace: str = "reentry") -> Peer:
    return Peer(namespace=namespace, labels=tuple(labels.items()))


def selected(selector: Manifest, labels: dict[str, str]) -> bool:
    """Return whether a label selector selects these labels."""
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def admits(rule: Manifest, side: str, peer: Peer, port: object, own: str) -> bool:
    """Return whether a rule of a network policy admits a peer and a port, which is a number or a name."""
    if "ports" in rule and port not in {each["port"] for each in rule["ports"]}:
        return False
    for each in rule.get(side, []):
        if "ipBlock" in each:
            block = each["ipBlock"]
            inside = [ipaddress.ip_network(block["cidr"]), *map(ipaddress.ip_network, block.get("except", []))]
            if peer.address and [ipaddress.ip_address(peer.address) in network for network in inside] == [
                True,
                *([False] * (len(inside) - 1)),
            ]:
                return True
            continue
        home = {"kubernetes.io/metadata.name": peer.namespace}
        same = selected(each["namespaceSelector"], home) if "namespaceSelector" in each else peer.namespace == own
        if not peer.address and same and selected(each.get("podSelector", {}), dict(peer.labels)):
            return True
    return side not in rule


def allowed(policies: list[Manifest], direction: str, pod: Peer, peer: Peer, port: object) -> bool:
    """Return whether the network policies let traffic between a pod and its peer pass in a direction."""
    applied = [
        policy["spec"]
        for policy in policies
        if direction in policy["spec"]["policyTypes"]
        and policy["metadata"]["namespace"] == pod.namespace
        and selected(policy["spec"]["podSelector"], dict(pod.labels))
    ]
    side = "from" if direction == "Ingress" else "to"
    rules = [rule for spec in applied for rule in spec.get(direction.lower(), [])]
    return not applied or any(admits(rule, side, peer, port, pod.namespace) for rule in rules)


def reaches(policies: list[Manifest], source: Peer, target: Peer, port: object) -> bool:
    """Return whether traffic passes the policies of both ends."""
    out = bool(source.address) or allowed(policies, "Egress", source, target, port)
    return out and (bool(target.address) or allowed(policies, "Ingress", target, source, port))


def policies(*folders: str, namespace: str = "reentry") -> list[Manifest]:
    found = [policy for folder in folders for policy in every(folder, "NetworkPolicy")]
    return [policy | {"metadata": policy["metadata"] | {"namespace": namespace}} for policy in found]


SERVER_POD = pod_of({"app.kubernetes.io/name": SERVER, "release": "stable"})
CANARY_POD = pod_of({"app.kubernetes.io/name": SERVER, "release": "canary"})
FEED_POD = pod_of({"app.kubernetes.io/name": "reentry-feed"})
OUTSIDERS = {
    "ingress-nginx": pod_of(NGINX, "ingress-nginx"),
    "edge": pod_of(EDGE, "reentry-edge"),
    "prometheus": pod_of(PROMETHEUS, "monitoring"),
    "other pod of monitoring": pod_of({"app.kubernetes.io/name": "grafana"}, "monitoring"),
    "pod of another namespace": pod_of(
        {"app.kubernetes.io/name": GATEWAY, "app.kubernetes.io/component": "gateway"}, "x"
    ),
    "unknown pod": pod_of({}),
    "engine job": pod_of({"app.kubernetes.io/name": "reentry-engine"}),
    "address": Peer(address="203.0.113.7"),
}


def inside(folder: str) -> dict[str, Peer]:
    """Return a pod of each workload of a folder, by name."""
    return {
        each["metadata"]["name"]: pod_of(each["spec"]["template"]["metadata"]["labels"]) for each in workloads(folder)
    }


@pytest.mark.parametrize("folder", DEPLOYED)
def test_only_gateway_and_workers_score_and_only_prometheus_reads_metrics(folder: str) -> None:
    rules = policies(folder)
    sources = inside(folder) | OUTSIDERS | {"feed": FEED_POD, "canary": CANARY_POD}
    for target in (SERVER_POD, CANARY_POD):
        reached = {
            port: {name for name, source in sources.items() if reaches(rules, source, target, port)}
            for port in ("http", "grpc", "metrics")
        }
        assert reached == {"http": set(), "grpc": {GATEWAY, WORKER}, "metrics": {"prometheus"}}


def test_feeds_reach_the_servers_only_with_their_own_policies() -> None:
    folder = "overlays/production"
    sources = inside(folder) | OUTSIDERS | {"feed": FEED_POD}

    def reached(*more: str) -> set[str]:
        return {
            name for name, source in sources.items() if reaches(policies(folder, *more), source, SERVER_POD, "grpc")
        }

    assert reached() == {GATEWAY, WORKER}
    assert reached("feeds") == {GATEWAY, WORKER, "feed"}
    assert reached("feeds-outside/ingress") == {GATEWAY, WORKER, "ingress-nginx"}
    assert reached("feeds-outside/gateway-api") == {GATEWAY, WORKER, "edge"}


@pytest.mark.parametrize("folder", DEPLOYED)
def test_only_the_edge_and_feeds_reach_the_gateway(folder: str) -> None:
    rules = policies(folder, "feeds")
    sources = inside(folder) | OUTSIDERS | {"feed": FEED_POD}
    gateway = inside(folder)[GATEWAY]
    edge = "ingress-nginx" if every(folder, "Ingress") else "edge"
    assert {name for name, source in sources.items() if reaches(rules, source, gateway, "http")} == {edge, "feed"}
    for name in (GATEWAY, WORKER):
        pod = inside(folder)[name]
        assert {each for each, source in sources.items() if reaches(rules, source, pod, "metrics")} == {"prometheus"}
    for name in (WORKER, MIGRATION):
        assert not [each for each, source in sources.items() if reaches(rules, source, inside(folder)[name], "http")]


@pytest.mark.parametrize("folder", DEPLOYED)
def test_each_pod_reaches_the_stores_that_it_needs_and_no_others(folder: str) -> None:
    rules = policies(folder)
    if folder == "overlays/minikube":
        stores: dict[object, Peer] = {
            "postgresql": inside(folder)["reentry-database"],
            "redis": inside(folder)["reentry-redis"],
        }
        # A Service's port number is translated to the port of its pod before policies apply.
        ports = {"postgresql": 5432, "redis": 6379}
    else:
        stores = {5432: Peer(address="10.1.2.3"), 6379: Peer(address="10.1.2.3")}
        ports = {5432: 5432, 6379: 6379}
    expected = {GATEWAY: {5432, 6379}, WORKER: {5432, 6379}, MIGRATION: {5432}}
    for name, pod in inside(folder).items():
        found = {
            ports[port]
            for port, store in stores.items()
            if allowed(rules, "Egress", pod, store, ports[port])
            and (bool(store.address) or allowed(rules, "Ingress", store, pod, port))
        }
        assert found == expected.get(name, set()), name


@pytest.mark.parametrize("folder", DEPLOYED)
def test_webhooks_reach_public_addresses_over_https_and_no_address_of_a_cluster(folder: str) -> None:
    rules = policies(folder)
    for name, pod in inside(folder).items():
        public = reaches(rules, pod, Peer(address="203.0.113.7"), 443)
        assert public == (name in (GATEWAY, WORKER)), name
        assert not reaches(rules, pod, Peer(address="203.0.113.7"), 80)
        for private in ("10.96.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.0.1"):
            assert not reaches(rules, pod, Peer(address=private), 443)


@pytest.mark.parametrize("folder", DEPLOYED)
def test_every_pod_that_talks_to_others_finds_them_by_name(folder: str) -> None:
    dns = pod_of({"k8s-app": "kube-dns"}, "kube-system")
    for name, pod in inside(folder).items():
        assert reaches(policies(folder), pod, dns, 53) == (name not in ("reentry-database", "reentry-redis"))


def test_the_policies_of_an_unknown_pod_deny_everything() -> None:
    rules = policies("overlays/production")
    for target in (SERVER_POD, Peer(address="203.0.113.7"), pod_of({"k8s-app": "kube-dns"}, "kube-system")):
        for port in (53, 443, "grpc", "http"):
            assert not reaches(rules, pod_of({}), target, port)


def test_the_commented_rules_for_traces_open_the_port_of_the_collector_alone() -> None:
    texts = [(K8S / folder / "network.yaml").read_text() for folder in ("gateway", "platform")]
    found = [yaml.safe_load_all(re.sub(r"^( *)# (- to:|  .*)$", r"\1\2", text, flags=re.MULTILINE)) for text in texts]
    rules = [each | {"metadata": each["metadata"] | {"namespace": "reentry"}} for every in found for each in every]
    collector = pod_of({"app.kubernetes.io/name": "opentelemetry-collector"}, "monitoring")
    pods = inside("overlays/production")
    senders = {name for name, pod in pods.items() if reaches(rules, pod, collector, 4318)}
    assert senders == {SERVER, GATEWAY, WORKER}
    for name in senders:
        assert not reaches(policies("overlays/production"), pods[name], collector, 4318)
        assert not reaches(rules, pods[name], collector, 443)
        assert not reaches(rules, pods[name], OUTSIDERS["other pod of monitoring"], 4318)


def test_the_evaluation_of_policies_notices_an_opened_port() -> None:
    rules = policies("overlays/production")
    open_to_all = {
        "metadata": {"namespace": "reentry"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]},
    }
    assert not reaches(rules, OUTSIDERS["address"], SERVER_POD, "http")
    assert reaches([*rules, open_to_all], OUTSIDERS["address"], SERVER_POD, "http")


def test_the_guide_names_every_secret_that_pods_read() -> None:
    guide = (K8S / "README.md").read_text()
    for folder in DEPLOYED:
        keys = secret_keys(template(folder, kind, name)["spec"] for kind, name in WORK)
        assert GATEWAY in keys
        for name in (*keys, *set().union(*keys.values())):
            assert f"`{name}`" in guide
    assert "`reentry-registry`" in guide


def test_minikube_runs_the_stores_in_the_cluster_without_root() -> None:
    folder = "overlays/minikube"
    urls = re.findall(r"--from-(?:literal|file)=([\w-]+)=(.*)", (K8S / "scripts" / "minikube.sh").read_text())
    texts = dict(urls)
    for name, port in (("reentry-database", 5432), ("reentry-redis", 6379)):
        service = one(folder, "Service", name)["spec"]
        assert service["selector"].items() <= dict(inside(folder)[name].labels).items()
        assert [each["port"] for each in service["ports"]] == [port]
    assert "@reentry-database:5432/reentry" in texts["database-url"]
    assert "redis://reentry-redis:6379/0" in texts["redis-url"]
    database = container(folder, "StatefulSet", "reentry-database")
    given = {each["name"]: each.get("valueFrom", {}).get("secretKeyRef", {}).get("key") for each in database["env"]}
    assert given["POSTGRES_PASSWORD"] == "database-password"
    assert given["POSTGRES_PASSWORD"] in texts
    assert all(
        spec["securityContext"]["runAsNonRoot"]
        for spec in (template(folder, "StatefulSet", name)["spec"] for name in ("reentry-database", "reentry-redis"))
    )


@pytest.mark.parametrize("folder", DEPLOYED)
def test_prometheus_finds_the_metrics_of_gateways_and_workers_and_its_policy_admits_it(folder: str) -> None:
    monitor = one("monitoring", "PodMonitor", GATEWAY)["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    for name in (GATEWAY, WORKER):
        labels = template(folder, "Deployment", name)["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()
        assert endpoint["port"] in {port["name"] for port in container(folder, "Deployment", name)["ports"]}
        assert reaches(policies(folder), OUTSIDERS["prometheus"], pod_of(labels), endpoint["port"])
