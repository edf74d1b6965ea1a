"""Short simulated flights for the training tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from reentry.tracks import Track, read_tracks, write_tracks
from training.data.samples import Sample, samples_of


def short_flights(tracks: int = 10, seed: int = 0, *, labels: bool = True) -> pd.DataFrame:
    """Simulated flights of 60 to 120 steps each."""
    return simulate_trapezoid(TrapezoidConfig(tracks=tracks, seed=seed, shortest=60, longest=120, labels=labels))


def write_flights(path: Path, tracks: int = 10, seed: int = 0, *, labels: bool = True) -> Path:
    write_tracks(path, short_flights(tracks, seed, labels=labels))
    return path


def short_tracks(folder: Path, tracks: int = 10, seed: int = 0) -> list[Track]:
    with read_tracks(write_flights(folder / f"{seed}.csv", tracks, seed), labelled=True) as file:
        return list(file)


def short_samples(folder: Path, tracks: int = 10, seed: int = 0) -> list[Sample]:
    return samples_of(short_tracks(folder, tracks, seed), where="flights")


def relabelled(sample: Sample, phase: list[int]) -> Sample:
    return replace(sample, features=sample.features[: len(phase)], phase=torch.tensor(phase, dtype=torch.float32))
