"""Settings of the network and the training, and the TOML file with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from reentry.errors import ConfigError
from training.config import ModelConfig, TrainConfig, read_configs


def read(path: Path, text: str) -> tuple[ModelConfig, TrainConfig]:
    (path / "x.toml").write_text(text)
    return read_configs(path / "x.toml", model={"hidden": None}, train={"seed": 3, "epochs": None})


def test_settings_without_a_file_are_the_defaults() -> None:
    assert read_configs(None, model={"hidden": None}, train={"seed": None}) == (ModelConfig(), TrainConfig())


def test_flags_override_the_file_and_the_file_overrides_the_defaults(tmp_path: Path) -> None:
    model, train = read(tmp_path, '[model]\nhidden = 8\nfeatures = ["altitude"]\n[train]\nseed = 1\nepochs = 2\n')
    assert model == ModelConfig(hidden=8, features=("altitude",))
    assert train == TrainConfig(seed=3, epochs=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model\n", "not TOML"),
        ("[mode]\n", "unknown table; expected model, train; got mode"),
        ("hidden = 3\n", "unknown table"),
        ("[model]\nwidth = 3\n", r"unknown key in \[model\]; expected dropout, .*got width"),
        ("[train]\nepochs = 0\n", "epochs out of range; expected 1 to 1,000,000; got 0"),
        (f"[train]\nbatch_size = {10**21}\n", "batch size out of range; expected 1 to 1,000,000; got 10{21}$"),
        ("[train]\nlearning_rate = inf\n", "learning rate out of range; .*got inf"),
        (f"[train]\nonset_span = {10**400}\n", "onset_span is too large; expected a number"),
        ("[train]\nlearning_rate = 'high'\n", "wrong type"),
        ("[train]\nepochs = 2.5\n", "epochs.*expected a whole number; got 2.5"),
        ("[model]\nlayer_norm = 1\n", "layer_norm.*expected true or false; got 1"),
        ("[model]\nfeatures = 'altitude'\n", "features.*expected a list of strings; got altitude"),
        ("[model]\nfeatures = [1]\n", r"features.*expected a list of strings; got \[1\]"),
        ("[model]\nharmonics = ['a']\n", r"harmonics.*expected a list of whole numbers; got \['a'\]"),
        ("[model]\nharmonics = [true]\n", r"harmonics.*expected a list of whole numbers; got \[True\]"),
        ("[model]\nhidden = [8]\n", r"hidden.*expected a whole number; got \[8\]"),
        ("model = 3\n", r"expected a table \[model\]"),
    ],
)
def test_an_invalid_file_is_rejected_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_a_missing_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file") as error:
        read_configs(tmp_path / "none.toml", model={}, train={})
    assert error.value.where == str(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"batch_size": 0},
        {"bucket_from": 0},
        {"devices": 0},
        {"devices": 9, "batch_size": 8},
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
        {"gradient_clip": 0.0},
        {"patience": 0},
        {"validation_share": 1.0},
        {"onset_weight": -1.0},
        {"onset_span": 0.0},
        {"accelerator": "tpu"},
    ],
)
def test_a_setting_out_of_range_is_rejected(wrong: dict[str, object]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match="out of range") as error:
        TrainConfig(**wrong)  # type: ignore[arg-type]
    assert error.value.problem == f"{name.replace('_', ' ')} out of range"
    assert error.value.expected
    assert error.value.got == str(value)
