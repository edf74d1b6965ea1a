"""Settings of the model and of its training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reentry.errors import ConfigError
from reentry.runtime.config_file import declared_types, read_settings
from reentry.schema import FEATURES, ROBUST_FEATURES

LSTM: Final = "lstm"
GRU: Final = "gru"
CONVOLUTION: Final = "convolution"
KINDS: Final = (LSTM, GRU, CONVOLUTION)
"""Of networks; the LSTM alone is exported and served."""

_MOST: Final = 1_000_000
"""No setting is usefully larger, and PyTorch's numbers hold it."""

_WIDEST: Final = 8_192
"""Units of a layer, whose weights then take a gigabyte."""

MOST_SEEDS: Final = 1_000
"""Runs of an evaluation, each of which trains a network."""

_DEEPEST: Final = 64
"""Layers; PyTorch spends minutes on building thousands of them."""

_MOST_WEIGHTS: Final = 2**29
"""Weights of a network, which take two gigabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of the network; with the weights it is all that a checkpoint needs to rebuild it."""

    kind: str = LSTM
    """One of `KINDS`."""
    features: tuple[str, ...] = ("altitude_fraction", "elapsed_fraction")
    """The inputs the network looks at, of `schema.FEATURES`; its input tensor holds all of them.

    On flights like the public data's these two are enough for either label rule: docs/ablation.md has the figures.
    Data whose onset depends on more (a deceleration, a heat pulse) needs more.
    """
    harmonics: tuple[int, ...] = ()
    """RoundRobin per unit of the sines and cosines that the network sees of each chosen share; see
    `training.models.networks`."""
    magnified: tuple[float, ...] = (0.01, 0.001, 0.0001)
    """Widths around its value at the onsets by which the network sees each chosen share magnified."""
    hidden: int = 16
    """Units of each layer."""
    layers: int = 1
    """Layers on top of each other; of a convolution each reaches twice as far as the one below."""
    kernel: int = 3
    """Steps that a convolution's lowest layer sees; no matter to the other kinds."""
    dropout: float = 0.0
    """Share of the layers' outputs dropped in training, between them and before the head."""
    layer_norm: bool = False
    """Layer normalisation of the last layer's outputs before the head."""

    def __post_init__(self) -> None:
        _check("kind", self.kind, self.kind in KINDS, ", ".join(KINDS))
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown or not self.features or len(set(self.features)) != len(self.features):
            raise ConfigError(
                "features", expected=f"some of {', '.join(FEATURES)}, each once", got=", ".join(self.features) or "none"
            )
        turns, widths = self.harmonics, self.magnified
        in_range = all(1 <= turn <= _MOST for turn in turns) and len(set(turns)) == len(turns)
        _check("harmonics", turns, in_range, f"each 1 to {_MOST:,}, once")
        in_range = all(1e-5 <= width <= 1.0 for width in widths) and len(set(widths)) == len(widths)
        _check("magnified", widths, in_range, "each 1e-05 to 1, once")
        _check("hidden", self.hidden, 1 <= self.hidden <= _WIDEST, f"1 to {_WIDEST:,}")
        _check("layers", self.layers, 1 <= self.layers <= _DEEPEST, f"1 to {_DEEPEST}")
        if self.kind == CONVOLUTION:
            _check("layers", self.layers, self.layers <= 16, "1 to 16 of a convolution, whose reach doubles with each")
        _check("kernel", self.kernel, 2 <= self.kernel <= _MOST, f"2 to {_MOST:,}")
        _check("dropout", self.dropout, 0.0 <= self.dropout < 1.0, "at least 0, below 1")
        blocks = self.kernel if self.kind == CONVOLUTION else 8  # matrices of hidden x hidden weights in a layer
        weights = self.layers * blocks * self.hidden**2
        _check("size of the network", weights, weights <= _MOST_WEIGHTS, f"at most {_MOST_WEIGHTS:,} weights")

    @property
    def robust(self) -> bool:
        """Whether the network looks at one of `schema.ROBUST_FEATURES`."""
        return not set(ROBUST_FEATURES).isdisjoint(self.features)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How the network is trained."""

    seed: int = 0
    """Of the split, the first weights and the order of tracks: the same seed gives the same losses on a CPU."""
    epochs: int = 150
    """Passes over the training split, at most."""
    batch_size: int = 8
    """Tracks a step, of all processes together."""
    bucket_from: int = 1000
    """Tracks of the training split from which on those of a batch are of like length, so that little is padding."""
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
    alarm_weight: float = 0.0
    """What each track's worst step weighs on top of the loss: of those more than four `onset_span` before the onset the
    one that is taken most for reentry. An alarm minutes too early is one step in thousands, and costs minutes.
    """
    forget_bias: float = 0.0
    """Added at the start to the biases of an LSTM's forget gates, so that it remembers before it has learned to.

    Jozefowicz et al., 2015, "An Empirical Exploration of Recurrent Network Architectures". No matter to other kinds.
    """
    accelerator: str = "auto"
    """Lightning's: auto, cpu, gpu. A GPU trains in mixed precision."""
    devices: int = 1
    """Processes that share each batch, one to a GPU or to a core; the result is the same within rounding."""

    def __post_init__(self) -> None:
        _check("seed", self.seed, 0 <= self.seed < 2**32, "0 to 2**32 - 1")
        _check_count("epochs", self.epochs)
        _check_count("batch size", self.batch_size)
        _check_count("bucket from", self.bucket_from)
        _check("learning rate", self.learning_rate, 0.0 < self.learning_rate <= _MOST, f"above 0, to {_MOST:,}")
        _check("weight decay", self.weight_decay, 0.0 <= self.weight_decay <= _MOST, f"0 to {_MOST:,}")
        _check("gradient clip", self.gradient_clip, 0.0 < self.gradient_clip <= _MOST, f"above 0, to {_MOST:,}")
        _check_count("patience", self.patience)
        _check("validation share", self.validation_share, 0.0 < self.validation_share < 1.0, "between 0 and 1")
        _check("onset weight", self.onset_weight, 0.0 <= self.onset_weight <= _MOST, f"0 to {_MOST:,}")
        _check("onset span", self.onset_span, 0.0 < self.onset_span <= _MOST, f"above 0, to {_MOST:,}")
        _check("alarm weight", self.alarm_weight, 0.0 <= self.alarm_weight <= _MOST, f"0 to {_MOST:,}")
        _check("forget bias", self.forget_bias, -10.0 <= self.forget_bias <= 10.0, "-10 to 10")
        _check("accelerator", self.accelerator, self.accelerator in ("auto", "cpu", "gpu"), "auto, cpu or gpu")
        _check("devices", self.devices, 1 <= self.devices <= self.batch_size, "1 to the batch size")


def _check_count(name: str, count: int) -> None:
    _check(name, count, 1 <= count <= _MOST, f"1 to {_MOST:,}")


def _check(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name} out of range", expected=expected, got=str(value))


def read_configs(path: Path | None, *, model: dict[str, Any], train: dict[str, Any]) -> tuple[ModelConfig, TrainConfig]:
    """Settings of a TOML file with the tables [model] and [train], overruled by the given ones that are not None.

    Raises:
        ConfigError: no such file, not TOML, an unknown table or key, a value of another type or out of its range.
    """
    tables = read_settings(path, {"model": declared_types(ModelConfig), "train": declared_types(TrainConfig)})
    for table, flags in (("model", model), ("train", train)):
        tables[table] |= {name: value for name, value in flags.items() if value is not None}
    return ModelConfig(**tables["model"]), TrainConfig(**tables["train"])
