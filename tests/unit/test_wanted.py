"""Which features the server computes: those that an installed version may look at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from reentry.monitoring import REFERENCE_FILE, Reference
from reentry.schema import FEATURES
from reentry.wanted import RobustWanted


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
    wanted = RobustWanted(network)
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
    assert RobustWanted(network)()


def test_where_the_network_is_not_beside_them_all_features_are_computed(tmp_path: Path) -> None:
    wanted = RobustWanted(tmp_path / "reentry_lstm")
    assert wanted()
    install(tmp_path / "reentry_lstm", 1, "altitude")
    assert not wanted()
    (tmp_path / "reentry_lstm").rename(tmp_path / "gone")
    assert wanted()
