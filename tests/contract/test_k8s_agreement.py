"""The Kubernetes manifests agree with each other, with the code, and with a running server."""

from __future__ import annotations

import re
import urllib.request

import pytest
import yaml
from tritonclient.grpc import service_pb2

from client.batching import BatchConfig
from reentry import schema
from reentry.serving import EmbeddedServer, ServerConfig
from reentry.serving.repository import fitted_model_config
from tests.conftest import REPOSITORY
from tests.contract.manifests import (
    DEPLOYED,
    ENSEMBLE,
    ENVIRONMENTS,
    K8S,
    Manifest,
    build,
    environment,
    every,
    one,
    pod,
    pod_labels,
    quantity,
    routes,
    triton,
)

EXIT_TIMEOUT = 30
"""Seconds that the image's entry command gives Triton to drain (--exit-timeout-secs)."""

LONGEST_DRAIN = EXIT_TIMEOUT + EXIT_TIMEOUT + 5
"""Longest duration of `EmbeddedServer.stop` in seconds: it drains the ensemble and Triton, then stops the stubs."""

SERVER_MEMORY = 704 * 2**20
"""Bytes that a pod needs in addition to its shared memory. The idle server and its models take 650 MB."""

LIVE_MEMORY = {"overlays/minikube": 64 * 2**20}
"""Bytes for live tracks by folder. Measured: 60 MB for a feed of 5,000 live tracks, 250 MB for the first one of 20,000
and 80 MB for each further one, and 95 MB for 4,000 tracks of reentry_stream."""

FEED_CLIENTS = 4
"""Pods of k8s/feeds for which a quota has room."""

GRPC = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]

CONTROL = {
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryRegister",
    "CudaSharedMemoryRegister",
    "TraceSetting",
    "LogSettings",
}
"""Calls that change the server for all its clients."""

HTTP_PATHS = {
    "/v2/health/live",
    "/v2/health/ready",
    f"/v2/models/{ENSEMBLE}",
    f"/v2/models/{ENSEMBLE}/config",
    f"/v2/models/{ENSEMBLE}/ready",
}
"""Paths that the gateway routes over HTTP."""


def adapter_rule() -> Manifest:
    (rule,) = yaml.safe_load(one("autoscaling", "ConfigMap")["data"]["config.yaml"])["rules"]
    return rule


def sizes(folder: str) -> tuple[int, int]:
    """Return the numbers of instances and threads in the environment of a pod."""
    instances, threads = (int(environment(folder)[f"REENTRY_{name}"]) for name in ("INSTANCES", "THREADS"))
    return instances, threads


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


@pytest.mark.parametrize("folder", DEPLOYED)
def test_containers_and_services_have_the_ports_of_the_server(folder: str) -> None:
    config = ServerConfig()
    expected = {"http": config.http_port, "grpc": config.grpc_port, "metrics": config.metrics_port}
    assert {port["name"]: port["containerPort"] for port in triton(folder)["ports"]} == expected
    for service in every(folder, "Service"):
        for port in service["spec"]["ports"]:
            assert port["port"] == expected[port["name"]]
            assert port["targetPort"] == port["name"]


def test_the_running_server_answers_the_probes(server: EmbeddedServer) -> None:
    container = triton("overlays/production")
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": f"/v2/models/{ENSEMBLE}/ready",
        "readiness": f"/v2/models/{ENSEMBLE}/ready",
        "liveness": "/v2/health/live",
    }
    for probe in probes.values():
        assert probe["port"] == "http"
        assert fetch(f"http://{server.http_url}{probe['path']}") == ""  # an error status raises an exception


