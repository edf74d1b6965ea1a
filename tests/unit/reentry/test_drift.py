"""Drift against a training reference, and the counts that go to the server."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from perf.monitoring import without_metrics
from reentry.drift import (
    FEWEST_TRACKS,
    REFERENCE_FILE,
    Drift,
    Reference,
    bin_counts,
    stability_index,
    watched_steps,
)
from reentry.errors import CheckpointError
from reentry.features.track import track_features
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS, SIMPLE_FEATURES
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from reentry.triton import telemetry
from tests.conftest import copy_repository

STEPS = 120


def flights(tracks: int, seed: int) -> np.ndarray:
    """Features (B, T, F)."""
    config = TrapezoidConfig(tracks=tracks, seed=seed, shortest=STEPS, longest=STEPS, labels=False)
    table = simulate_trapezoid(config)
    return track_features(table[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64).reshape(tracks, STEPS, -1))


def reference_of(features: np.ndarray, used: tuple[str, ...] = ("altitude_fraction",)) -> Reference:
    rows = features[:, watched_steps(features.shape[1])].reshape(-1, len(FEATURES))
    return Reference.of(rows, np.arange(len(rows)) % 4 == 0, used)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_of(flights(100, seed=1))


class Backend:
    """Triton's telemetry, kept in a dict: the one seam that exists inside the server alone."""

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


def tracker(backend: Backend, network: Path) -> telemetry.TrackMetrics:
    return telemetry.TrackMetrics(telemetry.Registry(backend), network=network, model_instance="track_decision_0_0")


