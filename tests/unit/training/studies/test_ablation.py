"""The ablation: each variant changes one setting and has one row."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest

from reentry.schema import ROBUST_FEATURES, SIMPLE_FEATURES
from training.config import ModelConfig, TrainConfig
from training.studies import ablation


def test_every_variant_differs_from_the_defaults_in_one_setting() -> None:
    settings = [{**asdict(model), **asdict(train)} for model, train in ablation.variants().values()]
    default, *others = settings
    assert default == {**asdict(ModelConfig()), **asdict(TrainConfig(accelerator="cpu"))}
    for other in others:
        assert sum(other[name] != value for name, value in default.items()) == 1
    assert {feature for other in others for feature in other["features"]} == {*SIMPLE_FEATURES, *ROBUST_FEATURES}


def test_the_table_has_a_row_for_each_variant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = TrainConfig(accelerator="cpu", epochs=1)
    monkeypatch.setattr(
        ablation, "variants", lambda: {"a": (ModelConfig(hidden=2), quick), "b": (ModelConfig(), quick)}
    )
    monkeypatch.setattr(ablation, "TRAINING_TRACKS", 5)
    monkeypatch.setattr(ablation, "UNSEEN_TRACKS", 2)
    monkeypatch.setattr("sys.argv", ["ablation", "1"])
    ablation.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\| [ab] \|", line)]
    assert [len(row.split(" | ")) for row in rows] == [5, 5]
    assert all(re.search(r"\d+\.\d{3} / \d+\.\d{3}", row) for row in rows)
