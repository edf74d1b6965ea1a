"""Settings of the study and the methods that it compares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from reentry.errors import ConfigError
from reentry.schema import ROBUST_FEATURES, SIMPLE_FEATURES
from reentry.simulation import SEVERITIES
from training.config import CONVOLUTION, GRU, ModelConfig, TrainConfig
from training.models.baselines import AltitudeThreshold, BoostedTrees, DragThreshold

LSTM_NAME: Final = "LSTM"
KNOWN_PATH: Final = "known path"
"""Name of the estimate of `training.studies.known_path`, which knows the true path: a lower bound, not a method."""
LARGEST: Final = 100_000
"""Largest number of weights of a network that may become the default."""

UNSEEN_SEED: Final = 90_000
_MOST_SEEDS: Final = 80
"""Above this number of seeds, training flights would have the simulation seeds of the unseen flights."""
_FEATURES: Final = ("altitude", "altitude_fraction", "time_step", *ROBUST_FEATURES)
_INTENSITY_FEATURES: Final = ("log_intensity", "log_intensity_rise")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """Size of the study."""

    seeds: int = 3
    """Number of random seeds, each with its own training flights."""
    training_flights: int = 5_000
    """Number of training flights for each severity and seed."""
    unseen_flights: int = 1_000
    """Number of flights for each severity that the methods are scored on, the same for all seeds."""
    epochs: int = 20
    hidden: int = 64
    trees: int = 400
    severities: tuple[int, ...] = tuple(range(len(SEVERITIES)))

    def __post_init__(self) -> None:
        for name in ("seeds", "training_flights", "unseen_flights", "epochs", "hidden", "trees"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} out of range", expected="at least 1", got=str(getattr(self, name)))
        if self.seeds > _MOST_SEEDS:
            raise ConfigError("seeds out of range", expected=f"1 to {_MOST_SEEDS}", got=str(self.seeds))


QUICK: Final = StudyConfig(seeds=1, training_flights=2_000, unseen_flights=500, epochs=10, trees=200)


def networks(config: StudyConfig) -> dict[str, tuple[ModelConfig, TrainConfig]]:
    """Settings of each network by name. The first one is served; each other network differs from it in one thing."""
    model = ModelConfig(features=_FEATURES, harmonics=(16,), magnified=(), hidden=config.hidden)
    train = TrainConfig(
        epochs=config.epochs,
        patience=config.epochs,
        batch_size=32,
        learning_rate=8e-3,
        validation_share=0.05,
        onset_weight=30.0,
        onset_span=8.0,
        alarm_weight=1.0,
        forget_bias=1.5,
        accelerator="cpu",
    )
    without_intensity = tuple(name for name in _FEATURES if name not in _INTENSITY_FEATURES)
    return {
        LSTM_NAME: (model, train),
        "GRU": (replace(model, kind=GRU), train),
        "convolution": (replace(model, kind=CONVOLUTION, layers=6), train),
        "LSTM, no filter": (replace(model, features=SIMPLE_FEATURES), train),
        "LSTM, no intensity": (replace(model, features=without_intensity), train),
    }


def methods(config: StudyConfig) -> list[str]:
    """Names of all methods, in the order of the table."""
    return [*networks(config), BoostedTrees.name, AltitudeThreshold.name, DragThreshold.name, KNOWN_PATH]
