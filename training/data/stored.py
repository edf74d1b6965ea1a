"""Labelled tracks of any size: small files in memory, large ones as samples and predictions on disk.

The features of a large file are computed once and then read from disk track by track. The temporary folder (set by
TMPDIR) needs space for about twice the rows: once while the file is read, once for as long as the samples are used.

Shapes: K tracks, T steps of a track.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, overload

import numpy as np
import numpy.typing as npt
import torch

from reentry.errors import InputError, TrackFileError
from reentry.features.groups import WITHOUT_COMPILER
from reentry.runtime.progress import progress
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS
from reentry.tracks import Track, fingerprint, origin_of, read_tracks
from reentry.tracks.read import IN_MEMORY_BYTES
from reentry.tracks.sources import open_source
from reentry.tracks.store import TRACKS_PER_PART
from training.data.samples import CountedSamples, Counts, Sample, no_good_track, sample_of, samples_of
from training.data.training_data import LabelledTracks
from training.evaluation.metrics import Prediction

# Data type and number of columns of the values in each file.
_FEATURES: Final = (np.dtype(np.float32), len(FEATURES))
_PHASE: Final = (np.dtype(np.int8), 1)
_MEASUREMENTS: Final = (np.dtype(np.float64), len(MEASUREMENT_COLUMNS))
_NO_ROWS: Final = np.empty(0, dtype=np.int64)


@contextmanager
def open_labelled(
    path: Path,
    *,
    groups: frozenset[str] = WITHOUT_COMPILER,
    in_memory_bytes: int = IN_MEMORY_BYTES,
    file_fingerprint: str | None = None,
) -> Iterator[LabelledTracks]:
    """Read labelled tracks, a large file into a temporary folder that is deleted when the block ends.

    Memory is bounded in both cases, see `read_tracks`.

    Args:
        path: file of labelled tracks.
        groups: groups of features to compute, see `track_features`.
        in_memory_bytes: file size above which the samples go into a temporary folder.
        file_fingerprint: fingerprint of the file that the caller has already recorded; None computes it here.

    Raises:
        TrackFileError: the file cannot be used as a whole, or changed after its fingerprint was computed.
        InputError: the file has no good track or no labels, or the temporary folder is full.
    """
    with ExitStack() as stack:
        if file_fingerprint is None:
            open_source(path)  # raises if the file is unusable, e.g. a pipe, which must not be hashed
            file_fingerprint = fingerprint(path)
        with read_tracks(path, labelled=True, in_memory_bytes=in_memory_bytes) as file:
            if fingerprint(path) != file_fingerprint:
                raise TrackFileError("changed while it was read", where=str(path), fix="run the command again")
            if file.in_memory:
                samples: Sequence[Sample] = samples_of(list(file), where=str(path), groups=groups)
            else:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reentry-samples-")))
                with progress("computing features", len(file), "tracks") as advance:
                    computed = (sample_of(track, where=str(path), groups=groups) for track in _counted(file, advance))
                    samples = StoredSamples.write(folder, computed, where=str(path))
        yield LabelledTracks(
            samples=samples, report=file.report, file_fingerprint=file_fingerprint, origin=origin_of(path)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFile:
    """A file of labelled tracks as the data of a training."""

    path: Path
    file_fingerprint: str | None = None
    """Fingerprint that the file must have, see `reentry.tracks.fingerprint`; None accepts any."""
    in_memory_bytes: int = IN_MEMORY_BYTES
    """File size above which the samples go into a temporary folder."""

    @classmethod
    def of(cls, path: Path) -> TrainingFile:
        """Name a file with its present content.

        Raises:
            TrackFileError: the file is unreadable.
        """
        return cls(path=path, file_fingerprint=fingerprint(path))

    def facts(self) -> dict[str, object]:
        """Return the path and the fingerprint of the file."""
        return {"data.path": self.path, "data.file_fingerprint": self.file_fingerprint or fingerprint(self.path)}

    def open(self, groups: frozenset[str]) -> AbstractContextManager[LabelledTracks]:
        """Open the file with `open_labelled`."""
        return open_labelled(
            self.path, groups=groups, in_memory_bytes=self.in_memory_bytes, file_fingerprint=self.file_fingerprint
        )


class StoredSamples(CountedSamples):
    """Samples on disk, each read when it is accessed.

    The folder has one file for each kind of value, which holds all tracks one after the other. Pickling a
    `StoredSamples` copies only the folder's path and the index, so other processes read the same files.

    Args:
        folder: folder that `write` has filled.
        track_ids: id of each track, (K,).
        counts: step counts of the K tracks.
    """

    def __init__(self, folder: Path, track_ids: npt.NDArray[np.int64], counts: Counts) -> None:
        self.counts = counts
        self._folder = folder
        self.track_ids = track_ids
        self._ends = np.cumsum(counts.steps)

    @classmethod
    def write(cls, folder: Path, samples: Iterable[Sample], *, where: str) -> StoredSamples:
        """Store samples in `folder`, one by one.

        Raises:
            InputError: there are no samples in the data named by `where`, or the folder is full.
        """
        track_ids, steps, reentry = [], [], []
        try:
            with ExitStack() as stack:
                files = [stack.enter_context(_path(folder, kind).open("wb")) for kind in ("features", "phase", "track")]
                for sample in samples:
                    phase, cells = sample.phase.numpy().astype(np.int8), sample.track.measurements
                    for file, values in zip(files, (sample.features.numpy(), phase, cells), strict=True):
                        file.write(np.ascontiguousarray(values).tobytes())
                    track_ids.append(sample.track.track_id)
                    steps.append(len(phase))
                    reentry.append(np.count_nonzero(phase))
        except OSError as error:
            raise _disk_full("features", error, where) from error
        if not track_ids:
            raise no_good_track(where)
        counts = Counts(steps=np.array(steps, dtype=np.int64), reentry=np.array(reentry, dtype=np.int64))
        return cls(folder, np.array(track_ids, dtype=np.int64), counts)

    def __len__(self) -> int:
        return len(self.track_ids)

    def at(self, index: int) -> Sample:
        """Read one sample."""
        start, end = _span(self._ends, index)
        phase = self._read("phase", _PHASE, start, end)[:, 0]
        track = Track(
            track_id=int(self.track_ids[index]),
            measurements=self._read("track", _MEASUREMENTS, start, end),
            reentry_phase=phase,
            rows=_NO_ROWS,  # training does not use row numbers
            steps=_NO_ROWS,
        )
        features = torch.from_numpy(self._read("features", _FEATURES, start, end))
        return Sample(track=track, features=features, phase=torch.from_numpy(phase.astype(np.float32)))

    def _read(self, kind: str, layout: tuple[np.dtype[Any], int], start: int, end: int) -> npt.NDArray[Any]:
        """Read the steps from `start` to before `end` from a file, (T, columns)."""
        dtype, columns = layout
        offset = start * columns * dtype.itemsize
        values = np.fromfile(_path(self._folder, kind), dtype, (end - start) * columns, offset=offset)
        return values.reshape(-1, columns)


class StoredPredictions(Sequence[Prediction]):
    """Predictions whose probabilities are on disk, and whose tracks are read again from the samples.

    Args:
        path: file of probabilities that `write` has made.
        dtype: data type of the probabilities.
        samples: the samples that were predicted.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], samples: Sequence[Sample]) -> None:
        self._path = path
        self._dtype = dtype
        self._samples = samples
        self._ends = np.cumsum(Counts.of(samples).steps)

    @classmethod
    def write(
        cls, path: Path, method: Callable[[Sequence[Sample]], Sequence[Prediction]], samples: Sequence[Sample]
    ) -> StoredPredictions:
        """Predict a few tracks at a time and store the probabilities in `path`.

        Raises:
            InputError: the disk is full.
        """
        dtype = np.dtype(np.float64)
        try:
            with path.open("wb") as file:
                for start in range(0, len(samples), TRACKS_PER_PART):
                    for prediction in method(samples[start : start + TRACKS_PER_PART]):
                        file.write(np.ascontiguousarray(prediction.probability).tobytes())
                        dtype = prediction.probability.dtype
        except OSError as error:
            raise _disk_full("probabilities", error, str(path)) from error
        return cls(path, dtype, samples)

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...

    @overload
    def __getitem__(self, index: slice) -> list[Prediction]: ...

    def __getitem__(self, index: int | slice) -> Prediction | list[Prediction]:
        chosen = range(len(self))[index]
        return self._read(chosen) if isinstance(chosen, int) else [self._read(each) for each in chosen]

    def _read(self, index: int) -> Prediction:
        """Read the probabilities and the track of one prediction."""
        start, end = _span(self._ends, index)
        probability = np.fromfile(self._path, self._dtype, end - start, offset=start * self._dtype.itemsize)
        return Prediction(track=self._samples[index].track, probability=probability)


def _span(ends: npt.NDArray[np.int64], index: int) -> tuple[int, int]:
    return (int(ends[index - 1]) if index else 0), int(ends[index])


def _disk_full(values: str, error: OSError, where: str) -> InputError:
    return InputError(
        f"cannot write {values} to the temporary folder ({error.strerror})",
        where=where,
        fix="set TMPDIR to a folder with free space for about twice the size of the rows",
    )


def _path(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.values"


def _counted(tracks: Iterable[Track], advance: Callable[[int], None]) -> Iterator[Track]:
    for track in tracks:
        yield track
        advance(1)
