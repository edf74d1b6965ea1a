"""Settings of the network and of its training, as dataclasses and in a TOML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reentry.errors import ConfigError
from reentry.features.groups import ORBIT, groups_of
from reentry.runtime.config_file import declared_types, read_settings
from reentry.schema import FEATURES, ORBIT_FEATURES

LSTM: Final = "lstm"
GRU: Final = "gru"
CONVOLUTION: Final = "convolution"
KINDS: Final = (LSTM, GRU, CONVOLUTION)
"""Kinds of networks. Only the LSTM is exported and served."""

_MOST: Final = 1_000_000
"""Upper limit of counts and factors; no setting is usefully larger."""

_MOST_UNITS: Final = 8_192
"""Upper limit of the units of a layer, whose weights then take a gigabyte."""

MOST_SEEDS: Final = 1_000
"""Upper limit of the runs of an evaluation, each of which trains a network."""

_MOST_LAYERS: Final = 64
"""Upper limit of layers; building thousands of them takes PyTorch minutes."""

_MOST_WEIGHTS: Final = 2**29
"""Upper limit of the weights of a network, which then take two gigabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Settings of the network. Together with the weights they are enough to rebuild it."""

    kind: str = LSTM
    """Kind of network, one of `KINDS`."""
    features: tuple[str, ...] = ("altitude_fraction", "elapsed_fraction")
    """Names of the features in `schema.FEATURES` that the network uses; its input tensor has all features.

    These two are enough for both label rules of flights like the public data; docs/ablation.md has the figures. Data
    whose onset depends on other quantities, such as deceleration, needs more features.
    """
    harmonics: tuple[int, ...] = ()
    """Frequencies, in turns per unit, of the sines and cosines of each fraction feature; see
    `training.models.networks`."""
    magnified: tuple[float, ...] = (0.01, 0.001, 0.0001)
    """Widths of the magnified views of each fraction feature; see `training.models.networks`."""
    hidden: int = 16
    """Number of hidden units in each layer."""
    layers: int = 1
    """Number of stacked layers. Each layer of a convolution reaches twice as far back as the one below."""
    kernel: int = 3
    """Number of steps that the lowest layer of a convolution sees; ignored by the other kinds."""
    dropout: float = 0.0
    """Dropout rate during training, between the layers and before the head."""
    layer_norm: bool = False
    """Whether the outputs of the last layer are layer-normalised before the head."""

    def __post_init__(self) -> None:
        _check(self, "kind", self.kind in KINDS, ", ".join(KINDS))
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown or not self.features or len(set(self.features)) != len(self.features):
            raise ConfigError(
                "invalid features",
                expected=f"some of {', '.join(FEATURES)}, each once",
                got=", ".join(self.features) or "none",
            )
        missing = [name for name in ORBIT_FEATURES if name not in self.features]
        if self.uses_orbit and missing:
            raise ConfigError(
                "some results of the orbit filter are missing from features",
                expected=f"all of {', '.join(ORBIT_FEATURES)}, or none",
                got=f"without {', '.join(missing)}",
            )
        harmonics, widths = self.harmonics, self.magnified
        in_range = all(1 <= harmonic <= _MOST for harmonic in harmonics) and len(set(harmonics)) == len(harmonics)
        _check(self, "harmonics", in_range, f"each 1 to {_MOST:,}, once")
        in_range = all(1e-5 <= width <= 1.0 for width in widths) and len(set(widths)) == len(widths)
        _check(self, "magnified", in_range, "each 1e-05 to 1, once")
        _check(self, "hidden", 1 <= self.hidden <= _MOST_UNITS, f"1 to {_MOST_UNITS:,}")
        _check(self, "layers", 1 <= self.layers <= _MOST_LAYERS, f"1 to {_MOST_LAYERS}")
        if self.kind == CONVOLUTION:
            _check(self, "layers", self.layers <= 16, "1 to 16 in a convolution, as each layer doubles its reach")
        _check(self, "kernel", 2 <= self.kernel <= _MOST, f"2 to {_MOST:,}")
        _check(self, "dropout", 0.0 <= self.dropout < 1.0, "at least 0, below 1")
        matrices = self.kernel if self.kind == CONVOLUTION else 8  # of hidden x hidden weights in a layer
        weights = self.layers * matrices * self.hidden**2
        if weights > _MOST_WEIGHTS:
            raise ConfigError("network too large", expected=f"at most {_MOST_WEIGHTS:,} weights", got=str(weights))

    @property
    def uses_orbit(self) -> bool:
        """Whether the network uses the orbit filter."""
        return ORBIT in self.groups

    @property
    def groups(self) -> frozenset[str]:
        """Groups of `schema.COSTLY_GROUPS` that the network uses a feature of."""
        return groups_of(self.features)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of the training."""

    seed: int = 0
    """Random seed for the split, the initial weights and the batch order; it fixes the losses on a CPU."""
    epochs: int = 150
    """Largest number of passes over the training split."""
    batch_size: int = 8
    """Number of tracks in a batch, summed over all processes."""
    bucket_from: int = 1000
    """Number of training tracks from which batches are made of tracks of similar length, which reduces padding."""
    learning_rate: float = 2e-2
    """Highest learning rate of the one-cycle schedule."""
    weight_decay: float = 1e-4
    """Weight decay for AdamW."""
    gradient_clip: float = 1.0
    """Norm to which gradients are clipped."""
    patience: int = 50
    """Number of epochs without a lower validation loss after which training stops."""
    validation_share: float = 0.2
    """Share of the tracks in the validation split, which has at least one track."""
    class_weighting: bool = False
    """Whether steps are weighted so that both phases have the same total weight in the loss."""
    onset_weight: float = 100.0
    """Additional loss weight of steps at the onset; it decays by a factor of e every `onset_span` steps."""
    onset_span: float = 2.0
    """Decay length of `onset_weight`, in steps."""
    alarm_weight: float = 0.0
    """Weight of an additional loss term for early alarms: the highest cross-entropy of each track among the steps more
    than four `onset_span` before its onset. Without it an alarm minutes too early is one step in thousands.
    """
    forget_bias: float = 0.0
    """Value added to the initial biases of an LSTM's forget gates, which keeps its memory early in training.

    See Jozefowicz et al., 2015, "An Empirical Exploration of Recurrent Network Architectures". Other kinds ignore it.
    """
    accelerator: str = "auto"
    """Lightning accelerator: auto, cpu or gpu. A GPU trains in mixed precision."""
    devices: int = 1
    """Number of processes that share each batch, one per GPU or core. The result is the same within rounding."""

    def __post_init__(self) -> None:
        _check(self, "seed", 0 <= self.seed < 2**32, "0 to 2**32 - 1")
        for name in ("epochs", "batch_size", "bucket_from", "patience"):
            _check(self, name, 1 <= getattr(self, name) <= _MOST, f"1 to {_MOST:,}")
        for name in ("learning_rate", "gradient_clip", "onset_span"):
            _check(self, name, 0.0 < getattr(self, name) <= _MOST, f"above 0, to {_MOST:,}")
        for name in ("weight_decay", "onset_weight", "alarm_weight"):
            _check(self, name, 0.0 <= getattr(self, name) <= _MOST, f"0 to {_MOST:,}")
        _check(self, "validation_share", 0.0 < self.validation_share < 1.0, "between 0 and 1")
        _check(self, "forget_bias", -10.0 <= self.forget_bias <= 10.0, "-10 to 10")
        _check(self, "accelerator", self.accelerator in ("auto", "cpu", "gpu"), "auto, cpu or gpu")
        _check(self, "devices", 1 <= self.devices <= self.batch_size, "1 to the batch size")


def _check(config: ModelConfig | TrainConfig, name: str, in_range: bool, expected: str) -> None:
    if not in_range:
        problem = f"{name.replace('_', ' ')} out of range"
        raise ConfigError(problem, expected=expected, got=str(getattr(config, name)))


def read_configs(path: Path | None, *, model: dict[str, Any], train: dict[str, Any]) -> tuple[ModelConfig, TrainConfig]:
    """Read settings from the tables [model] and [train] of a TOML file; arguments that are not None override them.

    Raises:
        ConfigError: the file is missing or not TOML, a table or key is unknown, or a value has the wrong type or range.
    """
    tables = read_settings(path, {"model": declared_types(ModelConfig), "train": declared_types(TrainConfig)})
    for table, flags in (("model", model), ("train", train)):
        tables[table] |= {name: value for name, value in flags.items() if value is not None}
    return ModelConfig(**tables["model"]), TrainConfig(**tables["train"])
