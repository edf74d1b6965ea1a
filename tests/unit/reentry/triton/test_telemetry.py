"""Tests of the metrics that the Python models send to the Triton server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from perf.monitoring import without_metrics
from reentry.drift import REFERENCE_FILE, Reference
from reentry.schema import FEATURES
from reentry.triton import telemetry
from tests.conftest import copy_repository
from tests.unit.reentry.test_drift import STEPS, flights, reference_of


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_of(flights(100, seed=1))


class Backend:
    """Fake of Triton's metrics module, which exists only inside the server; keeps the values in a dict."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}
        self.calls = 0
        backend = self

        class MetricFamily:
            COUNTER, GAUGE = "counter", "gauge"

            def __init__(self, name: str, description: str, kind: str) -> None:  # noqa: ARG002
                self.name = name

            def Metric(self, labels: dict[str, str]) -> Series:  # noqa: N802 - Triton's name
                return Series((self.name, *labels.values()))

        class Series:
            def __init__(self, key: tuple[str, ...]) -> None:
                self.key = key
                backend.values.setdefault(key, 0.0)

            def increment(self, value: float) -> None:
                backend.calls += 1
                backend.values[self.key] += value

            def set(self, value: float) -> None:
                backend.values[self.key] = value

            def __del__(self) -> None:
                if self.key[0] == telemetry.STABILITY_INDEX.name:
                    backend.values.pop(self.key, None)

        self.MetricFamily = MetricFamily


def install(network: Path, version: int, reference: Reference) -> None:
    """Create the folder of a version with its reference."""
    (network / str(version)).mkdir()
    (network / str(version) / REFERENCE_FILE).write_text(json.dumps(reference.as_dict()))


def track_metrics(backend: Backend, network: Path) -> telemetry.TrackMetrics:
    return telemetry.TrackMetrics(telemetry.Registry(backend), network=network, model_instance="track_decision_0_0")


