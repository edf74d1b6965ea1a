"""The labelled tracks that an export is verified with."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from export.config import ExportConfig
from reentry.errors import InputError
from reentry.simulation import simulate_file
from reentry.tracks import read_tracks
from training.checkpoint import VALIDATION_NAME, Checkpoint
from training.data.identity import DataIdentity
from training.data.samples import Sample, samples_of

_SIMULATED_TRACKS: Final = 20
_SIMULATED_SEED: Final = 97


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The labelled tracks that every format is held to."""

    samples: Sequence[Sample]
    source: str
    """In words, for the manifest."""


def validation_of(config: ExportConfig, checkpoint: Checkpoint) -> Validation:
    """The tracks that the training held out, from wherever they are at hand; simulated flights, where they are not.

    Raises:
        TrackFileError, InputError: the named tracks cannot be used, or those beside the checkpoint are not its own.
    """
    kept = config.checkpoint.with_name(VALIDATION_NAME)
    if config.data is not None:
        samples = _labelled(config.data)
        identity = DataIdentity.of(sample.track for sample in samples)
        if identity.tracks_fingerprint != checkpoint.data_fingerprint:
            return Validation(samples=samples, source=f"all {len(samples)} tracks of {config.data.name}")
        held_out = set(checkpoint.validation_tracks)
        samples = [sample for sample in samples if sample.track.track_id in held_out]
        return Validation(samples=samples, source=f"the {len(samples)} tracks held out of {config.data.name}")
    if kept.is_file():
        samples = _labelled(kept)
        if {sample.track.track_id for sample in samples} != set(checkpoint.validation_tracks):
            raise InputError(
                f"not the tracks that the training of {config.checkpoint.name} held out",
                where=str(kept),
                fix="name labelled tracks with --data, or remove the file to verify on simulated flights",
            )
        return Validation(samples=samples, source=f"the {len(samples)} tracks that the training held out")
    with tempfile.TemporaryDirectory(prefix="reentry-export-") as folder:
        flights = Path(folder) / "flights.parquet"
        simulate_file(flights, tracks=_SIMULATED_TRACKS, seed=_SIMULATED_SEED)
        return Validation(samples=_labelled(flights), source=f"{_SIMULATED_TRACKS} simulated flights")


def _labelled(path: Path) -> list[Sample]:
    with read_tracks(path, labelled=True) as file:
        return samples_of(list(file), where=str(path))
