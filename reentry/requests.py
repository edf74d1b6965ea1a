"""What the server asks of a request: faults are named by row and column, before any number reaches the network.

An LSTM turns NaN into numbers that look right, so nothing that is not finite may come that far.

Shapes: B tracks, T steps, M measurement columns, F features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from reentry.schema import FEATURES, MEASUREMENT_COLUMNS


def require_measurements(measurements: npt.NDArray[np.float64]) -> None:
    """Refuse (B, T, M) measurements with no step, or with a value that is not finite.

    Raises:
        ValueError: which track of the request, row and column, and what stands there.
    """
    if measurements.shape[1] == 0:
        raise ValueError("Expected at least one measurement. Got: none")
    _require_finite(measurements, MEASUREMENT_COLUMNS, "a finite number")


def require_features(features: npt.NDArray[np.float32]) -> None:
    """Refuse (B, T, F) features that left the range of float32: finite measurements, but absurd ones.

    Raises:
        ValueError: which track of the request, row and feature.
    """
    _require_finite(features, FEATURES, "a feature within float32")


def require_lengths(track_length: npt.NDArray[np.integer[Any]], steps: int) -> None:
    """Refuse lengths (B,) that do not lie in 1 ... steps.

    Raises:
        ValueError: which track of the request, and its length.
    """
    wrong = (track_length < 1) | (track_length > steps)
    if wrong.any():
        track = int(wrong.argmax())
        raise ValueError(
            f"track {track} of the request: expected track_length from 1 to {steps}, the steps of measurements. "
            f"Got: {track_length[track]}"
        )


def _require_finite(values: npt.NDArray[np.floating[Any]], columns: tuple[str, ...], expected: str) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        track, row, column = np.unravel_index(int(finite.argmin()), values.shape)
        raise ValueError(
            f"track {track} of the request, row {row}, column {columns[column]}: expected {expected}. "
            f"Got: {values[track, row, column]}"
        )
