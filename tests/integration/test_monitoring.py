"""Metrics of a real server under load, and every query of the dashboard and the rules in a real Prometheus."""

from __future__ import annotations

import json
import queue
import re
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from client.predict import PredictConfig, predict_file
from reentry import schema
from reentry.drift import REFERENCE_FILE, Reference, watched_steps
from reentry.features.track import track_features
from reentry.serving import EmbeddedServer
from reentry.training_range import ranges_of
from reentry.triton import live_metrics, telemetry
from reentry.triton.feature_demand import mark_not_computed
from tests.conftest import grpc_key, make_repository, on_free_ports
from tests.feed_client import FeedClient, running_feed, until
from tests.integration.test_serving import make_tracks, request_inputs
from tests.live_models import write_live_models
from tests.prometheus import (
    Prometheus,
    concrete,
    dashboard_queries,
    of_gateway,
    of_lake,
    rule_queries,
    running_prometheus,
    selectors,
)
from tests.toy_model import write_toy_model
from tests.versions import pin

EXTERNAL = {
    "container_cpu_usage_seconds_total": "cAdvisor",
    "container_memory_working_set_bytes": "cAdvisor",
    "kube_pod_container_resource_limits": "kube-state-metrics",
    "kube_pod_container_status_restarts_total": "kube-state-metrics",
}
"""Exporter of each metric that comes from the cluster and not from the server."""

REQUESTS, TRACKS, STEPS = 120, 4, 100


def write_reference(folder: Path, *used: str) -> None:
    """Write the drift reference of a version that was trained on flights like those that the tests send."""
    tracks = make_tracks(200, STEPS, seed=9)
    features = track_features(tracks)
    steps = features[:, watched_steps(STEPS)].reshape(-1, len(schema.FEATURES))
    reference = Reference.of(steps, np.arange(len(steps)) % 4 == 0, used or ("altitude_fraction",))
    reference = replace(reference, ranges=ranges_of(reference, zip(tracks, features, strict=True)))
    (folder / REFERENCE_FILE).write_text(json.dumps(reference.as_dict()))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server with two instances of track_decision, a version that has a drift reference, and live tracks."""
    repository = make_repository(tmp_path_factory.mktemp("watched"))
    shutil.copytree(write_live_models(tmp_path_factory.mktemp("live")), repository, dirs_exist_ok=True)
    write_reference(repository / "reentry_lstm/1")
    config = on_free_ports(repository, instances=4)
    with EmbeddedServer(config) as server:
        yield server


@pytest.fixture(scope="module")
def loaded(watched: EmbeddedServer) -> EmbeddedServer:
    """The same server after `REQUESTS` valid requests and two invalid ones."""

    def send(number: int) -> None:
        with triton.InferenceServerClient(watched.grpc_url) as client:
            client.infer(schema.ENSEMBLE.name, request_inputs(make_tracks(TRACKS, STEPS, seed=number)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(REQUESTS)))
    broken = make_tracks(1, STEPS)
    broken[0, 3, 3] = np.nan
    with triton.InferenceServerClient(watched.grpc_url) as client:
        for inputs in (request_inputs(broken), request_inputs(make_tracks(1, STEPS), [STEPS + 1])):
            with pytest.raises(InferenceServerException):
                client.infer(schema.ENSEMBLE.name, inputs)
    until(lambda: total(watched, "reentry_requests_total") == REQUESTS + 2)
    until(lambda: total(watched, "reentry_tracks_total") == REQUESTS * TRACKS)  # this metric is updated last
    return watched


@pytest.fixture(scope="module")
def feed(loaded: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeedClient]:
    """A client of a live feed that has replayed a track, because the server had lost it."""

    def reload() -> None:
        with triton.InferenceServerClient(loaded.grpc_url) as client:
            client.unload_model(schema.REENTRY_SCAN.name, headers=grpc_key(loaded))
            client.load_model(schema.REENTRY_SCAN.name, headers=grpc_key(loaded))

    with running_feed(loaded.grpc_url, tmp_path_factory.mktemp("feed")) as running:
        measurements = running.send_flight(before_second_half=reload)
        until(lambda: running.updates() == measurements)
        yield running


@pytest.fixture(scope="module")
def prometheus(
    loaded: EmbeddedServer, feed: FeedClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a server and a feed under load."""
    target = loaded.metrics_url.removeprefix("http://").removesuffix("/metrics")
    ended = threading.Event()

    def load() -> None:
        inputs = request_inputs(make_tracks(TRACKS, STEPS))
        row = triton.InferInput(schema.MEASUREMENT.name, [1, 6], "FP64").set_data_from_numpy(make_tracks(1, 1)[0])
        with triton.InferenceServerClient(loaded.grpc_url) as client:
            while not ended.wait(0.5):
                client.infer(schema.ENSEMBLE.name, inputs)
                client.infer(
                    schema.REENTRY_STREAM.name, [row], sequence_id="one", sequence_start=True, sequence_end=True
                )
                feed.send_flight()

    with (
        running_prometheus(tmp_path_factory.mktemp("prometheus"), server=target, feed=feed.metrics) as running,
        ThreadPoolExecutor(1) as pool,
    ):
        loading = pool.submit(load)
        try:
            until(lambda: bool(running.query("reentry:reentry_steps:ratio_rate1h > 0")))
            until(lambda: bool(running.query("reentry:alert_latency_seconds:p99_10m > 0")))
            yield running
        finally:
            ended.set()
        loading.result()


