"""Input files of perf_analyzer, made of simulated tracks, because the server refuses random numbers.

Shapes: B tracks of a request, T steps, M measurement columns.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import numpy as np

from client.batching import RequestBatch
from client.connection import Array
from perf.analyzer.config import steps_of
from perf.scoring import draw_flights
from reentry.schema import MEASUREMENT, MEASUREMENTS, TRACK_ID_TENSOR, TRACK_LENGTH
from reentry.tracks import Track

INPUTS: Final = (TRACK_ID_TENSOR.name, TRACK_LENGTH.name, MEASUREMENTS.name)
"""Inputs of models of whole tracks that a file can have. A model may have some of them."""
LIVE_INPUTS: Final = (MEASUREMENT.name,)
"""Inputs of a model of live tracks."""

LIVE_TRACKS: Final = 64
"""Number of different live tracks; perf_analyzer begins them again when all have ended."""
_LEAST_TRACKS: Final = 16
_LEAST_REQUESTS: Final = 4
"""Number of different requests that perf_analyzer sends in turn, at least."""


def write_inputs(path: Path, *, inputs: Collection[str], batch: int, length: str, seed: int) -> None:
    """Write an input file for a model.

    Args:
        path: the file.
        inputs: names of the model's inputs, of `INPUTS`, or `LIVE_INPUTS`.
        batch: number of tracks in one request.
        length: number of steps, or a range such as 600-1200.
        seed: random seed of the tracks and of their lengths.
    """
    if set(inputs) == set(LIVE_INPUTS):
        path.write_text(json.dumps({"data": _sequences(length, seed)}))
        return
    groups = _groups(batch, length, seed)
    rows = [{name: row[name] for name in inputs} for group in groups for row in _rows(group)]
    content = {"data": [{name: _encoded(values) for name, values in row.items()} for row in rows]}
    path.write_text(json.dumps(content))


def requests_of(*, batch: int, length: str, seed: int) -> list[tuple[Array, Array]]:
    """Return the requests that perf_analyzer makes of the file of the same settings.

    Returns:
        Measurements (B, T, M) float64 and track lengths (B,) int32 of each request.
    """
    requests = []
    for group in _groups(batch, length, seed):
        measurements, lengths = group.measurements(), group.lengths()[:, 0]
        slices = [slice(start, start + batch) for start in range(0, len(group), batch)]
        requests += [(measurements[rows], lengths[rows]) for rows in slices]
    return requests


def _sequences(length: str, seed: int) -> list[list[dict[str, Any]]]:
    """Return the measurements of each live track, the first of which gets the flag START and the last one END."""
    tracks = _tracks(LIVE_TRACKS, length, seed)
    return [[{MEASUREMENT.name: _encoded(row)} for row in track.measurements] for track in tracks]


def _groups(batch: int, length: str, seed: int) -> list[RequestBatch]:
    """Draw the tracks of a file, in groups that are padded to one shape."""
    tracks = _tracks(batch * max(_LEAST_REQUESTS, _LEAST_TRACKS // batch), length, seed)
    # perf_analyzer joins any successive tracks of the file to a batch, so all of them need the same shape.
    return [RequestBatch((track,)) for track in tracks] if batch == 1 else [RequestBatch(tuple(tracks))]


def _tracks(count: int, length: str, seed: int) -> list[Track]:
    shortest, longest = steps_of(length)
    if shortest == longest:
        return draw_flights(count, longest, seed=seed)
    lengths = np.random.default_rng(seed).integers(shortest, longest + 1, size=count)
    return [draw_flights(1, int(steps), seed=seed + number)[0] for number, steps in enumerate(lengths)]


def _rows(tracks: RequestBatch) -> list[dict[str, Array]]:
    """Return the tensors of each track without the batch axis; `measurements` is padded to the longest track."""
    tensors: dict[str, Array] = {
        TRACK_ID_TENSOR.name: tracks.track_ids(),
        TRACK_LENGTH.name: tracks.lengths(),
        MEASUREMENTS.name: tracks.measurements(),
    }
    return [dict(zip(tensors, values, strict=True)) for values in zip(*tensors.values(), strict=True)]


def _encoded(values: Array) -> dict[str, Any]:
    content = base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
    return {"b64": content, "shape": list(values.shape)}
