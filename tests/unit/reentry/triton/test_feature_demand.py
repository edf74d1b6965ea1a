"""Which features the server computes, and that a network that reads others than those never answers."""

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
    """A version that looks at the named features."""
    steps = np.random.default_rng(version).normal(size=(50, len(FEATURES))).astype(np.float32)
    made = network.parent / f"staged-{version}"
    made.mkdir(parents=True)
    reference = Reference.of(steps, np.zeros(50), used)
    (made / REFERENCE_FILE).write_text(json.dumps(reference.as_dict()))
    network.mkdir(exist_ok=True)
    return made.rename(network / str(version))


def test_robust_features_are_wanted_from_the_installation_of_a_version_that_looks_at_one(tmp_path: Path) -> None:
    network = tmp_path / "reentry_lstm"
    install(network, 1, "altitude_fraction")
    wanted = RobustDemand(network)
    assert not wanted()
    second = install(network, 2, "altitude_fraction", "drag_long")
    assert wanted()
    shutil.rmtree(second)
    assert not wanted()


@pytest.mark.parametrize("content", [None, "{", '{"schema_version": 1}'])
def test_a_version_that_does_not_say_might_look_at_any(tmp_path: Path, content: str | None) -> None:
    network = tmp_path / "reentry_lstm"
    version = install(network, 1, "altitude_fraction")
    (version / REFERENCE_FILE).unlink()
    if content is not None:
        (version / REFERENCE_FILE).write_text(content)
    assert RobustDemand(network)()


def test_where_the_network_is_not_beside_them_all_features_are_computed(tmp_path: Path) -> None:
    wanted = RobustDemand(tmp_path / "reentry_lstm")
    assert wanted()
    install(tmp_path / "reentry_lstm", 1, "altitude")
    assert not wanted()
    (tmp_path / "reentry_lstm").rename(tmp_path / "gone")
    assert wanted()


def test_a_folder_whose_time_does_not_change_is_read_again_after_a_while(tmp_path: Path) -> None:
    network = tmp_path / "reentry_lstm"
    install(network, 1, "altitude_fraction")
    now = 100.0
    wanted = RobustDemand(network, clock=lambda: now)
    assert not wanted()
    before = network.stat()
    install(network, 2, "drag_long")
    os.utime(network, ns=(before.st_atime_ns, before.st_mtime_ns))  # as some network file systems have it
    assert not wanted()
    now += RECHECK_SECONDS
    assert wanted()


def features_of() -> np.ndarray:
    return np.ones((2, 4, len(FEATURES)), dtype=np.float32)


def test_robust_features_that_were_not_computed_are_nan_and_no_others() -> None:
    features = features_of()
    mark_not_computed(features)
    for column, name in enumerate(FEATURES):
        assert np.isnan(features[..., column]).all() == (name in ROBUST_FEATURES)


@pytest.mark.parametrize("name", ROBUST_FEATURES)
def test_a_version_that_looks_at_a_robust_feature_does_not_answer_without_it(tmp_path: Path, name: str) -> None:
    install(tmp_path / "reentry_lstm", 7, "altitude_fraction", name)
    use = RobustUse(tmp_path / "reentry_lstm")
    features = features_of()
    use.require_computed(features, 7)
    mark_not_computed(features)
    with pytest.raises(NotComputedError, match=r"version 7 .* were not computed .*; fix: send the request again"):
        use.require_computed(features, 7)


def test_a_version_that_looks_at_simple_features_alone_answers_without_the_others(tmp_path: Path) -> None:
    install(tmp_path / "reentry_lstm", 7, *SIMPLE_FEATURES)
    features = features_of()
    mark_not_computed(features)
    RobustUse(tmp_path / "reentry_lstm").require_computed(features, 7)


def test_a_version_of_which_nothing_is_known_does_not_answer_without_them(tmp_path: Path) -> None:
    use = RobustUse(tmp_path / "reentry_lstm")
    assert use(7)
    version = install(tmp_path / "reentry_lstm", 7, "altitude")
    assert not use(7)
    shutil.rmtree(version)  # the server may run it for a while
    assert not use(7)
    version.mkdir()
    assert use(7)


def test_a_version_that_is_replaced_is_read_again(tmp_path: Path) -> None:
    network = tmp_path / "reentry_lstm"
    version = install(network, 7, "altitude")
    use = RobustUse(network)
    assert not use(7)
    shutil.rmtree(version)
    install(network, 7, "drag_long")
    assert use(7)
