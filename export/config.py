"""Settings of an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from export.tensorrt.config import TensorRTConfig
from reentry.errors import ConfigError
from registry.formats import Format

ALL: Final = "all"
"""In a list of formats: every one that this machine can make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """What is exported to where, and what it is held against."""

    checkpoint: Path
    """Written by `reentry train`."""
    repository: str | Path
    """The Triton model repository to install into: a folder, or s3://bucket/prefix."""
    formats: tuple[Format, ...] = (Format.ONNX,)
    """In order; the first one that is served becomes the candidate."""
    skip_missing: bool = False
    """Leave out, with the reason, what this machine cannot make, rather than fail in the end."""
    data: Path | None = None
    """Labelled tracks for the gate; None: validation.parquet beside the checkpoint, or simulated flights."""
    promote: bool = False
    """Promote the candidate, behind the rules of `registry.promotion`."""
    reason: str | None = None
    """Overrides these rules, and is recorded."""
    batches: tuple[int, ...] = (1, 2, 8)
    """Batch sizes of the gate's grid."""
    lengths: tuple[int, ...] = (1, 2, 50, 1200)
    """Track lengths of the grid, in steps, with every batch size."""
    tensorrt: TensorRTConfig = field(default_factory=TensorRTConfig)

    def __post_init__(self) -> None:
        if not self.formats or len(set(self.formats)) != len(self.formats):
            raise ConfigError("formats", expected="at least one, each once", got=", ".join(self.formats) or "none")
        for name, sizes in (("batches", self.batches), ("lengths", self.lengths)):
            if not sizes or min(sizes) < 1:
                raise ConfigError(f"{name} out of range", expected="at least one, each 1 or more", got=str(sizes))


def read_formats(names: Sequence[str]) -> tuple[tuple[Format, ...], bool]:
    """Formats by their names, separated by commas, or "all"; and whether those that cannot be made are left out.

    Raises:
        ConfigError: no such format.
    """
    listed = [name.strip() for text in names for name in text.split(",") if name.strip()]
    if ALL in listed:
        return tuple(Format), True
    unknown = [name for name in listed if name not in set(Format)]
    if unknown:
        raise ConfigError("no such format", expected=", ".join([*Format, ALL]), got=", ".join(unknown))
    return tuple(dict.fromkeys(map(Format, listed))), False