@pytest.mark.parametrize("folder", DEPLOYED)
def test_each_selector_matches_the_intended_pods(folder: str) -> None:
    labels = pod_labels(folder).items()
    assert server_deployment(folder)["spec"]["selector"]["matchLabels"].items() <= labels
    for service in every(folder, "Service"):
        assert service["spec"]["selector"].items() <= labels
    for budget in every(folder, "PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels
    for spread in pod(folder)["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"].items() <= labels


@pytest.mark.parametrize("folder", DEPLOYED)
def test_routes_lead_to_ports_of_services_that_exist(folder: str) -> None:
    services = {service["metadata"]["name"]: service["spec"]["ports"] for service in every(folder, "Service")}
    for ingress, host, path, backend in routes(folder):
        assert backend["port"]["name"] in {port["name"] for port in services[backend["name"]]}
        assert host in ingress["spec"]["tls"][0]["hosts"]
        grpc = ingress["metadata"]["annotations"].get("nginx.ingress.kubernetes.io/backend-protocol") == "GRPC"
        assert grpc == (backend["port"]["name"] == "grpc") == path.startswith(f"/{GRPC.full_name}/")


@pytest.mark.parametrize("folder", DEPLOYED)
def test_the_gateway_routes_only_existing_read_only_calls(folder: str) -> None:
    methods = {method.name for method in GRPC.methods}
    assert methods >= CONTROL, "CONTROL contains a call that Triton does not have"
    for _, _, path, backend in routes(folder):
        if backend["port"]["name"] == "grpc":
            method = path.rpartition("/")[2]
            assert method in methods - CONTROL
        else:
            # Requests without a body. The paths of `infer`, of `trace/setting` and of other models are not routed.
            assert path in HTTP_PATHS
    for ingress in every(folder, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            assert {path["pathType"] for path in rule["http"]["paths"]} == {"Exact"}


def test_calls_of_our_client_are_routed() -> None:
    # tritonclient makes these two calls for `get_model_config` and `infer`, see client/connection.py.
    routed = {path for ingress, _, path, _ in routes("overlays/production")}
    assert {f"/{GRPC.full_name}/ModelConfig", f"/{GRPC.full_name}/ModelInfer"} <= routed


@pytest.mark.parametrize("folder", DEPLOYED)
def test_bodies_are_bounded_by_the_largest_request(folder: str) -> None:
    largest = schema.LARGEST_REQUEST * 8 * len(schema.MEASUREMENT_COLUMNS)  # bytes
    assert BatchConfig().steps <= schema.LARGEST_REQUEST
    limits = {}
    for ingress in every(folder, "Ingress"):
        size = ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
        unit = {"k": 2**10, "m": 2**20}[size[-1]]  # nginx counts in powers of two
        limits[ingress["metadata"]["name"]] = int(size[:-1]) * unit
    assert limits["reentry-http"] == 1024
    assert largest < limits["reentry-grpc"] < 2 * largest
    scan = schema.LARGEST_SCAN * 8 * (1 + len(schema.MEASUREMENT_COLUMNS))
    assert scan < limits["reentry-feeds"] < 2 * scan


@pytest.mark.parametrize("folder", DEPLOYED)
def test_pods_take_the_control_key_from_an_optional_secret(folder: str) -> None:
    (variable,) = triton(folder)["env"]
    assert variable["name"] == "REENTRY_CONTROL_KEY"
    assert variable["valueFrom"]["secretKeyRef"]["optional"] is True


@pytest.mark.parametrize("folder", DEPLOYED)
def test_feeds_are_hashed_by_their_id_over_a_service_of_their_own(folder: str) -> None:
    backends: dict[str, set[str]] = {}
    hosts: dict[str, str] = {}
    for ingress, host, _, backend in routes(folder):
        backends.setdefault(ingress["metadata"]["name"], set()).add(backend["name"])
        hosts[ingress["metadata"]["name"]] = host
    assert backends.pop("reentry-feeds") == {"reentry-feeds"}
    assert set.union(*backends.values()) == {"reentry"}
    assert hosts["reentry-feeds"] == f"feeds.{hosts['reentry-grpc']}"
    annotations = one(folder, "Ingress", "reentry-feeds")["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/upstream-hash-by"] == "$http_x_feed_id"
    service = one(folder, "Service", "reentry-feeds")["spec"]
    assert service["clusterIP"] == "None"
    assert not service.get("publishNotReadyAddresses")
    assert "clusterIP" not in one(folder, "Service", "reentry")["spec"]


@pytest.mark.parametrize("folder", DEPLOYED)
def test_the_gateway_routes_no_streams(folder: str) -> None:
    assert not [path for _, _, path, _ in routes(folder) if path.endswith("/ModelStreamInfer")]


def test_a_feed_reaches_the_servers_and_nothing_else_but_its_sensor_and_dns() -> None:
    feed = pod_labels("feeds")
    own, admitted = one("feeds", "NetworkPolicy", "reentry-feed"), one("feeds", "NetworkPolicy", "reentry-from-feeds")
    assert own["spec"]["podSelector"]["matchLabels"].items() <= feed.items()
    assert own["spec"]["policyTypes"] == ["Ingress", "Egress"]
    servers, sensor, dns = own["spec"]["egress"]
    (peer,) = servers["to"]
    assert peer["podSelector"]["matchLabels"].items() <= pod_labels("overlays/production").items()
    assert [port["port"] for port in servers["ports"]] == ["grpc"]
    source = one("feeds", "ConfigMap")["data"]
    (peer,) = sensor["to"]
    namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert source["SOURCE_HOST"].split(".")[1:] == [namespace, "svc"]
    assert [str(port["port"]) for port in sensor["ports"]] == [source["SOURCE_PORT"]]
    assert {port["port"] for port in dns["ports"]} == {53}
    (rule,) = admitted["spec"]["ingress"]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchLabels"].items() <= feed.items()
    assert [port["port"] for port in rule["ports"]] == ["grpc"]


def test_a_feed_runs_beside_the_servers_and_asks_their_headless_service() -> None:
    namespace = one("overlays/production", "Namespace")["metadata"]["name"]
    assert {manifest["metadata"]["namespace"] for manifest in build("feeds")} == {namespace}
    (container,) = pod("feeds")["containers"]
    words = container["command"][-1].split()
    service = one("overlays/production", "Service", "reentry-feeds")
    (port,) = service["spec"]["ports"]
    assert words[words.index("--url") + 1] == f"grpc://{service['metadata']['name']}:{port['port']}"
    (metrics,) = container["ports"]
    assert int(words[words.index("--metrics-port") + 1]) == metrics["containerPort"]


def test_at_most_one_client_of_a_feed_runs() -> None:
    deployment = server_deployment("feeds")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})


