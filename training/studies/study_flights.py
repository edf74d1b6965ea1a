"""Simulated flights of the study: files by severity and seed, their stored samples, and the shortening for training.

The coast of a training flight is cut short: minutes outside the atmosphere are most of the steps and teach nothing.
Flights that methods are scored on are whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Final

import numpy as np
import torch

from reentry.runtime.pool import in_order
from reentry.simulation import simulate_file
from reentry.tracks import read_tracks
from training.data.samples import Sample
from training.data.stored import StoredSamples

_IDS_OF_A_SEVERITY: Final = 1_000_000
"""Track ids of a severity start at its number times this."""
_WHOLE_SHARE: Final = 0.1
"""Share of the training flights whose coast is not cut, so that a network learns to handle a long coast, too."""


@dataclass(frozen=True, slots=True)
class FlightSet:
    """Simulated flights of one severity, stored in one file."""

    kind: str
    """"train" or "unseen"."""
    count: int
    severity: int
    seed: int

    @property
    def name(self) -> str:
        """Name of the file, without suffix."""
        return f"{self.kind}-severity-{self.severity}-seed-{self.seed}-{self.count}"

    def __str__(self) -> str:
        purpose = "train on" if self.kind == "train" else "judge by"
        return f"{self.count:,} flights of severity {self.severity} to {purpose}, seed {self.seed}"


def samples_by_severity(
    flight_sets: Sequence[FlightSet], out: Path, features: str, processes: int, report: Callable[[str], None]
) -> dict[int, StoredSamples]:
    """Samples of the flights of each severity. Files that are missing in `out`/flights are simulated.

    Args:
        flight_sets: flights, one set for each severity.
        out: folder of the study.
        features: folder for the samples.
        processes: number of processes, each of which makes one set at a time.
        report: called with a line of text for each set that is ready.
    """
    samples: dict[int, StoredSamples] = {}
    work = partial(_stored, flight_sets, out, Path(features))
    for flight_set, stored in zip(flight_sets, in_order(work, len(flight_sets), processes), strict=True):
        samples[flight_set.severity] = stored
        report(str(flight_set))
    return samples


def shortened(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Flights without most of their coast, and without what follows the onset after about a minute.

    The first 60 to 200 steps and the last 60 to 160 before the onset are kept. One flight in ten keeps its whole coast.
    Features and labels of a step do not change, so a network sees a flight that coasts less.
    """
    random = np.random.default_rng(seed)
    return [_shortened(sample, random) for sample in samples]


def _shortened(sample: Sample, random: np.random.Generator) -> Sample:
    steps = len(sample.phase)
    onset = int(sample.phase.argmax()) if sample.phase.any() else steps
    start, before, end = int(random.integers(60, 200)), onset - int(random.integers(60, 160)), min(steps, onset + 60)
    if before <= start or random.random() < _WHOLE_SHARE:
        kept = torch.arange(end)
    else:
        kept = torch.cat([torch.arange(start), torch.arange(before, end)])
    track = replace(
        sample.track,
        measurements=sample.track.measurements[kept.numpy()],
        reentry_phase=sample.phase[kept].numpy().astype(np.int8),
    )
    return Sample(track=track, features=sample.features[kept], phase=sample.phase[kept])


def _stored(flight_sets: Sequence[FlightSet], out: Path, features: Path, number: int) -> StoredSamples:
    flight_set = flight_sets[number]
    path, folder = out / "flights" / f"{flight_set.name}.parquet", features / flight_set.name
    if not path.exists():
        with redirect_stderr(StringIO()):  # progress lines of several processes would be mixed up
            simulate_file(
                path,
                profile="ballistic",
                tracks=flight_set.count,
                seed=flight_set.seed,
                severity=flight_set.severity,
                processes=1,
            )
    folder.mkdir()
    with read_tracks(path, labelled=True) as file:
        first_id = _IDS_OF_A_SEVERITY * flight_set.severity
        tracks = (replace(track, track_id=track.track_id + first_id) for track in file)
        return StoredSamples.write(folder, tracks, where=str(path))
