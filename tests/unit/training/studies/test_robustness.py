"""The robustness table and its unusual flights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reentry.decision import DecisionConfig
from reentry.schema import MEASUREMENT_COLUMNS
from reentry.simulation import TrapezoidConfig
from reentry.tracks import Track
from training.checkpoint import Checkpoint, save_checkpoint
from training.config import ModelConfig, TrainConfig
from training.models.networks import ReentryLSTM
from training.studies import robustness

FEW = TrapezoidConfig(tracks=3, seed=1, shortest=100, longest=120)
ALTITUDE = MEASUREMENT_COLUMNS.index("altitude")


def variant(**changes: Any) -> robustness.Variant:
    return robustness.Variant(**{"flights": FEW, **changes})


def test_altitude_noise_has_the_requested_standard_deviation() -> None:
    plain, noisy = robustness.tracks_of(variant()), robustness.tracks_of(variant(altitude_noise=50.0))
    change = np.concatenate(
        [b.measurements[:, ALTITUDE] - a.measurements[:, ALTITUDE] for a, b in zip(plain, noisy, strict=True)]
    )
    assert change.std() == pytest.approx(50.0, rel=0.15)


def test_a_flight_truncated_before_its_onset_has_no_onset() -> None:
    cut, whole = robustness.tracks_of(variant(kept=0.5)), robustness.tracks_of(variant())
    assert [track.reentry_phase.any() for track in cut] == [False] * 3
    assert [len(track) * 2 for track in cut] == pytest.approx([len(track) for track in whole], abs=1)


def test_a_burst_changes_the_requested_number_of_consecutive_altitudes_only() -> None:
    for plain, burst in zip(robustness.tracks_of(variant()), robustness.tracks_of(variant(burst=3)), strict=True):
        moved = np.argwhere(plain.measurements != burst.measurements)
        assert (moved[:, 1] == ALTITUDE).all()
        assert np.diff(moved[:, 0]).tolist() == [1, 1]


def test_a_sampling_rate_changes_rows_and_step_together() -> None:
    usual = robustness.tracks_of(robustness.VARIANTS["as trained"])
    fine = robustness.tracks_of(robustness.VARIANTS["the same flights every 0.1 s, five times the rows"])

    def mean_duration(tracks: list[Track]) -> float:
        return float(np.mean([track.timestamp[-1] - track.timestamp[0] for track in tracks]))

    assert np.mean([len(track) for track in fine]) == pytest.approx(5 * np.mean([len(t) for t in usual]), rel=0.05)
    assert mean_duration(fine) == pytest.approx(mean_duration(usual), rel=0.05)


def test_the_report_has_a_row_for_each_kind_of_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    never = ReentryLSTM(ModelConfig(hidden=4)).eval()
    torch.nn.init.constant_(never.head.bias, -50.0)
    checkpoint = Checkpoint(
        model=never,
        train_config=TrainConfig(),
        decision=DecisionConfig(),
        data_fingerprint="f",
        git_revision="g",
        metrics={},
        validation_tracks=(0,),
    )
    save_checkpoint(tmp_path / "model.ckpt", checkpoint)
    monkeypatch.setattr(robustness, "VARIANTS", {"as trained": variant(), "cut off": variant(kept=0.5)})
    monkeypatch.setattr("sys.argv", ["robustness", str(tmp_path / "model.ckpt")])
    robustness.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0] for row in rows] == ["| as trained", "| cut off"]
    assert [row.split(" | ")[4:] for row in rows] == [["3", "0 |"], ["0", "0 |"]]


def test_a_missing_checkpoint_ends_the_program_with_a_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["robustness", str(tmp_path / "none.ckpt")])
    with pytest.raises(SystemExit, match="no such file"):
        robustness.main()