def answer(made: telemetry.TrackMetrics, features: np.ndarray, *, version: int = 1, seconds: float = 0.003) -> None:
    tracks, steps, _ = features.shape
    phase = np.zeros((tracks, steps), dtype=np.uint8)
    phase[:, steps // 2 :] = 1
    made.add(
        features=features,
        phase=phase,
        track_length=np.full(tracks, steps),
        onset_step=np.full(tracks, steps // 2),
        model_version=version,
        seconds=seconds,
    )


def test_the_index_is_the_sum_of_both_divergences() -> None:
    # By hand: (0.5 - 0.25) ln 2 + (0.5 - 0.75) ln(2 / 3)
    expected = 0.25 * np.log(2.0) - 0.25 * np.log(2.0 / 3.0)
    assert stability_index(np.array([0.5, 0.5]), np.array([0.25, 0.75])) == pytest.approx(expected)


shares = arrays.arrays(np.float64, 5, elements=st.floats(0.0, 1.0)).filter(lambda x: x.sum() > 0.1)


@given(shares, shares)
def test_the_index_is_symmetric_never_negative_and_zero_for_equals(a: np.ndarray, b: np.ndarray) -> None:
    a, b = a / a.sum(), b / b.sum()
    assert stability_index(a, b) >= 0.0
    assert stability_index(a, b) == pytest.approx(stability_index(b, a))
    assert stability_index(a, a) == 0.0


@given(arrays.arrays(np.float32, st.integers(1, 50), elements=st.floats(-10, 10, width=32)))
def test_every_value_falls_into_one_bin(values: np.ndarray) -> None:
    edges = np.array([-1.0, 0.0, 1.0])
    counts = bin_counts(values, edges)
    expected = [(values < -1).sum(), ((values >= -1) & (values < 0)).sum(), ((values >= 0) & (values < 1)).sum()]
    assert counts.tolist() == [*expected, (values >= 1).sum()]


def test_the_reference_holds_all_of_its_own_data(reference: Reference) -> None:
    assert tuple(reference.features) == FEATURES
    assert [name for name, feature in reference.features.items() if feature.used] == ["altitude_fraction"]
    assert reference.reentry_share == 0.25
    for feature in reference.features.values():
        assert sum(feature.shares) == pytest.approx(1.0)
        assert list(feature.edges) == sorted(set(feature.edges))
        assert len(feature.shares) == len(feature.edges) - 1
    own = flights(100, seed=1)[:, 1:].reshape(-1, len(FEATURES))
    assert set(Drift(reference).add(own, 100).values()) == {0}


def test_a_constant_feature_has_one_bin_that_noise_does_not_leave(reference: Reference) -> None:
    steps = np.full((1000, len(FEATURES)), 0.5, dtype=np.float32)
    constant = Reference.of(steps, np.zeros(1000), ())
    for change, outside in ((1e-6, 0), (0.1, 1000)):
        assert Drift(constant).add(steps + np.float32(change), 1)["time_step"] == outside


@pytest.mark.parametrize("common", [0.5, 0.0, 2.0])
def test_a_value_of_most_steps_has_a_narrow_bin_of_its_own(common: float) -> None:
    steps = np.full((1000, len(FEATURES)), common, dtype=np.float32)
    steps[:5], steps[5:10] = 0.0, 2.0
    edges = np.asarray(Reference.of(steps, np.zeros(1000), ()).features["time_step"].edges)
    counts = bin_counts(np.array([common - 0.01, common, common + 0.01]), edges)
    assert counts.max() == 1, f"{edges} hold a value and its neighbours together"
    assert counts[0] + counts[-1] == (common in (0.0, 2.0))


def test_a_track_of_one_step_leaves_no_index(reference: Reference) -> None:
    drift = Drift(reference)
    drift.add(np.empty((0, len(FEATURES)), dtype=np.float32), FEWEST_TRACKS)
    assert drift.indices() == {}


def test_flights_of_the_same_kind_do_not_drift(reference: Reference) -> None:
    drift = Drift(reference)
    drift.add(flights(300, seed=2)[:, 1:].reshape(-1, len(FEATURES)), 300)
    assert max(drift.indices().values()) < 0.1


def test_flights_of_twice_the_height_drift_and_leave_the_range(reference: Reference) -> None:
    drift = Drift(reference)
    changed = flights(100, seed=2)
    changed[..., FEATURES.index("altitude")] *= 2.0
    outside = drift.add(changed.reshape(-1, len(FEATURES)), 100)
    indices = drift.indices()
    assert indices["altitude"] > 0.25
    assert outside["altitude"] > 0.3 * changed[..., 0].size
    assert indices["altitude_fraction"] < 0.1


def test_the_index_waits_for_enough_tracks(reference: Reference) -> None:
    drift = Drift(reference)
    track = flights(1, seed=3)[0]
    for _ in range(FEWEST_TRACKS - 1):
        drift.add(track, 1)
    assert drift.indices() == {}
    drift.add(track, 1)
    assert set(drift.indices()) == set(SIMPLE_FEATURES)


def test_of_the_robust_features_those_are_watched_that_the_network_looks_at() -> None:
    steps = flights(100, seed=1).reshape(-1, len(FEATURES))
    drift = Drift(Reference.of(steps, np.zeros(len(steps)), ("altitude", "drag_long")))
    assert drift.watched == (*SIMPLE_FEATURES, "drag_long")
    moved = steps.copy()
    moved[:, FEATURES.index("drag_long")] = steps.max() + 1.0
    assert drift.add(moved, 100) == dict.fromkeys(SIMPLE_FEATURES, 0) | {"drag_long": len(steps)}


def test_what_drifted_is_forgotten_again(reference: Reference) -> None:
    drift = Drift(reference)
    drift.add(flights(100, seed=2).reshape(-1, len(FEATURES)) * np.float32(3.0), 100)
    worst = max(drift.indices().values())
    drift.add(flights(300, seed=4)[:, 1:].reshape(-1, len(FEATURES)), 5000)
    assert max(drift.indices().values()) < 0.1 < 0.25 < worst


def test_a_reference_is_read_as_it_was_written(reference: Reference, tmp_path: Path) -> None:
    assert Reference.load(tmp_path) is None
    (tmp_path / REFERENCE_FILE).write_text(json.dumps(reference.as_dict()))
    assert Reference.load(tmp_path) == reference


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 1, "features": ["x"]}'])
def test_a_broken_reference_is_refused_with_its_place(tmp_path: Path, content: str) -> None:
    (tmp_path / REFERENCE_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=r"reference\.json: .*fix: export the version again"):
        Reference.load(tmp_path)


def test_a_reference_of_another_schema_is_refused(reference: Reference) -> None:
    with pytest.raises(CheckpointError, match="another schema version"):
        Reference.from_dict(replace(reference, schema_version=99).as_dict())


def test_what_is_answered_is_counted(tmp_path: Path) -> None:
    backend = Backend()
    made = tracker(backend, tmp_path)
    answer(made, flights(3, seed=1), seconds=0.003)
    answer(made, flights(2, seed=2), seconds=0.03)
    made.close()
    value = backend.values
    assert value["reentry_requests_total", "answered"] == 2
    assert value["reentry_tracks_total", "1"] == value["reentry_onsets_total",] == 5
    assert value["reentry_predictions_total", "flight"] == value["reentry_predictions_total", "reentry"] == 5 * 60
    buckets = {key[1]: value[key] for key in value if key[0] == telemetry.DURATION_BUCKET.name}
    assert (buckets["0.0025"], buckets["0.005"], buckets["0.05"], buckets["+Inf"]) == (0, 1, 2, 2)
    assert value[telemetry.DURATION_COUNT.name,] == 2
    assert value[telemetry.DURATION_SUM.name,] == pytest.approx(0.033)


def test_padding_counts_for_nothing(tmp_path: Path, reference: Reference) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / REFERENCE_FILE).write_text(json.dumps(reference.as_dict()))
    backend = Backend()
    made = tracker(backend, tmp_path)
    features = flights(2, seed=1)
    features[0, 50:] = 1e9
    made.add(
        features=features,
        phase=np.ones((2, STEPS), dtype=np.uint8),
        track_length=np.array([50, STEPS]),
        onset_step=np.array([0, -1]),
        model_version=1,
        seconds=0.1,
    )
    made.close()
    assert backend.values["reentry_predictions_total", "reentry"] == 50 + STEPS
    assert backend.values["reentry_onsets_total",] == 1
    assert backend.values["reentry_checked_steps_total",] == len(range(1, 50, 16)) + len(range(1, STEPS, 16))
    assert backend.values["reentry_out_of_range_steps_total", "altitude"] == 0


