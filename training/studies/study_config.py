"""Settings of the study and the methods that it compares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from reentry.errors import ConfigError
from reentry.schema import ORBIT_FEATURES, ROBUST_FEATURES
from reentry.simulation import SEVERITIES
from training.config import ModelConfig, TrainConfig
from training.models.baselines import AltitudeThreshold, BoostedTrees, DragThreshold
from training.studies.orbit_baselines import OrbitFilterAlone

LSTM_NAME: Final = "LSTM"
KNOWN_PATH: Final = "known path"
"""Name of the estimate of `training.studies.known_path`, which knows the true path: a lower bound, not a method."""

UNSEEN_SEED: Final = 90_000
_MOST_SEEDS: Final = 80
"""Above this number of seeds, training flights would have the simulation seeds of the unseen flights."""
_WITHOUT_ORBIT: Final = ("altitude", "altitude_fraction", "time_step", *ROBUST_FEATURES)
LSTM_FEATURES: Final = (*_WITHOUT_ORBIT, *ORBIT_FEATURES)
"""Features of the LSTM that is served, and of the boosted trees."""


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
    hidden: int = 32
    trees: int = 400
    severities: tuple[int, ...] = tuple(range(len(SEVERITIES)))

    def __post_init__(self) -> None:
        for name in ("seeds", "training_flights", "unseen_flights", "epochs", "hidden", "trees"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} out of range", expected="at least 1", got=str(getattr(self, name)))
        if self.seeds > _MOST_SEEDS:
            raise ConfigError("seeds out of range", expected=f"1 to {_MOST_SEEDS}", got=str(self.seeds))


QUICK: Final = StudyConfig(seeds=3, training_flights=2_000, unseen_flights=1_000, epochs=8, trees=200)


def networks(config: StudyConfig) -> dict[str, tuple[ModelConfig, TrainConfig]]:
    """Settings of each network by name. The first one is served."""
    model = ModelConfig(features=LSTM_FEATURES, harmonics=(16,), magnified=(), hidden=config.hidden)
    train = TrainConfig(
        epochs=config.epochs,
        patience=config.epochs,
        batch_size=32,
        learning_rate=8e-3,
        validation_share=0.05,
        onset_weight=10.0,
        onset_span=8.0,
        alarm_weight=1.0,
        forget_bias=1.5,
        accelerator="cpu",
    )
    # The settings with which this network was served before there was an orbit filter.
    without = (
        replace(model, features=_WITHOUT_ORBIT, hidden=2 * config.hidden),
        replace(train, onset_weight=30.0),
    )
    return {LSTM_NAME: (model, train), "LSTM, no orbit filter": without}


def methods(config: StudyConfig) -> list[str]:
    """Names of all methods, in the order of the table."""
    baselines = OrbitFilterAlone.name, BoostedTrees.name, AltitudeThreshold.name, DragThreshold.name
    return [*networks(config), *baselines, KNOWN_PATH]
