"""Tests that the server computes the features its networks use, and rejects predictions without them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from reentry.drift import REFERENCE_FILE, Reference
from reentry.schema import FEATURES, ROBUST_FEATURES, SIMPLE_FEATURES
from reentry.triton.feature_demand import RECHECK_SECONDS, NotComputedError, RobustDemand, RobustUse, mark_not_computed


def install(network: Path, version: int, *used: str) -> Path:
    """Install a version that uses the named features."""
    steps = np.random.default_rng(version).normal(size=(50, len(FEATURES))).astype(np.float32)
    made = network.parent / f"staged-{version}"
    made.mkdir(parents=True)
    reference = Reference.of(steps, np.zeros(50), used)
    (made / REFERENCE_FILE).write_text(json.dumps(reference.as_dict()))
    network.mkdir(exist_ok=True)
    return made.rename(network / str(version))


def test_robust_features_are_computed_once_a_version_that_uses_one_is_installed(tmp_path: Path) -> None:
    network = tmp_path / "reentry_lstm"
    install(network, 1, "altitude_fraction")
    is_needed = RobustDemand(network)
    assert not is_needed()
    second = install(network, 2, "altitude_fraction", "drag_long")
    assert is_needed()
    shutil.rmtree(second)
    assert not is_needed()


@pytest.mark.parametrize("content", [None, "{", '{"schema_version": 1}'])
def test_a_version_without_a_valid_reference_counts_as_using_all_features(tmp_path: Path, content: str | None) -> None:
    network = tmp_path / "reentry_lstm"
    version = install(network, 1, "altitude_fraction")
    (version / REFERENCE_FILE).unlink()
    if content is not None:
        (version / REFERENCE_FILE).write_text(content)
    assert RobustDemand(network)()


def test_all_features_are_computed_if_the_folder_of_the_network_is_missing(tmp_path: Path) -> None:
    is_needed = RobustDemand(tmp_path / "reentry_lstm")
    assert is_needed()
    install(tmp_path / "reentry_lstm", 1, "altitude")
    assert not is_needed()
    (tmp_path / "reentry_lstm").rename(tmp_path / "gone")
    assert is_needed()


def test_a_folder_with_an_unchanged_time_is_read_again_after_a_while(tmp_path: Path) -> None:
    network = tmp_path / "reentry_lstm"
    install(network, 1, "altitude_fraction")
    now = 100.0
    is_needed = RobustDemand(network, clock=lambda: now)
    assert not is_needed()
    before = network.stat()
    install(network, 2, "drag_long")
    os.utime(network, ns=(before.st_atime_ns, before.st_mtime_ns))  # as on some network file systems
    assert not is_needed()
    now += RECHECK_SECONDS
    assert is_needed()


def computed_features() -> np.ndarray:
    return np.ones((2, 4, len(FEATURES)), dtype=np.float32)


def test_only_robust_features_are_marked_as_not_computed() -> None:
    features = computed_features()
    mark_not_computed(features)
    for column, name in enumerate(FEATURES):
        assert np.isnan(features[..., column]).all() == (name in ROBUST_FEATURES)


@pytest.mark.parametrize("name", ROBUST_FEATURES)
def test_a_version_that_uses_a_robust_feature_rejects_requests_without_it(tmp_path: Path, name: str) -> None:
    install(tmp_path / "reentry_lstm", 7, "altitude_fraction", name)
    use = RobustUse(tmp_path / "reentry_lstm")
    features = computed_features()
    use.require_computed(features, 7)
    mark_not_computed(features)
    with pytest.raises(NotComputedError, match=r"version 7 .* not computed .*; fix: send the request again"):
        use.require_computed(features, 7)


def test_a_version_that_uses_only_simple_features_accepts_requests_without_robust_ones(tmp_path: Path) -> None:
    install(tmp_path / "reentry_lstm", 7, *SIMPLE_FEATURES)
    features = computed_features()
    mark_not_computed(features)
    RobustUse(tmp_path / "reentry_lstm").require_computed(features, 7)


def test_a_version_without_a_known_reference_rejects_requests_without_robust_features(tmp_path: Path) -> None:
    use = RobustUse(tmp_path / "reentry_lstm")
    assert use(7)
    version = install(tmp_path / "reentry_lstm", 7, "altitude")
    assert not use(7)
    shutil.rmtree(version)  # the server may still run it
    assert not use(7)
    version.mkdir()
    assert use(7)


def test_the_reference_of_a_replaced_version_is_read_again(tmp_path: Path) -> None:
    network = tmp_path / "reentry_lstm"
    version = install(network, 7, "altitude")
    use = RobustUse(network)
    assert not use(7)
    shutil.rmtree(version)
    install(network, 7, "drag_long")
    assert use(7)
