"""Settings of a TensorRT engine: the shapes it is tuned for, its precision, where engines are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from reentry.errors import ConfigError
from reentry.schema import FEATURES, REENTRY_LSTM, REENTRY_STEP

ENGINE_CACHE: Final = Path("~/.cache/reentry/engines")

Sizes = tuple[int, int, int]
"""Least, best and most of an axis. TensorRT refuses what lies outside of them and is fastest at the best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRTConfig:
    """One build: both graphs of a version, with one profile each."""

    batch: Sizes = (1, 16, 64)
    """Tracks of a request; the most is the max_batch_size of model_repository/reentry_lstm/config.pbtxt."""
    time: Sizes = (1, 1024, 4096)
    """Steps of a track, a multiple of the buckets' step; a longer track is refused by the engine."""
    fp16: bool = False
    """Half precision. TensorRT 11 takes it from the graph alone, TensorRT 10 wants to be allowed it as well."""
    int8: bool = False
    """The same of int8; for graphs with quantisation of their own. No LSTM of TensorRT is quantised by it."""
    workspace_mib: int = 1024
    """GPU memory that a tactic may take, MiB."""
    cache: Path = ENGINE_CACHE
    """Folder of engines, by the hash of all that they depend on."""

    def __post_init__(self) -> None:
        for name, sizes in (("batch", self.batch), ("time", self.time)):
            if not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
                raise ConfigError(f"{name} out of order", expected="1 <= least <= best <= most", got=str(sizes))
        if self.workspace_mib < 1:
            raise ConfigError("workspace_mib out of range", expected="at least 1 MiB", got=str(self.workspace_mib))

    def with_batch(self, batch: Sizes) -> TensorRTConfig:
        """The same for other batches."""
        return replace(self, batch=batch)


def whole_shapes(config: TensorRTConfig) -> list[str]:
    """Shapes (B, T, F) of the whole graph's input at least, best and most, as TensorRT's tools write them."""
    (features,) = REENTRY_LSTM.inputs
    return [
        f"{features.name}:{batch}x{time}x{len(FEATURES)}" for batch, time in zip(config.batch, config.time, strict=True)
    ]


def step_shapes(config: TensorRTConfig, *, layers: int, hidden: int) -> list[str]:
    """The same of the step graph: (B, F), and (B, L, H) for each state."""
    features, *states = REENTRY_STEP.inputs
    return [
        ",".join(
            [
                f"{features.name}:{batch}x{len(FEATURES)}",
                *(f"{state.name}:{batch}x{layers}x{hidden}" for state in states),
            ]
        )
        for batch in config.batch
    ]