def record(metrics: telemetry.TrackMetrics, features: np.ndarray, *, version: int = 1, seconds: float = 0.003) -> None:
    """Record an answered request whose tracks (B, T, F) have their onset in the middle."""
    tracks, steps, _ = features.shape
    phase = np.zeros((tracks, steps), dtype=np.uint8)
    phase[:, steps // 2 :] = 1
    metrics.add(
        features=features,
        phase=phase,
        track_length=np.full(tracks, steps),
        onset_step=np.full(tracks, steps // 2),
        model_version=version,
        seconds=seconds,
    )


def test_answered_requests_are_counted(tmp_path: Path) -> None:
    backend = Backend()
    metrics = track_metrics(backend, tmp_path)
    record(metrics, flights(3, seed=1), seconds=0.003)
    record(metrics, flights(2, seed=2), seconds=0.03)
    metrics.close()
    value = backend.values
    assert value["reentry_requests_total", "answered"] == 2
    assert value["reentry_tracks_total", "1"] == value["reentry_onsets_total",] == 5
    assert value["reentry_predictions_total", "flight"] == value["reentry_predictions_total", "reentry"] == 5 * 60
    buckets = {key[1]: value[key] for key in value if key[0] == telemetry.DURATION_BUCKET.name}
    assert (buckets["0.0025"], buckets["0.005"], buckets["0.05"], buckets["+Inf"]) == (0, 1, 2, 2)
    assert value[telemetry.DURATION_COUNT.name,] == 2
    assert value[telemetry.DURATION_SUM.name,] == pytest.approx(0.033)


def test_a_model_without_features_and_durations_counts_the_rest(tmp_path: Path, reference: Reference) -> None:
    install(tmp_path, 1, reference)
    backend = Backend()
    metrics = track_metrics(backend, tmp_path)
    phase = np.zeros((2, 60), dtype=np.uint8)
    phase[:, 40:] = 1
    metrics.add(phase=phase, track_length=np.array([50, 60]), onset_step=np.array([40, -1]), model_version=1)
    record(metrics, flights(3, seed=1))
    metrics.close()
    value = backend.values
    assert value["reentry_requests_total", "answered"] == 2
    assert value["reentry_tracks_total", "1"] == 5
    assert value["reentry_onsets_total",] == 1 + 3
    assert value["reentry_predictions_total", "reentry"] == 10 + 20 + 3 * STEPS // 2
    assert value["reentry_predictions_total", "flight"] == 40 + 40 + 3 * STEPS // 2
    assert value[telemetry.DURATION_COUNT.name,] == 1
    assert value["reentry_checked_steps_total",] == 3 * len(range(1, STEPS, 16))  # only of the request with features


def test_padding_is_not_counted(tmp_path: Path, reference: Reference) -> None:
    install(tmp_path, 1, reference)
    backend = Backend()
    metrics = track_metrics(backend, tmp_path)
    features = flights(2, seed=1)
    features[0, 50:] = 1e9
    metrics.add(
        features=features,
        phase=np.ones((2, STEPS), dtype=np.uint8),
        track_length=np.array([50, STEPS]),
        onset_step=np.array([0, -1]),
        model_version=1,
        seconds=0.1,
    )
    metrics.close()
    assert backend.values["reentry_predictions_total", "reentry"] == 50 + STEPS
    assert backend.values["reentry_onsets_total",] == 1
    assert backend.values["reentry_checked_steps_total",] == len(range(1, 50, 16)) + len(range(1, STEPS, 16))
    assert backend.values["reentry_out_of_range_steps_total", "altitude"] == 0


def test_every_step_is_sampled_by_one_of_sixteen_requests(tmp_path: Path, reference: Reference) -> None:
    install(tmp_path, 1, reference)
    backend = Backend()
    metrics = track_metrics(backend, tmp_path)
    features = flights(1, seed=1)
    features[0, 37, 0] = 1e9
    for _ in range(telemetry.STEP_STRIDE):
        record(metrics, features)
    metrics.close()
    assert backend.values["reentry_checked_steps_total",] == STEPS - 1  # the first step is never watched
    assert backend.values["reentry_out_of_range_steps_total", "altitude"] == 1


def test_each_version_is_compared_with_its_own_reference(tmp_path: Path, reference: Reference) -> None:
    other = reference_of(flights(100, seed=1) * np.float32(3.0), used=("climb_rate",))
    install(tmp_path, 1, reference)
    install(tmp_path, 2, other)
    backend = Backend()
    metrics = track_metrics(backend, tmp_path)

    def index(version: str, used: str) -> float | None:
        return backend.values.get(("reentry_feature_psi", "climb_rate", used, version, "track_decision_0_0"))

    record(metrics, flights(100, seed=2), version=1)
    metrics.flush()
    assert index("1", "false") < 0.25
    record(metrics, flights(100, seed=2), version=2)
    metrics.close()
    assert index("1", "false") is None
    assert index("2", "true") > 0.25


def test_the_served_candidate_and_production_are_watched_at_once(tmp_path: Path, reference: Reference) -> None:
    network, candidate = tmp_path / "reentry_lstm", tmp_path / "reentry_lstm_candidate" / "2"
    network.mkdir()
    candidate.mkdir(parents=True)
    install(network, 1, reference)
    install(network, 2, reference_of(flights(100, seed=1) * np.float32(3.0)))
    backend = Backend()
    metrics = track_metrics(backend, network)

    def indices() -> dict[str, float]:
        psi = ("reentry_feature_psi", "climb_rate")
        return {key[3]: value for key, value in backend.values.items() if key[:2] == psi}

    for seed in range(12):  # ten tracks at a time are too few for an index, unless the earlier ones still count
        for version in (1, 2):
            record(metrics, flights(10, seed=seed), version=version)
        metrics.flush()
    found = indices()
    assert found["1"] < 0.25 < found["2"]
    candidate.rmdir()
    record(metrics, flights(10, seed=50), version=1)
    metrics.close()
    assert set(indices()) == {"1"}


def test_tracks_of_a_version_without_a_valid_reference_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / REFERENCE_FILE).write_text("{")
    backend = Backend()
    metrics = track_metrics(backend, tmp_path)
    for version in (1, 2):
        record(metrics, flights(60, seed=1), version=version)
    metrics.close()
    assert backend.values["reentry_tracks_total", "2"] == 60
    assert not [key for key in backend.values if key[0] == "reentry_feature_psi"]
    assert "drift of version 2 is not watched" in caplog.text


def first_labels(backend: Backend, family: telemetry.Family) -> set[str]:
    """Values of the first label over the series of a family."""
    return {key[1] for key in backend.values if key[0] == family.name}


def test_versions_without_a_folder_share_one_label_and_do_not_affect_drift(
    tmp_path: Path, reference: Reference
) -> None:
    install(tmp_path, 1, reference)
    backend = Backend()
    metrics = track_metrics(backend, tmp_path)
    record(metrics, flights(60, seed=2), version=1)
    metrics.flush()
    indices = {key: value for key, value in backend.values.items() if key[0] == "reentry_feature_psi"}
    for version in range(1000, 4000):
        record(metrics, flights(1, seed=1)[:, :1] * np.float32(1e9), version=version)
    metrics.flush()
    assert indices
    assert indices == {key: value for key, value in backend.values.items() if key[0] == "reentry_feature_psi"}
    metrics.close()
    assert first_labels(backend, telemetry.TRACKS) == {"1", telemetry.OTHER}
    assert backend.values["reentry_tracks_total", "1"] == 60
    assert backend.values["reentry_tracks_total", telemetry.OTHER] == 3000


def test_a_version_whose_folder_is_deleted_keeps_its_label(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    backend = Backend()
    metrics = track_metrics(backend, tmp_path)
    record(metrics, flights(1, seed=1), version=1)
    metrics.flush()
    (tmp_path / "1").rmdir()
    record(metrics, flights(1, seed=1), version=1)
    metrics.close()
    assert backend.values["reentry_tracks_total", "1"] == 2


def test_the_number_of_version_labels_is_limited_if_no_folder_lists_the_versions(tmp_path: Path) -> None:
    backend = Backend()
    metrics = track_metrics(backend, tmp_path / "absent")
    for version in range(1, 300):
        record(metrics, flights(1, seed=1)[:, :1], version=version)
    metrics.close()
    assert len(first_labels(backend, telemetry.TRACKS)) == telemetry.MOST_VERSIONS + 1


def test_features_that_are_not_finite_do_not_count_as_drift(tmp_path: Path, reference: Reference) -> None:
    install(tmp_path, 1, reference)
    backend = Backend()
    metrics = track_metrics(backend, tmp_path)
    features = flights(60, seed=2)
    features[..., FEATURES.index("drag_long")] = np.nan  # not computed, since no version uses it
    record(metrics, features)
    metrics.flush()
    checked = backend.values["reentry_checked_steps_total",]
    assert checked == 60 * len(range(0, STEPS, telemetry.STEP_STRIDE))
    for value in (np.nan, np.inf):
        record(metrics, np.full_like(features, value))
    metrics.close()
    assert backend.values["reentry_checked_steps_total",] == checked
    assert sum(value for key, value in backend.values.items() if key[0] == "reentry_out_of_range_steps_total") < 100
    assert all(np.isfinite(value) for value in backend.values.values())


def test_many_requests_are_sent_to_the_server_in_few_messages(tmp_path: Path) -> None:
    backend = Backend()
    metrics = track_metrics(backend, tmp_path)
    track = flights(1, seed=1)
    for _ in range(500):
        record(metrics, track, seconds=1e-6)
    metrics.close()
    assert backend.values["reentry_requests_total", "answered"] == 500
    assert backend.calls < 100  # one or two flushes of about 25 messages each


def test_the_benchmark_of_the_metrics_changes_only_track_decision(tmp_path: Path) -> None:
    repository = copy_repository(tmp_path)
    silent = without_metrics(repository, tmp_path)
    changed = {
        str(path.relative_to(silent))
        for path in silent.rglob("*")
        if path.is_file() and path.read_text() != (repository / path.relative_to(silent)).read_text()
    }
    assert changed == {"track_decision/1/model.py"}
