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
"""Name that stands for every format that this machine can build."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Settings for exporting one checkpoint."""

    checkpoint: Path
    """Checkpoint that `reentry train` wrote."""
    repository: str | Path
    """Triton model repository to install into: a folder, or s3://bucket/prefix."""
    formats: tuple[Format, ...] = (Format.ONNX,)
    """Formats in order. The first one that Triton serves becomes the candidate."""
    skip_missing: bool = False
    """Leave out formats that this machine cannot build, instead of failing."""
    data: Path | None = None
    """Labelled tracks for the gate; None for validation.parquet beside the checkpoint, or simulated flights."""
    promote: bool = False
    """Promote the candidate if the rules of `registry.promotion` allow it."""
    reason: str | None = None
    """Reason for overriding these rules, which is recorded."""
    batches: tuple[int, ...] = (1, 2, 8)
    """Batch sizes of the gate's grid."""
    lengths: tuple[int, ...] = (1, 2, 50, 1200)
    """Track lengths of the gate's grid, in steps. Each is run with every batch size."""
    tensorrt: TensorRTConfig = field(default_factory=TensorRTConfig)

    def __post_init__(self) -> None:
        if not self.formats or len(set(self.formats)) != len(self.formats):
            got = ", ".join(self.formats) or "none"
            raise ConfigError("invalid list of formats", expected="at least one, without duplicates", got=got)
        for name, sizes in (("batches", self.batches), ("lengths", self.lengths)):
            if not sizes or min(sizes) < 1:
                raise ConfigError(f"{name} out of range", expected="at least one, each 1 or more", got=str(sizes))


def read_formats(names: Sequence[str]) -> tuple[tuple[Format, ...], bool]:
    """Parse names of formats, each of which may be a comma-separated list.

    Returns:
        The formats, and whether to leave out those that this machine cannot build. The name "all" means every format
        that it can build.

    Raises:
        ConfigError: a format does not exist.
    """
    listed = [name.strip() for text in names for name in text.split(",") if name.strip()]
    if ALL in listed:
        return tuple(Format), True
    unknown = [name for name in listed if name not in set(Format)]
    if unknown:
        raise ConfigError("no such format", expected=", ".join([*Format, ALL]), got=", ".join(unknown))
    return tuple(dict.fromkeys(map(Format, listed))), False