def test_every_step_is_looked_at_in_turn(tmp_path: Path, reference: Reference) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / REFERENCE_FILE).write_text(json.dumps(reference.as_dict()))
    backend = Backend()
    made = tracker(backend, tmp_path)
    features = flights(1, seed=1)
    features[0, 37, 0] = 1e9
    for _ in range(telemetry.STEP_STRIDE):
        answer(made, features)
    made.close()
    assert backend.values["reentry_checked_steps_total",] == STEPS - 1  # no step lies before the first
    assert backend.values["reentry_out_of_range_steps_total", "altitude"] == 1


def test_a_new_version_is_measured_against_its_own_reference(tmp_path: Path, reference: Reference) -> None:
    other = reference_of(flights(100, seed=1) * np.float32(3.0), used=("climb_rate",))
    for version, made_from in ((1, reference), (2, other)):
        (tmp_path / str(version)).mkdir()
        (tmp_path / str(version) / REFERENCE_FILE).write_text(json.dumps(made_from.as_dict()))
    backend = Backend()
    made = tracker(backend, tmp_path)

    def index(version: str, used: str) -> float | None:
        return backend.values.get(("reentry_feature_psi", "climb_rate", used, version, "track_decision_0_0"))

    answer(made, flights(100, seed=2), version=1)
    made.flush()
    assert index("1", "false") < 0.25
    answer(made, flights(100, seed=2), version=2)
    made.close()
    assert index("1", "false") is None
    assert index("2", "true") > 0.25


