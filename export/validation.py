"""Data that an export is verified on: labelled tracks, and features of simulated flights."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from export.config import ExportConfig
from export.sessions import Array
from reentry.errors import InputError
from reentry.features.groups import ORBIT, WITHOUT_COMPILER
from reentry.features.track import track_features
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS, TIMESTAMP, TRACK_ID
from reentry.simulation import (
    BallisticConfig,
    TrapezoidConfig,
    of_severity,
    simulate_ballistic,
    simulate_file,
    simulate_trapezoid,
)
from reentry.tracks import read_tracks
from training.checkpoint import VALIDATION_NAME, Checkpoint
from training.data.identity import DataIdentity
from training.data.samples import Sample, samples_of

_SIMULATED_TRACKS: Final = 20
_SIMULATED_SEED: Final = 97
_THICK_AIR: Final = 1.0
"""Least `orbit_peak_pressure` at which a section ends: 10 Pa, where the coefficient of the body matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Labelled tracks that every format is verified on."""

    samples: Sequence[Sample]
    source: str
    """Description of the tracks for the manifest."""


def validation_of(config: ExportConfig, checkpoint: Checkpoint) -> Validation:
    """Read the validation tracks of an export.

    They are the tracks of `config.data`, or else those of validation.parquet beside the checkpoint, or else simulated
    flights. If `config.data` is the file that the network was trained on, only the tracks that the training held out
    are used.

    Raises:
        TrackFileError, InputError: a file cannot be used, or validation.parquet belongs to another checkpoint.
    """
    held_out, groups = set(checkpoint.validation_tracks), checkpoint.model_config.groups
    beside = config.checkpoint.with_name(VALIDATION_NAME)
    if config.data is not None:
        samples = _labelled(config.data, groups)
        identity = DataIdentity.of(sample.track for sample in samples)
        if identity.tracks_fingerprint != checkpoint.data_fingerprint:
            return Validation(samples=samples, source=f"all {len(samples)} tracks of {config.data.name}")
        samples = [sample for sample in samples if sample.track.track_id in held_out]
        return Validation(samples=samples, source=f"the {len(samples)} tracks held out of {config.data.name}")
    if beside.is_file():
        samples = _labelled(beside, groups)
        if {sample.track.track_id for sample in samples} != held_out:
            raise InputError(
                f"the tracks are not those that the training of {config.checkpoint.name} held out",
                where=str(beside),
                fix="pass labelled tracks with --data, or remove the file to verify on simulated flights",
            )
        return Validation(samples=samples, source=f"the {len(samples)} tracks that the training held out")
    with tempfile.TemporaryDirectory(prefix="reentry-export-") as folder:
        flights = Path(folder) / "flights.parquet"
        simulate_file(flights, tracks=_SIMULATED_TRACKS, seed=_SIMULATED_SEED)
        return Validation(samples=_labelled(flights, groups), source=f"{_SIMULATED_TRACKS} simulated flights")


def flight_features(batch: int, length: int, seed: int, groups: frozenset[str] = WITHOUT_COMPILER) -> Array:
    """Features (B, T, F) float32 of simulated flights, or of sections of flights if `length` is shorter than a flight.

    Random noise is unsuitable: it keeps a network that decides sharply at the edge of its decision, where rounding
    errors of float32 grow larger than on any track.

    With orbit features the flights are ballistic, since the orbit filter never answers on the others. A section then
    ends in air in which reentry may begin, and the last step of a flight shorter than `length` is repeated.
    """
    if ORBIT in groups:
        return _ballistic_features(batch, length, seed, groups)
    steps = max(length, TrapezoidConfig().shortest)
    flights = simulate_trapezoid(TrapezoidConfig(tracks=batch, seed=seed, shortest=steps, longest=steps, labels=False))
    measurements = flights[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64).reshape(batch, steps, -1)
    start = int(np.random.default_rng(seed).integers(steps - length, endpoint=True))
    return track_features(measurements[:, start : start + length], groups=groups)


def _ballistic_features(batch: int, length: int, seed: int, groups: frozenset[str]) -> Array:
    """Features (B, T, F) float32 of ballistic flights, see `flight_features`."""
    random, found = np.random.default_rng(seed), []
    table = simulate_ballistic(BallisticConfig(tracks=batch, seed=seed, labels=False, sensors=of_severity(1)))
    for _, rows in table.groupby(TRACK_ID.name):
        flight = rows.sort_values(TIMESTAMP.name, kind="stable")[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64)
        features = track_features(flight, groups=groups)
        known, pressure = (features[:, FEATURES.index(name)] for name in ("orbit_known", "orbit_peak_pressure"))
        ends = np.flatnonzero((known > 0.0) & (pressure > _THICK_AIR))
        end = int(random.choice(ends)) + 1 if len(ends) else len(features)
        start = max(0, end - length)
        section = features[start : start + length]
        found.append(np.pad(section, ((0, length - len(section)), (0, 0)), mode="edge"))
    return np.stack(found)


def _labelled(path: Path, groups: frozenset[str]) -> list[Sample]:
    with read_tracks(path, labelled=True) as file:
        return samples_of(list(file), where=str(path), groups=groups)
