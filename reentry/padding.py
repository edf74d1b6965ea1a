"""Padding of tracks to bucket lengths, so that tracks of similar length can share a batch.

Triton batches only requests of equal shape. The model is causal, so padding on the right does not change the steps
before it.

Shapes: B tracks, T steps, K values per step.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

BUCKET_STEP: Final = 64
"""Spacing of the bucket lengths; shorter ones are powers of two. At 600 to 1,200 steps, at most 10 % is padding."""


def bucket_length(steps: int) -> int:
    """Smallest bucket length of at least `steps`: one of 1, 2, 4, ... 64, 128, 192, ..."""
    if steps < 1:
        raise ValueError(f"Expected at least one step. Got: {steps}")
    if steps <= BUCKET_STEP:
        return 1 << (steps - 1).bit_length()
    return -(-steps // BUCKET_STEP) * BUCKET_STEP


def pad_steps(values: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """Repeat the last step up to `length` steps: (B, T, K) -> (B, length, K)."""
    missing = length - values.shape[1]
    if missing < 0:
        raise ValueError(f"Expected at most {length} steps. Got: {values.shape[1]}")
    return np.concatenate([values, np.repeat(values[:, -1:], missing, axis=1)], axis=1) if missing else values
