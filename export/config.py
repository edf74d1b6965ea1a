"""Settings of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reentry.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """What is exported to where, and how close it has to be."""

    checkpoint: Path
    """Written by `reentry train`."""
    repository: Path
    """The Triton model repository to install into."""
    tolerance: float = 1e-5
    """Largest difference of a probability from PyTorch's."""
    batches: tuple[int, ...] = (1, 2, 8)
    """Batch sizes the graph is verified at."""
    lengths: tuple[int, ...] = (1, 2, 50, 1200)
    """Track lengths, in steps, the graph is verified at, with every batch size."""

    def __post_init__(self) -> None:
        if not 0.0 < self.tolerance < 1.0:
            raise ConfigError("tolerance out of range", expected="between 0 and 1", got=str(self.tolerance))
        for name, sizes in (("batches", self.batches), ("lengths", self.lengths)):
            if not sizes or min(sizes) < 1:
                raise ConfigError(f"{name} out of range", expected="at least one, each 1 or more", got=str(sizes))
