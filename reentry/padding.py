"""Bucket lengths: tracks of like length are padded to one, so that they can share a batch.

Triton batches requests of equal shape alone. The model is causal, so what is padded on the right changes nothing
before it.

Shapes: B tracks, T steps, K values a step.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

BUCKET_STEP: Final = 64
"""Buckets are its multiples, and the powers of two below it: at 600 to 1200 steps at most 10 % of padding."""


def bucket_length(steps: int) -> int:
    """Smallest bucket that holds `steps` >= 1 steps: 1, 2, 4, ... 64, 128, 192, ..."""
    if steps < 1:
        raise ValueError(f"Expected at least one step. Got: {steps}")
    if steps <= BUCKET_STEP:
        return 1 << (steps - 1).bit_length()
    return -(-steps // BUCKET_STEP) * BUCKET_STEP


def pad_steps(values: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """Repeat the last step until there are `length`: (B, T, K) -> (B, length, K)."""
    missing = length - values.shape[1]
    if missing < 0:
        raise ValueError(f"Expected at most {length} steps. Got: {values.shape[1]}")
    return np.concatenate([values, np.repeat(values[:, -1:], missing, axis=1)], axis=1) if missing else values
