"""The Kubernetes manifests agree with each other, with the code, and with a running server."""

from __future__ import annotations

import re
import urllib.request

import pytest
import yaml
from tritonclient.grpc import service_pb2

from reentry import schema
from reentry.serving import EmbeddedServer, ServerConfig
from reentry.serving.repository import fitted_model_config
from tests.conftest import REPOSITORY
from tests.contract.manifests import (
    DEPLOYED,
    ENSEMBLE,
    ENVIRONMENTS,
    GATEWAY,
    K8S,
    SERVER,
    WORKER,
    Manifest,
    build,
    containers,
    environment,
    every,
    one,
    pod,
    pod_labels,
    pods,
    quantity,
    routes,
    server_deployment,
    server_services,
    template,
    triton,
    workloads,
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

OUTSIDE = "feeds-outside/ingress"
"""Folder that routes feeds from outside the cluster by ingress-nginx."""


def adapter_rule() -> Manifest:
    (rule,) = yaml.safe_load(one("autoscaling", "ConfigMap")["data"]["config.yaml"])["rules"]
    return rule


def sizes(folder: str) -> tuple[int, int]:
    """Return the numbers of instances and threads in the environment of a pod."""
    instances, threads = (int(environment(folder)[f"REENTRY_{name}"]) for name in ("INSTANCES", "THREADS"))
    return instances, threads


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


@pytest.mark.parametrize("folder", DEPLOYED)
def test_containers_and_services_have_the_ports_of_the_server(folder: str) -> None:
    config = ServerConfig()
    expected = {"http": config.http_port, "grpc": config.grpc_port, "metrics": config.metrics_port}
    assert {port["name"]: port["containerPort"] for port in triton(folder)["ports"]} == expected
    for service in server_services(folder):
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
    for service in server_services(folder):
        assert service["spec"]["selector"].items() <= labels
    assert one(folder, "PodDisruptionBudget", SERVER)["spec"]["selector"]["matchLabels"].items() <= labels
    for spread in pod(folder)["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"].items() <= labels


def test_the_route_of_feeds_leads_only_to_existing_read_only_calls() -> None:
    methods = {method.name for method in GRPC.methods}
    assert methods >= CONTROL, "CONTROL contains a call that Triton does not have"
    found = {(path, backend["name"], backend["port"]["name"]) for _, _, path, backend in routes(OUTSIDE)}
    (rule,) = one("feeds-outside/gateway-api", "GRPCRoute")["spec"]["rules"]
    by_route = {f"/{match['method']['service']}/{match['method']['method']}" for match in rule["matches"]}
    assert {path for path, _, _ in found} == by_route
    assert {method for _, _, method in (path.split("/") for path in by_route)} <= methods - CONTROL
    assert {path.split("/")[1] for path in by_route} == {GRPC.full_name}
    # A stream is not routed: nothing limits the size of its messages.
    assert f"/{GRPC.full_name}/ModelStreamInfer" not in by_route
    assert {match["method"]["type"] for match in rule["matches"]} == {"Exact"}
    service = one("overlays/production", "Service", "reentry-feeds")
    (port,) = service["spec"]["ports"]
    assert {backend[1:] for backend in found} == {(service["metadata"]["name"], port["name"])}
    assert rule["backendRefs"] == [{"name": service["metadata"]["name"], "port": port["port"]}]
    ingress = one(OUTSIDE, "Ingress")
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/backend-protocol"] == "GRPC"
    assert {path["pathType"] for path in ingress["spec"]["rules"][0]["http"]["paths"]} == {"Exact"}


def test_a_scan_of_a_feed_outside_is_bounded_by_the_largest_one() -> None:
    size = one(OUTSIDE, "Ingress")["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
    limit = int(size.removesuffix("m")) * 2**20  # nginx counts in powers of two
    scan = schema.LARGEST_SCAN * 8 * (1 + len(schema.MEASUREMENT_COLUMNS))
    assert scan < limit < 2 * scan


@pytest.mark.parametrize("folder", DEPLOYED)
def test_pods_take_the_control_key_from_an_optional_secret(folder: str) -> None:
    (variable,) = triton(folder)["env"]
    assert variable["name"] == "REENTRY_CONTROL_KEY"
    assert variable["valueFrom"]["secretKeyRef"]["optional"] is True


def test_feeds_are_hashed_by_their_id_over_a_service_of_their_own() -> None:
    annotations = one(OUTSIDE, "Ingress")["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/upstream-hash-by"] == "$http_x_feed_id"
    rule = one("feeds-outside/gateway-api", "DestinationRule")["spec"]
    assert rule["trafficPolicy"]["loadBalancer"]["consistentHash"] == {"httpHeaderName": "x-feed-id"}
    service = one("overlays/production", "Service", "reentry-feeds")
    assert rule["host"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert not service["spec"].get("publishNotReadyAddresses")
    assert "clusterIP" not in one("overlays/production", "Service", SERVER)["spec"]
    (feeds,) = {host for _, host, _, _ in routes(OUTSIDE)}
    (gateway,) = {host for _, host, _, _ in routes("overlays/production")}
    assert feeds == f"feeds.{gateway}"
    assert one("feeds-outside/gateway-api", "GRPCRoute")["spec"]["hostnames"] == [feeds]


def test_a_feed_reaches_the_servers_and_nothing_else_but_its_sensor_and_dns() -> None:
    feed = pod_labels("feeds")
    own, admitted = one("feeds", "NetworkPolicy", "reentry-feed"), one("feeds", "NetworkPolicy", "reentry-from-feeds")
    assert own["spec"]["podSelector"]["matchLabels"].items() <= feed.items()
    assert own["spec"]["policyTypes"] == ["Ingress", "Egress"]
    servers, gateway, sensor, dns = own["spec"]["egress"]
    (peer,) = gateway["to"]
    labels = template("overlays/production", "Deployment", GATEWAY)["metadata"]["labels"]
    assert peer["podSelector"]["matchLabels"].items() <= labels.items()
    assert [port["port"] for port in gateway["ports"]] == ["http"]
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
    hard = one(folder, "ResourceQuota")["spec"]["hard"]
    # Largest number of pods at once: both releases have all their replicas and surge pods, and the replicas of one
    # earlier release are still terminating. Workers have no canary, and stores and the migration no surge pod.
    counts: list[tuple[int, Manifest]] = [(FEED_CLIENTS, pod("feeds"))]
    for name in (SERVER, GATEWAY):
        deployment = one(folder, "Deployment", name)["spec"]
        most = one(folder, "HorizontalPodAutoscaler", name)["spec"]["maxReplicas"]
        surge = deployment["strategy"]["rollingUpdate"]["maxSurge"]
        counts.append((2 * (most + surge) + most, deployment["template"]["spec"]))
    workers = one(folder, "Deployment", WORKER)["spec"]
    surge = workers["strategy"]["rollingUpdate"]["maxSurge"]
    counts.append((2 * workers["replicas"] + surge, workers["template"]["spec"]))
    single = [*every(folder, "StatefulSet"), *every(folder, "Job")]
    counts += [(1, workload["spec"]["template"]["spec"]) for workload in single]
    assert int(hard["pods"]) == sum(count for count, _ in counts)
    for resource in ("cpu", "memory"):
        assert quantity(hard[f"limits.{resource}"]) == quantity(hard[f"requests.{resource}"])
        needed = sum(
            count * max(quantity(container["resources"]["limits"][resource]) for container in containers(spec))
            for count, spec in counts
        )
        # A sidecar of the mesh counts too; the migration and the clients of feeds have none.
        sidecar = server_deployment(folder)["spec"]["template"]["metadata"].get("annotations", {})
        each = quantity(
            sidecar.get(f"sidecar.istio.io/proxy{resource.upper() if resource == 'cpu' else 'Memory'}Limit", "0")
        )
        needed += each * sum(count for count, _ in counts[:4])
        assert needed <= quantity(hard[f"limits.{resource}"]) < 1.5 * needed
    limits = triton(folder)["resources"]["limits"]
    if "nvidia.com/gpu" in limits:
        assert int(hard["requests.nvidia.com/gpu"]) == counts[1][0] * int(limits["nvidia.com/gpu"])


def test_a_laptop_node_has_room_for_the_release_a_canary_a_surge_pod_and_the_stores() -> None:
    (cpus,) = re.findall(r"minikube start .*--cpus (\d+)", (K8S / "scripts" / "minikube.sh").read_text())
    system = 1.2  # CPUs that the control plane, Calico, CoreDNS, metrics-server and ingress-nginx request
    folder = "overlays/minikube"
    needed = sum(
        pods * quantity(container["resources"]["requests"]["cpu"])
        for kind, name, pods in (("Deployment", SERVER, 3), ("Deployment", GATEWAY, 3), ("Deployment", WORKER, 2))
        for container in template(folder, kind, name)["spec"]["containers"]
    )
    stores = [store["spec"]["template"]["spec"]["containers"][0] for store in every(folder, "StatefulSet")]
    needed += sum(quantity(container["resources"]["requests"]["cpu"]) for container in stores)
    assert needed <= int(cpus) - system


@pytest.mark.parametrize("folder", DEPLOYED)
def test_pods_start_on_nodes_without_a_zone_label(folder: str) -> None:
    spreads = [each for spec in pods(folder) for each in spec.get("topologySpreadConstraints", [])]
    assert {each["whenUnsatisfiable"] for each in spreads} == {"ScheduleAnyway"}


@pytest.mark.parametrize("folder", DEPLOYED)
def test_containers_are_within_the_range_of_the_namespace(folder: str) -> None:
    (limit,) = one(folder, "LimitRange")["spec"]["limits"]
    for container in (each for spec in pods(folder) for each in containers(spec)):
        for resource, most in limit["max"].items():
            assert quantity(container["resources"]["limits"][resource]) <= quantity(most)


def test_the_metric_rules_are_in_the_namespace_that_the_network_policy_admits() -> None:
    assert one("autoscaling", "ConfigMap")["metadata"]["namespace"] == "monitoring"


@pytest.mark.parametrize("folder", DEPLOYED)
def test_every_object_that_a_pod_refers_to_exists_or_is_an_external_secret(folder: str) -> None:
    present = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in build(folder)}
    for workload in workloads(folder):
        spec = workload["spec"]["template"]["spec"]
        claims = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        for container in containers(spec):
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    assert ("ConfigMap", source["configMapRef"]["name"]) in present
                else:
                    assert source["secretRef"]["name"] in (K8S / folder / "kustomization.yaml").read_text()
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted <= {volume["name"] for volume in spec["volumes"]} | claims
        for volume in spec["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in present
        assert ("ServiceAccount", spec["serviceAccountName"]) in present


@pytest.mark.parametrize("folder", ["models/pvc", "models/s3"])
def test_models_from_outside_the_image_are_mounted_read_only_at_its_models_path(folder: str) -> None:
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in triton(folder)["volumeMounts"]


def test_the_deployer_role_reads_no_secret_and_cannot_extend_its_own_rights() -> None:
    for rule in one("overlays/production", "Role")["rules"]:
        assert "secrets" not in rule["resources"]
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        if {"roles", "rolebindings", "serviceaccounts", "networkpolicies"} & set(rule["resources"]):
            assert rule["verbs"] == ["get"]