def test_environments_do_not_share_a_host() -> None:
    hosts = [{host for _, host, _, _ in routes(f"overlays/{name}")} for name in ("minikube", "staging", "production")]
    assert len(set.union(*hosts)) == sum(map(len, hosts))


@pytest.mark.parametrize("folder", DEPLOYED)
def test_the_drain_fits_the_grace_period(folder: str) -> None:
    pre_stop = triton(folder)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pre_stop > 0
    assert pre_stop + LONGEST_DRAIN < pod(folder)["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("folder", DEPLOYED)
def test_instances_and_threads_fit_the_cpus(folder: str) -> None:
    resources = triton(folder)["resources"]
    assert resources["requests"]["cpu"] == resources["limits"]["cpu"]
    cores = quantity(resources["limits"]["cpu"])
    instances, threads = sizes(folder)
    # `ServerConfig.fitted_instances` has the same rule. On minikube a pod has fewer CPUs and keeps the two instances
    # that the model files suit, beside the spare ones of bounded queues.
    assert instances == (2 if folder == "overlays/minikube" else cores // (2 * threads))


@pytest.mark.parametrize("folder", DEPLOYED)
def test_pods_serve_each_model_with_the_configuration_of_its_file(folder: str) -> None:
    instances, threads = sizes(folder)
    config = ServerConfig(instances=instances, threads=threads)
    # Triton then loads the models before it listens; a changed configuration would be loaded afterwards.
    models = [path.parent.name for path in REPOSITORY.glob("*/config.pbtxt")]
    assert ENSEMBLE in models
    for name in models:
        assert fitted_model_config(REPOSITORY, name, config) is None, name


@pytest.mark.parametrize("folder", DEPLOYED)
def test_memory_holds_the_full_shared_memory_the_server_and_live_tracks(folder: str) -> None:
    (shared,) = [volume["emptyDir"] for volume in pod(folder)["volumes"] if volume["name"] == "shared-memory"]
    assert shared["medium"] == "Memory"
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in triton(folder)["volumeMounts"]
    resources = triton(folder)["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    needed = quantity(shared["sizeLimit"]) + SERVER_MEMORY + LIVE_MEMORY.get(folder, 600 * 2**20)
    assert quantity(resources["limits"]["memory"]) >= needed


@pytest.mark.parametrize("folder", DEPLOYED)
def test_a_disruption_is_possible_and_leaves_a_replica(folder: str) -> None:
    scaler = one(folder, "HorizontalPodAutoscaler", SERVER)["spec"]
    disrupted = one(folder, "PodDisruptionBudget", SERVER)["spec"]["maxUnavailable"]
    assert disrupted >= 1
    assert disrupted < scaler["minReplicas"] or folder == "overlays/minikube"
    strategy = server_deployment(folder)["spec"]["strategy"]
    assert (strategy["type"], strategy["rollingUpdate"]["maxUnavailable"]) == ("RollingUpdate", 0)


@pytest.mark.parametrize("folder", DEPLOYED)
def test_the_autoscaler_holds_the_replicas_of_the_stable_release(folder: str) -> None:
    deployment = server_deployment(folder)
    assert one(folder, "HorizontalPodAutoscaler", SERVER)["spec"]["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"]


@pytest.mark.parametrize("folder", ENVIRONMENTS)
def test_the_autoscaler_uses_a_metric_that_its_cluster_has(folder: str) -> None:
    (metric,) = one(folder, "HorizontalPodAutoscaler", SERVER)["spec"]["metrics"]
    if folder == "overlays/minikube":
        assert metric["resource"]["name"] == "cpu"
    else:
        assert metric["pods"]["metric"]["name"] == adapter_rule()["name"]["as"]


def test_the_adapter_counts_a_series_of_the_running_server_without_ensembles_and_live_tracks(
    server: EmbeddedServer,
) -> None:
    rule = adapter_rule()
    series = rule["seriesQuery"].partition("{")[0]
    exported = re.findall(rf'^{series}{{[^}}]*model="(\w+)"', fetch(server.metrics_url), re.MULTILINE)
    assert ENSEMBLE in exported
    assert set(exported) - {ENSEMBLE}
    live = {model.name for model in (schema.REENTRY_STREAM, schema.REENTRY_SCAN, schema.SCAN_STEP)}
    for query in (rule["seriesQuery"], rule["metricsQuery"]):
        (pattern,) = re.findall(r'model!~"([^"]*)"', query)
        left_out = {model.name for model in schema.MODELS if re.fullmatch(pattern, model.name)}
        assert left_out == {ENSEMBLE, schema.REENTRY_FAST.name} | live


@pytest.mark.parametrize("folder", DEPLOYED)
def test_the_quota_admits_the_largest_release_an_equally_large_canary_terminating_pods_and_feeds(folder: str) -> None:
    scaler = one(folder, "HorizontalPodAutoscaler", SERVER)["spec"]
    surge = server_deployment(folder)["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    # Largest number of pods at once: both releases have all their replicas and surge pods, and the replicas of one
    # earlier release are still terminating.
    pods = 2 * (scaler["maxReplicas"] + surge) + scaler["maxReplicas"]
    hard = one(folder, "ResourceQuota")["spec"]["hard"]
    limits = triton(folder)["resources"]["limits"]
    (feed,) = pod("feeds")["containers"]
    assert int(hard["pods"]) == pods + FEED_CLIENTS
    for resource in ("cpu", "memory"):
        assert quantity(hard[f"limits.{resource}"]) == quantity(hard[f"requests.{resource}"])
        needed = pods * quantity(limits[resource]) + FEED_CLIENTS * quantity(feed["resources"]["limits"][resource])
        assert needed <= quantity(hard[f"limits.{resource}"]) < 1.5 * needed
    if "nvidia.com/gpu" in limits:
        assert int(hard["requests.nvidia.com/gpu"]) == pods * int(limits["nvidia.com/gpu"])


def test_a_laptop_node_has_room_for_the_release_a_canary_and_a_surge_pod() -> None:
    (cpus,) = re.findall(r"minikube start .*--cpus (\d+)", (K8S / "scripts" / "minikube.sh").read_text())
    system = 1.2  # CPUs that the control plane, Calico, CoreDNS, metrics-server and ingress-nginx request
    assert 3 * quantity(triton("overlays/minikube")["resources"]["requests"]["cpu"]) <= int(cpus) - system


@pytest.mark.parametrize("folder", DEPLOYED)
def test_pods_start_on_nodes_without_a_zone_label(folder: str) -> None:
    assert {each["whenUnsatisfiable"] for each in pod(folder)["topologySpreadConstraints"]} == {"ScheduleAnyway"}


@pytest.mark.parametrize("folder", DEPLOYED)
def test_containers_are_within_the_range_of_the_namespace(folder: str) -> None:
    (limit,) = one(folder, "LimitRange")["spec"]["limits"]
    for container in [*pod(folder)["containers"], *pod(folder).get("initContainers", [])]:
        for resource, most in limit["max"].items():
            assert quantity(container["resources"]["limits"][resource]) <= quantity(most)


@pytest.mark.parametrize("folder", DEPLOYED)
def test_the_network_policy_opens_only_the_gateway_prometheus_dns_and_the_model_store(folder: str) -> None:
    deny = one(folder, "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}

    policy = one(folder, "NetworkPolicy", "reentry")["spec"]
    for release in ("stable", "canary"):
        assert policy["podSelector"]["matchLabels"].items() <= (pod_labels(folder) | {"release": release}).items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]

    def opened(rules: list[Manifest], side: str) -> dict[str, set[object]]:
        """Return the open ports by namespace. Every rule selects exactly one namespace."""
        found = {}
        for rule in rules:
            (peer,) = rule[side]
            namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
            found[namespace] = {port["port"] for port in rule["ports"]}
        return found

    assert opened(policy["ingress"], "from") == {"ingress-nginx": {"http", "grpc"}, "monitoring": {"metrics"}}
    store = {"seaweedfs": {8333}} if folder == "models/s3" else {}
    assert opened(policy["egress"], "to") == {"kube-system": {53}} | store
    if store:
        (endpoint,) = [
            manifest["data"]["RCLONE_CONFIG_STORE_ENDPOINT"]
            for manifest in every(folder, "ConfigMap")
            if "RCLONE_CONFIG_STORE_ENDPOINT" in manifest["data"]
        ]
        assert endpoint == "http://seaweedfs-s3.seaweedfs.svc:8333"


def test_the_metric_rules_are_in_the_namespace_that_the_network_policy_admits() -> None:
    assert one("autoscaling", "ConfigMap")["metadata"]["namespace"] == "monitoring"


@pytest.mark.parametrize("folder", DEPLOYED)
def test_every_object_that_a_pod_refers_to_exists_or_is_an_external_secret(folder: str) -> None:
    present = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in build(folder)}
    for container in [*pod(folder)["containers"], *pod(folder).get("initContainers", [])]:
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                assert ("ConfigMap", source["configMapRef"]["name"]) in present
            else:
                assert source["secretRef"]["name"] in (K8S / folder / "kustomization.yaml").read_text()
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in pod(folder)["volumes"]}
    for volume in pod(folder)["volumes"]:
        if "persistentVolumeClaim" in volume:
            assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in present
    assert ("ServiceAccount", pod(folder)["serviceAccountName"]) in present


@pytest.mark.parametrize("folder", ["models/pvc", "models/s3"])
def test_models_from_outside_the_image_are_mounted_read_only_at_its_models_path(folder: str) -> None:
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in triton(folder)["volumeMounts"]


def test_the_deployer_role_reads_no_secret_and_cannot_extend_its_own_rights() -> None:
    for rule in one("overlays/production", "Role")["rules"]:
        assert "secrets" not in rule["resources"]
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        if {"roles", "rolebindings", "serviceaccounts", "networkpolicies"} & set(rule["resources"]):
            assert rule["verbs"] == ["get"]
