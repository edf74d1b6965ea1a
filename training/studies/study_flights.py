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

from reentry.features.groups import WITHOUT_COMPILER
from reentry.runtime.pool import in_order
from reentry.simulation import simulate_file
from reentry.tracks import read_tracks
from training.data.samples import Sample, sample_of
from training.data.stored import StoredSamples

_IDS_OF_A_SEVERITY: Final = 1_000_000
"""Track ids of a severity start at its number times this."""
_WHOLE_SHARE: Final = 0.1
"""Share of the training flights whose coast is not cut, so that a network learns to handle a long coast, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightSet:
    """Simulated flights for one purpose, with one file for each severity."""

    purpose: str
    """"train" or "unseen"; part of the name of the file."""
    count: int
    """Number of flights of each severity."""
    first_seed: int
    """Simulation seed at severity 0; it is one higher at each next severity."""
    severities: Sequence[int]
    groups: frozenset[str] = WITHOUT_COMPILER
    """Groups of features to compute, see `track_features`."""

    def samples(
        self, out: Path, features: str, processes: int, report: Callable[[str], None]
    ) -> dict[int, StoredSamples]:
        """Samples of the flights by severity. Files that are missing in `out`/flights are simulated.

        Args:
            out: folder of the study.
            features: folder for the samples.
            processes: number of processes, each of which works on one severity at a time.
            report: called with a line of text for each severity that is ready.
        """
        samples: dict[int, StoredSamples] = {}
        use = "train on" if self.purpose == "train" else "judge by"
        work = partial(self._stored, out, Path(features))
        for severity, stored in zip(self.severities, in_order(work, len(self.severities), processes), strict=True):
            samples[severity] = stored
            report(f"{self.count:,} flights of severity {severity} to {use}, seed {self.first_seed + severity}")
        return samples

    def _stored(self, out: Path, features: Path, number: int) -> StoredSamples:
        severity, seed = self.severities[number], self.first_seed + self.severities[number]
        name = f"{self.purpose}-severity-{severity}-seed-{seed}-{self.count}"
        path, folder = out / "flights" / f"{name}.parquet", features / name
        if not path.exists():
            with redirect_stderr(StringIO()):  # progress lines of several processes would be mixed up
                simulate_file(path, profile="ballistic", tracks=self.count, seed=seed, severity=severity, processes=1)
        folder.mkdir()
        with read_tracks(path, labelled=True) as file:
            tracks = (replace(track, track_id=track.track_id + _IDS_OF_A_SEVERITY * severity) for track in file)
            samples = (sample_of(track, where=str(path), groups=self.groups) for track in tracks)
            return StoredSamples.write(folder, samples, where=str(path))


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
