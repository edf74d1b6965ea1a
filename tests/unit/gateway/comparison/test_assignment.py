"""Tracks are assigned by a keyed hash: uniform, stable, and different in each experiment."""

from __future__ import annotations

import numpy as np

from gateway.comparison.assignment import Target, TargetServer, position


def test_positions_are_uniform_and_stable() -> None:
    positions = np.array([position("key", "exp_1", "acc_1", track) for track in range(20_000)])
    again = [position("key", "exp_1", "acc_1", track) for track in range(100)]
    assert positions[:100].tolist() == again
    assert positions[0] == 0.3606775615929497  # the same in every version of this program
    assert positions.min() >= 0.0
    assert positions.max() < 1.0
    counts = np.histogram(positions, bins=20, range=(0.0, 1.0))[0]
    assert np.sum((counts - 1_000) ** 2 / 1_000) < 43.8  # chi-squared with 19 degrees of freedom, 0.1 %


def test_experiments_accounts_and_keys_divide_the_same_tracks_independently() -> None:
    tracks = range(5_000)
    reference = np.array([position("key", "exp_1", "acc_1", track) for track in tracks])
    for key, experiment, account in (("other", "exp_1", "acc_1"), ("key", "exp_2", "acc_1"), ("key", "exp_1", "acc_2")):
        other = np.array([position(key, experiment, account, track) for track in tracks])
        assert abs(np.corrcoef(reference, other)[0, 1]) < 0.05


def test_a_larger_share_keeps_the_tracks_of_the_smaller_one() -> None:
    positions = [position("key", "exp_1", "acc_1", track) for track in range(1_000)]
    few, many = ({track for track, at in enumerate(positions) if at < share} for share in (0.1, 0.3))
    assert few < many


def test_a_target_survives_the_database() -> None:
    target = Target(model="reentry_candidate", server=TargetServer.SECOND)
    assert Target.from_dict(target.as_dict()) == target
