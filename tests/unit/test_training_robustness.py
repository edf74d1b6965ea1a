"""Flights unlike those of the training, as the robustness table makes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reentry.decision import DecisionConfig
from reentry.schema import MEASUREMENT_COLUMNS
from reentry.simulation import TrapezoidConfig
from training import robustness
from training.checkpoint import Checkpoint, save_checkpoint
from training.config import ModelConfig, TrainConfig
from training.model import ReentryLSTM

FEW = TrapezoidConfig(tracks=3, seed=1, shortest=100, longest=120)
ALTITUDE = MEASUREMENT_COLUMNS.index("altitude")


def test_altitudes_are_noisier_by_what_was_asked_for() -> None:
    plain, noisy = robustness.tracks_of(FEW, 0.0), robustness.tracks_of(FEW, 50.0)
    change = np.concatenate(
        [b.measurements[:, ALTITUDE] - a.measurements[:, ALTITUDE] for a, b in zip(plain, noisy, strict=True)]
    )
    assert change.std() == pytest.approx(50.0, rel=0.15)


def test_a_flight_cut_off_before_its_onset_has_none() -> None:
    cut = robustness.tracks_of(FEW, 0.0, kept=0.5)
    assert [track.reentry_phase.any() for track in cut] == [False] * 3
    assert [len(track) * 2 for track in cut] == pytest.approx([len(t) for t in robustness.tracks_of(FEW, 0.0)], abs=1)


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
    monkeypatch.setattr(robustness, "VARIANTS", {"as trained": (FEW, 0.0), "slow": (replace(FEW, step=2.0), 0.0)})
    monkeypatch.setattr(robustness, "_USUAL", FEW)
    monkeypatch.setattr("sys.argv", ["robustness", str(tmp_path / "model.ckpt")])
    robustness.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0] for row in rows] == [
        "| as trained",
        "| slow",
        "| cut off at 10, 29, 50, 69 and 80 % of the flight",
    ]
    assert [row.split(" | ")[4:] for row in rows] == [["3", "0 |"], ["3", "0 |"], ["0", "0 |"]]


def test_a_missing_checkpoint_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["robustness", str(tmp_path / "none.ckpt")])
    with pytest.raises(SystemExit, match="no such file"):
        robustness.main()
