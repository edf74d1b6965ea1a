"""Labelled tracks of a file larger than memory: their features computed once, then read from disk track by track.

What is predicted of them can lie there too.

What a file of 9 million rows needs in the temporary folder (TMPDIR says where) is about its rows twice: once while it
is read, once for as long as it is trained on.

Shapes: K tracks, T steps, N steps of all tracks, F features, M measurement columns.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, overload

import numpy as np
import numpy.typing as npt
import torch

from reentry.errors import InputError
from reentry.runtime.progress import progress
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS
from reentry.tracks import Track, read_tracks
from reentry.tracks.read import IN_MEMORY_BYTES
from reentry.tracks.store import TRACKS_PER_PART
from training.data.samples import Chosen, LabelledFile, Sample, no_good_track, sample_of, samples_of
from training.evaluation.metrics import Prediction

_FEATURES: Final = (np.dtype(np.float32), len(FEATURES))
_PHASE: Final = (np.dtype(np.int8), 1)
_MEASUREMENTS: Final = (np.dtype(np.float64), len(MEASUREMENT_COLUMNS))
_NO_ROWS: Final = np.empty(0, dtype=np.int64)


@contextmanager
def open_labelled(path: Path, *, robust: bool = True, in_memory_bytes: int = IN_MEMORY_BYTES) -> Iterator[LabelledFile]:
    """Read labelled tracks: a small file into memory, a large one into a temporary folder, gone when the block ends.

    Memory is bounded either way, see `read_tracks`.

    Args:
        path: the file.
        robust: whether the robust features are wanted, see `track_features`.
        in_memory_bytes: size of the file from which on it goes into a temporary folder.

    Raises:
        TrackFileError: the file cannot be used as a whole.
        InputError: its good tracks are none or have no labels, or the temporary folder takes no more.
    """
    with ExitStack() as stack:
        with read_tracks(path, labelled=True, in_memory_bytes=in_memory_bytes) as file:
            if file.in_memory:
                samples: Sequence[Sample] = samples_of(list(file), where=str(path), robust=robust)
            else:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reentry-samples-")))
                with progress("computing features", len(file), "tracks") as advance:
                    samples = StoredSamples.write(folder, _counted(file, advance), where=str(path), robust=robust)
        yield LabelledFile(samples=samples, report=file.report)


class StoredSamples(Sequence[Sample]):
    """Samples in files of a folder, one file a kind of value, all tracks one after the other; each read when asked for.

    Goes to another process as no more than the folder and where each track is in it.
    """

    def __init__(self, folder: Path, track_ids: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> None:
        self._folder = folder
        self._track_ids = track_ids
        self._ends = ends
        """(K,), where each track's steps end among the N."""

    @classmethod
    def write(cls, folder: Path, tracks: Iterable[Track], *, where: str, robust: bool = True) -> StoredSamples:
        """Compute the samples of tracks, one after the other, and keep them in `folder`.

        Raises:
            InputError: no tracks, or no labels; `where` names their file. Or the folder takes no more.
        """
        track_ids, lengths = [], []
        try:
            with ExitStack() as stack:
                files = [stack.enter_context(_path(folder, kind).open("wb")) for kind in ("features", "phase", "track")]
                for track in tracks:
                    sample = sample_of(track, where=where, robust=robust)
                    phase = sample.phase.numpy().astype(np.int8)
                    for file, values in zip(files, (sample.features.numpy(), phase, track.measurements), strict=True):
                        file.write(np.ascontiguousarray(values).tobytes())
                    track_ids.append(track.track_id)
                    lengths.append(len(phase))
        except OSError as error:
            raise _full("features", error, where) from error
        if not track_ids:
            raise no_good_track(where)
        return cls(folder, np.array(track_ids, dtype=np.int64), np.cumsum(lengths, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._track_ids)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Chosen: ...

    def __getitem__(self, index: int | slice) -> Sample | Chosen:
        if isinstance(index, slice):
            return Chosen(self, range(len(self))[index])
        index = range(len(self))[index]
        start, end = (int(self._ends[index - 1]) if index else 0), int(self._ends[index])
        phase = self._read("phase", _PHASE, start, end)[:, 0]
        track = Track(
            track_id=int(self._track_ids[index]),
            measurements=self._read("track", _MEASUREMENTS, start, end),
            reentry_phase=phase,
            rows=_NO_ROWS,  # of the file: nobody who trains asks for them
            steps=_NO_ROWS,
        )
        features = torch.from_numpy(self._read("features", _FEATURES, start, end))
        return Sample(track=track, features=features, phase=torch.from_numpy(phase.astype(np.float32)))

    def _read(self, kind: str, of: tuple[np.dtype[Any], int], start: int, end: int) -> npt.NDArray[Any]:
        """(T, width) of a file, steps `start` to `end`, into memory."""
        dtype, width = of
        row = width * dtype.itemsize
        values = np.fromfile(_path(self._folder, kind), dtype, (end - start) * width, offset=start * row)
        return values.reshape(-1, width)


class LazyPredictions(Sequence[Prediction], ABC):
    """Predictions of which each is made when asked for."""

    @abstractmethod
    def at(self, index: int) -> Prediction:
        """The one of an index from 0 to below the length."""

    @overload
    def __getitem__(self, index: int) -> Prediction: ...

    @overload
    def __getitem__(self, index: slice) -> list[Prediction]: ...

    def __getitem__(self, index: int | slice) -> Prediction | list[Prediction]:
        chosen = range(len(self))[index]
        return self.at(chosen) if isinstance(chosen, int) else [self.at(each) for each in chosen]


class StoredPredictions(LazyPredictions):
    """What a method says of samples: the probabilities in a file, each track read again from where its sample is."""

    def __init__(
        self, path: Path, dtype: np.dtype[Any], samples: Sequence[Sample], ends: npt.NDArray[np.int64]
    ) -> None:
        self._path = path
        self._dtype = dtype
        self._samples = samples
        self._ends = ends
        """(K,), where each track's steps end among the N."""

    @classmethod
    def write(
        cls, path: Path, method: Callable[[Sequence[Sample]], Sequence[Prediction]], samples: Sequence[Sample]
    ) -> StoredPredictions:
        """Predict, some tracks at a time, and keep the probabilities in `path`.

        Raises:
            InputError: the place takes no more.
        """
        lengths, dtype = [], np.dtype(np.float64)
        try:
            with path.open("wb") as file:
                for start in range(0, len(samples), TRACKS_PER_PART):
                    for prediction in method(samples[start : start + TRACKS_PER_PART]):
                        file.write(np.ascontiguousarray(prediction.probability).tobytes())
                        lengths.append(len(prediction.probability))
                        dtype = prediction.probability.dtype
        except OSError as error:
            raise _full("probabilities", error, str(path)) from error
        return cls(path, dtype, samples, np.cumsum(lengths, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._samples)

    def at(self, index: int) -> Prediction:
        """Read it."""
        start, end = (int(self._ends[index - 1]) if index else 0), int(self._ends[index])
        probability = np.fromfile(self._path, self._dtype, end - start, offset=start * self._dtype.itemsize)
        return Prediction(track=self._samples[index].track, probability=probability)


def _full(what: str, error: OSError, where: str) -> InputError:
    return InputError(
        f"the temporary folder takes no more {what} ({error.strerror})",
        where=where,
        fix="set TMPDIR to a folder with room for about twice the size of the rows",
    )


def _path(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.values"


def _counted(tracks: Iterable[Track], advance: Any) -> Iterator[Track]:
    for track in tracks:
        yield track
        advance(1)
