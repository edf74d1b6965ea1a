"""Settings of the model and of its training."""

from __future__ import annotations

from dataclasses import dataclass

from reentry.errors import ConfigError
from reentry.schema import FEATURES


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of the network; with the weights it is all that a checkpoint needs to rebuild it."""

    features: tuple[str, ...] = FEATURES
    """The inputs the network looks at, of `schema.FEATURES`; its input tensor holds all of them."""
    hidden: int = 32
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
        _check("hidden", self.hidden, self.hidden >= 1, "at least 1")
        _check("layers", self.layers, self.layers >= 1, "at least 1")
        _check("dropout", self.dropout, 0.0 <= self.dropout < 1.0, "at least 0, below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How the network is trained."""

    seed: int = 0
    """Of the split, the first weights and the order of tracks: the same seed gives the same losses on a CPU."""
    epochs: int = 100
    """Passes over the training split, at most."""
    batch_size: int = 8
    """Tracks a step."""
    learning_rate: float = 1e-2
    """Highest of the one-cycle schedule."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    gradient_clip: float = 1.0
    """Largest norm of a gradient."""
    patience: int = 100
    """Epochs without a better validation loss after which training stops."""
    validation_share: float = 0.2
    """Share of the tracks held out, at least one."""
    class_weighting: bool = True
    """Steps of the rarer phase weigh more, so that both phases weigh the same in all."""
    onset_weight: float = 10.0
    """What a step next to the onset weighs on top of its 1; falls off by e each `onset_span` steps."""
    onset_span: float = 10.0
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
