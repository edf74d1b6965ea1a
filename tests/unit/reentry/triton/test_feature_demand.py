"""Tests that the server computes the features its networks use, and rejects predictions without them."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from reentry.drift import REFERENCE_FILE, Reference
from reentry.features import orbit
from reentry.schema import COSTLY_GROUPS, FEATURES, ORBIT_FEATURES, ROBUST_FEATURES, SIMPLE_FEATURES
from reentry.triton.feature_demand import (
    RECHECK_SECONDS,
    FeatureDemand,
    FeatureUse,
    NotComputedError,
    mark_not_computed,
)

TIMES = itertools.count(1)


def set_later_time(*paths: Path) -> None:
    """Give files or folders a later time than any before, since some systems give quick changes the same time."""
    seconds = next(TIMES)
    for path in paths:
        os.utime(path, (seconds, seconds))


def install(network: Path, version: int, *used: str) -> Path:
    """Install a version that uses the named features."""
    steps = np.random.default_rng(version).normal(size=(50, len(FEATURES))).astype(np.float32)
    made = network.parent / f"staged-{version}"
    made.mkdir(parents=True)
    reference = Reference.of(steps, np.zeros(50), used)
    (made / REFERENCE_FILE).write_text(json.dumps(reference.as_dict()))
    network.mkdir(exist_ok=True)
    installed = made.rename(network / str(version))
    set_later_time(network, installed / REFERENCE_FILE)
    return installed


def remove(version: Path) -> None:
    """Remove an installed version."""
    shutil.rmtree(version)
    set_later_time(version.parent)


NONE: frozenset[str] = frozenset()
ROBUST, ORBIT = frozenset({"robust"}), frozenset({"orbit"})
BOTH = ROBUST | ORBIT


@pytest.fixture
def warm_ups(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """An entry for each call of `orbit.warm_up`, which does nothing here."""
    calls: list[bool] = []
    monkeypatch.setattr(orbit, "warm_up", lambda: calls.append(True))
    return calls


def once_compiled(demand: FeatureDemand) -> frozenset[str]:
    """The groups of the demand as soon as the orbit features are among them."""
    deadline = time.monotonic() + 60.0
    while not demand() >= ORBIT:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return demand()


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orbit, "is_available", lambda: False)


@pytest.mark.usefixtures("warm_ups")
def test_a_group_is_computed_once_a_version_that_uses_one_of_its_features_is_installed(tmp_path: Path) -> None:
    network = tmp_path / "reentry_lstm"
    install(network, 1, "altitude_fraction")
    demand = FeatureDemand(network)
    assert demand() == NONE
    second = install(network, 2, "altitude_fraction", "drag_long")
    assert demand() == ROBUST
    third = install(network, 3, "altitude_fraction", *ORBIT_FEATURES)
    assert once_compiled(demand) == BOTH
    remove(second)
    assert demand() == ORBIT
    remove(third)
    assert demand() == NONE


def test_the_filter_is_compiled_when_a_version_first_needs_it(tmp_path: Path, warm_ups: list[bool]) -> None:
    network = tmp_path / "reentry_lstm"
    now = 0.0
    install(network, 1, "drag_long")
    demand = FeatureDemand(network, clock=lambda: now)
    assert demand() == ROBUST
    assert not warm_ups
    install(network, 2, "orbit_known")
    assert once_compiled(demand) == BOTH
    assert len(warm_ups) == 1
    now += 2 * RECHECK_SECONDS
    assert demand() == BOTH
    assert len(warm_ups) == 1


def test_requests_do_not_wait_for_the_filter_to_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, compiled = [], threading.Event()

    def warm_up() -> None:
        begun.append(threading.current_thread())
        compiled.wait(60.0)

    monkeypatch.setattr(orbit, "warm_up", warm_up)
    network = tmp_path / "reentry_lstm"
    install(network, 1, "drag_long")
    demand = FeatureDemand(network)
    assert demand() == ROBUST
    install(network, 2, *ORBIT_FEATURES)
    use = FeatureUse(network)
    for _ in range(3):
        assert demand() == ROBUST
        with pytest.raises(NotComputedError, match="send the request again"):
            use.require_computed(features_with(demand()), 2)
    compiled.set()
    use.require_computed(features_with(once_compiled(demand)), 2)
    assert len(begun) == 1
    assert begun[0] is not threading.current_thread()


def test_a_server_that_starts_waits_for_the_filter_and_fails_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("the disk is full")

    network = tmp_path / "reentry_lstm"
    install(network, 1, *ORBIT_FEATURES)
    monkeypatch.setattr(orbit, "warm_up", fail)
    with pytest.raises(OSError, match="the disk is full"):
        FeatureDemand(network)()
    monkeypatch.setattr(orbit, "warm_up", lambda: time.sleep(0.05))
    assert FeatureDemand(network)() == ORBIT


@pytest.mark.usefixtures("no_compiler")
def test_orbit_features_are_never_computed_without_a_compiler(tmp_path: Path, warm_ups: list[bool]) -> None:
    network = tmp_path / "reentry_lstm"
    demand = FeatureDemand(network)
    assert demand() == ROBUST
    version = install(network, 1, *ORBIT_FEATURES)
    assert demand() == NONE
    (version / REFERENCE_FILE).unlink()
    install(network, 2, "altitude")
    assert demand() == ROBUST
    assert not warm_ups


@pytest.mark.parametrize("content", [None, "{", '{"schema_version": 1}'])
def test_a_version_without_a_valid_reference_counts_as_using_all_features(
    tmp_path: Path, warm_ups: list[bool], content: str | None
) -> None:
    network = tmp_path / "reentry_lstm"
    version = install(network, 1, "altitude_fraction")
    (version / REFERENCE_FILE).unlink()
    if content is not None:
        (version / REFERENCE_FILE).write_text(content)
    assert FeatureDemand(network)() == BOTH
    assert len(warm_ups) == 1


def test_all_features_are_computed_if_the_folder_of_the_network_is_missing(
    tmp_path: Path, warm_ups: list[bool]
) -> None:
    demand = FeatureDemand(tmp_path / "reentry_lstm")
    assert demand() == BOTH
    assert demand() == BOTH
    assert len(warm_ups) == 1
    install(tmp_path / "reentry_lstm", 1, "altitude")
    assert demand() == NONE
    (tmp_path / "reentry_lstm").rename(tmp_path / "gone")
    assert demand() == BOTH


def test_a_folder_with_an_unchanged_time_is_read_again_after_a_while(tmp_path: Path) -> None:
    network = tmp_path / "reentry_lstm"
    install(network, 1, "altitude_fraction")
    now = 100.0
    demand = FeatureDemand(network, clock=lambda: now)
    assert demand() == NONE
    before = network.stat()
    install(network, 2, "drag_long")
    os.utime(network, ns=(before.st_atime_ns, before.st_mtime_ns))  # as on some network file systems
    assert demand() == NONE
    now += RECHECK_SECONDS
    assert demand() == ROBUST


def features_with(groups: frozenset[str]) -> np.ndarray:
    """Features (B, K, F) of a request in which only these groups were computed."""
    features = np.ones((2, 4, len(FEATURES)), dtype=np.float32)
    mark_not_computed(features, groups)
    return features


@pytest.mark.parametrize("groups", [NONE, ROBUST, ORBIT, BOTH])
def test_only_features_of_other_groups_are_marked_as_not_computed(groups: frozenset[str]) -> None:
    features = features_with(groups)
    computed = {*SIMPLE_FEATURES, *(name for group in groups for name in COSTLY_GROUPS[group])}
    for column, name in enumerate(FEATURES):
        assert np.isnan(features[..., column]).all() == (name not in computed)
        assert np.isfinite(features[..., column]).all() == (name in computed)


@pytest.mark.parametrize(
    ("name", "other"), [*((name, ORBIT) for name in ROBUST_FEATURES), *((name, ROBUST) for name in ORBIT_FEATURES)]
)
def test_a_version_that_uses_a_feature_rejects_requests_without_its_group_alone(
    tmp_path: Path, name: str, other: frozenset[str]
) -> None:
    install(tmp_path / "reentry_lstm", 7, "altitude_fraction", name)
    use = FeatureUse(tmp_path / "reentry_lstm")
    use.require_computed(features_with(BOTH), 7)
    use.require_computed(features_with(BOTH - other), 7)
    with pytest.raises(NotComputedError, match=r"version 7 .* not computed .*; fix: send the request again"):
        use.require_computed(features_with(other), 7)


def test_a_version_that_uses_only_simple_features_accepts_requests_without_others(tmp_path: Path) -> None:
    install(tmp_path / "reentry_lstm", 7, *SIMPLE_FEATURES)
    FeatureUse(tmp_path / "reentry_lstm").require_computed(features_with(NONE), 7)


@pytest.mark.usefixtures("no_compiler")
def test_a_version_that_uses_orbit_features_is_refused_without_a_compiler(tmp_path: Path) -> None:
    install(tmp_path / "reentry_lstm", 7, "altitude_fraction", *ORBIT_FEATURES)
    use = FeatureUse(tmp_path / "reentry_lstm")
    with pytest.raises(NotComputedError, match=r"version 7 .* orbit features, .* package numba .* not installed; fix"):
        use.require_computed(features_with(ROBUST), 7)


@pytest.mark.usefixtures("no_compiler")
def test_an_unknown_version_is_served_without_a_compiler(tmp_path: Path) -> None:
    use = FeatureUse(tmp_path / "reentry_lstm")
    use.require_computed(features_with(ROBUST), 7)
    with pytest.raises(NotComputedError, match="send the request again"):
        use.require_computed(features_with(NONE), 7)


def test_a_version_without_a_known_reference_uses_all_features(tmp_path: Path) -> None:
    use = FeatureUse(tmp_path / "reentry_lstm")
    assert use(7) == BOTH
    version = install(tmp_path / "reentry_lstm", 7, "altitude")
    assert use(7) == NONE
    remove(version)  # the server may still run it
    assert use(7) == NONE
    version.mkdir()
    assert use(7) == BOTH


def test_the_reference_of_a_replaced_version_is_read_again(tmp_path: Path) -> None:
    network = tmp_path / "reentry_lstm"
    version = install(network, 7, "altitude")
    use = FeatureUse(network)
    assert use(7) == NONE
    remove(version)
    install(network, 7, "drag_long")
    assert use(7) == ROBUST