def test_a_version_without_a_usable_reference_is_answered_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / REFERENCE_FILE).write_text("{")
    backend = Backend()
    made = tracker(backend, tmp_path)
    for version in (1, 2):
        answer(made, flights(60, seed=1), version=version)
    made.close()
    assert backend.values["reentry_tracks_total", "2"] == 60
    assert not [key for key in backend.values if key[0] == "reentry_feature_psi"]
    assert "drift of version 2 is not watched" in capsys.readouterr().err


def series(backend: Backend, family: telemetry.Family) -> set[str]:
    return {key[1] for key in backend.values if key[0] == family.name}


def test_versions_that_no_folder_holds_share_one_label_and_leave_drift_alone(
    tmp_path: Path, reference: Reference
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / REFERENCE_FILE).write_text(json.dumps(reference.as_dict()))
    backend = Backend()
    made = tracker(backend, tmp_path)
    answer(made, flights(60, seed=2), version=1)
    made.flush()
    indices = {key: value for key, value in backend.values.items() if key[0] == "reentry_feature_psi"}
    for version in range(1000, 4000):
        answer(made, flights(1, seed=1)[:, :1] * np.float32(1e9), version=version)
    made.flush()
    assert indices
    assert indices == {key: value for key, value in backend.values.items() if key[0] == "reentry_feature_psi"}
    made.close()
    assert series(backend, telemetry.TRACKS) == {"1", telemetry.OTHER}
    assert backend.values["reentry_tracks_total", "1"] == 60
    assert backend.values["reentry_tracks_total", telemetry.OTHER] == 3000


def test_a_version_whose_folder_is_deleted_keeps_its_label(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    backend = Backend()
    made = tracker(backend, tmp_path)
    answer(made, flights(1, seed=1), version=1)
    made.flush()
    (tmp_path / "1").rmdir()
    answer(made, flights(1, seed=1), version=1)
    made.close()
    assert backend.values["reentry_tracks_total", "1"] == 2


def test_where_no_folder_says_which_versions_exist_their_labels_are_bounded(tmp_path: Path) -> None:
    backend = Backend()
    made = tracker(backend, tmp_path / "absent")
    for version in range(1, 300):
        answer(made, flights(1, seed=1)[:, :1], version=version)
    made.close()
    assert len(series(backend, telemetry.TRACKS)) == telemetry.MOST_VERSIONS + 1


def test_features_that_are_no_numbers_do_not_count_as_drift(tmp_path: Path, reference: Reference) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / REFERENCE_FILE).write_text(json.dumps(reference.as_dict()))
    backend = Backend()
    made = tracker(backend, tmp_path)
    features = flights(60, seed=2)
    features[..., FEATURES.index("drag_long")] = np.nan  # not computed, since no version looks at it
    answer(made, features)
    made.flush()
    checked = backend.values["reentry_checked_steps_total",]
    assert checked == 60 * len(range(0, STEPS, telemetry.STEP_STRIDE))
    for value in (np.nan, np.inf):
        answer(made, np.full_like(features, value))
    made.close()
    assert backend.values["reentry_checked_steps_total",] == checked
    assert sum(value for key, value in backend.values.items() if key[0] == "reentry_out_of_range_steps_total") < 100
    assert all(np.isfinite(value) for value in backend.values.values())


def test_many_requests_cost_few_messages_to_the_server(tmp_path: Path) -> None:
    backend = Backend()
    made = tracker(backend, tmp_path)
    track = flights(1, seed=1)
    for _ in range(500):
        answer(made, track, seconds=1e-6)
    made.close()
    assert backend.values["reentry_requests_total", "answered"] == 500
    assert backend.calls < 100  # a flush by the clock or two, of some 25 each


def test_the_cost_is_measured_against_a_server_that_differs_in_nothing_else(tmp_path: Path) -> None:
    repository = copy_repository(tmp_path)
    silent = without_metrics(repository, tmp_path)
    changed = {
        str(path.relative_to(silent))
        for path in silent.rglob("*")
        if path.is_file() and path.read_text() != (repository / path.relative_to(silent)).read_text()
    }
    assert changed == {"track_decision/1/model.py"}
