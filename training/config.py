"""Settings of the model and of its training."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from reentry.errors import ConfigError
from reentry.schema import FEATURES


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of the network; with the weights it is all that a checkpoint needs to rebuild it."""

    features: tuple[str, ...] = ("altitude_fraction",)
    """The inputs the network looks at, of `schema.FEATURES`; its input tensor holds all of them.

    On flights like the public data's a further one makes it worse or no different: docs/ablation.md has the figures.
    Data whose onset depends on more (a deceleration, a heat pulse) wants more.
    """
    harmonics: tuple[int, ...] = (16,)
    """Turns per unit of the sines and cosines that the network sees of each chosen fraction, see `training.model`."""
    hidden: int = 16
    """Units of each LSTM layer."""
    layers: int = 1
    """LSTM layers on top of each other."""
    dropout: float = 0.0
    """Share of the LSTM's outputs dropped in training, between the layers and before the head."""
    layer_norm: bool = False
    """Layer normalisation of the LSTM's outputs before the head."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown or not self.features or len(set(self.features)) != len(self.features):
            raise ConfigError(
                "features", expected=f"some of {', '.join(FEATURES)}, each once", got=", ".join(self.features) or "none"
            )
        turns = self.harmonics
        _check(
            "harmonics", turns, all(t >= 1 for t in turns) and len(set(turns)) == len(turns), "each at least 1, once"
        )
        _check("hidden", self.hidden, self.hidden >= 1, "at least 1")
        _check("layers", self.layers, self.layers >= 1, "at least 1")
        _check("dropout", self.dropout, 0.0 <= self.dropout < 1.0, "at least 0, below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How the network is trained."""

    seed: int = 0
    """Of the split, the first weights and the order of tracks: the same seed gives the same losses on a CPU."""
    epochs: int = 150
    """Passes over the training split, at most."""
    batch_size: int = 8
    """Tracks a step."""
    learning_rate: float = 2e-2
    """Highest of the one-cycle schedule."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    gradient_clip: float = 1.0
    """Largest norm of a gradient."""
    patience: int = 50
    """Epochs without a better validation loss after which training stops."""
    validation_share: float = 0.2
    """Share of the tracks held out, at least one."""
    class_weighting: bool = False
    """Steps of the rarer phase weigh more, so that both phases weigh the same in all."""
    onset_weight: float = 100.0
    """What a step next to the onset weighs on top of its 1; falls off by e each `onset_span` steps."""
    onset_span: float = 2.0
    """Steps."""
    accelerator: str = "auto"
    """Lightning's: auto, cpu, gpu. A GPU trains in mixed precision."""

    def __post_init__(self) -> None:
        _check("seed", self.seed, 0 <= self.seed < 2**32, "0 to 2**32 - 1")
        _check("epochs", self.epochs, self.epochs >= 1, "at least 1")
        _check("batch size", self.batch_size, self.batch_size >= 1, "at least 1")
        _check("learning rate", self.learning_rate, self.learning_rate > 0.0, "above 0")
        _check("weight decay", self.weight_decay, self.weight_decay >= 0.0, "at least 0")
        _check("gradient clip", self.gradient_clip, self.gradient_clip > 0.0, "above 0")
        _check("patience", self.patience, self.patience >= 1, "at least 1")
        _check("validation share", self.validation_share, 0.0 < self.validation_share < 1.0, "between 0 and 1")
        _check("onset weight", self.onset_weight, self.onset_weight >= 0.0, "at least 0")
        _check("onset span", self.onset_span, self.onset_span > 0.0, "above 0")
        _check("accelerator", self.accelerator, self.accelerator in ("auto", "cpu", "gpu"), "auto, cpu or gpu")


def _check(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name} out of range", expected=expected, got=str(value))


def read_configs(path: Path | None, *, model: dict[str, Any], train: dict[str, Any]) -> tuple[ModelConfig, TrainConfig]:
    """Settings of a TOML file with the tables [model] and [train], overruled by the given ones that are not None.

    Raises:
        ConfigError: no such file, not TOML, an unknown table or key, a value of another type or out of its range.
    """
    tables = _read_toml(path) if path else {}
    unknown = sorted(set(tables) - {"model", "train"})
    if unknown:
        raise ConfigError("unknown table", where=str(path), expected="model, train", got=", ".join(unknown))
    given = {}
    for table, config, flags in (("model", ModelConfig, model), ("train", TrainConfig, train)):
        of_file = tables.get(table, {})
        if not isinstance(of_file, dict):
            raise ConfigError("not a table", where=str(path), expected=f"a table [{table}]", got=str(of_file))
        _check_types(of_file, table, config, path)
        given[table] = of_file | {name: value for name, value in flags.items() if value is not None}
    for name in ("features", "harmonics"):
        if name in given["model"]:
            given["model"][name] = tuple(given["model"][name])
    return ModelConfig(**given["model"]), TrainConfig(**given["train"])


_TOML_TYPES: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "a text"),
    "tuple[str, ...]": ((list,), "a list"),
    "tuple[int, ...]": ((list,), "a list of whole numbers"),
}


def _check_types(table: dict[str, Any], name: str, config: type, path: Path | None) -> None:
    declared = {field.name: str(field.type) for field in fields(config)}
    unknown = sorted(set(table) - set(declared))
    if unknown:
        raise ConfigError(
            f"unknown key of [{name}]",
            where=str(path),
            expected=", ".join(sorted(declared)),
            got=", ".join(unknown),
        )
    for key, value in table.items():
        types, expected = _TOML_TYPES[declared[key]]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):  # True is an int, too
            raise ConfigError(f"{key} is of another type", where=str(path), expected=expected, got=str(value))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"no settings: {error.strerror}", where=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not TOML: {error}", where=str(path)) from error
