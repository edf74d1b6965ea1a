"""Settings of a TensorRT build: the shapes an engine is optimised for, its precision, and the engine cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reentry.errors import ConfigError
from reentry.schema import FEATURES, REENTRY_LSTM, REENTRY_STEP

Sizes = tuple[int, int, int]
"""Minimum, optimal and maximum size of an axis. An engine rejects sizes outside the range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRTConfig:
    """Settings for building both graphs of a version, each with one optimisation profile."""

    batch: Sizes = (1, 16, 64)
    """Number of tracks in a request. The maximum is max_batch_size in model_repository/reentry_lstm/config.pbtxt."""
    time: Sizes = (1, 1024, 4096)
    """Number of steps in a track. The maximum is a multiple of the padding step; the engine rejects longer tracks."""
    fp16: bool = False
    """Half precision. TensorRT 11 reads it from the graph alone; TensorRT 10 also needs a flag."""
    int8: bool = False
    """Int8 flag for graphs that carry their own quantisation. TensorRT does not quantise an LSTM."""
    workspace_mib: int = 1024
    """GPU memory available to a tactic, in MiB."""
    cache: Path = Path("~/.cache/reentry/engines")
    """Folder of built engines. The file name is a hash of everything that an engine depends on."""

    def __post_init__(self) -> None:
        for name, sizes in (("batch", self.batch), ("time", self.time)):
            if not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
                raise ConfigError(
                    f"{name} sizes out of order", expected="1 <= minimum <= optimum <= maximum", got=str(sizes)
                )
        if self.workspace_mib < 1:
            raise ConfigError("workspace_mib out of range", expected="at least 1 MiB", got=str(self.workspace_mib))


def whole_shapes(config: TensorRTConfig) -> list[str]:
    """Minimum, optimal and maximum input shape (B, T, F) of the graph over whole tracks, in trtexec's notation."""
    (features,) = REENTRY_LSTM.inputs
    return [
        f"{features.name}:{batch}x{time}x{len(FEATURES)}" for batch, time in zip(config.batch, config.time, strict=True)
    ]


def step_shapes(config: TensorRTConfig, *, layers: int, hidden: int) -> list[str]:
    """Minimum, optimal and maximum input shapes of the step graph: (B, F), and (B, L, H) for each state."""
    features, *states = REENTRY_STEP.inputs
    sizes = {features.name: f"{len(FEATURES)}"} | {state.name: f"{layers}x{hidden}" for state in states}
    return [",".join(f"{name}:{batch}x{size}" for name, size in sizes.items()) for batch in config.batch]