def exported(server: EmbeddedServer) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return the value of each metric that the server exports, by name and labels."""
    with urllib.request.urlopen(server.metrics_url, timeout=60) as answer:
        text = answer.read().decode()
    values = {}
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
        pairs = re.findall(r'(\w+)="([^"]*)"', labels)
        values[name, tuple(f"{key}={label}" for key, label in sorted(pairs))] = float(value)
    return values


def total(server: EmbeddedServer, name: str) -> float:
    return sum(value for (found, _), value in exported(server).items() if found == name)


def test_counts_of_two_instances_add_up(loaded: EmbeddedServer) -> None:
    values = exported(loaded)
    assert values["reentry_requests_total", ("outcome=refused",)] == 2  # one by track_features, one by track_decision
    assert values["reentry_requests_total", ("outcome=answered",)] == REQUESTS
    assert values["reentry_tracks_total", ("model_version=1",)] == REQUESTS * TRACKS
    assert total(loaded, "reentry_predictions_total") == REQUESTS * TRACKS * STEPS
    log = [json.loads(line) for line in loaded.prediction_log.read_text().splitlines()][: REQUESTS * TRACKS]
    assert values["reentry_onsets_total", ()] == sum(line["onset_step"] is not None for line in log)
    instances = {label for (name, labels) in values for label in labels if name == "reentry_feature_psi"}
    assert {"model_instance=track_decision_0_0", "model_instance=track_decision_0_1"} <= instances


def test_the_ensemble_counts_a_refused_request_as_two_failures(loaded: EmbeddedServer) -> None:
    values = exported(loaded)
    assert values["nv_inference_request_failure", ("model=reentry", "reason=OTHER", "version=1")] == 2 * 2
    assert values["nv_inference_request_success", ("model=reentry", "version=1")] == REQUESTS


def test_the_histogram_holds_the_times_of_the_prediction_log(loaded: EmbeddedServer) -> None:
    values = exported(loaded)
    buckets = {labels[0].removeprefix("le="): value for (name, labels), value in values.items() if "_bucket" in name}
    ordered = [buckets[bound] for bound in sorted(buckets, key=float)]
    assert len(ordered) == len(telemetry.LATENCY_BUCKETS) + 1
    assert ordered == sorted(ordered)
    assert ordered[-1] == values["reentry_inference_duration_seconds_count", ()] == REQUESTS
    log = [json.loads(line)["inference_ms"] for line in loaded.prediction_log.read_text().splitlines()]
    logged = sum(log[: REQUESTS * TRACKS]) / TRACKS / 1e3
    assert values["reentry_inference_duration_seconds_sum", ()] == pytest.approx(logged, rel=0.2)


def test_every_declared_metric_is_exported_with_its_labels_and_no_other(loaded: EmbeddedServer) -> None:
    found = {}
    for name, labels in exported(loaded):
        if name.startswith("reentry_"):
            found[name] = {label.partition("=")[0] for label in labels}
    families = (*telemetry.FAMILIES, *live_metrics.FAMILIES)
    assert found == {family.name: set(family.labels) for family in families}


def test_flights_like_the_training_data_neither_drift_nor_leave_its_range(loaded: EmbeddedServer) -> None:
    values = exported(loaded)
    indices = {labels: value for (name, labels), value in values.items() if name == "reentry_feature_psi"}
    assert max(indices.values()) < 0.25
    assert {label for labels in indices for label in labels if label.startswith("feature=")} == {
        f"feature={name}" for name in schema.SIMPLE_FEATURES
    }
    outside = total(loaded, "reentry_out_of_range_steps_total")
    assert outside < 0.02 * values["reentry_checked_steps_total", ()] * len(schema.SIMPLE_FEATURES)


def test_features_that_no_version_uses_are_not_computed(loaded: EmbeddedServer) -> None:
    tracks = make_tracks(2, STEPS)
    with triton.InferenceServerClient(loaded.grpc_url) as client:
        features = client.infer("track_features", request_inputs(tracks)[:2]).as_numpy("features")
    expected = track_features(tracks)
    mark_not_computed(expected, frozenset())
    np.testing.assert_array_equal(features[:, :STEPS], expected)


def test_a_direct_call_of_track_decision_cannot_corrupt_a_metric(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    config = on_free_ports(repository, instances=1)
    tracks = make_tracks(1, STEPS)
    features = track_features(tracks)
    refused = [("started_at", np.array([[value]])) for value in (np.nan, -np.inf, -1e9, time.monotonic() + 1e6)]
    refused += [("model_version", np.array([[version]])) for version in (0, -5)]
    refused += [("reentry_probability", np.full((1, STEPS), value, np.float32)) for value in (np.nan, 7.5)]
    with EmbeddedServer(config) as server, triton.InferenceServerClient(server.grpc_url) as client:
        for name, value in refused:
            with pytest.raises(InferenceServerException, match=name) as refusal:
                decide(client, tracks, features, **{name: value})
            assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"
        tracks[0, 3, 0] = np.nan
        with pytest.raises(InferenceServerException, match="row 3, column timestamp: not finite"):
            decide(client, tracks, features)
        tracks[0, 3, 0] = tracks[0, 2, 0]
        for version in range(2, 52):
            decide(client, tracks, features, model_version=np.array([[version]]))
        client.infer(schema.ENSEMBLE.name, request_inputs(tracks))
        until(lambda: total(server, "reentry_tracks_total") == 51)  # this metric is updated last
        values = exported(server)
    assert {labels for name, labels in values if name == "reentry_tracks_total"} == {
        ("model_version=1",),
        ("model_version=other",),
    }
    assert values["reentry_requests_total", ("outcome=refused",)] == len(refused) + 1
    assert 0.0 < values["reentry_inference_duration_seconds_sum", ()] < 600.0
    assert all(np.isfinite(value) for (name, _), value in values.items() if name.startswith("reentry_"))


def test_prometheus_finds_the_pod_by_its_labels_and_its_port(prometheus: Prometheus) -> None:
    targets = prometheus.get("/api/v1/targets", state="active")["activeTargets"]
    assert {target["health"] for target in targets} == {"up"}
    labels = [{name: label for name, label in target["labels"].items() if name != "instance"} for target in targets]
    assert sorted(labels, key=lambda each: each["job"]) == [
        {"job": "reentry", "namespace": "reentry", "pod": "reentry-0", "release": "stable"},
        {"job": "reentry-feed", "namespace": "reentry", "pod": "reentry-feed-0"},
    ]


def of_server(query: str) -> bool:
    return not of_gateway(query) and not of_lake(query)


@pytest.mark.parametrize("query", [query for query in (*dashboard_queries(), *rule_queries()) if of_server(query)])
def test_every_query_is_valid_and_uses_metrics_that_the_server_exports(prometheus: Prometheus, query: str) -> None:
    prometheus.query(concrete(query))  # raises an exception if the query is invalid
    named = selectors(concrete(query))
    assert named
    for selector in named:
        if selector.partition("{")[0] not in EXTERNAL:
            until(lambda: bool(prometheus.query(selector)))  # noqa: B023


def uses_only_server_metrics(query: str) -> bool:
    return of_server(query) and not any(name in query for name in EXTERNAL)


@pytest.mark.parametrize("query", [query for query in dashboard_queries() if uses_only_server_metrics(query)])
def test_every_panel_has_data(prometheus: Prometheus, query: str) -> None:
    until(lambda: any(np.isfinite(float(one["value"][1])) for one in prometheus.query(concrete(query))))


def test_no_alert_fires_for_a_healthy_server(prometheus: Prometheus) -> None:
    until(lambda: prometheus.query('reentry:feature_psi:avg{used="true"}') != [])
    firing = prometheus.query('ALERTS{alertstate="firing",alertname!="ReentryGatewayAbsent"}')
    assert firing == []
    groups = prometheus.get("/api/v1/rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


def test_a_request_rejected_by_a_full_queue_counts_twice_for_the_ensemble_and_never_for_its_member(
    tmp_path: Path,
) -> None:
    repository = make_repository(tmp_path)
    config = repository / "track_features/config.pbtxt"
    config.write_text(config.read_text().replace("max_queue_size: 512", "max_queue_size: 1"))
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    outcomes: queue.Queue[Exception | None] = queue.Queue()

    def record(result: object, error: Exception | None) -> None:
        outcomes.put(error)

    with (
        EmbeddedServer(on_free_ports(repository, **ports)) as server,
        triton.InferenceServerClient(server.grpc_url) as client,
    ):
        inputs = request_inputs(make_tracks(32, 1000))
        for _ in range(50):
            client.async_infer(schema.ENSEMBLE.name, inputs, record)
        rejected = sum(outcomes.get(timeout=300) is not None for _ in range(50))
        until(lambda: exported(server)["reentry_requests_total", ("outcome=answered",)] == 50 - rejected)
        success = ("nv_inference_request_success", ("model=reentry", "version=1"))
        until(lambda: exported(server)[success] == 50 - rejected)
        values = exported(server)
    assert rejected > 0
    assert values["nv_inference_request_failure", ("model=reentry", "reason=OTHER", "version=1")] == 2 * rejected
    assert values["nv_inference_request_failure", ("model=track_features", "reason=REJECTED", "version=1")] == 0


def test_a_request_without_the_features_that_its_network_reads_gets_the_status_unavailable(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    network = repository / "reentry_lstm"
    write_reference(network / "1")
    config = on_free_ports(repository, instances=1)
    tracks = make_tracks(2, STEPS)

    with EmbeddedServer(config) as server, triton.InferenceServerClient(server.grpc_url) as client:
        features = client.infer("track_features", request_inputs(tracks)[:2]).as_numpy("features")
        client.infer(schema.ENSEMBLE.name, request_inputs(tracks))
        decide(client, tracks, features)
        # Now the network reads a robust feature, as if another version had been promoted between the two calls.
        write_reference(network / "1", "drag_long")
        with pytest.raises(InferenceServerException, match="not computed for this request") as refusal:
            decide(client, tracks, features)
        assert refusal.value.status() == "StatusCode.UNAVAILABLE"  # the client retries after this status
        until(lambda: answered(client, tracks))
        until(lambda: has_features(client, tracks, frozenset({"robust"})))
        write_reference(network / "1", *schema.ORBIT_FEATURES)
        nothing = {schema.PROBABILITY.name: np.full(features.shape[:2], np.nan, dtype=np.float32)}
        for changes in ({}, nothing):  # features that were not computed are the cause of NaN
            with pytest.raises(InferenceServerException, match="not computed for this request") as refusal:
                decide(client, tracks, features, **changes)
            assert refusal.value.status() == "StatusCode.UNAVAILABLE"
        until(lambda: answered(client, tracks))
        until(lambda: has_features(client, tracks, frozenset({"orbit"})))


def has_features(client: triton.InferenceServerClient, tracks: np.ndarray, groups: frozenset[str]) -> bool:
    """Whether track_features computes just these groups of features; each of its instances notices that it must."""
    features = client.infer("track_features", request_inputs(tracks)[:2]).as_numpy("features")[:, :STEPS]
    expected = track_features(tracks, groups=groups)
    mark_not_computed(expected, groups)
    return np.array_equal(features, expected, equal_nan=True)


def decide(
    client: triton.InferenceServerClient, tracks: np.ndarray, features: np.ndarray, **changes: np.ndarray
) -> None:
    """Call track_decision directly. In production only the ensemble calls it."""
    batch = len(tracks)
    values = {
        schema.FEATURES_TENSOR: features,
        schema.PROBABILITY: np.full(features.shape[:2], 0.5, dtype=np.float32),
        schema.MODEL_VERSION: np.ones((batch, 1), dtype=np.int64),
        schema.STARTED_AT: np.full((batch, 1), time.monotonic()),
    }
    inputs = request_inputs(tracks)
    for tensor, default in values.items():
        value = changes.get(tensor.name, default)
        inputs.append(triton.InferInput(tensor.name, value.shape, tensor.dtype))
        inputs[-1].set_data_from_numpy(value)
    client.infer(schema.TRACK_DECISION.name, inputs)


def answered(client: triton.InferenceServerClient, tracks: np.ndarray) -> bool:
    try:
        client.infer(schema.ENSEMBLE.name, request_inputs(tracks))
    except InferenceServerException as error:
        if error.status() != "StatusCode.UNAVAILABLE":
            raise
        return False
    return True


def test_a_new_version_resets_the_drift_of_the_previous_one(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    write_reference(repository / "reentry_lstm/1")
    config = on_free_ports(repository, instances=4)
    with EmbeddedServer(config) as server, triton.InferenceServerClient(server.grpc_url) as client:

        def drift_of() -> set[str]:
            inputs = request_inputs(make_tracks(60, STEPS))
            with ThreadPoolExecutor(2) as pool:  # one request at a time for each instance of track_decision
                list(pool.map(lambda _: client.infer(schema.ENSEMBLE.name, inputs), range(4)))
            labels = {label for (name, found) in exported(server) if name == "reentry_feature_psi" for label in found}
            return {label for label in labels if label.startswith("model_version")}

        until(lambda: drift_of() == {"model_version=1"})
        write_toy_model(repository / "reentry_lstm/2/model.onnx", version=2)
        write_reference(repository / "reentry_lstm/2")
        pin(repository, 2)
        client.load_model("reentry_lstm", headers=grpc_key(server))
        until(lambda: drift_of() == {"model_version=2"})
        shares = {labels for (name, labels) in exported(server) if name == "reentry_training_reentry_ratio"}
    assert shares == {("model_version=2",)}


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_file_is_compared_with_the_training_of_the_version_that_answers(
    scheme: str, loaded: EmbeddedServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracks = make_tracks(10, STEPS, seed=5)
    tracks[2:5, :, schema.MEASUREMENT_COLUMNS.index("altitude")] /= 1000.0
    table = pd.DataFrame(tracks.reshape(-1, tracks.shape[-1]), columns=list(schema.MEASUREMENT_COLUMNS))
    table.assign(track_id=np.repeat(np.arange(10), STEPS)).to_csv(tmp_path / "tracks.csv", index=False)
    address = {"grpc": loaded.grpc_url, "http": loaded.http_url}[scheme]
    config = PredictConfig(source=tmp_path / "tracks.csv", out=tmp_path / "out", url=f"{scheme}://{address}")
    prediction = predict_file(config)
    warnings = caplog.messages
    assert "unlike the training of model version 1: apogee" in warnings[0]
    assert warnings[0].endswith("(kilometres instead of metres?)")
    assert all("3 of 10 tracks" in line for line in warnings)
    counts = {each["quantity"]: each["tracks"] for each in json.loads(prediction.to_json())["unlike_training"]}
    assert counts["apogee"] == counts["drift.altitude"] == 3
    logged = [json.loads(line) for line in (tmp_path / "out/inference.jsonl").read_text().splitlines()]
    assert ["apogee" in line["unlike_training"] for line in logged] == [False] * 2 + [True] * 3 + [False] * 5
    assert [line["unlike_training"] for line in logged[5:]] == [[]] * 5
